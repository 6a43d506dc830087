"""Progress goes to stderr: a bar on a terminal, plain lines elsewhere."""

import os
import pty
import subprocess
import sys

import pytest

from gate.commands.progress import progress

SCRIPT = """
from gate.commands.progress import progress
with progress("digits") as shown:
    shown.step("quantize")
    shown.step("evaluate", 100)
    shown.advance(64)
    shown.step("judge")
"""


def test_plain_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("digits") as shown:
        shown.step("quantize")
        shown.step("evaluate", 100)
        shown.advance(64)
    captured = capsys.readouterr()
    assert captured.err == "gate: digits: quantize\ngate: digits: evaluate 100 examples\n"
    assert captured.out == ""


def test_a_bar_on_a_terminal_and_nothing_on_stdout() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.PIPE, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == b""
    assert "judge" in shown
    assert "gate: digits" not in shown
