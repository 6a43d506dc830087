"""Counts of a tensor's values in a fixed number of bins, whatever comes and in whatever order.

A bin is [k w, (k + 1) w) with k an integer and w a power of two, so that 0 is always an edge,
x / w is exact in floating point while it is in range, and doubling w merges bins exactly. w is the
least at which the range fits into `2 · bins` bins: at least `bins` of them then cover it. Nothing
depends on the order of the values or on how they were batched, and histograms of parts add up to
that of the whole.
"""

import math
from dataclasses import dataclass
from threading import local

import numpy as np

from gate.values import Array

BINS = 2048
_BLOCK = 1 << 16
"""Values at a time: they and their indices stay in the second-level cache."""
_FINEST = -120
"""Exponent of the narrowest bin, so that 1 / w is a float32."""
_DIGITS = 24
"""Binary digits of a float32."""
_LEAST = -149
"""Exponent of the least float32; all others are multiples of it."""
_WORD = 63
"""Bits by which an int64 can be shifted to nothing."""


class _Scratch(local):
    """Room for a block on its way into bins: each thread's own, and the same for all counters."""

    def __init__(self) -> None:
        self.buffers = tuple(np.empty(_BLOCK, kind) for kind in (np.float32, np.int32, np.intp))


_SCRATCH = _Scratch()


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """What is known of a tensor's values."""

    low: float
    """The smallest."""
    high: float
    """The largest."""
    mean_low: float
    """Mean over examples of the smallest."""
    mean_high: float
    """Mean over examples of the largest."""
    exponent: int
    """log2 of the bins' width."""
    first: int
    """The first bin begins at first · 2^exponent."""
    counts: Array
    """(K,) of int64, K ≤ 2 · BINS; the first and the last are not 0."""

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Array:
        """(K + 1,) of float64."""
        return (self.first + np.arange(len(self.counts) + 1)) * self.width

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())


class Counter:
    """Builds a `Histogram`, array by array, in memory that does not grow."""

    def __init__(self, bins: int = BINS) -> None:
        """Nothing seen.

        Args:
            bins: at least so many cover the range, where it is not a single value.
        """
        self._most = 2 * bins
        self._low, self._high = math.inf, -math.inf
        self._lows, self._highs, self._examples = 0, 0, 0
        self._exponent = _FINEST
        self._first = 0
        self._counts = np.zeros(0, dtype=np.int64)

    @property
    def seen(self) -> bool:
        """Whether there was any value."""
        return self._examples > 0

    def add(self, values: Array, examples: int) -> bool:
        """Count `values`, float16 or float32; False, with nothing counted, if one is not finite.

        Args:
            values: where the first axis is `examples` long, each of its entries is an example;
                otherwise all of it is one.
            examples: in the batch that they come from.
        """
        if values.size == 0:
            return True
        wide = np.ascontiguousarray(values, dtype=np.float32)
        each = wide.reshape(examples if wide.shape[:1] == (examples,) else 1, -1)
        lows, highs = each.min(axis=1), each.max(axis=1)
        low, high = float(lows.min()), float(highs.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self._lows += _summed(lows)
        self._highs += _summed(highs)
        self._examples += len(each)
        self._cover(min(low, self._low), max(high, self._high))
        self._count(wide.reshape(-1))
        return True

    def result(self) -> Histogram:
        """What was counted.

        Raises:
            ValueError: nothing was.
        """
        if not self.seen:
            raise ValueError("no value was counted")
        return Histogram(
            low=self._low,
            high=self._high,
            mean_low=math.ldexp(self._lows / self._examples, _LEAST),
            mean_high=math.ldexp(self._highs / self._examples, _LEAST),
            exponent=self._exponent,
            first=self._first,
            counts=self._counts.copy(),
        )

    def _cover(self, low: float, high: float) -> None:
        """Make room for a range."""
        if (low, high) == (self._low, self._high):
            return
        exponent = _exponent(low, high, self._most)
        first = _bin(low, exponent)
        counts = np.zeros(_bin(high, exponent) - first + 1, dtype=np.int64)
        if self._low == self._high:
            counts[_bin(self._low, exponent) - first] = self._counts.sum()
        elif len(self._counts):
            finer = min(exponent - self._exponent, _WORD)
            at = (self._first + np.arange(len(self._counts))) >> finer
            np.add.at(counts, at - first, self._counts)
        self._low, self._high = low, high
        self._exponent, self._first, self._counts = exponent, first, counts

    def _count(self, values: Array) -> None:
        inverse = np.float32(math.ldexp(1.0, -self._exponent))
        first = np.float32(self._first)
        size = len(self._counts)
        may_vanish = self._low < 0 < self._exponent  # x / w may then be too small for a float32
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            scaled, narrow, index = (one[: len(block)] for one in _SCRATCH.buffers)
            np.multiply(block, inverse, out=scaled)
            np.floor(scaled, out=scaled)
            if may_vanish:
                scaled[(scaled == 0) & (block < 0)] = -1
            np.subtract(scaled, first, out=scaled)
            np.copyto(narrow, scaled, casting="unsafe")  # by way of int32, which is twice as fast
            np.copyto(index, narrow)
            self._counts += np.bincount(index, minlength=size)


def _summed(values: Array) -> int:
    """In units of the least float32, and so without rounding."""
    return sum(int(math.ldexp(value, -_LEAST)) for value in values.tolist())


def _exponent(low: float, high: float, most: int) -> int:
    """The least at which low..high fits into `most` bins; of a single value, one it is exact at."""
    if low == high:
        return max(_FINEST, math.frexp(low)[1] - _DIGITS)
    exponent = max(_FINEST, math.frexp(high / most - low / most)[1] - 2)
    while _bin(high, exponent) - _bin(low, exponent) >= most:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
