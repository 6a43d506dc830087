"""Delete-group jackknife of any metric, and the worst case when too little changed for it.

The independent units are dealt into G groups; θ̂ is the metric on everything, θ̂_(g) without
group g, and P_g = G θ̂ − (G − 1) θ̂_(g) the pseudo-values. With γ the skewness of the P_g ::

    se = √((G − 1) / G · Σ (θ̂_(g) − mean)²),  T(θ) = (θ̂ − θ) / se
    g(T) = T + γ (T² / 3 + 1 / 6) / √G + γ² T³ / (27 G)

Both T (Student) and g(T) (Hall) are referred to Student's t with G − 1 degrees of freedom. The
Edgeworth expansion P(T ≤ x) = Φ(x) + γ (2x² + 1) φ(x) / (6 √G) + … gives the sign: what g adds
to T takes that term away. The cubic term makes g a perfect cube plus a constant, so that it
grows everywhere and has an inverse. Neither method alone holds both tails where changes are rare
and one-sided, so a p-value is twice the larger of the two, and the interval their outer envelope
at half the error each. All of it is asymptotic, down to about FEW changed units *of like effect*:
where a change in a rare class weighs far more than elsewhere (AUROC, macro averages), count the
changed units of that class. With 1 changed positive beside 49 negatives a false PASS is .42.

With fewer, `worst_case_p` and `worst_case_interval` bound the drop by what was counted: X of U
units changed, and a drop is at most their true rate times `reach`, the drop if all changed for
the worst. Clopper and Pearson bound the rate.

J. Shao, D. Tu (1995), "The Jackknife and Bootstrap", Springer. P. Hall (1992), "On the removal of
skewness by transformation", Journal of the Royal Statistical Society B 54.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gate.statistics import clopper_pearson

METHOD = "delete-group jackknife"
WORST_CASE = "worst case"
GROUPS = 100
FEW = 30  # changed units below which the jackknife is not trusted
_DIGEST, _AT_ONCE = 32, 8192
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
_FAR = 1e100  # its cube is finite


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A metric, usually a drop, and its values without each group.

    Attributes:
        value: on all examples.
        replicates: (G,) without each group.
    """

    value: float
    replicates: Floats

    @property
    def defined(self) -> bool:
        """Whether everything is finite and there are two groups at least."""
        finite = math.isfinite(self.value) and bool(np.isfinite(self.replicates).all())
        return finite and self.replicates.size >= 2  # noqa: PLR2004

    @property
    def se(self) -> float:
        """The jackknife's standard error of `value`; NaN where undefined."""
        if not self.defined:
            return math.nan
        deviations = self.replicates - self.replicates.mean()
        return math.sqrt((deviations.size - 1) * float(np.mean(deviations**2)))

    @property
    def skewness(self) -> float:
        """Sample skewness m₃ / m₂^1.5 of the pseudo-values; 0 where all are equal, NaN undefined.

        It is that of the replicates with the other sign, for P_g falls where θ̂_(g) grows.
        """
        if not self.defined:
            return math.nan
        deviations = self.replicates - self.replicates.mean()
        scale = math.sqrt(float(np.mean(deviations**2)))
        if not scale:
            return 0.0
        standard = deviations / scale
        return -float(np.mean(standard * standard * standard))  # ** 3 is not odd to the last digit


def deal(units: ArrayLike, *, groups: int = GROUPS) -> Indices:
    """(N,) the group 0..G−1 of each example, G = min(groups, distinct units).

    Distinct units are sorted by the sha256 of their text and dealt in turn, so that an example's
    group does not depend on the order of the rows, and no pattern in the names makes one in it.

    Args:
        units: (N,) the independent unit of each example, text or numbers.
        groups: the most groups, ≥ 1.

    Raises:
        ValueError: `groups` is less than 1.
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, not {groups}")
    names = np.asarray(units)
    names = names if names.dtype.kind == "U" else names.astype(str)
    if (names[1:] > names[:-1]).all():  # each its own, and in order: nothing to sort or to copy
        return _dealt(names, groups)
    distinct, unit_of = np.unique(names, return_inverse=True)
    return _dealt(distinct, groups)[unit_of]


def _dealt(names: NDArray[np.str_], groups: int) -> Indices:
    """(U,) the group of each of U different names."""
    digests = np.empty((len(names), _DIGEST), dtype=np.uint8)
    for start in range(0, len(names), _AT_ONCE):  # as Python's own texts they take much more room
        for place, text in enumerate(names[start : start + _AT_ONCE].tolist(), start):
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            digests[place] = np.frombuffer(digest, dtype=np.uint8)
    order = np.argsort(digests.view(f"S{_DIGEST}").ravel(), kind="stable")
    group_of = np.empty(len(order), dtype=np.intp)
    group_of[order] = np.arange(len(order)) % max(1, min(groups, len(order)))
    return group_of


def replicates(statistic: Callable[[Indices], float], groups: Indices) -> Floats:
    """(G,) the statistic without each group.

    Args:
        statistic: takes the indices of the rows that are kept, ascending. A NaN stays one. A sum
            of floats depends on its order, so rows in the order of their ids make the digits
            independent of the file's order, too.
        groups: (N,) as from `deal`.
    """
    count = int(groups.max()) + 1 if groups.size else 0
    if count == 1:  # nothing would be kept, and few metrics can say what they are on nothing
        return np.array([math.nan])
    kept = (np.flatnonzero(groups != group) for group in range(count))
    return np.array([statistic(rows) for rows in kept], dtype=np.float64)


def interval(estimate: Estimate, level: float) -> tuple[float, float]:
    """Two-sided limits at confidence `level`, NaN where undefined.

    They invert `p_values`: the upper limit is at most a bound where p_pass ≤ (1 − level) / 2.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if not estimate.defined:
        return math.nan, math.nan
    root = math.sqrt(estimate.replicates.size)
    skewness, se = estimate.skewness, estimate.se
    below = _longest(skewness, root, level)
    above = _longest(-skewness, root, level)
    return estimate.value - below * se, estimate.value + above * se


