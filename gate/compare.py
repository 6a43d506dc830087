"""Rows to paired degradation, with the p-values and bounds that `decide` decides on.

Pure: it runs no model and reads no file. Degradation is positive where INT8 is worse, always.
What this version has no statistics for, `unsupported` names, so that a policy is refused before
any work by the very rule that refuses it here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate.judgeable import demand_judgeable, needs_jackknife, unsupported
from gate.metrics import ArtifactMetric, Metric
from gate.policy import Budget
from gate.records import Array, Comparison, Counts, Evaluation, Measured, Rows
from gate.slices import Sample, samples
from gate.statistics import clopper_pearson, exact, ratio, tango

__all__ = ["compare_budgets", "describe", "needs_jackknife", "unsupported"]

EXACT_NUMBER = "exact number"
POINT_ESTIMATE = "point estimate"
UNDEFINED = "undefined"
_Fields = dict[str, Any]
_Pair = tuple[float, float]
_Metrics = Mapping[str, Metric | ArtifactMetric]
_Artifacts = Mapping[str, tuple[float | None, float]]


@dataclass(frozen=True, slots=True)
class _Method:
    """A statistic, bound to what was counted."""

    name: str
    interval: Callable[[float], _Pair]
    """Confidence level to lower and upper."""
    p_values: Callable[[float, float], _Pair] | None = None
    """(α for PASS, α for FAIL) to (p_pass, p_fail); None where nothing is judged."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A comparison before its interval and p-values: these need the number of all budgets."""

    fields: _Fields
    """Of `Comparison`; its method is `undefined` where there is no value."""
    method: _Method | None = None
    """None where there is no sampling error, no statistic, or no value."""

    @property
    def is_tested(self) -> bool:
        """Whether its p-values come from a sample."""
        return self.method is not None and self.method.p_values is not None


# ── the two entrances ─────────────────────────────────────────────────────────────────────


