"""What there is to say about a record, in the order a person asks, before any format."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gate import wording
from gate.policy import Budget
from gate.records import Comparison, Finding, GateRecord
from gate.wording import NOTHING, QUANTITIES, Quantity, Unit, plain

_BLOCKING_SLICES = 5
_SMALL_GROUP = 3
_REASON = 300
_CHANGES = 10
_WORSE_FIRST = {"fail": 0, "inconclusive": 1, "waived": 2, "pass": 3}


@dataclass(frozen=True, slots=True)
class Case:
    """A finding with the budget that it is about; None where the policy has none of that id."""

    finding: Finding
    budget: Budget | None
    point: bool = False
    """Whether the policy decides by point estimates."""

    @property
    def code(self) -> str:
        """What kind of finding it is, as `gate explain` knows it."""
        return code_of(self.finding, self.budget, point=self.point)

    @property
    def quantity(self) -> Quantity:
        """What the budget limits."""
        return QUANTITIES[self.budget.threshold] if self.budget else "drop"

    @property
    def unit(self) -> Unit:
        """What its metric is counted in."""
        metric = self.budget.metric if self.budget else ""
        return wording.unit_of(metric, self.finding.comparison)

    @property
    def beyond(self) -> float | None:
        """How far the measured number is beyond the limit; None where there is no number."""
        comparison = self.finding.comparison
        if self.budget is None or comparison is None:
            return None
        number = wording.measured(comparison, self.quantity)
        return None if number is None else wording.excess(self.budget, number)

    @property
    def name(self) -> str:
        """The budget's name, with this finding's slice."""
        if self.budget is not None:
            return wording.budget_name(self.budget, self.unit, self.finding.slice)
        where = f", {plain(self.finding.slice, 60)}" if self.finding.slice else ""
        return plain(self.finding.budget) + where

    @property
    def outcome(self) -> str:
        """`pass`, `FAIL`, `INCONCLUSIVE`; in small letters where it does not block."""
        if self.finding.outcome == "inconclusive" and not self.finding.blocking:
            return "not proven" if self.finding.comparison else "not judged"
        return self.finding.outcome.upper() if self.finding.blocking else self.finding.outcome

    @property
    def badness(self) -> tuple[bool, int, float]:
        """Sorts the worst first: blocking, failed, undefined, furthest beyond its limit."""
        beyond = float("inf") if self.beyond is None else self.beyond
        return not self.finding.blocking, _WORSE_FIRST[self.finding.outcome], -beyond


@dataclass(frozen=True, slots=True)
class Row:
    """One finding, as cells."""

    name: str
    reference: str
    int8: str
    change: str
    outcome: str
    reason: str
    case: Case


@dataclass(frozen=True, slots=True)
class Group:
    """One budget."""

    name: str
    rows: tuple[Row, ...]
    """All of its findings, or the blocking and the worst of them."""
    tally: str | None
    """For a budget on every value of a column: what all of them came to."""
    shown: str
    """Which of them the rows are, where they are not all."""
    cases: tuple[Case, ...]
    """All of its findings, the worst first."""

    @property
    def blocking(self) -> bool:
        """Whether it keeps the release from passing."""
        return any(case.finding.blocking for case in self.cases)

    @property
    def unproven(self) -> int:
        """How many of its findings are neither a pass nor waived."""
        return sum(case.finding.outcome not in ("pass", "waived") for case in self.cases)

    @property
    def waived(self) -> int:
        """How many of its findings a person let through."""
        return sum(case.finding.outcome == "waived" for case in self.cases)


# ── the first lines ───────────────────────────────────────────────────────────────────────


def cases(record: GateRecord) -> tuple[Case, ...]:
    """Every finding with its budget, in the record's order."""
    judge = record.policy.judge
    budgets = {budget.id: budget for budget in judge.budgets}
    return tuple(
        Case(finding, budgets.get(finding.budget), point=judge.decision == "point")
        for finding in record.verdict.findings
    )


