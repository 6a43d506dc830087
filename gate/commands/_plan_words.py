"""What a plan says in sentences: what its tables cannot, and the advice at its end."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from gate import wording
from gate.planning import BudgetPlan, Forecast, Plan, Scenario, allowed
from gate.policy import Budget, scalar_text
from gate.wording import plain, plural, whole

TIMES = 3
"""Rates or times that are listed."""
_FEWEST, _MOST = 0.005, 0.995
_USUAL_FLIPS = 0.02
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""What YAML, of one version or another, reads as something else than a text."""


# ── numbers and names ─────────────────────────────────────────────────────────────────────


def percent(number: float) -> str:
    """0.01 as `1.00 %`."""
    return f"{wording.decimal(number * 100)} %"


def points(number: float) -> str:
    """0.01 as `1.00 pp`."""
    return f"{wording.decimal(number * 100)} pp"


def chance(number: float) -> str:
    """0.47 as `47 %`; never 0 or 100 %."""
    if number < _FEWEST:
        return "< 1 %"
    return "> 99 %" if number > _MOST else f"{number * 100:.0f} %"


def name(one: BudgetPlan) -> str:
    """The budget, as reports name it."""
    return wording.budget_name(one.question.budget, _unit(one))


def _unit(one: BudgetPlan) -> wording.Unit | None:
    """Proportions are shares; None leaves it to the metric's name."""
    return "rate" if one.question.kind in ("drop", "relative_drop", "rate") else None


def drawn(one: BudgetPlan) -> list[Scenario]:
    """One scenario a rate: that with the larger drop."""
    return list({scenario.rate: scenario for scenario in one.scenarios}.values())


# ── what a table cannot say ───────────────────────────────────────────────────────────────


def notes(one: BudgetPlan, plan: Plan) -> Iterator[str]:
    """What its table does not show, or why it has none."""
    question = one.question
    if one.forecasts:
        yield from _forecast(one)
        return
    if not one.scenarios:
        yield _unplanned(one)
        return
    if question.budget.require == "no_proven_harm":
        yield "It need not pass: it blocks only harm that is proven."
    if question.slices is not None:
        yield from _slices(one, plan)
    limit = allowed(question.budget, question.budget.limit)
    seen = [rate for rate in question.seen if allowed(question.budget, rate) >= limit]
    if question.kind == "rate" and seen:
        yield (
            f"Earlier runs had {wording.listing(map(percent, seen), TIMES)}, which is not within "
            "the limit: no number of examples proves that."
        )


def _forecast(one: BudgetPlan) -> Iterator[str]:
    """The jackknife's needs, as noisy as the last run was."""
    metric = wording.metric_name(one.question.budget.metric)
    yield f"{metric} is judged by the jackknife; as noisy as in the last run it takes:"
    n = one.smallest[1] if one.smallest else 0
    for found in one.forecasts:
        needed = " / ".join(map(whole, found.needed))
        hand = "" if found.passes is None else f"; {whole(n)} pass with {chance(found.passes)}"
        yield f"{_if_truly(one, found)}: {needed} examples for PASS with 80 / 90 / 99 %{hand}."


def _if_truly(one: BudgetPlan, found: Forecast) -> str:
    threshold = one.question.budget.threshold
    if threshold not in ("max_drop", "max_relative_drop"):
        return f"if it truly is {found.truth:.4g}"
    if found.truth == 0:
        return "if nothing is truly lost"
    lost = percent(found.truth) if threshold == "max_relative_drop" else f"{found.truth:.4g}"
    return f"if {lost} is truly lost"


def _unplanned(one: BudgetPlan) -> str:
    """Why there are no numbers."""
    question = one.question
    metric = wording.metric_name(question.budget.metric)
    if question.kind == "exact":
        return "It needs no examples: it is one exact number of the artifact."
    if question.kind == "spread" and question.spread is not None:
        return (
            f"The last run had {question.spread.value:.4g}, which is not within the limit: no "
            "number of examples proves that."
        )
    if question.kind == "spread":
        return (
            f"How many examples it needs depends on how {metric} varies between independent "
            "examples (it is judged by the jackknife); the record of a first run will tell."
        )
    if not 0 < allowed(question.budget, question.budget.limit) < 1:
        return (
            "No number of examples proves it: exactly none cannot be told from very few. Allow a "
            "little, such as 0.1 %."
        )
    if question.kind == "relative_drop" and question.reference is not None:
        return f"FP32's {metric} of {percent(question.reference)} leaves no room for such flips."
    return (
        f"How many examples it needs depends on FP32's {metric}: write it into `expect_fp32`, or "
        "run the gate once."
    )


