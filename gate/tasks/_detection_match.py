"""Which detections are right, image by image, by COCO's rules; and what INT8 lost or gained.

Each image is matched once, for ten thresholds of IoU and four ranges of area, and leaves rows that
any metric is summed up from, of any subset of images ::

    a detection   class        score   matched (40 bits)   ignored (40 bits)
    a true box    −1 − class   0       0                   ignored (4 bits)

Bit 10 · range + threshold; whole numbers below 2^52 are exact in float64. The matching is written
out here because faster-coco-eval keeps its own in C++ values that Python cannot read and wants all
images at once, where rows have to be of one image. It is held to pycocotools and to it in tests.
"""

import numpy as np

from gate import boxes as columns
from gate.tasks._detection_boxes import areas, overlaps
from gate.values import Array, Ragged

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Square pixels, both ends included; of the object for a true box, of the box for a detection."""
ROW = 4
_MOST = 100
"""Detections of an image and class that count, the highest scores first: COCO's maxDets."""
_JUST_BELOW_ONE = 1 - 1e-10
_SAME = 0.5
"""IoU from which two boxes of a class are one."""
_LOW, _HIGH = np.array(list(AREAS.values())).T[:, :, np.newaxis]
_COMBINATIONS = len(AREAS) * len(THRESHOLDS)
_WEIGHTS = 2.0 ** np.arange(_COMBINATIONS)
_LEAST = np.tile(np.minimum(THRESHOLDS, _JUST_BELOW_ONE), len(AREAS))[:, np.newaxis]


def matched(detections: Array, truth: Array) -> Array:
    """One image's rows.

    `detections` (n, 6) are (class, score, corners), and `truth` (m, 7) as `gate.boxes` has them
    without the image's own row, both in pixels of the original image.
    """
    order = np.lexsort((-detections[:, 1], detections[:, 0]))
    detections = detections[order]
    detections = detections[_rank(detections[:, 0]) < _MOST]
    hit, spared = _bits(detections, truth)
    found = np.column_stack([detections[:, :2], hit @ _WEIGHTS, spared @ _WEIGHTS])
    ignored = _outside(truth[:, columns.AREA]) | (truth[:, columns.CROWD] != 0)
    true = np.zeros((len(truth), ROW))
    true[:, 0] = -1 - truth[:, columns.CLASS]
    true[:, 3] = ignored.T @ _WEIGHTS[: len(AREAS)]
    return np.concatenate([found, true])


def _rank(classes: Array) -> Array:
    """(n,) place of each among those of its class, `classes` being sorted."""
    return np.arange(len(classes)) - np.searchsorted(classes, classes, side="left")


def _outside(area: Array) -> Array:
    """(4, n) of bool: not in the range."""
    return np.asarray((area < _LOW) | (area > _HIGH))


def _bits(detections: Array, truth: Array) -> tuple[Array, Array]:
    """(n, 40) of bool each: which detections hit, and which do not count."""
    hit = np.zeros((len(detections), _COMBINATIONS), dtype=bool)
    spared = np.zeros_like(hit)
    for one in np.unique(truth[:, columns.CLASS]):
        mine = np.flatnonzero(detections[:, 0] == one)
        if len(mine):
            there = truth[truth[:, columns.CLASS] == one]
            hit[mine], spared[mine] = _greedy(detections[mine, 2:], there)
    outside = np.repeat(_outside(areas(detections[:, 2:])), len(THRESHOLDS), axis=0).T
    return hit, spared | (~hit & outside)


def _greedy(boxes: Array, truth: Array) -> tuple[Array, Array]:
    """Of one class, `boxes` by falling score: each takes the free true box it overlaps most.

    One that counts goes before one that is ignored; of equal overlaps the last is taken, as
    pycocotools does. Crowds are never used up.
    """
    crowd = truth[:, columns.CROWD] != 0
    iou = overlaps(boxes, truth[:, columns.BOX], crowd)
    ignored = np.repeat(_outside(truth[:, columns.AREA]) | crowd, len(THRESHOLDS), axis=0)
    free = np.ones_like(ignored)
    hit = np.zeros((len(boxes), _COMBINATIONS), dtype=bool)
    spared = np.zeros_like(hit)
    every = np.arange(_COMBINATIONS)
    for place in np.flatnonzero((iou >= THRESHOLDS[0]).any(axis=1)):
        fits = free & (iou[place] >= _LEAST)
        counts = fits & ~ignored
        pool = np.where(counts.any(axis=1)[:, np.newaxis], counts, fits)
        weight = np.where(pool, iou[place], -1.0)
        taken = weight.shape[1] - 1 - weight[:, ::-1].argmax(axis=1)
        hit[place] = fits.any(axis=1)
        spared[place] = hit[place] & ignored[every, taken]
        free[every[hit[place]], taken[hit[place]]] = crowd[taken[hit[place]]]
    return hit, spared


def changes(int8: Ragged, fp32: Ragged, least: float) -> Array:
    """(B, 3): boxes lost, boxes gained, and boxes of FP32, of those that score `least` or more.

    A box is kept where the other model has one of the same class at an IoU of 0.5, each taken
    once, INT8's highest scores first. NaN where either side is not finite.
    """
    rows = [_changed(int8.entry(at), fp32.entry(at), least) for at in range(len(fp32))]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def moved(int8: Ragged, fp32: Ragged, least: float) -> Array:
    """(B,): by how much the score of a box changed at the most, of those with `least` or more.

    A box is held against the other model's most alike, whatever that scores; one without any at an
    IoU of 0.5 lost all of its score.
    """
    return np.array(
        [
            max(_fallen(one, other, least), _fallen(other, one, least))
            for one, other in ((int8.entry(at), fp32.entry(at)) for at in range(len(fp32)))
        ],
        dtype=np.float64,
    )


def _fallen(these: Array, others: Array, least: float) -> float:
    """How far below a box of `these` its counterpart is."""
    if not (np.isfinite(these).all() and np.isfinite(others).all()):
        return np.nan
    these = these[these[:, 1] >= least]
    alike = overlaps(these[:, 2:], others[:, 2:]) >= _SAME
    alike &= these[:, :1] == others[:, 0]
    best = np.where(alike, others[:, 1], 0.0).max(axis=1, initial=0.0)
    return float((these[:, 1] - best).max(initial=0.0))


def _changed(now: Array, then: Array, least: float) -> tuple[float, float, float]:
    if not (np.isfinite(now).all() and np.isfinite(then).all()):
        return (np.nan, np.nan, np.nan)
    lost, gained = differing(now, then, least)
    return float(len(lost)), float(len(gained)), float((then[:, 1] >= least).sum())


def differing(now: Array, then: Array, least: float) -> tuple[Array, Array]:
    """Boxes of one image that only `then` has, and that only `now` has; as `changes`."""
    now, then = (side[side[:, 1] >= least] for side in (now, then))
    now = now[np.argsort(-now[:, 1], kind="stable")]
    found = _paired(now, then)
    return np.delete(then, found[found >= 0], axis=0), now[found < 0]


def _paired(now: Array, then: Array) -> Array:
    """(n,) the one of `then` that each of `now`, in their order, finds free; −1 without any."""
    iou = overlaps(now[:, 2:], then[:, 2:])
    iou[(now[:, np.newaxis, 2:] == then[:, 2:]).all(axis=2)] = 1.0  # also without any area
    iou[now[:, :1] != then[:, 0]] = 0.0
    found = np.full(len(now), -1)
    for place, row in enumerate(iou):
        if row.size and row.max() >= _SAME:
            found[place] = row.argmax()
            iou[:, found[place]] = 0.0
    return found
