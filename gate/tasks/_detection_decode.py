"""Detectors' raw outputs -> boxes: the decoders of the task `detection`, by name.

What each one reads, B images, A places, C classes; pixels are those of the model's input ::

    yolox                (B, A, 5 + C): x, y as shares of a stride from the cell's corner, ln w and
                         ln h in strides, objectness, classes; the score is objectness · class, and
                         a place is its best class alone, as in YOLOX; suppressed by class
    yolov8               (B, 4 + C, A): centre, size, classes (v8, v11), or (B, A, 5 + C): centre,
                         size, objectness, classes (v5), both decoded to pixels; a place counts for
                         every class that scores, as in Ultralytics' validation; suppressed by class
    centernet            heatmap (B, C, H, W) after its sigmoid, box (B, 4, H, W): dx, dy, ln w,
                         ln h in strides; a box at each cell that is the highest of its 3 × 3
                         neighbours, its centre at (x + dx, y + dy) · stride, with x and y
                         whole numbers; `peaks: false` takes all cells, suppressed by class
    boxes-scores-labels  (B, K, 4), (B, K), (B, K): suppressed within the graph, or DETR; a score
                         of 0 or a label of −1 pads

yolov8's two forms are told apart by their shapes: places are many and channels few, so the shorter
axis is that of the channels. Boxes are not cut off at the image's edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gate.errors import DataError, EvaluationError, UsageError
from gate.pictures import output_size
from gate.policy import Build
from gate.tasks import _binding as binding
from gate.tasks._detection_boxes import CORNERS, highest, suppress
from gate.values import Array, Ragged, TensorSpec

COLUMNS = 6
"""Of a detection: class, score, x1, y1, x2, y2."""
MOST_CLASSES = 100_000
"""Where nothing tells how many there are: a larger number is no class."""
_CORNERS = 4
_WITH_OBJECTNESS = 5
_YOLOX_STRIDES = (8, 16, 32)
_LIMITS = ("score", "most", "flip_score")
_SLACK = 1e-3
"""A float32 sigmoid rounds, and a label may be a float."""


class Found(NamedTuple):
    """Boxes of one image before the weak and the double ones are left out."""

    classes: Array
    """(n,)"""
    scores: Array
    """(n,)"""
    boxes: Array
    """(n, 4) corners, in pixels of the model's input."""


@dataclass(frozen=True, slots=True)
class Head:
    """A decoder fitted to a model's outputs."""

    classes: int | None
    """Classes that it can predict; None where outputs do not tell."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of an example by output that is read."""
    find: Callable[[tuple[Array, ...]], Found]
    """One image's outputs, in the order of `shapes`, in float64, to its boxes."""
    keep: "_Keep"
    """Which of them stay, (n,) places by falling score."""

    def decode(self, outputs: Mapping[str, Array]) -> Ragged:
        """Rows (class, score, x1, y1, x2, y2) an image, one of NaN where it is not finite.

        Raises:
            EvaluationError: an output is missing, or of another shape than FP32's.
        """
        raw = [binding.read(outputs, name, shape) for name, shape in self.shapes.items()]
        entries = [self._entry(tuple(one)) for one in zip(*raw, strict=True)]
        return Ragged.of(entries, COLUMNS)

    def _entry(self, image: tuple[Array, ...]) -> Array:
        if not all(np.isfinite(values).all() for values in image):
            return np.full((1, COLUMNS), np.nan)
        with np.errstate(over="ignore", invalid="ignore"):  # what has no end is seen in the row
            found = self.find(image)
            kept = self.keep(found)
        return np.column_stack([found.classes[kept], found.scores[kept], found.boxes[kept]])


_Keep = Callable[[Found], Array]


def _suppressed(build: Build) -> _Keep:
    """By class, of those that score enough."""
    asked = build.decode

    def keep(found: Found) -> Array:
        strong = np.flatnonzero(found.scores >= asked.score)
        values = (values[strong] for values in found)
        return np.asarray(strong[suppress(*values, iou=asked.iou, most=asked.most)])

    return keep


