"""Object detection: boxes with a class and a score, judged as COCO does.

Targets are rows of boxes, as `gate.boxes` has them, in pixels of the original image. What was
decoded is in pixels of the model's input, and is brought back by the geometry of
`build.preprocess`. Images are the units. Decoders, matching and sums stand in private siblings.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from gate import boxes as columns
from gate import door
from gate.errors import DataError, UsageError
from gate.metrics import Metric, Traits
from gate.pictures import geometry
from gate.policy import Build
from gate.sources import Preprocess
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._by_class import by_class
from gate.tasks._detection_decode import DECODERS, MOST_CLASSES
from gate.tasks._detection_match import ROW, changes, differing, matched, moved
from gate.tasks._detection_summary import Asked, summarize
from gate.values import Array, Ragged, Rows, TensorSpec, Values, finite
from gate.wording import listing

_MEASURES: Mapping[str, Asked] = {
    "map": Asked(),
    "map50": Asked(thresholds=(0,)),
    "map75": Asked(thresholds=(5,)),
    "map_small": Asked(area="small"),
    "map_medium": Asked(area="medium"),
    "map_large": Asked(area="large"),
    "recall": Asked(recall=True),
}
"""`recall` is COCO's AR at 100 detections of an image and class."""
_OF_TRUTH = Traits(undefined="without true boxes of the kind")
KNOWN: Mapping[str, Traits] = {
    **dict.fromkeys(_MEASURES, _OF_TRUTH),
    **agreement.FLIPS,
    "box_flips": Traits(
        relative=True, higher_is_better=False, high=None, undefined="where FP32 finds no box"
    ),
}
_OF_CLASS = re.compile(r"map_class_(.+)")
_ROWS_OF_CLASS = "boxes_of_"
_SHOWN_CLASSES = 20
"""Each has rows of its own, so that many are reported only where a policy asks for them."""
_TOLD = 4
"""Boxes of an image that are told one by one."""
_SLACK = 1.0
"""Pixels by which annotations may lie outside of their image."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What else matching has to know."""

    preprocess: Preprocess | None
    least: float
    """The score from which a box counts as predicted."""
    names: tuple[str, ...]
    """Of classes; their numbers where the policy has no names."""

    def original(self, detections: Array, image: Array) -> Array:
        """(n, 6) from pixels of the input to those of the image whose own row is given."""
        found = detections.copy()
        width, height = (int(side) for side in image[[columns.X2, columns.Y2]])
        scale, shift = _moved(self.preprocess, width, height)
        with np.errstate(over="ignore"):  # a box without end overlaps nothing
            found[:, 2:] = (found[:, 2:] - shift) / scale
        return found


@lru_cache(maxsize=1024)
def _moved(preprocess: Preprocess | None, width: int, height: int) -> tuple[Array, Array]:
    """(4,) scale and (4,) shift of corners, from the original image to the input."""
    scale_x, scale_y, shift_x, shift_y = geometry(preprocess, width, height)
    return np.array([scale_x, scale_y] * 2), np.array([shift_x, shift_y] * 2)


