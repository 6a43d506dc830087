"""What a run is given to judge: what was asked for, and what the policy names itself."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from gate.errors import UsageError
from gate.metrics import MODEL_METRICS
from gate.policy_file import LoadedPolicy
from gate.subject import Given

_Named = str | os.PathLike[str] | None


def asked_for(
    candidate: Any, int8: _Named, reference: _Named, fp32_outputs: _Named, int8_outputs: _Named
) -> Given:
    """What a caller of `run_gate` asked for."""
    return Given(
        candidate=os.fspath(candidate) if isinstance(candidate, os.PathLike) else candidate,
        int8=None if int8 is None else os.fspath(int8),
        reference=None if reference is None else os.fspath(reference),
        fp32_outputs=None if fp32_outputs is None else Path(fp32_outputs),
        int8_outputs=None if int8_outputs is None else Path(int8_outputs),
    )


def given_by(loaded: LoadedPolicy, given: Given) -> Given:
    """With the policy's own candidate, where none was asked for.

    Raises:
        UsageError: what was asked for does not go together.
    """
    outputs = (given.fp32_outputs, given.int8_outputs)
    if outputs == (None, None):
        return (
            given
            if given.candidate is not None
            else replace(given, candidate=named_candidate(loaded))
        )
    if None in outputs:
        raise UsageError("--fp32-outputs and --int8-outputs go together: give both")
    for flag in ("candidate", "int8", "reference"):
        if getattr(given, flag) is not None:
            raise UsageError(f"--{flag} is a model, and outputs are judged instead of one: drop it")
    _demand_no_model(loaded)
    return given


def named_candidate(loaded: LoadedPolicy) -> str:
    """The policy's own candidate.

    Raises:
        UsageError: it names none.
    """
    named = loaded.policy.build.candidate
    if named is None:
        raise UsageError(
            f"{loaded.file} names no candidate: pass --candidate, or write `build.candidate`"
        )
    return named if ":/" in named else str(loaded.resolve(named))


def _demand_no_model(loaded: LoadedPolicy) -> None:
    """Outputs show nothing of the models that gave them."""
    for budget in loaded.policy.judge.budgets:
        if budget.metric in MODEL_METRICS:
            raise UsageError(
                f"{loaded.budgets_file}:{loaded.lines.get(budget.id, 1)}: {budget.metric} needs "
                "the model itself, and outputs do not show it: judge it where the model runs, or "
                "take the budget out of this policy"
            )