def _highest(build: Build) -> _Keep:
    """Whatever they overlap; a score of 0 is none."""
    asked = build.decode

    def keep(found: Found) -> Array:
        strong = (found.scores >= asked.score) & (found.scores > 0)
        return highest(found.scores, np.flatnonzero(strong), asked.most)

    return keep


# ── heads with a row a place ──────────────────────────────────────────────────────────────


def _fit_yolox(build: Build, specs: tuple[TensorSpec, ...], first: Mapping[str, Array]) -> Head:
    asked = build.decode
    name = binding.only_output(build, specs)
    shape = _scores(name, first).shape
    channels, size = _channels(build, _WITH_OBJECTNESS), _input_size(build)
    cells, strides = _grid(size, asked.strides or _YOLOX_STRIDES)
    if len(shape) != 3 or shape[1] != len(cells) or not channels(shape[2]):  # noqa: PLR2004
        raise _misfit(
            build,
            f"(B, {len(cells)}, {_told(build, _WITH_OBJECTNESS)}) for an input of {size[0]} × "
            f"{size[1]} (height × width) and strides {list(asked.strides or _YOLOX_STRIDES)}",
            {name: shape},
        )

    _demand_shares(name, first[name][..., _CORNERS:])

    def find(image: tuple[Array, ...]) -> Found:
        (raw,) = image
        sides = np.exp(raw[:, 2:4]) * strides
        boxes = np.hstack([(raw[:, :2] + cells) * strides, sides])
        best = raw[:, 5:].argmax(axis=1)
        scores = raw[:, 4] * raw[np.arange(len(raw)), 5 + best]
        return Found(best, scores, CORNERS["cxcywh"](boxes))

    keep = _suppressed(build)
    return Head(shape[2] - _WITH_OBJECTNESS, {name: shape[1:]}, find, keep)


def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Array, Array]:
    """(A, 2) the cells' x and y, and (A, 1) their strides, grid after grid, row after row."""
    cells, steps = [], []
    for stride in strides:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.column_stack([x.ravel(), y.ravel()]))
        steps.append(np.full((x.size, 1), float(stride)))
    return np.concatenate(cells).astype(np.float64), np.concatenate(steps)


def _fit_yolov8(build: Build, specs: tuple[TensorSpec, ...], first: Mapping[str, Array]) -> Head:
    asked = build.decode
    name = binding.only_output(build, specs)
    shape = _scores(name, first).shape
    turned = len(shape) == 3 and shape[1] < shape[2]  # noqa: PLR2004
    before = _CORNERS if turned else _WITH_OBJECTNESS
    if len(shape) != 3 or not _channels(build, before)(min(shape[1:])) or shape[1] == shape[2]:  # noqa: PLR2004
        wanted = f"(B, {_told(build, _CORNERS)}, A) or (B, A, {_told(build, _WITH_OBJECTNESS)})"
        raise _misfit(build, f"{wanted}, with more places A than channels", {name: shape})
    _demand_shares(name, first[name][:, _CORNERS:] if turned else first[name][..., _CORNERS:])
    scale = _scale(build)

    def find(image: tuple[Array, ...]) -> Found:
        rows = image[0].T if turned else image[0]
        scores = rows[:, 4:] if turned else rows[:, 4:5] * rows[:, 5:]
        places, classes = np.nonzero(scores >= asked.score)
        corners = CORNERS["cxcywh"](rows[places, :4] * scale)
        return Found(classes, scores[places, classes], corners)

    keep = _suppressed(build)
    return Head(min(shape[1:]) - before, {name: shape[1:]}, find, keep)


# ── heads of other forms ──────────────────────────────────────────────────────────────────


