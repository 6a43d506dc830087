"""`gate init`, for the command line."""

import sys
from pathlib import Path
from typing import Any

import click

from gate.commands._shared_cli import contained

_FILE = click.Path(path_type=Path)


@click.option("--model", metavar="FILE|URI", help="ONNX or .pt2 file, or models:/name/3.")
@click.option("--data", metavar="FILE", help="Held-out data, which no part of the build has seen.")
@click.option("--calibration", metavar="FILE", help="Other data; `none` for a recipe without.")
@click.option("--split", type=int, metavar="SEED", help="Take calibration data from --data.")
@click.option("--task", help="Default: what outputs and targets speak for; see `gate tasks`.")
@click.option("--name", help="Of the registered model; default: the model's file.")
@click.option("--expect", multiple=True, metavar="METRIC=VALUE", help="FP32, by training.")
@click.option("--preprocess", metavar="YAML", help="What raw values go through, as training did.")
@click.option("--decode", metavar="YAML", help="How outputs become predictions.")
@click.option("--classes", metavar="A,B,…", help="In the order of the outputs.")
@click.option("--out", type=_FILE, help="Default: policies/NAME.yaml.")
@click.option("--workflow", is_flag=True, help="Also write .github/workflows/gate.yml.")
@click.option("--yes", is_flag=True, help="Ask nothing: what is guessed counts.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--trust", is_flag=True, help="Allow formats that run code on load (.pt2).")
@contained()
def init(*, yes: bool, **options: Any) -> int:
    """Write a policy for a model and its data, with budgets that the data can decide.

    On a terminal it asks for what no flag says. `expect_fp32` is what training reported: without
    it, `unknown` is written, and every report says so.
    """
    from gate.commands._init_asked import Asked, Terminal, Unattended
    from gate.commands.init import init as write
    from gate.commands.init import workflow
    from gate.commands.progress import progress

    asked = Asked(**options)
    who = Terminal() if not yes and on_a_terminal() else Unattended()
    # a bar would be drawn over the questions
    from gate.progress import Silent

    if who.asks:
        written = write(asked, who, Silent())
    else:
        with progress("init") as told:
            written = write(asked, who, told)
    click.echo(written.told)
    if asked.workflow:
        click.echo(workflow(written, force=asked.force))
    return 0


def on_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
