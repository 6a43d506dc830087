"""What goes wrong at any time: nothing is released by it, nothing that was finished is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.project import CNN, Project

from gate import trackers
from gate.cli import exit_code_of
from gate.commands.audit import audit
from gate.commands.report import load_record
from gate.registered import registered_name
from gate.trackers import Tracker

MODEL = "digits-cnn"


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With a store of its own."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────


def begun(project: Project, out: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN),
         "--stage", "release", "--threads", "1", "--quiet", "--out", out],
        cwd=project.folder, env=os.environ, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def killed_after(project: Project, out: str, seconds: float) -> bool:
    """Whether it was still at work: all of its processes are gone now."""
    process = begun(project, out)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def demand_no_release(project: Project, tracker: Tracker, out: str) -> None:
    """Whatever is there is whole: a PASS is a finished record, a version has its run."""
    record = project.folder / out / "record.json"
    if record.exists():
        assert exit_code_of(["verify", str(record)]) == 0
        assert load_record(record).verdict.outcome == "pass"
    for run in tracker.past(MODEL):
        if run.outcome == "pass":
            assert tracker.record(run.run) is not None
    assert tracker.registry is not None
    assert tracker.registry.find(registered_name(MODEL), alias="production") is None


def demand_finished(project: Project, out: str) -> None:
    """The next run comes to its verdict, and what is kept by then can be released."""
    assert begun(project, out).wait(120) == 0
    assert exit_code_of(["verify", out]) == 0
    assert exit_code_of(["promote", out]) == 0
    assert audit(MODEL, trackers.get("mlflow")).exit_code == 0


def taken(project: Project) -> float:
    """Seconds of a run that nobody disturbs."""
    start = time.perf_counter()
    assert begun(project, "undisturbed").wait(120) == 0
    return time.perf_counter() - start


def moments(count: int, whole: float, seed: int) -> Iterator[float]:
    """So many times within a run, one in each of as many stretches."""
    rng = random.Random(seed)
    for place in range(count):
        yield whole * (place + rng.random()) / count


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [50])
def test_a_run_that_is_killed_releases_nothing_and_the_next_one_does(
    project: Project, count: int, record_property: Any
) -> None:
    tracker = trackers.get("mlflow")
    whole, stopped = taken(project), 0
    for place, moment in enumerate(moments(count, whole, seed=count)):
        stopped += killed_after(project, f"killed-{place}", moment)
        demand_no_release(project, tracker, f"killed-{place}")
    record_property("killed", stopped)
    assert stopped >= count // 2
    demand_finished(project, "again")
