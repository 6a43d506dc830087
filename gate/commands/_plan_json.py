"""A plan for scripts: the numbers behind the words."""

from dataclasses import asdict
from typing import Any

from gate.commands._plan_pages import Setting
from gate.planning import POWERS, BudgetPlan, Plan
from gate.wording import json_text


def render(plan: Plan, setting: Setting) -> str:
    """One object: what surrounds the numbers, and each budget in the policy's order.

    Shares and chances are fractions of 1; `needed` maps a chance of PASS to examples; null is what
    nobody can say.
    """
    told = {
        "model": setting.model,
        "policy": setting.policy,
        "alpha": round(plan.alpha, 12),  # without the dust of 1 − confidence
        "alpha_pass": round(plan.alpha_pass, 12),
        "family": plan.family,
        "may_stop_early": plan.may_stop_early,
        "held_out": {
            "source": setting.data,
            "total": setting.total,
            "used": setting.used,
            "clustered": setting.clustered,
        },
        "earlier_runs": [when.isoformat() for when in setting.history.runs],
        "budgets": [_budget(one) for one in plan.budgets],
    }
    return json_text(told)


def _budget(one: BudgetPlan) -> dict[str, Any]:
    question = one.question
    smallest = None
    if one.smallest is not None:
        smallest = {"slice": one.smallest[0], "examples": one.smallest[1]}
    return {
        "budget": question.budget.id,
        "limit": question.budget.limit,
        "kind": question.kind,
        "least": one.least,
        "smallest": smallest,
        "judged": one.judged,
        "provable": one.provable,
        "can_fail": one.can_fail,
        "most_flips": one.most_flips,
        "scenarios": [
            {
                "rate": scenario.rate,
                "drop": scenario.drop,
                "needed": _by_power(scenario.needed),
                "at_hand": None if scenario.at_hand is None else asdict(scenario.at_hand),
            }
            for scenario in one.scenarios
        ],
        "forecasts": [asdict(f) | {"needed": _by_power(f.needed)} for f in one.forecasts],
    }


def _by_power(needed: tuple[int, ...]) -> dict[str, int]:
    return {f"{power:g}": examples for power, examples in zip(POWERS, needed, strict=True)}
