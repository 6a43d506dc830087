"""What reaches a network is asked of a process that may, and comes back as it was."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.linked import linked

from gate import outside, remote, trackers
from gate.errors import DataError, TrackerError, UsageError
from gate.outside import Link, LostError
from gate.trackers import _outside


@pytest.fixture
def link() -> Iterator[Link]:
    with linked() as found:
        yield found


def ask(link: Link, name: str, **arguments: object) -> object:
    return link.ask(name, arguments)


# ── what is asked ─────────────────────────────────────────────────────────────────────────


def sample(
    one: Path, when: datetime | None = None, *, many: dict[str, float]
) -> tuple[str, Path] | None: ...


def test_arguments_come_back_as_they_were() -> None:
    typed = outside.Typed(sample)
    when = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    wire = json.loads(json.dumps(typed.written((Path("a/b"), when), {"many": {"x": float("inf")}})))
    assert typed.read(wire) == {"one": Path("a/b"), "when": when, "many": {"x": float("inf")}}
    assert typed.returned(typed.answered(("a", Path("b")))) == ("a", Path("b"))
    assert typed.returned(typed.answered(None)) is None


@pytest.mark.parametrize("wire", [{"one": 3}, {"one": "a", "more": 1}, {"many": {"x": "much"}}])
def test_arguments_of_other_types_are_none(wire: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        outside.Typed(sample).read(wire)


def test_data_are_fetched_there(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"data")
    found = remote.local(f"file://{tmp_path}/x.npz", tmp_path)
    assert found.read_bytes() == b"data"
    assert found.is_relative_to(tmp_path / remote.CACHE)
    assert link._asked == 1


def test_paths_are_not_asked_for(link: Link, tmp_path: Path) -> None:
    assert remote.local("x.npz", tmp_path) == tmp_path / "x.npz"
    assert link._asked == 0


# ── what goes wrong there ─────────────────────────────────────────────────────────────────


def test_an_error_is_the_same_here(link: Link, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is nothing at file:///no/such\.npz"):
        remote.local("file:///no/such.npz", tmp_path)


def test_notes_come_along(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(uri: str) -> Path:
        error = DataError(f"{uri} is gone")
        error.add_note("and so is its bucket")
        raise error

    monkeypatch.setattr(remote, "_fetched", fetched)
    with pytest.raises(DataError, match="is gone") as caught:
        remote.local("s3://b/x.npz", tmp_path)
    assert caught.value.__notes__ == ["and so is its bucket"]


def test_a_defect_there_is_a_defect_here(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_told", None)
    with pytest.raises(RuntimeError, match=r"remote\.py"):
        remote.local("s3://b/x.npz", tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("os:system", "none of the gate's"),
        ("gatecrasher:run", "none of the gate's"),
        ("gate.remote:_fetched", "KeyError"),
        ("gate.remote:os.system", "KeyError"),
        ("gate.plugins:plugged_in", "KeyError"),
    ],
)
def test_only_what_reaches_out_can_be_asked(link: Link, name: str, why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        ask(link, name, command="true", uri="file:///etc/passwd")


def test_only_methods_of_the_protocol_can_be_asked(link: Link) -> None:
    for method in ("__init__", "__class__.__init__", "_load", "__reduce__", "no_such"):
        arguments = {"key": "none", "part": "tracker", "method": method, "arguments": "{}"}
        with pytest.raises(RuntimeError, match=r"is no method of a tracker|has no attribute"):
            ask(link, "gate.trackers._outside:_asked", **arguments)


def test_an_answer_that_nobody_waited_for_is_passed_over(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal interrupts between question and answer; what is done at the end still works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"data")
    outside._put(link._questions, {"number": 0, "name": "gate.remote:_brought", "arguments": {}})
    assert remote.local(f"file://{tmp_path}/x.npz", tmp_path).read_bytes() == b"data"


# ── where nobody answers ──────────────────────────────────────────────────────────────────


def gone() -> Link:
    questions, answers = os.pipe(), os.pipe()
    os.close(questions[0])
    os.close(answers[1])
    return Link(answers[0], questions[1])


def deaf() -> Link:
    """The other end is there until it has heard something."""
    questions, answers = os.pipe(), os.pipe()
    os.close(answers[1])
    return Link(answers[0], questions[1])


def mad() -> Link:
    questions, answers = os.pipe(), os.pipe()
    os.write(answers[1], b"what?\n")
    return Link(answers[0], questions[1])


@pytest.fixture(params=[gone, deaf, mad])
def nobody(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    link = request.param()
    monkeypatch.setattr(outside, "_link", link)
    yield
    link.leave()


@pytest.mark.usefixtures("nobody")
def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LostError, match="reaches the network for this run is gone"):
        remote.local("s3://b/x.npz", tmp_path)


@pytest.mark.usefixtures("nobody")
def test_for_a_tracker_it_is_the_trackers() -> None:
    """So that it is said where the record lies, and how to send it."""
    with pytest.raises(TrackerError, match="is gone"):
        _outside._call("none", "tracker", trackers.Tracker.prepare)


def test_what_is_no_question_is_not_answered() -> None:
    questions, answers = os.pipe(), os.pipe()
    os.write(questions[1], b"what?\n")
    with pytest.raises(ValueError, match="Expecting value"):
        outside.answer_all(questions[0], answers[1])


_PROGRAM = """
import os, signal, sys, time
from gate import outside
link = outside.begin()
outside.through(link)
{act}
"""


def begun(act: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(act=act)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_signals_to_all_leave_it_to_those_who_ask() -> None:
    act = """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
