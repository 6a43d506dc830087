"""What was measured for each budget to a verdict. Pure: the p-values alone decide.

A budget that has to be proven passes where p_pass ≤ α, fails where its p_fail, adjusted by Holm's
method for all budgets, is ≤ α, and is inconclusive otherwise. One that only must not be proven
harmful fails by the same rule and else does not block. What is missing or has no value fails:
inconclusive means too little evidence and nothing else.
"""

import math
from collections.abc import Iterator, Sequence

from gate.errors import EvaluationError, RecordError
from gate.evidence import can_fail, examples_needed, is_inside, number, provable
from gate.policy import Budget
from gate.records import Comparison, Finding, GateRecord, Measured, Outcome, Verdict
from gate.statistics import clopper_pearson, holm, jackknife, latency, sequential
from gate.wording import side_name

_DUST = 1e-12
_LARGE = 1000
_EXACT = "exact number"
_RATES = (clopper_pearson.METHOD, sequential.METHOD)
_UNDEFINED = "undefined"
_USELESS = 50
"""So many times its limit nobody wants to hear that a budget could have been proven."""
_OF_TIME = {"latency_p50": " ms", "latency_p95": " ms", "throughput": " /s"}


def decide(
    measured: Sequence[Measured],
    alpha: float,
    fail_alpha: float | None = None,
    *,
    point: bool = False,
) -> Verdict:
    """All budgets to one verdict: a finding for each, in their order.

    Args:
        measured: every budget of the policy, on every slice it is about.
        alpha: one-sided error of each budget, between 0 and 0.5.
        fail_alpha: that of a FAIL, where a ledger has made the one of a PASS smaller.
        point: compare the point estimates with the limits instead, as other tools do.

    Raises:
        EvaluationError: there is nothing to decide on.
        ValueError: alpha is out of its range.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    if not measured:
        raise EvaluationError("no budget was measured, so nothing can be decided: name a budget")
    harms, errors = _adjusted(measured), (alpha, fail_alpha or alpha)
    family = sum(map(_is_sampled, measured))
    blind = not any(map(_is_looked_at, measured))
    findings = tuple(
        _point(one, alpha) if point else _warned(_finding(one, harm, errors), one, errors, family)
        for one, harm in zip(measured, harms, strict=True)
    )
    if blind:
        findings = tuple(one.model_copy(update={"blocking": True}) for one in findings)
    return Verdict(outcome=_overall(findings), findings=findings)


def measured_of(record: GateRecord) -> tuple[Measured, ...]:
    """What a record's verdict was decided on, so that it can be decided again.

    Raises:
        RecordError: its findings and its policy are not about the same budgets.
    """
    budgets = {budget.id: budget for budget in record.policy.judge.budgets}
    found = {finding.budget for finding in record.verdict.findings}
    if found != budgets.keys():
        odd = ", ".join(sorted(found ^ budgets.keys()))
        raise RecordError(
            f"record {record.id} is damaged: its findings and its policy do not name the same "
            f"budgets ({odd}). Run the gate again"
        )
    return tuple(
        Measured(
            budget=budgets[finding.budget],
            slice=finding.slice,
            comparison=finding.comparison,
            reason=finding.reason if finding.comparison is None else None,
            excused=finding.comparison is None and record.lacks(budgets[finding.budget].against),
        )
        for finding in record.verdict.findings
    )


# ── the rule ──────────────────────────────────────────────────────────────────────────────


def _overall(findings: Sequence[Finding]) -> Outcome:
    if any(finding.outcome == "fail" for finding in findings):
        return "fail"
    return "inconclusive" if any(finding.blocking for finding in findings) else "pass"


def _adjusted(measured: Sequence[Measured]) -> Iterator[float]:
    """Holm-adjusted p_fail of each; its own where there is no sampling error; 1 without one."""
    own = [_p(one.comparison.p_fail) if one.comparison else 1.0 for one in measured]
    family = [index for index, one in enumerate(measured) if _is_sampled(one)]
    for index, p in zip(family, holm.adjusted([own[i] for i in family]), strict=True):
        own[index] = float(p)
    return iter(own)


def _is_sampled(one: Measured) -> bool:
    found = one.comparison
    return found is not None and found.method != _EXACT and _is_judged(one.budget, found)


def _is_looked_at(one: Measured) -> bool:
    """Whether anything could come of it: a slice below `min_examples` is listed and no more."""
    if one.excused:
        return False
    return one.comparison is None or not _is_small(one.budget, one.comparison)


def _is_judged(budget: Budget, found: Comparison) -> bool:
    return _why_undefined(found) is None and not _is_small(budget, found)


def _finding(one: Measured, harm: float, errors: tuple[float, float]) -> Finding:
    found = one.comparison
    outcome, reason, needed = _outcome(one, harm, errors)
    unproven = outcome == "inconclusive" and one.budget.require == "proof"
    possible = _provable(one, errors[0]) if unproven else None
    if possible is not None:
        reason += _could(one, possible)
    # `min_examples` is for slices: a whole set that is too small judges nothing
    unjudged = found is not None and one.slice is None and _is_small(one.budget, found)
    blocks = (outcome == "fail" or unproven or unjudged) and not one.excused
    return Finding(
        budget=one.budget.id,
        slice=one.slice,
        comparison=found,
        outcome=outcome,
        reason=reason,
        blocking=blocks,
        examples_needed=needed,
        provable=possible,
    )


def _warned(finding: Finding, one: Measured, errors: tuple[float, float], family: int) -> Finding:
    """Told where so few examples, under so many tests, could never have shown any harm."""
    found = one.comparison
    listed = finding.outcome == "inconclusive" and one.budget.require == "no_proven_harm"
    if not listed or found is None or found.counts is None or found.quantity != "drop":
        return finding
    if _is_small(one.budget, found) or can_fail(found.n, one.budget.limit, errors[1] / family):
        return finding
    tests = f", at α / {family:,}," if family > 1 else ""
    blind = (
        f". WARNING: {_examples(found.n)} can never FAIL it{tests} even if all are lost: "
        "merge slices, or bring more examples of the rare ones"
    )
    return finding.model_copy(update={"reason": finding.reason + blind})


def _point(one: Measured, alpha: float) -> Finding:
    """By the point estimate alone; how often that errs at this n is part of the reason."""
    budget, found = one.budget, one.comparison
    if found is None or _why_undefined(found) is not None or found.method == _EXACT:
        return _finding(one, 1.0 if found is None else _p(found.p_fail), (alpha, alpha))
    met = (
        number(found) >= budget.limit
        if budget.threshold == "at_least"
        else (number(found) <= budget.limit)
    )
    kept = _kept(budget, found).removeprefix("proven ") if met else _beyond(budget, found)
    return Finding(
        budget=budget.id,
        slice=one.slice,
        comparison=found,
        outcome="pass" if met else "fail",
        reason=f"{_seen(found, alpha)}, {kept} by its point estimate{_errs(budget, found, alpha)}",
        blocking=not met,
    )


def _errs(budget: Budget, found: Comparison, alpha: float) -> str:
    """How often chance alone decides, for a release three tenths off the budget either way."""
    from scipy.special import ndtr, ndtri

    if found.lower is None or found.upper is None or not found.upper > found.lower:
        return ""
    rough = found.method == jackknife.WORST_CASE
    if rough or found.quantity not in ("drop", "relative_drop") or budget.limit == 0:
        return ""
    se = (found.upper - found.lower) / (2 * float(ndtri(1 - alpha)))
    wrong = 100 * float(ndtr(-0.3 * budget.limit / se))
    often = f"about {wrong:.0f}" if wrong >= 1 else "less than 1"
    low, high = (_amount(found, share * budget.limit) for share in (0.7, 1.3))
    return (
        f": at {_rows(found)} such a gate releases what truly loses {high}, and blocks what "
        f"truly loses {low}, {often} % of the time"
    )


def _outcome(
    one: Measured, harm: float, errors: tuple[float, float]
) -> tuple[Outcome, str, int | None]:
    """Outcome, reason, and the examples that would decide."""
    budget, found = one.budget, one.comparison
    alpha, fail_alpha = errors
    if found is None:
        outcome: Outcome = "inconclusive" if one.excused else "fail"
        return outcome, one.reason or f"{budget.metric} was not measured", None
    if _is_small(budget, found) and None not in (found.reference, found.int8):
        return "inconclusive", _too_small(budget, found), None
    undefined = _why_undefined(found)
    if undefined is not None:
        return "fail", undefined, None
    if _within(harm, fail_alpha):
        return "fail", f"{_seen(found, alpha)}, {_beyond(budget, found)}", None
    if _within(_p(found.p_pass), alpha):
        return "pass", f"{_seen(found, alpha)}, {_kept(budget, found)}", None
    needed = examples_needed(budget, found, alpha)
    return "inconclusive", _unproven(budget, found, alpha, needed), needed


def _provable(one: Measured, alpha: float) -> float | None:
    """The strictest limit that could have been proven, where the budget was judged at all."""
    found = one.comparison
    if found is None or _is_small(one.budget, found) or found.p_pass is None:
        return None
    possible = provable(one.budget, found, alpha)
    far = possible is not None and possible > _USELESS * max(one.budget.limit, 0.01)
    return None if far else possible


def _within(p: float, alpha: float) -> bool:
    """p ≤ α, where α may carry the dust of 1 − confidence; never for NaN."""
    return p <= alpha + _DUST


def _p(value: float | None) -> float:
    """A p-value that decides nothing where there is none."""
    return 1.0 if value is None or math.isnan(value) else value


def _is_small(budget: Budget, found: Comparison) -> bool:
    return found.method != _EXACT and 0 < found.n < budget.min_examples


def _why_undefined(found: Comparison) -> str | None:
    """Why nothing can be decided on a comparison; None where something can."""
    numbers = (found.int8, found.degradation if found.quantity != "value" else 0.0)
    tests = (found.p_pass, found.p_fail)
    broken = any(number is None or not math.isfinite(number) for number in numbers + tests)
    if found.method != _UNDEFINED and not broken:
        return None
    told = found.note if found.method == _UNDEFINED else None
    return told or f"{_subject(found)} has no value that could be judged"


# ── reasons: one plain sentence each ──────────────────────────────────────────────────────


def _too_small(budget: Budget, found: Comparison) -> str:
    return (
        f"{_subject(found)} rests on {_rows(found)}, fewer than the "
        f"{budget.min_examples:,} of min_examples: listed, not judged"
    )


def _beyond(budget: Budget, found: Comparison) -> str:
    if budget.threshold == "at_least":
        return f"under the {_limit(budget, found)} required"
    more = "more than" if found.quantity in ("drop", "relative_drop") else "over"
    return f"{more} the {_limit(budget, found)} allowed"


def _kept(budget: Budget, found: Comparison) -> str:
    limit, floor = _limit(budget, found), budget.threshold == "at_least"
    reach = f"at least the {limit} required" if floor else f"within the {limit} allowed"
    return reach if found.method == _EXACT else f"proven {reach}"


def _unproven(budget: Budget, found: Comparison, alpha: float, needed: int | None) -> str:
    limit = _limit(budget, found)
    goal = f"at least {limit}" if budget.threshold == "at_least" else f"within the {limit} allowed"
    listed = "" if budget.require == "proof" else "not proven: "
    seen = f"{listed}{_seen(found, alpha)}"
    if needed is not None:
        return f"{seen}; {_rows(found)} {_do(found.n)} not prove it {goal}, about {needed:,} would"
    if is_inside(budget, found):
        return f"{seen}; {_rows(found)} {_do(found.n)} not prove it {goal}"
    return (
        f"{seen}; that is no better than the limit of {limit}, so more {_noun(found)} alone are "
        "not expected to prove it"
    )


def _could(one: Measured, limit: float) -> str:
    """What to do with these examples alone."""
    found = one.comparison
    assert found is not None
    which = "at least " if one.budget.threshold == "at_least" else ""
    these = "This" if found.n == 1 else "These"
    return f". {these} {_rows(found)} could have proven {which}{_amount(found, limit)}"


def _seen(found: Comparison, alpha: float) -> str:
    """`accuracy on site=north drops 1.60 pp (between 0.77 and 2.56, each end 95 % sure)`."""
    return f"{_subject(found)} {_change(found)}{_around(found, alpha)}"


def _change(found: Comparison) -> str:
    amount = number(found)
    if found.quantity == "value":
        return f"is {_amount(found, amount)}"
    if found.quantity == "ratio":
        return f"is {_amount(found, amount)} times {side_name(found.against)}'s"
    if amount == 0 or found.reference is None or found.int8 is None:
        return "does not change" if amount == 0 else f"loses {_amount(found, amount)}"
    verb = "drops" if found.int8 < found.reference else "rises"
    of = f" of {side_name(found.against)}'s" if found.quantity == "relative_drop" else ""
    return f"{verb} {_amount(found, abs(amount))}{of}"


def _around(found: Comparison, alpha: float) -> str:
    """The interval, and how far to trust it; of the loss, where the change that was named is none.

    The note of what was judged says that it is asymptotic, or the worst case of what.
    """
    note = found.note
    if found.lower is None or found.upper is None:
        return f" ({note})" if note else ""
    low, high = _bare(found, found.lower), _bare(found, found.upper)
    named = found.quantity == "value" or number(found) > 0
    what = "between" if named else "loss between"
    tail = f"; {note}" if note else ""
    return f" ({what} {low} and {high}, each end {100 * (1 - alpha):.6g} % sure{tail})"


def _subject(found: Comparison) -> str:
    where = f" on {found.slice}" if found.slice else ""
    against = "" if found.against == "fp32" else f" against {side_name(found.against)}"
    return found.metric + where + against


def _limit(budget: Budget, found: Comparison) -> str:
    return _amount(found, budget.limit)


def _amount(found: Comparison, number: float) -> str:
    """With its unit: percentage points, percent, or a plain number."""
    return f"{_bare(found, number)}{_unit(found)}"


def _unit(found: Comparison) -> str:
    if found.quantity == "drop" and found.counts is not None:
        return " pp"
    if found.quantity == "value" and found.metric in _OF_TIME:
        return _OF_TIME[found.metric]
    is_rate = found.quantity == "value" and found.method.startswith(_RATES)
    return " %" if is_rate or found.quantity == "relative_drop" else ""


def _bare(found: Comparison, number: float) -> str:
    if _unit(found) and found.metric not in _OF_TIME:
        return _decimals(100 * number)
    whole = number == round(number) or abs(number) >= _LARGE
    return f"{number:,.0f}" if whole else f"{number:.4g}"


def _decimals(number: float) -> str:
    """Two decimals, or two digits where these would leave none."""
    text = f"{number:,.2f}"
    if float(text.replace(",", "")) == 0:
        text = f"{number:.2g}" if abs(number) > _DUST else "0.00"
    return text.replace("-", "−")


def _noun(found: Comparison) -> str:
    return "rounds" if found.method == latency.METHOD else "examples"


def _rows(found: Comparison) -> str:
    """How many there are of what was looked at."""
    if found.method != latency.METHOD:
        return _examples(found.n)
    return f"{found.n:,} round{'' if found.n == 1 else 's'}"


def _examples(n: int) -> str:
    return f"{n:,} example{'' if n == 1 else 's'}"


def _do(n: int) -> str:
    return "does" if n == 1 else "do"
