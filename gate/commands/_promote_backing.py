"""What backs a registered version: its record in the tracker, and the bytes that were judged."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gate import artifact, publish
from gate.commands.judge import demand_untouched, rejudge
from gate.errors import (
    EXIT_ERROR,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_USAGE,
    GateError,
    RecordError,
    UsageError,
)
from gate.records import GateRecord
from gate.registered import Version
from gate.trackers import PastRun, Registry, Tracker
from gate.wording import few, short

ROLLED_BACK = "rolled_back"
"""The tag of a version that production left for an older one."""
SENT = "record_sha256"
"""The tag of a run with the sha256 of the record.json that it was given."""
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an alias may not name a version, and what to do."""

    text: str
    code: int = EXIT_ERROR
    """What the command line exits with, where no other reason is worse."""


@dataclass(frozen=True, slots=True)
class Backing:
    """A version, and what stands against its being released."""

    version: Version
    record: GateRecord | None
    """As the tracker keeps it; None where it is gone or damaged."""
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether a PASS record backs it."""
        return not self.faults


def registry_of(tracker: Tracker) -> Registry:
    """The registry of a tracker that has answered.

    Raises:
        UsageError: it has none.
        TrackerError: it cannot be reached.
    """
    if tracker.registry is None:
        raise UsageError(
            f"--tracker {tracker.key} registers no releases: name one that does, such as mlflow"
        )
    tracker.prepare()
    return tracker.registry


def demand_known(tracker: Tracker, model: str) -> None:
    """Show that a model has runs.

    Raises:
        UsageError: it has none; lists those that have.
    """
    known = tracker.models()
    if model not in known:
        listed = f"Known: {', '.join(known)}" if known else "No model has runs yet"
        raise UsageError(f"no run of {model!r} is kept. {listed} (looked in: {tracker.where()})")


def run_of(runs: Sequence[PastRun], record: str) -> PastRun | None:
    """The run that keeps the record of that id, a complete one where there are several."""
    found = [run for run in runs if run.tags.get("record") == record]
    return next((run for run in found if run.outcome != "incomplete"), next(iter(found), None))


# ── a record ──────────────────────────────────────────────────────────────────────────────


def outcome_reasons(record: GateRecord, *, waived: bool = False) -> Iterator[Reason]:
    """Why its verdict is no PASS; the codes are the verdict's, whatever the policy's mode.

    With `waived` a verdict that somebody waived counts, too.
    """
    outcome = record.verdict.outcome
    if outcome == "waived":
        if not waived:
            yield Reason(
                "the verdict is WAIVED, which is no PASS: a budget was let through. Say --waived "
                "if that is meant",
                EXIT_FAIL,
            )
    elif outcome == "inconclusive":
        yield Reason(
            "the verdict is INCONCLUSIVE, which releases nothing (under `on_inconclusive: warn` "
            "neither): gate it on more examples, `gate plan` says how many",
            EXIT_INCONCLUSIVE,
        )
    elif outcome != "pass":
        yield Reason(
            f"the verdict is {outcome.upper()}: only a PASS is promoted; `gate diagnose` and "
            "`gate recover` tell what to change",
            EXIT_FAIL,
        )


def stage_reasons(record: GateRecord) -> Iterator[Reason]:
    """Why its PASS is no release's."""
    again = "run `gate run --stage release"
    if record.stage != "release":
        yield Reason(f"it is of stage {record.stage}: {again}`", EXIT_USAGE)
    if record.policy.judge.mode == "observe":
        yield Reason(
            "its policy has `mode: observe`, which enforces nothing: write `mode: enforce`, and "
            f"{again}`",
            EXIT_USAGE,
        )
    if record.ledger == "none":
        yield Reason(
            f"nothing counted its attempts (`ledger: none`): {again} --tracker mlflow`", EXIT_USAGE
        )
    if record.attested:
        yield Reason(
            "it judged outputs of models that ran elsewhere, so there is no model to promote: "
            f"{again} --int8 MODEL` on the artifact itself",
            EXIT_USAGE,
        )


