"""What evidence is missing: examples that would decide, and what those at hand could prove."""

import math
from functools import lru_cache

from gate.policy import Budget
from gate.records import Comparison
from gate.statistics import (
    clopper_pearson,
    exact,
    jackknife,
    latency,
    power,
    prospects,
    sequential,
)

_NO_MARGIN = 1e-9
_STEP = 1.02
_DIGITS = 3


def number(found: Comparison) -> float:
    """What a limit is about: the loss, the value or the ratio.

    Raises:
        ValueError: the comparison has no value.
    """
    value = found.int8 if found.quantity == "value" else found.degradation
    if value is None:
        raise ValueError(f"{found.metric} has no value")
    return value + 1 if found.quantity == "ratio" else value


def is_inside(budget: Budget, found: Comparison) -> bool:
    """Whether the estimate is on the limit's good side, so that more examples may prove it."""
    spare = budget.limit - number(found)
    return (-spare if budget.threshold == "at_least" else spare) > _NO_MARGIN


def examples_needed(budget: Budget, found: Comparison, alpha: float) -> int | None:
    """Examples at which the budget would be proven with 80 % power: more than were seen.

    None where the estimate is at or over the limit, or where nobody can say.
    """
    if not is_inside(budget, found):
        return None
    needed = None if found.method == latency.METHOD else _formula(budget, found, alpha)
    return None if needed is None else max(needed, found.n + 1)


def _formula(budget: Budget, found: Comparison, alpha: float) -> int | None:
    if found.method == jackknife.WORST_CASE:
        return _until_few_are_rare(budget, found, alpha)
    if found.method == jackknife.METHOD:
        return _until_narrow(budget, found, alpha)
    if found.quantity == "value":
        return power.examples_for_rate(number(found), budget.limit, alpha=alpha)
    table = found.counts
    if table is None:
        return None
    n, lost, gained = table.n, table.lost, table.gained
    if budget.threshold == "max_relative_drop":
        right = (table.both_right + lost) / n
        return power.examples_for_ratio(right, lost / n, gained / n, budget.limit, alpha=alpha)
    flips, drop = (lost + gained) / n, (lost - gained) / n
    least = power.without_flips(budget.limit, alpha=alpha) if budget.limit > 0 else 1
    return max(least, power.examples_needed(flips, drop, budget.limit, alpha=alpha))


def _until_narrow(budget: Budget, found: Comparison, alpha: float) -> int | None:
    """The interval narrows with √n; 80 % power needs it narrower by the ratio of quantiles."""
    from scipy.special import ndtri

    end = found.lower if budget.threshold == "at_least" else found.upper
    if end is None:
        return None
    half = abs(end - number(found))
    longer = 1 + float(ndtri(0.8)) / float(ndtri(1 - alpha / 2))
    return math.ceil(found.n * (half * longer / abs(budget.limit - number(found))) ** 2)


def _until_few_are_rare(budget: Budget, found: Comparison, alpha: float) -> int | None:
    """Examples at which as rare a change, all for the worst, would be within the limit."""
    if found.changed is None or found.units is None or found.upper is None:
        return None
    rest = {"ratio": 1.0}.get(found.quantity, 0.0)
    spare, end = budget.limit - rest, found.upper - rest
    if budget.threshold == "at_least":
        assert found.lower is not None
        spare, end = 1 - budget.limit, 1 - found.lower
    _, high = clopper_pearson.interval(found.changed, found.units, 1 - 2 * alpha)
    bound = spare * high / end
    rate = found.changed / found.units
    if not rate < bound < 1:
        return None
    units = power.examples_for_rate(rate, bound, alpha=alpha)
    return math.ceil(units * found.n / found.units)


@lru_cache(maxsize=4096)
def can_fail(n: int, limit: float, alpha: float) -> bool:
    """Whether a drop beyond `limit` could be proven by any outcome of n examples."""
    return prospects.Drop(flips=1.0, truth=0.0, limit=limit).can_fail(n, alpha)


def provable(budget: Budget, found: Comparison, alpha: float) -> float | None:
    """The strictest limit of the budget's kind that these examples prove; None where none is.

    For exact tests it is searched, for all others it is the interval's end, which inverts them.
    """
    if budget.threshold == "at_least":
        return found.lower
    if not found.method.startswith(exact.METHOD) or found.counts is None:
        return found.upper
    if found.method != exact.METHOD:  # early looks have had their share of the error
        alpha *= 1.0 - sequential.SHARE
    table = found.counts
    return _provable_drop(table.lost, table.gained, table.n, found.upper or 1.0, alpha)


@lru_cache(maxsize=4096)
def _provable_drop(lost: int, gained: int, n: int, upper: float, alpha: float) -> float | None:
    """None where all that is below 100 % is out of reach.

    Searched upwards, in steps of 2 %, from Tango's limit, which the exact test exceeds by little.
    """

    def proven(delta: float) -> bool:
        p_pass, _ = exact.p_values(lost, gained, n, delta, alpha_pass=alpha, alpha_fail=alpha)
        return p_pass <= alpha

    delta = _rounded_up(upper)
    while delta < 1 and not proven(delta):
        delta = min(1.0, _rounded_up(delta * _STEP))
    return None if delta >= 1 else delta


def _rounded_up(value: float) -> float:
    """To three digits, so that what is promised holds."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - _DIGITS)
    return min(1.0, round(math.ceil(value / step - 1e-9) * step, 12))
