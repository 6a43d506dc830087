"""A disk that is full, read-only, or changes what lies on it."""

import builtins
import errno
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import faults
from support.project import CNN, Project

import gate
from gate import run as running
from gate.cli import exit_code_of
from gate.errors import EvaluationError, RecordError


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return faults.made(tmp_path / "work", empty_store, monkeypatch)


# ── full, at a file ───────────────────────────────────────────────────────────────────────


def full_at(ending: str, patch: pytest.MonkeyPatch) -> list[str]:
    """Of files whose name ends so nothing reaches the disk, as is found when they are closed."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    honest, met = io.open, []

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if isinstance(file, str | Path) and str(file).endswith(ending) and set(mode) & set("wax"):
            met.append(str(file))
            Path(file).touch()
            file, mode = "/dev/full", mode.replace("+", "")
        return honest(file, mode, *rest, **options)

    patch.setattr(io, "open", opened)
    patch.setattr(builtins, "open", opened)
    return met


POINTS = {
    "the normalised model": "model.fp32.onnx",
    "rows on their way": "/0.rows",
    "the record": ".record.json.partial",
}
MORE_POINTS = {
    "what is cleaned of the candidate": "cleaned.onnx",
    "the INT8 model": "model.int8.onnx",
    "rows": "rows.npz",
    "outputs": "outputs.npz",
    "a report": ".report.html.partial",
}


@pytest.mark.parametrize(
    "ending",
    [
        *POINTS.values(),
        *(pytest.param(one, marks=pytest.mark.slow) for one in MORE_POINTS.values()),
    ],
    ids=[*POINTS, *MORE_POINTS],
)
def test_a_disk_that_is_full_at_a_file_releases_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ending: str,
) -> None:  # fmt: skip
    for key, value in faults.told_to_github(project).items():
        monkeypatch.setenv(key, value)
    with monkeypatch.context() as patch:
        met = full_at(ending, patch)
        assert exit_code_of(faults.asked(project, "out")) == 4
    assert met
    told = capsys.readouterr()
    assert "No space left on device" in told.err
    assert "defect" not in told.err
    faults.demand_nothing_shown(project, told.out)
    faults.demand_whole(project)
    assert not Path("out/record.json").exists()
    faults.demand_next_passes(project)


def test_a_cache_on_a_full_disk_costs_time_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = full_at(".part", monkeypatch)
    assert exit_code_of(faults.asked(project, "out", "--tracker", "none")) == 0
    assert met
    assert exit_code_of(["verify", "out", "--quiet"]) == 0


# ── full, wherever it happens to be ───────────────────────────────────────────────────────


_LIMITED = """
import os, resource, sys
most = 1024 * int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
os.execvp(sys.argv[2], sys.argv[2:])
"""
Done = subprocess.CompletedProcess[str]
Run = Callable[[Project, int], Done]


def _limited(kilobytes: int) -> list[str]:
    """No file may be larger: an error that comes at other places than a full disk's."""
    return [sys.executable, "-c", _LIMITED, str(kilobytes)]


def of_files(project: Project, kilobytes: int) -> Done:
    return faults.ran(project, "out", under=_limited(kilobytes))


def of_files_untracked(project: Project, kilobytes: int) -> Done:
    return faults.ran(project, "out", "--tracker", "none", under=_limited(kilobytes))


def in_tmpdir(project: Project, kilobytes: int) -> Done:
    disk = project.folder.parent / "private"
    under = faults.with_room(disk, kilobytes)
    return faults.ran(project, "out", under=under, environment={"TMPDIR": str(disk)})


def in_out(project: Project, kilobytes: int) -> Done:
    return faults.ran(project, "disk/out", under=faults.with_room(Path("disk"), kilobytes))


def in_work(project: Project, kilobytes: int) -> Done:
    """What the working folder has room for: the caches, the run, MLflow's database and files."""
    return faults.ran(project, "out", under=faults.with_room(project.folder, kilobytes))


