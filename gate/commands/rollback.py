"""`gate rollback`: the alias back to the last release that passed and is still what was judged."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn

from gate.commands._promote_backing import (
    ROLLED_BACK,
    Backing,
    backing,
    demand_known,
    registry_of,
)
from gate.commands._promote_signed import who
from gate.errors import ReleaseError
from gate.registered import PRODUCTION, Move, Version, registered_name
from gate.trackers import Registry, Tracker
from gate.wording import plain

_LONGEST_WHY = 300


@dataclass(frozen=True, slots=True)
class Rollback:
    """Where an alias went, and why not elsewhere."""

    move: Move
    """As it was, or would be, written down."""
    outcome: Literal["moved", "would move", "completed"]
    """completed: an earlier rollback that was cut short."""
    skipped: tuple[Backing, ...] = ()
    """Newer versions that it could not go to, newest first."""


def rollback(
    model: str,
    tracker: Tracker,
    *,
    alias: str = PRODUCTION,
    why: str | None = None,
    by: str | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Rollback:
    """Point an alias at the newest version below its own that a release's PASS backs.

    Its artifact is fetched and hashed first. The version that is left is marked, and is not
    promoted again. A rollback that was cut short is completed, and nothing else moves.

    Args:
        model: the policy's name for it.
        tracker: with a registry.
        alias: of the registered INT8 model.
        why: told with the move.
        by: as `promote`.
        dry_run: find the version only.
        now: for tests.

    Raises:
        UsageError: no run of the model is kept, or the tracker registers nothing.
        ReleaseError: there is no such alias, or nothing to go back to; says what was looked at.
        TrackerError: the tracker cannot be reached, or somebody moved the alias meanwhile.
    """
    registry = registry_of(tracker)
    versions = registry.versions(registered_name(model))
    if not versions:
        demand_known(tracker, model)
    current = _named(versions, model, alias)
    unfinished = _unfinished(registry, versions, current, model, alias)
    if unfinished is not None:
        if not dry_run:
            _finish(registry, versions, unfinished)
        return Rollback(unfinished, "completed")
    target, skipped = _target(tracker, model, versions, current)
    if target is None or target.record is None:
        _refuse(model, current, alias, skipped)
    move = Move(
        model=model,
        alias=alias,
        version=target.version.version,
        previous=current.version,
        kind="rollback",
        record=target.record.id,
        int8_sha256=target.record.int8.sha256,
        who=who(by, os.environ),
        why=plain((why or "").strip() or f"back from version {current.version}", _LONGEST_WHY),
        when=now or datetime.now(UTC),
    )
    if not dry_run:
        registry.move(move)
        _mark(registry, current, move)
    return Rollback(move, "would move" if dry_run else "moved", skipped)


def _named(versions: Sequence[Version], model: str, alias: str) -> Version:
    for version in versions:
        if alias in version.aliases:
            return version
    known = sorted({name for version in versions for name in version.aliases})
    listed = f"its aliases are {', '.join(known)}" if known else "it has no alias"
    raise ReleaseError(
        f"{registered_name(model)} has no alias {alias!r} to roll back: {listed}. Name one with "
        "--alias, or set it with `gate promote RECORD`"
    )


def _target(
    tracker: Tracker, model: str, versions: Sequence[Version], current: Version
) -> tuple[Backing | None, tuple[Backing, ...]]:
    """The version to go to, and those that were looked at before it."""
    runs, skipped = tracker.past(model), []
    older = [version for version in versions if version.number < current.number]
    for version in reversed(older):
        if ROLLED_BACK in version.tags:
            told = f"it was rolled back itself ({version.tags[ROLLED_BACK]})"
            skipped.append(Backing(version, None, (told,)))
            continue
        found = backing(tracker, runs, version)
        if found.holds:
            return found, tuple(skipped)
        skipped.append(found)
    return None, tuple(skipped)


def _refuse(model: str, current: Version, alias: str, skipped: Sequence[Backing]) -> NoReturn:
    looked = "".join(f"\n- {line}" for line in _lines(skipped))
    raise ReleaseError(
        f"there is nothing to roll {registered_name(model)} back to: no version below "
        f"{current.version}, which {alias} names and keeps naming, is a release that passed and is "
        f"unchanged. Release one with `gate run --stage release`{looked}"
    )


def _lines(skipped: Sequence[Backing]) -> Iterator[str]:
    for found in skipped:
        for fault in found.faults:
            yield f"version {found.version.version}: {fault}"


# ── cut short ─────────────────────────────────────────────────────────────────────────────


def _unfinished(
    registry: Registry, versions: Sequence[Version], current: Version, model: str, alias: str
) -> Move | None:
    """The rollback that brought the alias where it is, where something of it is missing.

    Going back once more would leave a version that somebody had just gone back to.
    """
    entries = [move for move in registry.moves(model) if move.alias == alias]
    last = next(reversed(entries), None)
    if last is None or last.kind != "rollback" or last.version != current.version:
        return None
    left = _left(versions, last)
    marked = left is None or ROLLED_BACK in left.tags
    return None if last.complete and marked else last


def _finish(registry: Registry, versions: Sequence[Version], move: Move) -> None:
    if not move.complete:
        registry.move(move)
    left = _left(versions, move)
    if left is not None:
        _mark(registry, left, move)


def _left(versions: Sequence[Version], move: Move) -> Version | None:
    return next((version for version in versions if version.version == move.previous), None)


def _mark(registry: Registry, left: Version, move: Move) -> None:
    told = f"{move.when.isoformat(timespec='seconds')} by {move.who}: {move.why}"
    registry.tag(left, {ROLLED_BACK: told})
