"""What classification tells besides its metrics: groups of classes, and what INT8 confuses."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gate import mapped
from gate.exhibits import Answers, Plot, Series
from gate.records import Part
from gate.tasks._classification_rows import Problem
from gate.values import Array, Evaluation

_SEPARATOR = "/"
_MOST = 50
_BINS = 10


def groups(problem: Problem, classes: Sequence[str], targets: Array) -> dict[str, Array]:
    """Slice columns `target/1`, `target/2`, …: the first parts of class names like `animal/cat`.

    Each is (N,) of text; a name with fewer parts counts whole. None where no name has parts.
    """
    if problem.multi_label or not any(_SEPARATOR in name for name in classes):
        return {}
    parts = [name.split(_SEPARATOR) for name in classes]
    actual = problem.encode(targets)
    depth = max(map(len, parts)) - 1
    return {
        f"target/{level}": np.array([_SEPARATOR.join(part[:level]) for part in parts])[actual]
        for level in range(1, depth + 1)
    }


def confusions(problem: Problem, classes: Sequence[str], evaluation: Evaluation) -> Iterator[Part]:
    """Pairs of classes that INT8 takes for one another more often than FP32 does."""
    sides = [rows.get("label") for rows in (evaluation.fp32, evaluation.int8)]
    if problem.multi_label or any(side is None for side in sides):
        return
    before, after = (_wrong(side.flat, problem.size) for side in sides if side is not None)
    more = {pair: after[pair] - before.get(pair, 0) for pair in after}
    worst = sorted((pair for pair in more if more[pair] > 0), key=lambda pair: (-more[pair], pair))
    if worst:
        few = f"; the {_MOST} worst of {len(worst)} pairs" if len(worst) > _MOST else ""
        yield Part(
            title=f"Newly confused (examples of a class taken for another{few})",
            columns=("class", "taken for", "FP32", "INT8"),
            rows=tuple(_row(pair, classes, before, after) for pair in worst[:_MOST]),
        )


_Pair = tuple[int, int]


def _wrong(labels: Array, size: int) -> dict[_Pair, int]:
    """Examples by (true, predicted) class, of those that are wrong; (N, 2) predicted and true."""
    found: Counter[_Pair] = Counter()
    for part in mapped.windows(labels):
        known = labels[part][np.isfinite(labels[part]).all(axis=1)].astype(np.int64)
        wrong = known[known[:, 0] != known[:, 1]]
        codes, counts = np.unique(wrong[:, 1] * size + wrong[:, 0], return_counts=True)
        for code, n in zip(codes.tolist(), counts.tolist(), strict=True):
            found[code // size, code % size] += n
    return found


def _row(
    pair: _Pair,
    classes: Sequence[str],
    before: Mapping[_Pair, int],
    after: Mapping[_Pair, int],
) -> tuple[str, ...]:
    names = (str(classes[place]) if classes else str(place) for place in pair)
    return (*names, str(before.get(pair, 0)), str(after[pair]))


def answers(problem: Problem, classes: Sequence[str], evaluation: Evaluation) -> Answers:
    """Names of the true class, of FP32's and of INT8's, (N,) each; numbers without names."""
    none = [""] * len(evaluation.ids)
    if problem.multi_label or "label" not in evaluation.int8:
        return none, none, none
    before, after = (side["label"].flat for side in (evaluation.fp32, evaluation.int8))

    def named(codes: Array) -> list[str]:
        return [_named(code, classes) for code in codes.tolist()]

    return named(before[:, 1]), named(before[:, 0]), named(after[:, 0])


def _named(code: float, classes: Sequence[str]) -> str:
    number = int(code)
    return classes[number] if number < len(classes) else str(number)


def reliability(evaluation: Evaluation) -> Iterator[Plot]:
    """How often an answer is right by how sure the model says it is: ten bins of equal width."""
    sides = {"FP32": evaluation.fp32, "INT8": evaluation.int8}
    if any("confidence" not in rows for rows in sides.values()) or evaluation.problems:
        return
    series = tuple(
        Series(name=name, points=tuple(_bins(rows["confidence"].flat)))
        for name, rows in sides.items()
    )
    yield Plot(
        title="Calibration: how sure it is, and how often it is right",
        x="confidence",
        y="share right",
        series=series,
        diagonal=True,
    )


def _bins(rows: Array) -> Iterator[tuple[float, float]]:
    """(mean confidence, share right) of each bin that has examples; rows (N, 2)."""
    which = mapped.each(
        lambda part: np.minimum((part[:, 0] * _BINS).astype(int), _BINS - 1).astype(np.int8), rows
    )
    for number in range(_BINS):
        inside = mapped.take(rows, which == number)
        if len(inside):
            yield float(inside[:, 0].mean()), float(inside[:, 1].mean())
