"""`gate evidence`: an archive for an auditor, the same bytes for the same evidence."""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gate import plugins, publish, reporters
from gate.commands import _evidence_git as git
from gate.commands._evidence_words import how_to_reproduce, resolved_yaml
from gate.commands._promote_backing import kept_faults, run_of, tag_faults
from gate.commands.audit import move_fields
from gate.commands.judge import demand_untouched, rejudge
from gate.commands.report import is_there, load_record, record_file
from gate.errors import GateError, RecordError, UsageError
from gate.policy import Policy
from gate.policy_file import chain
from gate.records import GateRecord
from gate.registered import registered_name
from gate.trackers import Tracker
from gate.wording import json_text

SUMS = "SHA256SUMS"
ROWS, OUTPUTS = "rows.npz", "outputs.npz"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_UNIX = 3
_UNUSUAL = re.compile(r"[^\w.-]")
"""What no file's name should hold; an id that somebody edited may hold anything."""
_UNUSUAL_PATH = re.compile(r"[^\w ./-]")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The archive that was written."""

    file: Path
    sha256: str
    names: tuple[str, ...]
    """What it holds."""
    notes: tuple[str, ...]
    """What it could not hold, and why."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the archive, and what is missing from it."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    registered: str | None = None


def evidence(path: Path, tracker: Tracker, *, out: Path | None = None) -> Evidence:
    """Pack a record, its rows, reports, policy with its history, and moves of its version.

    Of the record's folder only the files that the record vouches for are read, and no model.
    From elsewhere comes the policy file that the record names, where it is one, with what git
    remembers of it.

    Args:
        path: record.json with its rows beside it, or the folder that holds both.
        tracker: asked for the record, its version and the moves; `none` asks nobody.
        out: the archive, which is not there yet; default `<record's id>-evidence.zip`.

    Raises:
        UsageError: there is no record, or `out` is there already or cannot be written.
        RecordError: the record or its rows were edited, or are not what the tracker keeps.
        TrackerError: the tracker cannot be reached.
    """
    record, folder = load_record(path), record_file(path).parent
    out = out or Path(f"{_UNUSUAL.sub('_', record.id)}-evidence.zip")
    if is_there(out):
        raise UsageError(f"{out} is there already, and evidence is never overwritten: name another")
    own, asked, policy = _own(record, folder), _asked(record, tracker), _policy(record)
    files = {**own.files, **asked.files, **policy.files}
    files["environment.json"] = _json(_environment(record))
    files["HOW_TO_REPRODUCE.md"] = how_to_reproduce(record, asked.registered).encode()
    packed = _packed(files)
    _write(out, packed)
    names = (*sorted(files), SUMS)
    digest = hashlib.sha256(packed).hexdigest()
    return Evidence(out, digest, names, (*own.notes, *policy.notes, *asked.notes))


# ── the record's folder ───────────────────────────────────────────────────────────────────


def _own(record: GateRecord, folder: Path) -> _Part:
    """The record and the arrays that it vouches for, and reports rendered from it."""
    files = {name: _read(folder, name) for name in (publish.RECORD, ROWS)}
    vouched, notes = {ROWS: record.rows_sha256}, []
    if (folder / OUTPUTS).exists() and record.outputs_sha256 is None:
        notes.append(f"{OUTPUTS}: the record does not vouch for it")
    elif (folder / OUTPUTS).exists():
        files[OUTPUTS] = _read(folder, OUTPUTS)
        vouched[OUTPUTS] = str(record.outputs_sha256)
    for name, digest in vouched.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise RecordError(
                f"{folder / name} is not what record {record.id} vouches for: it was changed "
                "after it was written. Fetch it again, or run the gate again"
            )
    plugins.demand_same(record.provenance.plugins)
    demand_untouched(record, folder / ROWS)
    rejudge(record)
    for key in reporters.names():
        reporter = reporters.get(key)
        if reporter.filename not in (None, publish.RECORD):
            files[str(reporter.filename)] = reporter.render(record).encode()
    return _Part(files, tuple(notes))