def p_values(estimate: Estimate, bound: float) -> tuple[float, float]:
    """(p_pass, p_fail) of "the metric is at most `bound`", NaN where undefined.

    p_pass is evidence against "at least `bound`", p_fail against "at most `bound`". Without any
    spread (se = 0) they are 0 or 1 by the side, and both 1 at the bound itself: that is not
    evidence but a sign that too few units changed, and a caller must take the worst case there.

    Raises:
        ValueError: `bound` is NaN.
    """
    from scipy.special import stdtr

    if math.isnan(bound):
        raise ValueError("bound must be a number, not NaN")
    if not estimate.defined:
        return math.nan, math.nan
    gap, se = estimate.value - bound, estimate.se
    if se == 0:
        return float(gap >= 0), float(gap <= 0)
    t = max(-_FAR, min(gap / se, _FAR))
    hall = _transformed(t, estimate.skewness, math.sqrt(estimate.replicates.size))
    freedom = estimate.replicates.size - 1
    p_pass = 2 * float(stdtr(freedom, max(t, hall)))
    p_fail = 2 * float(stdtr(freedom, -min(t, hall)))
    return min(1.0, p_pass), min(1.0, p_fail)


def worst_case_p(changed: int, units: int, reach: float, bound: float) -> float:
    """p_pass of "the drop is at most `bound`" when only `changed` of `units` units changed.

    P(Bin(units, bound / reach) ≤ changed); 0 for a bound out of reach, 1 for one of 0 or less.

    Args:
        changed: independent units whose output changed.
        units: all of them.
        reach: ≥ 0, the drop if every unit changed for the worst; inf where nothing bounds it.
        bound: of the drop.

    Raises:
        ValueError: counts are impossible, `reach` is negative or NaN, or `bound` is NaN.
    """
    _check_reach(reach)
    if math.isnan(bound):
        raise ValueError("bound must be a number, not NaN")
    rate = 0.0 if bound <= 0 else 1.0 if bound >= reach else bound / reach
    p_pass, _ = clopper_pearson.p_at_most(changed, units, rate)
    return 0.0 if rate == 1 else p_pass


def worst_case_interval(
    changed: int, units: int, reach: float, level: float
) -> tuple[float, float]:
    """(−U, U) with U the upper limit of the changed rate, of a two-sided `level`, times `reach`.

    Raises:
        ValueError: as `worst_case_p`, or `level` is not between 0 and 1.
    """
    _check_reach(reach)
    _, upper = clopper_pearson.interval(changed, units, level)
    return 0.0 - upper * reach, upper * reach


def _longest(skewness: float, root: float, level: float) -> float:
    """How many se the lower limit lies below the estimate, by the method that goes further.

    Mirrored, with −γ, it is the upper one; hence the exact symmetry.
    """
    from scipy.special import stdtrit

    quantile = -float(stdtrit(round(root * root) - 1, (1 - level) / 4))
    # T = (3 √G / γ) (∛(1 + γ y / √G) − 1), in the form that neither cancels nor divides by γ
    y = quantile - skewness / (6 * root)
    cube_root = float(np.cbrt(1 + skewness * y / root))
    return max(quantile, 3 * y / (1 + cube_root + cube_root * cube_root))


def _transformed(t: float, skewness: float, root: float) -> float:
    """Hall's g(T), with root = √G."""
    u = skewness * t / (3 * root)
    return t * (1 + u + u * u / 3) + skewness / (6 * root)


def _check_reach(reach: float) -> None:
    if not reach >= 0:
        raise ValueError(f"reach must be 0 or more, not {reach}")
