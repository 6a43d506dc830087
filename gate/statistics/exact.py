"""The exact unconditional test of a paired difference of proportions.

Outcomes are ordered by Tango's Z. Under a true drop δ only the flip rate f is unknown, and a
p-value is the largest probability, over every plausible f, of an outcome at least as extreme ::

    p = min(1, γ + max over f in [max(f_lo, δ), max(f_hi, δ)] of P_f(Z at least as extreme))
    p10 = (f + δ) / 2,  p01 = (f − δ) / 2

with f_lo, f_hi the two-sided Clopper–Pearson limits of f at confidence 1 − γ and
γ = min(.001, α / 50). The maximum is taken over 33 geometric points of f, which is within 6e-4 of
the supremum where p is near .05. Of m flips the lost ones are binomial (m, p10 / f), and Z grows
with them, so P_f needs one threshold for each m.

R. L. Berger, D. D. Boos (1994), "P values maximized over a confidence set for the nuisance
parameter", JASA 89. T. Tango (1998), see `tango`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from gate.statistics import tango

METHOD = f"{tango.METHOD}, exact unconditional test"
Floats = NDArray[np.float64]
_GRID = 33
_TIE = 1e-9
_NEGLIGIBLE = 1e-12


def p_values(
    b: int, c: int, n: int, delta: float, *, alpha_pass: float, alpha_fail: float
) -> tuple[float, float]:
    """One-sided p-values (p_pass, p_fail) of a drop held against a budget.

    p_pass is evidence against "the drop is at least δ", p_fail against "it is at most δ". The
    side that the observed drop contradicts is 1 by definition.

    Args:
        b: pairs lost (reference right, new model wrong).
        c: pairs gained.
        n: pairs, ≥ 1.
        delta: the budget as a fraction, ≥ 0.
        alpha_pass: level p_pass will be held against; sets its γ.
        alpha_fail: level p_fail will be held against, α / K in a family of K.

    Raises:
        ValueError: counts are impossible, or a number is out of its range or NaN.
    """
    z = _checked(b, c, n, delta, alpha_pass, alpha_fail)
    excess = b - c - n * delta
    if abs(excess) <= _TIE:
        return 1.0, 1.0
    if delta >= 1:
        return 0.0, 1.0
    if excess < 0:
        return _p(b + c, n, delta, z, gamma=_gamma(alpha_pass), losing=False), 1.0
    return 1.0, _p(b + c, n, delta, z, gamma=_gamma(alpha_fail), losing=True)


def _gamma(alpha: float) -> float:
    return min(0.001, alpha / 50)


def _checked(b: int, c: int, n: int, delta: float, *alphas: float) -> float:
    """Z of the outcome, once everything is in range."""
    if not delta >= 0 or not math.isfinite(delta):
        raise ValueError(f"delta must be a fraction of at least 0, not {delta}")
    if not all(0 < alpha < 1 for alpha in alphas):
        raise ValueError("alpha_pass and alpha_fail must lie between 0 and 1")
    return float(tango.z_statistic(b, c, n, min(delta, 1.0)))


def _p(flips: int, n: int, delta: float, z: float, *, gamma: float, losing: bool) -> float:
    """γ plus the largest tail over the plausible flip rates."""
    rates = np.geomspace(*_plausible(flips, n, delta, gamma), _GRID)
    totals = _likely(n, rates)
    thresholds = _thresholds(totals, n, delta, z, losing=losing)
    tails = _tails(rates, totals, thresholds, n, delta, losing=losing)
    return min(1.0, gamma + float(tails.max()) + _NEGLIGIBLE)


def _plausible(flips: int, n: int, delta: float, gamma: float) -> tuple[float, float]:
    """Clopper–Pearson limits of the flip rate; never empty, it shrinks to f = δ."""
    from scipy.special import betaincinv

    low = betaincinv(flips, n - flips + 1, gamma / 2) if flips else 0.0
    high = betaincinv(flips + 1, n - flips, 1 - gamma / 2) if flips < n else 1.0
    return max(float(low), delta), max(float(high), delta)


def _likely(n: int, rates: Floats) -> NDArray[np.int64]:
    """Numbers of flips outside which Bernstein's inequality leaves less than `_NEGLIGIBLE`."""
    log = math.log(2 / _NEGLIGIBLE)
    reach = np.sqrt(2 * n * rates * (1 - rates) * log) + 2 * log / 3
    low = math.floor(max(0.0, float(np.min(n * rates - reach))))
    high = math.ceil(min(float(n), float(np.max(n * rates + reach))))
    return np.arange(low, high + 1)


def _thresholds(
    totals: NDArray[np.int64], n: int, delta: float, z: float, *, losing: bool
) -> NDArray[np.int64]:
    """For each number of flips m, how many lost ones, of 0..m + 1, have a Z below the tail.

    Bisection: Z grows with the lost ones. Ties belong to the tail, on either side.
    """
    slack = _TIE * (1 + abs(z))
    low, high = np.zeros_like(totals), totals + 1
    while np.any(searching := low < high):
        middle = np.minimum((low + high) // 2, totals)
        at = tango.z_unchecked(middle, totals - middle, n, delta)
        below = at < z - slack if losing else at <= z + slack
        low = np.where(searching & below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)
    return low


def _tails(
    rates: Floats,
    totals: NDArray[np.int64],
    thresholds: NDArray[np.int64],
    n: int,
    delta: float,
    *,
    losing: bool,
) -> Floats:
    """P_f of the tail for each flip rate: (F,).

    With t the threshold, the tail is "at least t lost" when losing, else "fewer than t".
    """
    weights = _binomial(totals, n, rates[:, np.newaxis])
    share = np.minimum((1 + delta / rates) / 2, 1.0)[:, np.newaxis]
    reached = _reached(totals, thresholds, share)
    inside = reached if losing else 1.0 - reached
    return np.asarray((weights * np.clip(inside, 0.0, 1.0)).sum(axis=1))


def _reached(totals: NDArray[np.int64], thresholds: NDArray[np.int64], share: Floats) -> Floats:
    """P(at least t of m are lost), (F, M), for consecutive m whose t grows by 0 or 1 a step.

    It does so because Z falls with one more pair gained, and grows with one more pair lost.
    One more flip adds the share of those one short of t, and a t that grows takes off those that
    just reach it: a running sum of two binomial probabilities a step, instead of a beta integral
    for each cell. It is exact to some 1e-13.
    """
    from scipy.special import betainc

    m, t = totals[0], thresholds[0]
    first = np.full(len(share), float(t < 1))
    if 1 <= t <= m:
        first = betainc(t, m - t + 1, share[:, 0])
    grown = np.diff(thresholds)
    assert np.all((grown == 0) | (grown == 1)), "Z is not monotone"
    short = share * _binomial(thresholds[:-1] - 1, totals[:-1], share)
    just = _binomial(thresholds[:-1], totals[1:], share) * grown
    steps = np.cumsum(short - just, axis=1)
    return np.hstack([first[:, np.newaxis], first[:, np.newaxis] + steps])


def _binomial(k: NDArray[np.int64], n: int | NDArray[np.int64], p: Floats) -> Floats:
    """Binomial probabilities of k of n at p, by logarithms; p may be 0 or 1, k from −1."""
    from scipy.special import gammaln, xlog1py, xlogy

    some = np.maximum(k, 0)
    ways = gammaln(n + 1.0) - gammaln(some + 1.0) - gammaln(n - some + 1.0)
    return np.asarray(np.exp(ways + xlogy(some, p) + xlog1py(n - some, -p)) * (k >= 0))