def _fit_centernet(build: Build, specs: tuple[TensorSpec, ...], first: Mapping[str, Array]) -> Head:
    asked = build.decode
    if asked.peaks and "iou" in asked.model_fields_set:
        raise UsageError(
            "`decode: {as: centernet}` takes peaks and reads no `iou`: delete it, or write "
            "`peaks: false` to suppress boxes instead"
        )
    named = binding.outputs_by_role(build, specs, ("heatmap", "box"))
    heat, box = (_scores(name, first).shape for name in named.values())
    fits = len(heat) == len(box) == 4 and box[1] == _CORNERS and heat[2:] == box[2:]  # noqa: PLR2004
    if not fits or not _channels(build, 0)(heat[1]):
        wanted = f"heatmap (B, {_told(build, 0)}, H, W) and box (B, 4, H, W)"
        raise _misfit(build, wanted, dict(zip(named.values(), (heat, box), strict=True)))
    _demand_shares(named["heatmap"], np.asarray(first[named["heatmap"]]))
    stride = _one_stride(build, (heat[2], heat[3]))

    def find(image: tuple[Array, ...]) -> Found:
        heatmap, sides = image
        strong = heatmap >= asked.score
        classes, y, x = np.nonzero(strong & peaks(heatmap) if asked.peaks else strong)
        dx, dy, width, height = sides[:, y, x]
        centres = np.column_stack([x + dx, y + dy, np.exp(width), np.exp(height)]) * stride
        return Found(classes, heatmap[classes, y, x], CORNERS["cxcywh"](centres))

    keep = _highest(build) if asked.peaks else _suppressed(build)
    shapes = {named["heatmap"]: heat[1:], named["box"]: box[1:]}
    return Head(heat[1], shapes, find, keep)


def peaks(heatmap: Array) -> Array:
    """(C, H, W) of bool: cells that none of their eight neighbours exceeds."""
    padded = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.asarray(heatmap >= around.max(axis=(3, 4)))


def _one_stride(build: Build, cells: tuple[int, int]) -> int:
    asked = build.decode.strides
    if len(asked) == 1 and build.decode.size is None:
        return asked[0]
    size = _input_size(build)
    found = size[0] // cells[0]
    if (
        len(asked) > 1
        or asked not in ((), (found,))
        or size != (found * cells[0], found * cells[1])
    ):
        raise UsageError(
            f"`decode: {{as: centernet}}` has one grid, here {cells[0]} × {cells[1]} cells, and an "
            f"input of {size[0]} × {size[1]} (height × width): with `strides: {list(asked)}` they "
            "do not fit together. Correct `size`, or write the one stride: `strides: [8]`"
        )
    return found


def _fit_listed(build: Build, specs: tuple[TensorSpec, ...], first: Mapping[str, Array]) -> Head:
    asked = build.decode
    named = binding.outputs_by_role(build, specs, ("boxes", "scores", "labels"))
    boxes, scores, labels = (np.asarray(first[name]).shape for name in named.values())
    fits = len(boxes) == 3 and boxes[2] == _CORNERS  # noqa: PLR2004
    if not fits or not scores[1:] == labels[1:] == boxes[1:2]:
        found = dict(zip(named.values(), (boxes, scores, labels), strict=True))
        raise _misfit(build, "boxes (B, K, 4), scores (B, K) and labels (B, K)", found)
    for role in ("boxes", "scores"):
        binding.demand_floats(named[role], np.asarray(first[named[role]]))
    _demand_shares(named["scores"], np.asarray(first[named["scores"]]))
    scale = _scale(build)

    def find(image: tuple[Array, ...]) -> Found:
        corners, strength, classes = image
        classes = _whole(named["labels"], classes, build.classes)
        strength = np.where(classes == -1, 0.0, strength)
        return Found(classes, strength, CORNERS[asked.boxes](corners * scale))

    keep = _highest(build)
    shapes = {named["boxes"]: boxes[1:], named["scores"]: scores[1:], named["labels"]: labels[1:]}
    return Head(len(build.classes) or None, shapes, find, keep)


