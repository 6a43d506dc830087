"""`gate run`: the stage itself, for one policy or several."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from gate.commands.progress import progress
from gate.commands.report import demand_place, show
from gate.errors import GateError, worst
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

    Args:
        policies: files; each record of several goes to its own folder in `out`.
        candidate: judged by every policy; default: each policy's own.
        stage: as `run_gate`.
        out: as `run_gate`.
        formats: keys of `gate.reporters`.
        options: the others of `run_gate`.

    Raises:
        UsageError: a report cannot be shown here.
    """
    demand_place(formats)
    records: list[GateRecord] = []
    problems: list[tuple[str, GateError]] = []
    for policy, name in zip(policies, _names(policies), strict=True):
        folder = out / name if out is not None and len(policies) > 1 else out
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


def _names(policies: Sequence[str]) -> Iterator[str]:
    """A folder for each: the file's name, with a number where another has the same."""
    seen: Counter[str] = Counter()
    for policy in policies:
        stem = Path(policy).stem
        seen[stem] += 1
        yield stem if seen[stem] == 1 else f"{stem}-{seen[stem]}"


def _run(policy: str, **options: Any) -> Finished:
    with progress(Path(policy).stem) as shown:
        return run_gate(policy, progress=shown, **options)


def _tell(error: GateError) -> None:
    sys.stdout.flush()
    notes = getattr(error, "__notes__", [])
    for line in (f"gate: {error}", *notes):
        click.echo(line, err=True)
