"""How many examples a budget needs, from what has been seen so far.

For a drop, with f the rate of correctness flips, d the drop and δ the budget ::

    N = (z_α √v0 + z_β √v1)² / (δ − d)²,  v1 = f − d²,  v0 = 2q + δ (1 − δ)

q is Tango's constrained estimate at b = p10 = (f + d) / 2, c = p01 = (f − d) / 2, n = 1. The
textbook formula with v0 = v1 promises 20 points of power too many where flips are few.

T. Tango (1998), see `tango`; J. M. Lachin (1981), "Introduction to sample size determination and
power analysis for clinical trials", Controlled Clinical Trials 2.
"""

import math
from collections.abc import Callable
from functools import cache

from gate.statistics import exact, ratio

_DUST = 1e-9


def examples_needed(
    flip_rate: float, drop: float, delta: float, *, alpha: float, power: float = 0.8
) -> int:
    """Examples at which "the drop is at most δ" is proven with probability `power`.

    Args:
        flip_rate: share of examples that only one of the two models gets right, 0..1.
        drop: the drop to expect, less than `delta`, as a fraction.
        delta: the budget, 0 ≤ δ < 1.
        alpha: one-sided error.

    Raises:
        ValueError: drop ≥ delta (no number is enough), or a number is out of its range or NaN.
    """
    if not drop < delta:
        raise ValueError(f"a drop of {drop} cannot be proven to lie below {delta}")
    return _for_drop(flip_rate, drop, delta, alpha, power)


def examples_to_fail(
    flip_rate: float, drop: float, delta: float, *, alpha: float, power: float = 0.8
) -> int:
    """Examples at which "the drop is more than δ" is proven with probability `power`.

    Raises:
        ValueError: drop ≤ delta, or a number is out of its range or NaN.
    """
    if not drop > delta:
        raise ValueError(f"a drop of {drop} cannot be proven to exceed {delta}")
    return _for_drop(flip_rate, drop, delta, alpha, power)


@cache
def without_flips(delta: float, *, alpha: float) -> int:
    """The least n at which two identical models are proven to lie within `delta`.

    Searched with the exact test itself, upwards from α = (1 − δ)ⁿ, which no test can undercut.

    Raises:
        ValueError: delta is not between 0 and 1 (nothing proves a budget of 0), or alpha.
    """
    _check_fractions(delta=delta, alpha=alpha)

    def proven(n: int) -> bool:
        return exact.p_values(0, 0, n, delta, alpha_pass=alpha, alpha_fail=alpha)[0] <= alpha

    low = high = math.ceil(math.log(alpha) / math.log1p(-delta))
    while not proven(high):
        low, high = high, 2 * high
    return _first(proven, low, high)


def examples_for_rate(rate: float, bound: float, *, alpha: float, power: float = 0.8) -> int:
    """Examples at which a rate of `rate` is proven to lie on its side of `bound`.

    N = (z_α √(π0 (1 − π0)) + z_β √(π1 (1 − π1)))² / (π0 − π1)², then upwards in steps of 1 %
    until the exact power of `clopper_pearson`'s test suffices: for rare events N is too small.

    Raises:
        ValueError: rate = bound, bound not between 0 and 1, or a number out of its range.
    """
    _check_fractions(bound=bound, alpha=alpha, power=power)
    if not 0 <= rate <= 1 or rate == bound:
        raise ValueError(f"rate must be a fraction other than the bound, not {rate}")
    if rate > bound:
        rate, bound = 1 - rate, 1 - bound
    n = _solve(bound * (1 - bound), rate * (1 - rate), bound - rate, alpha, power)
    while _power_of_rate(n, rate, bound, alpha) < power:
        n += 1 + n // 100
    return n


def examples_for_ratio(
    reference: float, lost: float, gained: float, r: float, *, alpha: float, power: float = 0.8
) -> int:
    """Examples at which the relative drop is proven to be less than `r`, by `ratio`'s test.

    Args:
        reference: share of examples that the reference gets right.
        lost: share that only the reference gets right.
        gained: share that only the new model gets right.
        r: the relative budget, between 0 and 1.

    Raises:
        ValueError: the relative drop is `r` or more, or a number is out of its range or NaN.
    """
    _check_fractions(r=r, alpha=alpha, power=power)
    if not (0 <= lost <= reference <= 1 and 0 <= gained <= 1 - reference + _DUST):
        raise ValueError(f"impossible shares: {reference}, lost {lost}, gained {gained}")
    t, both = 1 / (1 - r), reference - lost
    margin = t * (both + gained) - reference
    if not margin > 0:
        raise ValueError(f"a relative drop of {r} or more cannot be proven to be less")
    v0 = t * sum(ratio.estimates(both, lost, gained, t))
    v1 = (t - 1) ** 2 * both + lost + t * t * gained - margin**2
    return _solve(v0, v1, margin, alpha, power)


