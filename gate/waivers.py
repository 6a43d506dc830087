"""Waivers: a blocking budget that a person lets through, by name, with a reason, for a while.

They stand in a file of their own beside the policies, `waivers.yaml`, so that other people own it.
What is waived is shown everywhere and makes the outcome `waived`, never `pass`. What has no value
(NaN, a missing metric, an empty slice) could not be judged, and nothing waives that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from gate.door import unknown
from gate.exhibits import Waiver
from gate.policy import Policy
from gate.policy_faults import Finding as Fault
from gate.policy_faults import dotted, shown
from gate.policy_file import raise_all
from gate.records import Finding, Verdict
from gate.sources import Strict
from gate.strict_yaml import Document, load

FILE = "waivers.yaml"
LONGEST_DAYS = 90
_EXAMPLE = (
    "`{model: digits-cnn, budget: accuracy.max_drop, reason: …, who: ann@example.com, "
    "expires: 2026-12-31}`"
)


class _Waivers(Strict):
    """The file."""

    version: Literal[1]
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, slots=True)
class InForce:
    """A model's waivers on one day."""

    waivers: tuple[Waiver, ...] = ()
    """Those that hold."""
    expired: tuple[Waiver, ...] = ()
    """Those that held once."""


def load_waivers(file: Path, policy: Policy, today: date) -> InForce:
    """A policy's waivers; none where there is no file.

    Raises:
        PolicyError: all that is wrong with the file, each with file:line:column: words it does not
            know, a budget that the policy does not have, an expiry more than 90 days away.
    """
    if not file.exists():
        return InForce()
    written = load(file)
    return of_document(written, policy, today)


def of_document(written: Document, policy: Policy, today: date) -> InForce:
    """As `load_waivers`, of a file that was read already."""
    found = _validated(written)
    mine = [(i, one) for i, one in enumerate(found.waivers) if one.model == policy.model]
    problems = [fault for index, one in enumerate(found.waivers) for fault in
                _faults(written, index, one, today)]  # fmt: skip
    problems += [fault for index, one in mine for fault in _unknown(written, index, one, policy)]
    raise_all(problems, first=written.file)
    return InForce(
        waivers=tuple(one for _, one in mine if one.expires >= today),
        expired=tuple(one for _, one in mine if one.expires < today),
    )


def _validated(written: Document) -> _Waivers:
    try:
        return _Waivers.model_validate(written.data)
    except ValidationError as error:
        raise_all([_fault(one, written) for one in error.errors()], first=written.file)
        raise AssertionError from error  # there is at least one


def _fault(error: Any, written: Document) -> Fault:
    """One error of the validation library, where it was written and what to write."""
    loc = error["loc"]
    if not loc:
        return written.mark(), f"waivers are a mapping, `version: 1` and `waivers: [{_EXAMPLE}]`"
    name, key = dotted(loc), str(loc[-1])
    if error["type"] == "missing":
        return written.mark(*loc), f"{name} is missing; a waiver is {_EXAMPLE}"
    if error["type"] == "extra_forbidden":
        known = tuple((Waiver if len(loc) > 1 else _Waivers).model_fields)
        return written.key_mark(*loc), unknown("key", key, known)
    if error["type"] == "string_too_short":
        return written.mark(*loc), f"{name} is empty: say it"
    cause = error.get("ctx", {}).get("error")
    told = str(cause) if cause else f"{error['msg']}, not {shown(error['input'])}"
    return written.mark(*loc), f"{name}: {told}"


def _faults(written: Document, index: int, one: Waiver, today: date) -> list[Fault]:
    blank = [
        (written.mark("waivers", index, key), f"waivers[{index}].{key} is empty: say it")
        for key in ("reason", "who")
        if not getattr(one, key).strip()
    ]
    return blank + _too_long(written, index, one, today)


def _too_long(written: Document, index: int, one: Waiver, today: date) -> list[Fault]:
    latest = today + timedelta(days=LONGEST_DAYS)
    if one.expires <= latest:
        return []
    text = (
        f"a waiver lasts {LONGEST_DAYS} days at the most: write a date up to {latest}, not "
        f"{one.expires}"
    )
    return [(written.mark("waivers", index, "expires"), text)]


def _unknown(written: Document, index: int, one: Waiver, policy: Policy) -> list[Fault]:
    known = tuple(budget.id for budget in policy.judge.budgets)
    if one.budget in known:
        return []
    return [(written.mark("waivers", index, "budget"), unknown("budget", one.budget, known))]


# ── what they change ──────────────────────────────────────────────────────────────────────


def waive(verdict: Verdict, waivers: Sequence[Waiver], expired: Sequence[Waiver] = ()) -> Verdict:
    """The verdict with blocking findings let through that a waiver names.

    A finding keeps its numbers, and its reason says what it would be. The outcome is `waived`
    where nothing else blocks and something was waived.
    """
    findings = tuple(_finding(one, waivers, expired) for one in verdict.findings)
    if findings == verdict.findings:
        return verdict
    outcome = verdict.outcome
    if not any(one.blocking for one in findings):
        outcome = "waived"
    elif not any(one.outcome == "fail" for one in findings):
        outcome = "inconclusive"
    return Verdict(outcome=outcome, findings=findings)


def _finding(one: Finding, waivers: Sequence[Waiver], expired: Sequence[Waiver]) -> Finding:
    if not one.blocking or not _has_value(one):
        return one
    waiver = next((waiver for waiver in waivers if _is_about(waiver, one)), None)
    if waiver is not None:
        reason = (
            f"WAIVED until {waiver.expires} by {waiver.who} ({waiver.reason}); without that "
            f"{one.outcome.upper()}: {one.reason}"
        )
        return one.model_copy(update={"outcome": "waived", "blocking": False, "reason": reason})
    old = next((waiver for waiver in expired if _is_about(waiver, one)), None)
    if old is not None:
        reason = f"{one.reason}. The waiver of {old.who} expired on {old.expires}"
        return one.model_copy(update={"reason": reason})
    return one


def _is_about(waiver: Waiver, one: Finding) -> bool:
    return waiver.holds_for(one.budget, one.slice)


def _has_value(one: Finding) -> bool:
    """Whether it was judged at all."""
    found = one.comparison
    return found is not None and found.method != "undefined" and found.int8 is not None


def beside(policy_file: Path, named: Path | None = None) -> Path:
    """The file of waivers that counts for a policy."""
    return named if named is not None else policy_file.parent / FILE
