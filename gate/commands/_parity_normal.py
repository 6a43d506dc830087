"""From the line between pixels and what a function gives to scale, mean and std."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate.commands._parity_fit import Line
from gate.sources import Preprocess
from gate.values import Array

_BYTE = 1 / 255
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_USUAL = (_IMAGENET, _CLIP, ((0.5,), (0.5,)), ((0.5,) * 3, (0.5,) * 3))
_SLACK = 1e-4
"""Of the range of values: what a line is off by where pixels are exact."""
_DIGITS = 6
_FAR = 1e-2
_FLAT = 1e-9
_NOTHING = 1e-3
"""Of a grey level."""


@dataclass(frozen=True, slots=True)
class Normal:
    """`(x * scale - mean) / std` as a · x + b."""

    a: Array
    b: Array

    @classmethod
    def of(cls, preprocess: Preprocess, channels: int) -> "Normal":
        """(C,) each, of what a policy says."""
        return cls.made(preprocess.scale, preprocess.mean, preprocess.std, channels)

    @classmethod
    def made(
        cls, scale: float, mean: Sequence[float], std: Sequence[float], channels: int
    ) -> "Normal":
        """Of these numbers, one or one a channel."""
        mean_, std_ = (
            np.broadcast_to(np.array(values, dtype=np.float64), channels)
            if len(values) in (1, channels)
            else np.full(channels, default)
            for values, default in ((mean, 0.0), (std, 1.0))
        )
        return cls(scale / std_, -mean_ / std_)


def differs(fitted: Line, given: Normal, pixels: Sequence[Array], theirs: Sequence[Array]) -> bool:
    """Whether the function normalises otherwise, by more than the line may be off."""
    return _off(fitted, given, pixels) > _allowed(fitted, theirs)


def _off(fitted: Line, other: Normal, pixels: Sequence[Array]) -> float:
    """How far two lines are apart at most, where there are pixels."""
    ends = np.array([[min(x.min() for x in pixels)], [max(x.max() for x in pixels)]])
    return float(np.abs((fitted.a * ends + fitted.b) - (other.a * ends + other.b)).max())


def _allowed(fitted: Line, theirs: Sequence[Array]) -> float:
    spread = max(float(y.max()) for y in theirs) - min(float(y.min()) for y in theirs)
    return (_SLACK + 3 * float(np.sqrt(fitted.unexplained))) * max(spread, _FLAT)


def normal(
    fitted: Line, given: Preprocess, pixels: Sequence[Array], theirs: Sequence[Array]
) -> dict[str, Any]:
    """Fields of `build.preprocess` that give the line: usual numbers where they do."""
    allowed, channels = _allowed(fitted, theirs), len(fitted.a)
    usual = [
        (
            _off(fitted, Normal.made(scale, mean, std, channels), pixels),
            {"scale": scale, "mean": mean, "std": std},
        )
        for scale, mean, std in _usual(given)
        if all(len(values) in (0, 1, channels) for values in (mean, std))
    ]
    least, best = min(usual, key=lambda one: one[0])
    return best if least <= allowed else _measured(fitted)


def _usual(given: Preprocess) -> Iterator[tuple[float, tuple[float, ...], tuple[float, ...]]]:
    """Scale, mean and std as they are usually written, and the policy's own."""
    for scale in (1.0, _BYTE, given.scale, 1 / 127.5, 1 / 128):
        yield scale, (), ()
        yield scale, given.mean, given.std
        for mean, std in _USUAL:
            yield scale, mean, std
            yield scale, tuple(255 * one for one in mean), tuple(255 * one for one in std)
            yield scale, mean[::-1], std[::-1]
    yield 1 / 127.5, (1.0,), ()


def _measured(fitted: Line) -> dict[str, Any]:
    """As measured, to six digits."""
    a, b = fitted.a, fitted.b
    scale = float(np.sign(a[0]) * _BYTE)
    if (np.sign(a) != np.sign(a[0])).any() or not a.all():
        return {}
    std = scale / a
    mean = -b * std
    digits = [tuple(float(f"{one:.{_DIGITS}g}") for one in values) for values in (mean, std)]
    alike = [tuple(dict.fromkeys(values)) for values in digits]
    mean_, std_ = alike if all(len(one) == 1 for one in alike) else digits
    return {"scale": scale, "mean": mean_, "std": std_}


def told(fitted: Line, given: Normal, preprocess: Preprocess) -> str:
    """`it does not scale: it gives a·x + b of pixels x with a = …`."""
    label = _label(fitted, preprocess)
    b = np.where(np.abs(fitted.b) < _NOTHING * np.abs(fitted.a), 0.0, fitted.b)
    numbers = (
        f"of pixels x it gives a·x + b with a = {_list(fitted.a)} and b = {_list(b)}, the "
        f"policy a = {_list(given.a)} and b = {_list(given.b)}"
    )
    return f"{label}; {numbers}" if label else numbers


def _label(fitted: Line, given: Preprocess) -> str | None:
    """What happened to normalisation, where it has a name."""
    channels = len(fitted.a)
    scale, mean, std = given.scale, given.mean, given.std
    ours = Normal.of(given, channels)
    plain = Normal.made(1.0, mean, std, channels)
    named = {
        "the function does not normalise at all": Normal.made(1.0, (), (), channels),
        "the function does not scale": plain,
        "the function scales only, without mean and std": Normal.made(scale, (), (), channels),
        "the function scales twice": Normal.made(scale * scale, mean, std, channels),
        "the function applies mean and std twice": Normal(
            ours.a * plain.a, ours.b * plain.a + plain.b
        ),
        "the policy does not scale": Normal.made(_BYTE, mean, std, channels),
    }
    for label, one in named.items():
        far = max(_relative(fitted.a, one.a), _relative(fitted.b, one.b))
        is_ours = _relative(one.a, ours.a) + _relative(one.b, ours.b) == 0
        if far < _FAR and not is_ours:
            return label
    if not (mean or std) and np.abs(fitted.b).max() > _FAR:
        return "the policy has no mean and std"
    return None


def _relative(first: Array, second: Array) -> float:
    return float((np.abs(first - second) / np.maximum(np.abs(second), 1e-3)).max())


def _list(values: Array) -> str:
    shown = [f"{value + 0.0:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"[{', '.join(shown)}]"