def _slices(one: BudgetPlan, plan: Plan) -> Iterator[str]:
    question = one.question
    sizes = [n for _, n in question.slices or ()]
    if not one.judged:
        yield _nothing_judged(one)
        return
    assert one.smallest is not None
    assert one.least is not None
    label, n = one.smallest
    if question.budget.each is not None:
        skipped = len(sizes) - one.judged
        few, many = min(sizes), max(sizes)
        span = f"{whole(few)} to {whole(many)} examples" if few < many else plural(few, "example")
        enough = f"{whole(one.provable)} of them {'has' if one.provable == 1 else 'have'}"
        yield (
            f"{plural(len(sizes), 'slice')} of {span}; {enough if one.provable else 'none has'} "
            f"the {whole(one.least)} that even a model without flips needs. The numbers are those "
            f"of the smallest, {plain(label)}."
            + (f" Not judged, below min_examples: {plural(skipped, 'slice')}." if skipped else "")
        )
    elif n < one.least:
        yield f"A model without any flips needs {whole(one.least)} examples to pass."
    if not one.can_fail:
        tests = f", at α / {whole(plan.family)}," if plan.family > 1 else ""
        yield (
            f"WARNING: {plural(n, 'example')} can never FAIL it{tests} even if all are lost: "
            "merge slices, or bring more examples of the rare ones."
        )


def _nothing_judged(one: BudgetPlan) -> str:
    found = one.question.slices or ()
    empty = [label for label, n in found if n == 0]
    if empty and one.question.budget.each is None:
        return f"WARNING: no held-out example has {plain(empty[0])}, and that is a FAIL."
    least = one.question.budget.min_examples
    return f"WARNING: nothing is judged, as no slice has the {whole(least)} of min_examples."


# ── advice ────────────────────────────────────────────────────────────────────────────────


def decidable(plan: Plan) -> tuple[str, ...]:
    """Budgets, as a policy writes them, that the set proves with 80 % at the worst past flips."""
    found = (_decided(one) for one in plan.budgets)
    return tuple(line for line in found if line is not None)


def _decided(one: BudgetPlan) -> str | None:
    question = one.question
    hands = [scenario.at_hand for scenario in one.scenarios]
    limits = [hand.tightest for hand in hands if hand is not None]
    if not question.seen or not limits or len(limits) < len(hands) or None in limits:
        return None
    budget = question.budget
    worst = max(allowed(budget, limit) for limit in limits if limit is not None)
    limit = round(allowed(budget, _rounded_up(worst)), 12)
    told: dict[str, str] = {"metric": _written(budget.metric), budget.threshold: f"{limit:g}"}
    told |= {key: _written(value) for key, value in _beyond(budget)}
    pairs = ", ".join(f"{key}: {value}" for key, value in told.items())
    where = (
        f"   # {plain(one.smallest[0])} has the fewest" if one.smallest and one.smallest[0] else ""
    )
    return f"- {{{pairs}}}{where}"


def _beyond(budget: Budget) -> Iterator[tuple[str, object]]:
    """Keys besides its limit that make it the budget that it is, with their values."""
    usual = "no_proven_harm" if budget.each else "proof"
    defaults = {"slice": None, "each": None, "against": "fp32", "require": usual, "min_examples": 1}
    for key, default in defaults.items():
        if getattr(budget, key) != default:
            yield key, getattr(budget, key)


