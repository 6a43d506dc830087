"""Which slices lose more than the rest, with the price of having looked at all of them.

A slice k of n of the N examples is held against the other N − n. With y the losses and e = y − ȳ ::

    excess_k = mean of y in k − mean of y outside
    T_k = excess_k / √max(robust_k, pooled_k)

Two estimates of the variance, because either alone misleads where losses are rare. `robust` uses
only the losses of k and of its rest, so that a slice whose losses vary more than others' is not
taken for a worse one; but ten examples without a loss have no variance, and the 2,990 others then
seem infinitely surely worse than those. `pooled` takes the variance of all, which for the two
flips of a slice of ten is far too little. The larger errs to the safe side.

Adjusted p are Westfall and Young's step-down max-T over B draws T* under "no slice differs". With
the slices sorted by falling T ::

    p(i) = max over j ≤ i of (1 + #{draws: max over l ≥ j of T*(l) ≥ T(j)}) / (1 + B)

Draws without units are permutations of the losses: ::

    robust = v_in / n + v_out / (N − n)   (Welch),   pooled = v (1 / n + 1 / (N − n))

T* is the same formula. If losses are exchangeable, the chance of any false accusation is at most
α, exactly; if only the means are equal, asymptotically (Chung and Romano), but for the correlation
between slices, which a permutation takes as if all losses varied alike. Where small slices flip
twenty times as often both ways, .07 were accused at α = .05; with `pooled` alone .56.

Draws with units flip signs of whole units. Unit u speaks for slice k with ::

    g_uk = Σ of e over u in k / n − Σ of e over u outside k / (N − n),   excess_k = Σ_u g_uk
    robust = Σ_u g_uk²,   T*_k = Σ_u ω_u g_uk / √robust,   ω_u = ±1 with equal chances
    pooled = (σ² − τ) Σ_i c_i² + τ Σ_u c_uk²,   c_i = 1 / n in k, −1 / (N − n) outside

with σ² the variance of all losses, τ their mean covariance within a unit, 0 ≤ τ ≤ σ², and c_uk the
sum of c_i over u. So slices may run through units, and units may differ in size and in variance.
It is asymptotic in the units on either side of a slice, and careful where losses are rare: T* has
no `pooled` to shrink it, and x units that lost give no p below some 2^−x.

A slice that loses more only because it overlaps with one that does is accused with it.

P. H. Westfall, S. S. Young (1993), "Resampling-Based Multiple Testing", Wiley, algorithm 4.1.
E. Chung, J. P. Romano (2013), "Exact and asymptotically robust permutation tests", Annals of
Statistics 41. J. Hemerik, J. J. Goeman, L. Finos (2020), "Robust testing in generalized linear
models by sign flipping score contributions", JRSS B 82; P. Kline, A. Santos (2012), "A score based
approach to wild bootstrap inference", Journal of Econometric Methods 1. B. Phipson, G. K. Smyth
(2010), "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

METHOD = "max-T permutation"
METHOD_UNITS = "max-T sign flips of units"
MOST_VALUES = 100
"""Distinct values above which a column is no way to slice."""
LEAST = 10
Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Members = NDArray[np.uint8]
_TIE = 1e-9
_DRAWS = 128  # with N = 50,000 losses 51 MB at a time
_ROWS = 2048
_UNITS = 1024  # with 2,000 draws 16 MB at a time


@dataclass(frozen=True, slots=True)
class Excess:
    """A slice against the rest; losses as they were given, + is worse."""

    column: str
    value: str
    """As a policy writes it: true, 3, north."""
    n: int
    """Examples in the slice."""
    mean: float
    """Mean loss in the slice."""
    rest: float
    """Mean loss outside."""
    excess: float
    """mean − rest."""
    p: float
    """That the slice loses more, one-sided and adjusted for all the slices tested."""


@dataclass(frozen=True, slots=True)
class Untested:
    """A slice, or a whole column, that `excesses` says nothing about."""

    column: str
    value: str | None
    """None for the whole column."""
    n: int
    """Its examples."""
    why: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """The slices to test, of C columns, and what is left out."""

    slices: tuple[tuple[str, str], ...]
    members: Members
    """(K, N) 1 where the example is in the slice."""
    codes: tuple[Codes, ...]
    """C of (N,), in the order of the columns' names."""
    untested: tuple[Untested, ...]


