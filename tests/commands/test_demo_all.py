"""Every kind of model, from one command; and the ready-made budgets."""

import subprocess
import sys
from pathlib import Path

import pytest

from gate import examples
from gate.judgeable import unsupported
from gate.policy_file import load_policy
from gate.preflight import preflight

LIBRARY = sorted((examples.policies() / "library").glob("*.yaml"))


@pytest.mark.slow
def test_three_rows_come_from_one_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gate", "demo", "--all", "--out", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Model type"))
    rows = [line.split("  ") for line in lines[start : start + 4]]
    assert [row[0] for row in rows[1:]] == [
        "image classification",
        "object detection",
        "text classification",
    ]
    assert all(row[-1].strip() == "pass" or "pass" in row for row in rows[1:])
    assert [line for line in lines if line.startswith("exit code")] == ["exit code 0"] * 3


@pytest.mark.parametrize("name", ["digits", "scenes", "languages"])
def test_the_bundled_policies_are_sound(name: str) -> None:
    loaded = load_policy(examples.policies() / f"{name}.yaml")
    preflight(loaded, unsupported=unsupported, needs_candidate=False)


DECODERS = {"detection": "yolox", "embedding": "pairs"}


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_the_library_can_be_extended(tmp_path: Path, file: Path) -> None:
    """Each file with a model, data and FP32 figures of one's own is a policy without a fault."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / file.name).write_text(file.read_text(encoding="utf-8"))
    task = next(
        line.split(": ")[1] for line in file.read_text().splitlines() if line.startswith("task: ")
    )
    written = f"""\
version: 1
extends: library/{file.name}
model: mine
build: {{recipe: dynamic, decode: {DECODERS.get(task, "logits")}}}
judge:
  held_out: {{path: held_out.npz}}
  expect_fp32: unknown
"""
    (tmp_path / "mine.yaml").write_text(written)
    loaded = load_policy(tmp_path / "mine.yaml")
    assert loaded.policy.judge.budgets
    preflight(loaded, unsupported=unsupported, needs_candidate=False, needs_data=False)


def test_there_is_one_for_each_usual_case() -> None:
    assert {file.stem for file in LIBRARY} >= {
        "classification",
        "detection",
        "text-classification",
        "embedding",
        "classification-mlperf-99",
        "classification-mlperf-99.9",
        "classification-rule-of-thumb",
        "no-labels",
    }
