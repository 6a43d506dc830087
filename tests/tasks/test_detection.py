"""Detection: pycocotools' numbers, decoders, frames of the model and of the image, bad data."""

import math
import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import scenes

from gate import tasks
from gate.boxes import AREA, CLASS, CROWD, X1, X2, Y1
from gate.errors import DataError, UsageError
from gate.tasks._detection_match import changes
from gate.values import Evaluation, Ragged, Rows, joined

TASK = tasks.get("detection")


def measured(truth, found, *names):
    bound = scenes.bind(scenes.EMPTY, truth)
    return [summed(bound.metric(name), found, truth) for name in names]


def summed(metric, found, truth, reference=None):
    return metric.summarize(Rows(metric.observe(found, truth, reference)))


# ── pycocotools as oracle ─────────────────────────────────────────────────────────────────


def agree(truth, found, evaluator="pycocotools"):
    theirs = scenes.by_coco(truth, found, evaluator)
    places = [*scenes.STATS.values(), scenes.RECALL]
    ours = measured(truth, found, *scenes.STATS, "recall")
    expected = np.where(theirs[places] == -1, np.nan, theirs[places])
    np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=0)
    return theirs


@st.composite
def box(draw):
    x, y = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    width, height = (draw(st.sampled_from([4, 20, 32, 33, 96, 110])) for _ in range(2))
    return [x, y, x + width, y + height]


@st.composite
def images(draw):
    """Targets and detections with crowds, several classes, empty images, ties and near misses."""
    truth, found = [], []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 4))
        kinds = st.integers(0, 2)
        truth.append(
            [[draw(kinds), *draw(box()), draw(st.sampled_from([0, 0, 0, 1]))] for _ in range(count)]
        )
        found.append([])
        for kind, *corners, _ in truth[-1]:
            for _ in range(draw(st.integers(0, 2))):
                shift = draw(st.sampled_from([0, 0, 1, 3]))
                moved = [corners[0] + shift, corners[1], corners[2] + shift, corners[3]]
                found[-1].append([kind, draw(st.sampled_from([0.25, 0.5, 0.75])), *moved])
        for _ in range(draw(st.integers(0, 2))):
            found[-1].append([draw(kinds), draw(st.floats(0.01, 1)), *draw(box())])
    return scenes.targets(truth), scenes.detections(found)


@settings(max_examples=80, deadline=None)
@given(images())
def test_any_scene_has_the_numbers_of_pycocotools(case):
    agree(*case)


@pytest.mark.parametrize("evaluator", ["pycocotools", "faster-coco-eval"])
def test_many_scenes_have_the_numbers_of_both_evaluators(evaluator):
    truth = scenes.scenes(seed=8, classes=3)
    found = scenes.seen(truth, by=4.0, seed=9, classes=3)
    found[..., 1] = np.round(found[..., 1], 1)  # ties, in an image and between images
    theirs = agree(truth, scenes.detections(found), evaluator)
    assert 0.1 < theirs[0] < 0.9
    assert (theirs[:6] > 0).all()


@pytest.mark.parametrize("evaluator", ["pycocotools", "faster-coco-eval"])
def test_the_hundred_best_of_an_image_and_class_count(evaluator):
    rng = np.random.default_rng(1)
    truth = scenes.targets([[[0, 10, 10, 50, 50]], [[1, 20, 20, 90, 90]]])
    many = [[0, score, *rng.uniform(0, 90, 2), 200, 200] for score in rng.uniform(0.5, 1, 130)]
    found = scenes.detections([[*many, [0, 0.1, 10, 10, 50, 50]], [[1, 0.3, 20, 20, 90, 91]]])
    agree(truth, found, evaluator)


