"""How far one change of an example can move a classification metric: what the worst case needs.

For rows of N examples, (N,): the largest change of the metric that changing that example's
prediction can make, times N. Each follows from the metric's fraction: a change of class t to q
takes a hit from t and adds a false alarm to q, and F1's denominator 2 TP + FP + FN of a class
never falls below its n examples.
"""

from collections.abc import Callable

import numpy as np

from gate.tasks._classification_rows import MANY_CLASSES, Problem, count, unpack
from gate.values import Array

_Sway = Callable[[Problem, Array], Array]


def of_average(term: str, suffix: str) -> _Sway:
    """Of precision, recall or F1: of the positive class (""), macro or micro."""

    def sway(problem: Problem, values: Array) -> Array:
        if problem.multi_label:
            return _labels(problem, values, term, micro=suffix == "_micro")
        if suffix == "_micro":
            return np.ones(len(values))  # accuracy
        return (_positive if not suffix else _classes)(problem, values, term)

    return sway


def of_balanced_accuracy(problem: Problem, values: Array) -> Array:
    """A class among those of the targets, whatever is predicted."""
    counts, n = count(problem, values), len(values)
    actual = values[:, 1].astype(np.int64)
    return np.asarray(_share(n, counts.actual)[actual] / np.count_nonzero(counts.actual))


def of_anything(_: Problem, values: Array) -> Array:
    """Of a metric that nothing simple bounds."""
    return np.full(len(values), np.inf)


def of_auroc(problem: Problem, values: Array) -> Array:
    """A score moves at most its own share of each class's pairs: 1/n among n of its side."""
    n = len(values)
    if problem.has_positive:
        present = values[:, 1:] == 1
    elif problem.multi_label:
        present = unpack(values[:, problem.size :], problem.size).astype(bool)
    else:
        present = values[:, -1:] == np.arange(problem.size)
    sizes = present.sum(axis=0)
    return np.asarray(np.where(present, _share(n, sizes), _share(n, n - sizes)).mean(axis=1))


def _share(n: int, sizes: Array) -> Array:
    """n / sizes; inf where a size is 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(n / sizes.astype(np.float64))


def _classes(problem: Problem, values: Array, term: str) -> Array:
    """Macro averages over classes; a class without examples makes them unbounded."""
    counts, n = count(problem, values), len(values)
    predicted, actual = values.astype(np.int64).T
    occurs = counts.predicted + counts.actual > 0
    # a first prediction of a class adds a term to the mean; rows of many classes do not tell how
    # many there are, and must say the same when they are judged again
    if problem.size > MANY_CLASSES or not occurs.all():
        return np.full(n, np.inf)
    present = len(occurs)
    if term == "recall":
        return np.asarray(_share(n, counts.actual)[actual] / present)
    shares = _share(n, counts.predicted if term == "precision" else counts.actual)
    own = shares[predicted] if term == "precision" else 2 * shares[actual]
    return np.asarray((own + shares.max()) / present)


def _positive(problem: Problem, values: Array, term: str) -> Array:
    """Of class 1 of two; what is no positive cannot move its recall."""
    counts, n = count(problem, values), len(values)
    if term == "precision":
        return np.full(n, _share(n, counts.predicted)[1])
    positive = values[:, 1] == 1
    weights = np.where(positive, 1.0, 0.0) if term == "recall" else np.where(positive, 2.0, 1.0)
    with np.errstate(invalid="ignore"):
        moved = weights * _share(n, counts.actual)[1]
    return np.asarray(np.nan_to_num(moved, nan=0.0, posinf=np.inf))


def _labels(problem: Problem, values: Array, term: str, *, micro: bool) -> Array:
    """Of labels: an example can change all of its own at once."""
    counts, n = count(problem, values), len(values)
    actual = unpack(np.hsplit(values, 2)[1], problem.size)
    moves = {"precision": np.ones_like(actual), "recall": actual, "f1": 1 + actual}[term]
    sizes = counts.predicted if term == "precision" else counts.actual
    if micro:
        return np.asarray(moves.sum(axis=1) * _share(n, sizes.sum(keepdims=True)))
    if term == "precision":
        return np.asarray((moves * _share(n, sizes)).mean(axis=1))
    # a label that no example has scores 0, and cannot lose more
    shares = np.where(sizes > 0, n / np.maximum(sizes, 1), 0.0)
    return np.asarray((moves * shares).mean(axis=1))
