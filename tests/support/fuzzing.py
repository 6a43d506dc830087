"""Runs the gate on hostile input, in a process that may crash or hang, and judges how it ended.

A case is right where it ends in time with an exit code and, unless that is a verdict, with an error
that the gate has words for. Quick runs are the same every time; long ones are random, begin with a
seed that they tell (`FUZZ_SEED` gives it again), and last `FUZZ_SECONDS` for every kind of input.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis.database import DirectoryBasedExampleDatabase
from support.tally import Tally

from gate import limits
from gate.cli import exit_code_of
from gate.commands._told import tell
from gate.errors import EXIT_ERROR, GateError

LIMIT = 20.0
"""Seconds that a case may take, on a machine that others use, too."""
SECONDS = float(os.environ.get("FUZZ_SECONDS", "50"))
"""Of a long run, for every kind of input."""
_MEMORY_GIB = 6.0
_BATCH = 200
_DEFECT = "this is a defect of the gate"
_KNOWN = frozenset({0, 1, 2, 3, 4})
_RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a case ended."""

    code: int
    out: str
    err: str


class CrashedError(Exception):
    """The process ended before it told a code; says how, with the stack where there is one."""


class HungError(Exception):
    """The process did not end in time; says where it was."""


# ── in the process that may crash ─────────────────────────────────────────────────────────


def command(arguments: list[str]) -> int:
    """What the command line ends with."""
    return exit_code_of(arguments)


def as_command(task: Callable[..., object], *arguments: Any) -> int:
    """As a command would end that does just this."""
    try:
        task(*arguments)
    except GateError as error:
        tell(error)
        return error.exit_code
    return 0


def _serve(pipe: Any, folder: Path) -> None:
    with (folder / "native.txt").open("w") as native:
        os.dup2(native.fileno(), 2)
        os.chdir(folder)
        faulthandler.enable(native)
        limits.limit(memory_gib=_MEMORY_GIB, minutes=None)
        while True:
            task, arguments = pipe.recv()
            faulthandler.dump_traceback_later(LIMIT - 1, file=native)
            pipe.send(_ended(task, arguments))
            faulthandler.cancel_dump_traceback_later()


def _ended(task: Callable[..., int], arguments: tuple[Any, ...]) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = task(*arguments)
        except Exception:  # noqa: BLE001 - a finding
            traceback.print_exc()
            err.write(_DEFECT)
            code = EXIT_ERROR
    return Ended(code, out.getvalue(), err.getvalue())


# ── in the test's process ─────────────────────────────────────────────────────────────────


class Worker:
    """A process for many cases; a new one is started after each that crashed or hung."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: Any = None
        self._pipe: Any = None

    def run(self, task: Callable[..., int], *arguments: Any) -> Ended:
        """How a task ends.

        Raises:
            CrashedError, HungError: the process did not tell.
        """
        if self._process is None:
            self._start()
        self._pipe.send((task, arguments))
        try:
            if not self._pipe.poll(LIMIT):
                raise HungError(f"hung for {LIMIT:g} s\n{self.stop()}")
            found: Ended = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise CrashedError(f"crashed with exit code {code}\n{self.stop()}") from None
        return found

    def stop(self) -> str:
        """End it; what it left on its stderr."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None
        native = self.folder / "native.txt"
        return native.read_text("utf-8", "replace")[-4000:] if native.exists() else ""

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self.folder), daemon=True)
        self._process.start()
        other.close()
        self._pipe.send((len, ("",)))  # it is there once it has answered; imports take seconds
        if not self._pipe.poll(60):
            raise HungError(f"did not start\n{self.stop()}")
        self._pipe.recv()


def demand_clean(ended: Ended) -> None:
    """A code that the gate gives, and no stack instead of words."""
    assert ended.code in _KNOWN, ended
    assert _DEFECT not in ended.err, ended.err[-6000:]
    assert "Traceback (most recent call last)" not in ended.err, ended.err[-6000:]
    if ended.code == EXIT_ERROR:
        assert (ended.err + ended.out).strip(), "it failed without a word"


def quick(case: Callable[[Any], None], strategy: Any, examples: int, tally: Tally) -> None:
    """The same few cases every time."""
    relaxed = hypothesis.settings(
        max_examples=examples, derandomize=True, database=None, **_RELAXED
    )
    with tally.told_at_end():
        relaxed(hypothesis.given(strategy)(case))()


def long(case: Callable[[Any], None], strategy: Any, tally: Tally) -> None:
    """Random cases until the time is over, those that failed before first."""
    first = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    kept = DirectoryBasedExampleDatabase(Path(".hypothesis") / "examples")
    relaxed = hypothesis.settings(max_examples=_BATCH, database=kept, **_RELAXED)
    end, turn = time.monotonic() + SECONDS, 0
    with tally.told_at_end(first):
        while time.monotonic() < end:
            hypothesis.seed(first + turn)(relaxed(hypothesis.given(strategy)(case)))()
            turn += 1