def excesses(
    losses: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    unit: ArrayLike | None = None,
    seed: int = 0,
    permutations: int = 2000,
    least: int = LEAST,
) -> tuple[Excess, ...]:
    """Every slice that can be tested, by p and then by excess; `untested` has all the others.

    The same numbers for the same seed, whatever the order of the rows and of the columns: rows are
    sorted by unit, loss and columns first. Renaming units or values draws anew.

    Args:
        losses: (N,) of each example, + is worse: FP32 right − INT8 right, or a difference of log
            losses, in the metric's unit.
        columns: (N,) each; text, integers, truth values. Values are compared as text.
        unit: (N,) what each example belongs to, if those of one unit are not independent. With as
            many units as examples it makes no difference.
        seed: of the draws, ≥ 0.
        permutations: B, ≥ 1; no p is below 1 / (1 + B).
        least: examples, or units if there are any, a slice and its rest must both have, ≥ 1.

    Raises:
        ValueError: lengths differ, losses are none or not finite, or a number is out of its range.
    """
    y = _losses(losses)
    if permutations < 1 or seed < 0:
        raise ValueError("permutations must be at least 1 and seed at least 0")
    units = _units(unit, len(y))
    plan = _plan(columns, len(y), units, least)
    if not plan.slices:
        return ()
    order = np.lexsort((*plan.codes, y, *(() if units is None else (units,))))
    y, members = y[order], plan.members[:, order]
    if y.min() == y.max():
        p = np.ones(len(members))
    elif units is None:
        p = _step_down(*_permuted(_standard(y), members, seed, permutations))
    else:
        flipped = _flipped(_standard(y), members, units[order], seed, permutations)
        p = _step_down(*flipped)
    found = [
        _told(name, value, y, member == 1, float(one))
        for (name, value), member, one in zip(plan.slices, members, p, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (one.p, -one.excess, one.column, one.value)))


def untested(
    columns: Mapping[str, ArrayLike], *, unit: ArrayLike | None = None, least: int = LEAST
) -> tuple[Untested, ...]:
    """What `excesses` leaves out with the same arguments, and why, by column and value.

    Each column is here whole, or each of its values is either here or there.

    Raises:
        ValueError: lengths differ, or `least` is less than 1.
    """
    n = next((np.asarray(column).size for column in columns.values()), 0)
    units = None if not columns else _units(unit, n)
    return _plan(columns, n, units, least).untested


# ── what can be tested ────────────────────────────────────────────────────────────────────


def _plan(columns: Mapping[str, ArrayLike], n: int, units: Codes | None, least: int) -> _Plan:
    if least < 1:
        raise ValueError(f"least must be at least 1, not {least}")
    slices: list[tuple[str, str]] = []
    members: list[Members] = []
    used: list[Codes] = []
    left: list[Untested] = []
    for name in sorted(columns):
        texts, codes = _coded(columns[name], n, name)
        if why := _no_slices(len(texts), n):
            left.append(Untested(name, None, n, why))
            continue
        used.append(codes)
        too_few = _too_few(codes, len(texts), units, least)
        for code, text in enumerate(texts):
            member = codes == code
            if too_few[code]:
                left.append(Untested(name, text, int(member.sum()), too_few[code]))
            else:
                slices.append((name, text))
                members.append(member.astype(np.uint8))
    stacked = np.stack(members) if members else np.zeros((0, n), dtype=np.uint8)
    return _Plan(tuple(slices), stacked, tuple(used), tuple(left))


