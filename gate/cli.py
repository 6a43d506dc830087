"""The command line. Every heavy import stands inside its command; the only exit() is here."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from gate import apart, interruption, limits, outside
from gate.commands._ci_cli import workflow
from gate.commands._completion import equip
from gate.commands._init_cli import init
from gate.commands._known_cli import PLAIN, PLUGGED
from gate.commands._policy_cli import policy as policy_group
from gate.commands._promote_cli import RELEASES
from gate.commands._releases_cli import comment, compare, rebase, watch
from gate.commands._shared_cli import contained, engined, plugged
from gate.commands._told import more, say, tell
from gate.commands._verify_cli import PROVING
from gate.errors import (
    DEFECT,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_USAGE,
    GateError,
    UsageError,
)

EPILOG = (
    "Exit codes: 0 pass · 1 budget exceeded · 2 bad usage or policy · 3 inconclusive · "
    "4 could not run or record · 130 interrupted. Only 0 releases."
)
POLICIES = click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
MODEL_FOLDER = click.Path(path_type=Path)
COMPLETE = "_GATE_COMPLETE"
"""What a shell sets to have words completed."""
Command = Callable[..., Any]
_RUN_MODELS = frozenset(
    {"diagnose", "init", "rebase", "recover", "replay", "reproduce", "run", "watch"}
)
"""Commands that what they run may end, and that are kept from the network."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="int8-gate", prog_name="gate")
def cli() -> None:
    """An INT8 regression gate: quantize a candidate, measure it, let only proven releases pass."""


@cli.command()
@POLICIES
@click.option("--candidate", help="ONNX or .pt2 file, or models:/name/3, models:/name@alias.")
@click.option("--int8", help="INT8 ONNX made elsewhere, instead of what the recipe makes.")
@click.option("--reference", help="FP32 to hold INT8 against: dense for pruned.")
@click.option("--fp32-outputs", help="npz or Parquet of outputs by id: of FP32 that ran elsewhere.")
@click.option("--int8-outputs", help="The same of INT8; then no model runs here.")
@click.option("--stage", type=click.Choice(["pr", "release"]), default="pr", show_default=True)
@click.option("--out", type=MODEL_FOLDER, help="New or empty folder for record and reports.")
@engined
@contained()
@click.option("--tracker", default="mlflow", show_default=True, help="mlflow or none.")
@click.option("--format", "formats", multiple=True, help="Report on stdout: text, markdown, …")
@click.option("--threads", type=click.IntRange(min=1), help="Of one inference; default: all.")
@click.option("--trust", is_flag=True, help="Allow formats that run code on load (.pt2).")
@click.option("--paranoid", is_flag=True, help="Read all data again, whatever is remembered.")
@click.option("--bootstrap", is_flag=True, help="A first release, with none before it.")
@click.option("--waivers", type=MODEL_FOLDER, help="Default: waivers.yaml beside the policy.")
@click.option("--judge-from", metavar="REV", help="Take `judge` and waivers from there, in a PR.")
@click.option("--changed-since", metavar="REV", help="Only policies that a change concerns.")
@plugged
def run(policies: tuple[str, ...], **options: Any) -> int:
    """Gate a candidate: quantize it, measure it, decide, and record all of it."""
    from gate.commands.run import run_policies

    plugins = click.get_current_context().params["plugins"]
    return run_policies(policies, plugins=plugins, **options)


@cli.command()
@click.argument("record", type=MODEL_FOLDER)
@click.option("--policy", help="Judge by this policy instead of the recorded one.")
@click.option("--format", "format_", default="text", show_default=True)
@plugged
def judge(record: Path, policy: str | None, format_: str) -> int:
    """Decide again from a record, running no model."""
    from gate.commands.judge import judge as judge_again
    from gate.commands.report import show

    again = judge_again(record, policy)
    show([again], [format_])
    return again.exit_code


@cli.command()
@click.argument("record", type=MODEL_FOLDER)
@click.option("--format", "format_", default="text", show_default=True)
@click.option("--track", is_flag=True, help="Send a record that could not be tracked.")
@click.option("--tracker", default="mlflow", show_default=True)
@click.option("--embed-examples", is_flag=True, help="html: with pictures or text of flips.")
@click.option("--data", type=MODEL_FOLDER, help="For these: the data, where they have moved.")
@plugged
def report(record: Path, format_: str, track: bool, tracker: str, **embedded: Any) -> int:
    """Render a record again; the exit code says nothing about its verdict."""
    from gate.commands.report import embed, load_record, send, show

    if embedded["embed_examples"]:
        click.echo(embed(load_record(record), format_, embedded["data"]), nl=False)
    else:
        show([load_record(record)], [format_])
    if track:
        say(send(record, tracker))
    return 0


