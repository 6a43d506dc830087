"""`gate workflow …`, for the command line."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.group()
def workflow() -> None:
    """Write and check GitHub workflows that gate every change."""


@workflow.command()
@click.option("--policies", metavar="GLOB", default="policies/*.yaml", show_default=True)
@click.option("--out", type=_PATH, default=Path(".github/workflows/gate.yml"), show_default=True)
@click.option("--force", is_flag=True, help="Replace the file that is there.")
def init(policies: str, out: Path, force: bool) -> int:
    """Write a workflow that gates your policies on every pull request."""
    from gate.commands.workflow import init as write

    click.echo(write(policies, out, force=force))
    return 0


@workflow.command()
@click.argument("files", nargs=-1, type=_PATH)
def check(files: tuple[Path, ...]) -> int:
    """Check that workflows gate every change, and that nobody can talk them out of it.

    Without FILES those of .github/workflows that run the gate. Exits with 2 where something is
    wrong.
    """
    from gate.commands.workflow import check as check_all

    lines, code = check_all(files)
    for text, bad in lines:
        click.echo(text, err=bad)
    return code


@workflow.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--changed-since", metavar="REV", help="Only policies that a change concerns.")
def matrix(policies: tuple[str, ...], changed_since: str | None) -> int:
    """Print the matrix of a workflow's jobs, as JSON on one line."""
    import os

    from gate.commands._told import say
    from gate.commands.workflow import matrix as planned

    text, notes = planned(policies, changed_since)
    in_actions = os.environ.get("GITHUB_ACTIONS") == "true"
    for note in notes:
        told = (
            f"::warning title=gate::{note.replace('%', '%25')}" if in_actions else f"gate: {note}"
        )
        say(told)
    click.echo(text)
    return 0


@workflow.command()
@click.argument("archives", nargs=-1, required=True, type=_PATH, metavar="ZIP...")
@click.option("--out", type=_PATH, required=True, help="New folder.")
def unpack(archives: tuple[Path, ...], out: Path) -> int:
    """Take the records out of artifacts that a workflow on a fork's change has left."""
    from gate.commands._told import say
    from gate.commands.workflow import unpack as take_out

    say(take_out(archives, out))
    return 0
