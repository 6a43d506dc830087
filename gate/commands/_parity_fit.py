"""How much of one image's pixels another's explain, whatever the order, scale and offset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gate.values import Array

_FEW = 1e-12
_REACH = 4
_LEVEL = 1.0 + 1e-3
"""One grey level, and what float32 adds."""


@dataclass(frozen=True, slots=True)
class Line:
    """theirs = a · x + b, channel by channel, least squares over all pixels."""

    a: Array
    """(C,) of float64."""
    b: Array
    """(C,) of float64."""
    reversed: bool
    """Whether the last channel of x is their first."""
    unexplained: float
    """Share of their variance that is left, 0..1."""

    def of(self, pixels: Array) -> Array:
        """(…, C) of float64: what the line gives for x."""
        ordered = pixels[..., ::-1] if self.reversed else pixels
        return np.asarray(ordered * self.a + self.b)


def line(pixels: Sequence[Array], theirs: Sequence[Array]) -> Line | None:
    """The better one of both orders of channels; None where shapes differ.

    Both are arrays (…, C), one an example, of the same shapes.
    """
    if any(x.shape != y.shape for x, y in zip(pixels, theirs, strict=True)):
        return None
    x, y = _pooled(pixels), _pooled(theirs)
    straight = _least_squares(x, y, reverse=False)
    if x.shape[1] == 1:
        return straight
    turned = _least_squares(x, y, reverse=True)
    return turned if turned.unexplained < straight.unexplained else straight


def _pooled(arrays: Sequence[Array]) -> Array:
    """(M, C) of float64: every pixel of every example."""
    return np.concatenate([one.reshape(-1, one.shape[-1]) for one in arrays]).astype(np.float64)


def _least_squares(x: Array, y: Array, *, reverse: bool) -> Line:
    x = x[:, ::-1] if reverse else x
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    dx, dy = x - mean_x, y - mean_y
    square, both, total = (dx * dx).sum(axis=0), (dx * dy).sum(axis=0), (dy * dy).sum()
    a = np.divide(both, square, out=np.zeros_like(both), where=square > _FEW)
    left = ((dy - a * dx) ** 2).sum()
    return Line(a, mean_y - a * mean_x, reverse, float(left / total) if total > _FEW else 0.0)


def shifted(
    pixels: Sequence[Array], theirs: Sequence[Array]
) -> tuple[tuple[int, int], Line, Sequence[Array], Sequence[Array]] | None:
    """By how many pixels (down, right) their images are moved against ours, if that explains more.

    Also the line between the parts that both show, and these parts. None where unmoved is best.
    """
    found = []
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            parts = _overlaps(pixels, theirs, down, right)
            fitted = None if parts is None else line(*parts)
            if parts is not None and fitted is not None:
                found.append((fitted.unexplained, (down, right), fitted, *parts))
    if not found:
        return None
    best = min(found, key=lambda one: one[0])
    return None if best[1] == (0, 0) else best[1:]


def _overlaps(
    pixels: Sequence[Array], theirs: Sequence[Array], down: int, right: int
) -> tuple[list[Array], list[Array]] | None:
    """What stays of (H, W, C) where theirs is ours, moved."""
    if any(min(one.shape[:2]) <= 2 * _REACH for one in pixels):
        return None
    ours = [_window(one, -down, -right) for one in pixels]
    return ours, [_window(one, down, right) for one in theirs]


def _window(image: Array, down: int, right: int) -> Array:
    """Without the rows and columns that the other one, moved the other way, does not have."""
    height, width = image.shape[:2]
    rows = slice(max(down, 0), height + min(down, 0))
    return image[rows, max(right, 0) : width + min(right, 0)]


def grey_levels(fitted: Line, pixels: Sequence[Array], theirs: Sequence[Array]) -> Array | None:
    """(M, C): how far theirs are from ours in units of x; None where a channel is flat."""
    if (np.abs(fitted.a) < _FEW).any():
        return None
    x, y = _pooled(pixels), _pooled(theirs)
    return np.asarray((y - fitted.of(x)) / fitted.a)


def beyond_rounding(levels: Array) -> Array:
    """Where two images differ by more than one grey level."""
    return np.asarray(np.abs(levels) > _LEVEL)
