"""How often a model's answers flip from one release to the next, by the rows that runs left."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from gate import artifact, tasks
from gate.errors import UsageError
from gate.policy import Budget, Policy
from gate.release import ROWS
from gate.rows import load_rows, places
from gate.trackers import PastRun, Tracker
from gate.values import Array, Evaluation

_PAIRS = 3


def between_releases(
    tracker: Tracker, runs: Sequence[PastRun], policy: Policy, metrics: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Flip rates of proportions, newest first, by metric: one INT8 model against the one before.

    Of releases on one held-out set, of different candidates; those whose rows are gone, were
    changed or ended early tell nothing.

    Args:
        tracker: keeps the rows.
        runs: of the model, newest first.
        policy: names the task.
        metrics: names of proportions.
    """
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for now, before in islice(_neighbours(tracker, runs), _PAIRS):
        for name in metrics:
            rate = _flips(policy, name, now, before)
            if rate is not None:
                found[name].append(rate)
    return {name: tuple(rates) for name, rates in found.items()}


def asks(budget: Budget) -> bool:
    """Whether a budget is about what changes from release to release."""
    return budget.against != "fp32"


def _neighbours(
    tracker: Tracker, runs: Sequence[PastRun]
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Each release with the one before it, on the set of the newest."""
    passed = [run for run in runs if (run.stage, run.outcome) == ("release", "pass")]
    newest = passed[0].tags.get("held_out") if passed else None
    last: tuple[PastRun, Evaluation] | None = None
    for run in passed:
        if run.tags.get("held_out") != newest or (last and last[0].candidate == run.candidate):
            continue
        evaluation = _rows(tracker, run)
        if evaluation is None:
            continue
        if last is not None:
            yield last[1], evaluation
        last = run, evaluation


def _rows(tracker: Tracker, run: PastRun) -> Evaluation | None:
    if "stopped" in run.tags:
        return None
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        path = tracker.fetch(run.run, ROWS, Path(scratch))
        if path is None or artifact.sha256_of(path) != run.tags.get("rows"):
            return None
        return load_rows(path)


def _flips(policy: Policy, name: str, now: Evaluation, before: Evaluation) -> float | None:
    """Share of examples that only one of the two has right; None where that cannot be told."""
    try:
        metric = tasks.get(policy.task).observed(now.targets, now.int8)(name)
    except UsageError:
        return None
    where = places(now.ids, before.ids)
    sides = now.int8.get(metric.observation), before.int8.get(metric.observation)
    if where is None or metric.per_example is None or None in sides:
        return None
    mine, theirs = sides
    assert mine is not None
    assert theirs is not None
    right: Array = metric.per_example(mine)
    was: Array = metric.per_example(theirs.take(where))
    return float(np.mean(right != was))
