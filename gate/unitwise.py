"""Budgets judged over independent units: by the jackknife, or by the worst case.

The jackknife takes any metric, and proportions whose examples share a unit. Where too few units
changed for it, only their number proves that there is no harm: if all of them changed for the
worst, how far could the metric have moved? Harm itself is proven there where the jackknife and the
sign test over the changed units agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate.metrics import Metric
from gate.pairs import ASYMPTOTIC, UNDEFINED, Draft, Fields, Method, Pair, Pairs
from gate.policy import Budget
from gate.statistics import jackknife
from gate.values import Array, Rows, joined

_MOST = 400
"""Units whose sign is looked at: they sort by name, which says nothing of their change."""
_SAME = 1e-12


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


def judged(budget: Budget, pairs: Pairs, fields: Fields) -> Draft:
    """A budget on these examples, `fields` being their point estimates."""
    question = _question(budget, pairs.metric, fields)
    if question is None:
        note = f"{pairs.metric.name} of {pairs.reference} is 0: a share of it has no value"
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
        return np.ones(pairs.n, dtype=bool) if flawed is None else flawed
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
    estimate = _estimate(pairs, question)
    if not estimate.defined:
        note = (
            f"{pairs.metric.name} is undefined without some of its {estimate.replicates.size} "
            "groups of examples: they hold all there is of a class"
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


def _estimate(pairs: Pairs, question: _Question) -> jackknife.Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = np.asarray(question.theta(*pairs.replicates), dtype=np.float64)
    return jackknife.Estimate(float(question.theta(*pairs.values)), replicates)


def _harm(pairs: Pairs, question: _Question, changed: Array) -> float:
    """p-value against "within the limit" where few units changed; 1 where that is undefined.

    The larger of the jackknife's and the sign test's, for a drop; a value has no other side to
    hold signs against. Where nothing spreads the sign test stands alone.
    """
    estimate = _estimate(pairs, question)
    if not estimate.defined or not estimate.value > question.bound:
        return 1.0
    own = jackknife.p_values(estimate, question.bound)[1] if estimate.se > 0 else 0.0
    units = np.unique(pairs.unit_of[changed])
    worse, better = (len(units), 0) if question.of_flaws else _signs(pairs, question, units)
    return max(own, _sign_test(worse, better))


def _signs(pairs: Pairs, question: _Question, units: Array) -> tuple[int, int]:
    """Changed units without whose change θ would be smaller, and larger."""
    reference, now = pairs.values
    assert reference is not None
    whole = float(question.theta(reference, now))
    apart, n = [], pairs.n
    both = Rows(joined([pairs.fp32.values, pairs.int8.values]))
    for unit in units[:_MOST]:
        mended = both.take(np.where(pairs.unit_of == unit, 0, n) + np.arange(n))
        value = pairs.metric.summarize(mended)
        apart.append(whole - float(question.theta(reference, value)))
    return sum(gap > _SAME for gap in apart), sum(gap < -_SAME for gap in apart)


def _sign_test(worse: int, better: int) -> float:
    """P(at least so many are worse), if each were as likely better; 1 without any."""
    from scipy.special import bdtr

    return float(bdtr(better, worse + better, 0.5)) if worse + better else 1.0


def _worst_case(pairs: Pairs, question: _Question, changed: Array) -> Draft:
    """Nothing but the number of changed units proves that there is no harm."""
    units = int(pairs.unit_of.max()) + 1
    count = len(np.unique(pairs.unit_of[changed]))
    reach = _reach(pairs, units, of_flaws=question.of_flaws) * question.scale
    spare = question.bound - question.rest

    def interval(level: float) -> Pair:
        low, high = jackknife.worst_case_interval(count, units, reach, level)
        low = 0.0 if question.of_flaws else low
        return question.told((question.rest + low, question.rest + high))

    def p_values(_pass: float, _fail: float) -> Pair:
        p_pass = jackknife.worst_case_p(count, units, reach, spare)
        return p_pass, _harm(pairs, question, changed)

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
