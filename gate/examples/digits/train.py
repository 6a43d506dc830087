"""Trains the digits CNN and writes the splits: the origin of every bundled file.

Data: the UCI "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it
(1797 images of 8 × 8, BSD licence). Train, calibration and held-out are disjoint; exact
duplicates, if there were any, stay on one side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate.examples import policies
from gate.examples.digits import FOLDER, villains
from gate.examples.export import exported

CLASSES = 10
TRAIN, CALIBRATION = 597, 200  # the other 1000 are held out
SEED = 20
EPOCHS = 60


def splits() -> dict[str, dict[str, Any]]:
    """train, calibration and held_out, each columns by name: image (N, 1, 8, 8) in 0..1, …"""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    image = (bunch.images / 16.0).astype(np.float32)[:, None]
    order = np.random.default_rng(SEED).permutation(len(image))
    columns = {
        "image": image,
        "target": bunch.target.astype(np.int64),
        "id": np.array([f"digit-{row:04d}" for row in range(len(image))]),
        "ink": _ink(image),
    }
    bounds = {
        "train": order[:TRAIN],
        "calibration": order[TRAIN : TRAIN + CALIBRATION],
        "held_out": order[TRAIN + CALIBRATION :],
    }
    return {
        name: {key: column[np.sort(rows)] for key, column in columns.items()}
        for name, rows in bounds.items()
    }


def _ink(image: Any) -> Any:
    """light, medium or heavy: the tercile of the strokes' total darkness."""
    total = image.sum(axis=(1, 2, 3))
    low, high = np.quantile(total, [1 / 3, 2 / 3])
    return np.where(total < low, "light", np.where(total < high, "medium", "heavy"))


def module(train: Mapping[str, Any]) -> Any:
    """The CNN as a trained `torch.nn.Module`: (N, 1, 8, 8) -> logits (N, 10)."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )
    _fit(model, torch.from_numpy(train["image"]), torch.from_numpy(train["target"]))
    return model.eval()


def _fit(model: Any, image: Any, target: Any) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(image)).split(32):
            shift = tuple(int(step) for step in torch.randint(-1, 2, (2,)))
            moved = torch.roll(image[rows], shift, dims=(2, 3))
            loss = torch.nn.functional.cross_entropy(model(moved), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


def export(model: Any) -> Any:
    """The module as an ONNX ModelProto with a free batch dimension."""
    import torch

    return exported(model, (torch.zeros(2, 1, 8, 8),), ["image"], ["logits"])


def write_models(folder: Path) -> None:
    """Train, and write the good model and its spoilt versions."""
    model = export(module(splits()["train"]))
    (folder / "cnn.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name, spoil in villains.VILLAINS.items():
        (folder / name).write_bytes(spoil(model).SerializeToString(deterministic=True))


def write_data(folder: Path) -> None:
    """Write the two splits that policies name; `sha256` in those pins the bytes."""
    for name in ("calibration", "held_out"):
        np.savez_compressed(folder / f"{name}.npz", **splits()[name])


if __name__ == "__main__":
    write_models(FOLDER)
    write_data(policies() / "digits")
