"""Average precision and recall as COCO defines them, from rows of any images.

`_detection_match` says what rows are. For a class, detections by falling score, of equal scores the
earlier image's first ::

    precision(k)  k / (detections that count up to the k-th right one)
    AP            mean over recalls 0, 0.01 … 1 of the highest precision at that recall or above
    AR            share of true boxes that are found

Both are means over classes that have true boxes, and over thresholds of IoU; pycocotools is the
oracle. One call sorts once; only right detections are looked at, for nowhere else is precision
highest.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gate.tasks._detection_match import AREAS, THRESHOLDS
from gate.values import Array, Ragged, Rows

_RECALLS = np.linspace(0.0, 1.0, 101)
_APART = 2.0
"""More than precisions differ."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is summed up."""

    thresholds: tuple[int, ...] = tuple(range(len(THRESHOLDS)))
    """Places in `THRESHOLDS`."""
    area: str = "all"
    recall: bool = False
    """Whether it is recall, and not precision."""


class _Sorted(NamedTuple):
    """Detections of classes that have true boxes, class after class, by falling score."""

    owner: Array
    """(n,) place of the class among `truths`."""
    hit: Array
    """(n,) bits by threshold."""
    spared: Array
    """(n,) bits by threshold."""
    hits: Array
    """Places with any bit in `hit`: far fewer than n."""
    truths: Array
    """(C,) true boxes of each class, 1 or more."""


def summarize(asked: Asked, rows: Rows) -> float:
    """The value on these images; NaN without true boxes that count, or with any NaN."""
    assert isinstance(rows.values, Ragged)
    values = rows.values.values
    if not np.isfinite(values).all():
        return float("nan")
    found = _sorted(values, list(AREAS).index(asked.area))
    if not len(found.truths):
        return float("nan")
    one = _recall if asked.recall else _precision
    return float(np.mean([one(found, threshold) for threshold in asked.thresholds]))


def _sorted(values: Array, area: int) -> _Sorted:
    classes = values[:, 0].astype(np.int64)
    true = values[classes < 0]
    counted = (true[:, 3].astype(np.int64) >> area) & 1 == 0
    present, truths = np.unique(-1 - true[counted, 0].astype(np.int64), return_counts=True)
    mine = np.flatnonzero((classes >= 0) & np.isin(classes, present))
    mine = mine[np.argsort(-values[mine, 1], kind="stable")]
    owner = np.searchsorted(present, classes[mine])
    order = np.argsort(owner.astype(np.min_scalar_type(len(present))), kind="stable")
    shift, mask = area * len(THRESHOLDS), (1 << len(THRESHOLDS)) - 1
    hit, spared = (
        ((values[mine[order], column].astype(np.int64) >> shift) & mask).astype(np.int16)
        for column in (2, 3)
    )
    return _Sorted(owner[order], hit, spared, np.flatnonzero(hit), truths)


def _right(found: _Sorted, threshold: int) -> Array:
    """Places of the detections that count and are right."""
    bits = found.hit[found.hits] & ~found.spared[found.hits]
    return np.asarray(found.hits[(bits >> threshold) & 1 == 1])


def _counted(found: _Sorted, threshold: int) -> Array:
    """(n + 1,) how many detections count before each place."""
    counts = (found.spared >> threshold) & 1 == 0
    return np.concatenate(([0], np.cumsum(counts)))


def _recall(found: _Sorted, threshold: int) -> float:
    hits = np.bincount(found.owner[_right(found, threshold)], minlength=len(found.truths))
    return float((hits / found.truths).mean())


def _precision(found: _Sorted, threshold: int) -> float:
    places = _right(found, threshold)
    owner, size = found.owner[places], len(found.truths)
    hits = np.bincount(owner, minlength=size)
    begins = np.cumsum(hits) - hits
    before = _counted(found, threshold)
    ranks = before[places + 1] - before[np.searchsorted(found.owner, owner, side="left")]
    precision = (np.arange(len(places)) - begins[owner] + 1) / ranks
    return _interpolated(_envelope(precision, owner, size), begins, hits, found.truths)


def _envelope(precision: Array, owner: Array, size: int) -> Array:
    """The highest precision at each place or after it, within its class."""
    apart = _APART * (size - owner)
    return np.asarray(np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart)


def _interpolated(highest: Array, begins: Array, hits: Array, truths: Array) -> float:
    """The mean over classes and recalls; 0 where a recall is not reached."""
    needed = np.stack([_needed(int(count)) for count in truths])
    reached = needed < hits[:, np.newaxis]
    at = (begins[:, np.newaxis] + needed)[reached]
    return float(highest[at].sum() / needed.size)


@lru_cache(maxsize=4096)
def _needed(truths: int) -> Array:
    """(101,) how many right ones come before that with which each recall is reached."""
    return np.searchsorted(np.arange(1, truths + 1) / truths, _RECALLS, side="left")
