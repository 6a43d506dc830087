from collections.abc import Sequence
from typing import Any

import pytest
from support.releases import METRIC, bridge, past

from gate.commands._history_drift import Drift, anchor_of, better
from gate.commands._history_line import Entry, Past, line_of
from gate.commands._history_series import Asked, Series
from gate.registered import Bridge
from gate.trackers import PastRun

A, B, C = "a" * 64, "b" * 64, "c" * 64
ANCHOR = "models:/cnn-int8/1"


def entries(
    runs: Sequence[PastRun], *bridges: Bridge, asked: Asked | None = None
) -> tuple[Entry, ...]:
    return line_of(Past("cnn", tuple(runs), bridges=bridges), asked or Asked()).entries


def drifts(runs: Sequence[PastRun], *bridges: Bridge) -> list[Drift]:
    return [entry.drift for entry in entries(runs, *bridges)]


def low(number: int, int8: float, *, drop: float, **changes: Any) -> PastRun:
    """A release judged by an error, which is better low."""
    numbers = {f"rmse{kind}/{q}": v for kind in (".max_drop", "") for q, v in (
        ("fp32", int8 - drop), ("int8", int8), ("drop", drop))}  # fmt: skip
    return past(number, metrics=numbers, tags={"metric": "rmse.max_drop"}, limits={}, **changes)


def test_drift_is_counted_from_the_oldest_release_that_passed() -> None:
    runs = [past(4, int8=0.95), past(3), past(2, int8=0.96), past(1, "fail"), past(0, stage="pr")]
    anchor = anchor_of("cnn", runs)
    assert anchor is not None
    assert (anchor.name, anchor.named) == ("models:/cnn-int8/2", False)
    assert drifts(runs)[-1].value == pytest.approx(0.01)
    assert drifts(runs)[-1].how == "computed"


def test_the_anchor_that_the_newest_run_names_counts() -> None:
    runs = [past(3, int8=0.95, tags={"anchor": "models:/cnn-int8/2"}), past(2, int8=0.955), past(1)]
    assert drifts(runs)[-1].value == pytest.approx(0.005)
    assert anchor_of("cnn", runs).told == "models:/cnn-int8/2, named by the policy"


def test_an_anchor_that_is_not_on_record_leaves_drift_unknown() -> None:
    runs = [past(3, tags={"anchor": "models:/cnn-int8/9"}), past(1)]
    found = drifts(runs)[-1]
    assert (found.value, found.how) == (None, "unknown")
    assert "models:/cnn-int8/9 is not on record" in str(found.why)


def test_what_was_measured_against_the_anchor_comes_first() -> None:
    numbers = {f"{METRIC}@anchor/drop": 0.007, f"{METRIC}@anchor/anchor": 0.962}
    runs = [past(2, tags={"anchor": ANCHOR}, numbers=numbers), past(1)]
    assert drifts(runs)[-1] == Drift(0.007, "measured")


def test_what_was_measured_against_another_anchor_does_not_count() -> None:
    numbers = {f"{METRIC}@anchor/drop": 0.5}
    old = past(2, int8=0.95, tags={"anchor": "models:/cnn-int8/7"}, numbers=numbers)
    runs = [past(3, tags={"anchor": ANCHOR}), old, past(1)]
    assert drifts(runs)[1].value == pytest.approx(0.009)


def test_what_is_left_of_a_budget_against_the_anchor() -> None:
    run = past(2, int8=0.949, limits={METRIC: 0.02, f"{METRIC}@anchor": 0.015})
    found = drifts([run, past(1)])[-1]
    assert found.limit == 0.015
    assert found.left == pytest.approx(0.005)


def test_a_relative_budget_keeps_its_own_unit() -> None:
    run = past(2, int8=0.9, limits={"accuracy.max_relative_drop@anchor": 0.1})
    found = drifts([run, past(1, int8=0.96)])[-1]
    assert found.value == pytest.approx(0.06)
    assert found.left == pytest.approx(0.1 - 0.06 / 0.96)


@pytest.mark.parametrize("drop", [0.02, -0.02])
def test_drift_of_what_is_better_low_is_not_turned_round(drop: float) -> None:
    runs = [low(2, 1.5, drop=drop), low(1, 1.2, drop=drop)]
    assert drifts(runs)[-1].value == pytest.approx(0.3)
    assert better(runs, Series("rmse.max_drop")) == "low"


def test_a_run_says_which_side_is_better() -> None:
    runs = [low(2, 1.5, drop=0.0), low(1, 1.2, drop=0.0)]
    assert drifts(runs)[-1].how == "unknown"
    assert "rmse is better high or low" in str(drifts(runs)[-1].why)
    told = low(3, 1.5, drop=0.0)
    told.tags["better"] = "low"
    assert drifts([told, *runs])[-1].value == pytest.approx(0.3)


