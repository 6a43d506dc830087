"""A verdict made durable: the record's folder first, the tracker last."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gate import reporters
from gate.errors import EvaluationError, GateError, RecordError, TrackerError, UsageError
from gate.records import GateRecord
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun, Tracker

RECORD = "record.json"
RUNS = Path(".gate")
"""Where runs without `--out` go."""
_CLAIM = ".gate.lock"
_OF_DISKS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENODEV}
)
"""What a disk that is full, or broken, answers, whatever was to be written to it."""
LastPass = tuple[PastRun, Mapping[str, Any] | None]
"""The newest PASS of a model, and its stored record where it has one."""


class Reserve(Protocol):
    """As `Tracker.reserve`."""

    def __call__(self, model: str, *, held_out: str, key: str) -> Sequence[Attempt] | None:
        """Count an attempt."""


def _uncounted(model: str, *, held_out: str, key: str) -> None:
    """Nothing counts."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a tracker remembers of a model."""

    last: LastPass | None = None
    runs: tuple[PastRun, ...] = ()
    """Newest first."""
    reserve: Reserve = _uncounted

    def consulted(self, held_out: str, candidate: str) -> int:
        """Other candidates judged on a held-out set since the last release that passed."""
        seen = set()
        for run in self.runs:
            if run.stage == "release" and run.outcome == "pass":
                break
            if run.tags.get("held_out") == held_out:
                seen.add(run.candidate)
        return len(seen - {candidate})


@contextmanager
def claimed(folder: Path | None) -> Iterator[Path | None]:
    """A folder for one record: made, writable, empty, and nobody else's until the block ends.

    None for the default, which is made when the record is written.

    Raises:
        UsageError: it holds something, another run claims it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    demand_writable(folder or RUNS)
    if folder is None:
        yield None
        return
    claim = folder / _CLAIM
    try:
        with FileLock(claim, timeout=0):
            try:
                _demand_empty(folder)
                yield folder
            finally:
                claim.unlink(missing_ok=True)
    except Timeout as error:
        raise UsageError(
            f"--out {folder} is being written by another run: name another folder"
        ) from error


def _demand_empty(folder: Path) -> None:
    occupied = next((file for file in folder.iterdir() if file.name != _CLAIM), None)
    if occupied is not None:
        raise UsageError(
            f"--out {folder} is not empty (it holds {occupied.name}): name a new folder, "
            "a record is never overwritten"
        )


def made(folder: Path) -> Path:
    """A folder that was not there before.

    Raises:
        RecordError: it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True)
    return folder


def demand_writable(folder: Path) -> None:
    """Show, before any work, that a folder can be made and written to.

    Raises:
        UsageError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}): name another folder with --out"
        ) from error


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder for what a run makes on its way; gone at the end of the block.

    Raises:
        EvaluationError: it cannot be made, or its disk is full: that is no defect of the gate.
    """
    try:
        private = tempfile.TemporaryDirectory(prefix="gate-")
    except OSError as error:
        raise EvaluationError(
            f"there is nowhere to work: {error.strerror}. Free the disk, or set TMPDIR to a folder "
            "on one with room"
        ) from error
    with private as name, _of_disks(Path(name)):
        yield Path(name)


@contextmanager
def _of_disks(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_DISKS:
            raise
        raise EvaluationError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Free the disk, or "
            "set TMPDIR to one with room, and run the gate again"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk refuses is a record that could not be written, not a defect of the gate."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"the record cannot be written to {folder}: {error}") from error


def keep_models(scratch: Path, folder: Path) -> None:
    """Move both models, with their external data and the candidate's own tokenizer, out of the
    run's private folder."""
    for file in (*sorted(scratch.glob("model.*.onnx*")), *scratch.glob("tokenizer.json")):
        shutil.move(file, folder / file.name)


def finish(record: GateRecord, folder: Path) -> None:
    """Write every report of a record into its folder, and the record itself last and at once.

    A folder without `record.json` is not a finished run, however it came to be. None of them has
    its name before all are on the disk: a report alone would tell of a verdict that nobody keeps.

    Raises:
        RecordError: the folder cannot be written.
    """
    found = (reporters.get(key) for key in reporters.names())
    texts = {r.filename: r.render(record) for r in found if r.filename not in (None, RECORD)}
    texts[RECORD] = reporters.get("json").render(record)
    with writing(folder):
        _put_all({folder / str(name): text for name, text in texts.items()})


def put(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    _put_all({path: text})


def _put_all(texts: Mapping[Path, str]) -> None:
    """All of them or none, but for a process that is killed between two of their names."""
    partials = {path: path.with_name(f".{path.name}.partial") for path in texts}
    try:
        for path, text in texts.items():
            with partials[path].open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink(missing_ok=True)


# ── the tracker ───────────────────────────────────────────────────────────────────────────


def reach(keeper: Tracker, model: str) -> tuple[Known, TrackerError | None]:
    """What is known of a model, or why the tracker cannot be reached.

    That it cannot is no reason to stop here: it is told at the end, when the record is safe.
    """
    try:
        keeper.prepare()
        runs = tuple(keeper.past(model))
        past = next((run for run in runs if run.outcome == "pass"), None)
        last = (past, _stored(keeper, past)) if past else None
        return Known(last, runs, keeper.reserve), None
    except TrackerError as error:
        return Known(), error


def _stored(keeper: Tracker, past: PastRun) -> Mapping[str, Any] | None:
    """A past record; one that is damaged is as good as lost, and `since` says what that means."""
    try:
        return keeper.record(past.run)
    except RecordError:
        return None


def send(keeper: Tracker, record: GateRecord, folder: Path) -> str:
    """Give a finished record to the tracker; its id there.

    Raises:
        TrackerError: it could not be kept; says how to send it later.
    """
    try:
        return keeper.log(record, folder)
    except TrackerError as error:
        raise unsent(error, folder) from error


def unsent(error: TrackerError, folder: Path) -> TrackerError:
    """What to say, and do, when the tracker fails after the verdict."""
    return TrackerError(
        f"{error}\nThe record is complete in {folder}, but it is not tracked, so this run does "
        f"not release. Send it later with: gate report --track {folder / RECORD}"
    )


@contextmanager
def tracing(keeper: Tracker | None, **where: str) -> Iterator[None]:
    """Keep the trace of a run that could not judge; the first error stays the one that is told."""
    try:
        yield
    except GateError as error:
        if keeper is not None:
            try:
                keeper.log_error(error=str(error), **where)
            except TrackerError as second:
                error.add_note(f"gate: and the tracker could not keep the trace of this: {second}")
        raise
