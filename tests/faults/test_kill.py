"""A run that is killed or cancelled at any time: nothing is released, nothing finished is lost."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import faults
from support.project import Project

from gate.errors import EXIT_INTERRUPTED


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "private").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "private"))
    return faults.made(tmp_path / "work", empty_store, monkeypatch)


def begun(project: Project, out: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        faults.command(project, out),
        cwd=project.folder, env=os.environ, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


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


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────


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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [50])
def test_a_run_that_is_killed_releases_nothing_and_the_next_one_does(
    project: Project, count: int, record_property: Any
) -> None:
    whole, stopped = taken(project), 0
    for place, moment in enumerate(moments(count, whole, seed=count)):
        stopped += killed_after(project, f"killed-{place}", moment)
        faults.demand_whole(project)
    record_property("killed", stopped)
    assert stopped >= count // 2
    faults.demand_next_passes(project)


# ── a workflow that is cancelled ──────────────────────────────────────────────────────────

PATIENCE_S = (7.5, 2.5)
"""Of GitHub's runner: from SIGINT to SIGTERM, and from there to SIGKILL of all that is left."""


def cancelled_after(project: Project, out: str, seconds: float) -> int:
    """Its exit code, as a shell tells it."""
    process = begun(project, out)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    for patience, last in zip(PATIENCE_S, (signal.SIGTERM, signal.SIGKILL), strict=True):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(patience)
        os.killpg(process.pid, last)
    return process.wait()


def demand_cancelled(project: Project, out: str, seconds: float) -> bool:
    """Whether it was cancelled, and not done before."""
    code = cancelled_after(project, out, seconds)
    assert code in (0, EXIT_INTERRUPTED, -signal.SIGINT)  # the last before the gate is even there
    faults.demand_whole(project)
    assert list((project.folder.parent / "private").iterdir()) == []
    if code == 0:
        assert (project.folder / out / "record.json").exists()
    return code != 0


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_a_run_that_is_cancelled_releases_nothing(project: Project, seconds: float) -> None:
    assert demand_cancelled(project, "out", seconds)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [20])
def test_a_run_that_is_cancelled_at_any_time_releases_nothing_and_the_next_one_does(
    project: Project, count: int, record_property: Any
) -> None:
    whole = taken(project)
    stopped = [
        demand_cancelled(project, f"cancelled-{place}", moment)
        for place, moment in enumerate(moments(count, whole, seed=count))
    ]
    record_property("cancelled", sum(stopped))
    assert sum(stopped) >= count // 2
    faults.demand_next_passes(project)