def test_a_class_has_the_map_of_its_boxes_alone():
    truth = scenes.scenes(seed=8, classes=3)
    found = scenes.detections(scenes.seen(truth, by=4.0, seed=9, classes=3))
    own = truth.values[:, CLASS] == 1
    alone = Ragged.of(
        [e[(e[:, CLASS] == 1) | (np.arange(len(e)) == 0)] for e in map(truth.entry, range(41))], 7
    )
    seen = Ragged.of([e[e[:, 0] == 1] for e in map(found.entry, range(41))], 6)
    assert own.sum() > 10
    bound = scenes.bind(scenes.EMPTY, truth, classes=("ant", "bee", "cat"))
    value = summed(bound.metric("map_class_bee"), found, truth)
    assert value == pytest.approx(scenes.by_coco(alone, seen)[0], abs=1e-6)
    parts = [summed(bound.metric(f"map_class_{n}"), found, truth) for n in ("ant", "bee", "cat")]
    assert summed(bound.metric("map"), found, truth) == pytest.approx(np.mean(parts), abs=1e-12)


def test_nothing_to_find_is_undefined_and_nothing_found_is_zero():
    nothing = scenes.targets([[], []])
    assert all(map(math.isnan, measured(nothing, scenes.detections([[], []]), "map", "recall")))
    big = scenes.targets([[[0, 0, 0, 200, 200]], []])
    assert measured(big, scenes.detections([[], []]), "map", "recall", "map_large") == [0, 0, 0]
    assert math.isnan(*measured(big, scenes.detections([[], []]), "map_small"))


def test_any_subset_of_rows_is_summed_as_if_it_were_all():
    truth = scenes.scenes(seed=2, classes=2)
    found = scenes.detections(scenes.seen(truth, by=5.0, seed=3, classes=2))
    metric = scenes.bind(scenes.EMPTY, truth).metric("map")
    rows = Rows(metric.observe(found, truth, None))
    for part in (np.arange(41) % 3 > 0, np.array([4, 9, 30])):
        theirs = scenes.by_coco(truth[part], found[part])[0]
        assert metric.summarize(rows.take(part)) == pytest.approx(theirs, abs=1e-6)


# ── what a worse model does ───────────────────────────────────────────────────────────────


def test_villains_lose():
    """Swapped axes and shuffled scores must not look like the good model."""
    truth = scenes.scenes(seed=6)
    good = scenes.seen(truth, by=1.0, seed=7, classes=2)
    swapped, shuffled = good.copy(), good.copy()
    swapped[..., 2:] = good[..., [3, 2, 5, 4]]
    shuffled[..., 1] = np.random.default_rng(0).permuted(good[..., 1], axis=1)
    before, *after = (
        measured(truth, scenes.detections(found), "map", "map50")
        for found in (good, swapped, shuffled, shuffled[:, ::2])
    )
    assert before[1] > 0.8
    assert all(worse[0] < before[0] - 0.1 for worse in after)
    assert all(worse[1] < before[1] - 0.1 for worse in after)


# ── flips ─────────────────────────────────────────────────────────────────────────────────

THEN = [[[0, 0.9, 0, 0, 10, 10], [1, 0.8, 50, 50, 70, 70], [0, 0.1, 5, 5, 9, 9]], []]


@pytest.mark.parametrize(
    ("now", "lost", "gained"),
    [
        (THEN, 0, 0),
        ([[[1, 0.5, 50, 50, 70, 70], [0, 0.3, 0, 0, 10, 12]], []], 0, 0),
        ([[[0, 0.9, 0, 0, 10, 10], [1, 0.2, 50, 50, 70, 70]], []], 1, 0),
        ([[[1, 0.9, 0, 0, 10, 10], [1, 0.8, 50, 50, 70, 70]], []], 1, 1),
        ([[[0, 0.9, 0, 0, 10, 10], [0, 0.8, 1, 0, 10, 10], [1, 0.8, 50, 50, 70, 70]], []], 0, 1),
        ([THEN[0], [[0, 0.3, 0, 0, 5, 5]]], 0, 1),
        ([[], []], 2, 0),
    ],
)
def test_flips_are_boxes_that_one_model_has_alone(now, lost, gained):
    bound = scenes.bind(scenes.EMPTY)
    assert list(bound.metrics) == ["prediction_flips", "box_flips"]
    then, now = scenes.detections(THEN), scenes.detections(now)
    rows = bound.metric("box_flips").observe(now, None, then)
    np.testing.assert_array_equal(rows.sum(axis=0), [lost, gained, 2])
    assert summed(bound.metric("box_flips"), now, None, then) == (lost + gained) / 2
    share = (rows[:, :2].sum(axis=1) > 0).mean()
    assert summed(bound.metric("prediction_flips"), now, None, then) == share


