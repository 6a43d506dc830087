"""The commands about releases, for the command line: promote, rollback, audit, evidence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_TRACKER = click.option("--tracker", default="mlflow", show_default=True)
_RECORD = click.argument("record", type=click.Path(path_type=Path))


def _moving(command: Callable[..., Any]) -> Callable[..., Any]:
    """With the options of whatever moves an alias."""
    options = (
        click.option("--alias", default="production", show_default=True),
        click.option("--why", metavar="TEXT", help="Kept with the move."),
        click.option("--by", metavar="NAME", help="Default: GitHub's actor, else user@host."),
        click.option("--dry-run", is_flag=True, help="Check everything, move nothing."),
        _TRACKER,
    )
    for option in reversed(options):
        command = option(command)
    return command


@_RECORD
@click.option("--policy", metavar="FILE", help="The policy in force, where it has moved.")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    help="Days for which a verdict counts.",
)
@click.option("--waived", is_flag=True, help="Also where a budget was waived.")
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="FILE.pem",
    help="Only where `gate sign` signed it by this key, whose public half this is.",
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@_moving
def promote(record: Path, tracker: str, dry_run: bool, format_: str, **options: Any) -> int:
    """Move the registry's alias to a release, on a PASS that still counts.

    RECORD is record.json, or the folder that holds it and its rows. Everything that stands against
    it is told at once.
    """
    from gate import trackers
    from gate.commands._promote_text import promotion_json, render_promotion
    from gate.commands.promote import promote as promote_record

    found = promote_record(record, trackers.get(tracker), dry_run=dry_run, **options)
    if format_ == "json":
        click.echo(promotion_json(found), nl=False)
        return found.exit_code
    refused = found.outcome == "refused" and not dry_run
    click.echo(render_promotion(found, checks=dry_run), nl=False, err=refused)
    return found.exit_code


@click.argument("model")
@_moving
def rollback(model: str, tracker: str, **options: Any) -> int:
    """Move the alias back to the last release that passed and is unchanged."""
    from gate import trackers
    from gate.commands._promote_text import render_rollback
    from gate.commands.rollback import rollback as roll_back

    click.echo(render_rollback(roll_back(model, trackers.get(tracker), **options)), nl=False)
    return 0


@click.argument("model")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@_TRACKER
def audit(model: str, format_: str, tracker: str) -> int:
    """List aliases and moves that no PASS record backs; exit 1 where there is one."""
    from gate import trackers
    from gate.commands.audit import audit as audit_model
    from gate.commands.audit import render

    found = audit_model(model, trackers.get(tracker))
    click.echo(render(found, format_), nl=False)
    return found.exit_code


@_RECORD
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.zip", help="A new file.")
@_TRACKER
def evidence(record: Path, out: Path | None, tracker: str) -> int:
    """Pack a record, its rows, reports, policy and moves for an auditor."""
    from gate import trackers
    from gate.commands.evidence import evidence as pack
    from gate.commands.evidence import render

    click.echo(render(pack(record, trackers.get(tracker), out=out)), nl=False)
    return 0


RELEASES = (promote, rollback, audit, evidence)
"""In the order in which they are told of."""
