"""`gate audit`: aliases and their moves, held against the records that have to back them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gate.commands._promote_backing import (
    ROLLED_BACK,
    Backing,
    backing,
    demand_known,
    file_faults,
    registry_of,
    run_of,
)
from gate.errors import EXIT_FAIL, EXIT_PASS
from gate.registered import Move, Version, registered_name
from gate.story import moment
from gate.trackers import PastRun, Tracker
from gate.wording import json_text, plain, plural

BLIND = (
    "MLflow keeps no history of aliases: an alias that was moved by hand and back again left no "
    "trace, and who moves one by hand is not told. Moves are those that the gate wrote down."
)
"""What no audit can see."""
_ROWS = "rows.npz"
_LONG = 2000


@dataclass(frozen=True, slots=True)
class Named:
    """An alias, as the registry has it now."""

    alias: str
    version: str | None
    """None where the alias is gone that a move was written of."""
    record: str | None
    """Id of the record that the version names."""
    faults: tuple[str, ...]
    """Why no PASS backs it; empty where one does."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was written down."""

    move: Move
    faults: tuple[str, ...]
    done: bool = True
    """False where it was cut short, and the next move shows that the alias had not moved."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Every alias of a model's releases, and every move of one."""

    model: str
    where: str
    """The store."""
    when: datetime | None
    """Of the newest move."""
    aliases: tuple[Named, ...]
    moves: tuple[Moved, ...]
    """Oldest first."""

    @property
    def wrong(self) -> int:
        """How many of them no PASS record backs."""
        faults = [one.faults for one in self.aliases] + [one.faults for one in self.moves]
        return sum(map(bool, faults))

    @property
    def backed(self) -> bool:
        """Whether a PASS record backs each."""
        return self.wrong == 0

    @property
    def exit_code(self) -> int:
        """0 where all are backed, else 1."""
        return EXIT_PASS if self.backed else EXIT_FAIL


def audit(model: str, tracker: Tracker) -> Audit:
    """Hold a model's aliases and moves against the records that the tracker keeps.

    The artifact of every version that an alias names or a move is of is fetched and hashed.

    Raises:
        UsageError: no run of the model is kept, or the tracker registers nothing.
        TrackerError: the tracker cannot be reached.
    """
    registry = registry_of(tracker)
    versions = {one.version: one for one in registry.versions(registered_name(model))}
    if not versions:  # with versions, that there are no runs is what is wrong with them
        demand_known(tracker, model)
    runs, moves = tracker.past(model), registry.moves(model)
    concerned = {move.version for move in moves}
    concerned |= {number for number, version in versions.items() if version.aliases}
    found = {
        number: _backing(tracker, runs, versions[number])
        for number in sorted(concerned, key=int)
        if number in versions
    }
    return Audit(
        model=model,
        where=tracker.where(),
        when=max((move.when for move in moves), default=None),
        aliases=tuple(_aliases(versions, moves, found)),
        moves=tuple(_moved(move, moves, found) for move in moves),
    )


def _backing(tracker: Tracker, runs: Sequence[PastRun], version: Version) -> Backing:
    """What backs a version, the rows of its record included."""
    found = backing(tracker, runs, version)
    run = None if found.record is None else run_of(runs, found.record.id)
    if found.record is None or run is None:
        return found
    rows = file_faults(tracker, run, _ROWS, found.record.rows_sha256)
    return replace(found, faults=(*found.faults, *rows))


def _aliases(
    versions: dict[str, Version], moves: Sequence[Move], found: dict[str, Backing]
) -> Iterator[Named]:
    now = {alias: one for one in versions.values() for alias in one.aliases}
    for alias in sorted({*now, *(move.alias for move in moves)}):
        done = [move for move in moves if move.alias == alias and move.complete]
        last, version = next(reversed(done), None), now.get(alias)
        if version is None:
            if last is not None:
                told = f"it is gone: the gate moved it to version {last.version} last"
                yield Named(alias, None, None, (told,))
            continue
        faults = (*_by_hand(version, last), *found[version.version].faults)
        yield Named(alias, version.version, version.tags.get("record"), faults)


def _by_hand(version: Version, last: Move | None) -> Iterator[str]:
    if last is None:
        yield "moved by hand: the gate completed no move of it"
    elif last.version != version.version:
        yield (
            f"moved by hand: the gate moved it to version {last.version} last, on "
            f"{moment(last.when)}, and it names version {version.version}"
        )
    if ROLLED_BACK in version.tags:
        yield f"version {version.version} was rolled back ({version.tags[ROLLED_BACK]})"


