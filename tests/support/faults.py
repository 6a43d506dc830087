"""What faults are put into, and what has to hold after each of them: nothing was released."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.project import CNN, Project

from gate import trackers
from gate.cli import exit_code_of
from gate.commands.audit import audit
from gate.commands.report import load_record
from gate.registered import registered_name
from gate.trackers import Registry

MODEL = "digits-cnn"
REPORTS = ("report.*", "junit.xml")
SUMMARY, OUTPUTS = "summary.md", "outputs.txt"
"""Of GitHub: what a pull request shows, and what other jobs are told."""


def made(folder: Path, store: Path, patch: pytest.MonkeyPatch) -> Project:
    """A working folder with a store of its own, an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store, folder / "mlflow.db")
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.chdir(folder)
    return Project(folder)


def asked(project: Project, out: str, *options: str) -> list[str]:
    """The arguments of a release run."""
    release = ["--stage", "release", "--threads", "1", "--quiet", "--out", out]
    return ["run", str(project.policy), "--candidate", str(CNN), *release, *options]


def told_to_github(project: Project) -> dict[str, str]:
    """The environment of a job, whose summary and outputs are kept."""
    for name in (SUMMARY, OUTPUTS):
        (project.folder / name).write_text("")
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(project.folder / SUMMARY),
        "GITHUB_OUTPUT": str(project.folder / OUTPUTS),
    }


def command(project: Project, out: str, *options: str) -> list[str]:
    """The same as a program."""
    return [sys.executable, "-m", "gate", *asked(project, out, *options)]


def ran(
    project: Project,
    out: str,
    *options: str,
    under: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A release run in a process of its own, started by `under`."""
    told = told_to_github(project)
    return subprocess.run(
        [*under, *command(project, out, *options)],
        cwd=project.folder, env={**os.environ, **told, **(environment or {})},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


# ── what has to hold ──────────────────────────────────────────────────────────────────────


def demand_no_release(project: Project, done: subprocess.CompletedProcess[str]) -> None:
    """It came to no verdict, says why, and shows a PASS to nobody."""
    assert done.returncode in (2, 4), (done.returncode, done.stderr)
    assert "gate: " in done.stderr
    assert "defect of the gate" not in done.stderr, done.stderr
    demand_nothing_shown(project, done.stdout)
    demand_whole(project)


def demand_nothing_shown(project: Project, shown: str = "") -> None:
    """Neither on a terminal nor on GitHub."""
    for name in (SUMMARY, OUTPUTS):
        if (project.folder / name).exists():
            shown += (project.folder / name).read_text()
    assert "PASS" not in shown
    assert "\npass\n" not in shown


def demand_whole(project: Project) -> None:
    """Whatever is there is whole: records, runs that passed, versions; and no alias was moved."""
    for record in project.folder.rglob("record.json"):
        if "mlruns" not in record.parts:
            assert exit_code_of(["verify", str(record), "--quiet"]) == 0
            assert load_record(record).verdict.outcome == "pass"
    for pattern in REPORTS:
        for report in project.folder.rglob(pattern):
            assert "mlruns" in report.parts or report.with_name("record.json").exists(), report
    demand_whole_tracker()


def demand_whole_tracker() -> None:
    """In the store of the working folder, or the one that the environment names."""
    tracker = trackers.get("mlflow")
    passed = {run.run for run in tracker.past(MODEL) if run.outcome == "pass"}
    assert all(tracker.record(run) is not None for run in passed)
    name = registered_name(MODEL)
    told = {v.run for v in registry().versions(name) if v.tags.get("outcome") == "pass"}
    assert told <= passed
    assert registry().find(name, alias="production") is None


def registry() -> Registry:
    """Where releases are registered."""
    found = trackers.get("mlflow").registry
    assert found is not None
    return found


def demand_next_passes(project: Project, out: str = "again") -> None:
    """A run that nothing disturbs comes to its verdict, and what it kept can be released."""
    assert exit_code_of(asked(project, out)) == 0
    assert exit_code_of(["verify", out, "--quiet"]) == 0
    assert exit_code_of(["promote", out, "--quiet"]) == 0
    assert audit(MODEL, trackers.get("mlflow")).exit_code == 0


# ── disks ─────────────────────────────────────────────────────────────────────────────────


def alone() -> list[str]:
    """Starts a program that sees mounts of its own, which needs no rights of an administrator."""
    found = shutil.which("unshare")
    starts = [found, "--user", "--map-root-user", "--mount"] if found else ["false"]
    if subprocess.run([*starts, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    return starts


_SMALL = """
disk=$1 room=$2
mount --bind "$disk" "$disk.was" && mount -t tmpfs -o size="$3"k tmpfs "$room" &&
cp -a "$disk/." "$room" && mount --bind "$room" "$disk" && cd "$PWD" || exit 99
shift 3
"$@"
code=$?
cp -a "$disk/." "$disk.was" && exit $code
"""


def with_room(folder: Path, kilobytes: int) -> list[str]:
    """Starts a program for which `folder` is a disk with that much room; what it writes is kept."""
    folder.mkdir(exist_ok=True)
    room = folder.with_name(f"{folder.name}.room")
    for one in (room, folder.with_name(f"{folder.name}.was")):
        one.mkdir()
    pages = [-(-found.lstat().st_size // 4096) + 1 for found in folder.rglob("*")]
    size = str(4 * (1 + sum(pages)) + kilobytes)
    return [*alone(), "sh", "-c", _SMALL, "sh", str(folder), str(room), size]


def read_only(*folders: Path) -> list[str]:
    """Starts a program for which these cannot be written to, whoever runs it."""
    mounts = [
        f"mount --bind '{folder}' '{folder}' && mount -o remount,bind,ro '{folder}' || exit 99"
        for folder in folders
    ]
    script = "\n".join([*mounts, 'cd "$PWD"', 'exec "$@"'])
    return [*alone(), "sh", "-c", script, "sh"]
