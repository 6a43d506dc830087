"""What a policy's budgets can be decided with, before anything runs. Pure: numbers in and out.

Each budget is held against scenarios, what could be true of a release: correctness flips as
earlier runs had them, else 0.5, 1, 2 and 5 %, with nothing lost on balance and with a quarter of
the budget lost; true rates of a quarter, a half and three quarters of what is allowed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gate.policy import Budget
from gate.statistics import power, prospects, sequential
from gate.statistics.prospects import Drop, Prospect, Rate, RelativeDrop

Kind = Literal["drop", "relative_drop", "rate", "spread", "exact"]
"""How a budget is judged; `spread` is the jackknife, `exact` a number without sampling error."""
Slice = tuple[str | None, int]
"""Label (None: the whole set) and examples."""
POWERS = (0.8, 0.9, 0.99)
FLIP_RATES = (0.005, 0.01, 0.02, 0.05)
_PARTS = (0.25, 0.5, 0.75)
_CURVE = (*(step / 10 for step in range(1, 9)), 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)
_LEAST_CHANCE = 1.5
"""Times α: below, a formula for power has no meaning, as the power of no examples is α."""
_SEQUENTIAL = ("drop", "relative_drop", "rate")


@dataclass(frozen=True, slots=True)
class Spread:
    """How a metric that is judged by the jackknife varied in the last run."""

    noise: float
    """Standard error times √examples, in the unit of what is limited."""
    value: float
    """What is limited, as it was estimated: the drop, the relative drop or the value itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """A budget, and what is known of it before anything runs."""

    budget: Budget
    kind: Kind
    slices: tuple[Slice, ...] | None
    """The set or its slices; None where the data are not there."""
    seen: tuple[float, ...] = ()
    """Flip rates, or the metric's own rates, of earlier runs; empty: plausible ones are assumed."""
    reference: float | None = None
    """FP32's value, where it is known."""
    spread: Spread | None = None
    """Where the budget is judged by the jackknife and the last run was."""


@dataclass(frozen=True, slots=True)
class AtHand:
    """What the examples at hand decide in one scenario: the set, or the smallest slice."""

    passes: float
    """Chance of PASS."""
    tightest: float | None
    """Limit that would still be proven with 80 %; None where none would."""
    caught: float | None
    """True value of what is limited that would FAIL with 80 %; None where none is known to."""
    share: float | None
    """Expected share of the set looked at with early stopping; None where it does not apply."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What could be true of a release, and what would follow."""

    rate: float
    """Correctness flips as a share of examples; for a budget on a rate, the true rate itself."""
    drop: float | None
    """True drop, absolute, as a fraction; None for a budget on a rate."""
    needed: tuple[int, ...]
    """Examples for PASS with each of `POWERS`."""
    curve: tuple[tuple[int, float], ...]
    """(examples, chance of PASS), both rising."""
    at_hand: AtHand | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would follow for a metric that is judged by the jackknife, as noisy as it last was."""

    truth: float
    """Of what is limited."""
    needed: tuple[int, ...]
    """Examples for PASS with each of `POWERS`."""
    passes: float | None
    """Chance of PASS with the examples at hand."""


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """What one budget takes."""

    question: Question
    scenarios: tuple[Scenario, ...] = ()
    """Empty where no number of examples is enough, or none can be told."""
    least: int | None = None
    """Examples that PASS takes even if nothing flips."""
    smallest: Slice | None = None
    """What `at_hand` is about."""
    judged: int = 0
    """Slices that have `min_examples`."""
    provable: int = 0
    """Those that have at least `least`."""
    can_fail: bool = True
    """Whether any outcome in the smallest slice would be a FAIL."""
    forecasts: tuple[Forecast, ...] = ()
    """Of the jackknife, where the last run tells how noisy it is."""
    most_flips: float | None = None
    """Flip rate up to which a true drop of 0 is proven with 80 %; for drops at hand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy takes."""

    alpha: float
    """One-sided error in force."""
    alpha_pass: float
    """What the test on all examples has of it for a PASS."""
    family: int
    """Tests that Holm's method shares α among for a FAIL."""
    may_stop_early: bool
    """Whether every budget with sampling error can."""
    budgets: tuple[BudgetPlan, ...]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all budgets share."""

    alpha_pass: float
    alpha_fail: float
    stops: bool
    log_pass: float
    log_fail: float
    seed: int


def plan_budgets(
    questions: Sequence[Question], *, alpha: float, early: bool = False, seed: int = 0
) -> Plan:
    """Answer every question.

    Args:
        questions: the policy's budgets, in order.
        alpha: one-sided error of each budget that is in force, between 0 and 0.5.
        early: whether the policy stops early, which leaves 0.8 α for the test on all examples.
        seed: of the simulations.

    Raises:
        ValueError: alpha is out of its range.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    sampled = [question for question in questions if question.kind != "exact"]
    family = max(1, sum(map(_tests, sampled)))
    spent = sequential.SHARE * alpha
    kept = alpha - spent if early else alpha
    terms = _Terms(
        alpha_pass=kept,
        alpha_fail=kept / family,
        stops=bool(sampled) and all(question.kind in _SEQUENTIAL for question in sampled),
        log_pass=-math.log(spent),
        log_fail=math.log(family / spent),
        seed=seed,
    )
    budgets = tuple(_planned(question, terms) for question in questions)
    return Plan(alpha, kept, family, terms.stops, budgets)


def allowed(budget: Budget, value: float) -> float:
    """A floor on what counts as a ceiling on what does not, and back."""
    return 1 - value if budget.threshold == "at_least" else value