def _written(value: object) -> str:
    """As YAML reads it back; a text in quotes unless it is a plain word."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_written(k)}: {_written(v)}' for k, v in value.items())}}}"
    if not isinstance(value, str):
        return scalar_text(value)
    is_word = _WORD.fullmatch(value) is not None and value.lower() not in _NO_WORDS
    return value if is_word else json.dumps(value, ensure_ascii=False)


def _rounded_up(limit: float) -> float:
    """To two digits, so that what is promised holds."""
    if not 0 < limit < 1:
        return limit
    step = 10.0 ** (math.floor(math.log10(limit)) - 1)
    return round(math.ceil(limit / step - 1e-9) * step, 12)


def advice(plan: Plan, total: int | None) -> str:
    """One sentence: the budget that asks most of the examples at hand, and what it asks."""
    proofs = [one for one in plan.budgets if one.question.budget.require == "proof"]
    hopeless = next((one for one in proofs if _is_hopeless(one)), None)
    if hopeless is not None:
        return f"Change {name(hopeless)} first: no number of examples proves it."
    absent = next((one for one in plan.budgets if _is_absent(one)), None)
    if absent is not None:
        return f"Bring examples for {name(absent)} first: without any it is a FAIL."
    asked = [one for one in proofs if one.scenarios]
    noisy = [one for one in proofs if one.forecasts]
    if noisy and not asked:
        return _of_the_noisiest(noisy)
    if not asked:
        return _nothing_to_prove(plan)
    worst = max(asked, key=_strain)
    if total is None:
        scenario = _typical(worst)
        return (
            f"Bring at least {plural(scenario.needed[0], 'held-out example')}: they prove "
            f"{name(worst)} with 80 % {_if(scenario)}."
        )
    return _held_against(worst)


def _of_the_noisiest(noisy: Sequence[BudgetPlan]) -> str:
    """Where only the jackknife asks for examples."""
    pairs = [(one, found) for one in noisy for found in one.forecasts]
    one, found = max(pairs, key=lambda pair: pair[1].needed[0])
    return (
        f"Bring at least {plural(found.needed[0], 'held-out example')}: as noisy as in the last "
        f"run, they prove {name(one)} with 80 % {_if_truly(one, found)}."
    )


def _nothing_to_prove(plan: Plan) -> str:
    if all(one.question.kind == "exact" for one in plan.budgets):
        return "No budget here needs examples."
    found = next((one for one in plan.budgets if one.scenarios), None)
    if found is None:
        return "How many examples are needed cannot be told before a first run."
    hand = _typical(found).at_hand
    text = "No budget here asks for a proof: only harm that is proven blocks"
    if hand is None or found.smallest is None or found.smallest[0] is None:
        return f"{text}."
    where = plain(found.smallest[0])
    if hand.caught is None:
        return f"{text}, and {where} has too few examples to prove any."
    show = points if found.question.kind == "drop" else percent
    return f"{text}, in {where} from about {show(hand.caught)}."


def _held_against(one: BudgetPlan) -> str:
    """What the examples at hand come to, held against the budget that asks most of them."""
    label, n = one.smallest or (None, 0)
    scenario = _typical(one)
    mine = f"Your {plural(n, 'example')}" + (f" of {plain(label)}" if label else "")
    needed = f"{whole(scenario.needed[0])} prove it with 80 % {_if(scenario)}"
    if n >= scenario.needed[0]:
        return (
            f"{mine} {'is' if n == 1 else 'are'} enough: even {name(one)}, which asks most of "
            f"them, passes with 80 % or more {_if(scenario)}."
        )
    if one.most_flips is not None:
        return (
            f"{mine} prove {name(one)} with 80 % only with fewer than {percent(one.most_flips)} "
            f"correctness flips and nothing lost on balance; {needed}."
        )
    if one.least is not None and n < one.least:
        return (
            f"{mine} {'is' if n == 1 else 'are'} too few to prove {name(one)} even if nothing "
            f"flips (that takes {whole(one.least)}); {needed}."
        )
    passes = scenario.at_hand.passes if scenario.at_hand else 0.0
    return (
        f"{mine} prove {name(one)} with a chance of {chance(passes)} {_if(scenario)}; "
        f"{whole(scenario.needed[0])} do so with 80 %."
    )


def _is_absent(one: BudgetPlan) -> bool:
    """Whether a slice that is named has no example, which is a FAIL."""
    return one.question.budget.slice is not None and any(
        n == 0 for _, n in one.question.slices or ()
    )


def _is_hopeless(one: BudgetPlan) -> bool:
    sampled = one.question.kind in ("drop", "relative_drop", "rate")
    return sampled and not 0 < allowed(one.question.budget, one.question.budget.limit) < 1


def _strain(one: BudgetPlan) -> float:
    """Examples needed for each that is there."""
    return _typical(one).needed[0] / (one.smallest[1] if one.smallest else 1)


def _typical(one: BudgetPlan) -> Scenario:
    """The worst that earlier runs had; else 2 % flips, or half of the rate that is allowed."""
    found = drawn(one)
    if one.question.seen:
        return max(found, key=lambda scenario: scenario.needed[0])
    if one.question.kind == "rate":
        return found[len(found) // 2]
    return min(found, key=lambda scenario: abs(scenario.rate - _USUAL_FLIPS))


def _if(scenario: Scenario) -> str:
    if scenario.drop is None:
        return f"if the true rate is {percent(scenario.rate)}"
    return f"at {percent(scenario.rate)} correctness flips with {points(scenario.drop)} truly lost"
