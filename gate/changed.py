"""Which examples' answers INT8 changed, for a report's reader; never for a verdict."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from gate import mapped
from gate.exhibits import Answers, Flipped, Flips
from gate.metrics import Metric
from gate.values import Array, Evaluation, Rows, taken

MOST = 200
"""Examples of each kind that are listed."""


def flips(
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
    answers: Callable[[Evaluation], Answers] | None,
) -> Flips | None:
    """By the first proportion that tells right from wrong, and the first that tells flips.

    None where the task has neither.
    """
    told = [m for m in metrics.values() if m.per_example is not None and _is_seen(m, evaluation)]
    right = next((metric for metric in told if not metric.relative), None)
    flip = next((metric for metric in told if metric.relative), None)
    if right is None and flip is None:
        return None
    lost, gained = _crossed(evaluation, right)
    other = _flipped(evaluation, flip) & ~lost & ~gained
    named: dict[str, Array] = {"lost": lost, "gained": gained, "other": other}
    at = {kind: _first(evaluation.ids, mask) for kind, mask in named.items()}
    first = right or flip
    assert first is not None
    return Flips(
        metric=first.name,
        lost=int(lost.sum()),
        gained=int(gained.sum()),
        other=int(other.sum()),
        shown=tuple(
            one
            for kind, index in at.items()
            for one in _listed(kind, _only(evaluation, index), answers)
        ),
    )


def _is_seen(metric: Metric, evaluation: Evaluation) -> bool:
    sides = evaluation.fp32, evaluation.int8
    return all(metric.observation in rows for rows in sides) and not evaluation.problems


def _crossed(evaluation: Evaluation, metric: Metric | None) -> tuple[Array, Array]:
    """(N,) of bool each: right under FP32 alone, and under INT8 alone."""
    none = np.zeros(len(evaluation.ids), dtype=bool)
    if metric is None or metric.per_example is None:
        return none, none
    old, new = (
        metric.counted(side[metric.observation]) == metric.higher_is_better
        for side in (evaluation.fp32, evaluation.int8)
    )
    return old & ~new, ~old & new


def _flipped(evaluation: Evaluation, metric: Metric | None) -> Array:
    if metric is None or metric.per_example is None:
        return np.zeros(len(evaluation.ids), dtype=bool)
    return np.asarray(metric.counted(evaluation.int8[metric.observation]), dtype=bool)


def _first(ids: Array, mask: Array) -> Array:
    """Those of the examples that are listed, in the order of their ids."""
    chosen = np.flatnonzero(mask)
    order = np.argsort(mapped.take(ids, chosen), kind="stable")
    return np.asarray(chosen[order][:MOST])


def _only(evaluation: Evaluation, index: Array) -> Evaluation:
    """Of these examples alone: words for all would take more room than all else."""

    def part(side: Mapping[str, Rows]) -> dict[str, Rows]:
        return {name: rows.take(index) for name, rows in side.items()}

    targets = evaluation.targets
    return Evaluation(
        ids=mapped.take(evaluation.ids, index),
        targets=None if targets is None else taken(targets, index),
        slices={name: mapped.take(values, index) for name, values in evaluation.slices.items()},
        unit=None,
        fp32=part(evaluation.fp32),
        int8=part(evaluation.int8),
    )


def _listed(
    kind: str, evaluation: Evaluation, answers: Callable[[Evaluation], Answers] | None
) -> Iterator[Flipped]:
    words = None if answers is None else answers(evaluation)
    for index, name in enumerate(evaluation.ids.tolist()):
        told = {} if words is None else _words(words, index)
        yield Flipped.model_validate({"id": name, "change": kind, **told})


def _words(words: Answers, index: int) -> dict[str, str]:
    target, fp32, int8 = (side[index] for side in words)
    return {"target": target, "fp32": fp32, "int8": int8}