def exit_text(record: GateRecord) -> str:
    """The exit code, with why it is 0 where the verdict is not a pass."""
    code, judge = f"exit {record.exit_code}", record.policy.judge
    if record.verdict.outcome in ("pass", "waived") or record.exit_code != 0:
        return code
    cause = "mode: observe" if judge.mode == "observe" else "on_inconclusive: warn"
    return f"{code} ({cause})"


def blockers(record: GateRecord) -> tuple[str, ...]:
    """Which budget blocks, and by how much: a sentence each, failures first, then as in the policy.

    Of one budget's slices it is the worst; the others that block are counted.
    """
    blocking = [group for group in groups(record) if group.blocking]
    ordered = sorted(blocking, key=lambda group: _WORSE_FIRST[group.cases[0].finding.outcome])
    return tuple(_blocker(group, record.alpha) for group in ordered)


def _blocker(group: Group, alpha: float) -> str:
    more = sum(case.finding.blocking for case in group.cases) - 1
    also = f"; {wording.plural(more, 'more slice')} too" if more else ""
    return sentence(group.cases[0], alpha) + also


def summary(record: GateRecord) -> str:
    """What all budgets came to, where nothing blocks."""
    every = groups(record)
    budgets = wording.plural(len(every), "budget")
    judged = [group for group in every if any(case.finding.comparison for case in group.cases)]
    waived = [group.name for group in judged if group.waived]
    unproven = [_unproven(group) for group in judged if group.unproven]
    first = [group.name for group in every if group not in judged]
    if not unproven and not first and not waived:
        return f"{budgets}, all met."
    told = f"{budgets}, none blocks."
    if waived:
        told = f"{budgets}; WAIVED: {wording.listing(waived, 3)}; no other blocks."
    if unproven:
        told += f" Not proven, not blocking: {wording.listing(unproven, 3)}."
    if first:
        told += f" Not judged, as for a first release: {wording.listing(first, 3)}."
    return told


def _unproven(group: Group) -> str:
    if group.tally is None:
        return group.name
    return f"{group.unproven} of {wording.plural(len(group.cases), 'slice')} of “{group.name}”"


def since(record: GateRecord) -> str:
    """What changed since the last PASS of this model."""
    previous = record.previous
    if previous is None:
        return "First release on record: no earlier PASS of this model to compare with."
    last = f"Since the last PASS ({moment(previous.when)}, run {plain(previous.run, 40)})"
    if not previous.changes:
        return f"{last}: nothing that is recorded changed."
    changes = [plain(change, 160) for change in previous.changes]
    shown, hidden = "; ".join(changes[:_CHANGES]), len(changes) - _CHANGES
    return f"{last}: {shown}." if hidden <= 0 else f"{last}: {shown}; and {hidden} more."


def moment(when: datetime) -> str:
    """`2026-07-30 09:12 UTC`."""
    return f"{when:%Y-%m-%d %H:%M} {plain(when.tzname() or '', 20)}".rstrip()


def sentence(case: Case, alpha: float) -> str:
    """`accuracy, drop ≤ 1.00 pp: drop 2.31 pp [1.12, 3.55] (98.20 % → 95.89 %), over by …`."""
    return f"{case.name}: {_how_much(case, alpha)}"


def _how_much(case: Case, alpha: float) -> str:
    budget, comparison, beyond = case.budget, case.finding.comparison, case.beyond
    if budget is None or comparison is None or beyond is None:
        return plain(case.finding.reason, _REASON)
    seen = _seen(budget, comparison, case.quantity, case.unit)
    if case.finding.outcome == "inconclusive":
        return f"{seen}; {_doubt(case, budget, comparison, alpha)}{_needed(case, comparison)}"
    if beyond <= 0:
        return plain(case.finding.reason, _REASON)
    return f"{seen}, {wording.excess_text(budget, beyond, case.unit)}"


