"""A signal to end: it interrupts where that is safe, and is never lost."""

import signal
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE_S = 5.0
"""GitHub's runner kills a cancelled job ten seconds after it has asked."""
_AGAIN_S = 0.02
_SAME_S = 0.5
"""A terminal tells every process of a command, and each tells those that it waits for."""
_IMPORT = "<frozen importlib"

_came: list[int] = []
_deadline = 0.0


def heed() -> None:
    """End on a signal as on Ctrl-C: by a `KeyboardInterrupt`, so that private folders go."""
    for number in SIGNALS:
        signal.signal(number, _asked)


def came() -> bool:
    """Whether a signal asked to end; libraries swallow the interruption or make it their error."""
    return bool(_came)


def demand_none() -> None:
    """Interrupt again where a library has swallowed the interruption.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    if _came:
        raise KeyboardInterrupt


def settle() -> None:
    """The run is over: what comes now ends the process as it would any other."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # Python ends itself by SIGINT where code given as a string was the last to be interrupted
    exec("")  # noqa: S102


def _asked(number: int, frame: FrameType | None) -> None:
    global _deadline  # noqa: PLW0603 - signal handlers have no other place
    now = time.monotonic()
    again = bool(_came) and now < _deadline - _PATIENCE_S + _SAME_S
    _came.append(number)
    if again:
        return
    _deadline = now + _PATIENCE_S
    _interrupt(number, frame)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Interrupt, once no import is under way.

    Native modules call Python while they are set up (protobuf's and onnx's enumerations), and an
    exception there ends the process by SIGSEGV or SIGABRT, or is dropped.
    """
    if _imports(frame) and time.monotonic() < _deadline:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        return
    raise KeyboardInterrupt


def _imports(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORT):
            return True
        frame = frame.f_back
    return False