def sizes(least: int, most: int, count: int) -> list[int]:
    """Kilobytes, in equal steps of their logarithm."""
    return [round(size) for size in np.geomspace(least, most, count)]


SWEEPS: list[tuple[Run, int]] = [
    *((of_files, size) for size in sizes(1, 2000, 25)),
    *((of_files_untracked, size) for size in sizes(1, 300, 15)),
    *((in_tmpdir, size) for size in sizes(4, 800, 15)),
    *((in_out, size) for size in sizes(4, 400, 15)),
    *((in_work, size) for size in sizes(4, 2000, 30)),
]
SAMPLE: list[tuple[Run, int]] = [(of_files_untracked, 40), (in_work, 100)]


def named(one: Any) -> str:
    return one.__name__ if callable(one) else f"{one}k"


def demand_safe(project: Project, done: Done) -> bool:
    """Whether there was room enough."""
    if done.returncode == 0:
        assert exit_code_of(["verify", *_records(project), "--quiet"]) == 0
        return True
    faults.demand_no_release(project, done)
    if _records(project):
        assert exit_code_of(["report", *_records(project), "--track"]) == 0
    faults.demand_next_passes(project)
    return False


def _records(project: Project) -> list[str]:
    found = project.folder.rglob("record.json")
    return [str(record) for record in found if "mlruns" not in record.parts]


@pytest.mark.parametrize(("run", "kilobytes"), SAMPLE, ids=named)
def test_a_disk_with_little_room_releases_nothing(
    project: Project, run: Run, kilobytes: int
) -> None:
    assert not demand_safe(project, run(project, kilobytes))


@pytest.mark.slow
@pytest.mark.parametrize(("run", "kilobytes"), SWEEPS, ids=named)
def test_whatever_room_a_disk_has(
    project: Project, run: Run, kilobytes: int, record_property: Any
) -> None:
    record_property("room", demand_safe(project, run(project, kilobytes)))


# ── read-only ─────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_is_read_only_is_told_before_any_work(project: Project) -> None:
    Path("disk").mkdir()
    done = faults.ran(project, "disk/out", under=faults.read_only(Path("disk")))
    assert done.returncode == 2
    assert "Read-only file system): name another folder with --out" in done.stderr
    faults.demand_no_release(project, done)


def test_a_working_folder_that_is_read_only_tracks_nothing(project: Project) -> None:
    """Neither the store nor a cache can be written; the record is whole, and sent later."""
    out = project.folder.parent / "out"
    done = faults.ran(project, str(out), under=faults.read_only(project.folder))
    faults.demand_no_release(project, done)
    assert done.returncode == 4
    assert exit_code_of(["verify", str(out), "--quiet"]) == 0
    assert exit_code_of(["report", str(out), "--track"]) == 0
    faults.demand_next_passes(project)


def test_a_cache_that_is_read_only_costs_time_alone(project: Project) -> None:
    Path(".gate").mkdir()
    done = faults.ran(project, "out", "--tracker", "none", under=faults.read_only(Path(".gate")))
    assert done.returncode == 0, done.stderr


def test_nowhere_to_work_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    with pytest.raises(EvaluationError, match=r"there is nowhere to work: No usable .* TMPDIR"):
        gate.run_gate(project.policy, CNN, tracker="none", threads=1, out="out")
    faults.demand_whole(project)


# ── changing ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.fp32.onnx"])
def test_a_model_that_changes_after_it_was_judged_is_not_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    was = running.save_arrays

    def spoil(path: Path, arrays: Any) -> None:
        was(path, arrays)
        for model in _scratch.rglob(name if path.name == "rows.npz" else "none"):
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)

    _scratch = project.folder / "tmp"
    _scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(_scratch))
    monkeypatch.setattr(running, "save_arrays", spoil)
    with pytest.raises(RecordError, match=rf"{name} was changed after it was judged"):
        gate.run_gate(project.policy, CNN, tracker="none", threads=1, out=project.folder / "out")
    assert not (project.folder / "out" / "record.json").exists()