def noise(half: float, n: int, *, alpha: float, methods: int = 2) -> float:
    """Standard error times √n, from half of an interval with one-sided error α at each end.

    Raises:
        ValueError: half < 0, n < 1, or a number is out of its range or NaN.
    """
    from scipy.special import ndtri

    _check_fractions(alpha=alpha)
    if not (half >= 0 and n >= 1):
        raise ValueError(f"need half >= 0 and n >= 1, not {half} and {n}")
    return half * math.sqrt(n) / float(ndtri(1 - alpha / methods))


def examples_for_mean(
    noise: float, margin: float, *, alpha: float, power: float = 0.8, methods: int = 2
) -> int:
    """Examples at which an estimate whose error shrinks with √n is proven within its limit.

    N = ((z_{α/m} + z_β) · s / margin)², s the standard error times √n, m the methods of which
    the larger p-value counts, times m (`jackknife` takes two).

    Args:
        noise: s, in the metric's unit; 0 or more.
        margin: from the truth to the limit, in the metric's unit.

    Raises:
        ValueError: margin ≤ 0 (no number is enough), or a number is out of its range or NaN.
    """
    from scipy.special import ndtri

    _check_fractions(alpha=alpha, power=power)
    if not (noise >= 0 and margin > 0):
        raise ValueError(f"need noise >= 0 and margin > 0, not {noise} and {margin}")
    quantiles = float(ndtri(1 - alpha / methods)) + float(ndtri(power))
    return max(1, math.ceil((max(quantiles, 0.0) * noise / margin) ** 2))


def chance_for_mean(
    noise: float, margin: float, n: int, *, alpha: float, methods: int = 2
) -> float:
    """Probability that n examples prove it: Φ(margin √n / s − z_{α/m}); see `examples_for_mean`.

    Raises:
        ValueError: as `examples_for_mean`, or n < 1.
    """
    from scipy.special import ndtr, ndtri

    _check_fractions(alpha=alpha)
    if not (noise >= 0 and margin > 0 and n >= 1):
        raise ValueError(f"need noise >= 0, margin > 0 and n >= 1: {noise}, {margin}, {n}")
    if noise == 0:
        return 1.0
    return float(ndtr(margin * math.sqrt(n) / noise - float(ndtri(1 - alpha / methods))))


def _power_of_rate(n: int, rate: float, bound: float, alpha: float) -> float:
    """Probability that `clopper_pearson` proves the rate below the bound."""
    from scipy.special import bdtrik, betaincc

    if (1 - bound) ** n > alpha:
        return 0.0
    most = math.floor(bdtrik(alpha, n, bound))
    return float(betaincc(most + 1, n - most, rate))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least n of low..high at which `holds`, which stays true once it is."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _for_drop(f: float, d: float, delta: float, alpha: float, power: float) -> int:
    _check_fractions(alpha=alpha, power=power)
    if not (0 <= delta < 1 and abs(d) <= f <= 1):
        raise ValueError(f"need 0 <= delta < 1 and |drop| <= flip_rate <= 1: {delta}, {d}, {f}")
    v0 = 2 * _gained(f, d, delta) + delta * (1 - delta)
    return _solve(v0, f - d * d, delta - d, alpha, power)


def _gained(f: float, d: float, delta: float) -> float:
    """Tango's q on population shares, where A = 2."""
    B = (2 - d) * delta - f
    C = -(f - d) / 2 * delta * (1 - delta)
    return (math.sqrt(B * B - 8 * C) - B) / 4


def _solve(v0: float, v1: float, margin: float, alpha: float, power: float) -> int:
    from scipy.special import ndtri

    z_alpha, z_beta = float(ndtri(1 - alpha)), float(ndtri(power))
    spread = z_alpha * math.sqrt(v0) + z_beta * math.sqrt(max(v1, 0.0))
    return max(1, math.ceil((spread / margin) ** 2))


def _check_fractions(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {number}")