def compare_budgets(
    budgets: Sequence[Budget],
    evaluation: Evaluation,
    metrics: _Metrics,
    artifacts: _Artifacts,
    alpha: float,
) -> tuple[Measured, ...]:
    """Measure every budget, `each` once for every value of its column, in the policy's order.

    Args:
        budgets: the policy's.
        evaluation: both models' rows on the same N examples.
        metrics: by name; a budget whose metric is absent is measured as missing, never skipped.
        artifacts: artifact metrics by name: (FP32, INT8), None where FP32 has no value.
        alpha: one-sided error of each budget, between 0 and 0.5.

    Raises:
        EvaluationError: a budget that this version cannot judge, a column that is not there, or
            examples that are not independent.
        ValueError: alpha is out of its range.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    drafts: list[tuple[Budget, Sample, _Draft | str]] = []
    for budget in budgets:
        metric = metrics.get(budget.metric)
        if metric is not None:
            demand_judgeable(budget, metric, evaluation.unit)
        for sample in samples(budget, evaluation):
            found = sample.missing or _draft(budget, sample, metric, evaluation, artifacts)
            drafts.append((budget, sample, found))
    tested = sum(not isinstance(draft, str) and draft.is_tested for _, _, draft in drafts)
    alpha_fail = alpha / max(tested, 1)
    return tuple(
        Measured(budget, sample.label, None, reason=draft)
        if isinstance(draft, str)
        else Measured(budget, sample.label, _comparison(draft, alpha, alpha_fail))
        for budget, sample, draft in drafts
    )


def describe(
    evaluation: Evaluation,
    metrics: Sequence[Metric | ArtifactMetric],
    artifacts: _Artifacts,
    alpha: float,
) -> tuple[Comparison, ...]:
    """Compare metrics that no budget is about, on the whole set, for reading: no p-values.

    Proportions get Tango's interval and rates Clopper and Pearson's. All others, and all where
    examples share a unit, are point estimates. Artifact metrics that were not measured are left
    out.
    """
    drafts = []
    for metric in metrics:
        if isinstance(metric, Metric):
            drafts.append(_shown(metric, evaluation))
        elif metric.name in artifacts:
            drafts.append(_Draft(_exact_number(metric, *artifacts[metric.name])))
    return tuple(_comparison(draft, alpha, alpha) for draft in drafts)


def _comparison(draft: _Draft, alpha: float, alpha_fail: float) -> Comparison:
    fields = dict(draft.fields)
    if draft.method is not None:
        fields["method"] = draft.method.name
        fields["lower"], fields["upper"] = draft.method.interval(1 - 2 * alpha)
        if draft.method.p_values is not None:
            fields["p_pass"], fields["p_fail"] = draft.method.p_values(alpha, alpha_fail)
    return Comparison.model_validate(fields)


# ── one budget, or one metric ─────────────────────────────────────────────────────────────


def _draft(
    budget: Budget,
    sample: Sample,
    metric: Metric | ArtifactMetric | None,
    evaluation: Evaluation,
    artifacts: _Artifacts,
) -> _Draft | str:
    """What there is to compare, or why there is nothing."""
    if isinstance(metric, ArtifactMetric) and budget.metric in artifacts:
        # what gives NaN is no model, however small it is
        broken = next(iter(evaluation.problems.values()), None)
        return broken or _artifact(budget, metric, *artifacts[budget.metric])
    if not isinstance(metric, Metric) or not _observed(metric, evaluation):
        return f"{budget.metric} was not measured"
    draft = _judged(budget, _Pairs.of(metric, evaluation, sample.index))
    return _Draft(draft.fields | {"slice": sample.label}, draft.method)


def _observed(metric: Metric, evaluation: Evaluation) -> bool:
    return all(metric.observation in rows for rows in (evaluation.fp32, evaluation.int8))


def _judged(budget: Budget, pairs: "_Pairs") -> _Draft:
    fields = pairs.fields()
    if fields["method"] == UNDEFINED:
        return _Draft(fields)
    if budget.threshold in ("at_least", "at_most"):
        draft = _value(pairs, fields, budget)
    elif budget.threshold == "max_relative_drop":
        draft = _relative_drop(fields, budget.limit)
    else:
        draft = _drop(fields, budget.limit)
    if draft.method is None or len(pairs.int8) >= budget.min_examples:
        return draft
    note = f"fewer examples than the {budget.min_examples} of min_examples: not judged"
    method = _Method(draft.method.name, draft.method.interval)
    return _Draft(draft.fields | {"note": note}, method)


def _shown(metric: Metric, evaluation: Evaluation) -> _Draft:
    pairs = _Pairs.of(metric, evaluation, None)
    fields = pairs.fields()
    clustered = needs_jackknife(evaluation.unit) is not None
    if fields["method"] == UNDEFINED or metric.per_example is None or clustered:
        return _Draft(fields)
    return _value(pairs, fields, None) if metric.relative else _drop(fields, None)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """One metric's rows of both models, on the examples of one slice."""

    metric: Metric
    fp32: Rows
    int8: Rows
    problem: str | None
    """Why the INT8 rows are not finite."""

    @classmethod
    def of(cls, metric: Metric, evaluation: Evaluation, index: Array | None) -> "_Pairs":
        rows = (evaluation.fp32[metric.observation], evaluation.int8[metric.observation])
        fp32, int8 = rows if index is None else (side.take(index) for side in rows)
        return cls(metric, fp32, int8, evaluation.problems.get(metric.observation))

    def fields(self) -> _Fields:
        """The point estimates as fields of `Comparison`: a drop, until something else is asked."""
        reference = self._summary(self.fp32)
        # NaN on any example disqualifies the model, also on the slices that it spares
        int8 = self._summary(self.int8) if self.problem is None else None
        fields: _Fields = {
            "metric": self.metric.name,
            "n": len(self.int8),
            "reference": reference,
            "int8": int8,
            "method": POINT_ESTIMATE,
            "degradation": None,
        }
        if reference is None or int8 is None:
            return fields | {"method": UNDEFINED, "note": self._why()}
        if self.metric.is_proportion:
            table = self._table()
            return fields | {"counts": table, "degradation": (table.lost - table.gained) / table.n}
        return fields | {"degradation": _worse(self.metric, reference, int8)}

    def _summary(self, rows: Rows) -> float | None:
        if len(rows) == 0 or not np.isfinite(rows.values).all():
            return None
        value = float(self.metric.summarize(rows))
        return value if math.isfinite(value) else None

    def _why(self) -> str:
        """Why there is no value."""
        if not np.isfinite(self.fp32.values).all():
            return f"{self.metric.name} has no value: the FP32 model gives NaN or Inf"
        if self.problem is not None or not np.isfinite(self.int8.values).all():
            problem = self.problem or "the INT8 model gives NaN or Inf"
            return f"{self.metric.name} has no value: {problem}"
        return f"{self.metric.name} is undefined on these {len(self.int8)} examples"

    def _table(self) -> Counts:
        """FP32 by INT8; "right" is what does not count where a metric is better low."""
        assert self.metric.per_example is not None
        good = self.metric.higher_is_better
        old, new = (self.metric.per_example(rows) == good for rows in (self.fp32, self.int8))
        return Counts(
            both_right=int(np.sum(old & new)),
            lost=int(np.sum(old & ~new)),
            gained=int(np.sum(~old & new)),
            both_wrong=int(np.sum(~old & ~new)),
        )


