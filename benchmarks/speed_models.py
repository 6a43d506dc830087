"""What `speed.py` gates: a MobileNetV2 with its pictures, small digits, boxes; none of it real."""

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from models import mobilenet_v2
from speed_runs import Ran, gate_run

from gate import boxes, examples, recipes
from gate.backends.onnxruntime import BACKEND
from gate.examples import digits
from gate.formats.npz import FORMAT
from gate.values import Ragged

THREADS = os.cpu_count() or 1
BATCH = 16
CLASSES = 1000
FLIPS = 0.01
"""Share of examples on which a good release turns right into wrong, or wrong into right."""
_COARSE = 8
_SIDE = 640


def save_images(path: Path, count: int, side: int, seed: int) -> Path:
    """An npz of pictures without targets, made and written a few at a time.

    They are blotches of colour, so that a network with random weights tells them apart.
    """
    rng = np.random.default_rng(seed)
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("pixels.npy", "w", force_zip64=True) as stream,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, side, side)}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, count, 256):
            size = (min(256, count - start), 3, _COARSE, _COARSE)
            some = rng.integers(0, 256, size, dtype=np.uint8)
            stream.write(some.repeat(side // _COARSE, 2).repeat(side // _COARSE, 3).tobytes())
    return path


def add_targets(path: Path, targets: np.ndarray) -> Path:
    """Put targets to pictures that are there."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(targets, dtype=np.int64))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("target.npy", buffer.getvalue())
    return path


def mobilenet(path: Path, side: int) -> Path:
    """MobileNetV2 with random weights that takes pixels as they are stored."""
    model = onnx.load(mobilenet_v2(path, side=side, classes=CLASSES))
    scale = onnx.numpy_helper.from_array(np.float32(1 / 255), "scale")
    model.graph.initializer.append(scale)
    given = onnx.helper.make_node("Cast", ["pixels"], ["wide"], "given", to=1)
    scaled = onnx.helper.make_node("Mul", ["wide", "scale"], ["image"], "scaled")
    for place, node in enumerate((given, scaled)):
        model.graph.node.insert(place, node)
    model.graph.input[0].name = "pixels"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save_model(model, path)
    return path


def save_policy(path: Path, held_out: Path, calibration: Path, **other: Any) -> Path:
    """Accuracy may drop by a point; `other` is of `judge`, and `build` of that."""
    build = {
        "recipe": "static",
        "calibration": {"path": str(calibration)},
        **other.pop("build", {}),
    }
    policy = {
        "version": 1,
        "model": "speed",
        "task": "classification",
        "build": build,
        "judge": {
            "held_out": {"path": str(held_out)},
            "expect_fp32": "unknown",
            "budgets": [{"metric": "accuracy", "max_drop": 0.01}],
            **other,
        },
    }
    path.write_text(json.dumps(policy), encoding="utf-8")
    return path


@dataclass
class Large:
    """A MobileNetV2, its pictures, and a good release of it: what is wanted first makes it."""

    folder: Path
    side: int
    images: int
    calibration: int
    threads: int = THREADS

    @cached_property
    def model(self) -> Path:
        """FP32."""
        self.folder.mkdir(parents=True)
        return mobilenet(self.folder / "model.onnx", self.side)

    @cached_property
    def calibrating(self) -> Path:
        """All of them are taken, so that INT8 is the same in every run."""
        path = save_images(self.folder / "calibration.npz", self.calibration, self.side, 1)
        return add_targets(path, np.zeros(self.calibration))

    @cached_property
    def int8(self) -> Path:
        """As the gate makes it, on a few pictures."""
        model, calibration = self.model, self.calibrating
        few = add_targets(save_images(self.folder / "few.npz", 64, self.side, 2), np.arange(64))
        policy = save_policy(self.folder / "few.json", few, calibration, mode="observe")
        return (
            gate_run(policy, "--candidate", str(model), "--tracker", "none").folder
            / "model.int8.onnx"
        )

    @cached_property
    def floor(self) -> tuple[float, Path]:
        """Seconds of the bare loops; and the held-out pictures, with targets by what they gave."""
        int8 = self.int8
        held_out = save_images(self.folder / "held_out.npz", self.images, self.side, 3)
        took, fp32_says, int8_says = bare_loops(
            self.model, int8, self.calibrating, held_out, self.threads
        )
        return took, add_targets(held_out, good_targets(fp32_says, int8_says))

    def policy(self, name: str, **other: Any) -> Path:
        """Of the whole set."""
        path = self.folder / f"{name}.json"
        return save_policy(path, self.floor[1], self.calibrating, batch_size=BATCH, **other)

    def gate(self, policy: Path, *options: str, **other: Any) -> Ran:
        """Run it on the candidate."""
        return gate_run(policy, "--candidate", str(self.model), *options, **other)

    @cached_property
    def home(self) -> Path:
        """Where the whole run leaves what a second one may use."""
        path = self.folder / "home"
        path.mkdir()
        return path

    @cached_property
    def whole(self) -> Ran:
        """The first run, on all there is."""
        return self.gate(self.policy("whole"), home=self.home)


def good_targets(fp32: np.ndarray, int8: np.ndarray) -> np.ndarray:
    """(N,) such that INT8 flips `FLIPS` of them, half for the better and half for the worse.

    Both models are right where they agree; where they do not, and no flip is wanted, both are
    wrong.
    """
    targets = np.where(fp32 == int8, fp32, (np.maximum(fp32, int8) + 1) % CLASSES)
    differ = np.flatnonzero(fp32 != int8)
    wanted = round(FLIPS * len(fp32) / 2)
    lost, gained = differ[:wanted], differ[wanted : 2 * wanted]
    if len(gained) < wanted:
        raise SystemExit(f"INT8 differs on {len(differ)} of {len(fp32)} examples: too few to flip")
    targets[lost], targets[gained] = fp32[lost], int8[gained]
    both = (targets == fp32) & (targets == int8) & (fp32 != int8)
    assert not both.any()
    return targets


def bare_loops(
    fp32: Path, int8: Path, calibration: Path, held_out: Path, threads: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Seconds of the same forward passes with nothing around them, and what both models say.

    Calibration's pass gives the tensors that calibration looks at, one example at a time being no
    faster.
    """
    sources = BACKEND.activations(fp32, recipes.RECIPES["static"])
    exposed = BACKEND.open_exposed(fp32, tuple(dict.fromkeys(sources.values())), threads=threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = [ort.InferenceSession(str(path), options) for path in (fp32, int8)]
    examples, pictures = _mapped(calibration), _mapped(held_out)
    start = time.perf_counter()
    for at in range(len(examples)):
        exposed.views({"pixels": examples[at : at + 1]})
    said: list[list[np.ndarray]] = [[], []]
    for at in range(0, len(pictures), BATCH):
        batch = pictures[at : at + BATCH]
        for says, session in zip(said, sessions, strict=True):
            says.append(session.run(None, {"pixels": batch})[0].argmax(axis=1))
    took = time.perf_counter() - start
    return took, *(np.concatenate(says) for says in said)


def _mapped(path: Path) -> np.ndarray:
    """The pictures of an npz, where they lie."""
    return FORMAT.read(path, path.parent)["pixels"]  # type: ignore[return-value]


def small_policy(folder: Path, count: int, **other: Any) -> Path:
    """The bundled digits and their model, drawn anew with noise, so many of them."""
    folder.mkdir(exist_ok=True)
    data = examples.policies() / "digits"
    with np.load(data / "held_out.npz") as given:
        images, targets = given["image"], given["target"]
    rng = np.random.default_rng(count)
    rows = rng.integers(0, len(images), count)
    noise = rng.normal(0, 0.02, (count, *images.shape[1:])).astype(np.float32)
    np.savez(folder / "held_out.npz", image=images[rows] + noise, target=targets[rows])
    given_by = {"candidate": str(digits.FOLDER / "cnn.onnx")}
    policy, held_out = folder / "policy.json", folder / "held_out.npz"
    other = {"mode": "observe", "build": given_by, **other}
    return save_policy(policy, held_out, data / "calibration.npz", **other)


# ── boxes ─────────────────────────────────────────────────────────────────────────────────


def scenes(count: int) -> tuple[Ragged, Ragged]:
    """True boxes, as many as COCO has a picture, and detections: some near, some anywhere."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(count):
        there = rng.poisson(7.3)
        kinds, corners = rng.integers(0, 80, there), _placed(rng, there)
        sides = corners[:, 2:] - corners[:, :2]
        true = np.column_stack([kinds, corners, sides.prod(axis=1), np.zeros(there)])
        truth.append(np.vstack([boxes.image_row(_SIDE, _SIDE), true]))
        seen = rng.integers(0, there, 2 * there) if there else np.zeros(0, dtype=int)
        anywhere = rng.integers(5, 30)
        near = corners[seen] + rng.normal(0, 5, (len(seen), 4))
        guessed = np.concatenate([kinds[seen], rng.integers(0, 80, anywhere)])
        placed = np.vstack([near, _placed(rng, anywhere)])
        placed[:, 2:] = np.maximum(placed[:, 2:], placed[:, :2] + 1)
        found.append(np.column_stack([guessed, rng.random(len(guessed)), placed]))
    return Ragged.of(truth, boxes.WIDTH), Ragged.of(found, 6)


def _placed(rng: np.random.Generator, count: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (_SIDE - sides)
    return np.hstack([corner, corner + sides])


def as_coco(truth: Ragged, found: Ragged) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results as the files of COCO have them."""
    true = [
        {"id": place, "area": float(row[boxes.AREA]), "iscrowd": 0, **_boxed(at, row, boxes.BOX)}
        for place, (at, row) in enumerate(_rows(truth, 1), start=1)
    ]
    results = [
        {"score": float(row[1]), **_boxed(at, row, slice(2, 6))} for at, row in _rows(found, 0)
    ]
    images = [{"id": at, "width": _SIDE, "height": _SIDE} for at in range(len(truth))]
    categories = [{"id": kind, "name": str(kind)} for kind in range(80)]
    return {"images": images, "categories": categories, "annotations": true}, results


def _rows(entries: Ragged, first: int) -> Iterator[tuple[int, np.ndarray]]:
    for at in range(len(entries)):
        yield from ((at, row) for row in entries.entry(at)[first:])


def _boxed(at: int, row: np.ndarray, corners: slice) -> dict[str, Any]:
    x1, y1, x2, y2 = row[corners].tolist()
    return {"image_id": at, "category_id": int(row[0]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