def _whole(name: str, labels: Array, classes: tuple[str, ...]) -> Array:
    """(K,) class numbers, of floats too; raises EvaluationError where one is none."""
    most = len(classes or range(MOST_CLASSES)) - 1
    numbers: Array = np.round(labels)
    wrong = (numbers < -1) | (numbers > most) | (np.abs(labels - numbers) > _SLACK)
    if wrong.any():
        raise EvaluationError(
            f"output {name!r} holds {labels[wrong][0]:.6g} as a label; expected a whole number, "
            f"0 to {most}, or −1 where there is no box. Name the output that holds classes in "
            "`decode.outputs`, and all classes in `build.classes`"
        )
    return numbers


# ── what fits ─────────────────────────────────────────────────────────────────────────────


def _scores(name: str, first: Mapping[str, Array]) -> Array:
    sample = np.asarray(first[name])
    binding.demand_floats(name, sample)
    return sample


def _demand_shares(name: str, scores: Array) -> None:
    """Raises DataError where scores lie outside of 0..1: they are logits, or no scores."""
    values = scores[np.isfinite(scores)]
    if values.size and (values.min() < -_SLACK or values.max() > 1 + _SLACK):
        raise DataError(
            f"the scores of output {name!r} are to lie in 0..1 and reach from {values.min():.4g} "
            f"to {values.max():.4g}: it is taken before its sigmoid, or it is another output; "
            "export the model with the sigmoid, or mend `build.decode`"
        )


def _channels(build: Build, before: int) -> Callable[[int], bool]:
    """Whether a number of channels is `before` and then the classes."""
    named = len(build.classes)
    return lambda count: count - before == named if named else count > before


def _told(build: Build, before: int) -> str:
    named = len(build.classes)
    return str(before + named) if named else f"{before} + C" if before else "C"


def _misfit(build: Build, wanted: str, found: Mapping[str, tuple[int, ...]]) -> DataError:
    told = " and ".join(f"{name!r} {binding.told('B', shape)}" for name, shape in found.items())
    classes = f", with {len(build.classes)} names in `build.classes`" if build.classes else ""
    return DataError(
        f"`decode: {{as: {build.decode.name}}}` reads {wanted}{classes}, and the model gives "
        f"{told}: name another output or decoder, or correct `size`, `strides` or `build.classes`"
    )


def _input_size(build: Build) -> tuple[int, int]:
    """(height, width) of the model's input.

    Raises:
        UsageError: neither `decode.size` nor `preprocess` tells.
    """
    made = output_size(build.preprocess) if build.preprocess else (None, None)
    size = build.decode.size or made
    if size[0] is None or size[1] is None:
        raise UsageError(
            f"`decode: {{as: {build.decode.name}}}` has to know the size of the model's input: "
            "write `size: [height, width]` in `build.decode`"
        )
    return size[0], size[1]


def _scale(build: Build) -> Array:
    """(4,) what turns a box's numbers into pixels of the input."""
    if not build.decode.normalized:
        return np.ones(4)
    height, width = _input_size(build)
    return np.array([width, height, width, height], dtype=np.float64)


_Fit = Callable[[Build, tuple[TensorSpec, ...], Mapping[str, Array]], Head]
DECODERS: Mapping[str, tuple[_Fit, tuple[str, ...]]] = {
    "yolox": (_fit_yolox, ("output", "iou", "strides", "size", *_LIMITS)),
    "yolov8": (_fit_yolov8, ("output", "iou", "normalized", "size", *_LIMITS)),
    "centernet": (_fit_centernet, ("outputs", "strides", "size", "peaks", "iou", *_LIMITS)),
    "boxes-scores-labels": (
        _fit_listed,
        ("outputs", "boxes", "normalized", "size", *_LIMITS),
    ),
}
"""Each decoder, and the fields of `build.decode` that it reads."""
