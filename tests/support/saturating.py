"""A classifier that 16-bit sums ruin: right where u8×s8 is exact, wrong where it saturates.

Without VNNI, x86 adds two neighbouring products in 16 bits: 2 · 255 · 127 becomes 32,767. An
example of class c has a bright pair of neighbours for c, of weight (1, 1), and one and a half
times as many for the next class, of weight (1, 0). Exactly computed, c scores 2 against 1.5;
where pairs saturate, c scores half of that, and every example looks like the next class.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import helper
from support.onnx_models import model, save

CLASSES = 10
_PAIRS, _DECOYS = 4, 6
_BLOCK = 2 * (_PAIRS + _DECOYS)
WIDTH = CLASSES * _BLOCK


def classifier() -> onnx.ModelProto:
    """x (N, 200) -> fc -> logits (N, 10)."""
    w = np.zeros((CLASSES, WIDTH), dtype=np.float32)
    for index in range(CLASSES):
        start = index * _BLOCK
        w[index, start : start + 2 * _PAIRS] = 1
        w[index, start + 2 * _PAIRS : start + _BLOCK : 2] = 1
    node = helper.make_node("Gemm", ["x", "w", "b"], ["logits"], "fc", transB=1)
    bias = np.zeros(CLASSES, dtype=np.float32)
    return model([node], {"x": ["N", WIDTH]}, {"logits": ["N", CLASSES]}, {"w": w, "b": bias})


def examples(count: int, *, seed: int) -> dict[str, NDArray[Any]]:
    """Columns of a split: x (N, 200) in 0..1, and target (N,)."""
    random = np.random.default_rng(seed)
    target = np.arange(count) % CLASSES
    x = random.uniform(0.0, 0.02, (count, WIDTH))
    bright = random.uniform(0.9, 1.0, (count, WIDTH))
    for row, own in enumerate(target):
        pairs = own * _BLOCK + np.arange(2 * _PAIRS)
        decoys = (own + 1) % CLASSES * _BLOCK + 2 * _PAIRS + np.arange(2 * _DECOYS)
        for lit in (pairs, decoys):
            x[row, lit] = bright[row, lit]
    return {"x": x.astype(np.float32), "target": target}


def project(folder: Path, recipe: str) -> tuple[Path, Path]:
    """A policy with its data, and the candidate: what `gate run` needs."""
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate({"calibration": 100, "held_out": 400}.items()):
        columns = examples(count, seed=seed)
        columns["id"] = np.array([f"{name}-{index}" for index in range(count)])
        np.savez(folder / f"{name}.npz", **columns)
    spec = {
        "version": 1,
        "model": f"saturating-{recipe}",
        "task": "classification",
        "build": {"recipe": recipe, "calibration": {"path": "calibration.npz"}},
        "judge": {
            "held_out": {"path": "held_out.npz"},
            "expect_fp32": {"accuracy": 1.0, "within": 0.01},
            "budgets": [{"metric": "accuracy", "max_drop": 0.01}],
        },
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "policy.yaml", save(classifier(), folder / "model.onnx")
