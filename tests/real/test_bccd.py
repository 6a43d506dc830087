"""Cells in blood smears: a detector of which no verdict is possible yet, but which stays close."""

import io
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real.gating import closeness, overlap

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

HEIGHT, WIDTH = 240, 320
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def case() -> Path:
    """Not on PyPI: whoever has it names the folder that holds `bccd-det`."""
    found = Path(os.environ.get("GATE_CASES", "")) / "bccd-det"
    if not (found / "model.onnx").is_file():
        pytest.skip("$GATE_CASES names no folder that holds bccd-det")
    return found


def images(case: Path, kind: str, count: int) -> np.ndarray:
    """(count, 3, 240, 320) of float32, as ImageNet's models take them."""
    with np.load(case / "data.npz") as archive:
        content, ends = archive[f"{kind}_jpeg"], archive[f"{kind}_off"]
    found = []
    for start, end in pairwise(ends[: count + 1]):
        picture = Image.open(io.BytesIO(content[start:end].tobytes())).convert("RGB")
        pixels = np.asarray(picture.resize((WIDTH, HEIGHT)), np.float32) / 255
        found.append(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1))
    return np.stack(found).astype(np.float32)


def test_its_maps_stay_close(tmp_path: Path, case: Path) -> None:
    fp32, int8, made = closeness(
        tmp_path,
        case / "model.onnx",
        "static",
        {"input": images(case, "calib", 40)},
        {"input": images(case, "eval", 40)},
    )
    assert made.int8_share > 0.95
    assert overlap(fp32["heatmap"], int8["heatmap"], above=0.3) > 0.9
    assert np.abs(fp32["heatmap"] - int8["heatmap"]).mean() < 0.01
