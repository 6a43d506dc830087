"""`gate check`: validate policies, running nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gate.errors import EXIT_PASS, GateError, PolicyError, worst
from gate.judgeable import unsupported
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.waivers import FILE, InForce, beside, load_waivers


class Line(NamedTuple):
    """One line to print."""

    text: str
    bad: bool
    """Whether it tells what is wrong."""


def check(paths: Sequence[Path]) -> tuple[list[Line], int]:
    """Validate every policy, whatever the others came to.

    Returns:
        Lines in the order of `paths`: one for a good policy, one a finding for a bad one; and
        the worst exit code.
    """
    results = [_check(path) for path in paths]
    return [line for lines, _ in results for line in lines], worst(code for _, code in results)


def _check(path: Path) -> tuple[list[Line], int]:
    try:
        loaded = load_policy(path)
        preflight(loaded, unsupported=unsupported)
        held = load_waivers(beside(path), loaded.policy, datetime.now(UTC).date())
    except GateError as error:
        text = str(error) if isinstance(error, PolicyError) else f"{path}: {error}"
        return [Line(line, bad=True) for line in text.splitlines()], error.exit_code
    return [Line(_summary(loaded, held), bad=False)], EXIT_PASS


def _summary(loaded: LoadedPolicy, held: InForce) -> str:
    """`policies/digits.yaml: ok (2 budgets, recipe static, sha256 …)`."""
    count = len(loaded.policy.judge.budgets)
    budgets = f"{count} budget{'' if count == 1 else 's'}"
    recipe = loaded.policy.build.recipe.name
    waived = f", {len(held.waivers)} waived" if held.waivers else ""
    expired = f", {len(held.expired)} expired in {FILE}: delete them" if held.expired else ""
    return (
        f"{loaded.file}: ok ({budgets}, recipe {recipe}, sha256 {loaded.sha256[:12]}"
        f"{waived}{expired})"
    )
