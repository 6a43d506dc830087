"""Arithmetic of boxes, (n, 4) as x1, y1, x2, y2 in pixels: overlap, suppression, conventions."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from gate.values import Array

_TINY = float(np.finfo(np.float64).tiny)
Convention = Literal["xyxy", "xywh", "cxcywh"]


def areas(boxes: Array) -> Array:
    """(n,) square pixels; 0 of a box that is turned inside out."""
    with np.errstate(over="ignore"):
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
        return np.asarray(sides[:, 0] * sides[:, 1])


def overlaps(boxes: Array, others: Array, crowd: Array | None = None) -> Array:
    """(n, m) intersection over union; over the box's own area where another, (m,), is a crowd.

    That a crowd's area does not count is COCO's rule: a box may lie anywhere within it. 0 where
    there is no area.
    """
    low = np.maximum(boxes[:, np.newaxis, :2], others[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], others[np.newaxis, :, 2:])
    own = areas(boxes)[:, np.newaxis]
    with np.errstate(over="ignore", invalid="ignore"):  # no overlap where an area has no end
        sides = np.maximum(high - low, 0.0)
        shared = sides[..., 0] * sides[..., 1]
        whole = own + areas(others) - shared
    if crowd is not None:
        whole = np.where(crowd.astype(bool), own, whole)
    found: Array = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return found


def suppress(classes: Array, scores: Array, boxes: Array, *, iou: float, most: int) -> Array:
    """Places of the boxes that stay, by falling score: greedy, each class by itself.

    Of two boxes of a class that overlap by more than `iou` the one with the lower score goes; of
    equal scores the earlier one is the higher. At most `most` stay in all.
    """
    kept = [
        places[_greedy(scores[places], boxes[places], iou=iou, most=most)]
        for places in (np.flatnonzero(classes == one) for one in np.unique(classes))
    ]
    found = np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
    return highest(scores, found, most)


def highest(scores: Array, places: Array, most: int) -> Array:
    """The `most` of `places` that score highest, by falling score; of equal ones the earlier."""
    return np.asarray(places[np.argsort(-scores[places], kind="stable")[:most]])


def _greedy(scores: Array, boxes: Array, *, iou: float, most: int) -> Array:
    """Of one class; no more than `most`, as more cannot be among the best of all classes.

    Written out by columns: this loop is what decoding takes its time for.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    area = areas(boxes[order])
    free = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for at in range(len(order)):
        if not free[at]:
            continue
        kept.append(at)
        if len(kept) == most:
            break
        rest = slice(at + 1, None)
        width = np.minimum(x2[rest], x2[at]) - np.maximum(x1[rest], x1[at])
        height = np.minimum(y2[rest], y2[at]) - np.maximum(y1[rest], y1[at])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        whole = np.maximum(area[rest] + area[at] - shared, _TINY)
        free[rest] &= shared / whole <= iou
    return np.asarray(order[kept])


def _from_sizes(boxes: Array) -> Array:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def _from_centres(boxes: Array) -> Array:
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


CORNERS: Mapping[Convention, Callable[[Array], Array]] = {
    "xyxy": lambda boxes: boxes,
    "xywh": _from_sizes,
    "cxcywh": _from_centres,
}
"""From each convention, (…, 4), to corners."""
