"""Memory that is refused, wherever a run is by then: no verdict, or the right one."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import faults
from support.project import Project

from gate.cli import exit_code_of
from gate.limits import is_want_of_memory

GIB = [float(size) for size in np.geomspace(0.01, 0.6, 24)]


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return faults.made(tmp_path / "work", empty_store, monkeypatch)


def enough(project: Project, gib: float, out: str) -> bool:
    """Whether a run ended with its verdict; else it told of none, and what it left is whole."""
    done = faults.ran(project, out, "--max-memory", f"{gib:.4f}")
    if done.returncode == 0:
        assert exit_code_of(["verify", out, "--quiet"]) == 0
        return True
    assert done.returncode == 4, (done.returncode, done.stderr)
    faults.demand_nothing_shown(project, done.stdout)
    faults.demand_whole(project)
    return False


def test_a_run_without_room_for_its_libraries_says_so(project: Project) -> None:
    done = faults.ran(project, "out", "--max-memory", "0.05")
    faults.demand_no_release(project, done)
    assert "there is not enough memory for this run" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_is_refused_memory_wherever_it_is(project: Project, record_property: Any) -> None:
    """From the first import to the statistics, and beyond: what is enough stays enough."""
    found = [enough(project, gib, f"out-{place}") for place, gib in enumerate(GIB)]
    record_property("refused", found.count(False))
    assert [fits for fits, _ in itertools.groupby(found)] == [False, True]
    faults.demand_next_passes(project)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libz.so.1: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (SystemError("error return without exception set"), True),
        (ImportError("No module named 'torch'"), False),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_how_native_code_says_that_it_was_refused_memory(error: Exception, told: bool) -> None:
    assert is_want_of_memory(error) is told
