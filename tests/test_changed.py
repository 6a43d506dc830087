"""Which answers changed, how sure models are, and the line so far: for a report's reader."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pairs import ACCURACY, FLIPS, LOG_LOSS, evaluation
from support.project import WIDE_RANGE, Project

import gate
from gate import mapped
from gate.changed import MOST, flips
from gate.rows import load_rows
from gate.since import line
from gate.tasks._classification_parts import reliability
from gate.trackers import PastRun
from gate.values import Evaluation, Rows

METRICS = {metric.name: metric for metric in (ACCURACY, FLIPS, LOG_LOSS)}
SIDES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(SIDES)
def test_every_changed_answer_is_lost_or_gained_or_other(sides: list[tuple[bool, bool]]) -> None:
    old, new = (np.array(side, dtype=float) for side in zip(*sides, strict=True))
    found = flips(evaluation(old, new), METRICS, None)
    assert found is not None
    assert found.lost == int(np.sum((old == 1) & (new == 0)))
    assert found.gained == int(np.sum((old == 0) & (new == 1)))
    assert found.other == 0
    assert {one.id for one in found.shown if one.change == "lost"} == {
        f"id{i}" for i in np.flatnonzero((old == 1) & (new == 0))
    }


def test_only_the_first_of_many_are_listed_and_all_are_counted() -> None:
    found = flips(evaluation(np.ones(900), np.zeros(900)), METRICS, None)
    assert found is not None
    assert (found.lost, len(found.shown)) == (900, MOST)
    assert [one.id for one in found.shown] == sorted(f"id{i}" for i in range(900))[:MOST]


def test_a_task_without_right_and_wrong_tells_flips_alone() -> None:
    found = flips(evaluation([1, 1, 0], [1, 0, 1]), {"prediction_flips": FLIPS}, None)
    assert found is not None
    assert (found.metric, found.lost, found.other) == ("prediction_flips", 0, 2)
    assert flips(evaluation([1], [1]), {"log_loss": LOG_LOSS}, None) is None


def test_answers_are_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.spec["build"]["classes"] = [f"digit {i}" for i in range(10)]
    project.write()
    record = gate.run_gate(project.policy, WIDE_RANGE, tracker="none", out=tmp_path / "o").record
    assert record.flips is not None
    rows = load_rows(tmp_path / "o" / "rows.npz")
    place = {key: i for i, key in enumerate(rows.ids.tolist())}
    for one in record.flips.shown:
        before, after = (side["label"].flat[place[one.id]] for side in (rows.fp32, rows.int8))
        assert one.target == f"digit {int(before[1])}"
        assert (one.fp32, one.int8) == (f"digit {int(before[0])}", f"digit {int(after[0])}")
    assert {one.change for one in record.flips.shown} == {"lost", "gained", "other"}


def test_calibration_curves_are_shares_by_bins() -> None:
    rng = np.random.default_rng(3)
    sure = rng.uniform(0.1, 1.0, 500)
    right = (rng.uniform(size=500) < sure).astype(float)
    rows = {"confidence": Rows(np.column_stack([sure, right]))}
    found = Evaluation(
        ids=np.arange(500).astype(str), targets=None, slices={}, unit=None, fp32=rows, int8=rows
    )
    (plot,) = reliability(found)
    assert plot.diagonal
    assert [series.name for series in plot.series] == ["FP32", "INT8"]
    inside = (sure >= 0.5) & (sure < 0.6)
    assert (sure[inside].mean(), right[inside].mean()) in [
        pytest.approx(point) for point in plot.series[0].points
    ]


def past(day: int, **changes: Any) -> PastRun:
    told: dict[str, Any] = {
        "run": str(day), "when": datetime(2026, 1, day, tzinfo=UTC), "stage": "release",
        "outcome": "pass", "candidate": "c", "version": str(day),
        "metrics": {"accuracy.max_drop/fp32": 0.97, "accuracy.max_drop/int8": 0.96,
                    "accuracy.max_drop/drop": 0.01, "accuracy@anchor/drop": 0.02,
                    "accuracy.max_drop/lower": float("nan")},
        "tags": {"metric": "accuracy.max_drop", "held_out": "h"},
        "limits": {"accuracy.max_drop": 0.015},
    }  # fmt: skip
    return PastRun(**(told | changes))


def test_the_line_is_the_judged_runs_oldest_first() -> None:
    runs = [past(3), past(2, outcome="error"), past(1, outcome="fail")]
    found = line(runs)
    assert [(point.version, point.outcome) for point in found] == [("1", "fail"), ("3", "pass")]
    assert (found[1].reference, found[1].int8, found[1].drop) == (0.97, 0.96, 0.01)
    assert (found[1].limit, found[1].drift, found[1].held_out) == (0.015, 0.02, "h")


def test_numbers_that_are_none_are_left_out() -> None:
    (point,) = line([past(1, metrics={"accuracy.max_drop/int8": float("inf")}, limits={})])
    assert (point.int8, point.limit, point.drift) == (None, None, None)


def test_examples_on_disk_are_told_as_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    found = evaluation(rng.integers(0, 2, 500), rng.integers(0, 2, 500))
    told = flips(found, METRICS, None)
    monkeypatch.setattr(mapped, "WINDOW", 64)

    def laid(side: Mapping[str, Rows]) -> dict[str, Rows]:
        return {name: Rows(mapped.laid(rows.flat)) for name, rows in side.items()}

    on_disk = replace(
        found, ids=mapped.laid(found.ids), fp32=laid(found.fp32), int8=laid(found.int8)
    )
    assert flips(on_disk, METRICS, None) == told
