"""Tango's score statistic and interval for a paired difference of proportions.

Of `n` pairs, `b` are right in the reference only and `c` in the new model only; the drop is
`(b − c) / n`, positive where the new model is worse. For a hypothetical drop δ ::

    A = 2n,  B = −b − c + (2n − b + c) δ,  C = −c δ (1 − δ)
    q = (√(B² − 4AC) − B) / 2A                    the constrained estimate of c / n
    Z(δ) = (b − c − nδ) / √(n (2q + δ (1 − δ)))

Z falls as δ grows, and the interval is where it lies between ±z. Everything is computed at
δ ≥ 0; a negative δ swaps the models, so that swapping them negates every result exactly.

T. Tango (1998), "Equivalence test and confidence interval for the difference in proportions for
the paired-sample design", Statistics in Medicine 17.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHOD = "Tango interval"
Floats = NDArray[np.float64]
_FAR = 1e3


def z_statistic(b: ArrayLike, c: ArrayLike, n: ArrayLike, delta: ArrayLike) -> Floats:
    """Z(δ), elementwise over arguments that broadcast; shape () for numbers.

    It is 0 where numerator and variance both vanish, ±inf where only the variance does.

    Args:
        b: pairs lost, whole numbers ≥ 0.
        c: pairs gained, with b + c ≤ n.
        n: pairs, ≥ 1.
        delta: hypothetical drop as a fraction, −1..1.

    Raises:
        ValueError: an argument is out of its range or NaN.
    """
    lost, gained, pairs, drop = _checked(b, c, n, delta)
    swapped = drop < 0
    z = z_unchecked(
        np.where(swapped, gained, lost), np.where(swapped, lost, gained), pairs, np.abs(drop)
    )
    return np.asarray(np.where(swapped, -z, z))


@lru_cache(maxsize=4096)  # budgets on one slice ask for the same one
def interval(b: int, c: int, n: int, level: float) -> tuple[float, float]:
    """The two-sided interval of the drop at confidence `level`, as fractions.

    Raises:
        ValueError: counts are impossible, or `level` is not between 0 and 1.
    """
    from scipy.special import ndtri

    _checked(b, c, n, 0.0)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    z = float(ndtri((1 + level) / 2))
    return 0.0 - _upper(c, b, n, z), _upper(b, c, n, z)


def _upper(b: int, c: int, n: int, z: float) -> float:
    """The δ at which Z(δ) = −z; 1 where every pair is lost."""
    from scipy.optimize import brentq

    def gap(delta: float) -> float:
        return max(float(z_statistic(b, c, n, delta)), -_FAR) + z

    if gap(1.0) >= 0:
        return 1.0
    return float(brentq(gap, (b - c) / n, 1.0, xtol=1e-15))


def z_unchecked(b: Any, c: Any, n: Any, delta: Any) -> Floats:
    """`z_statistic` for 0 ≤ δ ≤ 1 and counts that are known to be in range.

    The root is taken in the form that does not cancel.
    """
    B = (2 * n - b + c) * delta - b - c
    C = -c * delta * (1 - delta)
    root = np.sqrt(np.maximum(B * B - 8 * n * C, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(B > 0, -2 * C / (root + B), (root - B) / (4 * n))
        numerator = b - c - n * delta
        z = numerator / np.sqrt(n * (2 * q + delta * (1 - delta)))
    return np.where(numerator == 0, 0.0, z)


def _checked(b: ArrayLike, c: ArrayLike, n: ArrayLike, delta: ArrayLike) -> tuple[Any, ...]:
    lost, gained, pairs, drop = (np.asarray(value, dtype=np.float64) for value in (b, c, n, delta))
    whole = all(bool(np.all(np.floor(count) == count)) for count in (lost, gained, pairs))
    if not (whole and np.all(lost >= 0) and np.all(gained >= 0) and np.all(pairs >= 1)):
        raise ValueError("b, c and n must be whole numbers, b and c at least 0 and n at least 1")
    if not np.all(lost + gained <= pairs):
        raise ValueError("b + c must not exceed n")
    if not np.all(np.abs(drop) <= 1):
        raise ValueError("delta must lie between -1 and 1")
    return lost, gained, pairs, drop
