"""How far a run has come, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from gate.progress import Progress


class Lines:
    """One line a step, for logs."""

    def __init__(self, name: str) -> None:
        """Begin every line with the policy's `name`."""
        self._name = name

    def step(self, name: str, total: int | None = None) -> None:
        """Say that a step begins."""
        examples = f" {total} examples" if total else ""
        click.echo(f"gate: {self._name}: {name}{examples}", err=True)

    def advance(self, examples: int) -> None:
        """Say nothing: a log is read afterwards."""


@contextmanager
def progress(name: str) -> Iterator[Progress]:
    """A `Progress` for wherever stderr goes."""
    if not sys.stderr.isatty():
        yield Lines(name)
        return
    with _bar() as bar:
        yield bar


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    class Bar:
        """The step at hand, and its bar where its length is known."""

        def step(self, name: str, total: int | None = None) -> None:
            for task in display.task_ids:
                display.remove_task(task)
            display.add_task(name, total=total)

        def advance(self, examples: int) -> None:
            display.advance(display.task_ids[-1], examples)

    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<10}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with display:
        yield Bar()
