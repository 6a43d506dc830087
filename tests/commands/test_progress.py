"""Progress goes to stderr: a bar on a terminal, plain lines elsewhere."""

import contextlib
import os
import pty
import subprocess
import sys

import click
import pytest

from gate.commands._told import QUIET, say
from gate.commands._watch_events import Beating
from gate.commands.progress import Lines, Pace, progress, spoken

SCRIPT = """
from gate.commands.progress import progress
with progress("digits") as shown:
    shown.step("quantize")
    shown.step("evaluate", 100)
    for _ in range(4):
        shown.advance(16)
    shown.step("judge")
"""


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("digits") as shown:
        shown.step("quantize")
        shown.step("evaluate", 100)
        shown.advance(64)
    captured = capsys.readouterr()
    assert captured.err == "gate: digits: quantize\ngate: digits: evaluate 100 examples\n"
    assert captured.out == ""


def on_a_terminal(script: str, **setting: str) -> tuple[str, bytes]:
    """What a script writes to a terminal as stderr, and to stdout."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        stderr=theirs, stdout=subprocess.PIPE, check=True,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "100"} | setting,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end, where a terminal has gone
        while part := os.read(ours, 100_000):
            shown += part
    os.close(ours)
    return shown.decode(), done.stdout


def test_a_bar_on_a_terminal_and_nothing_on_stdout() -> None:
    shown, printed = on_a_terminal(SCRIPT)
    assert printed == b""
    assert "judge" in shown
    assert "gate: digits" not in shown


def test_the_bar_tells_elapsed_and_left() -> None:
    slow = SCRIPT.replace("shown.advance(16)", "shown.advance(16); __import__('time').sleep(0.15)")
    shown, _ = on_a_terminal(slow)
    assert "64/100" in shown
    assert "s, about " in shown
    assert " left" in shown


def test_no_color_takes_the_colours_and_leaves_the_bar() -> None:
    shown, _ = on_a_terminal(SCRIPT, NO_COLOR="1")
    assert "judge" in shown
    assert "\x1b[3" not in shown.replace("\x1b[3m", "")
    assert "\x1b[38;" in on_a_terminal(SCRIPT)[0]


def test_a_dumb_terminal_gets_lines() -> None:
    shown, _ = on_a_terminal(SCRIPT, TERM="dumb")
    assert "\x1b" not in shown
    assert shown.splitlines()[0] == "gate: digits: quantize"


def test_quiet_tells_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("run")) as context:
        context.meta[QUIET] = True
        with progress("digits") as shown:
            shown.step("evaluate", 100)
        say("gate: record in out")
    assert capsys.readouterr().err == ""
    say("gate: record in out")
    assert capsys.readouterr().err == "gate: record in out\n"


def test_quiet_takes_the_steps_from_what_watches() -> None:
    told: list[str] = []
    beating = Beating(told.append, lambda: None)
    beating.step("evaluate", 100)
    with click.Context(click.Command("watch")) as context:
        context.meta[QUIET] = True
        beating.step("judge")
    assert told == ["evaluate 100 examples"]


# ── how long the rest takes ───────────────────────────────────────────────────────────────


def paced(seconds: list[float], *, total: int | None = 1000, batch: int = 10) -> tuple[Pace, Clock]:
    """A step whose batches took so long."""
    clock = Clock()
    pace = Pace(total, clock)
    for one in seconds:
        clock.now += one
        pace.advance(batch)
    return pace, clock


def test_an_even_pace_is_foretold_exactly() -> None:
    pace, _ = paced([0.5] * 40)
    assert pace.left == pytest.approx(30.0)
    assert pace.elapsed == pytest.approx(20.0)


def test_a_slow_first_batch_and_a_pause_move_it_little() -> None:
    pace, _ = paced([30.0, *[0.5] * 20, 60.0, *[0.5] * 18])
    assert pace.left == pytest.approx(30.0)


def test_a_pace_that_changed_is_followed() -> None:
    pace, _ = paced([0.1] * 40 + [1.0] * 50)
    assert pace.left == pytest.approx(10.0)


def test_batches_of_other_sizes_count_by_example() -> None:
    pace, clock = paced([0.5] * 4)
    clock.now += 5.0
    pace.advance(100)
    assert pace.left == pytest.approx(860 * 0.05)


def test_while_nothing_comes_what_is_left_grows() -> None:
    pace, clock = paced([0.1] * 99)
    assert pace.left == pytest.approx(0.1)
    clock.now += 40
    assert pace.left == pytest.approx(40)


@pytest.mark.parametrize(("seconds", "total"), [([], 1000), ([0.5, 0.5], 1000), ([0.5] * 9, None)])
def test_nobody_guesses_without_evidence(seconds: list[float], total: int | None) -> None:
    assert paced(seconds, total=total)[0].left is None


def test_what_is_done_has_nothing_left() -> None:
    pace, clock = paced([0.5] * 120)  # more than were announced
    clock.now += 100
    assert pace.left == 0
    pace.advance(0)
    assert pace.done == 1200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (80, "1 min 20 s"), (7500, "2 h 05 min")],
)
def test_times_are_spoken(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


# ── lines of a long step ──────────────────────────────────────────────────────────────────


def logged(batches: int, each: float, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a step of so many batches of 10 examples."""
    clock = Clock()
    lines = Lines("digits", clock)
    lines.step("evaluate", batches * 10)
    for _ in range(batches):
        clock.now += each
        lines.advance(10)
    return capsys.readouterr().err.splitlines()[1:]


def test_a_short_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert logged(100, 0.19, capsys) == []


def test_a_long_step_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = logged(100, 0.5, capsys)  # 50 s
    assert told == [
        "gate: digits: evaluate 400 of 1000 examples, 20 s, about 30 s left",
        "gate: digits: evaluate 600 of 1000 examples, 30 s, about 20 s left",
        "gate: digits: evaluate 800 of 1000 examples, 40 s, about 10 s left",
    ]


def test_slow_batches_give_a_line_each_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(logged(5, 60.0, capsys)) == 4
    assert len(logged(36_000, 0.1, capsys)) <= 360


def test_the_next_step_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines("digits", clock)
    for name in ("calibrate", "evaluate"):
        lines.step(name)
        for _ in range(25):
            clock.now += 1
            lines.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "gate: digits: calibrate",
        "gate: digits: calibrate 200 examples, 20 s",
        "gate: digits: evaluate",
        "gate: digits: evaluate 200 examples, 20 s",
    ]
