"""What n examples can decide on a budget, if a release were truly so and so.

A prospect is a truth held against a limit: a drop with its flip rate, a relative drop, or a rate.
For each it is told how many examples PASS takes (by `power`'s formulas, and never fewer than an
identical model takes), how likely PASS is with n of them, which harm FAILs, and how much of a set
is looked at where evaluation stops early.

The chance of PASS is exact for rates; drawn with a seed for relative drops; and for drops summed
over the outcomes that pass: by the exact test where examples or flips are few, else by Tango's Z
at α − γ, which was within two points of the exact test at n = 1,000.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gate.statistics import clopper_pearson, exact, power, ratio, sequential, tango

TARGET = 0.8
"""Chance that counts as "it would be decided"."""
_BATCH = 64
_MOST_LOOKS = 400
_PATHS = 400
_DRAWS = 1000
_EXACT_UP_TO = 400
_FEW_FLIPS = 12
_BISECTIONS = 24
_LIKELY = 1e-7
_AMPLE = 5


class Prospect(Protocol):
    """A truth, held against a limit; all numbers are fractions."""

    @property
    def limit(self) -> float:
        """Largest drop, relative drop or rate that is allowed."""

    @property
    def truth(self) -> float:
        """The drop, relative drop or rate that is true; less than the limit."""

    def at(self, limit: float) -> Self:
        """The same truth, held against another limit."""

    def least(self, alpha: float) -> int:
        """Examples that PASS takes whatever is true."""

    def needed(self, alpha: float, chance: float) -> int:
        """Examples at which PASS comes with probability `chance`."""

    def is_enough(self, n: int, alpha: float) -> bool:
        """Whether n examples give PASS with `TARGET`; never where truth exceeds limit."""

    def passes(self, n: int, alpha: float, seed: int) -> float:
        """Probability of PASS with n examples, 0..1."""

    def caught(self, n: int, alpha: float) -> float | None:
        """What FAILs with `TARGET`; None where it cannot be told or nothing does."""

    def can_fail(self, n: int, alpha: float) -> bool:
        """Whether the worst outcome of n examples is a FAIL."""

    def cells(self) -> tuple[float, ...]:
        """Probabilities of what one example can show; they add up to 1."""

    def log_e(self, counts: NDArray[Any], seen: NDArray[Any], n_total: int) -> tuple[Any, Any]:
        """ln E_pass and ln E_fail of counts (…, cells) among `seen` (…) examples."""


# ── drops ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop of a proportion."""

    flips: float
    """Share of examples that only one of the models gets right."""
    truth: float
    """The drop, at most `flips`."""
    limit: float

    def at(self, limit: float) -> Self:
        """The same truth, held against another limit."""
        return replace(self, limit=limit)

    def least(self, alpha: float) -> int:
        """What an identical model takes."""
        return power.without_flips(self.limit, alpha=alpha)

    def needed(self, alpha: float, chance: float) -> int:
        """Examples for PASS with `chance`."""
        needed = power.examples_needed(
            self.flips, self.truth, self.limit, alpha=alpha, power=chance
        )
        return max(needed, self.least(alpha))

    def is_enough(self, n: int, alpha: float) -> bool:
        """Whether n examples give PASS with `TARGET`."""
        if not self.truth < self.limit:
            return False
        takes = power.examples_needed(self.flips, self.truth, self.limit, alpha=alpha)
        return takes <= n and _identical_passes(n, self.limit, alpha)

    def passes(self, n: int, alpha: float, seed: int) -> float:  # noqa: ARG002
        """Chance of PASS."""
        from scipy.stats import binom

        low, high = (int(end) for end in binom.ppf((_LIKELY, 1 - _LIKELY), n, self.flips))
        totals = np.arange(max(low, 0), high + 1)
        lost = _most_lost(totals, n, self.limit, alpha)
        share = min(1.0, (1 + self.truth / self.flips) / 2) if self.flips else 0.5
        chances = binom.pmf(totals, n, self.flips) * binom.cdf(lost, totals, share)
        return float(min(1.0, chances.sum()))

    def caught(self, n: int, alpha: float) -> float | None:
        """A drop that is larger than the flip rate brings its own flips."""

        def failed(drop: float) -> bool:
            flips = max(self.flips, drop)
            return power.examples_to_fail(flips, drop, self.limit, alpha=alpha) <= n

        if not self.can_fail(n, alpha):
            return None
        alone = _caught_alone(n, self.limit, alpha) if n <= _EXACT_UP_TO else -1.0
        return alone if alone >= self.flips else _edge(failed, loose=1.0, tight=self.limit)

    def can_fail(self, n: int, alpha: float) -> bool:
        """Whether losing everything is a FAIL."""
        if n > _EXACT_UP_TO:
            return True
        return exact.p_values(n, 0, n, self.limit, alpha_pass=alpha, alpha_fail=alpha)[1] <= alpha

    def cells(self) -> tuple[float, ...]:
        """Lost, gained, neither."""
        lost = (self.flips + self.truth) / 2
        return lost, self.flips - lost, 1 - self.flips

    def log_e(self, counts: NDArray[Any], seen: NDArray[Any], n_total: int) -> tuple[Any, Any]:
        """As `sequential` has it."""
        return sequential.log_e_drop(counts[..., 0], counts[..., 1], seen, self.limit, n_total)


