"""Classification metrics: what each observes of an example, and how rows become its value.

Pure numpy on decoded scores; it knows no policy, model or file, so that it can be held against
scikit-learn on its own. Rows are the smallest sufficient statistics:

========== ======================= ===========================================================
rows       columns                 read by
========== ======================= ===========================================================
label      prediction, target      accuracy, balanced accuracy, precision, recall, F1, MCC
score      scores, target          AUROC (of two classes only the positive one's score)
log_loss   the example's loss      log loss, a mean of losses
top<k>     1 where target in top k top-k accuracy
confidence probability, 1 if right expected calibration error
others     see `_agreement`        flips, divergence, cosine, noise
========== ======================= ===========================================================

A summary over any NaN, or over no rows, is NaN.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gate.metrics import Metric
from gate.tasks import _agreement as agreement
from gate.tasks._classification_rows import (
    EPS,
    LABELS_A_WORD,
    MANY_CLASSES,
    Counts,
    Problem,
    count,
    observing,
    predict,
    see_confidence,
    see_label,
    see_log_loss,
    see_score,
    see_top,
    unpack,
)
from gate.tasks._classification_sway import of_anything, of_auroc, of_average, of_balanced_accuracy
from gate.values import Array, Rows

_REPORTED_K = 5
_ASKED = {"kl_divergence", "mcc", *agreement.VALUES}
"""Reported where a policy asks for them."""
_BINS = 15
_TOP_K = re.compile(r"top([1-9][0-9]{0,8})_accuracy")


# ── summaries ─────────────────────────────────────────────────────────────────────────────


_Term = Callable[[Counts], tuple[Array, Array]]
_Average = Callable[[Problem, _Term, Array], float]
_TERMS: dict[str, _Term] = {
    "precision": lambda counts: (counts.hit, counts.predicted),
    "recall": lambda counts: (counts.hit, counts.actual),
    "f1": lambda counts: (2 * counts.hit, counts.predicted + counts.actual),
}


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Elementwise; 0 where the denominator is 0, scikit-learn's default."""
    out = np.zeros(np.shape(denominator))
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _macro(problem: Problem, term: _Term, values: Array) -> float:
    """Mean over labels, or over the classes that occur in predictions or targets."""
    counts = count(problem, values)
    occurs = counts.predicted + counts.actual > 0
    ratios = _ratio(*term(counts))
    return float(ratios.mean() if problem.multi_label else ratios[occurs].mean())


def _micro(problem: Problem, term: _Term, values: Array) -> float:
    numerator, denominator = term(count(problem, values))
    return float(_ratio(numerator.sum(), denominator.sum()))


def _positive(problem: Problem, term: _Term, values: Array) -> float:
    return float(_ratio(*term(count(problem, values)))[1])


def _balanced(problem: Problem, values: Array) -> float:
    """Mean recall of the classes that occur in the targets."""
    counts = count(problem, values)
    occurs = counts.actual > 0
    return float((counts.hit[occurs] / counts.actual[occurs]).mean())


def _matthews(problem: Problem, values: Array) -> float:
    """Matthews' correlation (c·N − Σ p_k t_k) / √((N² − Σ p_k²) (N² − Σ t_k²)), −1..1.

    With c right of N, and p_k and t_k examples predicted and actual of class k. 0 where all are
    predicted or actual as one class, scikit-learn's value. J. Gorodkin (2004), "Comparing two
    K-category assignments by a K-category correlation coefficient", Computational Biology and
    Chemistry 28.
    """
    counts, n = count(problem, values), len(values)
    predicted, actual = counts.predicted.astype(np.float64), counts.actual.astype(np.float64)
    product = (n**2 - predicted @ predicted) * (n**2 - actual @ actual)
    shared = counts.hit.sum() * n - predicted @ actual
    return float(shared / np.sqrt(product)) if product > 0 else 0.0


def _calibration_error(values: Array) -> float:
    """Expected calibration error: Σ over bins of |right − confident| / N, 15 bins of one width.

    C. Guo et al. (2017), "On Calibration of Modern Neural Networks", ICML.
    """
    bins = np.minimum((values[:, 0] * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=values[:, 1] - values[:, 0], minlength=_BINS)
    return float(np.abs(gaps).sum() / len(values))


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


def _auroc(problem: Problem, column: Callable[[int], Array]) -> float:
    """Of the positive class, or the mean over classes against the rest, or over labels.

    NaN as soon as one of them lacks positive or negative examples, as in scikit-learn.
    """
    if problem.has_positive:
        return _area(column(0), column(1) == 1)
    if problem.multi_label:
        return float(np.mean([_area_of_label(problem, column, i) for i in range(problem.size)]))
    actual = column(problem.size)
    if len(np.unique(actual)) < problem.size:
        return float("nan")
    return float(np.mean([_area(column(i), actual == i) for i in range(problem.size)]))


def _area_of_label(problem: Problem, column: Callable[[int], Array], label: int) -> float:
    word, bit = divmod(label, LABELS_A_WORD)
    present = (column(problem.size + word).astype(np.int64) >> bit) & 1
    return _area(column(label), present.astype(bool))


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
        observe=observing(problem, see_top(k)),
        summarize=agreement.defined(agreement.mean),
        higher_is_better=True,
        per_example=lambda rows: rows.flat[:, 0] == 1,
    )


