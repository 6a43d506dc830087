"""Fifty runs at once on one server, with PostgreSQL and S3 behind it."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.project import CNN, WIDE_RANGE, Project

from gate.registered import registered_name
from gate.trackers.mlflow import TRACKER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODELS = 5
EACH = 10
"""Runs of a model: half of them good, half of them degraded."""
EXPECTED = {str(CNN): 0, str(WIDE_RANGE): 1}


def begun(policy: Path, candidate: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gate", "run", str(policy), "--candidate", str(candidate),
         "--stage", "release", "--threads", "1", "--quiet", "--out", str(out)],
        cwd=policy.parent, env=os.environ, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_fifty_runs_at_once_are_all_kept_with_their_verdicts(
    large_server: str, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"MLFLOW_TRACKING_URI": large_server, **s3}.items():
        monkeypatch.setenv(key, value)
    runs: list[tuple[str, Path, subprocess.Popen[str]]] = []
    for number in range(MODELS):
        project = _project(tmp_path / f"load-{number}", number)
        for place in range(EACH):
            candidate = (CNN, WIDE_RANGE)[place % 2]
            out = project.folder / f"out-{place}"
            runs.append((f"load-{number}", candidate, begun(project.policy, candidate, out)))
    wrong: list[Any] = []
    for model, candidate, process in runs:
        _, err = process.communicate()
        if process.returncode != EXPECTED[str(candidate)]:
            wrong.append((model, candidate.name, process.returncode, err[-500:]))
    assert wrong == []
    for number in range(MODELS):
        model = f"load-{number}"
        outcomes = Counter(run.outcome for run in TRACKER.past(model))
        assert outcomes == {"pass": EACH // 2, "fail": EACH // 2}, model
        assert TRACKER.registry is not None
        versions = TRACKER.registry.versions(registered_name(model))
        assert len(versions) == len({one.version for one in versions})
        assert len({one.tags["record"] for one in versions}) == len(versions)


def _project(folder: Path, number: int) -> Project:
    """Each model counts its own attempts; its budget leaves room for the second."""
    folder.mkdir()
    project = Project(folder)
    project.spec["model"] = f"load-{number}"
    project.budget(metric="accuracy", max_drop=0.03)
    return project