def _seen(budget: Budget, comparison: Comparison, quantity: Quantity, unit: Unit) -> str:
    """`drop 2.31 pp [1.12, 3.55] (98.20 % → 95.89 %)`, `INT8 is at 91.20 % [89.11, 93.02]`."""
    text = wording.measured_text(comparison, quantity, unit)
    if quantity == "value":
        return f"INT8 is at {text}"
    before = wording.metric_value(comparison.reference, unit)
    after = wording.metric_value(comparison.int8, unit)
    return f"{wording.limit_noun(budget)}{text} ({before} → {after})"


def _doubt(case: Case, budget: Budget, comparison: Comparison, alpha: float) -> str:
    """Why it is not proven: the limit is exceeded, may be exceeded, or nearly certainly is not."""
    if case.beyond is not None and case.beyond > 0:
        return "over the limit, but not proven to be"
    around = wording.bounds(comparison, case.quantity)
    far = None if around is None else around[0 if budget.threshold == "at_least" else 1]
    if far is not None and wording.excess(budget, far) > 0:
        extreme = "little" if budget.threshold == "at_least" else "much"
        reach = wording.amount(far, case.quantity, case.unit)
        return f"as {extreme} as {reach} cannot be ruled out"
    p = comparison.p_pass
    return "not proven" if p is None else f"not proven ({wording.p_value(p)}, needs ≤ {alpha:.2g})"


def _needed(case: Case, comparison: Comparison) -> str:
    needed = case.finding.examples_needed
    have = wording.whole(comparison.n)
    return f"; {have} examples here, about {wording.whole(needed)} would decide" if needed else ""


# ── codes, which never change ─────────────────────────────────────────────────────────────

PROVEN, EXACT, POINT = "G200", "G201", "G202"
FAILED, EXACT_FAILED, NO_VALUE, NOTHING_THERE, POINT_FAILED = "G210", "G211", "G212", "G213", "G214"
TOO_FEW, TOO_CLOSE, NOT_PROVEN, SMALL, FIRST = "G220", "G221", "G222", "G223", "G224"
WAIVED = "G230"


def code_of(finding: Finding, budget: Budget | None, *, point: bool = False) -> str:
    """What kind of finding it is; `point`: whether point estimates decided."""
    found = finding.comparison
    if finding.outcome == "waived":
        return WAIVED
    if found is None:
        return NOTHING_THERE if finding.outcome == "fail" else FIRST
    exact = found.method == "exact number"
    if finding.outcome == "inconclusive":
        return _undecided(finding, budget, found)
    if finding.outcome == "fail":
        if _is_undefined(found):
            return NO_VALUE
        return EXACT_FAILED if exact else POINT_FAILED if point else FAILED
    return EXACT if exact else POINT if point else PROVEN


def _undecided(finding: Finding, budget: Budget | None, found: Comparison) -> str:
    if budget is not None and found.n < budget.min_examples:
        return SMALL
    if not finding.blocking:
        return NOT_PROVEN
    beyond = Case(finding, budget).beyond
    return TOO_CLOSE if beyond is not None and beyond >= 0 else TOO_FEW


def _is_undefined(found: Comparison) -> bool:
    degraded = 0.0 if found.quantity == "value" else found.degradation
    numbers = (found.int8, degraded, found.p_pass, found.p_fail)
    return found.method == "undefined" or None in numbers


def codes(record: GateRecord) -> tuple[str, ...]:
    """Those of the findings that are no pass, each once, sorted."""
    return tuple(sorted({one.code for one in cases(record) if one.finding.outcome != "pass"}))


# ── the table ─────────────────────────────────────────────────────────────────────────────


def groups(record: GateRecord) -> tuple[Group, ...]:
    """The budgets' findings, blocking budgets first, else in the policy's order."""
    ordered: dict[str, list[Case]] = {}
    for case in cases(record):
        ordered.setdefault(case.finding.budget, []).append(case)
    every = [_group(sorted(found, key=lambda case: case.badness)) for found in ordered.values()]
    return tuple(sorted(every, key=lambda group: not group.blocking))