def catalogue(problem: Problem) -> dict[str, Metric]:
    """Every metric that applies to `problem`, in the order a report shows them."""
    metrics = [_accuracy(problem)]
    if not problem.multi_label:
        if problem.size > _REPORTED_K:
            metrics.append(top_k_metric(problem, _REPORTED_K))
        metrics.append(
            _on_labels(
                problem,
                "balanced_accuracy",
                partial(_balanced, problem),
                of_balanced_accuracy,
                hits_only=True,
            )
        )
    metrics += _averages(problem)
    if not problem.multi_label:
        metrics.append(_on_labels(problem, "mcc", partial(_matthews, problem), of_anything))
    metrics += [_auroc_metric(problem), _log_loss(problem)]
    if not problem.multi_label:
        metrics.append(_ece(problem))
    metrics.append(agreement.flips(partial(_differ, problem)))
    metrics.append(agreement.of_probabilities(partial(_distributions, problem)))
    metrics += agreement.of_values()
    return {metric.name: metric for metric in metrics}


def _differ(problem: Problem, int8: Array, fp32: Array) -> Array:
    """(B,) of bool: where the predictions are not the same."""
    return np.asarray(np.any(predict(problem, int8) != predict(problem, fp32), axis=1))


def _distributions(problem: Problem, scores: Array) -> Array:
    """(B, C), or (B, L, 2) where each label is yes or no."""
    if problem.kind == "multi-class":
        return np.asarray(scores / np.maximum(scores.sum(axis=1, keepdims=True), EPS))
    return np.stack([scores, 1 - scores], axis=-1)


def shown(problem: Problem, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Those that are reported unasked: auroc keeps a score per class and example."""
    heavy = {"auroc"} if problem.size > MANY_CLASSES else set()
    return {name: metric for name, metric in metrics.items() if name not in heavy | _ASKED}


def _on_labels(
    problem: Problem,
    name: str,
    summary: Callable[[Array], float],
    sway: Callable[[Problem, Array], Array],
    *,
    hits_only: bool = False,
) -> Metric:
    return Metric(
        name=name,
        observation="label",
        observe=observing(problem, see_label),
        summarize=agreement.defined(summary),
        higher_is_better=True,
        sway=lambda rows: sway(problem, rows.flat),
        flaws=lambda rows: np.any(np.not_equal(*np.hsplit(rows.flat, 2)), axis=1),
        sees=partial(_hits, problem) if hits_only else None,
    )


def _hits(problem: Problem, rows: Rows) -> Array:
    """What recall depends on: (N, 1) whether the class was hit, or (N, L) which labels were."""
    if problem.multi_label:
        predicted, actual = (unpack(half, problem.size) for half in np.hsplit(rows.flat, 2))
        return np.asarray(predicted & actual)
    return np.asarray(np.equal(*np.hsplit(rows.flat, 2)))


def _averages(problem: Problem) -> list[Metric]:
    """Precision, recall and F1: of the positive class where there is one, then averaged."""
    averages: dict[str, _Average] = {"_macro": _macro, "_micro": _micro}
    if problem.has_positive:
        averages = {"": _positive} | averages
    return [
        _on_labels(
            problem,
            f"{name}{suffix}",
            partial(average, problem, term),
            of_average(name, suffix),
            hits_only=name == "recall",
        )
        for suffix, average in averages.items()
        for name, term in _TERMS.items()
    ]


def _accuracy(problem: Problem) -> Metric:
    """Share of examples predicted exactly: the class, or every label."""

    def right(rows: Rows) -> Array:
        predicted, actual = np.hsplit(rows.flat, 2)
        exact: Array = np.all(predicted == actual, axis=1)
        return exact

    return Metric(
        name="accuracy",
        observation="label",
        observe=observing(problem, see_label),
        summarize=agreement.defined(lambda values: float(right(Rows(values)).mean())),
        higher_is_better=True,
        per_example=right,
    )


def _auroc_metric(problem: Problem) -> Metric:
    return Metric(
        name="auroc",
        observation="score",
        observe=observing(problem, see_score),
        summarize=agreement.defined(
            lambda values: _auroc(problem, lambda column: values[:, column])
        ),
        by_column=partial(_auroc, problem),
        higher_is_better=True,
        sway=lambda rows: of_auroc(problem, rows.flat),
    )


def _log_loss(problem: Problem) -> Metric:
    return Metric(
        name="log_loss",
        observation="log_loss",
        observe=observing(problem, see_log_loss),
        summarize=agreement.defined(agreement.mean),
        higher_is_better=False,
        sway=lambda rows: np.full(len(rows), -np.log(EPS)),  # the loss is clipped
    )


def _ece(problem: Problem) -> Metric:
    return Metric(
        name="ece",
        observation="confidence",
        observe=observing(problem, see_confidence),
        summarize=agreement.defined(_calibration_error),
        higher_is_better=False,
        sway=lambda rows: np.full(len(rows), 2.0),  # it leaves one bin and enters another
    )
