"""What a classification metric observes of an example: predictions, targets, scores, losses.

Pure numpy on decoded scores. Labels of a multi-label example are bit patterns, 52 labels a
column: exact in float64, and 52 times smaller than a column a label. An example whose scores are
not finite has NaN rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gate.metrics import Observe
from gate.values import Array

Kind = Literal["binary", "multi-class", "multi-label"]
LABELS_A_WORD = 52
MANY_CLASSES = 100
"""Above it a score per class and example is kept only where a policy asks for it."""
_POSITIVE_OF = 2
_THRESHOLD = 0.5
EPS = float(np.finfo(np.float64).eps)


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

See = Callable[[Problem, Array, Array, Array | None], Array]


def observing(problem: Problem, see: See) -> Observe:
    """`see` on encoded targets, with NaN rows where a score is not finite."""

    def observe(scores: Array, targets: Array, reference: Array | None) -> Array:
        rows = see(problem, scores, problem.encode(targets), reference).astype(np.float64)
        rows[~np.isfinite(scores).all(axis=1)] = np.nan
        return rows

    return observe


def see_label(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    return np.hstack([predict(problem, scores), _code(problem, targets)])


def see_score(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    kept = scores[:, -1:] if problem.has_positive else scores
    return np.hstack([kept, _code(problem, targets)])


def see_log_loss(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
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
    losses: Array = -np.log(np.clip(right, EPS, 1.0 - EPS)).mean(axis=1, keepdims=True)
    return losses


def see_top(k: int) -> See:
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


def see_confidence(problem: Problem, scores: Array, targets: Array, _: Array | None) -> Array:
    """The predicted class's probability, and 1 where the prediction is right."""
    predicted = predict(problem, scores)
    own = scores.max(axis=1, keepdims=True)
    if scores.shape[1] == 1:
        own = np.maximum(scores, 1.0 - scores)
    return np.hstack([own, predicted == targets[:, np.newaxis]])


# ── counts ────────────────────────────────────────────────────────────────────────────────


class Counts(NamedTuple):
    """Examples by class or label, each (C,)."""

    hit: Array
    predicted: Array
    actual: Array


def count(problem: Problem, values: Array) -> Counts:
    """Of rows (N, k) of predictions and targets; a class beyond those of `problem` counts, too."""
    if problem.multi_label:
        predicted, actual = (unpack(half, problem.size) for half in np.hsplit(values, 2))
        hits = (predicted & actual).sum(axis=0)
        return Counts(hits, predicted.sum(axis=0), actual.sum(axis=0))
    predicted, actual = values.astype(np.int64).T
    size = max(problem.size, 1 + int(values.max(initial=0)))
    hits = np.bincount(actual[predicted == actual], minlength=size)
    return Counts(hits, np.bincount(predicted, minlength=size), np.bincount(actual, minlength=size))
