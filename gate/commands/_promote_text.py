"""Promotions and rollbacks, for people."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from gate.commands._promote_checks import Check
from gate.commands.promote import Promotion
from gate.commands.rollback import Rollback
from gate.registered import PRODUCTION, registered_name
from gate.wording import json_text, plain, plural

_LONG = 2000
_HEADS = {
    "moved": "PROMOTED",
    "would move": "WOULD PROMOTE",
    "already there": "NOTHING TO DO",
    "completed": "COMPLETED",
    "refused": "NOT PROMOTED",
}


def render_promotion(found: Promotion, *, checks: bool = False) -> str:
    """What came of it; with `checks` every one of them, else only what stands against it."""
    lines = [f"{_HEADS[found.outcome]}  {_subject(found)}"]
    lines += checked(found.checks) if checks else _refused(found)
    lines += [f"  {line}" for line in _outcome(found)]
    return "\n".join(lines) + "\n"


def promotion_json(found: Promotion) -> str:
    """The same for scripts, every check with what stands against it."""
    told = asdict(found) | {"exit_code": found.exit_code}
    if found.move is not None:
        told["move"]["when"] = found.move.when.isoformat()
    return json_text(told)


def _subject(found: Promotion) -> str:
    version = f"version {found.version}" if found.version else "no version"
    return f"{plain(registered_name(found.model))} {version}, record {plain(found.record)}"


def checked(checks: Iterable[Check]) -> Iterator[str]:
    """Every check, and what stands against it."""
    for check in checks:
        yield f"  {'no' if check.reasons else 'ok':<4}{check.what}"
        yield from (f"        {plain(reason.text, _LONG)}" for reason in check.reasons)


def _refused(found: Promotion) -> Iterator[str]:
    yield from (f"- {plain(reason.text, _LONG)}" for reason in found.reasons)


def _outcome(found: Promotion) -> Iterator[str]:
    alias, named = plain(found.alias), _version(found.previous)
    if found.outcome == "refused":
        against = plural(len(found.reasons), "reason")
        yield f"{against} against it; {alias} still names {named}."
    elif found.outcome == "already there":
        yield f"{alias} names version {found.version} already."
    elif found.outcome == "completed":
        yield f"{alias} names version {found.version}; the entry of its move is complete now."
    elif found.outcome == "would move":
        yield f"{alias} would move from {named} to version {found.version}."
    else:
        yield from _moved(found)


def _moved(found: Promotion) -> Iterator[str]:
    assert found.move is not None
    alias = plain(found.alias)
    yield f"{alias} moved from {_version(found.previous)} to version {found.version}."
    yield f"by {plain(found.move.who, _LONG)}: {plain(found.move.why, _LONG)}"
    if found.previous is not None:
        yield f"To go back: {_command(found.model, found.alias)}"


def _command(model: str, alias: str) -> str:
    where = "" if alias == PRODUCTION else f" --alias {plain(alias)}"
    return f"gate rollback {plain(model)}{where}"


def _version(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


# ── rollback ──────────────────────────────────────────────────────────────────────────────


def render_rollback(found: Rollback) -> str:
    """What moved, and what was skipped on the way."""
    heads = {"moved": "ROLLED BACK", "would move": "WOULD ROLL BACK", "completed": "COMPLETED"}
    move = found.move
    alias, name = plain(move.alias), plain(registered_name(move.model))
    lines = [f"{heads[found.outcome]}  {name}: {alias} from {_version(move.previous)} to version "]
    lines[0] += move.version
    for backing in found.skipped:
        lines += [
            f"  skipped version {backing.version.version}: {plain(fault, _LONG)}"
            for fault in backing.faults
        ]
    lines.append(f"  by {plain(move.who, _LONG)}: {plain(move.why, _LONG)}")
    if found.outcome == "completed":
        lines.append("  This rollback had been cut short, and is complete now; nothing else moved.")
    elif found.outcome == "moved":
        lines.append(
            f"  Version {move.previous} is marked as rolled back, and is not promoted again: "
            "what takes its place is a new release."
        )
    return "\n".join(lines) + "\n"
