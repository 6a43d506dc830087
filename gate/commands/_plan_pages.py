"""What a plan says, in words and tables; `_plan_text` and `_plan_html` lay it out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gate import wording
from gate.commands._plan_words import (
    TIMES,
    advice,
    chance,
    decidable,
    drawn,
    name,
    notes,
    percent,
    points,
)
from gate.planning import BudgetPlan, Plan, Scenario
from gate.wording import plain, plural, whole

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class History:
    """Earlier runs that rates were taken from."""

    runs: tuple[datetime, ...]
    """Newest first."""
    where: str
    """The tracker's store."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds the numbers."""

    model: str
    policy: str
    alpha_source: str
    early: bool
    """Whether the policy stops early."""
    data: str
    """The held-out file."""
    total: int | None
    """Examples in it; None where it is not there."""
    used: int | None
    """Of them, those that `limit` leaves."""
    clustered: bool
    """Whether examples share units."""
    history: History


@dataclass(frozen=True, slots=True)
class Table:
    """A section's numbers."""

    groups: tuple[tuple[str, int], ...]
    """Headings over columns, and how many of them."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One budget."""

    title: str
    table: Table | None
    notes: tuple[str, ...]
    curves: tuple[tuple[str, Curve], ...]
    """Label, and (examples, chance of PASS)."""
    marked: tuple[str, int] | None
    """What is at hand, and its examples."""


@dataclass(frozen=True, slots=True)
class Page:
    """A plan in words."""

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    legend: tuple[str, ...]
    decidable: tuple[str, ...]
    """Budgets that the set decides, as a policy writes them; by what earlier runs showed."""
    advice: str


def page(plan: Plan, setting: Setting) -> Page:
    """Everything there is to say, in the policy's order."""
    return Page(
        title=f"Plan for {plain(setting.model)} ({plain(setting.policy)})",
        facts=(
            _alpha(plan, setting),
            _data(setting),
            _history(plan, setting.history),
            *_early(plan, setting),
        ),
        sections=tuple(
            _section(number, budget, plan) for number, budget in enumerate(plan.budgets, start=1)
        ),
        legend=_LEGEND if any(budget.scenarios for budget in plan.budgets) else (),
        decidable=decidable(plan),
        advice=advice(plan, setting.total),
    )


_LEGEND = (
    "flips: examples that only one of the two models gets right. true drop: what is lost of them "
    "on balance. examples for PASS: how many give PASS with a chance of 80, 90 and 99 %.",
    "PASS: its chance with the examples at hand. proves: the tightest limit that they prove with "
    "80 %. FAILs at: what is so bad that they FAIL it with 80 %. reads: share of the examples that "
    "`stopping: early` is expected to evaluate for this budget.",
)


DECIDABLE = "With the flips of earlier runs these examples prove, with 80 %, budgets down to:"


# ── what holds for all budgets ────────────────────────────────────────────────────────────


def _alpha(plan: Plan, setting: Setting) -> str:
    text = f"α = {plan.alpha:.3g} a budget ({setting.alpha_source})"
    if setting.early:
        text += f"; `stopping: early` leaves {plan.alpha_pass:.3g} of it for the last look"
    if plan.family == 1:
        return f"{text}."
    least = "at least " if setting.total is None else ""
    return f"{text}; a FAIL has to withstand {least}{plural(plan.family, 'test')} at once (Holm)."


def _data(setting: Setting) -> str:
    if setting.total is None or setting.used is None:
        return (
            f"Held-out set: there is no {plain(setting.data)} yet, so only what budgets need is "
            "told, not what the set decides."
        )
    text = f"Held-out set: {plain(setting.data)}, {plural(setting.total, 'example')}"
    if setting.used < setting.total:
        text += (
            f", of which `limit` draws {whole(setting.used)} (slices then have about as many as "
            "their share)"
        )
    if setting.clustered:
        text += ". Its `unit` column groups them, so they do not count as independent"
    return f"{text}."


def _history(plan: Plan, history: History) -> str:
    used = any(budget.question.seen and budget.scenarios for budget in plan.budgets)
    if not history.runs:
        return (
            f"Rates are assumed: no judged run of the model is known "
            f"(looked in: {plain(history.where)})."
        )
    times = wording.listing((f"{when:%Y-%m-%d %H:%M}" for when in history.runs), TIMES)
    if used:
        runs = "the last run" if len(history.runs) == 1 else f"the last {len(history.runs)} runs"
        return f"Rates are those of {runs} ({times} UTC) where they measured them, else assumed."
    return f"Rates are assumed: the last runs ({times} UTC) did not measure these metrics."


def _early(plan: Plan, setting: Setting) -> tuple[str, ...]:
    waits = any(one.question.budget.require != "proof" for one in plan.budgets)
    if setting.early and plan.may_stop_early and waits:
        return (
            "Stopping early waits for every slice that only must not be harmed, until it is proven "
            "or seen whole: small slices leave little to save.",
        )
    if plan.may_stop_early or all(one.question.kind == "exact" for one in plan.budgets):
        return ()
    why = "examples share units" if setting.clustered else "a metric here is no proportion"
    return (f"Stopping early is not available: {why}.",)


# ── one budget ────────────────────────────────────────────────────────────────────────────


def _section(number: int, one: BudgetPlan, plan: Plan) -> Section:
    where = one.smallest[0] if one.smallest else None
    n = one.smallest[1] if one.smallest else 0
    hand = f"{where} at hand ({whole(n)})" if where else f"{whole(n)} at hand"
    return Section(
        title=f"{number}. {name(one)}",
        table=_table(one, hand if n else None) if one.scenarios else None,
        notes=tuple(notes(one, plan)),
        curves=tuple((_label(scenario), scenario.curve) for scenario in drawn(one)),
        marked=(plain(hand), n) if n else None,
    )


def _label(scenario: Scenario) -> str:
    if scenario.drop is None:
        return f"true rate {percent(scenario.rate)}"
    return f"{percent(scenario.rate)} flips, drop {points(scenario.drop)}"


def _table(one: BudgetPlan, hand: str | None) -> Table:
    by_rate = one.question.kind == "rate"
    truth = ("true rate",) if by_rate else ("flips", "true drop")
    fails = one.question.kind != "relative_drop"
    reads = any(scenario.at_hand and scenario.at_hand.share for scenario in one.scenarios)
    extra = ("FAILs at",) * fails + ("reads",) * reads
    decided = ("PASS", "proves", *extra) if hand else ()
    groups = (("", len(truth)), ("examples for PASS", 3))
    return Table(
        groups=(*groups, (f"with {plain(hand)}", len(decided))) if hand else groups,
        columns=(*truth, "80 %", "90 %", "99 %", *decided),
        rows=tuple(
            (
                *_truth(scenario),
                *map(whole, scenario.needed),
                *(_decided(one, scenario, fails, reads) if hand else ()),
            )
            for scenario in one.scenarios
        ),
    )


def _truth(scenario: Scenario) -> tuple[str, ...]:
    rate = percent(scenario.rate)
    return (rate,) if scenario.drop is None else (rate, points(scenario.drop))


def _decided(one: BudgetPlan, scenario: Scenario, fails: bool, reads: bool) -> tuple[str, ...]:
    found = scenario.at_hand
    assert found is not None
    show = points if one.question.kind == "drop" else percent
    cells = [chance(found.passes), _optional(found.tightest, show)]
    cells += [_optional(found.caught, show)] if fails else []
    cells += [_optional(found.share, chance)] if reads else []
    return tuple(cells)


def _optional(number: float | None, show: Callable[[float], str]) -> str:
    return wording.NOTHING if number is None else show(number)
