"""Why a layer loses more than others: what the probe saw of it, held against known causes. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gate.backends import READINGS, Point
from gate.diagnosis import Cause
from gate.values import Array

ADDING = frozenset({"Add", "Concat", "Sub", "Sum"})
"""Operators whose inputs' errors count as they are, and not relative to the signal."""
_DELICATE = frozenset({"Add", "Div", "LayerNormalization", "Mul", "Pow", "Softmax", "Sqrt", "Sub"})
"""What stands between the matrix products of a transformer."""
_UNEQUAL = 8.0
"""Ranges that differ by so much waste three of eight bits of the smaller one."""
_SLACK = 1e-3
"""By which sums of 32-bit squares may differ."""
_RARE = 0.001
"""Share of values up to which what lies far out is an outlier."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a probe summed up over all examples."""

    points: tuple[Point, ...]
    sums: Array
    """(P, readings) of float64; the share of far values is a mean."""
    peaks: Mapping[int, Array]
    """(C,) largest value of each channel, by place."""
    examples: int

    def reading(self, name: str) -> Array:
        """(P,) of one of `READINGS`."""
        return np.asarray(self.sums[:, READINGS.index(name)])


def by_rounding(seen: Seen, place: int) -> bool:
    """Whether rounding a layer's outputs costs more than rounding its weights."""
    return bool(seen.reading("rounding")[place] >= seen.reading("own")[place] / 2)


def cause(seen: Seen, place: int) -> Cause | None:
    """What spoils a layer, where that can be told: the first that fits."""
    tried = _OF_ACTIVATIONS if by_rounding(seen, place) else _OF_WEIGHTS
    return next((found for try_ in (*tried, *_OF_PLACE) if (found := try_(seen, place))), None)


# ── rounding what a layer gives ───────────────────────────────────────────────────────────


def _saturated(seen: Seen, place: int) -> Cause | None:
    rounding, clipped = (seen.reading(name)[place] for name in ("rounding", "clipped"))
    ends = seen.points[place].ends
    if ends is None or not 0 < rounding / 2 <= clipped <= rounding * (1 + _SLACK):
        return None
    peak = float(seen.peaks[place].max()) if place in seen.peaks else math.nan
    reach = f" and values reach {peak:.4g}" if math.isfinite(peak) else ""
    return Cause(
        name="saturation",
        detail=f"the integers end at {ends[0]:.4g} and {ends[1]:.4g}{reach}, and "
        f"{min(100.0, 100 * clipped / rounding):.0f} % of the rounding error is what is cut off",
    )


def _unequal_inputs(seen: Seen, place: int) -> Cause | None:
    point = seen.points[place]
    if point.op not in ADDING:
        return None
    read = {one.tensor: one.ends for one in seen.points if one.tensor in point.sources}
    reach = {name: max(map(abs, ends)) for name, ends in read.items() if ends is not None}
    if len(reach) < 2 or max(reach.values()) < _UNEQUAL * min(reach.values()):  # noqa: PLR2004
        return None
    wide, narrow = (pick(reach, key=lambda name: reach[name]) for pick in (max, min))
    return Cause(
        name="unequal inputs",
        detail=f"it joins {wide} (up to {reach[wide]:.4g}) with {narrow} (up to "
        f"{reach[narrow]:.4g}), and one scale for both leaves the smaller few steps",
    )


def _outlying_channel(seen: Seen, place: int) -> Cause | None:
    told = _outlier(seen, place)
    if told is None:
        return None
    return Cause(name="range outlier", detail=f"{told}, and one scale leaves the others few steps")


def _outlier(seen: Seen, place: int) -> str | None:
    peaks = seen.peaks.get(place)
    if peaks is None or len(peaks) < 3 or not np.isfinite(peaks).all():  # noqa: PLR2004
        return None
    largest, middle = float(peaks.max()), float(np.median(peaks))
    if middle <= 0 or largest < _UNEQUAL * middle:
        return None
    return (
        f"channel {int(peaks.argmax())} of {seen.points[place].tensor} reaches {largest:.4g} and "
        f"the median channel {middle:.4g}"
    )


def _outlying_values(seen: Seen, place: int) -> Cause | None:
    far, ends = seen.reading("far")[place], seen.points[place].ends
    if ends is None or not far <= _RARE:
        return None
    share = f"{100 * (1 - far):.4g} % of the values lie" if far else "all values seen here lie"
    return Cause(
        name="range outlier",
        detail=f"{share} within an eighth of the range, which is {ends[0]:.4g} to {ends[1]:.4g}",
    )


# ── rounding its weights ──────────────────────────────────────────────────────────────────


def _unequal_weights(seen: Seen, place: int) -> Cause | None:
    point = seen.points[place]
    if point.weights is None or point.scales != 1 or len(point.weights) < 2:  # noqa: PLR2004
        return None
    largest, middle = float(point.weights.max()), float(np.median(point.weights))
    if not largest > _UNEQUAL / 2 * middle:
        return None
    return Cause(
        name="unequal channels",
        detail=f"the weights of one channel reach {largest:.4g} and of the median one "
        f"{middle:.4g}, and one scale for all leaves the others few steps",
    )


def _reads_an_outlier(seen: Seen, place: int) -> Cause | None:
    """Rounding a weight costs as much as what it is multiplied with is large."""
    sources = seen.points[place].sources
    read = (p for p, point in enumerate(seen.points) if point.tensor in sources)
    told = next((text for p in read if (text := _outlier(seen, p))), None)
    if told is None or seen.points[place].weights is None:
        return None
    return Cause(
        name="unequal channels",
        detail=f"{told}, which multiplies what rounding its weights loses",
    )


# ── what and where it is ──────────────────────────────────────────────────────────────────


def _delicate(seen: Seen, place: int) -> Cause | None:
    op = seen.points[place].op
    if op not in _DELICATE or not _is_transformer(seen.points):
        return None
    return Cause(
        name="delicate operator",
        detail=f"{op} of a transformer multiplies no matrices, so INT8 saves little there",
    )


def _is_transformer(points: Sequence[Point]) -> bool:
    """A product of what a Softmax gives, or a LayerNormalization; a CNN may end in a Softmax."""
    soft = {point.tensor for point in points if point.op == "Softmax"}
    return any(
        point.op == "LayerNormalization"
        or (point.op == "MatMul" and not soft.isdisjoint(point.sources))
        for point in points
    )


def _depthwise(seen: Seen, place: int) -> Cause | None:
    point = seen.points[place]
    if point.op != "Conv" or point.weights is None or not 1 < point.groups == len(point.weights):
        return None
    return Cause(
        name="depthwise",
        detail="one filter a channel sums few products, so that errors hardly average out",
    )


def _at_an_end(seen: Seen, place: int) -> Cause | None:
    point = seen.points[place]
    inputs = {one.tensor for one in seen.points if not one.node}
    if point.weights is None:
        return None
    if point.sources and inputs.issuperset(point.sources):
        return Cause(name="first layer", detail="the layers after it compute with its error")
    if point.is_output:
        return Cause(name="last layer", detail="nothing after it averages its error out")
    return None


_OF_ACTIVATIONS: Sequence[Callable[[Seen, int], Cause | None]] = (
    _saturated,
    _unequal_inputs,
    _outlying_channel,
    _outlying_values,
)
_OF_WEIGHTS: Sequence[Callable[[Seen, int], Cause | None]] = (_unequal_weights, _reads_an_outlier)
_OF_PLACE: Sequence[Callable[[Seen, int], Cause | None]] = (_delicate, _depthwise, _at_an_end)
