"""Ranking: scores of one query's documents, held against their graded relevance.

An example is a query with a list of L documents: scores (B, L), and targets (N, L) of relevance
0, 1, 2, … with −1 where a shorter list is padded. With documents ordered by falling score ::

    ndcg, ndcg<k>   DCG / the largest DCG there is, DCG = Σ (2^rel − 1) / log2(1 + rank), of the
                    first k ranks or all
    mrr             1 / rank of the first document with relevance above 0

K. Järvelin, J. Kekäläinen (2002), "Cumulated gain-based evaluation of IR techniques", ACM TOIS
20; the gain is C. Burges' et al. (2005), ICML. Documents of equal score share the mean gain of
their ranks, as in scikit-learn's `ndcg_score` (F. McSherry, M. Najork, 2008, ECIR); for mrr a
relevant document stands behind all that score the same, so that constant scores earn nothing.
A query without any relevant document counts as 0 for both, as in scikit-learn: none is left out.
All are means over queries, 0..1, undefined over none.

Scores have to be finite where a list is padded, too: a model that masks there with −inf has to
do it with a large negative number.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from gate.errors import DataError
from gate.metrics import Metric, Observe, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._summaries import of_example_changes, of_mean
from gate.values import Array, Rows, TensorSpec, Values

_NDCG = re.compile(r"ndcg([1-9][0-9]{0,5})?")
_PADDING = -1
_MOST = 31
"""The highest grade: 2^31 − 1 is a gain that no list sums up inexactly."""
_MATRIX = 2
KNOWN: Mapping[str, Traits] = {
    "ndcg": Traits(),
    "ndcg10": Traits(),
    "mrr": Traits(),
    **agreement.FLIPS,
    **agreement.VALUES,
}
_ASKED = frozenset(agreement.VALUES)


class Ranking:
    """The task `ranking`; see `gate.tasks.Task`."""

    key: str = "ranking"
    unit: str = "query"
    decoders: tuple[str, ...] = ("scores",)
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric; `ndcg<k>` takes any k from 1."""
        return Traits() if _NDCG.fullmatch(metric) else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to an output (B, L) and targets (N, L).

        Raises:
            DataError: shapes differ, a grade is none, or a query has no document; says which.
            UsageError: the policy names an output or decoder that does not exist.
        """
        binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        sample = np.asarray(first[output])
        binding.demand_floats(output, sample)
        takes = "one grade a document, -1 where a list is shorter,"
        grades = binding.demand_array(self.key, targets, takes)
        _demand_shapes(output, sample.shape, grades)
        if grades is not None:
            _encode(grades)
        metrics = agreement.telling(binding.labelled(_catalogue(), grades), sample.shape[1:])
        return BoundTask(
            kind="ranking",
            decode=partial(_decode, output=output, shape=sample.shape[1:]),
            metrics={name: m for name, m in metrics.items() if name not in _ASKED},
            metric=partial(_metric, metrics),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:  # noqa: ARG002
        """Metrics of rows observed earlier: rows say all there is to know."""
        return partial(_metric, binding.labelled(_catalogue(), targets))


def _demand_shapes(output: str, raw: tuple[int, ...], targets: Array | None) -> None:
    """Raises DataError where the output has not one score for each grade."""
    fits = len(raw) == _MATRIX and raw[1] > 0
    if not fits or (targets is not None and targets.shape[1:] != raw[1:]):
        given = "" if targets is None else f"targets {binding.told('N', targets.shape)} and "
        raise DataError(
            f"{given}output {output!r} {binding.told('B', raw)} do not fit ranking; it takes an "
            "output (B, L), one score for each of a query's L documents, and targets (N, L) of "
            "their relevance, -1 where a list is shorter"
        )


def _decode(outputs: Mapping[str, Array], *, output: str, shape: tuple[int, ...]) -> Array:
    """(B, L) in float64; NaN for a query with any score that is not finite."""
    return binding.where_finite(binding.read(outputs, output, shape), lambda found: found)


def _encode(targets: Array) -> Array:
    """(B, L) of relevance in float64, −1 where there is no document.

    Raises:
        DataError: a grade is none, or a query has no document at all.
    """
    expected = f"a grade 0, 1, … {_MOST}, or -1 where a list is shorter"
    grades = binding.numbers(targets, expected, _is_grade)
    empty = (grades == _PADDING).all(axis=1)
    if empty.any():
        raise DataError(
            f"query {int(np.flatnonzero(empty)[0])} (counting from 0) has no document, only "
            "padding: leave the example out"
        )
    return grades


def _is_grade(values: Array) -> Array:
    return np.asarray((values == np.floor(values)) & (values >= _PADDING) & (values <= _MOST))


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue() -> list[Metric]:
    values = [replace(metric, observe=_on_documents(metric)) for metric in agreement.of_values()]
    mrr = of_mean("mrr", "reciprocal_rank", _reciprocal_ranks)
    return [_ndcg(None), _ndcg(10), mrr, of_example_changes(_first_changes), *values]


def _metric(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    match = _NDCG.fullmatch(name)
    if match and "ndcg" in metrics:
        return _ndcg(int(match[1]))
    raise binding.no_metric(name, metrics, TASK.traits(name), "ranking")


def _on_documents(metric: Metric) -> Observe:
    """`metric` on scores that are 0 where there is no document."""

    def observe(scores: Array, targets: Array | None, reference: Array | None) -> Values:
        padded = _padded(scores, targets)
        kept, other = (
            None if side is None else np.where(padded & np.isfinite(side), 0.0, side)
            for side in (scores, reference)
        )
        return metric.observe(kept, targets, other)

    return observe


def _padded(scores: Array, targets: Array | None) -> Array:
    """(B, L) of bool: where there is no document; without targets all are taken for one."""
    none = np.zeros(scores.shape, dtype=bool)
    return none if targets is None else np.asarray(_encode(targets) == _PADDING)


def _first_changes(int8: Array, fp32: Array, targets: Array | None) -> Array:
    """(B, 1): whether another document stands first; of equal scores the first of the list."""
    padded = _padded(int8, targets)
    first, before = (np.argmax(np.where(padded, -np.inf, side), axis=1) for side in (int8, fp32))
    return np.asarray(first != before)[:, np.newaxis]


def _ndcg(cut: int | None) -> Metric:
    name = f"ndcg{cut or ''}"
    return of_mean(name, name, partial(_gains, cut=cut))


def _gains(scores: Array, targets: Array, *, cut: int | None) -> Array:
    """(B, 1) of normalised gains."""
    found = [
        _normalised(own[grades != _PADDING], 2 ** grades[grades != _PADDING] - 1, cut)
        for own, grades in zip(scores, _encode(targets), strict=True)
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 1)


def _normalised(scores: Array, gains: Array, cut: int | None) -> float:
    """DCG over the largest one of a query's documents (l,); 0 where that is 0."""
    discounts = 1 / np.log2(np.arange(len(gains)) + 2.0)
    discounts[len(gains) if cut is None else cut :] = 0
    largest = float(np.sort(gains)[::-1] @ discounts)
    return float(_shared(scores, gains) @ discounts) / largest if largest else 0.0


def _shared(scores: Array, gains: Array) -> Array:
    """(l,) gains by rank, those of equal scores being their mean."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    group = np.concatenate(([0], np.cumsum(ordered[1:] != ordered[:-1])))
    means = np.bincount(group, weights=gains[order]) / np.bincount(group)
    return np.asarray(means[group])


def _reciprocal_ranks(scores: Array, targets: Array) -> Array:
    """(B, 1); 0 where nothing is relevant."""
    grades = _encode(targets)
    relevant = grades > 0
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = ((grades == 0) & (scores >= best)).sum(axis=1, keepdims=True)
    return np.where(relevant.any(axis=1, keepdims=True), 1 / (1 + ahead), 0.0)


TASK: Task = Ranking()
