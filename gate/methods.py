"""How a budget is tested: the statistic that fits the metric, the limit and the data.

Proportions of independent examples have exact tests. Everything else, and proportions whose
examples share a unit, is judged by the delete-group jackknife over units, or, where too few of
them changed for it, by the worst case.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gate.metrics import Metric
from gate.policy import Budget
from gate.records import Array, Counts, Rows
from gate.statistics import clopper_pearson, exact, jackknife, ratio, tango

POINT_ESTIMATE = "point estimate"
UNDEFINED = "undefined"
ASYMPTOTIC = "asymptotic"
Fields = dict[str, Any]
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Method:
    """A statistic, bound to what was counted."""

    name: str
    interval: Callable[[float], Pair]
    """Confidence level to lower and upper."""
    p_values: Callable[[float, float], Pair] | None = None
    """(α for PASS, α for FAIL) to (p_pass, p_fail); None where nothing is judged."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A comparison before its interval and p-values: these need the number of all budgets."""

    fields: Fields
    """Of `Comparison`; its method is `undefined` where there is no value."""
    method: Method | None = None
    """None where there is no sampling error, no statistic, or no value."""

    @property
    def is_tested(self) -> bool:
        """Whether its p-values come from a sample."""
        return self.method is not None and self.method.p_values is not None

    def untested(self, note: str) -> "Draft":
        """The same, with its interval alone."""
        assert self.method is not None
        return Draft(self.fields | {"note": note}, replace(self.method, p_values=None))


