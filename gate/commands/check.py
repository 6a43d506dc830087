"""`gate check`: validate policies, running nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gate.errors import EXIT_PASS, GateError, PolicyError, worst
from gate.judgeable import unsupported
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.waivers import FILE, InForce, beside, load_waivers
from gate.wording import json_text


class Line(NamedTuple):
    """One line to print."""

    text: str
    bad: bool
    """Whether it tells what is wrong."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one policy: it is good, or there is an error."""

    file: Path
    good: tuple[LoadedPolicy, InForce] | None = None
    """With its waivers."""
    error: GateError | None = None

    @property
    def exit_code(self) -> int:
        """0, or the error's."""
        return EXIT_PASS if self.error is None else self.error.exit_code


def check(paths: Sequence[Path]) -> tuple[list[Line], int]:
    """Validate every policy, whatever the others came to.

    Returns:
        Lines in the order of `paths`: one for a good policy, one a finding for a bad one; and
        the worst exit code.
    """
    found = checked(paths)
    return list(lines(found)), worst(one.exit_code for one in found)


def checked(paths: Sequence[Path]) -> list[Checked]:
    """What came of every policy, in the order of `paths`."""
    return [_check(path) for path in paths]


def _check(path: Path) -> Checked:
    try:
        loaded = load_policy(path)
        preflight(loaded, unsupported=unsupported)
        held = load_waivers(beside(path), loaded.policy, datetime.now(UTC).date())
    except GateError as error:
        return Checked(path, error=error)
    return Checked(path, good=(loaded, held))


# ── how it is told ────────────────────────────────────────────────────────────────────────


def lines(found: Sequence[Checked]) -> Iterator[Line]:
    """For people: one line for a good policy, one a problem for a bad one."""
    for one in found:
        yield from (Line(problem, bad=True) for problem in _problems(one))
        if one.good is not None:
            yield Line(_summary(*one.good), bad=False)


def as_json(found: Sequence[Checked]) -> str:
    """For scripts."""
    told = {
        "policies": [_fields(one) for one in found],
        "exit_code": worst(one.exit_code for one in found),
    }
    return json_text(told)


def _problems(one: Checked) -> list[str]:
    if one.error is None:
        return []
    told = str(one.error)
    return (told if isinstance(one.error, PolicyError) else f"{one.file}: {told}").splitlines()


def _fields(one: Checked) -> dict[str, Any]:
    told: dict[str, Any] = {"file": str(one.file), "ok": one.error is None}
    if one.error is not None:
        code = one.error.code
        return told | {"exit_code": one.exit_code, "code": code, "problems": _problems(one)}
    assert one.good is not None
    loaded, held = one.good
    return told | {
        "model": loaded.policy.model,
        "task": loaded.policy.task,
        "budgets": [budget.id for budget in loaded.policy.judge.budgets],
        "recipe": loaded.policy.build.recipe.name,
        "sha256": loaded.sha256,
        "waived": [waiver.budget for waiver in held.waivers],
        "expired": [waiver.budget for waiver in held.expired],
    }


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
