"""What a comparison of two ways to prepare examples found, and how far two arrays are apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gate.errors import EXIT_FAIL, EXIT_PASS
from gate.values import Array, Value

TOLERANCE = 1e-5
"""Floats are alike within this, times their size where that is above 1; integers where equal."""
Side = Mapping[str, Sequence[Array]]
"""What one side feeds the model: an array an example, without batch axis, by input name."""


class Gap(Value):
    """How far two sides are apart at one input."""

    input: str
    policy: str
    """Type and shape of what the policy gives."""
    function: str
    """Of what the function gives."""
    examples: int
    unlike: int
    """Examples that differ in shape, type or any value."""
    largest: float | None
    """Difference of values; None where shapes differ."""
    mean: float | None
    """Likewise, over all values of all examples."""
    share: float
    """Of values that differ, 0..1; where shapes differ, those without a counterpart, too."""


class Cause(Value):
    """One thing that was tried and brought both sides nearer."""

    name: str
    detail: str
    mean_before: float | None
    """Mean difference without it; None where shapes differ."""
    mean_after: float | None
    share_before: float
    """Of values that differ, 0..1."""
    share_after: float


class Parity(Value):
    """What came of it."""

    policy: str
    function: str
    split: str
    examples: int
    gaps: tuple[Gap, ...]
    causes: tuple[Cause, ...] = ()
    """In this order, each on top of those before."""
    unexplained: float | None = None
    """Of the variance of the function's pixels, what the policy's do not explain after all that
    was found, 0..1; None where it was not looked for."""
    preprocess: dict[str, Any] | None = None
    """`build.preprocess` that was tried and gives what the function gives on every example."""

    @property
    def alike(self) -> bool:
        """Whether the model is fed the same."""
        return all(gap.unlike == 0 for gap in self.gaps)

    @property
    def exit_code(self) -> int:
        """0 where both feed the model the same, 1 where they part."""
        return EXIT_PASS if self.alike else EXIT_FAIL


def gap_of(name: str, ours: Sequence[Array], theirs: Sequence[Array]) -> Gap:
    """Hold N arrays of the policy against N of the function."""
    unlike, different, total = 0, 0, 0
    differences: list[Array] | None = []
    for mine, other in zip(ours, theirs, strict=True):
        count = _different(mine, other)
        different, total = different + count, total + max(mine.size, other.size)
        unlike += bool(count) or mine.shape != other.shape or mine.dtype != other.dtype
        if differences is not None and mine.shape == other.shape:
            differences.append(np.abs(_numbers(mine) - _numbers(other)).ravel())
        else:
            differences = None
    every = None if differences is None else np.concatenate(differences)
    has_values = every is not None and every.size
    return Gap(
        input=name,
        policy=_kind(ours),
        function=_kind(theirs),
        examples=len(ours),
        unlike=unlike,
        largest=float(every.max()) if every is not None and has_values else None,
        mean=float(every.mean()) if every is not None and has_values else None,
        share=different / total if total else 0.0,
    )


def _different(mine: Array, other: Array) -> int:
    """How many values differ; sequences are held against each other from their beginning."""
    if mine.shape == other.shape:
        return int(apart(mine, other).sum())
    if mine.ndim == other.ndim == 1:
        both = min(len(mine), len(other))
        return int(apart(mine[:both], other[:both]).sum()) + abs(len(mine) - len(other))
    return max(mine.size, other.size)


def apart(mine: Array, other: Array) -> Array:
    """Where values differ, of one shape."""
    if mine.dtype.kind in "iub" and other.dtype.kind in "iub":
        return np.asarray(mine != other)
    first, second = _numbers(mine), _numbers(other)
    return np.asarray(np.abs(first - second) > TOLERANCE * np.maximum(1, np.abs(second)))


def _numbers(values: Array) -> Array:
    return values.astype(np.float64)


def _kind(arrays: Sequence[Array]) -> str:
    """`float32 (3, 224, 224)`; `?` where examples differ."""
    types = {array.dtype.name for array in arrays}
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1:
        return f"{' or '.join(sorted(types))} of {' or '.join(map(str, sorted(ranks)))} axes"
    sizes = (set(axis) for axis in zip(*(array.shape for array in arrays), strict=True))
    dims = ", ".join(str(next(iter(axis))) if len(axis) == 1 else "?" for axis in sizes)
    return f"{' or '.join(sorted(types))} ({dims})"
