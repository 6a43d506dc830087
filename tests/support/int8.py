"""INT8 models for tests, made by the backend alone."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from support.onnx_models import save

from gate import calibrate, recipes
from gate.backends.onnxruntime import BACKEND
from gate.recipes import Recipe
from gate.values import Batch, Kernel

Feeds = dict[str, Any]


def recipe(base: str = "static", **changes: Any) -> Recipe:
    return recipes.resolve({"base": base, **changes})


def ranges_of(model: Path, chosen: Recipe, feeds: Feeds) -> dict[str, tuple[float, float]]:
    sources = BACKEND.activations(model, chosen)
    tensors = tuple(dict.fromkeys(sources.values()))
    run = BACKEND.open_exposed(model, tensors, threads=1).run
    ids = np.arange(len(next(iter(feeds.values())))).astype(str)
    batch = Batch(start=0, ids=ids, feeds=feeds, targets=None)
    return calibrate.ranges_of(calibrate.observe(run, [batch], tensors), chosen, sources)


def quantized(
    model: onnx.ModelProto | Path, chosen: Recipe, feeds: Feeds, folder: Path, name: str = "q"
) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = model if isinstance(model, Path) else save(model, folder / "fp32.onnx")
    ranges = ranges_of(path, chosen, feeds) if chosen.needs_calibration else {}
    BACKEND.quantize(path, chosen, ranges, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def work(kernels: tuple[Kernel, ...]) -> dict[str, tuple[str, bool]]:
    return {kernel.node: (kernel.op, kernel.integer) for kernel in kernels if kernel.macs}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
