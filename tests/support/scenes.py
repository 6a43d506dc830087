"""Images that are nothing but boxes: targets, detections of them, and what pycocotools says."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from support.task_samples import N, Sample

from gate import tasks
from gate.boxes import BOX, CLASS, CROWD, WIDTH, image_row
from gate.policy import Build
from gate.values import Ragged, TensorSpec

SIDE = 320
"""Pixels of an image, both ways."""


def targets(entries: Sequence[Sequence[Sequence[float]]]) -> Ragged:
    """Of images of SIDE × SIDE, each a list of (class, x1, y1, x2, y2[, crowd])."""
    rows = []
    for boxes in entries:
        rows.append([image_row(SIDE, SIDE)])
        for kind, x1, y1, x2, y2, *crowd in boxes:
            rows[-1].append((kind, x1, y1, x2, y2, (x2 - x1) * (y2 - y1), *(crowd or [0])))
    return Ragged.of([np.array(entry) for entry in rows], WIDTH)


def random_boxes(rng: np.random.Generator, count: int, classes: int) -> np.ndarray:
    """(count, 5): class and corners, of all of COCO's sizes."""
    sides = np.exp(rng.uniform(np.log(10), np.log(160), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.column_stack([rng.integers(0, classes, count), corners, corners + sides])


def scenes(seed: int = 3, classes: int = 2) -> Ragged:
    """N images with one to five boxes each."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, N)
    return targets([random_boxes(rng, size, classes).tolist() for size in sizes])


def seen(truth: Ragged, *, by: float, seed: int, classes: int, most: int = 8) -> np.ndarray:
    """(N, most, 6) detections (class, score, corners), off by about `by` pixels; weak ones last."""
    rng = np.random.default_rng(seed)
    found = np.zeros((len(truth), most, 6))
    for at, entry in enumerate(found):
        boxes = truth.entry(at)[1:]
        spare = random_boxes(rng, most - len(boxes), classes)
        entry[:, [0, 2, 3, 4, 5]] = np.concatenate([boxes[:, : BOX.stop], spare])
        strong = np.arange(most) < len(boxes)
        entry[:, 1] = np.where(strong, rng.uniform(0.4, 0.9, most), rng.uniform(0.05, 0.5, most))
        entry[:, 2:] += rng.normal(0, by, (most, 4))
    return found


def as_yolov8(found: np.ndarray, classes: int) -> np.ndarray:
    """(N, 4 + C, A) of float32, each detection a place."""
    low, high = found[..., 2:4], found[..., 4:6]
    scores = np.where(found[..., :1] == np.arange(classes), found[..., 1:2], 0.0)
    rows = np.concatenate([(low + high) / 2, high - low, scores], axis=-1)
    return rows.transpose(0, 2, 1).astype(np.float32)


def as_listed(found: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a detector that suppresses by itself; labels are whole numbers."""
    return {
        "boxes": found[..., 2:].astype(np.float32),
        "scores": found[..., 1].astype(np.float32),
        "labels": found[..., 0].astype(np.int64),
    }


LISTED = {
    "as": "boxes-scores-labels",
    "outputs": {name: name for name in ("boxes", "scores", "labels")},
}


EMPTY = {
    "boxes": np.zeros((2, 0, 4), np.float32),
    "scores": np.zeros((2, 0), np.float32),
    "labels": np.zeros((2, 0), np.int64),
}


"""Outputs of two images in which nothing is found."""


def bind(outputs, truth=None, *, decode=LISTED, classes=(), preprocess=None):
    """The task fitted to outputs by name and targets."""
    build = Build(recipe="dynamic", decode=decode, classes=classes, preprocess=preprocess)
    specs = tuple(
        TensorSpec(name, str(v.dtype), (None, *v.shape[1:])) for name, v in outputs.items()
    )
    return tasks.get("detection").bind(build, specs, truth, outputs)


def detections(entries):
    """Rows (class, score, corners) an image."""
    return Ragged.of([np.array(entry, dtype=float).reshape(-1, 6) for entry in entries], 6)


def samples() -> list[Sample]:
    """For the contract of all tasks."""
    truth = scenes()
    fp32, int8 = (seen(truth, by=by, seed=5, classes=2) for by in (1.0, 6.0))
    one = scenes(seed=4, classes=1)
    before, after = (seen(one, by=by, seed=6, classes=1) for by in (1.0, 6.0))
    return [
        Sample(
            "yolov8",
            truth,
            as_yolov8(fp32, 2),
            as_yolov8(int8, 2),
            build={"decode": "yolov8", "classes": ("cat", "dog")},
        ),
        Sample(
            "listed, without names",
            one,
            as_listed(before),
            as_listed(after),
            asked=("map_class_0",),
            build={"decode": LISTED},
        ),
    ]


# ── the oracle ────────────────────────────────────────────────────────────────────────────

STATS = {"map": 0, "map50": 1, "map75": 2, "map_small": 3, "map_medium": 4, "map_large": 5}
"""Where each metric stands among COCO's twelve numbers; −1 is undefined there."""
RECALL = 8


def by_coco(truth: Ragged, found: Ragged, evaluator: str = "pycocotools") -> np.ndarray:
    """(12,) what pycocotools, or faster-coco-eval, measures."""
    if evaluator == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = _annotations(truth, found)
        annotated.createIndex()
        results = _results(found)
        predicted = annotated.loadRes(results) if results else COCO()
        if not results:
            predicted.dataset = annotated.dataset | {"annotations": []}
            predicted.createIndex()
        judged = Evaluation(annotated, predicted, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return np.asarray(judged.stats)[:12]


def _annotations(truth: Ragged, found: Ragged) -> dict[str, list[dict]]:
    boxes = [(at, row) for at in range(len(truth)) for row in truth.entry(at)[1:]]
    kinds = {int(row[CLASS]) for _, row in boxes} | set(found.values[:, 0].astype(int).tolist())
    return {
        "info": {},
        "images": [{"id": at + 1, "width": SIDE, "height": SIDE} for at in range(len(truth))],
        "categories": [{"id": kind, "name": str(kind)} for kind in sorted(kinds)],
        "annotations": [
            {
                "id": place + 1,
                "image_id": at + 1,
                "category_id": int(row[CLASS]),
                "bbox": _corner_and_size(row[BOX]),
                "area": float(row[5]),
                "iscrowd": int(row[CROWD]),
            }
            for place, (at, row) in enumerate(boxes)
        ],
    }


def _results(found: Ragged) -> list[dict]:
    return [
        {
            "image_id": at + 1,
            "category_id": int(row[0]),
            "score": float(row[1]),
            "bbox": _corner_and_size(row[2:]),
        }
        for at in range(len(found))
        for row in found.entry(at)
    ]


def _corner_and_size(box: np.ndarray) -> list[float]:
    return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