os.setpgid(0, 0)
os.kill(0, signal.SIGINT); os.kill(0, signal.SIGTERM)
from gate import trackers
print(trackers.get("none").where())
outside.end()
"""
    ended = begun(act)
    assert (ended.stdout, ended.stderr) == ("nowhere (--tracker none)\n", "")


def test_it_ends_with_those_who_ask() -> None:
    """Else it would hold their output open for ever."""
    assert begun("os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL


def test_half_a_question_is_none() -> None:
    ended = begun("os.write(link._questions.fileno(), b'{\"number\"'); sys.exit(0)")
    assert (ended.returncode, ended.stderr) == (0, "")


# ── signals ───────────────────────────────────────────────────────────────────────────────

_SLOW = """
from gate import interruption, remote
from pathlib import Path
interruption.heed()
print("begun", flush=True)
try:
    remote.local("https://127.0.0.1:{port}/x.npz", Path("."))
except KeyboardInterrupt:
    print("interrupted", flush=True)
from gate import trackers
print(trackers.get("none").where(), flush=True)
outside.end()
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def test_what_is_asked_is_given_up_on_a_signal(silent: socket.socket) -> None:
    """And what is asked at the end, as a claim that is released, is answered still."""
    act = _SLOW.format(port=silent.getsockname()[1])
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(act=act)], stdout=subprocess.PIPE, text=True
    ) as running:
        connection, _ = silent.accept()
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=30)
    connection.close()
    assert out == "begun\ninterrupted\nnowhere (--tracker none)\n"


def test_what_is_asked_is_left_where_who_asks_is_gone(silent: socket.socket) -> None:
    """It must not go on to a tracker's PASS of a run that came to none."""
    act = _SLOW.format(port=silent.getsockname()[1])
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(act=act)], stdout=subprocess.PIPE
    ) as running:
        connection, _ = silent.accept()
        connection.settimeout(10)
        running.kill()
        while connection.recv(4096):  # until the other end is closed
            pass
    connection.close()


def test_what_was_done_before_the_signal_is_done(link: Link) -> None:
    link._pid = os.getpid()
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        outside._put(link._questions, {"number": 1, "name": "no:such", "arguments": {}})
        link._asked = 1
        assert "error" in link._given_up()
    finally:
        signal.signal(signal.SIGUSR1, before)
