"""From a tensor's histogram to the range that its integers cover: one function a method. Pure.

Every range lies within what was seen. For a symmetric integer type the larger end counts, so the
methods that clip choose one threshold T and give (max(low, −T), min(high, T)).
"""

from collections.abc import Callable, Mapping

import numpy as np

from gate.histogram import Histogram
from gate.values import Array

Range = tuple[float, float]
LEVELS = 256
"""Integers of eight bits."""
_CANDIDATES = 512
_GRID = np.linspace(1, -1, 65)
_ROUNDS = 3


def min_max(found: Histogram, **_: float) -> Range:
    """All that was seen: nothing is clipped."""
    return found.low, found.high


def moving_average(found: Histogram, **_: float) -> Range:
    """The mean over examples of the smallest and of the largest value.

    A single example with extreme values counts once. It does not depend on batches; at batches of
    one it is ONNX Runtime's `CalibMovingAverage`.
    """
    return found.mean_low, found.mean_high


def percentile(found: Histogram, *, share: float, symmetric: bool = False, **_: float) -> Range:
    """All but a share of the values, to within a bin.

    Args:
        found: the histogram.
        share: percentage kept, 50 < share ≤ 100; what is cut is cut half at each end.
        symmetric: cut by absolute value instead.

    Raises:
        ValueError: `share` is out of its range.
    """
    if not 50 < share <= 100:  # noqa: PLR2004
        raise ValueError(f"a percentile lies above 50 and is at most 100, not {share}")
    if share == 100:  # noqa: PLR2004
        return min_max(found)
    if symmetric:
        sizes, mass = _folded(found)
        return _clipped(found, float(sizes[_reached(mass, share / 100)]))
    cut = (1 - share / 100) / 2
    low = found.edges[_reached(found.counts, cut)]
    high = found.edges[_reached(found.counts, 1 - cut) + 1]
    return _within(found, float(low), float(high))


def entropy(
    found: Histogram,
    *,
    symmetric: bool = False,
    levels: int = LEVELS - 1,
    candidates: int = _CANDIDATES,
    **_: float,
) -> Range:
    """The threshold at which the quantized distribution tells most of the real one.

    For windows of bins around 0, P is the histogram in the window with what lies beyond added to
    its end bins, and Q the window's own counts merged into `levels` and spread evenly over those
    bins of each level where P is not 0. A level that is empty where P is not counts as one value,
    or no outlier that stands alone could be clipped. The window with the least Kullback–Leibler
    divergence Σ p ln(p / q) wins; one without any value is out of the question. A spike in the
    two bins at 0, which every range keeps exactly, is first cut down to the bins beside them. Of a
    symmetric type, what lies on one side of 0 has half of the levels.

    S. Migacz (2017), "8-bit inference with TensorRT", GPU Technology Conference.
    """
    counts = _without_spike(found)
    end = found.first + len(counts)
    if symmetric and (found.first >= 0 or end <= 0):
        levels = (levels + 1) // 2
    halves = np.arange(max(found.first, -end, 0) + 1, max(abs(found.first), abs(end)) + 1)
    begins, ends = _windows(found, halves)
    enough = ends - begins >= min(levels, len(counts))
    halves, begins, ends = halves[enough], begins[enough], ends[enough]
    tried = np.unique(np.linspace(0, len(halves) - 1, candidates).round().astype(np.intp))
    losses = _divergences(counts, begins[tried], ends[tried], levels)
    best = tried[int(np.argmin(losses))]
    return _clipped(found, float(halves[best]) * found.width)


def mean_squared_error(
    found: Histogram, *, symmetric: bool = False, levels: int = LEVELS - 1, **_: float
) -> Range:
    """The range at which values and their quantized selves differ least, in the mean square.

    With Δ the step: what is clipped differs by its distance to the end, what is nearer to 0 than
    Δ / 2 by its own size, and all else by Δ² / 12 in the mean square. Values in the bins at 0 are
    taken as 0, which every range keeps exactly.

    R. Banner, Y. Nahshan, D. Soudry (2019), "Post training 4-bit quantization of convolutional
    networks for rapid-deployment", NeurIPS.
    """
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)

    def loss(of_low: Array, of_high: Array) -> Array:
        lows, highs = of_low * low, of_high * high
        clipped = _beneath(found, lows) + _beyond(found, highs)
        return clipped + _rounded(found, (highs - lows) / levels)

    if symmetric:
        of_low, of_high = _least(lambda part: loss(part, part), ends=1) * 2
    else:
        of_low, of_high = _least(loss, ends=2)
    return _within(found, of_low * low, of_high * high)


METHODS: Mapping[str, Callable[..., Range]] = {
    "min-max": min_max,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mean_squared_error,
}
"""By the name that recipes use."""


# ── windows around 0 ──────────────────────────────────────────────────────────────────────


def _clipped(found: Histogram, threshold: float) -> Range:
    return _within(found, -threshold, threshold)


def _within(found: Histogram, low: float, high: float) -> Range:
    """What of low..high was seen; where nothing was, the nearest value that was."""
    ends = (max(found.low, min(end, found.high)) for end in (low, high))
    return next(ends), next(ends)