def test_a_box_without_area_is_no_flip_against_itself():
    flat = scenes.detections([[[0, 0.9, 5, 5, 5, 9]]])
    np.testing.assert_array_equal(changes(flat, flat, 0.25), [[0, 0, 1]])


def test_boxes_beyond_all_numbers_find_nothing():
    truth = scenes.targets([[[0, 5, 5, 9, 9]]])
    endless = scenes.detections([[[0, 0.9, -1e300, -1e300, 1e300, 1e300]] * 2])
    bound = scenes.bind(scenes.EMPTY, truth, preprocess={"resize": {"size": [1, 1]}})
    assert summed(bound.metric("map"), endless, truth) == 0
    then = scenes.detections([[[0, 0.9, 5, 5, 9, 9]]])
    assert summed(bound.metric("box_flips"), endless, truth, then) == 3


def test_without_boxes_of_fp32_the_share_of_flips_is_undefined():
    nothing, one = scenes.detections([[]]), scenes.detections([[[0, 0.9, 0, 0, 5, 5]]])
    assert math.isnan(summed(scenes.bind(scenes.EMPTY).metric("box_flips"), one, None, nothing))
    assert summed(scenes.bind(scenes.EMPTY).metric("prediction_flips"), one, None, nothing) == 1


def test_metrics_of_labels_say_that_there_are_none():
    for name in ("map", "map_class_0"):
        with pytest.raises(UsageError, match="needs labels"):
            scenes.bind(scenes.EMPTY).metric(name)


def test_metrics_by_class_know_the_classes():
    bound = scenes.bind(scenes.EMPTY, scenes.scenes(), classes=("cat", "dog"))
    assert TASK.traits("map_class_cat") == TASK.traits("map")
    with pytest.raises(UsageError, match="unknown class 'cow'"):
        bound.metric("map_class_cow")
    with pytest.raises(UsageError, match="unknown metric 'map60'"):
        bound.metric("map60")


# ── from the model's input to the image ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("preprocess", "moved"),
    [
        (None, lambda x, y: (x, y)),
        ({"scale": 0.5}, lambda x, y: (x, y)),
        ({"resize": {"size": [160, 640]}}, lambda x, y: (2 * x, y / 2)),
        ({"letterbox": {"size": [320, 480]}}, lambda x, y: (x + 80, y)),
        (
            {"resize": {"size": [640, 640]}, "crop": [600, 500]},
            lambda x, y: (2 * x - 70, 2 * y - 20),
        ),
    ],
)
def test_boxes_are_brought_back_to_the_original_image(preprocess, moved):
    truth = scenes.scenes()
    seen = scenes.seen(truth, by=0.0, seed=1, classes=2)
    value = measured(truth, scenes.detections(seen), "map")[0]
    for corner in (slice(2, 4), slice(4, 6)):
        seen[..., corner] = np.stack(moved(*np.moveaxis(seen[..., corner], -1, 0)), axis=-1)
    found = scenes.detections(seen)
    metric = scenes.bind(scenes.EMPTY, truth, preprocess=preprocess).metric("map")
    assert summed(metric, found, truth) == pytest.approx(value, abs=1e-3)
    if moved(3, 5) != (3, 5):
        assert measured(truth, found, "map")[0] < value - 0.1


def test_an_image_that_is_smaller_than_the_crop():
    with pytest.raises(DataError, match=r"target of example 0 .*fewer than `crop"):
        scenes.bind(scenes.EMPTY, scenes.scenes(), preprocess={"crop": [400, 300]})


