"""Classification metrics: what each observes of an example, and how rows become its value.

Pure numpy on decoded scores; it knows no policy, model or file, so that it can be held against
scikit-learn on its own. Rows are the smallest sufficient statistics:

========== ======================= ===========================================================
rows       columns                 read by
========== ======================= ===========================================================
label      prediction, target      accuracy, balanced accuracy, precision, recall, F1
score      scores, target          AUROC (of two classes only the positive one's score)
log_loss   the example's loss      log loss, a mean of losses
top<k>     1 where target in top k top-k accuracy
flip       1 where INT8 differs    prediction flips
========== ======================= ===========================================================

Labels of a multi-label example are bit patterns, 52 labels a column: exact in float64, and 52
times smaller than a column a label. An example whose scores are not finite has NaN rows, and a
summary over any NaN, or over no rows, is NaN.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from gate.metrics import Metric, Observe
from gate.records import Array, Rows

Kind = Literal["binary", "multi-class", "multi-label"]
LABELS_A_WORD = 52
_POSITIVE_OF = 2
_THRESHOLD = 0.5
_REPORTED_K = 5
_MANY_CLASSES = 100
_EPS = float(np.finfo(np.float64).eps)
_TOP_K = re.compile(r"top([1-9][0-9]{0,8})_accuracy")


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to predict."""

    kind: Kind
    size: int
    """Classes; labels where multi-label."""
    encode: Callable[[Array], Array]
    """Targets as the data hold them -> class indices (B,), or 0/1 (B, L), as int64."""

    @property
    def multi_label(self) -> bool:
        """Whether an example has any number of labels."""
        return self.kind == "multi-label"

    @property
    def has_positive(self) -> bool:
        """Whether class 1 is "the positive class"."""
        return not self.multi_label and self.size == _POSITIVE_OF


# ── from scores to predictions ────────────────────────────────────────────────────────────