@cache
def most_flips(n: int, limit: float, *, alpha: float) -> float | None:
    """The flip rate up to which n examples prove a true drop of 0; None where not even at 0."""
    return _edge(lambda flips: Drop(flips, 0.0, limit).is_enough(n, alpha), loose=0.0, tight=1.0)


@cache
def _caught_alone(n: int, limit: float, alpha: float) -> float:
    """The drop that FAILs with `TARGET` by the exact test, if nothing is gained."""
    from scipy.special import betaincinv

    def kept(lost: int) -> bool:
        return exact.p_values(lost, 0, n, limit, alpha_pass=alpha, alpha_fail=alpha)[1] > alpha

    least = _last(kept, n) + 1
    return float(betaincinv(least, n - least + 1, TARGET))


@cache
def _identical_passes(n: int, limit: float, alpha: float) -> bool:
    """Whether no flip in n examples is a PASS; certain where n · limit is far above −ln α."""
    if n * limit > -_AMPLE * math.log(alpha):
        return True
    return exact.p_values(0, 0, n, limit, alpha_pass=alpha, alpha_fail=alpha)[0] <= alpha


def _most_lost(totals: NDArray[Any], n: int, delta: float, alpha: float) -> NDArray[Any]:
    """For each number of flips, how many of them may be lost in a PASS; −1 where none may."""
    from scipy.special import ndtri

    few = totals <= (n if n <= _EXACT_UP_TO else _FEW_FLIPS)
    critical = float(ndtri(alpha - min(0.001, alpha / 50)))
    low, high = np.full_like(totals, -1), totals.copy()
    while np.any(low < high):
        middle = (low + high + 1) // 2
        lost = np.maximum(middle, 0)
        kept = tango.z_statistic(lost, totals - lost, n, delta) <= critical
        low, high = np.where(kept, middle, low), np.where(kept, high, lost - 1)
    if n * delta <= -_AMPLE * math.log(alpha):
        low[few] = [_exactly_most_lost(int(total), n, delta, alpha) for total in totals[few]]
    return low


@cache
def _exactly_most_lost(total: int, n: int, delta: float, alpha: float) -> int:
    def passed(lost: int) -> bool:
        p, _ = exact.p_values(lost, total - lost, n, delta, alpha_pass=alpha, alpha_fail=alpha)
        return p <= alpha

    return _last(passed, total)


# ── relative drops ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RelativeDrop:
    """A relative drop of a proportion."""

    flips: float
    """Share of examples that only one of the models gets right."""
    drop: float
    """The absolute drop."""
    reference: float
    """What the reference gets right."""
    limit: float

    @property
    def truth(self) -> float:
        """The relative drop."""
        return self.drop / self.reference

    @property
    def is_possible(self) -> bool:
        """Whether the reference is right, and wrong, often enough for such flips."""
        lost, gained = (self.flips + self.drop) / 2, (self.flips - self.drop) / 2
        return 0 < self.reference <= 1 and lost <= self.reference and gained <= 1 - self.reference

    def at(self, limit: float) -> Self:
        """The same truth, held against another limit."""
        return replace(self, limit=limit)

    def least(self, alpha: float) -> int:
        """What an identical model takes: its Z is √(n · reference · limit / (1 − limit))."""
        from scipy.special import ndtri

        odds = self.limit / (1 - self.limit)
        return max(1, math.ceil(float(ndtri(alpha)) ** 2 / self.reference / odds))

    def needed(self, alpha: float, chance: float) -> int:
        """Examples for PASS with `chance`."""
        _, lost, gained, _ = self.cells()
        needed = power.examples_for_ratio(
            self.reference, lost, gained, self.limit, alpha=alpha, power=chance
        )
        return max(needed, self.least(alpha))

    def is_enough(self, n: int, alpha: float) -> bool:
        """Whether n examples give PASS with `TARGET`."""
        return self.truth < self.limit and self.needed(alpha, TARGET) <= n

    def passes(self, n: int, alpha: float, seed: int) -> float:
        """Chance of PASS."""
        drawn = np.random.default_rng(seed).multinomial(n, self.cells(), size=_DRAWS)
        tables, times = np.unique(drawn[:, :3], axis=0, return_counts=True)
        passed = [
            ratio.p_values(int(both), int(lost), int(gained), n, self.limit)[0] <= alpha
            for both, lost, gained in tables
        ]
        return float(times[np.array(passed)].sum() / _DRAWS)

    def caught(self, n: int, alpha: float) -> float | None:  # noqa: ARG002
        """No formula is known for it."""
        return None

    def can_fail(self, n: int, alpha: float) -> bool:
        """Whether losing everything is a FAIL."""
        right = round(n * self.reference)
        return ratio.p_values(0, right, 0, n, self.limit)[1] <= alpha

    def cells(self) -> tuple[float, ...]:
        """Both right, lost, gained, both wrong."""
        lost, gained = (self.flips + self.drop) / 2, (self.flips - self.drop) / 2
        both = max(0.0, self.reference - lost)
        return both, lost, gained, max(0.0, 1 - both - lost - gained)

    def log_e(self, counts: NDArray[Any], seen: NDArray[Any], n_total: int) -> tuple[Any, Any]:
        """As `sequential` has it."""
        both, lost, gained = (counts[..., cell] for cell in range(3))
        return sequential.log_e_relative(both, lost, gained, seen, self.limit, n_total)


