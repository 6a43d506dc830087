"""What FP32 is expected to measure: what training reported, and never what was measured here.

A number that was measured here would agree with itself whatever is fed to the model, so it is only
shown; `unknown` stays in the policy, and in every report, until somebody confirms it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gate.commands._init_asked import Dialogue, expected
from gate.commands._init_fit import Fitted
from gate.commands._init_text import UNKNOWN, flow
from gate.errors import UsageError
from gate.policy import ExpectFp32
from gate.wording import metric_name

WITHIN = 0.02
"""Of a share, or as a share of another value."""
_ERRORS = 2
"""Standard errors that a share may be off by chance."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """`expect_fp32`."""

    metrics: Mapping[str, float] | None
    """None: unknown."""
    within: float
    why: str
    notes: tuple[str, ...] = ()


def expectation(
    who: Dialogue,
    fitted: Fitted,
    main: str | None,
    given: Mapping[str, float] | None,
    *,
    asked: bool,
) -> Expectation:
    """What training reported, held against what FP32 measures here.

    Args:
        who: is asked where no flag says it.
        fitted: FP32's rows.
        main: the metric to ask for; None without labels.
        given: by the flag; None for `unknown`.
        asked: whether there was a flag.

    Raises:
        UsageError: nothing in the data could tell.
        BaselineError: FP32 measures something else here.
    """
    if main is None and given:
        raise UsageError("--expect is about labels, and the held-out data have no `target`")
    if main is None:
        return Expectation(None, WITHIN, "there are no labels that could tell")
    value = fitted.value(main)
    told = given if asked else _answered(who, main, value)
    if not told:
        return _unconfirmed(fitted, main, value)
    within = max(_within(fitted, name, number) for name, number in told.items())
    fitted.demand(ExpectFp32(metrics=dict(told), within=within))
    return Expectation(told, within, "as training reported it")


def _answered(who: Dialogue, main: str, value: float) -> Mapping[str, float] | None:
    question = (
        f"{metric_name(main)} of the FP32 model as training reported it, `{UNKNOWN}` where nobody "
        f"knows (measured here: {value:.4f})"
    )
    answer = who.ask("--expect", question, UNKNOWN)
    if answer == UNKNOWN:
        return None
    return expected((answer if "=" in answer else f"{main}={answer}",))


def _unconfirmed(fitted: Fitted, main: str, value: float) -> Expectation:
    number = float(f"{value:.4g}")
    written = flow({main: number, "within": _within(fitted, main, number)})
    why = f"measured here: {written}; confirm it with what training reported"
    note = (
        f"FP32 measures {main} {value:.4f} on the held-out data. Nobody has confirmed that, so "
        f"`expect_fp32` is unknown, which every report shows; give --expect {main}=VALUE as "
        "training reported it"
    )
    return Expectation(None, WITHIN, why, (note,))


def _within(fitted: Fitted, name: str, value: float) -> float:
    """Room for chance: 2 points of a share or more where examples are few, 2 % of another value."""
    metric = fitted.metrics[name]
    if not metric.is_proportion:
        share = metric.higher_is_better and 0 <= value <= 1
        return WITHIN if share else float(f"{max(WITHIN * abs(value), 1e-6):.2g}")
    error = math.sqrt(max(value * (1 - value), 0.0) / len(fitted.split))
    return max(WITHIN, math.ceil(_ERRORS * error * 100) / 100)