def pack(labels: Array) -> Array:
    """0/1 (B, L) -> bit patterns (B, ⌈L/52⌉), exact in float64."""
    count = labels.shape[1]
    words = -(-count // LABELS_A_WORD)
    padded = np.zeros((len(labels), words * LABELS_A_WORD))
    padded[:, :count] = labels
    weights = 2.0 ** np.arange(LABELS_A_WORD)
    patterns: Array = padded.reshape(len(labels), words, LABELS_A_WORD) @ weights
    return patterns


def unpack(patterns: Array, count: int) -> Array:
    """Bit patterns (B, ⌈L/52⌉) -> 0/1 (B, L) with L = `count`, as int64."""
    bits = (patterns.astype(np.int64)[:, :, np.newaxis] >> np.arange(LABELS_A_WORD)) & 1
    labels: Array = bits.reshape(len(patterns), patterns.shape[1] * LABELS_A_WORD)[:, :count]
    return labels


def predict(problem: Problem, scores: Array) -> Array:
    """Scores (B, C) -> predictions (B, k): a class, or bit patterns of labels.

    The first of equal classes wins; a label, or a lone score's class 1, needs more than 0.5.
    """
    if problem.multi_label:
        return pack(scores > _THRESHOLD)
    if scores.shape[1] == 1:
        return (scores > _THRESHOLD).astype(np.float64)
    chosen: Array = np.argmax(scores, axis=1)[:, np.newaxis].astype(np.float64)
    return chosen


def _code(problem: Problem, targets: Array) -> Array:
    """Encoded targets -> (B, k), written as `predict` writes predictions."""
    return pack(targets) if problem.multi_label else targets[:, np.newaxis].astype(np.float64)


# ── observations ──────────────────────────────────────────────────────────────────────────

_See = Callable[[Problem, Array, Array, Array | None], Array]


def _observing(problem: Problem, see: _See) -> Observe:
    """`see` on encoded targets, with NaN rows where a score is not finite."""

    def observe(scores: Array, targets: Array, reference: Array | None) -> Array:
        rows = see(problem, scores, problem.encode(targets), reference).astype(np.float64)
        rows[~np.isfinite(scores).all(axis=1)] = np.nan
        return rows

    return observe


def _see_label(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    return np.hstack([predict(problem, scores), _code(problem, targets)])


def _see_score(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    kept = scores[:, -1:] if problem.has_positive else scores
    return np.hstack([kept, _code(problem, targets)])


def _see_flip(problem: Problem, scores: Array, _: Array, reference: Array | None) -> Array:
    if reference is None:
        return np.zeros((len(scores), 1))
    mine, theirs = predict(problem, scores), predict(problem, reference)
    flips: Array = np.any(mine != theirs, axis=1, keepdims=True).astype(np.float64)
    flips[~np.isfinite(reference).all(axis=1)] = np.nan
    return flips


def _see_log_loss(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    """−ln of the target's probability, clipped to [ε, 1 − ε] as scikit-learn does.

    Classes are renormalised to sum 1, for an INT8 softmax need not; where all of them are 0
    the target has probability 0. Labels: the mean over an example's labels.
    """
    if problem.multi_label or scores.shape[1] == 1:
        truth = targets.reshape(scores.shape)
        right = np.where(truth == 1, scores, 1.0 - scores)
    else:
        weights = np.clip(scores, 0.0, None)
        total = weights.sum(axis=1, keepdims=True)
        right = np.take_along_axis(weights, targets[:, np.newaxis], axis=1)
        right = right / np.where(total > 0, total, 1.0)
    losses: Array = -np.log(np.clip(right, _EPS, 1.0 - _EPS)).mean(axis=1, keepdims=True)
    return losses


def _see_top(k: int) -> _See:
    """1 where fewer than `k` classes rank above the target.

    Of equal scores the later class ranks higher, as in scikit-learn's `top_k_accuracy_score`;
    two classes it takes as binary, and so does this: their top 1 is the prediction.
    """

    def see(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
        column = targets[:, np.newaxis]
        if problem.has_positive:
            predicted: Array = predict(problem, scores) == column
            return predicted
        own = np.take_along_axis(scores, column, axis=1)
        later = np.arange(problem.size) > column
        above = (scores > own) | ((scores == own) & later)
        hits: Array = above.sum(axis=1, keepdims=True) < k
        return hits

    return see


# ── summaries ─────────────────────────────────────────────────────────────────────────────


class _Counts(NamedTuple):
    """Examples by class or label, each (C,)."""

    hit: Array
    predicted: Array
    actual: Array


_Term = Callable[[_Counts], tuple[Array, Array]]
_Average = Callable[[Problem, _Term, Array], float]
_TERMS: dict[str, _Term] = {
    "precision": lambda counts: (counts.hit, counts.predicted),
    "recall": lambda counts: (counts.hit, counts.actual),
    "f1": lambda counts: (2 * counts.hit, counts.predicted + counts.actual),
}


def _defined(summary: Callable[[Array], float]) -> Callable[[Rows], float]:
    """`summary`, but NaN over no rows or any NaN."""

    def summarize(rows: Rows) -> float:
        if len(rows) == 0 or np.isnan(rows.values).any():
            return float("nan")
        return float(summary(rows.values))

    return summarize


def _mean(values: Array) -> float:
    return float(values.mean())


def _count(problem: Problem, values: Array) -> _Counts:
    if problem.multi_label:
        predicted, actual = (unpack(half, problem.size) for half in np.hsplit(values, 2))
        hits = (predicted & actual).sum(axis=0)
        return _Counts(hits, predicted.sum(axis=0), actual.sum(axis=0))
    predicted, actual = values.astype(np.int64).T
    hits = np.bincount(actual[predicted == actual], minlength=problem.size)
    size = problem.size
    return _Counts(
        hits, np.bincount(predicted, minlength=size), np.bincount(actual, minlength=size)
    )


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Elementwise; 0 where the denominator is 0, scikit-learn's default."""
    out = np.zeros(np.shape(denominator))
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _macro(problem: Problem, term: _Term, values: Array) -> float:
    """Mean over labels, or over the classes that occur in predictions or targets."""
    counts = _count(problem, values)
    occurs = counts.predicted + counts.actual > 0
    ratios = _ratio(*term(counts))
    return float(ratios.mean() if problem.multi_label else ratios[occurs].mean())


def _micro(problem: Problem, term: _Term, values: Array) -> float:
    numerator, denominator = term(_count(problem, values))
    return float(_ratio(numerator.sum(), denominator.sum()))


def _positive(problem: Problem, term: _Term, values: Array) -> float:
    return float(_ratio(*term(_count(problem, values)))[1])


def _balanced(problem: Problem, values: Array) -> float:
    """Mean recall of the classes that occur in the targets."""
    counts = _count(problem, values)
    occurs = counts.actual > 0
    return float((counts.hit[occurs] / counts.actual[occurs]).mean())


def _area(scores: Array, positive: Array) -> float:
    """Area under the ROC curve of (N,) scores, as Mann and Whitney's U from mid-ranks.

    NaN where only one class occurs.
    """
    chosen = np.sort(scores[positive])
    n, m = len(chosen), len(scores) - len(chosen)
    if n == 0 or m == 0:
        return float("nan")
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, chosen, side="left").sum()
    up_to = np.searchsorted(ordered, chosen, side="right").sum()
    return float((int(below) + int(up_to) - n * n) / (2 * n * m))


def _auroc(problem: Problem, values: Array) -> float:
    """Of the positive class, or the mean over classes against the rest, or over labels.

    NaN as soon as one of them lacks positive or negative examples, as in scikit-learn.
    """
    if problem.has_positive:
        return _area(values[:, 0], values[:, 1] == 1)
    scores, coded = values[:, : problem.size], values[:, problem.size :]
    if problem.multi_label:
        present = unpack(coded, problem.size).astype(bool)
        areas = [_area(scores[:, i], present[:, i]) for i in range(problem.size)]
    elif len(np.unique(coded)) < problem.size:
        return float("nan")
    else:
        areas = [_area(scores[:, i], coded[:, 0] == i) for i in range(problem.size)]
    return float(np.mean(areas))


# ── the catalogue ─────────────────────────────────────────────────────────────────────────


def top_k(name: str) -> int | None:
    """The k of `top<k>_accuracy`, or None where the name is not of that form."""
    match = _TOP_K.fullmatch(name)
    return int(match[1]) if match else None


def top_k_metric(problem: Problem, k: int) -> Metric:
    """`top<k>_accuracy`, for k less than the number of classes."""
    return Metric(
        name=f"top{k}_accuracy",
        observation=f"top{k}",
        observe=_observing(problem, _see_top(k)),
        summarize=_defined(_mean),
        higher_is_better=True,
        per_example=lambda rows: rows.values[:, 0] == 1,
    )


def catalogue(problem: Problem) -> dict[str, Metric]:
    """Every metric that applies to `problem`, in the order a report shows them."""
    metrics = [_accuracy(problem)]
    if not problem.multi_label:
        if problem.size > _REPORTED_K:
            metrics.append(top_k_metric(problem, _REPORTED_K))
        metrics.append(_on_labels(problem, "balanced_accuracy", partial(_balanced, problem)))
    metrics += _averages(problem)
    metrics += [_auroc_metric(problem), _log_loss(problem), _flips(problem)]
    return {metric.name: metric for metric in metrics}


def shown(problem: Problem, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Those that are reported unasked: all, but auroc keeps a score per class and example."""
    heavy = ("auroc",) if problem.size > _MANY_CLASSES else ()
    return {name: metric for name, metric in metrics.items() if name not in heavy}


def _on_labels(problem: Problem, name: str, summary: Callable[[Array], float]) -> Metric:
    return Metric(
        name=name,
        observation="label",
        observe=_observing(problem, _see_label),
        summarize=_defined(summary),
        higher_is_better=True,
    )


def _averages(problem: Problem) -> list[Metric]:
    """Precision, recall and F1: of the positive class where there is one, then averaged."""
    averages: dict[str, _Average] = {"_macro": _macro, "_micro": _micro}
    if problem.has_positive:
        averages = {"": _positive} | averages
    return [
        _on_labels(problem, f"{name}{suffix}", partial(average, problem, term))
        for suffix, average in averages.items()
        for name, term in _TERMS.items()
    ]


def _accuracy(problem: Problem) -> Metric:
    """Share of examples predicted exactly: the class, or every label."""

    def right(rows: Rows) -> Array:
        predicted, actual = np.hsplit(rows.values, 2)
        exact: Array = np.all(predicted == actual, axis=1)
        return exact

    return Metric(
        name="accuracy",
        observation="label",
        observe=_observing(problem, _see_label),
        summarize=_defined(lambda values: float(right(Rows(values)).mean())),
        higher_is_better=True,
        per_example=right,
    )


def _auroc_metric(problem: Problem) -> Metric:
    return Metric(
        name="auroc",
        observation="score",
        observe=_observing(problem, _see_score),
        summarize=_defined(partial(_auroc, problem)),
        higher_is_better=True,
    )


def _log_loss(problem: Problem) -> Metric:
    return Metric(
        name="log_loss",
        observation="log_loss",
        observe=_observing(problem, _see_log_loss),
        summarize=_defined(_mean),
        higher_is_better=False,
    )


def _flips(problem: Problem) -> Metric:
    """Share of examples that INT8 predicts otherwise than FP32, right or wrong.

    A NaN row counts as a flip in `per_example`: what is unknown must not look unchanged.
    """
    return Metric(
        name="prediction_flips",
        observation="flip",
        observe=_observing(problem, _see_flip),
        summarize=_defined(_mean),
        higher_is_better=False,
        per_example=lambda rows: rows.values[:, 0] != 0,
        relative=True,
    )