def _group(found: Sequence[Case]) -> Group:
    first = found[0]
    if first.budget is None or first.budget.each is None:
        rows = tuple(_row(case, case.name) for case in found)
        return Group(first.name, rows, tally=None, shown="", cases=tuple(found))
    shown = found if len(found) <= _SMALL_GROUP else _worst(found)
    rows = tuple(_row(case, plain(case.finding.slice or first.name, 60)) for case in shown)
    name = wording.budget_name(first.budget, first.unit)
    which = "" if len(shown) == len(found) else f"shown: the {_worst_of(len(shown))}"
    return Group(name, rows, tally=_tally(found), shown=which, cases=tuple(found))


def _worst_of(count: int) -> str:
    return "worst" if count == 1 else f"{count} worst"


def _worst(found: Sequence[Case]) -> Sequence[Case]:
    """The blocking ones up to a few, and the worst that does not block."""
    blocking = [case for case in found if case.finding.blocking]
    rest = [case for case in found if not case.finding.blocking]
    return [*blocking[:_BLOCKING_SLICES], *rest[:1]]


def _tally(found: Sequence[Case]) -> str:
    """`10 slices: 1 FAIL, 7 not proven (not blocking), 2 pass`."""
    counts = Counter(case.outcome for case in found)
    parts = (f"{wording.whole(count)} {_tallied(outcome)}" for outcome, count in counts.items())
    return f"{wording.plural(len(found), 'slice')}: {', '.join(parts)}"


def _tallied(outcome: str) -> str:
    loud = outcome == "pass" or outcome.isupper()
    return outcome if loud else f"{outcome} (not blocking)"


def _row(case: Case, name: str) -> Row:
    comparison = case.finding.comparison
    fp32, int8, change = NOTHING, NOTHING, NOTHING
    if comparison is not None:
        fp32, int8 = wording.both_values(comparison)
        change = wording.measured_text(comparison, case.quantity, case.unit)
    return Row(name, fp32, int8, change, case.outcome, _reason(case), case)


def _reason(case: Case) -> str:
    reason = plain(case.finding.reason, _REASON)
    needed = case.finding.examples_needed
    if not needed or str(needed) in reason or wording.whole(needed) in reason:
        return reason
    return f"{reason.rstrip('.')}; about {wording.whole(needed)} examples would decide it"


def measured_title(record: GateRecord) -> str:
    """Heads the column of measured numbers: `Measured [90 % interval]`."""
    return f"Measured [{wording.exact(100 * (1 - 2 * record.alpha), 0).rstrip('.')} % interval]"


def reference_title(record: GateRecord) -> str:
    """Heads the column of what INT8 is held against: the budget's name tells which, if not FP32."""
    held = {budget.against for budget in record.policy.judge.budgets}
    return "FP32" if held == {"fp32"} else "Reference"


def others(record: GateRecord) -> tuple[tuple[str, str, str], ...]:
    """Name, FP32 and INT8 of what was measured and has no budget.

    Of what INT8 is against an earlier release only the metrics that budgets are about.
    """
    judged = {_place(finding.comparison) for finding in record.verdict.findings}
    budgeted = {budget.metric for budget in record.policy.judge.budgets}
    return tuple(
        (_measured_name(comparison), *wording.both_values(comparison))
        for comparison in record.comparisons
        if _place(comparison) not in judged
        and (comparison.against == "fp32" or comparison.metric in budgeted)
    )


def _place(comparison: Comparison | None) -> tuple[str | None, ...]:
    return (comparison.metric, comparison.slice, comparison.against) if comparison else ()


def _measured_name(comparison: Comparison) -> str:
    where = f", {plain(comparison.slice, 60)}" if comparison.slice else ""
    side = wording.side_name(comparison.against)
    against = "" if comparison.against == "fp32" else f" against {plain(side, 20)}"
    return wording.metric_name(comparison.metric) + where + against