def _read(folder: Path, name: str) -> bytes:
    """A file of the record's folder; a link that leads out of it is none of its files."""
    path = folder / name
    if not path.is_file():
        raise RecordError(f"{path} is missing: fetch the record's whole folder")
    if path.resolve().parent != folder.resolve():
        raise RecordError(f"{path} is a link that leaves the record's folder: put the file there")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def _environment(record: GateRecord) -> dict[str, object]:
    used = record.provenance
    names = ("git", "versions", "cpu", "seed", "threads", "batch_size", "plugins")
    return {name: getattr(used, name) for name in names}


# ── the policy ────────────────────────────────────────────────────────────────────────────


def _policy(record: GateRecord) -> _Part:
    """The policy that judged, and the file that the record names with all that it extends.

    Of each, how it stands and what git remembers.
    """
    files = {"policy/resolved.yaml": resolved_yaml(record.policy).encode()}
    file = Path(record.policy_source.policy or record.policy_source.file)
    try:
        parts = _policy_files(file)
    except GateError as error:
        note = f"the policy file that the record names is not here: {error}"
        files["policy/history.txt"] = f"{note}\n".encode()
        return _Part(files, (note,))
    told, notes = [], []
    for part in parts:
        name = _UNUSUAL_PATH.sub("_", part.relative_to(file.parent).as_posix())
        files[f"policy/as-it-stands/{name}"] = part.read_bytes()
        history = git.history(part)
        told.append(f"==== {name}\n{history}" if len(parts) > 1 else history)
        if history.startswith("no history"):
            notes.append(f"policy/history.txt, {name}: {history.strip()}")
    files["policy/history.txt"] = "\n".join(told).encode()
    return _Part(files, tuple(notes))


def _policy_files(file: Path) -> list[Path]:
    """A policy's file and those that it extends, all of them policies: a record may name any file.

    Raises:
        UsageError: one is not there, or is no policy.
    """
    if not is_there(file):
        raise UsageError(f"there is no {file}")
    documents, known = chain(file), {*Policy.model_fields, "extends"}
    for document in documents:
        if not document.data or not known.issuperset(document.data):
            raise UsageError(f"{document.file} is no policy")
    return [document.file for document in documents]


# ── the tracker ───────────────────────────────────────────────────────────────────────────


def _asked(record: GateRecord, tracker: Tracker) -> _Part:
    """Where the record is kept and registered, and the moves of an alias that name it."""
    if tracker.registry is None:
        note = f"--tracker {tracker.key} keeps no registry: no version and no moves are told"
        return _Part({"registry.json": _json({"note": note})}, (note,))
    tracker.prepare()
    run = run_of(tracker.past(record.model), record.id)
    if run is None:
        note = f"no run in {tracker.where()} keeps record {record.id}"
        return _Part({"registry.json": _json({"note": note})}, (note,))
    for fault in kept_faults(tracker, run, record):
        raise RecordError(fault)
    number = run.version
    version = (
        tracker.registry.find(registered_name(record.model), version=number) if number else None
    )
    notes = [*tag_faults(version, run, record)] if version else []
    version = None if notes else version
    moves = [move for move in tracker.registry.moves(record.model) if move.record == record.id]
    told = {
        "store": tracker.where(),
        "run": run.run,
        "registered": None if version is None else version.uri,
        "int8_sha256": record.int8.sha256,
        "moves": [move_fields(move) for move in moves],
    }
    if version is None:
        notes.append(f"no version of {registered_name(record.model)} is this record's")
    if not moves:
        notes.append("no move of an alias names this record")
    uri = None if version is None else version.uri
    return _Part({"registry.json": _json(told)}, tuple(notes), uri)


# ── the archive ───────────────────────────────────────────────────────────────────────────


def _json(told: object) -> bytes:
    return json_text(told).encode()


def _packed(files: Mapping[str, bytes]) -> bytes:
    """A zip with sums of all files: sorted, of one date, not compressed, so of the same bytes."""
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted({**files, SUMS: sums.encode()}.items()):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            archive.writestr(entry, content)
    return buffer.getvalue()


def _write(out: Path, packed: bytes) -> None:
    """Whole or not at all."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        try:
            partial.write_bytes(packed)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror}): name another file with --out"
        ) from error


def render(found: Evidence) -> str:
    """What was packed, for people."""
    lines = [f"{found.file}: {len(found.names)} files, sha256 {found.sha256}"]
    return "\n".join([*lines, *(f"  not in it: {note}" for note in found.notes)]) + "\n"
