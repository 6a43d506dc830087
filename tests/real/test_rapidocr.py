"""PP-OCR: three models of opset 11 and 12 whose weights are Constant nodes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw
from real import rendering
from real.files import WORDS
from real.gating import Outcome, Release, closeness, distribution, overlap, package

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

CALIBRATION, HELD_OUT = 64, 456
CHARACTERS = "abdefghjkmnqrtuyABDEFGHKLMNQRTYU2345678"
"""Those that are not told from another by their size alone, as c and C are."""
GRID, CELL = 3, 96


def model(name: str) -> onnx.ModelProto:
    return onnx.load(package("rapidocr_onnxruntime", "rapidocr-onnxruntime") / "models" / name)


def named(what: str) -> str:
    return distribution("rapidocr-onnxruntime", what)


def with_head(found: onnx.ModelProto, nodes: list[Any], width: int, folder: Path) -> Path:
    """`nodes` read the model's output and give `scores` (N, width)."""
    found.graph.node.extend(nodes)
    del found.graph.output[:]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", width])
    found.graph.output.append(scores)
    onnx.save(found, folder / "model.onnx")
    return folder / "model.onnx"


def constant(name: str, values: list[int]) -> Any:
    tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)


def split(columns: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Calibration, without targets, and held-out examples."""
    calibration = {"x": columns["x"][:CALIBRATION]}
    return calibration, {name: column[CALIBRATION:] for name, column in columns.items()}


# ── which way round ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def orientation(tmp_path_factory: pytest.TempPathFactory) -> Release:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("orientation")
    count = CALIBRATION + HELD_OUT
    upright = [rendering.line(" ".join(rng.choice(WORDS, 2)), rng) for _ in range(count)]
    turned = rng.random(count) < 0.5
    lines = [one[:, ::-1, ::-1] if over else one for one, over in zip(upright, turned, strict=True)]
    columns = {"x": np.stack(lines), "target": turned.astype(np.int64)}
    calibration, held_out = split(columns)
    onnx.save(model("ch_ppocr_mobile_v2.0_cls_infer.onnx"), folder / "model.onnx")
    return Release(
        folder=folder,
        name=named("orientation"),
        candidate=folder / "model.onnx",
        held_out=held_out,
        calibration=calibration,
        expect={"accuracy": 0.99, "within": 0.01},
        build={"decode": "probabilities"},
    )


# ── which character ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def recognition(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A character's score is its highest of any frame; the blank, class 0 of CTC, is left out."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("recognition")
    found = model("ch_PP-OCRv4_rec_infer.onnx")
    entries = {entry.key: entry.value for entry in found.metadata_props}
    known = entries["character"].splitlines()
    drawn = [CHARACTERS[at % len(CHARACTERS)] for at in range(CALIBRATION + HELD_OUT)]
    columns = {
        "x": np.stack([rendering.line(letter, rng, width=64) for letter in drawn]),
        "target": np.array([known.index(letter) for letter in drawn]),
    }
    calibration, held_out = split(columns)
    output, width = found.graph.output[0].name, len(known) + 1  # the last one is the space
    head = [
        constant("first", [1]),
        constant("last", [width + 1]),
        constant("by", [2]),
        helper.make_node("Slice", [output, "first", "last", "by"], ["characters"], "characters"),
        helper.make_node("ReduceMax", ["characters"], ["scores"], "best", axes=[1], keepdims=0),
    ]
    return Release(
        folder=folder,
        name=named("recognition"),
        candidate=with_head(found, head, width, folder),
        held_out=held_out,
        calibration=calibration,
        expect={"accuracy": 0.99, "within": 0.015},
    )


# ── where there is text ───────────────────────────────────────────────────────────────────


def page(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(3, 288, 288) of float32 with a word, a shape or nothing in each of 3 × 3 cells, and where
    the words are, (9,) of 0 and 1.
    """
    side = GRID * CELL
    picture = Image.new("RGB", (side, side), tuple(map(int, rng.integers(180, 256, 3))))
    pen, kinds = ImageDraw.Draw(picture), rng.integers(0, 3, GRID * GRID)
    for cell, kind in enumerate(kinds):
        left, top = CELL * (cell % GRID), CELL * (cell // GRID)
        ink = tuple(map(int, rng.integers(0, 90, 3)))
        box = (left + 24, top + 24, left + 72, top + int(rng.integers(40, 72)))
        if kind == 1:
            word = str(rng.choice([word for word in WORDS if len(word) < 6]))[:5]
            chosen = rendering.font(str(rng.choice(rendering.FONTS)), int(rng.integers(18, 26)))
            pen.text((left + CELL // 2, top + CELL // 2), word, font=chosen, fill=ink, anchor="mm")
        elif kind == 2:
            rng.choice([pen.rectangle, pen.ellipse])(box, fill=ink)
    pixels = np.asarray(picture, np.float32) + rng.normal(0, 4, (side, side, 3))
    return (np.clip(pixels, 0, 255) / 127.5 - 1).astype(np.float32).transpose(2, 0, 1), kinds == 1


@pytest.fixture(scope="module")
def detection(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A cell's score is the highest of its pixels."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("detection")
    pages = [page(rng) for _ in range(CALIBRATION + 200)]
    columns = {
        "x": np.stack([pixels for pixels, _ in pages]),
        "target": np.stack([words for _, words in pages]).astype(np.int64),
    }
    calibration, held_out = split(columns)
    found = model("ch_PP-OCRv4_det_infer.onnx")
    kernel = {"kernel_shape": [CELL, CELL], "strides": [CELL, CELL]}
    head = [
        helper.make_node("MaxPool", [found.graph.output[0].name], ["cells"], "cells", **kernel),
        helper.make_node("Flatten", ["cells"], ["scores"], "flat"),
    ]
    return Release(
        folder=folder,
        name=named("detection"),
        candidate=with_head(found, head, GRID * GRID, folder),
        held_out=held_out,
        calibration=calibration,
        expect={"accuracy": 0.995, "within": 0.005},
        build={"decode": "probabilities"},
    )


# ── what must happen ──────────────────────────────────────────────────────────────────────


def held(outcome: Outcome) -> Outcome:
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.record is not None
    assert any(step.startswith("opset 1") for step in outcome.record.candidate.steps)
    return outcome


def test_orientation_holds_with_every_operator_as_integers(orientation: Release) -> None:
    assert held(orientation.run("static")).int8_share > 0.99


def test_a_dynamic_recipe_finds_little_in_a_cnn_and_says_so(orientation: Release) -> None:
    outcome = orientation.run("dynamic")
    assert outcome.exit_code == 4
    assert "of the model's work runs as integers" in outcome.reason


def test_recognition_breaks_where_every_operator_is_quantized(recognition: Release) -> None:
    outcome = recognition.run("static")
    assert outcome.exit_code == 1
    assert "accuracy drops" in outcome.reason
    assert outcome.int8_share > 0.99


@pytest.mark.parametrize(
    "recipe", ["static-conv", {"base": "static", "op_types": ["Conv", "MatMul"]}]
)
def test_recognition_holds_where_its_joins_stay_float(recognition: Release, recipe: Any) -> None:
    assert held(recognition.run(recipe)).int8_share > 0.9


def test_detection_finds_the_same_words(detection: Release) -> None:
    assert held(detection.run("static")).int8_share > 0.95


def test_detections_maps_stay_close(tmp_path: Path, detection: Release) -> None:
    file = tmp_path / "detection.onnx"
    onnx.save(model("ch_PP-OCRv4_det_infer.onnx"), file)
    pages = {"x": detection.held_out["x"][:32]}
    before, after, int8 = closeness(tmp_path, file, "static", detection.calibration, pages)
    (fp32,), (quantized,) = before.values(), after.values()
    assert overlap(fp32, quantized, above=0.3) > 0.9
    assert np.abs(fp32 - quantized).mean() < 0.005
    assert [island.op for island in int8.islands] == ["ConvTranspose", "ConvTranspose"]
