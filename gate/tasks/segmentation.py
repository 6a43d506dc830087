"""Semantic segmentation: a class for every pixel; images are the units.

Decoders: `logits` and `probabilities` take an output (B, C, H, W), the first of equal classes
wins, or of two classes an output (B, 1, H, W) or (B, H, W) of class 1; `classes` takes whole
numbers (B, H, W). Targets (N, H, W) are class numbers; 255 counts for nothing, as in Pascal VOC
and Cityscapes, and is no setting, so that no change of the build can leave pixels out.

With I, P and A the pixels of a class that are in both, predicted and actual, over all images ::

    miou            mean of I / (P + A − I) over the classes that are predicted or actual
    dice            mean of 2 I / (P + A) over the same: F1
    iou_<class>     I / (P + A − I) of one class, by its name in `build.classes` or its number
    pixel_accuracy  Σ I / Σ A
    pixel_flips     share of pixels that INT8 gives another class than FP32

M. Everingham et al. (2010), "The Pascal Visual Object Classes Challenge", IJCV 88, for the first.
All lie in 0..1 and are undefined where no pixel counts; `iou_<class>` where its class is nowhere.

Rows an image: I, P and A of each class, 3 C; I and the union of one; pixels changed and all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from gate import door
from gate.errors import DataError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._by_class import by_class
from gate.tasks._summaries import observing, of_changes
from gate.values import Array, Rows, TensorSpec, Values

_IGNORED = 255
_IMAGE, _SCORED = 3, 4
"""Axes of (B, H, W) and of (B, C, H, W)."""
_OF_CLASS = re.compile(r"iou_(.+)")
_CUT = {"logits": 0.0, "probabilities": 0.5}
"""What class 1 has to exceed where it stands alone."""
KNOWN: Mapping[str, Traits] = {
    "miou": Traits(),
    "pixel_accuracy": Traits(),
    "dice": Traits(),
    "pixel_flips": Traits(relative=True, higher_is_better=False),
}


class Segmentation:
    """The task `segmentation`; see `gate.tasks.Task`."""

    key: str = "segmentation"
    unit: str = "image"
    decoders: tuple[str, ...] = ("logits", "probabilities", "classes")
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric; `iou_<class>` takes any class."""
        return Traits() if _OF_CLASS.fullmatch(metric) else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to an output and to targets (N, H, W) of the same resolution.

        Raises:
            DataError: shapes or resolutions differ, or a pixel has no class; says which image.
            UsageError: the policy names an output, decoder or number of classes that does not
                exist.
        """
        decoder = binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        maps = binding.demand_array(self.key, targets, "a class for every pixel, (N, H, W),")
        problem = _problem(decoder, output, np.asarray(first[output]), build.classes, maps)
        if maps is not None:
            problem.encode(maps)
        metrics = binding.labelled(_catalogue(problem), maps)
        return BoundTask(
            kind=f"{problem.size} classes",
            decode=partial(_decode, output=output, problem=problem),
            metrics=metrics,
            metric=partial(_metric, problem, metrics),
            parts=partial(by_class, "IoU", "area", problem.names, _ious),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics of rows observed earlier; a class is known by the name its rows have."""
        names = tuple(match[1] for match in map(_OF_CLASS.fullmatch, rows) if match)
        problem = Problem("logits", (), len(names), names)
        return partial(_metric, problem, binding.labelled(_catalogue(problem), targets))


# ── what there is to predict ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Problem:
    """Classes, and how an output tells them."""

    decoder: str
    shape: tuple[int, ...]
    """Of the output, without the batch."""
    size: int
    """C."""
    names: tuple[str, ...]
    """Of the classes; their numbers where the policy names none."""

    def encode(self, targets: Array) -> Array:
        """(B, H, W) of class numbers as int64, −1 where a pixel counts for nothing.

        Raises:
            DataError: a pixel has no class; names the first.
        """
        if targets.dtype.kind not in "biu":
            raise DataError(
                f"targets hold {targets.dtype}; segmentation takes whole numbers, the class of "
                f"each pixel or {_IGNORED}"
            )
        ignored = targets == _IGNORED
        if self.size > _IGNORED and ignored.any():
            raise DataError(
                f"targets hold {_IGNORED}, which counts for nothing, and of the {self.size} "
                f"classes one has that number: its pixels would be left out. Give class {_IGNORED} "
                "another number, in the model and in the targets"
            )
        wrong = ~ignored & ((targets < 0) | (targets >= self.size))
        if wrong.any():
            expected = f"expected a class, 0 to {self.size - 1}, or {_IGNORED} for none"
            raise binding.wrong_target(targets, wrong, expected)
        return np.where(ignored, -1, targets.astype(np.int64))


