"""`gate judge`: decide again from a record, running no model."""

from pathlib import Path

from gate.commands.report import load_record
from gate.decide import decide, measured_of
from gate.errors import RecordError
from gate.records import GateRecord, Verdict

_NAMED = 5


def judge(path: Path) -> GateRecord:
    """The record at `path`, its verdict decided again.

    Raises:
        UsageError: there is no record.
        RecordError: it is damaged, or its verdict is not what its own numbers give.
    """
    return rejudge(load_record(path))


def rejudge(record: GateRecord) -> GateRecord:
    """The record with the verdict that its own numbers, policy and α give.

    Raises:
        RecordError: the stored verdict is another one; names the budgets that differ.
    """
    verdict = decide(measured_of(record), record.alpha)
    differing = _differing(record.verdict, verdict)
    if differing:
        names = ", ".join(differing[:_NAMED])
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise RecordError(
            f"the verdict in record {record.id} is not what its own numbers give, for {names}"
            f"{more}: it was changed after it was written, or decided by another version of gate. "
            "Do not release on it; run the gate again"
        )
    return record.model_copy(update={"verdict": verdict})


def _differing(stored: Verdict, again: Verdict) -> list[str]:
    """Budgets, with their slice, of which the decision differs, is missing or is not asked for."""
    before, after = _decisions(stored), _decisions(again)
    found = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    names = [f"{budget} ({where})" if where else budget for budget, where in found]
    if not names and len(stored.findings) != len(again.findings):
        return ["the number of findings"]
    if not names and stored.outcome != again.outcome:
        return [f"the outcome ({stored.outcome}, and it should be {again.outcome})"]
    return names


def _decisions(verdict: Verdict) -> dict[tuple[str, str | None], tuple[str, bool]]:
    return {
        (finding.budget, finding.slice): (finding.outcome, finding.blocking)
        for finding in verdict.findings
    }
