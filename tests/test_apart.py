"""A command in a process of its own: its code counts only where it told it itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = """
import os, signal, sys, time
from gate import apart, interruption
from gate.commands._told import tell
end = apart.split(tell)
interruption.heed()
try:
    print(os.getpid(), flush=True)
    {act}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    interruption.settle()
    end(130)
    sys.exit(130)
"""


# Python itself would sleep through a signal that comes just before it falls asleep
_LONG = "[time.sleep(0.05) for _ in range(1200)]"


def begun(act: str) -> subprocess.Popen[str]:
    program = _PROGRAM.format(act=act)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_a_code_that_was_told_counts(code: int) -> None:
    running = begun(f"end({code}); sys.exit({code})")
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (code, "")


@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("os._exit(1)", r"before there was a verdict; nothing was decided (exit code 1)"),
        ("os._exit(0)", r"before there was a verdict; nothing was decided (exit code 0)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "nothing was decided (SIGKILL). A model"),
        ("os.abort()", "nothing was decided (SIGABRT). A model that crashes the runtime does"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "nothing was decided (SIGSEGV)"),
        ("end(0); os._exit(1)", "at its end, when it was to exit with 0; what was recorded stands"),
        ("end(1); os._exit(0)", "at its end, when it was to exit with 1; what was recorded stands"),
    ],
)
def test_any_other_end_is_no_verdict(act: str, told: str) -> None:
    running = begun(act)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 4
    assert told in err
    assert ("gate explain G107" if "SIG" in told else "gate explain G113") in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_interrupts_once_whoever_gets_it(number: signal.Signals, to_all: bool) -> None:
    """A terminal tells all processes of a command, and a runner the first one."""
    with begun(_LONG) as running:
        assert running.stdout is not None
        running.stdout.readline()
        (os.killpg if to_all else os.kill)(running.pid, number)
        out, err = running.communicate(timeout=30)
    assert (out, running.returncode) == ("interrupted\n", 130)
    # what is handed on may come when the child has heard of it, and ends
    assert err in ("", "gate: interrupted; nothing was decided\n")


def test_a_child_that_has_not_begun_to_heed_signals_is_interrupted_too() -> None:
    act = "signal.signal(signal.SIGTERM, signal.SIG_DFL); print(1, flush=True); "
    with begun(act + _LONG) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.readline()
        running.terminate()
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "gate: interrupted; nothing was decided\n")


def test_who_waits_is_killed_and_nothing_goes_on(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with begun(f"{_LONG}; open({str(ended)!r}, 'w')") as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        running.kill()
        assert running.stdout.readline() == "interrupted\n"
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.05)
    assert not ended.exists()