def _moved(move: Move, moves: Sequence[Move], found: dict[str, Backing]) -> Moved:
    if _never_done(move, moves):
        return Moved(move, (), done=False)
    return Moved(move, (*_moved_between(move, moves), *_move_faults(move, found)))


def _never_done(move: Move, moves: Sequence[Move]) -> bool:
    """Whether a move was cut short before the alias moved: the next one found it where it was."""
    later = [one for one in moves if one.alias == move.alias and one.when > move.when]
    after = next((one for one in later if one.complete), None)
    return not move.complete and after is not None and after.previous == move.previous


def _moved_between(move: Move, moves: Sequence[Move]) -> Iterator[str]:
    """Why the alias was not where the gate had left it, so that somebody moved it in between."""
    before = [
        one
        for one in moves
        if one.alias == move.alias and one.when < move.when and not _never_done(one, moves)
    ]
    left = before[-1].version if before else None
    if left != move.previous:
        yield (
            f"moved by hand before it: the gate had left the alias at {_version(left)}, and found "
            f"it at {_version(move.previous)}"
        )


def _move_faults(move: Move, found: dict[str, Backing]) -> Iterator[str]:
    if not move.complete:
        yield (
            "cut short: the intention is written and not that it was done; the same "
            f"`gate {move.kind}` again completes it"
        )
    backed = found.get(move.version)
    if backed is None:
        yield f"version {move.version} is gone from the registry"
        return
    said = {"record": move.record, "int8_sha256": move.int8_sha256}
    for key, value in said.items():
        tagged = backed.version.tags.get(key)
        if tagged != value:
            yield f"it was written down for {key} {value}, and the version says {tagged}"
    yield from backed.faults


# ── for people, and for programs ──────────────────────────────────────────────────────────


def render(found: Audit, format: str) -> str:  # noqa: A002
    """The audit as `text` or `json`, ending in a line break."""
    return _json(found) if format == "json" else _text(found)


def _json(found: Audit) -> str:
    told = {
        "model": found.model,
        "registered": registered_name(found.model),
        "where": found.where,
        "backed": found.backed,
        "exit_code": found.exit_code,
        "aliases": [
            {
                "alias": one.alias,
                "version": one.version,
                "record": one.record,
                "backed": not one.faults,
                "faults": list(one.faults),
            }
            for one in found.aliases
        ],
        "moves": [_move_fields(one) for one in found.moves],
        "cannot_see": BLIND,
    }
    return json_text(told)


def _move_fields(one: Moved) -> dict[str, object]:
    return {
        **move_fields(one.move),
        "done": one.done,
        "backed": not one.faults,
        "faults": list(one.faults),
    }


def move_fields(move: Move) -> dict[str, object]:
    """A move as JSON holds it."""
    names = ("alias", "kind", "version", "previous", "record", "int8_sha256", "who", "why")
    told: dict[str, object] = {name: getattr(move, name) for name in names}
    return {"when": move.when.isoformat(), **told, "complete": move.complete}


def _text(found: Audit) -> str:
    head = "BACKED" if found.backed else "NOT BACKED"
    counted = "1 alias" if len(found.aliases) == 1 else f"{len(found.aliases)} aliases"
    lines = [
        f"{head}  {plain(registered_name(found.model))}: {counted}, "
        f"{plural(len(found.moves), 'move')}, {found.wrong} not backed by a PASS record"
    ]
    for one in found.aliases:
        named = f"version {one.version}" if one.version else "nothing"
        lines += _entry(f"{plain(one.alias)} names {named}", one.faults)
    for moved in found.moves:
        told = "" if moved.done else " (cut short, and never done)"
        lines += _entry(_move_line(moved.move) + told, moved.faults)
    return "\n".join([*lines, BLIND]) + "\n"


def _entry(told: str, faults: Sequence[str]) -> Iterator[str]:
    yield f"  {'no' if faults else 'ok':<4}{told}"
    yield from (f"        {plain(fault, _LONG)}" for fault in faults)


def _move_line(move: Move) -> str:
    return (
        f"{moment(move.when)}  {move.kind} {plain(move.alias)}: {_version(move.previous)} to "
        f"{_version(move.version)}, by {plain(move.who, _LONG)}: {plain(move.why, _LONG)}"
    )


def _version(number: str | None) -> str:
    return "no version" if number is None else f"version {plain(number)}"