class Detection:
    """The task `detection`; see `gate.tasks.Task`."""

    key: str = "detection"
    unit: str = "image"
    decoders: tuple[str, ...] = tuple(DECODERS)
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric, `map_class_<name>` included; None where the name is not known."""
        return _OF_TRUTH if _OF_CLASS.fullmatch(metric) else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to a model's outputs and the boxes of all images of a split.

        Raises:
            DataError: targets are no boxes, or one is wrong; outputs do not fit the decoder.
            UsageError: the policy names an output, decoder or field that does not exist or is not
                read, or leaves out one that is needed.
        """
        fit, used = DECODERS.get(build.decode.name, (None, ()))
        binding.decoder(self.key, build, self.decoders, used)
        assert fit is not None
        if len(set(build.classes)) != len(build.classes):
            raise UsageError("`build.classes` names a class twice; give each another name")
        head = fit(build, outputs, first)
        if targets is not None:
            _demand_boxes(targets, head.classes)
        names = build.classes or _numbers(head.classes, targets)
        scene = _Scene(build.preprocess, build.decode.flip_score, names)
        if isinstance(targets, Ragged):
            _demand_sizes(scene, targets)
        metrics = binding.labelled(_catalogue(scene), targets)
        return BoundTask(
            kind="detection",
            decode=head.decode,
            metrics=metrics,
            metric=partial(_metric, scene, metrics),
            parts=partial(by_class, "mAP", "boxes", names, partial(_averages, len(names))),
            tell=partial(_tell, scene),
            apart=partial(_apart, scene),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics of rows observed earlier: those of a class stand under its name."""
        names = tuple(
            name.removeprefix(_ROWS_OF_CLASS) for name in rows if name.startswith(_ROWS_OF_CLASS)
        )
        scene = _Scene(None, 0.0, names)
        return partial(_metric, scene, binding.labelled(_catalogue(scene), targets))


def _tell(scene: _Scene, fp32: Array, int8: Array) -> tuple[str, str]:
    """The boxes of one image that only FP32 has, and that only INT8 has: `cat 0.43`."""
    if not np.isfinite(int8).all():
        return "", "NaN"
    lost, gained = differing(int8, fp32, scene.least)
    return _listed(scene, lost), _listed(scene, gained)


def _listed(scene: _Scene, found: Array) -> str:
    names = dict(enumerate(scene.names))
    told = (f"{names.get(int(kind), int(kind))} {score:.2f}" for kind, score, *_ in found)
    return listing(told, _TOLD)


def _apart(scene: _Scene, fp32: Ragged, int8: Ragged) -> Array:
    """(N,): how far two models are apart, by the score of a box."""
    return moved(int8, fp32, scene.least)


def _averages(classes: int, rows: Rows) -> list[float]:
    """mAP of each class; NaN where it has no true box."""
    assert isinstance(rows.values, Ragged)
    values = rows.values.values
    numbers = np.where(values[:, 0] < 0, -1 - values[:, 0], values[:, 0])  # of true boxes, too
    parts = (values[numbers == one] for one in range(classes))
    return [summarize(Asked(), Rows(Ragged(part, np.array([0, len(part)])))) for part in parts]


def _numbers(classes: int | None, targets: Values | None) -> tuple[str, ...]:
    """Class numbers as names: of those that the model has, else of those that occur."""
    if classes is None and isinstance(targets, Ragged) and targets.values.size:
        classes = int(targets.values[:, columns.CLASS].max()) + 1
    return tuple(str(number) for number in range(classes or 0))


# ── targets ───────────────────────────────────────────────────────────────────────────────


def _demand_boxes(targets: Values, classes: int | None) -> None:
    """Raises DataError where targets are no boxes; names the first example and row."""
    if not isinstance(targets, Ragged) or targets.shape[1] != columns.WIDTH:
        raise DataError(
            f"targets are {binding.told('N', targets.shape)}, and detection takes any number of "
            "boxes an image, as the format `coco` gives them: is this another task's data?"
        )
    empty = np.flatnonzero(targets.sizes == 0)
    if len(empty):
        raise DataError(
            f"target of example {empty[0]} (counting from 0) does not tell the size of its image; "
            f"each begins with the row {columns.image_row(640, 480)} for 640 × 480 pixels"
        )
    for wrong, expected in _faults(targets, classes or MOST_CLASSES):
        if wrong.any():
            raise _wrong_row(targets, int(np.flatnonzero(wrong)[0]), expected)


def _faults(targets: Ragged, classes: int) -> list[tuple[Array, str]]:
    """What may be wrong with a row, (M,) of bool each, and what it should be."""
    values = targets.values
    heads = targets.offsets[:-1]
    is_head = np.zeros(len(values), dtype=bool)
    is_head[heads] = True
    image = values[heads][targets.owners]
    kind, (x1, y1, x2, y2) = values[:, columns.CLASS], values[:, columns.BOX].T
    over = np.maximum(x2 - image[:, columns.X2], y2 - image[:, columns.Y2])
    outside = (np.minimum(x1, y1) < -_SLACK) | (over > _SLACK)
    no_class = ~is_head & ((kind < 0) | (kind >= classes) | (kind != np.floor(kind)))
    size = values[:, [columns.X2, columns.Y2]]
    no_image = (kind != columns.IMAGE) | (values[:, [columns.X1, columns.Y1]] != 0).any(axis=1)
    no_image |= (size != np.floor(size)).any(axis=1)
    most = (image[:, columns.X2] + 2 * _SLACK) * (image[:, columns.Y2] + 2 * _SLACK)
    area = values[:, columns.AREA]
    return [
        (~np.isfinite(values).all(axis=1), "expected finite numbers"),
        ((x2 <= x1) | (y2 <= y1), "expected x1 < x2 and y1 < y2"),
        (is_head & no_image, "expected the image itself, −1, 0, 0, width, height, area, 0, first"),
        (no_class, f"expected a class, 0 to {classes - 1}, in its first column"),
        (~is_head & outside, "expected a box within its image, or a pixel beyond it at most"),
        ((area < 0) | (area > most), "expected an area of 0 or more, and of its image at most"),
        (~np.isin(values[:, columns.CROWD], (0, 1)), "expected 0 or 1 as its crowd"),
    ]


def _wrong_row(targets: Ragged, row: int, expected: str) -> DataError:
    example = int(targets.owners[row])
    told = ", ".join(f"{value:.6g}" for value in targets.values[row])
    return DataError(
        f"target of example {example} (counting from 0), row {row - int(targets.offsets[example])},"
        f" is ({told}) as (class, x1, y1, x2, y2, area, crowd); {expected}. Mend the annotation"
    )


def _demand_sizes(scene: _Scene, targets: Ragged) -> None:
    """Raises DataError where an image's size does not go through `preprocess`."""
    for example, head in enumerate(targets.offsets[:-1]):
        width, height = (int(targets.values[head, side]) for side in (columns.X2, columns.Y2))
        try:
            _moved(scene.preprocess, width, height)
        except ValueError as error:
            raise DataError(f"target of example {example} (counting from 0): {error}") from error


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue(scene: _Scene) -> list[Metric]:
    whole = [_average(scene, name, asked) for name, asked in _MEASURES.items()]
    classes = scene.names if 1 < len(scene.names) <= _SHOWN_CLASSES else ()
    return [*whole, *(_of_class(scene, name) for name in classes), _flips(scene), _churn(scene)]


def _metric(scene: _Scene, metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    asked = _OF_CLASS.fullmatch(name)
    if asked and "map" not in metrics:
        raise binding.needs_labels(name, metrics)
    if asked and asked[1] not in scene.names:
        raise UsageError(door.unknown("class", asked[1], scene.names) + f". Mend metric {name!r}")
    if asked:
        return _of_class(scene, asked[1])
    raise binding.no_metric(name, metrics, TASK.traits(name), "detection")


def _average(scene: _Scene, name: str, asked: Asked) -> Metric:
    return Metric(
        name=name,
        observation="boxes",
        observe=partial(_observe, scene, None),
        summarize=partial(summarize, asked),
        higher_is_better=True,
    )


def _of_class(scene: _Scene, name: str) -> Metric:
    """mAP of one class. Its rows are its own, so that they say which class they are of."""
    return Metric(
        name=f"map_class_{name}",
        observation=f"{_ROWS_OF_CLASS}{name}",
        observe=partial(_observe, scene, scene.names.index(name)),
        summarize=partial(summarize, Asked()),
        higher_is_better=True,
    )


def _observe(
    scene: _Scene,
    only: int | None,
    scores: Ragged,
    targets: Ragged,
    reference: Ragged | None,  # noqa: ARG001
) -> Ragged:
    """Rows of `matched` an image, of one class where `only` says which."""
    sound = finite(scores)
    entries = []
    for at in range(len(scores)):
        image, *_ = truth = targets.entry(at)
        if not sound[at]:
            entries.append(np.full((1, ROW), np.nan))
            continue
        found, true = scores.entry(at), truth[1:]
        if only is not None:
            found, true = found[found[:, 0] == only], true[true[:, columns.CLASS] == only]
        entries.append(matched(scene.original(found, image), true))
    return Ragged.of(entries, ROW)


def _change(scene: _Scene, scores: Ragged, _: object, reference: Ragged | None) -> Array:
    return changes(scores, scores if reference is None else reference, scene.least)


def _flips(scene: _Scene) -> Metric:
    """Share of images in which INT8 lost or gained a box."""

    def flipped(rows: Rows) -> Array:  # a NaN row counts: unknown must not look unchanged
        return np.asarray((rows.flat[:, :2] != 0).any(axis=1))

    return Metric(
        name="prediction_flips",
        observation="box_flip",
        observe=partial(_change, scene),
        summarize=agreement.defined(lambda values: float(flipped(Rows(values)).mean())),
        higher_is_better=False,
        per_example=flipped,
        relative=True,
    )


def _churn(scene: _Scene) -> Metric:
    """(lost + gained) / FP32's boxes, over all images; undefined where FP32 has none."""

    def summary(values: Array) -> float:
        lost, gained, before = values.sum(axis=0)
        return float((lost + gained) / before) if before else float("nan")

    return Metric(
        name="box_flips",
        observation="box_flip",
        observe=partial(_change, scene),
        summarize=agreement.defined(summary),
        higher_is_better=False,
        relative=True,
        flaws=lambda rows: (rows.flat[:, :2] != 0).any(axis=1),
    )


TASK: Task = Detection()
