"""What recovery costs and keeps, held against NNCF's accuracy control in the same run.

`make bench` runs it and prints the table of docs/recovery.md: the same ONNX model, calibration and
tuning data, budget and threads. Both searches are timed without imports, and without what the gate
does afterwards, its run on the held-out set. Seconds depend on the machine, ratios hardly.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import recovery_models as models
from recovery_models import Case

from gate.backends.onnxruntime import BACKEND
from gate.commands.recover import Recovery, recover
from gate.statistics import tango

THREADS = min(2, os.cpu_count() or 1)
BATCH = 64
LEVEL = 0.9
TRANSFORMERS = ("MiniLM",)


@dataclass(frozen=True)
class Result:
    """One side of one case."""

    seconds: float
    examples: int
    """Run through models that hold INT8 operations."""
    integers: int
    """Convolutions and matrix products that an integer kernel executes."""
    products: int
    right: np.ndarray
    """(N,) of bool: held-out examples on which it predicts what FP32 does."""


def import_all() -> None:
    """What the first search would otherwise import on its way: NNCF's is timed without, too."""
    BACKEND.prepare()
    for name in ("onnx.shape_inference", "onnx.version_converter", "onnxruntime.quantization"):
        importlib.import_module(name)
    importlib.import_module("onnxruntime.quantization.qdq_quantizer")


def gate_side(case: Case, folder: Path) -> Result:
    """`gate recover`, in this process."""
    for name in ("calibration", "tuning", "held_out"):
        np.savez(folder / f"{name}.npz", **getattr(case, name))
    policy = folder / "policy.yaml"
    policy.write_text(json.dumps(_policy(case)), encoding="utf-8")
    with chdir(folder):
        found = recover(policy, str(case.model), tracker="none", threads=THREADS)
    if found.finished is None:
        raise SystemExit(f"{case.name}: nothing met the budget: {found.trials}")
    print(_told(case, found), file=sys.stderr)
    artifact = folder / found.finished.folder / "model.int8.onnx"
    examples = sum(trial.examples for trial in found.trials)
    return _result(case, artifact, found.seconds, examples)


def _policy(case: Case) -> dict[str, Any]:
    paths = {name: {"path": f"{name}.npz"} for name in ("calibration", "tuning", "held_out")}
    return {
        "version": 1,
        "model": "benchmark",
        "task": "classification",
        "build": {
            "recipe": "static",
            "calibration": paths["calibration"],
            "tuning": paths["tuning"],
        },
        "judge": {
            "held_out": paths["held_out"],
            "expect_fp32": "unknown",
            "budgets": [{"metric": "accuracy", "max_drop": case.max_drop}],
        },
    }


def _told(case: Case, found: Recovery) -> str:
    assert found.winner is not None
    assert found.finished is not None
    verdict = found.finished.verdict.outcome
    return f"{case.name}: {found.winner.move}; on the held-out set {verdict}"


def peer_side(case: Case, folder: Path, python: str, family: str = "cnn") -> Result:
    """NNCF's accuracy control, in a process of its own.

    `family` is `cnn` for its defaults, as the gate is told nothing of the model either, and
    `transformer` for the preset that a user may choose.
    """
    data, out = models.save_for_peer(case, folder / "peer.npz"), folder / "peer.onnx"
    script = Path(__file__).with_name("recovery_peer.py")
    command = [python, str(script), str(case.model), str(data), "--out", str(out)]
    command += ["--max-drop", str(case.max_drop), "--threads", str(THREADS), "--family", family]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return _result(case, out, told["seconds"], told["examples_run_through_int8"])


def _result(case: Case, artifact: Path, seconds: float, examples: int) -> Result:
    feeds = models.inputs(case.held_out)
    sample = {name: column[:2] for name, column in feeds.items()}
    kernels = [kernel for kernel in BACKEND.profile(artifact, sample) if kernel.macs]
    return Result(
        seconds=seconds,
        examples=examples,
        integers=sum(kernel.integer for kernel in kernels),
        products=len(kernels),
        right=_predicted(artifact, feeds) == _predicted(case.model, feeds),
    )


def _predicted(model: Path, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    runner = BACKEND.open(model, threads=THREADS)
    count = len(next(iter(feeds.values())))
    parts = []
    for start in range(0, count, BATCH):
        given = {name: column[start : start + BATCH] for name, column in feeds.items()}
        parts.append(next(iter(runner.run(given).values())).argmax(axis=1))
    return np.concatenate(parts)


def rows(case: Case, ours: Result, theirs: Result) -> Iterator[tuple[str, str, str, str, bool]]:
    """What, the gate's, NNCF's, the bar and whether it is met."""
    ratio = ours.seconds / theirs.seconds
    yield (
        f"{case.name}: seconds",
        f"{ours.seconds:.1f}",
        f"{theirs.seconds:.1f}",
        f"{ratio:.2f} ≤ 0.20",
        ratio <= 1 / 5,
    )
    ratio = ours.examples / theirs.examples
    yield (
        "examples through INT8",
        f"{ours.examples:,}",
        f"{theirs.examples:,}",
        f"{ratio:.2f} ≤ 0.25",
        ratio <= 1 / 4,
    )
    yield (
        "products by integers",
        f"{ours.integers} of {ours.products}",
        f"{theirs.integers} of {theirs.products}",
        "at least NNCF's less two",
        ours.integers >= theirs.integers - 2,
    )
    b = int((~ours.right & theirs.right).sum())
    c = int((ours.right & ~theirs.right).sum())
    low, high = tango.interval(b, c, len(ours.right), LEVEL)
    yield (
        "agreement with FP32",
        f"{ours.right.mean():.2%}",
        f"{theirs.right.mean():.2%}",
        f"NNCF better by {100 * low:+.2f} to {100 * high:+.2f} pp: not above 0",
        low <= 0,
    )


def main() -> None:
    """Print the table; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable, help="Python that has nncf")
    parser.add_argument("--models", type=Path, help="folder to keep models in")
    given = parser.parse_args()
    import_all()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.models or Path(scratch) / "models"
        makers = (models.digits_mobilenet, models.minilm, models.rapidocr_recognition)
        met = [_case(case, Path(scratch), given.peer) for make in makers if (case := make(folder))]
    sys.exit(0 if all(met) else 1)


def _case(case: Case, scratch: Path, peer: str) -> bool:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    ours = gate_side(case, folder)
    found = list(rows(case, ours, peer_side(case, folder, peer)))
    for what, mine, theirs, bar, met in found:
        print(f"| {what} | {mine} | {theirs} | {bar} | {'met' if met else 'MISSED'} |", flush=True)
    if case.name.startswith(TRANSFORMERS):
        _print_preset(ours, peer_side(case, folder, peer, "transformer"))
    return all(met for *_, met in found)


def _print_preset(ours: Result, theirs: Result) -> None:
    """What NNCF does when it is told that the model is a transformer: no bar."""
    cells = [
        f"{side.seconds:.1f} s, {side.examples:,} examples, {side.integers} of {side.products}, "
        f"{side.right.mean():.2%}"
        for side in (ours, theirs)
    ]
    print(f"| beside NNCF's transformer preset | {cells[0]} | {cells[1]} | – | – |", flush=True)


if __name__ == "__main__":
    print("| | gate | NNCF | bar | |\n| --- | ---: | ---: | --- | --- |")
    main()