@cli.command()
@click.argument("record", type=MODEL_FOLDER)
@click.option("--cpu", metavar="NAME", help="Emulate it under qemu: haswell, skylake, zen2, …")
@click.option("--data", type=MODEL_FOLDER, help="The held-out data, where they have moved.")
@click.option("--examples", type=click.IntRange(min=1), help="Default: what --max-flips needs.")
@click.option("--max-flips", type=float, default=0.01, show_default=True)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@contained()
@plugged
def replay(record: Path, format_: str, **options: Any) -> int:
    """Run a record's INT8 model here, or on an emulated CPU, against its stored outputs.

    Exits with 0 where outputs are the same or close, 1 where they differ, 3 where too few examples
    were stored to say.
    """
    from gate.commands._replay_text import render
    from gate.commands.progress import progress
    from gate.commands.replay import replay as replay_record

    with progress("replay") as told:
        found = replay_record(record, progress=told, **options)
    click.echo(render(found, format_), nl=False)
    return found.exit_code


@cli.command()
@click.argument("record", type=MODEL_FOLDER)
@click.option("--calibration", type=MODEL_FOLDER, help="Calibration data, where they have moved.")
@click.option("--data", type=MODEL_FOLDER, help="The held-out data, where they have moved.")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Calibration examples to compare the layers on.",
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@contained()
@plugged
def diagnose(record: Path, format_: str, **options: Any) -> int:
    """Tell which layers, slices and examples cost the accuracy, and what to try."""
    from gate.commands._diagnose_text import render
    from gate.commands.diagnose import diagnosed
    from gate.commands.progress import progress

    with progress("diagnose") as told:
        known, found = diagnosed(record, progress=told, **options)
    click.echo(render(known, found, format_), nl=False)
    return 0


