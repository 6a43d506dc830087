"""How a budget is tested: the statistic that fits the metric, the limit and the data.

Proportions of independent examples have exact tests, and can be bet on, so that evaluation stops
early. Everything else is judged over units, in `gate.unitwise`.
"""

import math
from collections.abc import Callable

import numpy as np

from gate import unitwise
from gate.metrics import ArtifactMetric
from gate.pairs import ASYMPTOTIC, UNDEFINED, Draft, Fields, Method, Pair, Pairs
from gate.policy import Budget
from gate.records import Counts, Rounds
from gate.statistics import clopper_pearson, exact, latency, ratio, sequential, tango
from gate.stopping import Look
from gate.values import Array


def judged(
    budget: Budget, pairs: Pairs, look: Look | None = None, *, stopped: bool = False
) -> Draft:
    """What a budget is tested by, on these examples.

    Args:
        budget: the budget.
        pairs: the rows.
        look: how its e-process went, where evaluation could have stopped early.
        stopped: whether it did.
    """
    draft = _judged(budget, pairs)
    if look is None or draft.method is None or draft.method.p_values is None:
        return draft
    return _looked_at(draft, draft.method, look, stopped=stopped)


def _judged(budget: Budget, pairs: Pairs) -> Draft:
    fields = pairs.fields()
    if fields["method"] == UNDEFINED:
        return Draft(fields)
    if pairs.metric.per_example is None or pairs.clustered:
        return unitwise.judged(budget, pairs, fields)
    if budget.threshold in ("at_least", "at_most"):
        return _rate(pairs, fields, budget)
    if budget.threshold == "max_relative_drop":
        return _relative_drop(fields, budget.limit, pairs.reference)
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

    def bets(total: int, alpha_end: float) -> Pair:
        return sequential.interval_drop(lost, gained, n, total, alpha_end)

    return Draft(fields, Method(exact.METHOD, interval, p_values, bets))


def _relative_drop(fields: Fields, limit: float, side: str) -> Draft:
    """Without a reference success a relative drop has no value."""
    table: Counts = fields["counts"]
    right = table.both_right + table.lost
    fields = fields | {"quantity": "relative_drop"}
    if right == 0:
        note = f"{side} gets none of the {table.n} examples right: a relative drop has no value"
        return Draft(fields | {"degradation": None, "method": UNDEFINED, "note": note})
    cells = table.both_right, table.lost, table.gained, table.n
    method = Method(
        ratio.METHOD,
        lambda level: ratio.interval(*cells, level),
        lambda _pass, _fail: ratio.p_values(*cells, limit),
        lambda total, alpha_end: sequential.interval_relative(*cells, total, alpha_end),
    )
    worse = (table.lost - table.gained) / right
    return Draft(fields | {"degradation": worse, "note": ASYMPTOTIC}, method)


def _rate(pairs: Pairs, fields: Fields, budget: Budget | None) -> Draft:
    """INT8's own rate, whatever the reference's is."""
    assert pairs.metric.per_example is not None
    x, n = int(np.sum(pairs.metric.per_example(pairs.int8))), pairs.n
    fields = fields | {"quantity": "value"}

    def interval(level: float) -> Pair:
        return clopper_pearson.interval(x, n, level)

    if budget is None:
        return Draft(fields, Method(clopper_pearson.METHOD, interval))
    limit = budget.limit
    floor = budget.threshold == "at_least"
    test = clopper_pearson.p_at_least if floor else clopper_pearson.p_at_most
    method = Method(
        clopper_pearson.METHOD,
        interval,
        lambda _pass, _fail: test(x, n, limit),
        lambda total, alpha_end: sequential.interval_rate(x, n, total, alpha_end),
    )
    return Draft(fields, method)


# ── stopping early ────────────────────────────────────────────────────────────────────────


def _looked_at(draft: Draft, method: Method, look: Look, *, stopped: bool) -> Draft:
    """An e-process got a share of the error; the test at the last example has the rest.

    Where evaluation stopped, the bets alone count, and the interval is theirs: it holds at
    whatever example one stops. Where it ran to the end both count, each for its share.
    """
    fixed, bets, rest = method.p_values, method.bets, 1.0 - sequential.SHARE
    assert fixed is not None
    assert bets is not None
    won, lost = sequential.p_value(look.log_pass), sequential.p_value(look.log_fail)
    if stopped:
        note = f"stopped early after {draft.fields['n']:,} of {look.total:,} examples"
        share = sequential.SHARE
        return Draft(
            draft.fields | {"note": note},
            Method(
                sequential.METHOD,
                lambda level: bets(look.total, share * (1.0 - level) / 2),
                lambda _pass, _fail: (won, lost),
            ),
        )

    def p_values(alpha: float, alpha_fail: float) -> Pair:
        p_pass, p_fail = fixed(rest * alpha, rest * alpha_fail)
        return min(won, p_pass / rest, 1.0), min(lost, p_fail / rest, 1.0)

    late = Method(
        f"{method.name}, after early looks",
        lambda level: method.interval(1.0 - rest * (1.0 - level)),
        p_values,
    )
    return Draft(draft.fields, late)


# ── time ──────────────────────────────────────────────────────────────────────────────────


def timed(budget: Budget, metric: ArtifactMetric, rounds: Rounds) -> Draft:
    """The median of what each round showed, by the exact sign test; the noise is told with it."""
    reference, int8 = np.array(rounds.reference), np.array(rounds.int8)
    before, after = float(np.median(reference)), float(np.median(int8))
    ratios = np.log(int8 / reference)
    fields: Fields = {
        "metric": metric.name,
        "n": len(int8),
        "reference": before,
        "int8": after,
        "degradation": float(metric.worse(before, after)),
        "quantity": "value",
        "note": f"median of rounds, noise ±{100 * latency.noise(ratios):.1f} % a round",
    }
    if budget.threshold == "max_ratio":
        ratio_of = float(np.exp(np.median(ratios)))
        fields |= {"quantity": "ratio", "degradation": ratio_of - 1}
        return Draft(fields, _signs(ratios, math.log(budget.limit), math.exp))
    if budget.threshold == "at_least":
        return Draft(fields, _signs(-int8, -budget.limit, lambda end: -end))
    return Draft(fields, _signs(int8, budget.limit, float))


def _signs(values: Array, bound: float, told: Callable[[float], float]) -> Method:
    """The sign test of "the median is at most the bound"; `told` turns an end into its quantity."""

    def interval(level: float) -> Pair:
        ends = [told(end) if math.isfinite(end) else math.nan
                for end in latency.interval(values, level)]  # fmt: skip
        return min(ends), max(ends)

    return Method(latency.METHOD, interval, lambda _pass, _fail: latency.p_values(values, bound))
