"""How far a run has come, on stderr: a bar on a terminal, plain lines elsewhere."""

import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from gate.commands._told import is_quiet
from gate.interruption import demand_none
from gate.progress import Progress, Silent

_LONG_S = 20.0
"""A step that takes longer tells how far it has come …"""
_EVERY_S = 10.0
"""… and that often at the most."""
_LATEST = 50
_LEAST = 3
_MINUTE, _HOUR = 60, 3600


class Pace:
    """How long the rest of a step takes.

    The median of the latest batches' seconds an example, times the examples that are left: a slow
    first batch, or one that had to wait, moves it little. While nothing comes, what is left grows.
    """

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """A step of `total` examples begins; `clock` gives seconds."""
        self.total, self.done = total, 0
        self._clock = clock
        self._began = self._last = clock()
        self._each: deque[float] = deque(maxlen=_LATEST)

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return self._clock() - self._began

    def advance(self, examples: int) -> None:
        """So many more are done."""
        now = self._clock()
        if examples > 0:
            self._each.append((now - self._last) / examples)
            self.done += examples
            self._last = now

    @property
    def left(self) -> float | None:
        """Seconds that the rest is likely to take; None where nobody can say yet."""
        if self.total is None or len(self._each) < _LEAST:
            return None
        rest = statistics.median(self._each) * max(self.total - self.done, 0)
        return max(rest, self._clock() - self._last) if rest else 0.0


class Lines:
    """One line a step, for logs; more of them where a step is long."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin every line with the policy's `name`."""
        self._name, self._clock = name, clock
        self._step, self._told = "", clock()
        self._pace = Pace(None, clock)

    def step(self, name: str, total: int | None = None) -> None:
        """Say that a step begins."""
        examples = f" {total} examples" if total else ""
        self._step, self._told = name, self._clock()
        self._pace = Pace(total, self._clock)
        click.echo(f"gate: {self._name}: {name}{examples}", err=True)

    def advance(self, examples: int) -> None:
        """Say how far it is, after 20 s and at most every 10 s."""
        pace, now = self._pace, self._clock()
        pace.advance(examples)
        if pace.elapsed < _LONG_S or now - self._told < _EVERY_S or pace.done == pace.total:
            return
        self._told = now
        of = f" of {pace.total}" if pace.total else ""
        click.echo(
            f"gate: {self._name}: {self._step} {pace.done}{of} examples, {_times(pace)}", err=True
        )


def _times(pace: Pace) -> str:
    """`32 s, about 1 min 20 s left`."""
    left = pace.left
    rest = "" if left is None else f", about {spoken(left)} left"
    return f"{spoken(pace.elapsed)}{rest}"


def spoken(seconds: float) -> str:
    """`8 s`, `1 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


@contextmanager
def progress(name: str) -> Iterator[Progress]:
    """A `Progress` for wherever stderr goes; with `--quiet` nobody is told."""
    if is_quiet():
        yield Heeding(Silent())
    elif not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Heeding(Lines(name))
    else:
        with _bar() as bar:
            yield Heeding(bar)


class Heeding:
    """Goes no step further once a signal has asked to end, whoever swallowed the interruption."""

    def __init__(self, told: Progress) -> None:
        """Tell `told` of everything else."""
        self._told = told

    def step(self, name: str, total: int | None = None) -> None:
        """A step begins, unless the run is to end."""
        demand_none()
        self._told.step(name, total)

    def advance(self, examples: int) -> None:
        """So many more examples are done; the run may be to end here."""
        demand_none()
        self._told.advance(examples)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.text import Text

    pace = Pace(None)

    class Times(rich_progress.ProgressColumn):
        """Elapsed and left, redrawn as time goes by."""

        def render(self, task: rich_progress.Task) -> Text:  # noqa: ARG002 - rich's
            return Text(_times(pace))

    class Bar:
        """The step at hand, and its bar where its length is known."""

        def step(self, name: str, total: int | None = None) -> None:
            nonlocal pace
            for task in display.task_ids:
                display.remove_task(task)
            pace = Pace(total)
            display.add_task(name, total=total)

        def advance(self, examples: int) -> None:
            pace.advance(examples)
            display.advance(display.task_ids[-1], examples)

    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<10}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        Times(),
        console=Console(stderr=True),
        transient=True,
    )
    with display:
        yield Bar()
