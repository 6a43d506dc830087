"""Releases of the past that INT8 is held against: production, and the policy's anchor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gate import artifact, tokens
from gate.errors import RecordError, ReleaseError, UsageError
from gate.policy import Policy
from gate.records import GateRecord
from gate.registered import PINNED, PRODUCTION, Version, registered_name
from gate.rows import load_rows
from gate.trackers import Registry, Tracker
from gate.values import Evaluation

Against = Literal["production", "anchor"]
_THROUGH = ("pass", "waived")
"""Outcomes of releases that serve, or may."""
ROWS, _TOKENIZER = "rows.npz", "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of a release on one held-out set, which are fetched when they are needed."""

    held_out: str
    """sha256 of that set."""
    load: Callable[[], Evaluation | None]
    """None where they are gone; `ReleaseError` where they are not what was vouched for."""


@dataclass(frozen=True, slots=True)
class Release:
    """A version that passed, with what is kept of it."""

    against: Against
    version: Version
    record: GateRecord
    stored: tuple[Stored, ...]
    """Its own run's rows first, then those of bridges to other held-out sets."""
    model: Callable[[], Path]
    """Its INT8 model, fetched, and shown to be the one that passed."""
    shipped: Callable[[], GateRecord]
    """Its record, as its model is run: with the tokenizer that its candidate brought."""


def wanted(policy: Policy) -> tuple[Against, ...]:
    """What a policy's budgets are against besides fp32; the anchor wherever it names one."""
    asked = {budget.against for budget in policy.judge.budgets}
    found: list[Against] = ["production"] if PRODUCTION in asked else []
    return (*found, "anchor") if policy.judge.anchor is not None else tuple(found)


def releases(
    keeper: Tracker, policy: Policy, folder: Path, *, bootstrap: bool
) -> tuple[Release, ...]:
    """The releases that a policy's budgets are against, each shown to have passed.

    Args:
        keeper: the tracker, which has answered.
        policy: the resolved policy.
        folder: private, for what is fetched.
        bootstrap: whether none of this model has passed yet, so that there need not be any.

    Raises:
        UsageError: the tracker registers nothing, or `bootstrap` where a version got through.
        ReleaseError: one is not there, did not pass, or is not what its record says.
        TrackerError: the store refused or cannot be reached.
    """
    asked, registry = wanted(policy), keeper.registry
    if not asked and not bootstrap:
        return ()
    if registry is None:
        raise UsageError(
            f"{_for_what(asked)} needs what a tracker remembers, and --tracker {keeper.key} "
            "remembers nothing: run the gate with --tracker mlflow"
        )
    if bootstrap:
        _demand_first(keeper, registry, policy)
        asked = ("anchor",) if anchored_elsewhere(policy) else ()
    return tuple(_release(keeper, registry, policy, against, folder) for against in asked)


def anchored_elsewhere(policy: Policy) -> bool:
    """Whether its anchor is another model's release, which a first release has before it, too."""
    pinned = PINNED.fullmatch(policy.judge.anchor or "")
    return pinned is not None and pinned["name"] != registered_name(policy.model)


def _for_what(asked: tuple[Against, ...]) -> str:
    return f"a budget `against: {asked[0]}`" if asked else "--bootstrap"


def _demand_first(keeper: Tracker, registry: Registry, policy: Policy) -> None:
    """Raises UsageError where a release got through, so that there is one to be held against."""
    name = registered_name(policy.model)
    serving = registry.find(name, alias=PRODUCTION)
    if serving is not None:
        raise UsageError(
            f"--bootstrap is for a first release, and {serving.uri} is in production: leave it out"
        )
    through = [v.uri for v in registry.versions(name) if v.tags.get("outcome") in _THROUGH]
    past = keeper.past(policy.model)
    runs = (r.run for r in past if r.stage == "release" and r.outcome in _THROUGH)
    known = next(iter(through), None) or next((f"run {run}" for run in runs), None)
    if known is not None:
        raise UsageError(
            f"--bootstrap is for a first release, and {known} has passed or was waived: leave it "
            "out, and promote that one where budgets are against production"
        )


def _release(
    keeper: Tracker, registry: Registry, policy: Policy, against: Against, folder: Path
) -> Release:
    version = _version(registry, policy, against)
    place = folder / "releases" / against
    place.mkdir(parents=True)
    record = record_of(keeper, version)
    demand_released(version, record, against)
    if record.policy.task != policy.task:
        raise ReleaseError(
            f"{against} is {version.uri}, a model for {record.policy.task}, and this policy is "
            f"about {policy.task}: name another release, or leave budgets against it out"
        )
    return Release(
        against=against,
        version=version,
        record=record,
        stored=tuple(stored_rows(keeper, registry, version, record, place)),
        model=lambda: fetch_model(registry, version, record, place / "model"),
        shipped=lambda: as_shipped(keeper, version, record, place / "own"),
    )


def demand_released(version: Version, record: GateRecord, against: Against) -> None:
    """Show that a version may be held against: it passed, or serves though somebody waived it.

    Raises:
        ReleaseError: what it lost would be forgiven.
    """
    allowed = _THROUGH if against == PRODUCTION else ("pass",)
    if record.verdict.outcome in allowed and record.stage == "release":
        return
    mend = (
        "Pin one that passed as `judge.anchor`"
        if against == "anchor"
        else f"Point the alias at one that passed: `gate rollback {record.model}`"
    )
    raise ReleaseError(
        f"{against} is {version.uri}, which is no release that passed (record {record.id}: "
        f"{record.verdict.outcome}, stage {record.stage}): what it lost would be forgiven. {mend}"
    )


