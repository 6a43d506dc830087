"""A tracker and a registry in memory, and releases to put into them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from support.project import CNN, Project

from gate import run_gate, trackers
from gate.errors import TrackerError
from gate.records import GateRecord
from gate.registered import Bridge, Move, Version, registered_name
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun
from gate.trials import Trial

MODEL = "digits-cnn"
NAME = registered_name(MODEL)


class MemoryRegistry:
    """Versions, aliases and moves; `break_after` cuts a move short, as a crash would."""

    def __init__(self) -> None:
        self.known: list[Version] = []
        self.files: dict[str, Path] = {}
        self.aliases: dict[str, str] = {}
        self.entries: list[Move] = []
        self.break_after: str | None = None
        """intention or alias: what is the last thing that a move gets done."""

    def versions(self, name: str) -> Sequence[Version]:
        return tuple(self._shown(one) for one in self.known if one.name == name)

    def _shown(self, version: Version) -> Version:
        named = (alias for alias, number in self.aliases.items() if number == version.version)
        return replace(version, aliases=tuple(sorted(named)))

    def find(
        self, name: str, *, version: str | None = None, alias: str | None = None
    ) -> Version | None:
        number = version if alias is None else self.aliases.get(alias)
        return next((one for one in self.versions(name) if one.version == number), None)

    def fetch(self, version: Version, folder: Path) -> Path:
        source = self.files[version.version]
        if not source.is_file():
            raise TrackerError(f"{source} is gone")
        return Path(shutil.copy(source, folder))

    def move(self, move: Move) -> None:
        last = next((one for one in reversed(self.entries) if one.alias == move.alias), None)
        same = ("version", "record", "kind", "int8_sha256")
        again = last is not None and all(getattr(last, k) == getattr(move, k) for k in same)
        now = self.aliases.get(move.alias)
        if not (again and now == move.version):
            if now != move.previous:
                raise TrackerError(f"{move.alias} names {now}, not {move.previous}")
            if not again or (last is not None and last.complete):
                self.entries.append(replace(move, complete=False))
            self._crash("intention")
            self.aliases[move.alias] = move.version
            self._crash("alias")
        place = max(i for i, one in enumerate(self.entries) if one.alias == move.alias)
        self.entries[place] = replace(self.entries[place], complete=True)

    def _crash(self, after: str) -> None:
        if self.break_after == after:
            self.break_after = None
            raise TrackerError("the store died")

    def moves(self, model: str) -> Sequence[Move]:
        return tuple(move for move in self.entries if move.model == model)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        for place, one in enumerate(self.known):
            if (one.name, one.version) == (version.name, version.version):
                self.known[place] = replace(one, tags=MappingProxyType({**one.tags, **tags}))

    def keep_bridge(self, bridge: Bridge, folder: Path) -> str:
        raise NotImplementedError

    def bridges(self, model: str) -> Sequence[tuple[str, Bridge]]:
        return ()


class MemoryTracker:
    """Keeps records as text, so that a test may change what is kept."""

    key = "memory"

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.runs: list[PastRun] = []
        self.records: dict[str, str] = {}
        self.folders: dict[str, Path] = {}

    def prepare(self) -> None:
        pass

    def log(self, record: GateRecord, folder: Path) -> str:
        run = f"run{len(self.runs) + 1}"
        version = self._register(record, folder, run) if record.stage == "release" else None
        tags = {
            "record": record.id,
            "int8_sha256": record.int8.sha256,
            "mode": record.policy.judge.mode,
            "ledger": record.ledger,
            "record_sha256": sha256(record.model_dump_json().encode()).hexdigest(),
        }
        past = PastRun(
            run=run,
            when=record.created,
            stage=record.stage,
            outcome=record.verdict.outcome,
            candidate=record.candidate.sha256,
            version=version,
            metrics={},
            tags=tags,
        )
        self.runs.append(past)
        self.records[run] = record.model_dump_json()
        self.folders[run] = folder
        return run

    def _register(self, record: GateRecord, folder: Path, run: str) -> str:
        number = str(len(self.registry.known) + 1)
        tags = {"record": record.id, "int8_sha256": record.int8.sha256}
        self.registry.known.append(
            Version(NAME, number, record.created, run, str(folder), MappingProxyType(tags))
        )
        self.registry.files[number] = folder / "model.int8.onnx"
        return number

    def log_error(self, model: str, *, stage: str, source: str, error: str) -> None:
        raise AssertionError(error)

    def reserve(self, model: str, *, held_out: str, key: str) -> Sequence[Attempt]:
        return (Attempt(key, None),)

    def log_trial(self, model: str, *, search: str, trial: Trial) -> None:
        raise NotImplementedError

    def attempts(self, model: str) -> Sequence[Attempt]:
        return ()

    def past(self, model: str) -> Sequence[PastRun]:
        if model not in self.models():
            return ()
        return tuple(sorted(self.runs, key=lambda run: run.when, reverse=True))

    def models(self) -> Sequence[str]:
        return (MODEL,) if self.runs else ()

    def record(self, run: str) -> dict[str, Any] | None:
        return json.loads(self.records[run]) if run in self.records else None

    def fetch(self, run: str, name: str, folder: Path) -> Path | None:
        if name == "record.json":
            kept = self.records.get(run)
            if kept is None:
                return None
            (folder / name).write_text(kept)
            return folder / name
        file = self.folders[run] / name
        return Path(shutil.copy(file, folder)) if file.is_file() else None

    def where(self) -> str:
        return "memory"


TRACKER = MemoryTracker()
"""What `--tracker memory` names; a test puts its own here."""


def plug(tracker: MemoryTracker, patch: pytest.MonkeyPatch) -> None:
    """Let `--tracker memory` name it."""
    patch.setitem(trackers.TRACKERS, "memory", f"{__name__}:TRACKER")
    patch.setitem(globals(), "TRACKER", tracker)


def made(folder: Path, candidate: Path = CNN, **judge: Any) -> Project:
    """A project with a judged release in `folder/run`."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project(folder)
    project.spec["judge"] |= judge
    project.write()
    with pytest.MonkeyPatch.context() as patch:
        plug(MemoryTracker(), patch)
        run_gate(
            project.policy,
            candidate,
            stage="release",
            tracker="memory",
            threads=1,
            out=folder / "run",
        )
    return project


def changed(folder: Path, **fields: Any) -> GateRecord:
    """The record in `folder` with other fields, written back."""
    file = folder / "record.json"
    record = GateRecord.model_validate_json(file.read_text())
    record = record.model_copy(update=fields)
    file.write_text(record.model_dump_json())
    return record


def another(folder: Path, to: Path, *, hours: float = 1) -> GateRecord:
    """A copy of a release, made later, under an id of its own."""
    shutil.copytree(folder, to)
    record = GateRecord.model_validate_json((to / "record.json").read_text())
    created = record.created + timedelta(hours=hours)
    return changed(to, id=f"{created:%Y%m%dT%H%M%S%fZ}-{to.name}", created=created)


def now() -> datetime:
    return datetime.now(UTC)
