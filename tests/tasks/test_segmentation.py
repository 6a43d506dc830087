"""Segmentation: agrees with scikit-learn pixel by pixel, and what does not fit is refused."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.values import Evaluation, Rows, TensorSpec

TASK = tasks.get("segmentation")
RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c", "d")


def bind(targets, first, *, decode="logits", classes=()):
    first = np.asarray(first)
    build = Build(recipe="dynamic", decode=decode, classes=classes)
    specs = (TensorSpec("y", str(first.dtype), (None, *first.shape[1:])),)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), {"y": first})


def rows(name, targets, predicted, reference=None):
    """Of class numbers."""
    first = np.zeros((1, *np.shape(predicted)[1:]), dtype=int)
    metric = bind(targets, first, decode="classes", classes=NAMES).metric(name)
    observed = metric.observe(np.asarray(predicted, float), np.asarray(targets), reference)
    return metric, Rows(observed)


def value(name, targets, predicted, reference=None):
    metric, found = rows(name, targets, predicted, reference)
    return metric.summarize(found)


@st.composite
def maps(draw):
    n = draw(st.integers(1, 4))
    some = st.sampled_from(draw(st.sampled_from([(0, 1, 2, 3), (1, 3), (2,)])))
    predicted = draw(arrays(np.int64, (n, 3, 2), elements=some))
    actual = draw(arrays(np.int64, (n, 3, 2), elements=st.one_of(some, st.just(255))))
    return actual, predicted


@settings(max_examples=80, deadline=None)
@given(maps())
def test_it_agrees_with_scikit_learn_on_the_pixels_that_count(example):
    actual, predicted = example
    kept = actual != 255
    truth, guess = actual[kept], predicted[kept]
    if not kept.any():
        for name in ("miou", "dice", "pixel_accuracy", "iou_a"):
            assert math.isnan(value(name, actual, predicted))
        return
    close = {"abs": 1e-12}
    present = sorted({*truth.tolist(), *guess.tolist()})
    accuracy = sk.accuracy_score(truth, guess)
    assert value("pixel_accuracy", actual, predicted) == pytest.approx(accuracy, **close)
    told = {"labels": present, "average": "macro"}
    jaccard = sk.jaccard_score(truth, guess, **told)
    assert value("miou", actual, predicted) == pytest.approx(jaccard, **close)
    assert value("dice", actual, predicted) == pytest.approx(sk.f1_score(truth, guess, **told))
    for place, name in enumerate(NAMES):
        found = value(f"iou_{name}", actual, predicted)
        if place in present:
            own = sk.jaccard_score(truth, guess, labels=[place], average="macro")
            assert found == pytest.approx(own, **close)
        else:
            assert math.isnan(found)


def test_rows_are_counts_of_each_class():
    actual, predicted = [[[0, 1, 255, 3]]], [[[0, 2, 2, 3]]]
    _, found = rows("miou", actual, predicted)
    np.testing.assert_array_equal(found.values, [[1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1]])
    _, found = rows("iou_d", actual, predicted)
    np.testing.assert_array_equal(found.values, [[1, 1]])


def test_flips_are_pixels_that_count():
    actual = np.array([[[0, 1, 255, 3]], [[255, 255, 0, 0]]])
    fp32, int8 = np.zeros((2, 1, 4)), np.array([[[0, 1, 1, 0]], [[3, 3, 0, 0]]])
    assert value("pixel_flips", actual, int8, fp32) == pytest.approx(1 / 5)
    metric = bind(None, np.zeros((1, 4, 1, 4))).metric("pixel_flips")
    assert metric.summarize(Rows(metric.observe(int8.astype(float), None, fp32))) == 0.5


def test_a_class_that_int8_no_longer_tells_lowers_miou_and_hardly_accuracy():
    """The villain: a rare class's channel saturates, so that it never wins."""
    actual = (RNG.random((20, 16, 16)) < 0.02).astype(int)
    scores = np.eye(2)[actual].transpose(0, 3, 1, 2) * 8 - 4
    clipped = np.minimum(scores, [[[[1.0]], [[-5.0]]]])
    bound = bind(actual, scores)
    told = {}
    for name in ("miou", "pixel_accuracy", "iou_1"):
        metric = bound.metric(name)
        told[name] = [
            metric.summarize(Rows(metric.observe(bound.decode({"y": side}), actual, None)))
            for side in (scores, clipped)
        ]
    assert told["miou"][0] == told["pixel_accuracy"][0] == 1
    assert told["pixel_accuracy"][1] > 0.95
    assert told["miou"][1] < 0.55
    assert told["iou_1"][1] == 0


