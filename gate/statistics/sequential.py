"""Stopping early: an e-process that bets on a bounded contrast, pair after pair.

A contrast D of a pair holds a budget against its mean: "violated" says E[D] ≥ 0, "within budget"
says E[D] ≤ 0 ::

    drop       D = F − Q − δ,      with D of  b, c, the rest:    1 − δ, −1 − δ, −δ
    relative   D = (1 − r)F − Q,   with D of  n11, b, c, n00:    −r, 1 − r, −1, 0
    rate       D = X − bound,      with D of  x, the rest:       1 − bound, −bound

F and Q are 1 where the reference and the new model are right. Wealth starts at 1 and is staked
against a hypothesis, one constant share γ of what can be lost for each of 12 bettors ::

    E_pass = mean over j of Π (1 − λ_j D),   λ_j = γ_j / max D      against "violated"
    E_fail = mean over j of Π (1 + μ_j D),   μ_j = γ_j / −min D     against "within budget"

As γ < 1 no factor is below 1 − γ > 0, and as λ, μ ≥ 0 no factor is worth more than 1 on average
under any distribution of its hypothesis. So E is a nonnegative supermartingale from 1, and the
chance that it ever reaches 1 / a is at most a (Ville). It depends on counts only: the order of
what was seen does not matter, but pairs must come as a random sample, so a set is shuffled first.

Where D cannot be positive (a rate's bound of 1, a drop of 1), "violated" says that D is always 0:
one pair with D < 0 disproves it and E_pass is inf, the limit of the formula; so too for E_fail.
δ and the bound enter E_pass rising and E_fail falling, so one root is an end of an interval.

I. Waudby-Smith, A. Ramdas (2024), "Estimating means of bounded random variables by betting",
JRSS B 86. J. Ville (1939), "Étude critique de la notion de collectif".
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

METHOD = "betting e-process"
SHARE = 0.2
"""Part of α that stopping early spends; the test at the last pair gets the rest."""

Floats = NDArray[np.float64]
Count = TypeVar("Count", float, NDArray[Any])
_BETTORS = 12
_MOST_GAINED = -99.0
"""A relative drop of −99 is a hundredfold gain."""
_BELOW_ONE = math.nextafter(1.0, 0.0)


def bets(n_total: int) -> Floats:
    """γ (12,): geometric from min(.5, √(60 / N)) to .9, fixed before the first pair is seen.

    Raises:
        ValueError: `n_total` is not a whole number of at least 1.
    """
    if not (1 <= n_total < math.inf and n_total % 1 == 0):
        raise ValueError(f"n_total must be a whole number of at least 1, not {n_total}")
    return np.geomspace(min(0.5, math.sqrt(60 / n_total)), 0.9, _BETTORS)


def log_e_drop(b: Count, c: Count, n: Count, delta: float, n_total: int) -> tuple[Count, Count]:
    """(ln E_pass, ln E_fail) of "the drop is at most δ"; floats for numbers, else arrays.

    Args:
        b: pairs lost (reference right, new model wrong) among those seen; counts broadcast.
        c: pairs gained.
        n: pairs seen, 0..n_total.
        delta: the budget as a fraction, −1..1.
        n_total: pairs there are to see; sets the bets.

    Raises:
        ValueError: counts are impossible, or a number is out of its range or NaN.
    """
    if not -1 <= delta <= 1:
        raise ValueError(f"delta must lie between -1 and 1, not {delta}")
    rest = np.asarray(n) - b - c
    return _both((b, c, rest), (1 - delta, -1 - delta, -delta), n_total)


def log_e_relative(  # noqa: PLR0917  four cells of one table, then what they are held against
    n11: Count, b: Count, c: Count, n: Count, r: float, n_total: int
) -> tuple[Count, Count]:
    """(ln E_pass, ln E_fail) of "the relative drop is at most `r`"; as `log_e_drop`.

    Args:
        n11: pairs right in both among those seen.
        b: pairs lost.
        c: pairs gained.
        n: pairs seen.
        r: the relative budget, less than 1; negative asks for a gain.
        n_total: pairs there are to see.

    Raises:
        ValueError: as `log_e_drop`.
    """
    if not -math.inf < r < 1:
        raise ValueError(f"a relative drop must be less than 1, not {r}")
    n00 = np.asarray(n) - n11 - b - c
    return _both((n11, b, c, n00), (-r, 1 - r, -1.0, 0.0), n_total)


def log_e_rate(x: Count, n: Count, bound: float, n_total: int) -> tuple[Count, Count]:
    """(ln E_pass, ln E_fail) of "the rate is at most `bound`"; as `log_e_drop`.

    A floor on a rate is a bound of 1 − floor on what does not count.

    Args:
        x: examples that count among those seen.
        n: examples seen.
        bound: the budget, a fraction of 0..1.
        n_total: examples there are to see.

    Raises:
        ValueError: as `log_e_drop`.
    """
    if not 0 <= bound <= 1:
        raise ValueError(f"bound must be a fraction, not {bound}")
    return _both((x, np.asarray(n) - x), (1 - bound, -bound), n_total)


def p_value(log_e: float, share: float = SHARE) -> float:
    """min(1, 1 / (share · E)): at most α exactly when E ≥ 1 / (share · α).

    Looked at after any number of pairs, or after all of them, it is at most a with probability
    at most share · a.

    Raises:
        ValueError: `log_e` is NaN, or `share` is not of 0..1 without 0.
    """
    if math.isnan(log_e):
        raise ValueError("log_e must be a number, not NaN")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    return math.exp(min(0.0, -log_e - math.log(share)))


def interval_drop(b: int, c: int, n: int, n_total: int, alpha_end: float) -> tuple[float, float]:
    """The drops that neither end has disproven: (lower, upper), clipped to −1..1.

    Each end is wrong, at any number of pairs, with probability at most `alpha_end`. The upper end
    is the δ at which E_pass reaches 1 / alpha_end. The lower end is the upper end of the swapped
    models, negated, since E_fail(b, c, δ) = E_pass(c, b, −δ): swapping them negates the interval
    exactly.

    Raises:
        ValueError: counts are impossible, or `alpha_end` is not between 0 and 1.
    """

    def upper(lost: int, gained: int) -> float:
        return _end(lambda delta: log_e_drop(lost, gained, n, delta, n_total)[0], -1, alpha_end)

    return 0.0 - upper(c, b), upper(b, c)


def interval_rate(x: int, n: int, n_total: int, alpha_end: float) -> tuple[float, float]:
    """The rates that neither end has disproven: (lower, upper), within 0..1.

    As `interval_drop`; the lower end is that of what does not count, from 1.

    Raises:
        ValueError: counts are impossible, or `alpha_end` is not between 0 and 1.
    """

    def upper(count: int) -> float:
        return _end(lambda bound: log_e_rate(count, n, bound, n_total)[0], 0, alpha_end)

    return 1.0 - upper(n - x), upper(x)


def interval_relative(  # noqa: PLR0917  as log_e_relative
    n11: int, b: int, c: int, n: int, n_total: int, alpha_end: float
) -> tuple[float, float]:
    """The relative drops that neither end has disproven: (lower, upper), up to 1.

    As `interval_drop`; each end is found for its own hypothesis, E_pass for the upper one and
    E_fail for the lower. −inf where no gain is too large to be believed.

    Raises:
        ValueError: counts are impossible, or `alpha_end` is not between 0 and 1.
    """

    def log_e(side: int) -> Callable[[float], float]:
        return lambda r: log_e_relative(n11, b, c, n, r, n_total)[side]

    upper = _end(log_e(0), _MOST_GAINED, alpha_end)
    target = -math.log(alpha_end)
    if log_e(1)(_MOST_GAINED) <= target:
        return -math.inf, upper
    return _fallen(log_e(1), target), upper


def _fallen(log_e: Callable[[float], float], target: float) -> float:
    """Where ln E_fail, which falls, reaches `target` from above."""
    from scipy.optimize import brentq

    return float(brentq(lambda r: log_e(r) - target, _MOST_GAINED, _BELOW_ONE, xtol=1e-12))


def _end(log_e: Callable[[float], float], lowest: float, alpha_end: float) -> float:
    """Where ln E_pass, which rises, reaches ln(1 / alpha_end); 1 where it does so nowhere below."""
    from scipy.optimize import brentq

    if not 0 < alpha_end < 1:
        raise ValueError(f"alpha_end must lie between 0 and 1, not {alpha_end}")
    target = -math.log(alpha_end)
    if log_e(_BELOW_ONE) <= target:
        return 1.0
    return float(brentq(lambda bound: log_e(bound) - target, lowest, _BELOW_ONE, xtol=1e-15))


def _both(counts: Sequence[Any], contrast: Sequence[float], n_total: int) -> tuple[Any, Any]:
    """ln of E_pass and E_fail, from how often each value of the contrast was seen."""
    gamma = bets(n_total)
    seen = _stacked(counts, n_total)
    D = np.array(contrast)
    return _log_e(seen, _gains(-D), gamma), _log_e(seen, _gains(D), gamma)


def _gains(win: Floats) -> Floats:
    """What each value of the contrast wins, as a multiple of the stake; −1 loses it whole.

    Without a value that loses, what wins anything cannot happen under the hypothesis: inf.
    """
    loss = -float(win.min())
    if loss > 0:
        with np.errstate(over="ignore"):  # a bound below 1e-308 is as good as one of 0
            return np.asarray(win / loss)
    return np.where(win > 0, np.inf, -1.0)


def _log_e(seen: Floats, gains: Floats, gamma: Floats) -> Any:
    """ln of the mean wealth of the bettors: (...), or a float for one set of counts.

    Args:
        seen: how often each value of the contrast was seen, (..., values).
        gains: what each wins, (values,).
        gamma: the bets, (bettors,).
    """
    impossible = np.isinf(gains)
    growth = np.log1p(np.outer(np.where(impossible, 0.0, gains), gamma))
    wealth = seen @ growth
    most = wealth.max(axis=-1, keepdims=True)
    mean = most[..., 0] + np.log(np.exp(wealth - most).mean(axis=-1))
    log_e = np.where(seen @ impossible > 0, np.inf, mean)
    return log_e if log_e.ndim else float(log_e)


def _stacked(counts: Sequence[Any], n_total: int) -> Floats:
    """Counts that broadcast -> (..., len(counts))."""
    seen = np.stack(np.broadcast_arrays(*counts), axis=-1).astype(np.float64)
    if not (np.all(seen >= 0) and np.all(np.floor(seen) == seen)):
        raise ValueError("counts must be whole numbers of at least 0 that do not exceed n")
    if not np.all(seen.sum(axis=-1) <= n_total):
        raise ValueError(f"n must not exceed n_total, {n_total}")
    return seen
