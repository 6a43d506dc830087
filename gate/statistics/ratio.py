"""Nam and Blackwelder's score test of a relative drop of a proportion.

Of `n` pairs, `n11` are right in both models, `b` in the reference only, `c` in the new model only;
xF = n11 + b and xQ = n11 + c. The relative drop is 1 − xQ / xF. For a hypothetical relative drop
r, with t = 1 / (1 − r) and S = √((xF − t² xQ)² + 4 t² b c), the constrained estimates are ::

    p10 = (t² xQ − xF + S + 2 t² b) / (2 t (t + 1) n)
    p01 = (xF − t² xQ + S + 2 c) / (2 (t + 1) n)
    Z(r) = (t xQ − xF) / √(n t (p10 + p01))

Z grows with r, and the interval is where it lies between ±z. It is asymptotic: a false FAIL has
been seen in up to .069 instead of .05 at n = 150–300.

J. Nam, W. C. Blackwelder (2002), "Analysis of the ratio of marginal probabilities in a
matched-pair setting", Statistics in Medicine 21.
"""

import math

METHOD = "Nam-Blackwelder score"
_LOG_RANGE = 60.0


def z_statistic(n11: int, b: int, c: int, n: int, r: float) -> float:
    """Z(r): large where the relative drop is less than `r`.

    NaN where the reference is never right; 0 where numerator and variance both vanish.

    Args:
        n11: pairs right in both.
        b: pairs lost (reference right, new model wrong).
        c: pairs gained.
        n: pairs, ≥ 1.
        r: hypothetical relative drop, less than 1; negative is a gain.

    Raises:
        ValueError: counts are impossible, or `r` is 1 or more, or NaN.
    """
    _check_counts(n11, b, c, n)
    if not -math.inf < r < 1:
        raise ValueError(f"a relative drop must be less than 1, not {r}")
    return _z(n11, b, c, 1 / (1 - r))


def p_values(n11: int, b: int, c: int, n: int, r: float) -> tuple[float, float]:
    """(p_pass, p_fail) of "the relative drop is at most `r`"; NaN where it is undefined.

    Raises:
        ValueError: as `z_statistic`.
    """
    from scipy.special import ndtr

    z = z_statistic(n11, b, c, n, r)
    return float(ndtr(-z)), float(ndtr(z))


def interval(n11: int, b: int, c: int, n: int, level: float) -> tuple[float, float]:
    """Two-sided interval of the relative drop at confidence `level`; NaN where undefined.

    Raises:
        ValueError: counts are impossible, or `level` is not between 0 and 1.
    """
    from scipy.special import ndtri

    _check_counts(n11, b, c, n)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if n11 + b == 0:
        return math.nan, math.nan
    z = float(ndtri((1 + level) / 2))
    return _solve(n11, b, c, -z), _solve(n11, b, c, z)


def _solve(n11: int, b: int, c: int, z: float) -> float:
    """The r at which Z(r) = z; 1 where even r = 1 stays below, as when the new model has none."""
    from scipy.optimize import brentq

    def gap(log_t: float) -> float:
        return _z(n11, b, c, math.exp(log_t)) - z

    if gap(_LOG_RANGE) <= 0:
        return 1.0
    return -math.expm1(-brentq(gap, -_LOG_RANGE, _LOG_RANGE, xtol=1e-14))


def _z(n11: int, b: int, c: int, t: float) -> float:
    if n11 + b == 0:
        return math.nan
    numerator = t * (n11 + c) - (n11 + b)
    if numerator == 0:
        return 0.0
    p10, p01 = estimates(n11, b, c, t)
    return numerator / math.sqrt(t * (p10 + p01))


def estimates(n11: float, b: float, c: float, t: float) -> tuple[float, float]:
    """Constrained maximum-likelihood estimates of the lost and the gained, in units of the counts.

    The difference S ∓ (xF − t² xQ) is taken in the form that does not cancel.
    """
    u = (n11 + b) - t * t * (n11 + c)
    product = 4 * t * t * b * c
    root = math.sqrt(u * u + product)
    more = root + abs(u)
    less = product / more if more else 0.0
    plus, minus = (more, less) if u >= 0 else (less, more)
    lost = (minus + 2 * t * t * b) / (2 * t * (t + 1))
    gained = (plus + 2 * c) / (2 * (t + 1))
    return lost, gained


def _check_counts(n11: int, b: int, c: int, n: int) -> None:
    counts = (n11, b, c, n)
    if any(not count >= 0 or count != math.floor(count) for count in counts) or n < 1:
        raise ValueError(f"n11, b, c and n must be whole numbers, n at least 1; got {counts}")
    if n11 + b + c > n:
        raise ValueError(f"n11 + b + c must not exceed n; got {counts}")
