"""A verdict on a version that a watcher came to and died before it wrote it back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gate import publish
from gate.commands._promote_policy import filled
from gate.commands._promote_signed import why
from gate.commands._watch_state import Claim, Outcome
from gate.commands.judge import demand_untouched
from gate.commands.report import load_record
from gate.errors import RecordError
from gate.policy_file import LoadedPolicy, digest
from gate.records import GateRecord, Stage
from gate.registered import Version, registered_name
from gate.trackers import PastRun, Tracker

_ROWS = "rows.npz"
_VERDICTS = frozenset({"pass", "fail", "inconclusive", "waived"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record that is kept."""

    record: GateRecord
    run: str
    """The tracker's id."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What versions are gated by."""

    name: str
    """The registered source model."""
    loaded: LoadedPolicy
    stage: Stage
    out: Path
    """Each run has a folder of its own in it."""

    def folder(self, version: Version, claim: Claim) -> Path:
        """Where the run of a claim writes, whoever asks."""
        return self.out / f"{version.name}-{version.version}-{claim.id[:12]}"

    def outcome(self, found: Verdict) -> Outcome:
        """A verdict as the version's tags tell it."""
        record = found.record
        return Outcome(
            outcome=record.verdict.outcome,
            policy=self.loaded.sha256,
            stage=self.stage,
            why=why(None, record),
            record=record.id,
            run=found.run,
        )


def kept(
    asked: Asked, version: Version, tracker: Tracker, runs: Callable[[], Sequence[PastRun]]
) -> Verdict | None:
    """The newest verdict on a version that the tracker has; None where it has none.

    It is one by this policy at this stage, of what the policy's recipe made; and newer than the
    version, as a model that was deleted and made again counts from 1 again.

    Args:
        asked: what it has to be about.
        version: the source.
        tracker: keeps the records.
        runs: of the policy's model, newest first; not asked for twice.

    Raises:
        TrackerError: the store refused or cannot be reached.
    """
    for run in runs():
        told = run.outcome in _VERDICTS and run.stage == asked.stage
        if told and run.tags.get("source") == version.uri:
            record = _stored(tracker, run)
            if record is not None and _fits(record, asked, version):
                _show_outcome(tracker, run, record)
                return Verdict(record, run.run)
    return None


def _show_outcome(tracker: Tracker, run: PastRun, record: GateRecord) -> None:
    """On the release that a run registered: it is the last thing that its watcher had to write."""
    if tracker.registry is None or run.version is None:
        return
    released = tracker.registry.find(registered_name(record.model), version=run.version)
    if released is not None and "outcome" not in released.tags:
        tracker.registry.tag(released, {"outcome": run.outcome})


def _stored(tracker: Tracker, run: PastRun) -> GateRecord | None:
    """None where it is gone or damaged: then it is no verdict, and the version is gated."""
    try:
        document = tracker.record(run.run)
        return None if document is None else GateRecord.model_validate(document)
    except (RecordError, ValidationError):
        return None


def has_record(folder: Path) -> bool:
    """Whether a run has left its verdict there."""
    return (folder / publish.RECORD).is_file()


def unsent(asked: Asked, version: Version, claim: Claim, tracker: Tracker) -> Verdict | None:
    """The verdict that a claim's run wrote to this disk and the tracker did not get; it is sent.

    None where there is none here: another machine's, or a run that was cut short.

    Raises:
        RecordError: it was edited.
        TrackerError: it cannot be sent.
    """
    folder = asked.folder(version, claim)
    if not has_record(folder):
        return None
    record = load_record(folder)
    if not _fits(record, asked, version):
        return None
    demand_untouched(record, folder / _ROWS)
    return Verdict(record, publish.send(tracker, record, folder))


def _fits(record: GateRecord, asked: Asked, version: Version) -> bool:
    return all(_fitting(record, asked, version))


def _fitting(record: GateRecord, asked: Asked, version: Version) -> Iterator[bool]:
    yield record.candidate.source == version.uri
    yield record.stage == asked.stage
    yield record.created >= version.created
    yield record.int8.recipe is not None
    yield record.reference is None
    yield not record.attested
    yield digest(filled(asked.loaded.policy, record)) == record.provenance.policy_sha256