def differing(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Dotted names of what differs between two JSON documents, in the first one's order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            inner = f"{where}.{key}" if where else str(key)
            if key not in one or key not in other:
                yield inner
            else:
                yield from differing(one[key], other[key], inner)
    elif one != other:
        yield where


def stored_record(tracker: Tracker, run: PastRun) -> GateRecord:
    """The record that the tracker keeps with a run, its verdict decided again.

    Raises:
        RecordError: it is gone, damaged or edited.
        TrackerError: the tracker cannot be reached.
    """
    fields = tracker.record(run.run)
    if fields is None:
        raise RecordError(
            f"the {publish.RECORD} of run {run.run} is gone from the tracker: send it again with "
            "`gate report --track`"
        )
    try:
        record = GateRecord.model_validate(fields)
    except ValidationError as error:
        raise RecordError(
            f"the {publish.RECORD} of run {run.run} does not fit the record's schema "
            f"({error.error_count()} faults): it was changed, or written by another version of gate"
        ) from error
    demand_untouched(record, None)
    return rejudge(record)


def kept_faults(tracker: Tracker, run: PastRun, record: GateRecord) -> Iterator[str]:
    """Why the record that a run keeps is not this one, field for field.

    Raises:
        TrackerError: the tracker cannot be reached.
    """
    try:
        fields = tracker.record(run.run)
        stored = None if fields is None else GateRecord.model_validate(fields)
    except (RecordError, ValidationError) as error:
        told = str(error).partition("\n")[0]
        yield f"the record that run {run.run} keeps cannot be read ({told}): gate it again"
        return
    if stored is None:
        yield (
            f"the record of run {run.run} is gone from the tracker: gate it again, for nothing "
            "shows that this is the one it kept"
        )
        return
    changed = [*differing(record.model_dump(mode="json"), stored.model_dump(mode="json"))]
    if changed:
        yield (
            f"the record is not the one that run {run.run} keeps: {few(changed, _NAMED)} differ; "
            "fetch it from the tracker, or gate it again"
        )


# ── a version ─────────────────────────────────────────────────────────────────────────────


def backing(tracker: Tracker, runs: Sequence[PastRun], version: Version) -> Backing:
    """What backs a version, from the tracker alone; its artifact is fetched and hashed.

    Args:
        tracker: with a registry.
        runs: all of the model's.
        version: of the model's registered INT8 releases.

    Raises:
        TrackerError: the tracker cannot be reached.
    """
    registry = registry_of(tracker)
    if "record" not in version.tags:
        told = "no gate registered it: it names no record"
        return Backing(version, None, (told,))
    run = run_of(runs, version.tags["record"])
    if run is None:
        told = f"its record {version.tags['record']} is gone from the tracker"
        return Backing(version, None, (told,))
    faults = [*_run_faults(run), *sent_faults(tracker, run)]
    try:
        record = stored_record(tracker, run)
    except RecordError as error:
        return Backing(version, None, (*faults, str(error)))
    reasons = [*outcome_reasons(record), *stage_reasons(record)]
    faults += [f"record {record.id}: {reason.text}" for reason in reasons]
    if run.outcome not in (record.verdict.outcome, "incomplete"):
        faults.append(f"its run says {run.outcome}, and its record {record.verdict.outcome}")
    faults += tag_faults(version, run, record)
    faults += artifact_faults(registry, version, record.int8.sha256)
    return Backing(version, record, tuple(faults))


def sent_faults(tracker: Tracker, run: PastRun) -> Iterator[str]:
    """Why the record that a run keeps is not, byte for byte, the one that it was given.

    Of one that is incomplete nothing is known yet.

    Raises:
        TrackerError: the tracker cannot be reached.
    """
    if run.outcome != "incomplete":
        yield from file_faults(tracker, run, publish.RECORD, run.tags.get(SENT))


def _run_faults(run: PastRun) -> Iterator[str]:
    if run.outcome == "incomplete":
        yield f"run {run.run} is incomplete: complete it with `gate report --track RECORD`"


def tag_faults(version: Version, run: PastRun, record: GateRecord) -> Iterator[str]:
    """Where a version, the run that made it and the record do not name each other.

    They do not where two stores hold models of the same name.
    """
    said = {
        f"version {version.version} of {version.name}": version.tags,
        f"run {run.run}": run.tags,
    }
    known = {"record": record.id, "int8_sha256": record.int8.sha256}
    for who, tags in said.items():
        for key, value in known.items():
            if tags.get(key) != value:
                yield (
                    f"{who} says {key} {_shown(tags.get(key))}, and the record {_shown(value)}: it "
                    "is another release, perhaps of another store; look at MLFLOW_TRACKING_URI and "
                    "MLFLOW_REGISTRY_URI"
                )
    if version.run and version.run != run.run:
        yield (
            f"version {version.version} of {version.name} was made by run {version.run}, and the "
            f"record is kept as run {run.run}: it is another store's release"
        )


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value if len(value) != 64 else f"{value[:12]}…"  # noqa: PLR2004


def artifact_faults(registry: Registry, version: Version, judged: str) -> Iterator[str]:
    """Why a version's files, fetched, are not the artifact with the sha256 `judged`."""
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        try:
            model = registry.fetch(version, Path(scratch))
            found = artifact.sha256_of(*artifact.files(model))
        except (GateError, OSError) as error:
            yield f"the artifact of {version.uri} cannot be fetched: {error}"
            return
    if found != judged:
        yield (
            f"the artifact of {version.uri} changed: its sha256 is {short(found)}…, and "
            f"{short(judged)}… was judged. Do not serve it; register a new release with "
            "`gate run --stage release`"
        )


def file_faults(tracker: Tracker, run: PastRun, name: str, sha256: str | None) -> Iterator[str]:
    """Why a file that the tracker keeps with a run is not the one with that sha256.

    Raises:
        TrackerError: the tracker cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        file = tracker.fetch(run.run, name, Path(scratch))
        if file is None:
            yield f"{name} of run {run.run} is gone from the tracker"
        elif artifact.sha256_of(file) != sha256:
            yield f"{name} of run {run.run} in the tracker was changed after it was sent"
