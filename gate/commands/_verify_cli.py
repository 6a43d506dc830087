"""The commands that prove a verdict, for the command line: sign, verify, reproduce."""

from pathlib import Path
from typing import Any

import click

from gate.commands._shared_cli import contained

_PLACE = click.Path(path_type=Path)
_RECORD = click.argument("record", type=_PLACE)


@_RECORD
@click.option("--key", type=_PLACE, metavar="FILE.pem", help="Default: GATE_SIGNING_KEY's text.")
def sign(record: Path, key: Path | None) -> int:
    """Sign what a RECORD says of its INT8 artifact, with an Ed25519 key.

    The exit code says nothing about its verdict: a FAIL is signed as a FAIL.
    """
    from gate.commands.sign import render
    from gate.commands.sign import sign as sign_record

    click.echo(render(*sign_record(record, key)), nl=False)
    return 0


@_RECORD
@click.option("--key", type=_PLACE, metavar="FILE.pem", help="The public key that you trust.")
@click.option("--policy", metavar="FILE", help="The policy in force, where it has moved.")
@click.option("--int8", type=_PLACE, help="The artifact to be served, not the record's copy.")
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice(["data", "models", "policy"]),
    help="What is not at hand; policy leaves out data, too.",
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
def verify(record: Path, format_: str, **options: Any) -> int:
    """Check a RECORD: hashes, signature, and the same decision from its rows.

    Exits with 0 where all that was checked holds, whatever the verdict is.
    """
    from gate.commands._proof_text import render
    from gate.commands.verify import verify as verify_record

    found = verify_record(record, **options)
    click.echo(render(found, format_), nl=False, err=found.exit_code != 0 and format_ != "json")
    return found.exit_code


@_RECORD
@click.option("--threads", type=click.IntRange(min=1), help="Of one inference; default: its own.")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@contained()
def reproduce(record: Path, threads: int | None, format_: str) -> int:
    """Run a RECORD again from its FP32 model, and tell what differs.

    Exits with 0 where artifact, rows, outputs and metrics are the same to the last bit, else 1.
    """
    from gate.commands._proof_text import render
    from gate.commands.progress import progress
    from gate.commands.reproduce import reproduce as run_again

    with progress("reproduce") as told:
        found = run_again(record, threads=threads, progress=told)
    click.echo(render(found, format_), nl=False)
    return found.exit_code


PROVING = (sign, verify, reproduce)