def _problem(
    decoder: str, output: str, sample: Array, classes: tuple[str, ...], targets: Array | None
) -> Problem:
    """From shapes, and from the names where an output holds class numbers alone."""
    whole = np.issubdtype(sample.dtype, np.integer)
    axes = (_IMAGE,) if decoder == "classes" else (_IMAGE, _SCORED)
    if whole != (decoder == "classes") or sample.ndim not in axes or 0 in sample.shape[1:]:
        raise DataError(
            f"output {output!r} {binding.told('B', sample.shape)} of {sample.dtype} does not fit "
            f"`decode: {decoder}`; logits and probabilities are floating-point (B, C, H, W) or "
            "(B, H, W), classes are whole numbers (B, H, W)"
        )
    if targets is not None:
        _demand_resolution(output, sample.shape, targets)
    size = _size(decoder, output, sample, classes)
    if classes and (len(classes) != size or len(set(classes)) != size):
        raise UsageError(
            f"`build.classes` must name the {size} classes of output {output!r}, each once; it has "
            f"{len(classes)} names, {len(set(classes))} of them distinct"
        )
    names = classes or tuple(map(str, range(size)))
    return Problem(decoder, sample.shape[1:], size, names)


def _demand_resolution(output: str, raw: tuple[int, ...], targets: Array) -> None:
    if targets.ndim != _IMAGE:
        raise DataError(
            f"targets are {binding.told('N', targets.shape)}; segmentation takes (N, H, W), the "
            "class of every pixel"
        )
    if targets.shape[1:] != raw[-2:]:
        raise DataError(
            f"targets are {targets.shape[1]} × {targets.shape[2]} pixels and output {output!r} "
            f"{raw[-2]} × {raw[-1]}: both need one resolution. Resize inside the model, as "
            "production does, or save the targets at the output's"
        )


def _size(decoder: str, output: str, sample: Array, classes: tuple[str, ...]) -> int:
    """How many classes there are."""
    if decoder != "classes":
        return max(sample.shape[1], 2) if sample.ndim == _SCORED else 2
    if not classes:
        raise UsageError(
            "`decode: classes` reads class numbers, which do not tell how many classes there are: "
            "name all of them in `build.classes`"
        )
    beyond = (sample < 0) | (sample >= len(classes))
    if beyond.any():
        raise DataError(
            f"output {output!r} holds {sample[beyond][0]}, and `build.classes` names "
            f"{len(classes)}: 0 to {len(classes) - 1}; name every class that the model tells"
        )
    return len(classes)


def _decode(outputs: Mapping[str, Array], *, output: str, problem: Problem) -> Array:
    """(B, H, W) of class numbers in float64; NaN for an image with any value not finite.

    A number beyond the classes stays one: it is wrong everywhere.
    """
    raw = binding.read(outputs, output, problem.shape)
    if problem.decoder == "classes":
        return raw
    return binding.where_finite(raw, partial(_predict, cut=_CUT[problem.decoder]))


def _predict(scores: Array, *, cut: float) -> Array:
    if scores.ndim == _SCORED and scores.shape[1] > 1:
        return np.asarray(scores.argmax(axis=1))
    alone = scores[:, 0] if scores.ndim == _SCORED else scores
    return np.asarray(alone > cut)


# ── rows ──────────────────────────────────────────────────────────────────────────────────


def _areas(predicted: Array, targets: Array, *, problem: Problem) -> Array:
    """(B, 3 C): pixels of each class in both, predicted, and actual."""
    actual = problem.encode(targets)
    predicted = np.nan_to_num(predicted, nan=-1).astype(np.int64)
    counted = actual >= 0
    hits = _count(actual, counted & (predicted == actual), problem.size)
    known = counted & (predicted >= 0) & (predicted < problem.size)
    sides = _count(predicted, known, problem.size), _count(actual, counted, problem.size)
    return np.hstack([hits, *sides])