@cli.command()
@click.argument("policy")
@click.option("--candidate", help="As gate run.")
@click.option("--stage", type=click.Choice(["pr", "release"]), default="pr", show_default=True)
@click.option("--out", type=MODEL_FOLDER, help="As gate run: for the winner's record.")
@click.option("--trials", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Default: no limit.")
@click.option("--tracker", default="mlflow", show_default=True, help="mlflow or none.")
@click.option("--threads", type=click.IntRange(min=1), help="Of one inference; default: all.")
@click.option("--trust", is_flag=True, help="Allow formats that run code on load (.pt2).")
@click.option("--bootstrap", is_flag=True, help="As gate run.")
@engined
@contained()
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@plugged
def recover(policy: str, format_: str, **options: Any) -> int:
    """Find the recipe with the most integer work that meets the budgets, and gate its model.

    Recipes are tried on tuning data; the best one meets the held-out set once.
    """
    from gate.commands._recover_text import render
    from gate.commands.progress import progress
    from gate.commands.recover import recover as search

    with progress(Path(policy).stem) as told:
        found = search(policy, progress=told, **options)
    click.echo(render(found, format_), nl=False)
    return found.exit_code


@cli.command()
@click.argument("model", nargs=-1, metavar="[MODEL | import FOLDER]")
@click.option("--metric", help="A metric, or a budget by its id; default: the first budget.")
@click.option("--slice", "slice_", metavar="COLUMN=VALUE", help="Default: the whole set.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "csv", "html"]),
    default="text",
    show_default=True,
)
@click.option("--out", type=MODEL_FOLDER, help="Write it to this file.")
@click.option("--tracker", default="mlflow", show_default=True)
def history(model: tuple[str, ...], tracker: str, **options: Any) -> int:
    """Degradation over the versions of a MODEL, drift, and what is left of its budgets.

    Without MODEL the newest release of every model, worst first. `import FOLDER` sends the records
    below FOLDER to the tracker; those that it has stay as they are.
    """
    from gate.commands.history import command

    told, code = command(model, tracker, **options)
    click.echo(told, nl=False)
    return code


@cli.group()
def data() -> None:
    """Look at what a policy feeds the model."""


@data.command()
@click.argument("policy")
@click.option("--against", required=True, metavar="FILE.py:FUNCTION", help="Runs that file.")
@click.option(
    "--split", type=click.Choice(["held_out", "calibration", "tuning"]), default="held_out"
)
@click.option("--examples", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@plugged
def parity(policy: str, format_: str, **options: Any) -> int:
    """Compare what a policy feeds the model with what your own function does.

    Exits with 0 where they are the same, 1 where they part; then it says by what.
    """
    from gate.commands._parity_text import render
    from gate.commands.parity import parity as compare
    from gate.commands.progress import progress

    with progress(Path(policy).stem) as told:
        found = compare(policy, progress=told, **options)
    click.echo(render(found, format_), nl=False)
    return found.exit_code


@cli.command()
@click.option("--out", type=MODEL_FOLDER, help="New folder; default .gate/demo-<time>.")
@click.option("--train", is_flag=True, help="Train the bundled models again first (needs torch).")
@click.option("--all", "every", is_flag=True, help="One release of every kind of model, instead.")
def demo(out: Path | None, train: bool, every: bool) -> int:
    """Gate a good release and three bad ones on bundled real data, and show the history."""
    from gate.commands.demo import demo as run_demo

    return run_demo(out, train=train, every=every)


for _plugged in (*RELEASES, *PROVING, *PLUGGED, comment, compare, rebase, watch, init):
    cli.command()(plugged(_plugged))
for _plain in PLAIN:
    cli.command()(_plain)
cli.add_command(workflow)
cli.add_command(policy_group)
equip(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that its outcome calls for.

    A cancelled job (SIGTERM) ends like Ctrl-C: private folders are removed, nothing is decided.
    """
    asked = sys.argv[1:] if arguments is None else arguments
    told = _apart() if _RUN_MODELS.intersection(asked) else None
    interruption.heed()
    if isinstance(sys.stdout, TextIOWrapper):  # what a terminal's encoding lacks is no defect
        sys.stdout.reconfigure(errors="backslashreplace")
    code = exit_code_of(arguments)
    interruption.settle()
    outside.end()
    if told is not None:
        told(code)
    gc.freeze()  # no last look for cycles through all that MLflow brings: it takes a second
    sys.exit(code)


def _apart() -> apart.End:
    """Go on in a process of its own, beside one that waits and one that reaches the network."""
    try:
        link = outside.begin()
        told = apart.split(tell, leave=link.leave)
    except OSError as error:
        tell(GateError(f"there is no process or no temporary folder to be had: {error}"))
        sys.exit(EXIT_ERROR)
    outside.through(link)
    return told


def exit_code_of(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every way in which it can end, as an exit code."""
    try:
        code = cli.main(arguments, prog_name="gate", complete_var=COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        more(UsageError.code)
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt) as error:
        return _interrupted(error)
    except SystemExit as error:
        return _exited(error, arguments)
    except Exception as error:  # noqa: BLE001 - the last boundary: no defect looks like a verdict
        return _failed(error)
    if interruption.came():
        click.echo("gate: interrupted at its end; what was recorded stands", err=True)
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else EXIT_ERROR


def _failed(error: Exception) -> int:
    if interruption.came():
        return _interrupted(error)
    if limits.is_want_of_memory(error):
        error = limits.out_of_memory()
    if isinstance(error, GateError):
        tell(error)
        return error.exit_code
    return _defect()


def _exited(error: SystemExit, arguments: Sequence[str] | None) -> int:
    """What click exits with by itself: a shell's completion, or a closed pipe.

    A pipe's 1 would read as a verdict, and so would completion's 0 of a command that was to run.
    """
    asked = sys.argv[1:] if arguments is None else arguments
    completed = COMPLETE in os.environ and not asked and error.code == EXIT_PASS
    return EXIT_PASS if completed else EXIT_ERROR


def _interrupted(error: BaseException) -> int:
    if isinstance(error.__cause__, EOFError):  # click takes any for the end of a dialogue
        return _defect()
    click.echo("gate: interrupted; nothing was decided", err=True)
    return EXIT_INTERRUPTED


def _defect() -> int:
    traceback.print_exc()
    click.echo("gate: this is a defect of the gate; nothing was decided", err=True)
    more(DEFECT)
    return EXIT_ERROR
