"""What the command line says on stderr: errors always, all else unless `--quiet`."""

import sys

import click

from gate.errors import GateError

QUIET = "gate.quiet"
"""Key of click's `Context.meta` that a command and those above it share."""


def is_quiet() -> bool:
    """Whether the command that runs was asked to be."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def say(text: str) -> None:
    """A line that nobody has to read."""
    if not is_quiet():
        click.echo(text, err=True)


def tell(error: GateError) -> None:
    """An error: its message first, where its page is last."""
    sys.stdout.flush()
    for line in (f"gate: {error}", *getattr(error, "__notes__", [])):
        click.echo(line, err=True)
    more(error.code)


def more(code: str) -> None:
    """Where to read on."""
    click.echo(f"gate: more: gate explain {code}", err=True)