@dataclass(frozen=True)
class Pairs:
    """One metric's rows of both models, on the examples of one slice."""

    metric: Metric
    fp32: Rows
    int8: Rows
    units: Array
    """(n,) the independent unit of each example."""
    clustered: bool
    """Whether examples share units."""
    problem: str | None
    """Why the INT8 rows are not finite."""

    @cached_property
    def values(self) -> tuple[float | None, float | None]:
        """(FP32, INT8) on all examples; None where there is none."""
        # NaN on any example disqualifies the model, also on the slices that it spares
        int8 = self._value(self.int8) if self.problem is None else None
        return self._value(self.fp32), int8

    @cached_property
    def table(self) -> Counts:
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

    @cached_property
    def unit_of(self) -> Array:
        """(n,) the number 0..U−1 of each example's unit."""
        return np.unique(self.units, return_inverse=True)[1]

    @cached_property
    def replicates(self) -> tuple[Array, Array]:
        """(G,) each: FP32 and INT8 without each group of units."""
        groups = jackknife.deal(self.units)

        def without(rows: Rows) -> Array:
            return jackknife.replicates(lambda kept: self._number(rows.take(kept)), groups)

        return without(self.fp32), without(self.int8)

    def fields(self) -> Fields:
        """The point estimates as fields of `Comparison`: a drop, until something else is asked."""
        reference, int8 = self.values
        fields: Fields = {
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
            table = self.table
            return fields | {"counts": table, "degradation": (table.lost - table.gained) / table.n}
        return fields | {"degradation": float(self.metric.worse(reference, int8))}

    def _value(self, rows: Rows) -> float | None:
        value = self._number(rows)
        return value if math.isfinite(value) else None

    def _number(self, rows: Rows) -> float:
        if len(rows) == 0 or not np.isfinite(rows.values).all():
            return math.nan
        return float(self.metric.summarize(rows))

    def _why(self) -> str:
        """Why there is no value."""
        if not np.isfinite(self.fp32.values).all():
            return f"{self.metric.name} has no value: the FP32 model gives NaN or Inf"
        if self.problem is not None or not np.isfinite(self.int8.values).all():
            problem = self.problem or "the INT8 model gives NaN or Inf"
            return f"{self.metric.name} has no value: {problem}"
        return f"{self.metric.name} is undefined on these {len(self.int8)} examples"


def judged(budget: Budget, pairs: Pairs) -> Draft:
    """What a budget is tested by, on these examples."""
    fields = pairs.fields()
    if fields["method"] == UNDEFINED:
        return Draft(fields)
    if pairs.metric.per_example is None or pairs.clustered:
        return _by_units(budget, pairs, fields)
    if budget.threshold in ("at_least", "at_most"):
        return _rate(pairs, fields, budget)
    if budget.threshold == "max_relative_drop":
        return _relative_drop(fields, budget.limit)
    return _drop(fields, budget.limit)


def shown(pairs: Pairs) -> Draft:
    """What is told of a metric that no budget is about."""
    fields = pairs.fields()
    if fields["method"] == UNDEFINED or pairs.metric.per_example is None or pairs.clustered:
        return Draft(fields)
    return _rate(pairs, fields, None) if pairs.metric.relative else _drop(fields, None)


# ── proportions of independent examples ───────────────────────────────────────────────────


def _drop(fields: Fields, limit: float | None) -> Draft:
    """Tango's interval; the exact test where there is a limit."""
    table: Counts = fields["counts"]
    lost, gained, n = table.lost, table.gained, table.n

    def interval(level: float) -> Pair:
        return tango.interval(lost, gained, n, level)

    if limit is None:
        return Draft(fields, Method(tango.METHOD, interval))

    def p_values(alpha: float, alpha_fail: float) -> Pair:
        return exact.p_values(lost, gained, n, limit, alpha_pass=alpha, alpha_fail=alpha_fail)

    return Draft(fields, Method(exact.METHOD, interval, p_values))


def _relative_drop(fields: Fields, limit: float) -> Draft:
    """Without a reference success a relative drop has no value."""
    table: Counts = fields["counts"]
    right = table.both_right + table.lost
    fields = fields | {"quantity": "relative_drop"}
    if right == 0:
        note = f"FP32 gets none of the {table.n} examples right: a relative drop has no value"
        return Draft(fields | {"degradation": None, "method": UNDEFINED, "note": note})
    cells = table.both_right, table.lost, table.gained, table.n
    method = Method(
        ratio.METHOD,
        lambda level: ratio.interval(*cells, level),
        lambda _pass, _fail: ratio.p_values(*cells, limit),
    )
    worse = (table.lost - table.gained) / right
    return Draft(fields | {"degradation": worse, "note": ASYMPTOTIC}, method)


def _rate(pairs: Pairs, fields: Fields, budget: Budget | None) -> Draft:
    """INT8's own rate, whatever the reference's is."""
    assert pairs.metric.per_example is not None
    x, n = int(np.sum(pairs.metric.per_example(pairs.int8))), len(pairs.int8)
    fields = fields | {"quantity": "value"}

    def interval(level: float) -> Pair:
        return clopper_pearson.interval(x, n, level)

    if budget is None:
        return Draft(fields, Method(clopper_pearson.METHOD, interval))
    limit = budget.limit
    floor = budget.threshold == "at_least"
    test = clopper_pearson.p_at_least if floor else clopper_pearson.p_at_most
    method = Method(clopper_pearson.METHOD, interval, lambda _pass, _fail: test(x, n, limit))
    return Draft(fields, method)


# ── everything else, by units ─────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Question:
    """A budget as "θ is at most the bound", and how θ is told."""

    fields: Fields
    bound: float
    theta: Callable[[Any, Any], Any]
    """(FP32, INT8), numbers or arrays, to θ."""
    told: Callable[[Pair], Pair] = lambda ends: ends
    """θ's interval as that of the comparison's quantity."""
    scale: float = 1.0
    """What one unit of the metric is worth in θ."""
    rest: float = 0.0
    """θ of a model that changed nothing, or is without a flaw."""
    of_flaws: bool = False
    """Whether it is about INT8 alone, so that flaws count and not changes."""


def _by_units(budget: Budget, pairs: Pairs, fields: Fields) -> Draft:
    question = _question(budget, pairs.metric, fields)
    if question is None:
        note = f"{pairs.metric.name} of FP32 is 0: a share of it has no value"
        return Draft(fields | {"degradation": None, "method": UNDEFINED, "note": note})
    changed = _changed(pairs, of_flaws=question.of_flaws)
    if _enough(pairs, changed):
        draft = _jackknife(pairs, question)
        if draft is not None:
            return draft
    return _worst_case(pairs, question, changed)


def _question(budget: Budget, metric: Metric, fields: Fields) -> _Question | None:
    """None where a share of FP32's value is asked for, and that is 0."""
    before, after, limit = abs(fields["reference"]), fields["int8"], budget.limit
    match budget.threshold:
        case "max_drop":
            return _Question(fields, limit, metric.worse)
        case "at_most":
            told = fields | {"quantity": "value"}
            return _Question(told, limit, lambda _, q: q, of_flaws=True)
        case "at_least":
            told = fields | {"quantity": "value"}
            flip = _negated
            return _Question(told, -limit, lambda _, q: -q, flip, rest=-1.0, of_flaws=True)
    if before == 0:
        return None
    share = fields["degradation"] / before
    if budget.threshold == "max_relative_drop":
        told = fields | {"quantity": "relative_drop", "degradation": share}
        return _Question(told, limit, lambda f, q: metric.worse(f, q) / abs(f), scale=1 / before)
    told = fields | {"quantity": "ratio", "degradation": after / before - 1}
    return _Question(told, limit, lambda f, q: q / f, scale=1 / before, rest=1.0)


def _negated(ends: Pair) -> Pair:
    return -ends[1], -ends[0]


def _changed(pairs: Pairs, *, of_flaws: bool) -> Array:
    """(n,) of bool: examples that INT8 changed, or on which it is not flawless."""
    metric = pairs.metric
    if of_flaws:
        flawed = metric.flawed(pairs.int8)
        return np.ones(len(pairs.int8), dtype=bool) if flawed is None else flawed
    return np.asarray(np.any(metric.seen(pairs.fp32) != metric.seen(pairs.int8), axis=1))


def _enough(pairs: Pairs, changed: Array) -> bool:
    """Whether the changed units count for as many as the jackknife needs.

    What each weighs is how far it can move the metric: thirty changes of a frequent class and one
    of a rare class are hardly more than one. (Σw)² / Σw² is Kish's effective number.
    """
    reach = pairs.metric.reach(pairs.fp32)
    known = np.where(np.isfinite(reach), reach, 1.0)
    weights = np.bincount(pairs.unit_of, weights=known * changed)
    total = float(weights.sum())
    return total > 0 and total**2 / float(np.square(weights).sum()) >= jackknife.FEW


def _jackknife(pairs: Pairs, question: _Question) -> Draft | None:
    """None where nothing spreads, so that it would be too sure of itself."""
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = np.asarray(question.theta(*pairs.replicates), dtype=np.float64)
    estimate = jackknife.Estimate(float(question.theta(*pairs.values)), replicates)
    if not estimate.defined:
        note = (
            f"{pairs.metric.name} is undefined without some of its {replicates.size} groups of "
            "examples: they hold all there is of a class"
        )
        return Draft(question.fields | {"degradation": None, "method": UNDEFINED, "note": note})
    if estimate.se == 0:
        return None
    method = Method(
        jackknife.METHOD,
        lambda level: question.told(jackknife.interval(estimate, level)),
        lambda _pass, _fail: jackknife.p_values(estimate, question.bound),
    )
    return Draft(question.fields | {"note": ASYMPTOTIC}, method)


def _worst_case(pairs: Pairs, question: _Question, changed: Array) -> Draft:
    """Nothing proves harm; nothing but the number of changed units proves its absence."""
    units = int(pairs.unit_of.max()) + 1
    count = len(np.unique(pairs.unit_of[changed]))
    reach = _reach(pairs, units, of_flaws=question.of_flaws) * question.scale
    spare = question.bound - question.rest

    def interval(level: float) -> Pair:
        low, high = jackknife.worst_case_interval(count, units, reach, level)
        low = 0.0 if question.of_flaws else low
        return question.told((question.rest + low, question.rest + high))

    def p_values(_pass: float, _fail: float) -> Pair:
        return jackknife.worst_case_p(count, units, reach, spare), 1.0

    what = "have a flaw" if question.of_flaws else "changed"
    note = f"{jackknife.WORST_CASE}: {count:,} of {units:,} {_noun(pairs)} {what}"
    fields = question.fields | {"note": note, "changed": count, "units": units}
    return Draft(fields, Method(jackknife.WORST_CASE, interval, p_values))


def _noun(pairs: Pairs) -> str:
    return "units" if pairs.clustered else "examples"


def _reach(pairs: Pairs, units: int, *, of_flaws: bool) -> float:
    """How far the metric moves if every unit changes for the worst; inf where nothing bounds it."""
    reach = pairs.metric.reach(pairs.fp32)
    if not np.isfinite(reach).all() or (of_flaws and pairs.metric.flawed(pairs.int8) is None):
        return math.inf
    return float(np.bincount(pairs.unit_of, weights=reach).max()) * units / len(reach)