# ── decoders ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("decode", "raw", "expected"),
    [
        ("logits", [[[[1, 5]], [[2, 5]], [[0, 9]]]], [[[1, 2]]]),
        ("logits", [[[[-0.1, 0.0, 0.1]]]], [[[0, 0, 1]]]),
        ("logits", [[[-0.1, 0.0, 0.1]]], [[[0, 0, 1]]]),
        ("probabilities", [[[[0.4, 0.5, 0.6]]]], [[[0, 0, 1]]]),
        ("probabilities", [[[[0.4, 0.5]], [[0.6, 0.5]]]], [[[1, 0]]]),
    ],
)
def test_scores_become_classes(decode, raw, expected):
    raw = np.array(raw, dtype=np.float32)
    bound = bind(None, raw, decode=decode)
    np.testing.assert_array_equal(bound.decode({"y": raw}), expected)


def test_a_number_that_int8_makes_up_is_wrong_and_fp32_may_not():
    bound = bind([[[0, 1]]], np.zeros((1, 1, 2), int), decode="classes", classes=("a", "b"))
    odd = bound.decode({"y": np.array([[[7, -1]]])})
    metric = bound.metric("pixel_accuracy")
    assert metric.summarize(Rows(metric.observe(odd, np.array([[[0, 1]]]), None))) == 0
    with pytest.raises(DataError, match=r"output 'y' holds 2, and `build.classes` names 2"):
        bind(None, np.array([[[0, 2]]]), decode="classes", classes=("a", "b"))


# ── what does not fit ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("targets", "raw", "message"),
    [
        ((2, 4, 4), (2, 3, 8, 8), r"targets are 4 × 4 pixels and output 'y' 8 × 8.*Resize inside"),
        ((2, 4), (2, 3, 8, 8), r"targets are \(N, 4\); segmentation takes \(N, H, W\)"),
        ((2, 4, 4), (2, 3), r"output 'y' \(B, 3\) of float64 does not fit `decode: logits`"),
        ((2, 4, 4), (2, 0, 4, 4), "does not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(targets, raw, message):
    with pytest.raises(DataError, match=message):
        bind(np.zeros(targets, int), np.zeros(raw))


def test_pixels_without_a_class_are_named():
    targets = np.zeros((2, 2, 2), int)
    targets[1, 0, 1] = 3
    with pytest.raises(DataError, match=r"example 1 .*at \(0, 1\), is 3; expected a class, 0 to 2"):
        bind(targets, np.zeros((2, 3, 2, 2)))
    with pytest.raises(DataError, match="targets hold float64; segmentation takes whole numbers"):
        bind(targets.astype(float), np.zeros((2, 4, 2, 2)))


def test_no_class_has_the_number_of_what_counts_for_nothing():
    many = np.zeros((1, 256, 1, 2), np.float32)
    bind(np.array([[[0, 254]]]), many)
    with pytest.raises(DataError, match="of the 256 classes one has that number"):
        bind(np.array([[[0, 255]]]), many)


def test_class_numbers_need_names_and_floats_are_none():
    with pytest.raises(UsageError, match=r"name all of them in `build\.classes`"):
        bind(None, np.zeros((2, 4, 4), int), decode="classes")
    with pytest.raises(DataError, match="float64 does not fit `decode: classes`"):
        bind(None, np.zeros((2, 4, 4)), decode="classes", classes=NAMES)
    with pytest.raises(UsageError, match=r"must name the 3 classes of output 'y'.*it has 4 names"):
        bind(None, np.zeros((2, 3, 4, 4)), classes=NAMES)


def test_a_class_is_asked_for_by_name():
    bound = bind(np.zeros((2, 4, 4), int), np.zeros((2, 4, 4, 4)), classes=NAMES)
    assert list(bound.metrics) == ["miou", "pixel_accuracy", "dice", "pixel_flips"]
    assert bound.kind == "4 classes"
    with pytest.raises(UsageError, match=r"unknown class 'e'.*Known: a, b, c, d; for 'iou_e'"):
        bound.metric("iou_e")
    with pytest.raises(UsageError, match=r"'iou_a' needs labels.*by pixel_flips"):
        bind(None, np.zeros((2, 4, 4, 4)), classes=NAMES).metric("iou_a")


def test_the_classes_that_lose_most_are_told_the_worst_first():
    actual = np.array([[[0, 0, 1, 1], [2, 2, 2, 2]]])
    fp32, int8 = actual.copy(), actual.copy()
    int8[0, 0, 2:], int8[0, 1, 0] = 0, 3
    sides = [{"area": rows("miou", actual, one)[1]} for one in (fp32, int8)]
    bound = bind(actual, np.zeros((1, 2, 4), dtype=int), decode="classes", classes=NAMES)
    (part,) = bound.parts(Evaluation(np.array(["x"]), actual, {}, None, *sides))
    assert part.rows == (
        ("b", "1.0000", "0.0000", "1.0000"),
        ("a", "1.0000", "0.5000", "0.5000"),
        ("c", "1.0000", "0.7500", "0.2500"),
    )
    assert not [*bound.parts(Evaluation(np.array(["x"]), actual, {}, None, sides[0], sides[0]))]