# ── bad data ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((4, CLASS), 2, "expected a class, 0 to 1, in its first column"),
        ((4, CLASS), 0.5, "expected a class"),
        ((4, CLASS), -1, "expected a class"),
        ((4, X2), 10, "expected x1 < x2 and y1 < y2"),
        ((4, X2), 322, "expected a box within its image"),
        ((4, Y1), -1.5, "expected a box within its image"),
        ((4, X1), np.nan, "expected finite numbers"),
        ((4, AREA), -1, "expected an area of 0 or more"),
        ((4, AREA), 322 * 322 + 1, "and of its image at most"),
        ((4, CROWD), 0.5, "expected 0 or 1 as its crowd"),
        ((3, CLASS), 0, "expected the image itself"),
        ((3, X2), 320.5, "expected the image itself"),
    ],
)
def test_a_wrong_row_is_named(place, value, said):
    truth = scenes.targets([[[0, 5, 5, 9, 9], [1, 5, 5, 9, 9]], [[1, 10, 10, 60, 60]]])
    truth.values[place] = value
    where = f"example 1 (counting from 0), row {place[0] - 3}, is ("
    with pytest.raises(DataError, match=rf"{re.escape(where)}.*{re.escape(said)}"):
        scenes.bind(scenes.EMPTY, truth, classes=("cat", "dog"))


def test_a_class_that_no_model_has_is_named_and_not_counted_up_to():
    truth = scenes.targets([[[10**12, 5, 5, 9, 9]]])
    with pytest.raises(DataError, match="expected a class, 0 to 99999, in its first column"):
        scenes.bind(scenes.EMPTY, truth)


def test_a_pixel_beyond_the_image_is_forgiven():
    scenes.bind(scenes.EMPTY, scenes.targets([[[0, -1, 0, 321, 320]]]))


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (np.arange(4), r"targets are \(N,\).*another task's data"),
        (Ragged.of([np.zeros((1, 5))], 5), "another task's data"),
        (Ragged.of([np.zeros((0, 7))], 7), "does not tell the size of its image"),
    ],
)
def test_targets_of_another_kind(truth, said):
    with pytest.raises(DataError, match=said):
        scenes.bind(scenes.EMPTY, truth)


def test_batches_of_any_order_join_to_the_whole():
    truth = scenes.scenes()
    found = scenes.detections(scenes.seen(truth, by=3.0, seed=2, classes=2))
    metric = scenes.bind(scenes.EMPTY, truth).metric("map")
    for parts in permutations([slice(0, 7), slice(7, 30), slice(30, 41)]):
        rows = joined([metric.observe(found[part], truth[part], None) for part in parts])
        assert len(rows) == 41
        assert metric.summarize(Rows(rows)) == summed(metric, found, truth)


def test_the_classes_that_lose_most_are_told_the_worst_first():
    """Each by the mAP that its own metric has."""
    truth = scenes.scenes(classes=2)
    bound = scenes.bind(scenes.EMPTY, truth, classes=("cat", "dog"))
    sides = []
    for by in (1.0, 9.0):
        raw = scenes.seen(truth, by=by, seed=5, classes=2)
        found = scenes.detections([entry[entry[:, 1] > 0] for entry in raw])
        names = ("map", "map_class_cat", "map_class_dog")
        metrics = [bound.metric(name) for name in names]
        sides.append({m.observation: Rows(m.observe(found, truth, None)) for m in metrics})
    ids = np.arange(len(truth)).astype(str)
    (part,) = bound.parts(Evaluation(ids, truth, {}, None, *sides))
    losses = {}
    for name in ("cat", "dog"):
        metric = bound.metric(f"map_class_{name}")
        values = [metric.summarize(side[metric.observation]) for side in sides]
        losses[name] = (values[0] - values[1], *values)
    expected = sorted(losses, key=lambda name: -losses[name][0])
    assert [row[0] for row in part.rows] == [name for name in expected if losses[name][0] > 0]
    for name, fp32, int8, drop in part.rows:
        shown = [float(cell) for cell in (drop, fp32, int8)]
        assert shown == pytest.approx(losses[name], abs=1e-4)
