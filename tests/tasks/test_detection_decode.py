"""The decoders of detection: each form of outputs, suppression, and what does not fit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import scenes

from gate.errors import DataError, EvaluationError, UsageError
from gate.tasks import _detection_boxes as boxes
from gate.tasks._detection_decode import peaks
from gate.values import finite

# ── suppression and peaks ─────────────────────────────────────────────────────────────────


def iou(a, b):
    """Of two boxes of whole numbers, by counting pixels."""
    pixels = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    both, any_ = pixels[0] & pixels[1], pixels[0] | pixels[1]
    return len(both) / len(any_) if any_ else 0.0


SMALL = st.tuples(*[st.integers(0, 6)] * 4).map(lambda c: [c[0], c[1], c[0] + c[2], c[1] + c[3]])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.2, 0.5, 0.9]), SMALL), max_size=9),
    st.sampled_from([0.3, 0.5, 0.75]),
    st.integers(1, 9),
)
def test_suppression_is_the_greedy_loop(found, least, most):
    kept = []
    for place in sorted(range(len(found)), key=lambda i: (-found[i][1], i)):
        kind, _, corners = found[place]
        rivals = [found[other] for other in kept if found[other][0] == kind]
        if all(iou(corners, rival[2]) <= least for rival in rivals):
            kept.append(place)
    ours = boxes.suppress(
        np.array([f[0] for f in found]),
        np.array([f[1] for f in found]),
        np.array([f[2] for f in found], dtype=float).reshape(-1, 4),
        iou=least,
        most=most,
    )
    assert ours.tolist() == kept[:most]


def test_peaks_are_cells_that_no_neighbour_exceeds():
    heat = np.random.default_rng(0).integers(0, 9, (2, 5, 6)).astype(float)
    around = np.full_like(heat, -1.0)
    for c, y, x in np.ndindex(heat.shape):
        around[c, y, x] = heat[c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
    np.testing.assert_array_equal(peaks(heat), heat == around)


def test_conventions_name_the_same_box():
    corners = np.array([[10.0, 20.0, 40.0, 60.0]])
    np.testing.assert_array_equal(boxes.CORNERS["xywh"](np.array([[10.0, 20, 30, 40]])), corners)
    np.testing.assert_array_equal(boxes.CORNERS["cxcywh"](np.array([[25.0, 40, 30, 40]])), corners)


# ── decoders ──────────────────────────────────────────────────────────────────────────────

BOXES = [[0, 0.9, 40, 40, 80, 100], [1, 0.8, 40, 40, 82, 100], [0, 0.7, 41, 40, 80, 100]]
LEFT = [BOXES[0], BOXES[1]]
"""Of BOXES after suppression: the third overlaps the first and is of its class."""


def sides(corners):
    x1, y1, x2, y2 = corners
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def close(found, expected):
    np.testing.assert_allclose(found.entry(0), np.array(expected), rtol=1e-5, atol=1e-4)


def yolox_output(height, width):
    """The raw grid that holds BOXES, each where it may be predicted from, at another stride."""
    grid = [(s, y, x) for s in (8, 16, 32) for y in range(height // s) for x in range(width // s)]
    raw = np.zeros((1, len(grid), 7), np.float32)
    raw[..., 4] = 0.0005
    raw[..., 5:] = 0.5
    for stride, (kind, score, *corners) in zip((8, 16, 32), BOXES, strict=True):
        x, y, w, h = sides(corners)
        place = grid.index((stride, 2, 1))
        raw[0, place, :4] = (
            x / stride - 1,
            y / stride - 2,
            math.log(w / stride),
            math.log(h / stride),
        )
        raw[0, place, 4:] = 0.95, 0.1, 0.1
        raw[0, place, 5 + kind] = score / 0.95
    return raw


def test_yolox():
    raw = yolox_output(96, 160)
    decode = {"as": "yolox", "size": [96, 160]}
    close(scenes.bind({"y": raw}, decode=decode).decode({"y": raw}), LEFT)
    by_preprocess = scenes.bind(
        {"y": raw}, decode="yolox", preprocess={"letterbox": {"size": [96, 160]}}
    ).decode({"y": raw})
    close(by_preprocess, LEFT)


def yolov8_output():
    raw = np.zeros((1, 6, 20), np.float32)
    for at, (kind, score, *corners) in enumerate(BOXES):
        raw[0, :4, at], raw[0, 4 + kind, at] = sides(corners), score
    return raw


def yolov5_output():
    raw = np.zeros((1, 20, 7), np.float32)
    for at, (kind, score, *corners) in enumerate(BOXES):
        raw[0, at, :5], raw[0, at, 5 + kind] = (*sides(corners), 0.95), score / 0.95
    return raw


@pytest.mark.parametrize("raw", [yolov8_output(), yolov5_output()], ids=["v8", "v5"])
@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_both_forms_of_yolov8(raw, classes):
    close(scenes.bind({"y": raw}, decode="yolov8", classes=classes).decode({"y": raw}), LEFT)


def test_yolov8_counts_a_place_for_every_class_that_scores():
    raw = np.zeros((1, 6, 20), np.float32)
    raw[0, :, 3] = 50, 50, 20, 20, 0.6, 0.3
    expected = [[0, 0.6, 40, 40, 60, 60], [1, 0.3, 40, 40, 60, 60]]
    close(scenes.bind({"y": raw}, decode="yolov8").decode({"y": raw}), expected)


def test_normalized_boxes_are_shares_of_the_input():
    raw = yolov8_output()
    raw[:, :4] /= np.array([160, 96, 160, 96]).reshape(1, 4, 1)
    decode = {"as": "yolov8", "normalized": True, "size": [96, 160]}
    close(scenes.bind({"y": raw}, decode=decode).decode({"y": raw}), LEFT)


CENTERNET = {"as": "centernet", "outputs": {"heatmap": "heat", "box": "box"}}


def centernet_outputs():
    heat, box = np.zeros((1, 2, 12, 20), np.float32), np.zeros((1, 4, 12, 20), np.float32)
    for at, (kind, score, *corners) in enumerate(BOXES):
        x, y, w, h = (value / 8 for value in sides(corners))
        row, column = 2 + 3 * at, 3 + 4 * at
        heat[0, kind, row, column] = score
        heat[0, kind, row, column + 1] = score / 2  # no peak
        box[0, :, row, column] = x - column, y - row, math.log(w), math.log(h)
    return {"heat": heat, "box": box}


@pytest.mark.parametrize("how", [{"strides": [8]}, {"size": [96, 160]}])
def test_centernet_takes_peaks_and_suppresses_nothing(how):
    outputs = centernet_outputs()
    close(scenes.bind(outputs, decode=CENTERNET | how).decode(outputs), BOXES)


def test_centernet_without_peaks_suppresses_by_class():
    outputs = centernet_outputs()
    heat = outputs["heat"]
    heat[heat == np.float32(0.45)] = 0  # the weaker neighbours of the first two
    heat[heat == np.float32(0.4)] = 0
    heat[heat == np.float32(0.35)] = 0
    outputs["box"][0, :, 2, 4] = outputs["box"][0, :, 2, 3] - np.array([0.9, 0, 0, 0])
    heat[0, 0, 2, 4] = 0.6  # no peak, and nearly the same box
    decode = CENTERNET | {"strides": [8], "peaks": False}
    close(scenes.bind(outputs, decode=decode).decode(outputs), LEFT)
    lax = scenes.bind(outputs, decode=decode | {"iou": 1.0}).decode(outputs)
    assert lax.entry(0)[:, 1] == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_boxes_scores_labels_leave_padding_out():
    outputs = {
        "boxes": np.array([[*(b[2:] for b in BOXES), [0] * 4, [1] * 4]], np.float32),
        "scores": np.array([[0.9, 0.8, 0.7, 0.0, 0.5]], np.float32),
        "labels": np.array([[0, 1, 0, 0, -1]]),
    }
    close(scenes.bind(outputs).decode(outputs), BOXES)
    floats = outputs | {"labels": outputs["labels"].astype(np.float32)}
    close(scenes.bind(floats).decode(floats), BOXES)
    fewer = scenes.bind(outputs, decode=scenes.LISTED | {"most": 2, "score": 0.75}).decode(outputs)
    close(fewer, LEFT)
    strange = outputs | {"labels": outputs["labels"] + 2}
    with pytest.raises(EvaluationError, match="expected a whole number, 0 to 1, or −1"):
        scenes.bind(outputs, classes=("cat", "dog")).decode(strange)


def test_labels_are_whole_numbers_once_they_are_read():
    outputs = scenes.as_listed(np.array([[[1, 0.9, 5, 5, 9, 9]]]))
    nearly = outputs | {"labels": np.array([[1.0002]], np.float32)}
    found = scenes.bind(nearly).decode(nearly)
    assert found.values[0, 0] == 1
    with pytest.raises(EvaluationError, match="expected a whole number, 0 to 99999"):
        scenes.bind(outputs).decode(outputs | {"labels": np.array([[1e300]])})


MISFITS = [
    ({"as": "yolox", "size": [96, 96]}, {"y": yolox_output(96, 160)}, r"reads \(B, 189, 5 \+ C\)"),
    ("yolov8", {"y": np.zeros((1, 20), np.float32)}, "with more places A than channels"),
    ("yolov8", {"y": np.zeros((1, 7, 7), np.float32)}, "with more places A than channels"),
    (
        CENTERNET | {"strides": [8]},
        {"heat": np.zeros((1, 2, 4, 4), np.float32), "box": np.zeros((1, 4, 4, 5), np.float32)},
        r"reads heatmap .* and the model gives 'heat' \(B, 2, 4, 4\) and 'box' \(B, 4, 4, 5\)",
    ),
    (
        CENTERNET | {"strides": [8]},
        {"heat": np.full((1, 2, 4, 4), -3, np.float32), "box": np.zeros((1, 4, 4, 4), np.float32)},
        "before its sigmoid",
    ),
    (
        scenes.LISTED,
        scenes.EMPTY | {"scores": np.zeros((2, 3), np.float32)},
        r"reads boxes \(B, K, 4\), scores \(B, K\)",
    ),
]


LOGITS = [
    ({"as": "yolox", "size": [96, 160]}, {"y": yolox_output(96, 160) - 2}),
    ("yolov8", {"y": yolov8_output() - 2}),
    ("yolov8", {"y": yolov5_output() - 2}),
    (scenes.LISTED, scenes.as_listed(np.full((1, 3, 6), 2.0))),
]


@pytest.mark.parametrize(("decode", "outputs"), LOGITS)
def test_logits_are_no_scores(decode, outputs):
    with pytest.raises(DataError, match="before its sigmoid"):
        scenes.bind(outputs, decode=decode)


@pytest.mark.parametrize(("decode", "outputs", "said"), MISFITS)
def test_a_decoder_that_does_not_fit_says_what_it_reads_and_what_there_is(decode, outputs, said):
    with pytest.raises(DataError, match=said):
        scenes.bind(outputs, decode=decode)


def test_the_number_of_classes_has_to_be_that_of_the_names():
    with pytest.raises(DataError, match=r"reads \(B, 7, A\).*with 3 names in `build.classes`"):
        scenes.bind({"y": yolov8_output()}, decode="yolov8", classes=("a", "b", "c"))
    with pytest.raises(UsageError, match="names a class twice"):
        scenes.bind({"y": yolov8_output()}, decode="yolov8", classes=("a", "a"))


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        ("yolox", r"write `size: \[height, width\]`"),
        ({"as": "yolov8", "normalized": True}, r"write `size: \[height, width\]`"),
        ({"as": "yolov8", "strides": [8]}, "does not read `strides`: delete it"),
        (CENTERNET | {"iou": 0.5}, "takes peaks and reads no `iou`: delete it"),
        ({"as": "yolox", "boxes": "xywh"}, "does not read `boxes`: delete it"),
        ({"as": "yolov8", "outputs": {"boxes": "y"}}, "does not read `outputs`: delete it"),
    ],
)
def test_fields_that_are_missing_or_not_read(decode, said):
    with pytest.raises(UsageError, match=said):
        scenes.bind({"y": yolov8_output()}, decode=decode)


@pytest.mark.parametrize("how", [{"strides": [4], "size": [96, 160]}, {"size": [90, 160]}])
def test_a_stride_that_does_not_fit_the_size(how):
    with pytest.raises(UsageError, match="do not fit together"):
        scenes.bind(centernet_outputs(), decode=CENTERNET | how)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_image_with_a_broken_value_is_broken_and_no_other(broken):
    raw = np.concatenate([yolov8_output()] * 2)
    raw[1, 2, 17] = broken
    found = scenes.bind({"y": raw}, decode="yolov8").decode({"y": raw})
    assert finite(found).tolist() == [True, False]
    assert found.sizes.tolist() == [2, 1]


def test_a_box_without_end_is_broken():
    raw = yolox_output(96, 160)
    raw[0, :, 2] = np.where(raw[0, :, 4] > 0.5, 1000, raw[0, :, 2])
    bound = scenes.bind({"y": raw}, decode={"as": "yolox", "size": [96, 160]})
    assert not finite(bound.decode({"y": raw})).any()