def _judged(question: Question) -> list[Slice]:
    least = max(1, question.budget.min_examples)
    return [(label, n) for label, n in question.slices or () if n >= least]


def _tests(question: Question) -> int:
    """One where the data are not there to tell."""
    return 1 if question.slices is None else len(_judged(question))


def _planned(question: Question, terms: _Terms) -> BudgetPlan:
    judged = _judged(question)
    smallest = min(judged, key=lambda one: one[1], default=None)
    truths = _prospects(question)
    n = smallest[1] if smallest else 0
    if not truths:
        forecasts = tuple(_forecasts(question, n, terms.alpha_pass))
        return BudgetPlan(question, smallest=smallest, judged=len(judged), forecasts=forecasts)
    first = truths[0]
    least = first.least(terms.alpha_pass)
    is_drop = isinstance(first, Drop) and n > 0
    return BudgetPlan(
        question=question,
        scenarios=tuple(_scenario(question, prospect, n, terms) for prospect in truths),
        least=least,
        smallest=smallest,
        judged=len(judged),
        provable=sum(size >= least for _, size in judged),
        can_fail=n == 0 or first.can_fail(n, terms.alpha_fail),
        most_flips=(
            prospects.most_flips(n, first.limit, alpha=terms.alpha_pass) if is_drop else None
        ),
    )


# ── what could be true ────────────────────────────────────────────────────────────────────


def _prospects(question: Question) -> list[Prospect]:
    """Every scenario; none where no number of examples proves the budget, or none can be told."""
    limit = allowed(question.budget, question.budget.limit)
    if not 0 < limit < 1:
        return []
    if question.kind == "drop":
        return [Drop(flips, drop, limit) for flips, drop in _flips(question, limit / 4)]
    if question.kind == "relative_drop" and question.reference is not None:
        pairs = _flips(question, limit * question.reference / 4)
        found = [RelativeDrop(flips, drop, question.reference, limit) for flips, drop in pairs]
        return [prospect for prospect in found if prospect.is_possible]
    return list(_rates(question, limit)) if question.kind == "rate" else []


def _flips(question: Question, quarter: float) -> list[tuple[float, float]]:
    """Flip rates and drops; a drop is never larger than its flip rate."""
    rates = sorted({rate for rate in question.seen if 0 <= rate <= 1}) or FLIP_RATES
    pairs = ((rate, drop) for rate in rates for drop in (0.0, min(quarter, rate)))
    return list(dict.fromkeys(pairs))


def _rates(question: Question, limit: float) -> list[Rate]:
    """What was seen within the limit, else parts of it."""
    seen = {allowed(question.budget, rate) for rate in question.seen}
    inside = sorted(rate for rate in seen if 0 <= rate < limit)
    return [Rate(rate, limit) for rate in inside or [part * limit for part in _PARTS]]


def _forecasts(question: Question, n: int, alpha: float) -> Iterator[Forecast]:
    """Nothing lost and a quarter of the limit lost; for a value, what it was."""
    budget, spread = question.budget, question.spread
    if spread is None:
        return
    is_drop = budget.threshold in ("max_drop", "max_relative_drop")
    for truth in (0.0, budget.limit / 4) if is_drop else (spread.value,):
        spare = budget.limit - truth
        margin = -spare if budget.threshold == "at_least" else spare
        if margin <= 0:
            continue
        chance = power.chance_for_mean(spread.noise, margin, n, alpha=alpha) if n else None
        yield Forecast(
            truth=truth,
            needed=tuple(
                power.examples_for_mean(spread.noise, margin, alpha=alpha, power=wanted)
                for wanted in POWERS
            ),
            passes=chance,
        )


# ── what would follow ─────────────────────────────────────────────────────────────────────


def _scenario(question: Question, prospect: Prospect, n: int, terms: _Terms) -> Scenario:
    alpha = terms.alpha_pass
    chances = [chance for chance in _CURVE if chance >= _LEAST_CHANCE * alpha]
    examples = np.maximum.accumulate([prospect.needed(alpha, chance) for chance in chances])
    rate, drop = _told(question.budget, prospect)
    return Scenario(
        rate=rate,
        drop=drop,
        needed=tuple(prospect.needed(alpha, chance) for chance in POWERS),
        curve=tuple(zip(examples.tolist(), chances, strict=True)),
        at_hand=_at_hand(question, prospect, n, terms) if n else None,
    )


def _told(budget: Budget, prospect: Prospect) -> tuple[float, float | None]:
    """Flip rate and absolute drop; for a rate itself and None."""
    if isinstance(prospect, Drop):
        return prospect.flips, prospect.truth
    if isinstance(prospect, RelativeDrop):
        return prospect.flips, prospect.drop
    return allowed(budget, prospect.truth), None


def _at_hand(question: Question, prospect: Prospect, n: int, terms: _Terms) -> AtHand:
    tightest = prospects.tightest(prospect, n, terms.alpha_pass)
    caught = prospect.caught(n, terms.alpha_fail)
    return AtHand(
        passes=prospect.passes(n, terms.alpha_pass, terms.seed),
        tightest=None if tightest is None else allowed(question.budget, tightest),
        caught=None if caught is None else allowed(question.budget, caught),
        share=_share(question, prospect, n, terms),
    )


def _share(question: Question, prospect: Prospect, n: int, terms: _Terms) -> float | None:
    """A slice is only a part of what is looked at, and what needs no proof is not waited for."""
    budget = question.budget
    sliced = budget.slice is not None or budget.each is not None
    if not terms.stops or sliced or budget.require != "proof":
        return None
    return prospects.share_looked_at(
        prospect, n, log_pass=terms.log_pass, log_fail=terms.log_fail, seed=terms.seed
    )
