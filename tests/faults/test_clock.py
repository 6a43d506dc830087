"""A clock that jumps: no evidence depends on it."""

import time
from pathlib import Path

import pytest
from support.project import CNN, Project

import gate


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_changes_no_evidence(
    project: Project, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    first = gate.run_gate(project.policy, CNN, tracker="none", threads=1).record
    was = time.time

    monkeypatch.setattr(time, "time", lambda: was() + 86_400 * days)
    again = gate.run_gate(project.policy, CNN, tracker="none", threads=1).record
    for one in ("rows_sha256", "outputs_sha256", "comparisons", "verdict"):
        assert getattr(again, one) == getattr(first, one)
