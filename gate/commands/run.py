"""`gate run`: the stage itself, for one policy or several."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gate.commands.progress import progress
from gate.commands.report import demand_place, show
from gate.errors import GateError, UsageError, worst
from gate.pipeline import Finished, run_gate
from gate.records import GateRecord, Stage


def run_policies(
    policies: Sequence[str],
    *,
    candidate: str | None,
    stage: Stage,
    out: Path | None,
    formats: Sequence[str],
    **options: Any,
) -> int:
    """Run every policy, whatever the others came to; show the reports; the worst exit code.

    Raises:
        UsageError: one candidate or output folder was given for several policies.
    """
    if len(policies) > 1 and candidate is not None:
        raise UsageError(
            "--candidate goes with one policy; with several, each names its own `build.candidate`"
        )
    demand_place(formats)
    records: list[GateRecord] = []
    problems: list[tuple[str, GateError]] = []
    for policy in policies:
        folder = out / Path(policy).stem if out is not None and len(policies) > 1 else out
        try:
            finished = _run(policy, candidate=candidate, stage=stage, out=folder, **options)
        except GateError as error:
            _tell(error)
            problems.append((policy, error))
            continue
        records.append(finished.record)
        click.echo(f"gate: record in {finished.folder}", err=True)
    show(records, formats, problems)
    return worst([r.exit_code for r in records] + [error.exit_code for _, error in problems])


def _run(policy: str, **options: Any) -> Finished:
    with progress(Path(policy).stem) as shown:
        return run_gate(policy, progress=shown, **options)


def _tell(error: GateError) -> None:
    sys.stdout.flush()
    notes = getattr(error, "__notes__", [])
    for line in (f"gate: {error}", *notes):
        click.echo(line, err=True)