def _version(registry: Registry, policy: Policy, against: Against) -> Version:
    if against == "anchor":
        pinned = PINNED.fullmatch(policy.judge.anchor or "")
        if pinned is None:
            raise UsageError(f"`judge.anchor` is no pinned version: {policy.judge.anchor!r}")
        found = registry.find(pinned["name"], version=pinned["version"])
        if found is None:
            raise ReleaseError(
                f"the anchor {policy.judge.anchor} is not in the registry: it was deleted, or is "
                "in another store. Name a release that is kept as `judge.anchor`"
            )
        return found
    name = registered_name(policy.model)
    found = registry.find(name, alias=PRODUCTION)
    if found is None:
        raise ReleaseError(
            f"{name} has no version with the alias {PRODUCTION!r}, which a budget `against: "
            "production` is about: promote a release that passed (`gate promote RECORD --alias "
            f"{PRODUCTION}`); for the first one of all, say --bootstrap"
        )
    return found


# ── what is kept of one ───────────────────────────────────────────────────────────────────


def record_of(keeper: Tracker, version: Version) -> GateRecord:
    """The record that registered a version.

    Raises:
        ReleaseError: there is none, or it is about something else.
        RecordError: it is damaged.
    """
    mend = "Gate it (`gate run --int8 … --stage release`), or name another release"
    stored = keeper.record(version.run) if version.run else None
    if stored is None:
        raise ReleaseError(f"{version.uri} has no record of a gate in the tracker. {mend}")
    try:
        record = GateRecord.model_validate(stored)
    except ValidationError as error:
        raise RecordError(
            f"the record of {version.uri} in the tracker (run {version.run}) is damaged or of "
            f"another version of gate. {mend}"
        ) from error
    said = version.tags.get("record"), version.tags.get("int8_sha256")
    if said != (record.id, record.int8.sha256):
        raise ReleaseError(
            f"{version.uri} says it is record {said[0]} with INT8 {said[1]}, and its run keeps "
            f"record {record.id} with INT8 {record.int8.sha256}: one of them was changed. {mend}"
        )
    return record


def fetch_model(registry: Registry, version: Version, record: GateRecord, folder: Path) -> Path:
    """A version's INT8 model, copied into `folder`, which is made.

    Raises:
        ReleaseError: it is not the one that was judged.
    """
    folder.mkdir(parents=True)
    path = registry.fetch(version, folder)
    found = artifact.sha256_of(*artifact.files(path))
    if found != record.int8.sha256:
        raise ReleaseError(
            f"the INT8 model of {version.uri} is not the one that was judged: its sha256 is "
            f"{found}, and record {record.id} says {record.int8.sha256}. Gate it again, or name "
            "another release"
        )
    return path


def as_shipped(keeper: Tracker, version: Version, record: GateRecord, folder: Path) -> GateRecord:
    """A version's record, as its model is run; what that needs is copied into `folder`.

    Raises:
        ReleaseError: the tokenizer that its candidate brought is gone.
    """
    if not brings_tokenizer(record):
        return record
    folder.mkdir(parents=True)
    file = keeper.fetch(version.run, _TOKENIZER, folder)
    if file is None:
        raise ReleaseError(
            f"{_TOKENIZER} of run {version.run}, which {version.uri} reads text with, is gone from "
            "the tracker: its model cannot be run again. Name another release"
        )
    return with_tokenizer(record, file)


def brings_tokenizer(record: GateRecord) -> bool:
    """Whether a record's model reads text with the tokenizer.json that its candidate brought."""
    preprocess = record.policy.build.preprocess
    spec = None if preprocess is None else preprocess.tokenizer
    return spec is not None and spec.file is None and not record.attested


def with_tokenizer(record: GateRecord, file: Path) -> GateRecord:
    """The record, reading its candidate's own tokenizer from `file`, which is there."""
    build = record.policy.build
    read = build.model_copy(update={"preprocess": tokens.with_own(build.preprocess, file)})
    return record.model_copy(update={"policy": record.policy.model_copy(update={"build": read})})


def stored_rows(
    keeper: Tracker, registry: Registry, version: Version, record: GateRecord, folder: Path
) -> Iterator[Stored]:
    """What is kept of a version example by example: its own run's, then those of bridges.

    `folder` is private, and holds what is fetched.
    """
    # rows of an evaluation that stopped early were selected by their outcome
    if record.stopped is None and record.examples_evaluated == record.examples_total:
        load = _loading(keeper, version, ROWS, record.rows_sha256, folder)
        yield Stored(record.splits.held_out.sha256, load)
    for run, bridge in registry.bridges(record.model):
        for one in bridge.releases:
            if (one.record, one.int8_sha256) == (record.id, record.int8.sha256):
                load = _loading(keeper, version, one.rows, one.rows_sha256, folder, run=run)
                yield Stored(bridge.after, load)


def _loading(
    keeper: Tracker,
    version: Version,
    name: str,
    sha256: str,
    folder: Path,
    *,
    run: str | None = None,
) -> Callable[[], Evaluation | None]:
    kept = run or version.run

    def load() -> Evaluation | None:
        place = folder / kept
        place.mkdir(parents=True, exist_ok=True)
        path = keeper.fetch(kept, name, place)
        if path is None:
            return None
        if artifact.sha256_of(path) != sha256:
            raise ReleaseError(
                f"{name} of run {kept} in the tracker is not what was written for {version.uri}: "
                "it was changed. Delete that file, so that the model is run instead"
            )
        return load_rows(path)

    return load
