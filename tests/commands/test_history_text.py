from collections.abc import Sequence
from typing import Any

import pytest
from support.releases import METRIC, past

from gate.commands._history_line import Past, line_of
from gate.commands._history_series import Asked
from gate.commands._history_text import render, spark
from gate.trackers import PastRun


def shown(
    runs: Sequence[PastRun], *, width: int = 220, color: bool = False, asked: Asked | None = None
) -> str:
    return render(line_of(Past("cnn", tuple(runs)), asked or Asked()), width=width, color=color)


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_a_line_tells_a_run() -> None:
    numbers = {"int8_share/int8": 0.9, "latency_p50/int8": 1.25}
    limits = {METRIC: 0.01, f"{METRIC}@anchor": 0.015}
    text = shown([past(3, numbers=numbers, limits=limits), past(1, int8=0.96)])
    cells = line_with(text, "2026-03-01 15:00").split()
    assert cells[2:] == [
        *("release", "3", "333333333333", "static", "0.9610", "0.9590", "+0.0020"),
        *("[-0.0010,", "+0.0050]", "0.0100", "0.0080", "+0.0010", "0.0140"),
        *("90%", "1.2500", "pass"),
    ]
    assert text.splitlines()[0] == "cnn · accuracy.max_drop"


def test_the_newest_run_is_last() -> None:
    text = shown([past(2), past(1), past(0)])
    assert text.index("12:00") < text.index("13:00") < text.index("14:00")
    assert "3 runs, newest last" in text
    assert "1 run, newest last" in shown([past()])


def test_a_blocked_run_names_its_budgets() -> None:
    text = shown([past(outcome="fail", tags={"blocked": "accuracy.max_drop, size.max_ratio"})])
    assert "fail: accuracy.max_drop, size.max_ratio" in text


def test_an_error_and_a_run_cut_short_are_listed() -> None:
    failed = past(2, "error", metrics={}, candidate="models/broken.onnx", version=None,
                  tags={"error": "nothing was\n quantized"})  # fmt: skip
    failed.tags.pop("metric")
    text = shown([past(3, "incomplete"), failed, past(1)])
    assert line_with(text, "broken.onnx").endswith("error: nothing was quantized")
    assert "incomplete: logging was cut short" in text


@pytest.mark.parametrize(
    ("tags", "mark"),
    [
        ({"stopped": "proven"}, "(stopped early)"),
        ({"mode": "observe"}, "(observed only)"),
        ({"decision": "point"}, "(by point estimates)"),
        ({"attested": "TensorRT"}, "(attested)"),
        ({"bootstrap": "true"}, "(bootstrap)"),
    ],
)
def test_what_an_outcome_does_not_say_is_marked(tags: dict[str, str], mark: str) -> None:
    assert shown([past(1, tags=tags), past(2)]).count(mark) == 1


def test_a_bootstrap_that_is_false_is_none() -> None:
    assert "bootstrap" not in shown([past(1, tags={"bootstrap": "false"})])


def test_runs_with_different_budgets_name_their_metric() -> None:
    numbers = {"top5.at_least/int8": 0.95, "top5.at_least/lower": 0.94, "top5.at_least/upper": 1}
    runs = [
        past(1, metrics=numbers, tags={"metric": "top5.at_least"}, limits={"top5.at_least": 0.9})
    ]
    row = line_with(shown([*runs, past(0)]), "top5.at_least")
    assert "[0.9400, 1.0000]" in row
    assert "0.0500" in row


@pytest.mark.parametrize(
    ("metric", "numbers", "limit", "left"),
    [
        ("ece.at_most", {"int8": 0.02}, 0.05, 0.03),
        ("size.max_ratio", {"int8": 30.0, "fp32": 100.0, "drop": -0.7}, 0.5, 0.2),
        ("size.max_ratio", {"int8": 30.0, "fp32": 100.0}, 0.5, 0.2),
        ("map.max_relative_drop", {"drop": 0.03, "int8": 0.5}, 0.01, -0.02),
    ],
)
def test_what_is_left_is_in_the_unit_of_the_limit(
    metric: str, numbers: dict[str, float], limit: float, left: float
) -> None:
    kept = {f"{metric}/{quantity}": value for quantity, value in numbers.items()}
    run = past(1, metrics=kept, tags={"metric": metric}, limits={metric: limit})
    assert line_of(Past("cnn", (run,)), Asked()).entries[0].left == pytest.approx(left)


def test_another_reference_stands_in_its_column() -> None:
    metrics = {"accuracy.max_drop@anchor/anchor": 0.5, "accuracy.max_drop@anchor/int8": 0.25}
    assert "0.5000  0.2500" in shown([past(metrics=metrics, tags={"metric": f"{METRIC}@anchor"})])


@pytest.mark.parametrize(
    ("asked", "limit", "value"),
    [
        (Asked("accuracy", "site=n"), 0.03, 0.9),
        (Asked("accuracy.max_drop[each site]", "site=n"), 0.03, 0.9),
        (Asked(slice="site=n"), 0.03, 0.9),
        (Asked("accuracy.max_drop[site=s]"), 0.04, 0.8),
    ],
)
def test_a_budget_on_slices_has_its_limit(asked: Asked, limit: float, value: float) -> None:
    numbers = {f"{METRIC}/site=n/int8": 0.9, f"{METRIC}/site=s/int8": 0.8}
    limits = {METRIC: 0.01, f"{METRIC}[each site]": 0.03, f"{METRIC}[site=s]": 0.04}
    run = past(numbers=numbers, limits=limits)
    entry = line_of(Past("cnn", (run,)), asked).entries[0]
    assert (entry.limit, entry.value("int8")) == (limit, value)


def test_names_are_shown_as_they_are() -> None:
    tags = {"recipe": "\x1b[31mstatic", "blocked": "accuracy at site=[bold]\x07"}
    text = shown([past(outcome="fail", tags=tags)])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "site=[bold]" in text


@pytest.mark.parametrize("width", [20, 60, 100, 140, 200])
def test_narrow_terminals_leave_columns_out_and_break_only_the_outcome(width: int) -> None:
    words = [f"budget{number}.max_drop" for number in range(6)]
    numbers: dict[str, Any] = {"int8_share/int8": 0.9, "latency_p50/int8": 1.25}
    limits = {METRIC: 0.01, f"{METRIC}@anchor": 0.015}
    run = past(1, "fail", tags={"blocked": " ".join(words)}, numbers=numbers, limits=limits)
    text = shown([run, past(0)], width=width)
    table = text[: text.index("\n\nINT8")]
    assert "2026-03-01 13:00" in table
    assert "+0.0020" in table
    assert [word for word in words if word not in table] == []
    assert max(map(len, table.splitlines())) <= max(width, 68)
    assert ("left" in table, "drift" in table) == (width >= 100, width >= 100)


def test_color_is_only_given_when_it_is_asked_for() -> None:
    assert "\x1b[32mpass" in shown([past()], color=True)
    assert "\x1b" not in shown([past()])


def test_sparks() -> None:
    assert spark([0.1, 0.2, 0.3]).startswith("▁▅█ 0.1000 → 0.3000")
    assert spark([0.1, 0.1]).startswith("▁▁ ")
    assert spark([0.1]) == ""
    assert len(spark([0.1] * 500).split()[0]) == 60
