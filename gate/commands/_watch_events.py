"""How `gate watch` tells what happens, renews its claim, and hears that it has to end."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from gate.commands._told import is_quiet
from gate.commands._watch_state import utc
from gate.interruption import SIGNALS
from gate.wording import plain

RENEW_S = 300.0
"""How often the claim of a run is renewed; a twelfth of its life."""
_LONGEST = 1000


def tell(now: datetime, text: str) -> None:
    """One event, one line, on stderr, with the time in UTC."""
    sys.stdout.flush()
    click.echo(f"{utc(now)} gate watch: {plain(text, _LONGEST)}", err=True)


class Beating:
    """Progress of a run: a line a step, and a beat at every sign of life that is due."""

    def __init__(self, say: Callable[[str], None], beat: Callable[[], None]) -> None:
        """`beat` renews the claim."""
        self._say, self._beat = say, beat
        self._last = time.monotonic()

    def step(self, name: str, total: int | None = None) -> None:
        """Say that a step begins."""
        if not is_quiet():
            self._say(f"{name} {total} examples" if total else name)
        self._live()

    def advance(self, examples: int) -> None:  # noqa: ARG002  (of the protocol)
        """Say nothing: a log is read afterwards."""
        self._live()

    def _live(self) -> None:
        if time.monotonic() - self._last >= RENEW_S:
            self._last = time.monotonic()
            self._beat()


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """The signals to end that come in the block, which interrupt it as they do outside.

    A library may turn the interruption into an error of its own, or swallow it: that the run
    failed then says nothing of the version.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        outer = before[signal.Signals(number)]
        if not callable(outer):
            raise KeyboardInterrupt
        outer(number, frame)

    heard = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number in heard:
            signal.signal(number, before[number])
