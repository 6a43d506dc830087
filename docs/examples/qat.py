"""Quantization-aware training: INT8 breaks a model, the gate blocks it, training mends it.

    python docs/examples/qat.py OUTDIR

A small CNN reads scikit-learn's digits. Two channels of its first layer are 120 times as large as
the others, and the next layer divides by as much: FP32 computes what it did, while INT8 has one
scale for all channels, set by the largest. Training leaves such channels behind by accident (Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 3).

Needs `pip install 'int8-gate[torch]' scikit-learn`, and half a minute.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gate import Finished, run_gate
from gate.examples.digits.train import export, splits
from gate.training import quantization_aware

SPREAD = 120.0
POLICY = """\
version: 1
model: digits-wide
task: classification
build: {{recipe: static, calibration: {{path: calibration.npz}}}}
judge:
  held_out: {{path: held_out.npz}}
  expect_fp32: {{accuracy: {accuracy:.4f}, within: 0.005}}
  budgets:
    - {{metric: accuracy, max_drop: 0.02}}
    - {{metric: int8_share, at_least: 0.9}}
"""


def cnn() -> nn.Sequential:
    """(N, 1, 8, 8) -> logits (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    )


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


def spread(model: nn.Sequential) -> None:
    """Enlarge every eighth channel of the first layer, and shrink what reads it."""
    factor = torch.where(torch.arange(16) % 8 == 0, SPREAD, 1.0)
    with torch.no_grad():
        model[1].weight *= factor
        model[1].bias *= factor
        model[3].weight /= factor[None, :, None, None]


def accuracy(model: nn.Module, data: dict[str, np.ndarray]) -> float:
    """The share of right answers."""
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(data["image"])).argmax(1)
    return float((answers.numpy() == data["target"]).mean())


def told(how: str, run: Finished) -> str:
    """One line on a verdict."""
    found = next(c for c in run.record.comparisons if c.metric == "accuracy")
    reached = f"accuracy FP32 {found.reference:.3f}, INT8 {found.int8:.3f}"
    return f"{how:<32} {run.verdict.outcome.upper():<13} {reached}, exit code {run.exit_code}"


def main(folder: Path) -> int:
    """0 when quantizing is blocked and training for INT8 is let through."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data, model = splits(), cnn()
    train, fp32, policy = data["train"], folder / "model.onnx", folder / "policy.yaml"
    fit(model, train, epochs=20, rate=1e-2)
    spread(model)
    policy.write_text(POLICY.format(accuracy=accuracy(model, data["held_out"])))
    for name in ("calibration", "held_out"):
        np.savez_compressed(folder / f"{name}.npz", **data[name])
    fp32.write_bytes(export(model).SerializeToString())
    quantized = run_gate(policy, fp32, out=folder / "quantized", tracker="none")
    print(told("quantized after training (PTQ)", quantized))
    int8 = quantization_aware(
        model,
        lambda module: fit(module, train, epochs=25, rate=3e-3),
        {"image": train["image"][:2]},
        folder / "model.int8.onnx",
        output_names=["logits"],
    )
    trained = run_gate(policy, fp32, int8=int8, out=folder / "trained", tracker="none")
    print(told("trained for INT8 (QAT)", trained))
    return int((quantized.exit_code, trained.exit_code) != (1, 0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else "usage: python qat.py OUTDIR")
