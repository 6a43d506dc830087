"""`gate history import`: sends records that lie in a folder to the tracker, which forgot them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gate.commands.judge import demand_untouched, rejudge
from gate.commands.report import load_record
from gate.errors import EXIT_ERROR, EXIT_PASS, GateError, RecordError, TrackerError, UsageError
from gate.publish import RECORD
from gate.records import GateRecord
from gate.statistics.ledger import attempt_number
from gate.trackers import Tracker
from gate.wording import plain, plural

_ROWS = "rows.npz"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MOMENT = timedelta(milliseconds=1)
"""What trackers tell times by."""
_NOT_IN_RECORDS = (
    "Records do not tell where aliases stand and how they moved, the bridges of `gate rebase`, "
    "runs that came to an error, and attempts that never came to a verdict after the last one that "
    "did: where the old store is gone, they are, too. Promote in the old order, and rebase again"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the records of a folder."""

    sent: tuple[tuple[Path, str], ...] = ()
    """File and the tracker's run."""
    known: tuple[Path, ...] = ()
    """The tracker had these completely."""
    refused: tuple[tuple[Path, str], ...] = ()
    """File and why it could not be sent."""

    @property
    def exit_code(self) -> int:
        """4 where any could not be sent."""
        return EXIT_ERROR if self.refused else EXIT_PASS

    def lines(self, where: str) -> Iterator[str]:
        """What to tell; `where` is the store."""
        yield from (f"sent     {plain(path, 300)} as run {run}" for path, run in self.sent)
        yield from (f"there    {plain(path, 300)}" for path in self.known)
        yield from (
            f"REFUSED  {plain(path, 300)}: {plain(why, 1000)}" for path, why in self.refused
        )
        yield (
            f"{plural(len(self.sent), 'record')} sent, {len(self.known)} there already, "
            f"{len(self.refused)} could not be sent; look at it with: {where}"
        )
        if self.sent:
            yield _NOT_IN_RECORDS


@dataclass(slots=True)
class _Work:
    sent: list[tuple[Path, str]] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)


def import_folder(keeper: Tracker, folder: Path) -> Imported:
    """Check every record.json below `folder`, and send them in the order they were made in.

    Doing it again changes nothing. A record that does not hold is refused and told, and the
    others are sent.

    Raises:
        UsageError: there is no such folder, no record in it, or the tracker keeps nothing.
        TrackerError: the tracker cannot be reached.
    """
    if keeper.key == "none":
        raise UsageError("--tracker none keeps nothing, so nothing can be imported into it")
    files = _found(folder)
    keeper.prepare()
    work = _Work()
    kept: dict[str, dict[str, str]] = {}
    for file, record in _checked(files, work):
        if record.model not in kept:
            kept[record.model] = _complete(keeper, record.model)
        _send(keeper, file, record, kept[record.model], work)
    return Imported(tuple(work.sent), tuple(work.known), tuple(work.refused))


def _found(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that holds the folders of runs")
    files = sorted(
        Path(place) / RECORD
        for place, _, names in os.walk(folder, onerror=_raise)
        if RECORD in names
    )
    if not files:
        raise UsageError(f"{folder} holds no {RECORD}, in no folder below it")
    return files


def _raise(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error


def _checked(files: Sequence[Path], work: _Work) -> Sequence[tuple[Path, GateRecord]]:
    """Records that hold, oldest first."""
    found = []
    for file in files:
        try:
            found.append((file, _sound(file)))
        except GateError as error:
            work.refused.append((file, str(error)))
    return sorted(found, key=lambda pair: (pair[1].created, pair[1].id))


def _sound(file: Path) -> GateRecord:
    """A record whose numbers follow from its rows, and its verdict from its numbers."""
    record = load_record(file)
    _demand_placed(record)
    rows = file.with_name(_ROWS)
    if not rows.is_file():
        raise RecordError(f"{rows} is not there, so nothing shows that the record is as it was")
    demand_untouched(record, rows)
    return rejudge(record)


def _demand_placed(record: GateRecord) -> None:
    """Show that it says in one voice which model's history it belongs to, and where in it.

    Raises:
        RecordError: it was changed.
    """
    if record.model != record.policy.model:
        raise RecordError(
            f"record {record.id} is about {record.model!r}, and its policy about "
            f"{record.policy.model!r}: it was changed after it was written"
        )
    if record.created.tzinfo is None or record.created < _EPOCH:
        raise RecordError(
            f"record {record.id} says that it was made at {record.created.isoformat()}, which no "
            "gate writes: it was changed after it was written"
        )


def _complete(keeper: Tracker, model: str) -> dict[str, str]:
    """Runs that the tracker has in full, by their record."""
    runs = (run for run in keeper.past(model) if run.outcome != "incomplete")
    return {run.tags["record"]: run.run for run in runs if "record" in run.tags}


def _send(
    keeper: Tracker, file: Path, record: GateRecord, kept: dict[str, str], work: _Work
) -> None:
    try:
        if record.id in kept:
            _demand_same(keeper, kept[record.id], record)
            work.known.append(file)
        else:
            _demand_same_numbers(keeper, record)
            _count_unfinished(keeper, record)
            kept[record.id] = keeper.log(record, file.parent)
            work.sent.append((file, kept[record.id]))
    except (RecordError, TrackerError) as error:
        work.refused.append((file, str(error)))


def _demand_same(keeper: Tracker, run: str, record: GateRecord) -> None:
    """Show that the record under that id is this one.

    Raises:
        RecordError: it is another one, damaged or gone.
    """
    stored = keeper.record(run)
    if stored is None or _read(stored) != record:
        what = "has no record.json" if stored is None else "keeps another record under the same id"
        raise RecordError(f"run {run} {what} ({record.id}): one of the two was changed")


def _read(stored: dict[str, Any]) -> GateRecord | None:
    """None where it is no record as this version writes them."""
    try:
        return GateRecord.model_validate(stored)
    except ValidationError:
        return None


def _demand_same_numbers(keeper: Tracker, record: GateRecord) -> None:
    """Show that versions which a record was held against have, or cannot get, another's number.

    A registry counts versions as they come. Where records are missing, `models:/…/1` would be
    another release than the one that policies and records mean.

    Raises:
        RecordError: they do not; names the record that is missing.
    """
    registry = keeper.registry
    if registry is None:
        return
    for release in record.releases:
        found = registry.find(release.name, version=release.version)
        if found is None:
            newest = max((one.number for one in registry.versions(release.name)), default=0)
            is_other = newest < int(release.version)
            who = "nothing yet"
        else:
            is_other = found.tags.get("record") != release.record
            who = f"record {found.tags.get('record', 'unknown')}"
        if is_other:
            raise RecordError(
                f"record {record.id} was held against {release.uri}, which was record "
                f"{release.record}. In this store it is {who}: policies that pin it would come to "
                "be about another release. Import all records of earlier releases with it, failed "
                "ones too, into a store that has none of the model yet"
            )


def _count_unfinished(keeper: Tracker, record: GateRecord) -> None:
    """Count an attempt again, and those before it that left no record: α stays what it was."""
    held_out, key = record.splits.held_out.population, record.attempt_key
    if record.ledger != "tracker" or held_out is None or key is None or record.attempt is None:
        return
    began = record.created - _MOMENT
    known = keeper.reserve(record.model, held_out=held_out, key=key, when=began)
    counted = attempt_number(known or (), key, record.policy.demands)
    for lost in range(counted, record.attempt):
        name = sha256(f"{record.id} {lost}".encode()).hexdigest()
        keeper.reserve(record.model, held_out=held_out, key=name, when=began - _MOMENT)