def _count(maps: Array, counted: Array, size: int) -> Array:
    """(B, C) pixels of each class, of those that are `counted`."""
    images = np.broadcast_to(np.arange(len(maps)).reshape(-1, 1, 1), maps.shape)
    cells = images[counted] * size + maps[counted]
    return np.bincount(cells, minlength=len(maps) * size).reshape(len(maps), size)


def _area(predicted: Array, targets: Array, *, problem: Problem, place: int) -> Array:
    """(B, 2): of one class the pixels in both, and in either."""
    hits, guessed, actual = np.hsplit(_areas(predicted, targets, problem=problem), 3)
    return np.stack([hits, guessed + actual - hits], axis=2)[:, place]


def _flips(int8: Array, fp32: Array, targets: Array | None, *, problem: Problem) -> Array:
    """(B, 2): pixels of another class, and pixels that count."""
    counted = np.ones(int8.shape, dtype=bool) if targets is None else problem.encode(targets) >= 0
    changed = (int8 != fp32) & counted
    return np.stack([binding.flat(side).sum(axis=1) for side in (changed, counted)], axis=1)


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue(problem: Problem) -> list[Metric]:
    return [
        _of_areas("miou", problem, _miou),
        _of_areas("pixel_accuracy", problem, _accuracy),
        _of_areas("dice", problem, _dice),
        of_changes("pixel_flips", "pixel_flip", partial(_flips, problem=problem)),
    ]


def _metric(problem: Problem, metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    match = _OF_CLASS.fullmatch(name)
    if match is None or "miou" not in metrics:
        raise binding.no_metric(name, metrics, TASK.traits(name), "segmentation")
    if match[1] not in problem.names:
        raise UsageError(door.unknown("class", match[1], problem.names) + f"; for {name!r}")
    return _of_class(name, problem, problem.names.index(match[1]))


def _of_areas(name: str, problem: Problem, of: Callable[[Array, Array, Array], float]) -> Metric:
    def summary(values: Array) -> float:
        hits, predicted, actual = np.split(values.sum(axis=0), 3)
        return of(hits, predicted, actual) if actual.sum() else float("nan")

    return Metric(
        name=name,
        observation="area",
        observe=observing(partial(_areas, problem=problem)),
        summarize=agreement.defined(summary),
        higher_is_better=True,
        flaws=_flawed,
    )


def _flawed(rows: Rows) -> Array:
    """(N,) of bool: images with a pixel that is wrong."""
    hits, _, actual = np.hsplit(rows.flat, 3)
    return np.asarray((hits != actual).any(axis=1))


def _miou(hits: Array, predicted: Array, actual: Array) -> float:
    occurs = predicted + actual > 0
    return float((hits[occurs] / (predicted + actual - hits)[occurs]).mean())


def _ious(rows: Rows) -> list[float]:
    """IoU of each class; NaN where it is nowhere."""
    hits, predicted, actual = np.split(rows.flat.sum(axis=0), 3)
    union = predicted + actual - hits
    return [float(i / u) if u else float("nan") for i, u in zip(hits, union, strict=True)]


def _dice(hits: Array, predicted: Array, actual: Array) -> float:
    occurs = predicted + actual > 0
    return float((2 * hits[occurs] / (predicted + actual)[occurs]).mean())


def _accuracy(hits: Array, predicted: Array, actual: Array) -> float:  # noqa: ARG001
    return float(hits.sum() / actual.sum())


def _of_class(name: str, problem: Problem, place: int) -> Metric:
    def summary(values: Array) -> float:
        hits, union = values.sum(axis=0)
        return float(hits / union) if union else float("nan")

    return Metric(
        name=name,
        observation=name,
        observe=observing(partial(_area, problem=problem, place=place)),
        summarize=agreement.defined(summary),
        higher_is_better=True,
        flaws=lambda rows: rows.flat[:, 0] < rows.flat[:, 1],
    )


TASK: Task = Segmentation()
