"""Pruning and INT8 in one candidate: half of a CNN's weights go, and the gate judges the result.

    python docs/examples/prune.py OUTDIR

INT8 is held against the dense FP32 model (`--reference`), so that the verdict is on what a user
loses from the model in production, and the report says how much of that is pruning's doing and how
much quantization's.

Needs `pip install 'int8-gate[torch]' scikit-learn`, and half a minute.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from gate import Finished, run_gate
from gate.examples.digits.train import export, splits

AMOUNT = 0.5
POLICY = """\
version: 1
model: digits-pruned
task: classification
build: {{recipe: static, calibration: {{path: calibration.npz}}}}
judge:
  held_out: {{path: held_out.npz}}
  expect_fp32: {{accuracy: {accuracy:.4f}, within: 0.005}}
  budgets:
    - {{metric: accuracy, max_drop: 0.02}}
    - {{metric: prediction_flips, at_most: 0.05}}
    - {{metric: int8_share, at_least: 0.9}}
"""


def dense(train: dict[str, np.ndarray]) -> nn.Sequential:
    """The model in production: (N, 1, 8, 8) -> logits (N, 10)."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    )
    fit(model, train, epochs=20, rate=1e-2)
    return model


def pruned(model: nn.Sequential, train: dict[str, np.ndarray]) -> nn.Sequential:
    """A copy without the smallest half of its weights, trained on for a little."""
    smaller = copy.deepcopy(model)
    layers = [part for part in smaller if isinstance(part, nn.Conv2d | nn.Linear)]
    weights = [(layer, "weight") for layer in layers]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=AMOUNT)
    fit(smaller, train, epochs=5, rate=2e-3)
    for layer in layers:
        prune.remove(layer, "weight")  # the zeros stay
    return smaller


def fit(module: nn.Module, train: dict[str, np.ndarray], *, epochs: int, rate: float) -> None:
    """An ordinary training loop."""
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


def accuracy(model: nn.Module, data: dict[str, np.ndarray]) -> float:
    """The share of right answers."""
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(data["image"])).argmax(1)
    return float((answers.numpy() == data["target"]).mean())


def told(run: Finished) -> str:
    """The verdict, and where accuracy went."""
    cost = next(cost for cost in run.record.costs if cost.metric == "accuracy")
    steps = (cost.candidate.reference, cost.candidate.int8, cost.quantization.int8)
    told = "accuracy dense {:.3f} -> pruned {:.3f} -> INT8 {:.3f}".format(*steps)
    return f"{run.verdict.outcome.upper()}  {told}, exit code {run.exit_code}"


def main(folder: Path) -> int:
    """The gate's exit code."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data, policy = splits(), folder / "policy.yaml"
    whole = dense(data["train"])
    half = pruned(whole, data["train"])
    for name, model in {"dense": whole, "pruned": half}.items():
        (folder / f"{name}.onnx").write_bytes(export(model.eval()).SerializeToString())
    policy.write_text(POLICY.format(accuracy=accuracy(whole, data["held_out"])))
    for name in ("calibration", "held_out"):
        np.savez_compressed(folder / f"{name}.npz", **data[name])
    candidate, reference = folder / "pruned.onnx", folder / "dense.onnx"
    run = run_gate(policy, candidate, reference=reference, out=folder / "run", tracker="none")
    print(told(run))
    return run.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else "usage: python prune.py OUTDIR")
