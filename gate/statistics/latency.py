"""A latency ratio from randomised ABBA rounds, with the exact sign test on its median.

A round times four blocks of 25 inferences in the order reference, INT8, INT8, reference or its
mirror image, drawn by lot. Its value is the log ratio of one quantile of its 50 times each ::

    v = ln (quantile of the INT8 times / quantile of the reference times)

**The estimand is the median per-round ratio**, exp of the median of v: not the ratio of the means,
and not that of the quantiles of all times taken together. Of R rounds, with X binomial (R, ½) ::

    p_pass = P(X ≥ number of v < bound),  p_fail = P(X ≥ number of v > bound)
    interval = (v_(k), v_(R−k+1)),  k the largest with P(X < k) ≤ (1 − level) / 2

Drift that is linear within a round cancels. What does not cancel is drawn by lot: where the models
are equally fast, mirroring a round negates v, so that the test is exact against the bound 0 under
any noise, heavy-tailed, drifting or periodic. A fixed order is not: noise in step with it is taken
for a difference.

J. Arbuthnot (1710), Phil. Trans. 27; W. J. Conover (1999), "Practical Nonparametric Statistics",
3rd ed., 3.2 and 3.4 (sign test, interval of a quantile); R. A. Fisher (1935), "The Design of
Experiments" (randomisation).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHOD = "randomised ABBA rounds, exact sign test"
BLOCK = 25
"""Inferences in a block; a round has two blocks of each model."""

Floats = NDArray[np.float64]
Round = tuple[int, int, int, int]
_ABBA: Round = (0, 1, 1, 0)
_BAAB: Round = (1, 0, 0, 1)


def schedule(rounds: int, seed: int) -> tuple[Round, ...]:
    """The order of the blocks of each round, drawn by lot; 0 is the reference, 1 INT8.

    Raises:
        ValueError: `rounds` is not at least 1, or `seed` is negative.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    mirrored = np.random.default_rng(seed).integers(2, size=rounds)
    return tuple(_BAAB if turned else _ABBA for turned in mirrored)


def log_ratios(reference: ArrayLike, int8: ArrayLike, quantile: float) -> Floats:
    """Per-round ln of the ratio of the two models' quantiles: (R,); positive where INT8 is slower.

    Args:
        reference: seconds of each inference of the reference, (R, 2 · BLOCK), all above 0.
        int8: the same of INT8, in the same rounds.
        quantile: .5 for the median, .95 for the tail.

    Raises:
        ValueError: shapes differ or are not rounds by inferences, a time is not a positive number,
            or `quantile` is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, not {quantile}")
    ours, theirs = _seconds(int8), _seconds(reference)
    if ours.shape != theirs.shape:
        raise ValueError(f"both models must have the same rounds: {theirs.shape}, {ours.shape}")
    ratios = np.quantile(ours, quantile, axis=1) / np.quantile(theirs, quantile, axis=1)
    return np.asarray(np.log(ratios))


def interval(values: ArrayLike, level: float) -> tuple[float, float]:
    """Two-sided interval of the median at confidence at least `level`, in the units of `values`.

    Both ends are values that were seen, or infinite where there are too few rounds for the level.

    Args:
        values: one a round, (R,): log ratios, or what rises with them.
        level: .9 goes with tests at .05 a side.

    Raises:
        ValueError: `values` is empty or not finite, or `level` is not between 0 and 1.
    """
    from scipy.special import bdtr

    ordered = np.sort(_finite(values))
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    rounds = len(ordered)
    k = int(np.sum(bdtr(np.arange(rounds), rounds, 0.5) <= (1 - level) / 2))
    if k == 0:
        return -math.inf, math.inf
    return float(ordered[k - 1]), float(ordered[rounds - k])


def p_values(values: ArrayLike, bound: float) -> tuple[float, float]:
    """(p_pass, p_fail) of "the median is at most `bound`", by the exact sign test.

    A value that equals the bound is evidence for neither side. Fewer rounds than can decide, five
    at α = .05, have both p-values above α.

    Raises:
        ValueError: `values` is empty or not finite, or `bound` is not finite.
    """
    found = _finite(values)
    if not math.isfinite(bound):
        raise ValueError(f"bound must be a finite number, not {bound}")
    rounds = len(found)
    return _tail(int(np.sum(found < bound)), rounds), _tail(int(np.sum(found > bound)), rounds)


def noise(values: ArrayLike) -> float:
    """Half the interquartile range of the rounds: for showing, no part of the verdict.

    Raises:
        ValueError: `values` is empty or not finite.
    """
    low, high = np.quantile(_finite(values), [0.25, 0.75])
    return float(high - low) / 2


def _tail(at_least: int, rounds: int) -> float:
    """P(X ≥ at_least), X binomial (rounds, ½)."""
    from scipy.special import bdtr

    return float(bdtr(rounds - at_least, rounds, 0.5))  # of X ≤ rounds − at_least, by symmetry


def _seconds(times: ArrayLike) -> Floats:
    found = np.asarray(times, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2 * BLOCK or not len(found):  # noqa: PLR2004
        raise ValueError(f"times must be rounds by {2 * BLOCK} inferences, not {found.shape}")
    if not np.all((found > 0) & np.isfinite(found)):
        raise ValueError("times must be seconds above 0")
    return found


def _finite(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.all(np.isfinite(found)):
        raise ValueError("values must be finite numbers, one a round and at least one")
    return found
