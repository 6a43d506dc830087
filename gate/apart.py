"""A command in a process of its own, beside one that waits for it.

What runs models may end its process by itself: a model that crashes the runtime, want of memory, or
Ray, which ends it with exit code 1, from C++ and without a word, when its daemon dies. That would
read as a budget that was exceeded. So the process that waits passes a code on only where the
command itself has told it.
"""

import os
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import NoReturn

from gate import offline
from gate.errors import EXIT_ERROR, EXIT_INTERRUPTED, EngineError, EvaluationError, GateError

End = Callable[[int], None]
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SOME = 4096


def _nothing() -> None:
    """Nothing has to be let go of."""


def split(tell: Callable[[GateError], None], *, leave: Callable[[], None] = _nothing) -> End:
    """Go on in a child; what is returned has to be called with its exit code, at its end.

    The process that was there before waits, hands signals on, and exits with the child's code.
    Where the child has told none, or ended with another, it tells of it and exits with 4; with 130,
    where a signal came. If it is killed itself, the child is interrupted. Temporary files of the
    child lie in a folder of its own, which is gone when it has ended, however it did.

    Args:
        tell: how an error is told.
        leave: lets go, in the process that waits, of what is the child's.
    """
    told, alive, private = os.pipe(), os.pipe(), tempfile.mkdtemp(prefix="gate-")
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in _SIGNALS}
    pid = os.fork()
    if pid:
        os.close(told[1])
        os.close(alive[0])
        leave()
        offline.hide()
        ended = _waited(pid, came)
        shutil.rmtree(private, ignore_errors=True)
        _exit_as(ended, told[0], tell)
    for number, handler in before.items():
        signal.signal(number, handler)
    os.close(told[0])
    os.close(alive[1])
    os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())  # its logs are read afterwards
    os.environ["TMPDIR"] = tempfile.tempdir = private
    threading.Thread(target=_interrupt_at_end_of, args=alive[:1], daemon=True).start()

    def end(code: int) -> None:
        os.write(told[1], bytes([code]))

    return end


def _waited(pid: int, came: list[int]) -> tuple[int, bool]:
    """What the child ended with, and whether a signal was handed on to it.

    Every signal writes into a pipe, so that none is lost that comes just before this sleeps.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    handed_on = False
    while True:
        while came:
            os.kill(pid, came.pop(0))
            handed_on = True
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), handed_on
        select.select([woken], [], [])
        os.read(woken, _SOME)


def _exit_as(ended: tuple[int, bool], told: int, tell: Callable[[GateError], None]) -> NoReturn:
    (status, interrupted), code = ended, _read(told)
    if code is None and interrupted:
        sys.stderr.write("gate: interrupted; nothing was decided\n")
        status = EXIT_INTERRUPTED
    elif code == EXIT_INTERRUPTED:  # and a signal that came late may have ended it
        status = code
    elif status != code:
        tell(_lost(code, status))
        status = EXIT_ERROR
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _lost(code: int | None, status: int) -> GateError:
    if code is None:
        what = "before there was a verdict; nothing was decided"
    else:
        what = f"at its end, when it was to exit with {code}; what was recorded stands"
    if status >= 0:
        return EngineError(
            f"the process that ran the models ended {what} (exit code {status}): a library ended "
            "it. Ray does so when its daemon on this machine dies, others for want of memory: look "
            "at Ray's logs, or give it more room, and run the gate again"
        )
    return EvaluationError(
        f"the process that ran the models ended {what} ({signal.Signals(-status).name}). A model "
        "that crashes the runtime does that (SIGSEGV, SIGABRT), and the system for want of memory "
        "(SIGKILL): look at the model, or give it more room"
    )


def _read(told: int) -> int | None:
    os.set_blocking(told, False)
    try:
        found = os.read(told, 1)
    except BlockingIOError:  # what the child has started may hold it open
        return None
    return found[0] if found else None


def _interrupt_at_end_of(alive: int) -> None:
    """Nobody waits any more: what is decided now, nobody would hear of."""
    # signals are for the thread that heeds them: it would sleep on where this one took them
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
