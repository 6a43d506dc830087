"""Quantization-aware training: a model that INT8 breaks is blocked, trained on, and released.

    python docs/examples/qat.py OUTDIR

The model is a small CNN for scikit-learn's handwritten digits in which two channels of the first
layer are 200 times as large as the others, and the next layer divides by as much: FP32 computes the
same, while INT8 has one scale for all channels, set by the largest. Training with BatchNorm leaves
such channels behind by accident (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 3).

Needs `pip install 'int8-gate[torch]' scikit-learn`; about half a minute on two cores.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from gate import Finished, run_gate
from gate.examples.digits.train import export, splits
from gate.training import quantization_aware

SPREAD = 200.0
BUDGETS = [
    {"metric": "accuracy", "max_drop": 0.01},
    {"metric": "int8_share", "at_least": 0.9},
]


def cnn() -> nn.Module:
    """(N, 1, 8, 8) -> logits (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def spread(model: nn.Sequential) -> nn.Sequential:
    """Enlarge every eighth channel of the first layer, and shrink what reads it."""
    factor = torch.where(torch.arange(16) % 8 == 0, SPREAD, 1.0)
    norm, reader = model[1], model[3]
    with torch.no_grad():
        norm.weight *= factor
        norm.bias *= factor
        reader.weight /= factor[None, :, None, None]
    return model


def fit(module: nn.Module, train: dict[str, np.ndarray], *, epochs: int, rate: float) -> None:
    """An ordinary training loop: it knows nothing of INT8."""
    image, target = torch.from_numpy(train["image"]), torch.from_numpy(train["target"])
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    batches = len(image) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(image))[: batches * 32].split(32):
            up, right = torch.randint(-1, 2, (2,)).tolist()
            moved = torch.roll(image[rows], (up, right), dims=(2, 3))
            loss = nn.functional.cross_entropy(module(moved), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def write_policy(folder: Path, data: dict[str, dict[str, np.ndarray]], accuracy: float) -> Path:
    """The policy and the splits that it names, beside each other."""
    for name in ("calibration", "held_out"):
        np.savez_compressed(folder / f"{name}.npz", **data[name])
    policy = {
        "version": 1,
        "model": "digits-wide",
        "task": "classification",
        "build": {"recipe": "static", "calibration": {"path": "calibration.npz"}},
        "judge": {
            "held_out": {"path": "held_out.npz"},
            "expect_fp32": {"accuracy": accuracy, "within": 0.005},
            "budgets": BUDGETS,
        },
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))
    return folder / "policy.yaml"


def told(how: str, run: Finished) -> str:
    """One line on a verdict."""
    accuracy = next(c for c in run.record.comparisons if c.metric == "accuracy")
    reached = f"accuracy FP32 {accuracy.reference:.3f}, INT8 {accuracy.int8:.3f}"
    return f"{how:<32} {run.verdict.outcome.upper():<13} {reached}, exit code {run.exit_code}"


def main(folder: Path) -> int:
    """0 when quantizing is blocked and training on is released."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = splits()
    train, held_out = data["train"], data["held_out"]
    model = cnn()
    fit(model, train, epochs=20, rate=1e-2)
    spread(model).eval()
    with torch.no_grad():
        answers = model(torch.from_numpy(held_out["image"])).argmax(1).numpy()
    policy = write_policy(folder, data, float((answers == held_out["target"]).mean()))
    fp32, int8 = folder / "model.onnx", folder / "model.int8.onnx"
    fp32.write_bytes(export(model).SerializeToString())

    quantized = run_gate(policy, fp32, out=folder / "quantized", tracker="none")
    print(told("quantized after training (PTQ)", quantized))

    def train_on(module: nn.Module) -> None:
        fit(module, train, epochs=8, rate=2e-3)

    example = {"image": train["image"][:2]}
    quantization_aware(model, train_on, example, int8, output_names=["logits"])
    trained = run_gate(policy, fp32, int8=int8, out=folder / "trained", tracker="none")
    print(told("trained for INT8 (QAT)", trained))
    return int((quantized.exit_code, trained.exit_code) != (1, 0))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/qat.py OUTDIR")
    sys.exit(main(Path(sys.argv[1])))
