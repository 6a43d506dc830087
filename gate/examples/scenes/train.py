"""Trains the digit detector and writes the splits: the origin of every bundled file.

Data: the UCI "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it
(1797 images of 8 × 8, BSD licence). A scene is a grey slope of 96 × 96 pixels with one to five of
them, turned and enlarged, none hiding another. Every digit stands in one split, and every
held-out digit in one scene, so that scenes are independent of each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gate import boxes
from gate.examples import policies
from gate.examples.export import exported
from gate.examples.scenes import FOLDER, MODEL
from gate.values import Ragged

CLASSES = 10
SIDE, STRIDE = 96, 4
SMALLEST, LARGEST = 14, 44
MOST = 5
TRAIN, CALIBRATION = 560, 160  # digits; the other 1077 are held out
SCENES = {"train": 1600, "calibration": 120, "held_out": None}
"""None: until every digit was shown, once."""
INK = 90
"""Grey levels above the ground that a digit's box encloses."""
SEED = 11
EPOCHS = 12


# ── data ──────────────────────────────────────────────────────────────────────────────────


def splits() -> dict[str, dict[str, Any]]:
    """train, calibration and held_out: image (N, 1, 96, 96) uint8, target (Ragged), id (N,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.clip(bunch.images * 16, 0, 255).astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(images))
    bounds = {
        "train": order[:TRAIN],
        "calibration": order[TRAIN : TRAIN + CALIBRATION],
        "held_out": order[TRAIN + CALIBRATION :],
    }
    return {
        name: _split(name, images[rows], bunch.target[rows], SCENES[name])
        for name, rows in bounds.items()
    }


def _split(name: str, images: Any, labels: Any, count: int | None) -> dict[str, Any]:
    random = np.random.default_rng([SEED, *name.encode()])
    scenes: list[Any] = []
    targets: list[Any] = []
    left: list[int] = []
    while (len(scenes) < count) if count else (left or not scenes):
        if not left:
            left = random.permutation(len(images)).tolist()
        chosen = [left.pop() for _ in range(min(len(left), int(random.integers(1, MOST + 1))))]
        scene, found = _scene(images[chosen], labels[chosen], random)
        scenes.append(scene)
        targets.append(found)
    return {
        "image": np.stack(scenes)[:, None],
        "target": Ragged.of(targets, boxes.WIDTH),
        "id": np.array([f"{name}-{place:04d}" for place in range(len(scenes))]),
    }


def _scene(images: Any, labels: Sequence[int], random: Any) -> tuple[Any, Any]:
    """(96, 96) uint8, and the rows of its target."""
    down, right = random.uniform(-40, 40, 2)
    ramp = np.linspace(-0.5, 0.5, SIDE)
    ground = random.uniform(40, 90) + down * ramp[:, None] + right * ramp
    scene, rows = ground.round(), [[*boxes.image_row(SIDE, SIDE)]]
    taken = np.zeros((SIDE, SIDE), dtype=bool)
    for image, label in zip(images, labels, strict=True):
        digit = _drawn(image, random)
        for _ in range(50):  # a place where it hides nothing
            top, left = (int(random.integers(0, SIDE - size + 1)) for size in digit.shape)
            place = slice(top, top + digit.shape[0]), slice(left, left + digit.shape[1])
            if not taken[place].any():
                break
        else:
            continue
        taken[place] = True
        scene[place] = np.minimum(255, scene[place] + digit)
        rows.append(_row(digit, top, left, label))
    return scene.astype(np.uint8), np.array(rows)


def _drawn(image: Any, random: Any) -> Any:
    """A digit, turned a little and enlarged, without empty margins."""
    from PIL import Image

    size = int(np.exp(random.uniform(np.log(SMALLEST), np.log(LARGEST))))
    turned = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    turned = turned.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC)
    values = np.asarray(turned, dtype=np.float64)
    inked = np.argwhere(values > INK)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    return values[top:bottom, left:right].round()


def _row(digit: Any, top: int, left: int, label: int) -> list[float]:
    height, width = digit.shape
    return [label, left, top, left + width, top + height, width * height, 0]


# ── model ─────────────────────────────────────────────────────────────────────────────────


def module() -> Any:
    """The detector: (N, 1, 96, 96) in 0..1 to heatmap (N, 10, 24, 24) and box (N, 4, 24, 24)."""
    import torch
    from torch import nn

    def block(before: int, after: int, stride: int = 1) -> list[Any]:
        layer = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        return [layer, nn.BatchNorm2d(after), nn.ReLU()]

    class Detector(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(*block(1, 16, 2), *block(16, 32, 2), *block(32, 32))
            self.wide = nn.Sequential(*block(32, 64, 2), *block(64, 64))
            self.back = nn.Upsample(scale_factor=2, mode="nearest")
            self.joined = nn.Sequential(*block(96, 32), *block(32, 32))
            self.heat, self.box = nn.Conv2d(32, CLASSES, 1), nn.Conv2d(32, 4, 1)
            nn.init.constant_(self.heat.bias, -4.0)  # hardly anything is a centre

        def forward(self, image: Any) -> Any:
            fine = self.trunk(image)
            found = self.joined(torch.cat([fine, self.back(self.wide(fine))], dim=1))
            return self.heat(found).sigmoid(), self.box(found)

    torch.manual_seed(SEED)
    return Detector()


def truth(targets: Ragged) -> tuple[Any, Any, Any]:
    """What the outputs should be: heat (N, 10, 24, 24), box (N, 4, 24, 24), and where it counts.

    A centre's neighbours count less the nearer they are (X. Zhou et al. 2019, "Objects as
    Points"); a box is told at its centre's cell alone: the centre within the cell, and the
    logarithms of width and height, in strides.
    """
    cells = SIDE // STRIDE
    heat = np.zeros((len(targets), CLASSES, cells, cells), np.float32)
    box = np.zeros((len(targets), 4, cells, cells), np.float32)
    counts = np.zeros((len(targets), 1, cells, cells), np.float32)
    grid = np.arange(cells)
    for scene in range(len(targets)):
        for label, x1, y1, x2, y2, *_ in targets.entry(scene)[1:]:
            x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            column, row = int(x // STRIDE), int(y // STRIDE)
            spread = max(1.0, min(width, height) / STRIDE / 5)
            square = (grid[:, None] - row) ** 2 + (grid - column) ** 2
            bump = np.exp(-square / (2 * spread**2))
            heat[scene, int(label)] = np.maximum(heat[scene, int(label)], bump)
            centre, size = (x / STRIDE - column, y / STRIDE - row), (width, height)
            box[scene, :, row, column] = [*centre, *np.log(np.divide(size, STRIDE))]
            counts[scene, :, row, column] = 1
    return heat, box, counts


def trained(train: Mapping[str, Any]) -> Any:
    """The detector, fitted to the training scenes."""
    import torch

    image = torch.from_numpy(train["image"].astype(np.float32) / 255)
    heat, box, counts = map(torch.from_numpy, truth(train["target"]))
    model = module()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=EPOCHS * -(-len(image) // 32)
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(image)).split(32):
            found, told = model(image[rows])
            apart = (told - box[rows]).abs() * counts[rows]
            loss = _focal(found, heat[rows]) + apart.sum() / counts[rows].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _focal(found: Any, heat: Any) -> Any:
    """Of the objects-as-points paper, equation 1: α = 2, β = 4."""
    import torch

    found = found.clamp(1e-4, 1 - 1e-4)
    at = (heat == 1).float()
    hit = (1 - found) ** 2 * found.log() * at
    miss = (1 - heat) ** 4 * found**2 * torch.log(1 - found) * (1 - at)
    return -(hit + miss).sum() / at.sum()


def export(model: Any) -> Any:
    """The module as an ONNX ModelProto with a free batch dimension."""
    import torch

    return exported(model, (torch.zeros(2, 1, SIDE, SIDE),), ["image"], ["heatmap", "box"])


# ── files ─────────────────────────────────────────────────────────────────────────────────


def write_models(folder: Path) -> None:
    """Train, and write the model."""
    proto = export(trained(splits()["train"]))
    (folder / MODEL).write_bytes(proto.SerializeToString(deterministic=True))


def write_data(folder: Path) -> None:
    """Write the two splits that the policy names; `sha256` in it pins the bytes."""
    parts = splits()
    for name in ("calibration", "held_out"):
        columns = dict(parts[name])
        target = columns.pop("target")
        told = {"target": target.values, "target/offsets": target.offsets}
        np.savez_compressed(folder / f"{name}.npz", **columns, **told)


if __name__ == "__main__":
    write_models(FOLDER)
    write_data(policies() / "scenes")