def test_the_side_of_one_metric_says_nothing_of_another() -> None:
    told = past(1, tags={"better": "high"})
    assert better([told], Series("rmse.max_drop")) is None


def test_across_held_out_sets_nothing_is_subtracted() -> None:
    runs = [past(3, int8=0.9, tags={"held_out": B}), past(2), past(1)]
    last = entries(runs)[-1]
    assert (last.drift.value, last.drift.how) == (None, "unknown")
    assert last.change is not None
    assert (last.change.bridge, last.change.anchored) == (None, False)
    assert "no bridge; drift against the anchor is unknown from here" in last.change.told


def test_a_bridge_carries_the_anchor_over() -> None:
    runs = [past(3, int8=0.9, tags={"held_out": B}), past(2), past(1)]
    last = entries(runs, bridge(A, B, record="record1", values={"accuracy": 0.91}))[-1]
    assert last.drift.value == pytest.approx(0.01)
    assert last.change is not None
    assert (last.change.bridge, last.change.anchored) == ("bridge-bbbb", True)


def test_a_bridge_of_another_release_or_metric_does_not() -> None:
    runs = [past(3, int8=0.9, tags={"held_out": B}), past(1)]
    for wrong in (
        bridge(A, B, record="record9", values={"accuracy": 0.91}),
        bridge(A, B, record="record1", values={"f1": 0.91}),
        bridge(A, C, record="record1", values={"accuracy": 0.91}),
    ):
        assert drifts(runs, wrong)[-1].how == "unknown"
    change = entries(runs, bridge(A, B, record="record9", values={"accuracy": 0.91}))[-1].change
    assert change is not None
    assert (change.bridge, change.anchored) == ("bridge-bbbb", False)


def test_drift_goes_on_where_the_set_comes_back() -> None:
    runs = [past(3, int8=0.949), past(2, tags={"held_out": B}), past(1)]
    assert [drift.how for drift in drifts(runs)] == ["computed", "unknown", "computed"]


def test_another_run_that_measured_the_anchor_tells_its_value() -> None:
    numbers = {f"{METRIC}@anchor/drop": 0.01, f"{METRIC}@anchor/anchor": 0.92}
    measured = past(2, tags={"held_out": B}, numbers=numbers)
    runs = [past(3, int8=0.9, tags={"held_out": B}), measured, past(1)]
    assert drifts(runs)[-1].value == pytest.approx(0.02)


def test_a_run_without_numbers_has_no_drift_and_changes_no_set() -> None:
    failed = past(2, "error", metrics={}, tags={"held_out": B})
    del failed.tags["held_out"]
    found = entries([past(3), failed, past(1)])
    assert found[1].drift.how == "none"
    assert [entry.change for entry in found] == [None, None, None]


def test_drift_of_a_slice_is_its_own() -> None:
    slices = [{"accuracy/site=n/int8": v, "accuracy/site=n/fp32": 0.97} for v in (0.9, 0.94)]
    runs = [past(2, numbers=slices[0]), past(1, numbers=slices[1])]
    last = entries(runs, asked=Asked(slice="site=n"))[-1]
    assert last.drift.value == pytest.approx(0.04)


def test_before_any_release_passed_drift_is_unknown() -> None:
    assert drifts([past(1, "fail")])[-1].why == "no release has passed yet"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_value(value: float) -> None:
    entry = entries([past(2, numbers={f"{METRIC}/drop": value, f"{METRIC}/int8": value}), past(1)])[
        -1
    ]
    assert (entry.value("drop"), entry.left, entry.drift.value) == (None, None, None)


@pytest.mark.parametrize("kind", ["max_drop", "max_relative_drop"])
def test_a_budget_about_another_anchor_leaves_nothing_of_this_one(kind: str) -> None:
    numbers = {f"accuracy.{kind}@anchor/drop": 0.001}
    old = past(2, int8=0.95, tags={"anchor": "models:/cnn-int8/7"}, numbers=numbers,
               limits={f"accuracy.{kind}@anchor": 0.05})  # fmt: skip
    found = drifts([past(3, tags={"anchor": ANCHOR}), old, past(1)])[1]
    assert found.value == pytest.approx(0.009)
    assert (found.limit, found.left) == (None, None)


def test_an_anchor_that_stopped_early_is_worth_what_others_measured_of_it() -> None:
    numbers = {f"{METRIC}@anchor/drop": 0.01, f"{METRIC}@anchor/anchor": 0.97}
    measured = past(2, tags={"anchor": ANCHOR}, numbers=numbers)
    plain = past(3, int8=0.95, tags={"anchor": ANCHOR})
    cut = past(1, int8=0.999, tags={"stopped": "every budget was decided"})
    assert drifts([plain, measured, cut])[-1].value == pytest.approx(0.02)
    assert drifts([plain, cut])[-1].value == pytest.approx(0.049)
