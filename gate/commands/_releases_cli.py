"""The commands that hold releases against each other, and watch, for the command line."""

from pathlib import Path
from typing import Any

import click

from gate.commands._shared_cli import contained

_TRACKER = click.option("--tracker", default="mlflow", show_default=True)
_FORMAT = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@click.argument("a")
@click.argument("b")
@_TRACKER
@_FORMAT
def compare(a: str, b: str, tracker: str, format_: str) -> int:
    """Hold release B against A on the examples of both.

    Each is a record.json, the folder that holds it, or a version: models:/name-int8/3.
    """
    from gate import trackers
    from gate.commands._compare_text import render
    from gate.commands.compare import compare as compare_both

    click.echo(render(compare_both(a, b, trackers.get(tracker)), format_), nl=False)
    return 0


@click.argument("model")
@click.option("--held-out", required=True, metavar="NEW", help="Data, or a policy that names them.")
@click.option("--anchor", metavar="models:/NAME/N", help="Default: the newest judged policy's.")
@click.option("--threads", type=click.IntRange(min=1), help="Of one inference; default: all.")
@_TRACKER
@contained()
@_FORMAT
def rebase(model: str, held_out: str, tracker: str, format_: str, **options: Any) -> int:
    """Carry anchor and production over to a new held-out set, so that history goes on."""
    from gate import trackers
    from gate.commands._rebase_text import render
    from gate.commands.progress import progress
    from gate.commands.rebase import rebase as carry_over

    with progress(model) as told:
        found = carry_over(model, held_out, trackers.get(tracker), progress=told, **options)
    click.echo(render(found, format_), nl=False)
    return 0


@click.argument("model")
@click.option("--policy", metavar="FILE", help="Default: policies/MODEL.yaml.")
@click.option("--stage", type=click.Choice(["pr", "release"]), default="release", show_default=True)
@click.option("--every", type=click.IntRange(min=1), default=60, show_default=True, metavar="S")
@click.option("--once", is_flag=True, help="Gate what is there, exit with the worst code.")
@click.option("--again", is_flag=True, help="Also what another policy, or stage, judged.")
@click.option("--out", type=click.Path(path_type=Path), help="Each run gets a folder in it.")
@click.option("--threads", type=click.IntRange(min=1), help="Of one inference; default: all.")
@click.option("--trust", is_flag=True, help="Allow formats that run code on load (.pt2).")
@contained(minutes=None)
@_TRACKER
def watch(model: str, tracker: str, **options: Any) -> int:
    """Gate every new version of a registered source MODEL, once each, as it appears.

    Its outcome is written into the version's tags; runs until interrupted.
    """
    from gate import trackers
    from gate.commands.watch import watch as watch_model

    return watch_model(model, trackers.get(tracker), **options)


@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--link", metavar="URL", help="Where the whole reports are.")
def comment(folders: tuple[Path, ...], link: str | None) -> int:
    """Write one comment for a pull request, in Markdown, from the records in FOLDERS.

    Records of a fork are read as data only. The exit code says nothing about their verdicts.
    """
    from gate.commands.comment import gathered, render

    click.echo(render(gathered(folders), link=link), nl=False)
    return 0