def _worse(metric: Metric | ArtifactMetric, reference: float, int8: float) -> float:
    return reference - int8 if metric.higher_is_better else int8 - reference


# ── methods ───────────────────────────────────────────────────────────────────────────────


def _drop(fields: _Fields, limit: float | None) -> _Draft:
    """Tango's interval; the exact test where there is a limit."""
    table: Counts = fields["counts"]
    lost, gained, n = table.lost, table.gained, table.n

    def interval(level: float) -> _Pair:
        return tango.interval(lost, gained, n, level)

    if limit is None:
        return _Draft(fields, _Method(tango.METHOD, interval))

    def p_values(alpha: float, alpha_fail: float) -> _Pair:
        return exact.p_values(lost, gained, n, limit, alpha_pass=alpha, alpha_fail=alpha_fail)

    return _Draft(fields, _Method(exact.METHOD, interval, p_values))


def _relative_drop(fields: _Fields, limit: float) -> _Draft:
    """Without a reference success a relative drop has no value."""
    table: Counts = fields["counts"]
    right = table.both_right + table.lost
    fields = fields | {"quantity": "relative_drop"}
    if right == 0:
        note = f"FP32 gets none of the {table.n} examples right: a relative drop has no value"
        return _Draft(fields | {"degradation": None, "method": UNDEFINED, "note": note})
    cells = table.both_right, table.lost, table.gained, table.n
    method = _Method(
        ratio.METHOD,
        lambda level: ratio.interval(*cells, level),
        lambda _pass, _fail: ratio.p_values(*cells, limit),
    )
    worse = (table.lost - table.gained) / right
    return _Draft(fields | {"degradation": worse, "note": "asymptotic"}, method)


def _value(pairs: _Pairs, fields: _Fields, budget: Budget | None) -> _Draft:
    """INT8's own rate, whatever the reference's is."""
    assert pairs.metric.per_example is not None
    x, n = int(np.sum(pairs.metric.per_example(pairs.int8))), len(pairs.int8)
    fields = fields | {"quantity": "value"}

    def interval(level: float) -> _Pair:
        return clopper_pearson.interval(x, n, level)

    if budget is None:
        return _Draft(fields, _Method(clopper_pearson.METHOD, interval))
    limit = budget.limit
    floor = budget.threshold == "at_least"
    test = clopper_pearson.p_at_least if floor else clopper_pearson.p_at_most
    method = _Method(clopper_pearson.METHOD, interval, lambda _pass, _fail: test(x, n, limit))
    return _Draft(fields, method)


# ── artifacts ─────────────────────────────────────────────────────────────────────────────


def _artifact(
    budget: Budget, metric: ArtifactMetric, reference: float | None, int8: float
) -> _Draft:
    """An exact number meets its limit or does not: its p-values are 0 and 1."""
    fields = _exact_number(metric, reference, int8)
    number = fields["int8"]
    if budget.threshold == "max_ratio":
        before = fields["reference"]
        number = number / before if before and number is not None else None
        fields |= {"quantity": "ratio", "degradation": None if number is None else number - 1}
    if number is None:
        note = f"FP32 has no {metric.name} to hold INT8's against"
        return _Draft({"note": note} | fields | {"method": UNDEFINED})
    met = number >= budget.limit if budget.threshold == "at_least" else number <= budget.limit
    return _Draft(fields | {"p_pass": float(not met), "p_fail": float(met)})


def _exact_number(metric: ArtifactMetric, reference: float | None, int8: float) -> _Fields:
    before = reference if reference is not None and math.isfinite(reference) else None
    fields: _Fields = {
        "metric": metric.name,
        "n": 0,
        "reference": before,
        "int8": int8,
        "degradation": None if before is None else _worse(metric, before, int8),
        "quantity": "value",
        "method": EXACT_NUMBER,
    }
    if math.isfinite(int8):
        return fields
    note = f"{metric.name} of the INT8 model is not a finite number"
    return fields | {"int8": None, "degradation": None, "method": UNDEFINED, "note": note}
