"""`gate promote`: move the registry's alias to a release, on a PASS that still counts."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from gate.commands._promote_backing import Reason, registry_of
from gate.commands._promote_checks import (
    Case,
    Check,
    backed,
    current,
    exit_code_of,
    reasons_of,
)
from gate.commands._promote_signed import who
from gate.commands._promote_signed import why as reason_given
from gate.commands.report import load_record, record_file
from gate.commands.verify import SIGNED, signature_reasons
from gate.errors import UsageError
from gate.registered import PRODUCTION, Move
from gate.trackers import Tracker

MAX_AGE_DAYS = 30.0
"""For how long a verdict counts."""
_LONGEST_AGE = 36_500


@dataclass(frozen=True, slots=True)
class Promotion:
    """What was checked, and what came of it."""

    model: str
    record: str
    alias: str
    version: str | None
    """Of the registered INT8 model; None where no run tells."""
    previous: str | None
    """What the alias named before; None where there was none."""
    outcome: Literal["moved", "would move", "already there", "completed", "refused"]
    """completed: the alias named the version already, and the entry of the move was cut short."""
    checks: tuple[Check, ...]
    move: Move | None = None
    """As it was, or would be, written down."""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All that stands against it."""
        return reasons_of(self.checks)

    @property
    def exit_code(self) -> int:
        """0 where the alias names the version, or would; else that of the worst reason."""
        return exit_code_of(self.checks)


def promote(
    path: Path,
    tracker: Tracker,
    *,
    alias: str = PRODUCTION,
    policy: str | None = None,
    why: str | None = None,
    by: str | None = None,
    max_age: float = MAX_AGE_DAYS,
    dry_run: bool = False,
    waived: bool = False,
    require_signature: Path | None = None,
    now: datetime | None = None,
) -> Promotion:
    """Point an alias at the version that a record released, where nothing stands against it.

    Every check is made, and nothing moves unless all hold. Between the checks and the move the
    alias is read again: what that guarantees is told at the registry's `move`.

    Args:
        path: record.json, with its rows beside it, or the folder that holds both.
        tracker: with a registry.
        alias: of the registered INT8 model.
        policy: file of the policy in force, where it is not where the record says.
        why: told with the move; default: the verdict's first words.
        by: who moves it; default: who started the GitHub workflow, else user@host.
        max_age: days for which a verdict counts.
        dry_run: check only.
        waived: whether a verdict that somebody waived counts, too.
        require_signature: the public key by which the record has to be signed.
        now: for tests.

    Raises:
        UsageError: there is no record, no such key, `max_age` is no number of days, or the tracker
            registers nothing.
        RecordError: the record is damaged.
        TrackerError: the tracker cannot be reached, or somebody moved the alias meanwhile.
    """
    if not 0 < max_age <= _LONGEST_AGE:
        raise UsageError(f"--max-age {max_age:g} is no number of days from 0 to {_LONGEST_AGE:,}")
    record, folder = load_record(path), record_file(path).parent
    registry_of(tracker)
    now = now or datetime.now(UTC)
    case = Case.of(record, folder, tracker, alias=alias, now=now, waived=waived)
    checks = tuple(backed(case))
    if require_signature is not None:
        reasons = tuple(signature_reasons(record, folder, require_signature))
        checks += (Check(SIGNED, reasons),)
    if case.is_there:
        return _settle(case, checks, dry_run=dry_run)
    checks += tuple(current(case, policy, timedelta(days=max_age)))
    if case.version is None or any(check.reasons for check in checks):
        return _promotion(case, "refused", checks)
    move = _move(case, case.version.version, who=who(by, os.environ), why=why)
    if not dry_run:
        case.registry.move(move)
    return _promotion(case, "would move" if dry_run else "moved", checks, move)


def _settle(case: Case, checks: tuple[Check, ...], *, dry_run: bool) -> Promotion:
    """Of an alias that names the version already: nothing to do but to complete its entry."""
    if any(check.reasons for check in checks):
        return _promotion(case, "refused", checks)
    entries = [move for move in case.registry.moves(case.record.model) if move.alias == case.alias]
    last = next(reversed(entries), None)
    cut_short = last is not None and not last.complete and last.record == case.record.id
    if last is None or not cut_short:
        return _promotion(case, "already there", checks)
    if not dry_run:
        case.registry.move(last)
    return _promotion(case, "completed", checks, last)


def _move(case: Case, version: str, *, who: str, why: str | None) -> Move:
    return Move(
        model=case.record.model,
        alias=case.alias,
        version=version,
        previous=None if case.current is None else case.current.version,
        kind="promote",
        record=case.record.id,
        int8_sha256=case.record.int8.sha256,
        who=who,
        why=reason_given(why, case.record),
        when=case.now,
    )


def _promotion(
    case: Case,
    outcome: Literal["moved", "would move", "already there", "completed", "refused"],
    checks: tuple[Check, ...],
    move: Move | None = None,
) -> Promotion:
    return Promotion(
        model=case.record.model,
        record=case.record.id,
        alias=case.alias,
        version=case.version.version if case.version else None,
        previous=case.current.version if case.current else None,
        outcome=outcome,
        checks=checks,
        move=move,
    )
