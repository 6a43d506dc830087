from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gate.commands.history import history, render
from gate.errors import UsageError
from gate.trackers import PastRun

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
METRIC = "accuracy.max_drop"


def past(number: int = 0, outcome: str = "pass", **changes: Any) -> PastRun:
    values = {"fp32": 0.961, "int8": 0.959, "drop": 0.002, "lower": -0.001, "upper": 0.005}
    fields = {
        "run": f"run{number}",
        "when": START + timedelta(hours=number),
        "stage": "release",
        "outcome": outcome,
        "candidate": f"{number}" * 64,
        "version": str(number),
        "metrics": {f"{METRIC}/{key}": value for key, value in values.items()},
        "tags": {"model": "cnn", "metric": METRIC, "quantity": "drop", "recipe": "static"},
    }
    return PastRun(**fields | changes)


class Memory:
    """A tracker that remembers what it is given."""

    key = "memory"

    def __init__(self, **runs: Sequence[PastRun]) -> None:
        self.runs = runs

    def past(self, model: str) -> Sequence[PastRun]:
        return self.runs.get(model, ())

    def models(self) -> Sequence[str]:
        return sorted(self.runs)

    def where(self) -> str:
        return "memory"


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_the_runs_of_a_model_come_as_the_tracker_keeps_them() -> None:
    runs = [past(2), past(1)]
    assert history(Memory(cnn=runs), "cnn") == tuple(runs)


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        history(Memory(cnn=[past()], other=[past()]), "cmn")
    assert "no run of 'cmn' is kept. Did you mean 'cnn'? Known: cnn, other" in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_empty_store_says_how_to_begin() -> None:
    with pytest.raises(UsageError, match="No model has runs yet: begin with `gate run`"):
        history(Memory(), "cnn")


def test_a_line_tells_a_run() -> None:
    text = render([past(3)])
    line = line_of(text, "2026-03-01 15:00")
    cells = line.split()
    assert cells[2:] == [
        *("release", "3", "333333333333", "static"),
        *("0.9610", "0.9590", "+0.0020", "[-0.0010,", "+0.0050]", "pass"),
    ]
    assert text.splitlines()[0].startswith("cnn · accuracy.max_drop")
    assert text.endswith("\n")


def test_the_newest_run_is_last() -> None:
    text = render([past(2), past(1), past(0)])
    assert text.index("12:00") < text.index("13:00") < text.index("14:00")
    assert "3 runs, newest last" in text
    assert "1 run, newest last" in render([past()])


def test_a_blocked_run_names_its_budgets() -> None:
    tags = past().tags | {"blocked": "accuracy.max_drop, size.max_ratio"}
    text = render([past(outcome="fail", tags=tags)], width=200)
    assert "fail: accuracy.max_drop, size.max_ratio" in text


def test_an_error_says_why_without_numbers() -> None:
    failed = past(
        outcome="error",
        version=None,
        candidate="models/broken.onnx",
        metrics={},
        tags={"model": "cnn", "error": "nothing was\n quantized"},
    )
    line = line_of(render([failed, past(1)], width=200), "error")
    assert "broken.onnx" in line
    assert line.count("–") == 6
    assert line.endswith("error: nothing was quantized")


def test_an_incomplete_run_is_marked() -> None:
    text = render([past(outcome="incomplete")], width=200)
    assert "incomplete: logging was cut short" in text


def test_a_long_error_is_cut() -> None:
    text = render([past(outcome="error", tags={"model": "cnn", "error": "e" * 500})], width=400)
    assert "e" * 120 + " …" in text
    assert "e" * 121 not in text


def test_runs_with_different_budgets_name_their_metric() -> None:
    top5 = past(
        1,
        metrics={"top5.at_least/fp32": 0.99, "top5.at_least/lower": 0.9, "top5.at_least/upper": 1},
        tags=past().tags | {"metric": "top5.at_least", "quantity": "value"},
    )
    text = render([top5, past(0)])
    line = line_of(text, "top5.at_least")
    assert "[0.9000, 1.0000]" in line
    assert METRIC in line_of(text, "12:00")


def test_another_reference_stands_in_its_column() -> None:
    metrics = {"accuracy.max_drop@anchor/anchor": 0.5, "accuracy.max_drop@anchor/int8": 0.25}
    tags = past().tags | {"metric": "accuracy.max_drop@anchor"}
    assert "0.5000  0.2500" in render([past(metrics=metrics, tags=tags)])


def test_large_values_are_whole_numbers() -> None:
    metrics = {"size.max_ratio/fp32": 90123.0, "size.max_ratio/int8": 30000.0}
    text = render([past(metrics=metrics, tags=past().tags | {"metric": "size.max_ratio"})])
    assert "90,123  30,000" in text


def test_names_are_shown_as_they_are() -> None:
    tags = past().tags | {"model": "[red]cnn[/red]", "recipe": "\x1b[31mstatic"}
    tags |= {"blocked": "accuracy.max_drop[each site] at site=[bold]\x07"}
    text = render([past(outcome="fail", tags=tags)], width=200)
    assert "[red]cnn[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "accuracy.max_drop[each site] at site=[bold]" in text


@pytest.mark.parametrize("width", [20, 60, 100, 140])
def test_nothing_of_a_line_but_its_reason_is_broken(width: int) -> None:
    words = [f"budget{number}.max_drop" for number in range(6)]
    tags = past().tags | {"blocked": " ".join(words)}
    text = render([past(outcome="fail", tags=tags)], width=width)
    assert "2026-03-01 12:00 " in text
    assert "[-0.0010, +0.0050]" in text
    assert [word for word in words if word not in text] == []
    assert max(map(len, text.splitlines())) <= max(width, 140)


def test_color_is_only_given_when_it_is_asked_for() -> None:
    assert "\x1b[32mpass" in render([past()], color=True)
    assert "\x1b" not in render([past()])


def test_a_run_that_stopped_early_is_marked() -> None:
    tags = past().tags | {"stopped": "every budget that needs proof was proven"}
    text = render([past(1, tags=tags), past(2)], width=160)
    assert text.count("(stopped early)") == 1


@pytest.mark.parametrize(
    ("tags", "mark"),
    [
        ({"mode": "observe"}, "(observed only)"),
        ({"decision": "point"}, "(by point estimates)"),
        ({"attested": "TensorRT"}, "(attested)"),
    ],
)
def test_what_a_pass_does_not_prove_is_marked(tags: dict[str, str], mark: str) -> None:
    text = render([past(1, tags=past().tags | tags), past(2)], width=200)
    assert " ".join(text.split()).count(mark) == 1