def _no_slices(distinct: int, n: int) -> str:
    """Why the column makes no slices; empty if it does."""
    if distinct <= 1:
        return "all examples have the same value"
    if distinct == n:
        return "every example has its own value"
    if distinct > MOST_VALUES:
        return f"{distinct} distinct values, more than {MOST_VALUES}"
    return ""


def _too_few(codes: Codes, distinct: int, units: Codes | None, least: int) -> list[str]:
    """Of each value why it is not tested; empty if it is."""
    if units is None:
        inside = np.bincount(codes, minlength=distinct)
        outside, what = len(codes) - inside, "examples"
    else:
        # A unit counts on both sides where it has examples on both.
        count = int(units.max()) + 1
        of_unit, of_code = np.divmod(np.unique(units * distinct + codes), distinct)
        inside = np.bincount(of_code, minlength=distinct)
        alone = np.bincount(of_unit, minlength=count) == 1
        outside = count - np.bincount(of_code[alone[of_unit]], minlength=distinct)
        what = "units"
    return [
        f"{here} {what}, fewer than {least}"
        if here < least
        else f"{there} {what} outside it, fewer than {least}"
        if there < least
        else ""
        for here, there in zip(inside.tolist(), outside.tolist(), strict=True)
    ]


def _coded(column: ArrayLike, n: int, name: str) -> tuple[list[str], Codes]:
    """The distinct texts, sorted, and of each example which one it has, (N,)."""
    values = np.asarray(column)
    if values.shape != (n,):
        raise ValueError(f"{name} must have one value for each of {n} examples: {values.shape}")
    if (
        values.dtype.kind == "O"
    ):  # may not sort, and as an array of text one long one is N long ones
        texts, codes = _as_met([_text(value) for value in values.tolist()])
    else:
        distinct, codes = np.unique(values, return_inverse=True)
        met, same = _as_met([_text(value) for value in distinct.tolist()])
        texts, codes = met, same[codes]
    rank = np.empty(len(texts), dtype=np.intp)
    rank[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    return sorted(texts), rank[codes]


def _as_met(texts: list[str]) -> tuple[list[str], Codes]:
    index: dict[str, int] = {}
    codes = np.array([index.setdefault(text, len(index)) for text in texts], dtype=np.intp)
    return list(index), codes


def _text(value: object) -> str:
    """As policies write it; the package stays importable without them."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _units(unit: ArrayLike | None, n: int) -> Codes | None:
    """(N,) unit of each example, 0..U−1; None where each is its own."""
    if unit is None:
        return None
    texts, codes = _coded(unit, n, "unit")
    return None if len(texts) == n else codes


def _losses(losses: ArrayLike) -> Floats:
    found = np.asarray(losses, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.all(np.isfinite(found)):
        raise ValueError("losses must be finite numbers, one an example and at least one")
    return found


# ── how surely ────────────────────────────────────────────────────────────────────────────


def _told(column: str, value: str, y: Floats, member: NDArray[np.bool_], p: float) -> Excess:
    mean, rest = float(y[member].mean()), float(y[~member].mean())
    excess = mean - rest if y.min() < y.max() else 0.0  # equal means can differ in the last digit
    return Excess(column, value, int(member.sum()), mean, rest, excess, p)


def _standard(y: Floats) -> Floats:
    """Losses about their mean, the largest 1; T does not change with a loss's unit."""
    largest = np.abs(y).max()
    e = y / largest - np.mean(y / largest)
    return np.asarray(e / np.abs(e).max())


def _step_down(observed: Floats, drawn: Floats) -> Floats:
    """Adjusted p (K,) of T (K,) with T* (B, K)."""
    order = np.argsort(-observed, kind="stable")
    t = observed[order]
    largest = np.maximum.accumulate(drawn[:, order[::-1]], axis=1)[:, ::-1]
    reached = (largest >= t - _TIE * (1 + np.abs(t))).sum(axis=0)
    p = np.empty(len(t))
    p[order] = np.maximum.accumulate((1 + reached) / (1 + len(drawn)))
    return p


def _permuted(e: Floats, members: Members, seed: int, draws: int) -> tuple[Floats, Floats]:
    """T (K,), and T* (B, K) of permuted losses."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((draws, len(members)))
    for first in range(0, draws, _DRAWS):
        rows = drawn[first : first + _DRAWS]
        rows[:] = _t(rng.permuted(np.broadcast_to(e, (len(rows), len(e))), axis=1), members)
    return _t(e[np.newaxis], members)[0], drawn


def _t(e: Floats, members: Members) -> Floats:
    """T (D, K) of D arrangements of the same losses, (D, N)."""
    sums = np.zeros((len(e), len(members)))
    squares = np.zeros_like(sums)
    for first in range(0, e.shape[1], _ROWS):
        some = e[:, first : first + _ROWS]
        inside = members[:, first : first + _ROWS].T.astype(np.float64)
        sums += some @ inside
        squares += (some * some) @ inside
    n = members.sum(axis=1, dtype=np.int64)
    m = e.shape[1] - n
    total, total_squares = e[0].sum(), (e[0] * e[0]).sum()
    rest = total - sums
    v_in = (squares - sums * sums / n) / np.maximum(n - 1, 1)
    v_out = (total_squares - squares - rest * rest / m) / np.maximum(m - 1, 1)
    pooled = total_squares / (e.shape[1] - 1) * (1 / n + 1 / m)
    return np.asarray((sums / n - rest / m) / np.sqrt(np.maximum(v_in / n + v_out / m, pooled)))


def _flipped(
    e: Floats, members: Members, units: Codes, seed: int, draws: int
) -> tuple[Floats, Floats]:
    """T (K,), and T* (B, K) of units' signs flipped; rows in the order of their units."""
    rng = np.random.default_rng(seed)
    n = members.sum(axis=1, dtype=np.int64)
    m = len(e) - n
    excess, robust, spread = np.zeros((3, len(members)))
    drawn = np.zeros((draws, len(members)))
    count = int(units[-1]) + 1
    for first in range(0, count, _UNITS):
        last = min(first + _UNITS, count)
        rows = slice(*np.searchsorted(units, [first, last]))
        g, c = _scores(e[rows], members[:, rows], units[rows] - first, n, m)
        excess += g.sum(axis=0)
        robust += (g * g).sum(axis=0)
        spread += (c * c).sum(axis=0)
        drawn += (2.0 * rng.integers(2, size=(draws, last - first), dtype=np.int8) - 1) @ g
    variance, within = _components(e, units)
    pooled = (variance - within) * (1 / n + 1 / m) + within * spread
    # Where every unit's sum is 0 no sign changes anything: 0 against 0 is no evidence.
    scale = np.sqrt(np.where(robust > 0, robust, 1.0))
    return excess / np.sqrt(np.maximum(robust, pooled)), drawn / scale


def _scores(
    e: Floats, members: Members, units: Codes, n: NDArray[np.int64], m: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """g and c (U, K) of some units, with all of their examples."""
    count = int(units[-1]) + 1
    size = np.bincount(units)
    total = np.bincount(units, weights=e)
    inside = [np.bincount(units, weights=e * member, minlength=count) for member in members]
    here = [np.bincount(units, weights=member, minlength=count) for member in members]
    g, c = np.stack(inside, axis=1), np.stack(here, axis=1)
    return (
        g / n - (total[:, np.newaxis] - g) / m,
        c / n - (size[:, np.newaxis] - c) / m,
    )


def _components(e: Floats, units: Codes) -> tuple[float, float]:
    """σ² and τ: the variance of the losses, and of two in one unit the mean covariance."""
    size, total = np.bincount(units), np.bincount(units, weights=e)
    squares = float((e * e).sum())
    variance = squares / (len(e) - 1)
    pairs = float((size * (size - 1)).sum())
    within = (float((total * total).sum()) - squares) / pairs
    return variance, min(max(within, 0.0), variance)