def _windows(found: Histogram, halves: Array) -> tuple[Array, Array]:
    """Where the bins −half..half begin and end among those that were counted, (C,) each."""
    size = len(found.counts)
    return np.clip(-halves - found.first, 0, size), np.clip(halves - found.first, 0, size)


def _without_spike(found: Histogram) -> Array:
    """Counts as floats, the bins either side of 0 no higher than those beside them."""
    counts = found.counts.astype(np.float64)
    at = -found.first
    for spike, beside in ((at, at + 1), (at - 1, at - 2)):
        if 0 <= spike < len(counts) and 0 <= beside < len(counts):
            counts[spike] = min(counts[spike], counts[beside])
    return counts


def _folded(found: Histogram) -> tuple[Array, Array]:
    """Upper edges of bins of absolute values, and their counts."""
    bins = np.arange(found.first, found.first + len(found.counts))
    folded = np.where(bins < 0, -bins - 1, bins)
    start = int(folded.min())
    mass = np.bincount(folded - start, weights=found.counts)
    return (start + np.arange(len(mass)) + 1) * found.width, mass


def _reached(mass: Array, share: float) -> int:
    """The first bin at which at least `share` of the mass is reached."""
    heap = np.cumsum(mass)
    return int(min(np.searchsorted(heap, share * heap[-1], side="left"), len(mass) - 1))


def _divergences(h: Array, begins: Array, ends: Array, levels: int) -> Array:
    """(C,): Σ p ln(p / q) of each window of the counts h, from sums over whole levels.

    With n a level's bins where P is not 0, P its mass with what lies beyond, H its own counts, or 1
    where only P has any, S the sum of H, and N all counts ::

        N · KL = Σ p ln p − N ln N − Σ P ln(H / n) + N ln S
    """
    sizes, lasts = ends - begins, ends - 1
    bounds = begins[:, np.newaxis] + sizes[:, np.newaxis] * np.arange(levels + 1) // levels
    sums, filled, entropies = _heaped(h), _heaped(h > 0), _heaped(_n_ln_n(h))
    left, right = sums[begins], sums[-1] - sums[ends]
    own, bins = np.diff(sums[bounds], axis=1), np.diff(filled[bounds], axis=1)
    mass = own.copy()
    mass[:, 0] += left
    mass[:, -1] += right
    bins[:, 0] += (h[begins] == 0) & (left > 0)
    bins[:, -1] += (h[lasts] == 0) & (right > 0)
    p_ln_p = entropies[ends] - entropies[begins]
    p_ln_p += _n_ln_n(h[begins] + left) - _n_ln_n(h[begins])
    p_ln_p += _n_ln_n(h[lasts] + right) - _n_ln_n(h[lasts])
    own = np.where((own == 0) & (mass > 0), 1.0, own)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(mass > 0, mass * np.log(own / bins), 0.0).sum(axis=1)
    total = p_ln_p - _n_ln_n(sums[-1]) - kept + sums[-1] * np.log(own.sum(axis=1))
    return np.asarray(np.where(sums[ends] > sums[begins], total, np.inf) / sums[-1])


def _heaped(values: Array) -> Array:
    """(K + 1,): sums of everything before each edge."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _n_ln_n(values: Array) -> Array:
    return np.asarray(np.where(values > 0, values * np.log(np.maximum(values, 1e-300)), 0.0))


# ── squared errors ────────────────────────────────────────────────────────────────────────


def _beyond(found: Histogram, ends: Array) -> Array:
    """Σ (x − end)² over the values above each end, those of a bin taken at its middle."""
    return _excess(found.counts, found.edges, ends)


def _beneath(found: Histogram, ends: Array) -> Array:
    return _excess(found.counts[::-1], -found.edges[::-1], -ends)


def _excess(counts: Array, edges: Array, ends: Array) -> Array:
    middles = (edges[:-1] + edges[1:]) / 2
    tails = [np.append(np.cumsum((counts * middles**power)[::-1])[::-1], 0.0) for power in range(3)]
    after = np.searchsorted(middles, ends, side="right")
    number, once, twice = (tail[after] for tail in tails)
    return np.asarray(np.maximum(twice - 2 * ends * once + ends**2 * number, 0.0))


def _rounded(found: Histogram, steps: Array) -> Array:
    """Σ of squared errors of the values as multiples of each step."""
    sizes, mass = _folded(found)
    middles = np.where(sizes > found.width, sizes - found.width / 2, 0.0)
    mass = np.where(middles > 0, mass, 0.0)
    to_0 = np.searchsorted(middles, steps / 2)
    number = _heaped(mass)
    return np.asarray(
        _heaped(mass * middles**2)[to_0] + (number[-1] - number[to_0]) * steps**2 / 12
    )


def _least(loss: Callable[..., Array], *, ends: int) -> list[float]:
    """The parts, 0 to 1, of `ends` ends at which the loss is least, by grids ever finer."""
    best, reach = [0.5] * ends, 0.5
    for _ in range(_ROUNDS):
        axes = [np.clip(part + reach * _GRID, 0, 1) for part in best]
        losses = loss(*np.meshgrid(*axes, indexing="ij", sparse=True))
        at = np.unravel_index(int(np.argmin(losses)), losses.shape)
        best = [float(axis[index]) for axis, index in zip(axes, at, strict=True)]
        reach *= 4 / len(_GRID)
    return best
