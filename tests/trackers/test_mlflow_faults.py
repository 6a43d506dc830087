"""An MLflow server that refuses, dies, answers nonsense, or is slow, from any request on."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import faults
from support.project import Project
from trackers.links import Link, Spoils, Spoilt
from trackers.releases import NAME

from gate import artifact
from gate.cli import exit_code_of
from gate.records import GateRecord
from gate.trackers import _mlflow_model
from gate.trackers import _mlflow_store as store
from gate.trackers.mlflow import TRACKER

Keep = Callable[..., tuple[GateRecord, Path]]
REQUESTS = 28
"""That a model's first release takes."""


def answered(status: int, text: str, kind: str = "application/json") -> Spoils:
    return lambda said: (status, kind, [text.encode()])


def cut(said: bytes) -> Spoilt:
    return 200, "application/json", [said[: len(said) // 2]]


def retyped(said: bytes) -> Spoilt:
    return 200, "application/json", [json.dumps(_retyped(_parsed(said))).encode()]


def _retyped(value: Any) -> Any:
    """Objects stay, whatever is in them is of another type."""
    if isinstance(value, dict):
        return {key: _retyped(one) for key, one in value.items()}
    return {"list": value} if isinstance(value, list) else [value]


def of_others(said: bytes) -> Spoilt:
    """Each id is that of something that is not there."""
    return 200, "application/json", [json.dumps(_renamed(_parsed(said))).encode()]


def _renamed(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _renamed(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one) for one in value]
    return "f" * 32 if key in ("run_id", "run_uuid") else value


def _parsed(said: bytes) -> Any:
    try:
        return json.loads(said)
    except ValueError:  # a file
        return {}


PAGE = "<html><body>Please log in</body></html>"
REFUSED = '{"error_code": "PERMISSION_DENIED", "message": "not you"}'
SPOILT: dict[str, tuple[Spoils | None, bool]] = {
    "dies": (None, False),
    "dies after it has done what was asked": (None, True),
    "401": (answered(401, PAGE, "text/html"), False),
    "403": (answered(403, REFUSED), False),
    "500": (answered(500, "Internal Server Error", "text/plain"), False),
    "500 after it has done what was asked": (answered(500, "", "text/plain"), True),
    "a page": (answered(200, PAGE, "text/html"), False),
    "half an answer": (cut, True),
    "a list": (answered(200, "[1, 2]"), True),
    "null": (answered(200, "null"), True),
    "nothing": (answered(200, "{}"), False),
    "other types": (retyped, True),
    "others' ids": (of_others, True),
}


@pytest.fixture(autouse=True)
def _not_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mlflow_model, "READY_S", 1)


@pytest.fixture
def release(linked: Link, kept: Keep) -> Iterator[tuple[GateRecord, Path]]:
    yield kept(stage="release")
    linked.mended()


def sent(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and what was told; it is 0 with nothing to tell."""
    code = exit_code_of(["report", str(folder), "--track", "--format", "json", "--quiet"])
    told = capsys.readouterr().err
    assert "defect" not in told, told
    assert code == 0 or "gate explain G112" in told
    return code, "" if code == 0 else told


def demand_whole_and_once(record: GateRecord) -> None:
    (past,) = TRACKER.past("digits-cnn")
    (version,) = faults.registry().versions(NAME)
    assert (past.outcome, past.version, version.run) == ("pass", "1", past.run)
    assert version.tags["outcome"] == "pass"
    assert GateRecord.model_validate(TRACKER.record(past.run)) == record


def demand_no_harm(
    linked: Link, release: tuple[GateRecord, Path], kind: str, place: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Sent to a server that fails from there on, and again when it is well."""
    record, folder = release
    before = artifact.sha256_of(folder / "record.json")
    linked.spoils, linked.reaches = SPOILT[kind]
    linked.fails_from = place
    code, _ = sent(folder, capsys)
    linked.mended()
    faults.demand_whole_tracker()
    if code == 0:
        demand_whole_and_once(record)
    assert code in (0, 4)
    assert artifact.sha256_of(folder / "record.json") == before
    assert sent(folder, capsys) == (0, "")
    demand_whole_and_once(record)


def test_a_release_takes_so_many_requests(linked: Link, release: tuple[GateRecord, Path]) -> None:
    linked.asked.clear()
    TRACKER.log(*release)
    assert len(linked.asked) == REQUESTS


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, 1 + 2 * place) for place, kind in enumerate(SPOILT)],
)
def test_a_server_that_fails_in_the_middle_does_no_harm(
    linked: Link, release: tuple[GateRecord, Path], kind: str, place: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    demand_no_harm(linked, release, kind, place, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(REQUESTS))
@pytest.mark.parametrize("kind", SPOILT)
def test_a_server_that_fails_from_any_request_on_does_no_harm(
    linked: Link, release: tuple[GateRecord, Path], kind: str, place: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    demand_no_harm(linked, release, kind, place, capsys)


@pytest.mark.parametrize("place", [0, 12])
def test_a_server_that_is_too_slow_is_not_waited_for(
    linked: Link, release: tuple[GateRecord, Path], place: int,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for limits in (store.PROMPT, store.PATIENT):
        monkeypatch.setitem(limits, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setitem(limits, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    linked.fails_from, linked.slow_s, linked.reaches = place, 3.0, True
    start = time.monotonic()
    assert sent(release[1], capsys)[0] == 4
    assert time.monotonic() - start < 10
    linked.mended()
    faults.demand_whole_tracker()
    assert sent(release[1], capsys) == (0, "")
    demand_whole_and_once(release[0])


# ── whole runs ────────────────────────────────────────────────────────────────────────────

BEFORE = 20
"""Requests of a run before its record is sent, and some after: what is known, and the ledger."""


@pytest.mark.slow
@pytest.mark.parametrize("place", range(BEFORE))
@pytest.mark.parametrize("kind", ["dies", "nothing"])
def test_a_run_on_a_server_that_fails_ends_with_4_and_passes_later(
    linked: Link, workplace: Path, kind: str, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(workplace)
    linked.spoils, linked.reaches = SPOILT[kind]
    linked.fails_from = place
    code = exit_code_of(faults.asked(project, "out"))
    told = capsys.readouterr()
    linked.mended()
    assert code == 4
    assert "defect" not in told.err, told.err
    faults.demand_nothing_shown(project, told.out)
    faults.demand_whole(project)
    if Path("out/record.json").exists():
        assert sent(Path("out"), capsys) == (0, "")
        assert [run.outcome for run in TRACKER.past(faults.MODEL)] == ["pass"]
    faults.demand_next_passes(project)


def endless(said: bytes) -> Spoilt:
    def drops() -> Iterator[bytes]:
        while True:
            time.sleep(0.05)
            yield b" "

    return 200, "application/json", drops()


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 6])
def test_an_answer_that_never_ends_is_ended_by_the_limit_of_time(
    linked: Link, workplace: Path, place: int
) -> None:
    project = Project(workplace)
    linked.spoils, linked.fails_from = endless, place
    done = faults.ran(project, "out", "--max-minutes", "0.15")
    linked.mended()
    faults.demand_no_release(project, done)
    assert "--max-minutes 0.15 are over" in done.stderr
