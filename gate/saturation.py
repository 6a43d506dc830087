"""Where unsigned activations times signed weights overflow on x86 without VNNI. Pure.

AVX2 and AVX-512 without VNNI multiply eight-bit integers by `vpmaddubsw`: two neighbouring products
u1 · w1 + u2 · w2 are added into sixteen bits, and what does not fit into −32768..32767 is cut off.
255 · 127 · 2 is twice as much. With VNNI, with seven-bit weights, and with signed activations
nothing is cut off.

Intel (2018), "Lower numerical precision deep learning inference and training".
"""

import numpy as np

from gate.histogram import Histogram
from gate.values import Array

_LARGEST, _SMALLEST = 32767, -32768
_LEVELS = 256
_PAIRS = 4096


def levels(found: Histogram, scale: float, zero_point: int) -> Array:
    """(256,): how often a tensor's values fall on each unsigned level; they add up to 1.

    Args:
        found: of the tensor.
        scale: of its quantization, more than 0.
        zero_point: 0..255.
    """
    middles = np.clip((found.edges[:-1] + found.edges[1:]) / 2, found.low, found.high)
    at = np.clip(np.rint(middles / scale) + zero_point, 0, _LEVELS - 1).astype(np.intp)
    counts = np.bincount(at, weights=found.counts, minlength=_LEVELS)
    return np.asarray(counts / counts.sum())


def share(weights: Array, often: Array) -> float:
    """Share of a layer's pairs of products that are cut off, 0..1.

    Neighbouring activations are taken as independent. Of more than 4,096 pairs of weights that can
    overflow at all, a fixed sample stands for the rest.

    Args:
        weights: (M, K) of int8, K in the order in which products are added.
        often: (256,) as `levels` gives it.
    """
    wide = weights.astype(np.int32)
    if wide.shape[1] % 2:
        wide = np.pad(wide, ((0, 0), (0, 1)))
    first, second = wide[:, 0::2].ravel(), wide[:, 1::2].ravel()
    most = (_LEVELS - 1) * (np.maximum(first, 0) + np.maximum(second, 0))
    least = (_LEVELS - 1) * (np.minimum(first, 0) + np.minimum(second, 0))
    above, below = np.flatnonzero(most > _LARGEST), np.flatnonzero(least < _SMALLEST)
    cut = _cut_off(first[above], second[above], often, _LARGEST)
    cut += _cut_off(-first[below], -second[below], often, -_SMALLEST)
    return cut / max(len(first), 1)


def _cut_off(first: Array, second: Array, often: Array, bound: int) -> float:
    """Expected number of pairs with u1 · w1 + u2 · w2 > bound; no weight alone is enough."""
    if not len(first):
        return 0.0
    some = np.linspace(0, len(first) - 1, min(_PAIRS, len(first))).astype(np.intp)
    w1, w2 = first[some][:, np.newaxis], second[some][:, np.newaxis]
    needed = (bound - w1 * np.arange(_LEVELS)) // w2 + 1
    beyond = np.append(np.cumsum(often[::-1])[::-1], 0.0)
    chances = (often * beyond[np.clip(needed, 0, _LEVELS)]).sum()
    return float(chances * len(first) / len(some))