# ── rates ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that is good when low; a floor on what counts is a ceiling on what does not."""

    truth: float
    limit: float

    def at(self, limit: float) -> Self:
        """The same truth, held against another limit."""
        return replace(self, limit=limit)

    def least(self, alpha: float) -> int:
        """(1 − limit)ⁿ ≤ α."""
        return max(1, math.ceil(math.log(alpha) / math.log1p(-self.limit)))

    def needed(self, alpha: float, chance: float) -> int:
        """Examples for PASS with `chance`."""
        return power.examples_for_rate(self.truth, self.limit, alpha=alpha, power=chance)

    def is_enough(self, n: int, alpha: float) -> bool:
        """Whether n examples give PASS with `TARGET`."""
        return self.truth < self.limit and self.needed(alpha, TARGET) <= n

    def passes(self, n: int, alpha: float, seed: int) -> float:  # noqa: ARG002
        """P(X ≤ most) at the true rate, with `most` the largest count that passes."""
        most = _last(lambda x: clopper_pearson.p_at_most(x, n, self.limit)[0] <= alpha, n)
        return clopper_pearson.p_at_most(most, n, self.truth)[0] if most >= 0 else 0.0

    def caught(self, n: int, alpha: float) -> float | None:
        """The rate at which the least count that fails is reached with `TARGET`."""
        from scipy.special import betaincinv

        least = _last(lambda x: clopper_pearson.p_at_most(x, n, self.limit)[1] > alpha, n) + 1
        return float(betaincinv(least, n - least + 1, TARGET)) if least <= n else None

    def can_fail(self, n: int, alpha: float) -> bool:
        """Whether losing everything is a FAIL."""
        return clopper_pearson.p_at_most(n, n, self.limit)[1] <= alpha

    def cells(self) -> tuple[float, ...]:
        """Counts, does not."""
        return self.truth, 1 - self.truth

    def log_e(self, counts: NDArray[Any], seen: NDArray[Any], n_total: int) -> tuple[Any, Any]:
        """As `sequential` has it."""
        return sequential.log_e_rate(counts[..., 0], seen, self.limit, n_total)


# ── any of them ───────────────────────────────────────────────────────────────────────────


def tightest(prospect: Prospect, n: int, alpha: float) -> float | None:
    """The least limit that n examples prove with `TARGET`; None where they prove nothing."""

    def proven(limit: float) -> bool:
        return prospect.at(limit).is_enough(n, alpha)

    return _edge(proven, loose=0.999, tight=prospect.truth)


def share_looked_at(
    prospect: Prospect, n: int, *, log_pass: float, log_fail: float, seed: int
) -> float:
    """Mean share of n examples, in batches of 64, that an e-process looks at before it stops.

    400 paths, drawn with `seed`: the standard error is below .025. Large sets are looked at 400
    times at most, which adds less than .0025.

    Args:
        prospect: what is true.
        n: examples there are, ≥ 1.
        log_pass: ln E_pass that stops.
        log_fail: ln E_fail that stops.
        seed: of the paths.
    """
    step = _BATCH * math.ceil(n / _BATCH / _MOST_LOOKS)
    seen = np.append(np.arange(step, n, step), n)
    rng = np.random.default_rng(seed)
    batches = rng.multinomial(np.diff(seen, prepend=0), prospect.cells(), size=(_PATHS, len(seen)))
    e_pass, e_fail = prospect.log_e(np.cumsum(batches, axis=1), seen, n)
    stopped = (e_pass >= log_pass) | (e_fail >= log_fail)
    stopped[:, -1] = True
    return float(seen[np.argmax(stopped, axis=1)].mean() / n)


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest of 0..most at which `holds`, which stays false once it is; −1 for none."""
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _edge(holds: Callable[[float], bool], *, loose: float, tight: float) -> float | None:
    """Where, on the way from `loose` to `tight`, something stops to hold; None: not at `loose`."""
    if not holds(loose):
        return None
    for _ in range(_BISECTIONS):
        middle = (loose + tight) / 2
        loose, tight = (middle, tight) if holds(middle) else (loose, middle)
    return loose
