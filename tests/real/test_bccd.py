"""Cells in blood smears: a detector through the gate, its images and boxes in COCO's form."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gate import run_gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def case() -> Path:
    """Not on PyPI: whoever has it names the folder that holds `bccd-det`."""
    found = Path(os.environ.get("GATE_CASES", "")) / "bccd-det"
    if not (found / "model.onnx").is_file():
        pytest.skip("$GATE_CASES names no folder that holds bccd-det")
    return found


def write_images(case: Path, kind: str, folder: Path) -> int:
    """The JPEG files as they were compressed; how many."""
    folder.mkdir()
    with np.load(case / "data.npz") as archive:
        content, ends = archive[f"{kind}_jpeg"], archive[f"{kind}_off"]
    for place, (start, end) in enumerate(pairwise(ends.tolist())):
        (folder / f"{place:04d}.jpg").write_bytes(content[start:end].tobytes())
    return len(ends) - 1


def write_coco(case: Path, folder: Path, count: int) -> None:
    from PIL import Image

    with np.load(case / "data.npz") as archive:
        boxes, classes = archive["boxes"], archive["classes"].tolist()
    images = []
    for place in range(count):
        name = f"{place:04d}.jpg"
        with Image.open(folder / "images" / name) as picture:
            width, height = picture.size
        images.append({"id": place, "file_name": name, "width": width, "height": height})
    annotations: list[dict[str, Any]] = []
    for place, (image, kind, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        size = [x2 - x1, y2 - y1]
        annotations.append(
            {
                "id": place,
                "image_id": int(image),
                "category_id": int(kind),
                "bbox": [x1, y1, *size],
                "area": size[0] * size[1],
                "iscrowd": 0,
            }
        )
    categories = [{"id": place, "name": name} for place, name in enumerate(classes)]
    told = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "held_out.json").write_text(json.dumps(told))


def policy(folder: Path) -> Path:
    spec = {
        "version": 1,
        "model": "blood-cells",
        "task": "detection",
        "build": {
            "recipe": "static",
            "calibration": {"path": "calibration"},
            "preprocess": {
                "resize": {"size": [HEIGHT, WIDTH]},
                "scale": 1 / 255,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
            # every cell that scores, and then the best of those that overlap
            "decode": {"as": "centernet", "strides": [8], "peaks": False, "iou": 0.45},
            "classes": ["RBC", "WBC", "Platelets"],
        },
        "judge": {
            "held_out": {"path": "held_out.json", "images": "images"},
            "expect_fp32": {"map50": 0.904, "map": 0.536, "within": 0.002},
            "budgets": [
                {"metric": "map", "max_drop": 0.02},
                {"metric": "map50", "max_drop": 0.04},  # 159 images prove no less
                {"metric": "box_flips", "at_most": 0.1},
            ],
        },
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(spec))
    return folder / "policy.yaml"


def test_it_passes_with_the_figures_it_is_known_for(tmp_path: Path, case: Path) -> None:
    """FP32 .904 / .536; INT8, whose calibration differs a little from theirs, within .005."""
    count = write_images(case, "eval", tmp_path / "images")
    write_images(case, "calib", tmp_path / "calibration")
    write_coco(case, tmp_path, count)
    finished = run_gate(policy(tmp_path), str(case / "model.onnx"), tracker="none")
    found = {one.metric: one for one in finished.record.comparisons if one.slice is None}
    for metric, fp32, int8 in (("map50", 0.904, 0.904), ("map", 0.536, 0.535)):
        assert found[metric].reference == pytest.approx(fp32, abs=0.002)
        assert found[metric].int8 == pytest.approx(int8, abs=0.005)
    assert finished.record.int8.int8_share > 0.95
    assert finished.verdict.outcome == "pass", finished.verdict
