"""Clopper and Pearson's exact interval of a rate, and its one-sided tests against a bound.

Of `n` examples `x` count. The limits invert the binomial tails ::

    lower = BetaInv(a/2; x, n − x + 1),  upper = BetaInv(1 − a/2; x + 1, n − x),  a = 1 − level

and the p-values are those tails at the bound.

C. J. Clopper, E. S. Pearson (1934), "The use of confidence or fiducial limits illustrated in the
case of the binomial", Biometrika 26.
"""

import math

METHOD = "Clopper-Pearson"


def interval(x: int, n: int, level: float) -> tuple[float, float]:
    """Two-sided limits of the rate at confidence `level`, as fractions.

    Raises:
        ValueError: counts are impossible, or `level` is not between 0 and 1.
    """
    from scipy.special import betaincinv

    _check_counts(x, n)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    tail = (1 - level) / 2
    lower = float(betaincinv(x, n - x + 1, tail)) if x else 0.0
    upper = float(betaincinv(x + 1, n - x, 1 - tail)) if x < n else 1.0
    return lower, upper


def p_at_most(x: int, n: int, bound: float) -> tuple[float, float]:
    """(p_pass, p_fail) of "the rate is at most `bound`".

    p_pass is P(X ≤ x) and p_fail is P(X ≥ x), both at the bound, a fraction of 0..1.

    Raises:
        ValueError: counts are impossible, or `bound` is not a fraction.
    """
    from scipy.special import betainc, betaincc

    _check_counts(x, n)
    if not 0 <= bound <= 1:
        raise ValueError(f"bound must be a fraction, not {bound}")
    p_pass = float(betaincc(x + 1, n - x, bound)) if x < n else 1.0
    p_fail = float(betainc(x, n - x + 1, bound)) if x else 1.0
    return p_pass, p_fail


def p_at_least(x: int, n: int, bound: float) -> tuple[float, float]:
    """(p_pass, p_fail) of "the rate is at least `bound`"; as `p_at_most` of what does not count."""
    _check_counts(x, n)
    return p_at_most(n - x, n, 1 - bound)


def _check_counts(x: int, n: int) -> None:
    if not (0 <= x <= n < math.inf and n >= 1 and x % 1 == n % 1 == 0):
        raise ValueError(f"x must be a whole number of 0..n, n at least 1; got x = {x}, n = {n}")
