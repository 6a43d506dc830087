"""Each version of a source model is gated once, whatever dies meanwhile: on a real store."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import pytest
from support.line import MODEL
from support.project import CNN, WIDE_RANGE, Project

from gate import trackers
from gate.cli import exit_code_of
from gate.commands import _watch_claims, _watch_events
from gate.commands import watch as watching
from gate.commands._watch_found import Asked
from gate.commands._watch_state import LIFE, Claim, Outcome, Tags
from gate.commands.report import load_record
from gate.commands.watch import Watcher, pause
from gate.errors import (
    CandidateError,
    DataError,
    FetchError,
    PolicyError,
    TrackerError,
    UsageError,
)
from gate.pipeline import Finished
from gate.policy_file import load_policy
from gate.records import GateRecord
from gate.registered import Version
from gate.trackers import Registry

SOURCE = "digits"
TAGS = Tags(MODEL)
Gate = Callable[..., Finished]


def client() -> Any:
    import mlflow

    uri = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def registered(*models: Path) -> None:
    """Versions 1, 2, … of the source model."""
    known = client()
    known.create_registered_model(SOURCE)
    for number, model in enumerate(models, 1):
        live = Path.cwd() / f"live{number}"
        live.mkdir()
        (live / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}")
        shutil.copyfile(model, live / "model.onnx")
        known.create_model_version(SOURCE, live.as_uri())


def registry() -> Registry:
    found = trackers.get("mlflow").registry
    assert found is not None
    return found


def version(number: int = 1) -> Version:
    found = registry().find(SOURCE, version=str(number))
    assert found is not None
    return found


def outcome(number: int = 1) -> Outcome | None:
    return TAGS.outcome(version(number))


def claim(number: int = 1) -> Claim:
    found = TAGS.claim(version(number))
    assert found is not None
    return found


def cleared(*names: str, number: int = 1) -> None:
    """As somebody does in MLflow's pages."""
    for name in names:
        client().delete_model_version_tag(SOURCE, str(number), f"gate.{TAGS.key(name)}")


def held(**ago: float) -> Claim:
    """A claim of another watcher."""
    when = (datetime.now(UTC) - timedelta(**ago)).replace(microsecond=0)
    return Claim("held", when, "ab" * 16, "another@host")


def claimed(found: Claim) -> None:
    registry().tag(version(), TAGS.claimed(found))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch_claims, "SETTLE_S", 0.0)


@pytest.fixture(scope="module")
def gated(
    first_release: tuple[Path, GateRecord], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """Versions 1, which passes, and 2, which fails, after one real `gate watch --once`."""
    folder = tmp_path_factory.mktemp("watched")
    shutil.copyfile(first_release[0] / "mlflow.db", folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(_watch_claims, "SETTLE_S", 0.0)
        project = Project(folder)
        registered(CNN, WIDE_RANGE)
        code = exit_code_of(
            ["watch", SOURCE, "--policy", str(project.policy), "--once", "--threads", "1"]
        )
    return folder, code


@pytest.fixture(scope="module")
def ungated(
    first_release: tuple[Path, GateRecord], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with one version of the source, which nobody has gated."""
    folder = tmp_path_factory.mktemp("ungated")
    shutil.copyfile(first_release[0] / "mlflow.db", folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        registered(CNN)
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests: MLflow takes its time with every database that it has not seen."""
    return tmp_path_factory.mktemp("room")


def restored(room: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The folder as new, with what that store holds, and as the working folder."""
    for left in room.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif not left.name.startswith("mlflow.db"):
            left.unlink()
    with (
        closing(sqlite3.connect(store)) as known,
        closing(sqlite3.connect(room / "mlflow.db")) as new,
    ):
        known.backup(new)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(room)
    return Project(room)


@pytest.fixture
def blank(
    room: Path, first_release: tuple[Path, GateRecord], monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A working folder whose store has a release, and no source model."""
    return restored(room, first_release[0] / "mlflow.db", monkeypatch)


@pytest.fixture
def before(room: Path, ungated: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A working folder whose store has one version of the source, which nobody has gated."""
    return restored(room, ungated, monkeypatch)


@pytest.fixture
def after(room: Path, gated: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A working folder whose store is as that watcher left it."""
    return restored(room, gated[0] / "mlflow.db", monkeypatch)


def watcher(project: Project, **options: Any) -> Watcher:
    asked = Asked(
        name=SOURCE, loaded=load_policy(project.policy), stage="release", out=project.folder / "out"
    )
    options = {"sleep": lambda _: None} | options
    return Watcher(asked, trackers.get("mlflow"), registry(), threads=1, **options)


@pytest.fixture
def gates(gated: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is gated, each by a run that passes at once, as version 1 did."""
    record = next(
        found
        for found in map(load_record, (gated[0] / ".gate" / MODEL).iterdir())
        if found.verdict.outcome == "pass"
    )
    asked: list[str] = []

    def gate(loaded: Any, candidate: str, **options: Any) -> Finished:
        asked.append(candidate)
        return Finished(record, options["out"], "run1")

    monkeypatch.setattr(watching, "run_gate", gate)
    return asked


def gate_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    asked: list[str] = []

    def gate(loaded: Any, candidate: str, **options: Any) -> NoReturn:
        asked.append(candidate)
        raise error

    monkeypatch.setattr(watching, "run_gate", gate)
    return asked


# ── what it does ──────────────────────────────────────────────────────────────────────────


def test_every_version_is_gated_and_its_outcome_is_written_back(
    gated: tuple[Path, int], after: Project
) -> None:
    assert gated[1] == 1
    first, second = outcome(1), outcome(2)
    assert first is not None
    assert second is not None
    assert (first.outcome, second.outcome) == ("pass", "fail")
    assert first.why.startswith("PASS: ")
    assert second.why.startswith("FAIL: accuracy, drop ≤ 1.00 pp: drop ")
    assert (first.policy, first.stage) == (load_policy(after.policy).sha256, "release")
    document = trackers.get("mlflow").record(first.run)
    assert document is not None
    assert document["id"] == first.record
    assert document["candidate"]["source"] == f"models:/{SOURCE}/1"
    assert claim(1).state == "done"
    assert [one.tags["outcome"] for one in registry().versions(f"{MODEL}-int8")] == [
        "pass", "pass", "fail",
    ]  # fmt: skip


def test_what_is_done_is_not_done_again(
    after: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["watch", SOURCE, "--policy", str(after.policy), "--once"]) == 0
    assert gates == []
    assert capsys.readouterr().err == ""


def test_events_are_lines_with_their_time_and_the_report_is_on_stdout(
    before: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert watcher(before).look().codes == (0,)
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert len(lines) == 2
    stamped = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ gate watch: models:/digits/1")
    assert all(map(stamped.match, lines))
    assert "PASS" in told.out
    assert gates == ["models:/digits/1"]


def test_versions_go_in_the_order_of_their_numbers_and_new_ones_are_seen_next_time(
    blank: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(CNN, CNN)
    mine = watcher(blank)
    assert mine.look().codes == (0, 0)
    client().create_model_version(SOURCE, (Path.cwd() / "live1").as_uri())
    assert mine.look().codes == (0,)
    assert gates == [f"models:/digits/{number}" for number in (1, 2, 3)]


def test_200_versions_that_are_done_take_one_search_and_nothing_else(
    after: Project, gates: list[str]
) -> None:
    one = version()
    many = [replace(one, version=str(number)) for number in range(1, 201)]
    searches: list[str] = []

    class Searched:
        def versions(self, name: str) -> list[Version]:
            searches.append(name)
            return many

    mine = watcher(after)
    mine.registry = Searched()  # type: ignore[assignment]
    assert mine.look().codes == ()
    assert (searches, gates) == ([SOURCE], [])


# ── once, whatever dies ───────────────────────────────────────────────────────────────────


def test_a_watcher_that_died_after_its_claim_is_waited_for_and_then_replaced(
    before: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    claimed(held(minutes=59))
    clock = [datetime.now(UTC).replace(microsecond=0)]
    mine = watcher(before, now=lambda: clock[0])
    assert mine.look().codes == ()
    assert "is claimed by another@host" in capsys.readouterr().err
    assert gates == []
    clock[0] += timedelta(minutes=2)
    assert mine.look().codes == (0,)
    assert gates == ["models:/digits/1"]
    assert claim().who != "another@host"


@pytest.mark.parametrize("left", [held(minutes=1), held(hours=5)])
def test_a_watcher_that_died_before_it_wrote_back_did_not_work_in_vain(
    after: Project, gates: list[str], left: Claim, capsys: pytest.CaptureFixture[str]
) -> None:
    known = outcome()
    cleared("outcome", "policy", "why")
    claimed(left)
    assert watcher(after).look().codes == (0,)
    assert gates == []
    assert outcome() == known
    assert "PASS" in capsys.readouterr().err


def test_a_release_whose_watcher_died_right_before_its_tag_shows_its_outcome(
    after: Project, gates: list[str]
) -> None:
    (_, passed, _) = registry().versions(f"{MODEL}-int8")
    client().delete_model_version_tag(passed.name, passed.version, "gate.outcome")
    cleared("outcome")
    claimed(held(hours=2))
    assert watcher(after).look().codes == (0,)
    assert gates == []
    assert registry().versions(passed.name)[1].tags["outcome"] == "pass"


def test_a_verdict_on_an_older_model_of_the_same_name_is_not_this_versions(
    after: Project, gates: list[str]
) -> None:
    client().delete_registered_model(SOURCE)
    for number in (1, 2):
        shutil.rmtree(Path(f"live{number}"), ignore_errors=True)
    registered(CNN)
    claimed(held(hours=2))
    assert watcher(after).look().codes == (0,)
    assert gates == ["models:/digits/1"]


@pytest.mark.parametrize("other", ["stage", "policy"])
def test_a_verdict_by_other_rules_is_not_taken_for_the_claims(
    after: Project, gates: list[str], other: str
) -> None:
    cleared("outcome")
    claimed(held(hours=2))
    if other == "policy":
        after.budget(metric="accuracy", max_drop=0.02)
    mine = watcher(after)
    if other == "stage":
        mine.asked = replace(mine.asked, stage="pr")
    assert mine.look().codes == (0,)
    assert gates == ["models:/digits/1"]


def test_a_verdict_that_the_tracker_did_not_get_is_sent_and_not_made_again(
    before: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = trackers.get("mlflow")

    def dies(self: Any, *arguments: Any) -> NoReturn:
        raise TrackerError("the server died")

    with monkeypatch.context() as patch:
        patch.setattr(type(tracker), "log", dies)
        look = watcher(before).look()
    assert (look.codes, look.failed) == ((), True)
    assert "tried again" in capsys.readouterr().err
    assert outcome() is None
    assert claim().state == "released"
    asked = gate_raises(monkeypatch, AssertionError("gated twice"))
    assert watcher(before).look().codes == (0,)
    assert asked == []
    found = outcome()
    assert found is not None
    assert found.outcome == "pass"
    assert tracker.record(found.run) is not None


def test_a_verdict_that_a_living_watcher_is_about_to_send_is_left_to_it(
    before: Project, gated: tuple[Path, int], gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that send it at once would register the release twice."""
    mine, theirs = watcher(before), held(minutes=1)
    claimed(theirs)
    kept = next((gated[0] / ".gate" / MODEL).glob("digits-1-*"))
    shutil.copytree(kept, mine.asked.folder(version(), theirs))
    sent = gate_raises(monkeypatch, AssertionError("gated"))
    monkeypatch.setattr(type(mine.tracker), "log", lambda *_: sent.append("sent"))
    assert mine.look().codes == ()
    assert sent == []


def test_an_edited_record_on_disk_is_gated_anew(
    before: Project, gated: tuple[Path, int], gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mine, left = watcher(before), held(hours=2)
    claimed(left)
    kept = next((gated[0] / ".gate" / MODEL).glob("digits-1-*"))
    shutil.copytree(kept, mine.asked.folder(version(), left))
    file = mine.asked.folder(version(), left) / "record.json"
    document = json.loads(file.read_text())
    document["created"] = datetime.now(UTC).isoformat()
    document["examples_evaluated"] -= 1
    file.write_text(json.dumps(document))
    assert mine.look().codes == (0,)
    assert gates == ["models:/digits/1"]
    assert "gated anew" in capsys.readouterr().err


def test_of_two_claims_written_at_once_the_last_one_holds(
    before: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = held()
    assert watcher(before, sleep=lambda _: claimed(other)).look().codes == ()
    assert "claimed by another@host at the same time" in capsys.readouterr().err
    assert (gates, claim(), outcome()) == ([], other, None)


def test_an_outcome_that_came_meanwhile_stays(
    before: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = watcher(before)
    fake = watching.run_gate
    theirs = Outcome("fail", mine.asked.loaded.sha256, "release", "FAIL: theirs", "r", "x")

    def slow(*arguments: Any, **options: Any) -> Finished:
        registry().tag(version(), TAGS.told(theirs, held()))
        return fake(*arguments, **options)

    monkeypatch.setattr(watching, "run_gate", slow)
    mine.look()
    assert outcome() == theirs


OTHER = """
import pathlib, sys, time
from gate import trackers
from gate.commands import _watch_claims, watch
from gate.commands._watch_found import Asked
from gate.commands.report import load_record
from gate.pipeline import Finished
from gate.policy_file import load_policy

record = load_record(pathlib.Path(sys.argv[1]))
_watch_claims.SETTLE_S = 1.0

def gate(loaded, candidate, **options):
    with open("gated.txt", "a") as log:
        log.write(f"{candidate}\\n")
    return Finished(record, options["out"], "run1")

watch.run_gate = gate
tracker = trackers.get("mlflow")
asked = Asked("digits", load_policy("policy.yaml"), "release", pathlib.Path("out"))
mine = watch.Watcher(asked, tracker, tracker.registry)
tracker.registry.versions("digits")
pathlib.Path("ready").touch()
mine.look()
"""


@pytest.mark.slow
def test_two_watchers_at_once_gate_each_version_once(
    blank: Project, gated: tuple[Path, int], gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(CNN, CNN)
    monkeypatch.setattr(_watch_claims, "SETTLE_S", 1.0)
    record = next((gated[0] / ".gate" / MODEL).glob("digits-1-*"))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(record)], stderr=subprocess.PIPE
    ) as other:
        while not Path("ready").exists():
            assert other.poll() is None
            time.sleep(0.002)
        watcher(blank, sleep=time.sleep).look()
        told = other.communicate(timeout=60)[1].decode()
    assert other.returncode == 0, told
    theirs = Path("gated.txt").read_text().split() if Path("gated.txt").exists() else []
    assert sorted([*theirs, *gates]) == ["models:/digits/1", "models:/digits/2"]
    assert outcome(1) is not None
    assert outcome(2) is not None


# ── what ends it ──────────────────────────────────────────────────────────────────────────


def test_an_interrupted_run_gives_its_claim_back(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_raises(monkeypatch, KeyboardInterrupt())
    code = exit_code_of(["watch", SOURCE, "--policy", str(before.policy), "--once"])
    assert code == 130
    assert (claim().state, outcome()) == ("released", None)


def test_a_signal_that_a_library_made_an_error_of_is_no_fault_of_the_version(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(*arguments: Any, **options: Any) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise DataError("the file ended early") from error
        raise AssertionError

    monkeypatch.setattr(watching, "run_gate", cancelled)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        watcher(before).look()
    assert (claim().state, outcome()) == ("released", None)
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_dead_store_is_told_and_given_more_time_each_time(
    before: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(KeyboardInterrupt):
        watcher(before, sleep=sleep).forever(60)
    assert slept == [120, 240, 480]
    assert capsys.readouterr().err.count("no connection") == 3
    assert exit_code_of(["watch", SOURCE, "--policy", str(before.policy), "--once"]) == 4


def test_a_store_that_is_well_is_looked_at_at_the_same_pace(
    after: Project, gates: list[str]
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watcher(after, sleep=sleep).forever(7)
    assert slept == [7, 7, 7]


def test_the_longest_pause_is_a_quarter_of_an_hour_or_what_was_asked_for() -> None:
    assert pause(60, 0) == 60
    assert pause(60, 9999) == 900
    assert pause(7200, 9999) == 7200


# ── what goes wrong ───────────────────────────────────────────────────────────────────────


def test_what_is_wrong_with_a_version_is_written_back_and_not_tried_again(
    before: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = gate_raises(monkeypatch, DataError("no column 'image'"))
    assert watcher(before).look().codes == (4,)
    assert f"until its tag `gate.{MODEL}.outcome` is deleted" in capsys.readouterr().err
    found = outcome()
    assert found is not None
    assert (found.outcome, found.why, found.run) == ("error", "no column 'image'", "none")
    assert watcher(before).look().codes == ()
    assert "1 version ended in an error" in capsys.readouterr().err
    cleared("outcome")
    assert watcher(before).look().codes == (4,)
    assert len(asked) == 2


def test_the_stores_fault_is_not_the_versions(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_raises(monkeypatch, TrackerError("the server died"))
    assert exit_code_of(["watch", SOURCE, "--policy", str(before.policy), "--once"]) == 4
    assert (claim().state, outcome()) == ("released", None)


def test_one_version_that_the_store_refuses_does_not_hold_up_the_others(
    blank: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(CNN, CNN)
    fake = watching.run_gate

    def gate(loaded: Any, candidate: str, **options: Any) -> Finished:
        if candidate.endswith("/1"):
            raise TrackerError("refused")
        return fake(loaded, candidate, **options)

    monkeypatch.setattr(watching, "run_gate", gate)
    look = watcher(blank).look()
    assert (look.codes, look.failed) == ((0,), True)
    assert gates == ["models:/digits/2"]


def test_files_out_of_reach_are_the_versions_fault_at_the_third_try(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_raises(monkeypatch, FetchError("candidate models:/digits/1 cannot be fetched"))
    mine = watcher(before)
    assert [mine.look().failed for _ in range(2)] == [True, True]
    assert outcome() is None
    assert mine.look().codes == (4,)
    found = outcome()
    assert found is not None
    assert "cannot be fetched" in found.why


def test_a_candidate_that_cannot_be_fetched_says_by_whose_fault(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def unreachable(**_: Any) -> NoReturn:
        raise ConnectionError("the bucket does not answer")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", unreachable)
    look = watcher(before).look()
    assert (look.codes, look.failed, outcome()) == ((), True, None)
    assert not any(Path("out").iterdir())


def test_a_defect_marks_the_version_and_is_told_as_one(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_raises(monkeypatch, ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        watcher(before).look()
    found = outcome()
    assert found is not None
    assert found.why == "a defect of the gate: ZeroDivisionError: division by zero"
    assert watcher(before).look().codes == ()


def test_a_version_that_vanishes_is_told_and_passed_over(
    before: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mine, listed = watcher(before), [version()]

    def gone(*_: Any) -> None:
        client().delete_model_version(SOURCE, "1")

    with monkeypatch.context() as patch:
        patch.setattr(mine.claims, "sleep", gone)
        assert (mine.look().codes, mine.look().codes) == ((), ())
        patch.setattr(type(registry()), "versions", lambda *_: listed)
        assert mine.look().codes == ()
    assert capsys.readouterr().err.count("models:/digits/1 vanished: passed over") == 2
    assert gates == []


def test_a_version_that_vanishes_while_it_is_gated_is_no_error(
    before: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gate(*arguments: Any, **options: Any) -> NoReturn:
        client().delete_model_version(SOURCE, "1")
        raise CandidateError("it cannot be fetched")

    monkeypatch.setattr(watching, "run_gate", gate)
    look = watcher(before).look()
    assert (look.codes, look.failed) == ((), False)
    assert "vanished" in capsys.readouterr().err


def test_a_version_that_is_not_ready_is_looked_at_again(
    before: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mine = watcher(before)
    pending = replace(version(), tags=MappingProxyType({"status": "pending_registration"}))
    with monkeypatch.context() as patch:
        patch.setattr(type(registry()), "versions", lambda *_: [pending])
        assert (mine.look().codes, mine.look().codes) == ((), ())
    assert capsys.readouterr().err.count("not ready (pending_registration)") == 1
    assert mine.look().codes == (0,)


# ── whose versions ────────────────────────────────────────────────────────────────────────


def test_the_gates_own_outputs_are_never_gated(
    before: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["watch", f"{MODEL}-int8", "--policy", str(before.policy), "--once"]
    assert exit_code_of(asked) == 2
    assert "where the gate registers INT8 releases" in capsys.readouterr().err
    registry().tag(version(), {"record": "20260730T091204Z-3fa9c21b7d04"})
    assert watcher(before).look().codes == ()
    assert "registered by the gate itself: skipped" in capsys.readouterr().err
    assert gates == []


def test_another_policy_judges_old_versions_only_when_asked(
    after: Project, gates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    after.budget(metric="accuracy", max_drop=0.02)
    assert watcher(after).look().codes == ()
    assert "2 versions judged by another policy" in capsys.readouterr().err
    assert watcher(after, again=True).look().codes == (0, 0)
    assert gates == ["models:/digits/1", "models:/digits/2"]
    assert watcher(after, again=True).look().codes == ()
    found = outcome(2)
    assert found is not None
    assert found.outcome == "pass"


def test_tags_cut_short_over_an_earlier_outcome_are_no_outcome(
    after: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after.budget(metric="accuracy", max_drop=0.02)
    tag = type(registry()).tag

    def dies(self: Any, which: Version, tags: dict[str, str]) -> None:
        names = list(tags)
        cut = names.index(TAGS.key("outcome")) if TAGS.key("outcome") in names else len(names)
        tag(self, which, {name: tags[name] for name in names[:cut]})
        if cut < len(names):
            raise TrackerError("the server died")

    with monkeypatch.context() as patch:
        patch.setattr(type(registry()), "tag", dies)
        assert watcher(after, again=True).look().failed
    assert outcome(2) is None


def test_each_policys_model_has_tags_of_its_own(after: Project, gates: list[str]) -> None:
    after.spec["model"] = "digits-small"
    after.write()
    mine = watcher(after)
    assert mine.look().codes == (0, 0)
    assert TAGS.outcome(version()) is not None
    assert mine.tags.outcome(version()) is not None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([SOURCE], "name the policy for digits with --policy"),
        (["digits/1", "--policy", "policy.yaml"], "no registered model's name"),
        (["digits@champion", "--policy", "policy.yaml"], "no registered model's name"),
        ([SOURCE, "--policy", "policy.yaml", "--tracker", "none"], "registers no models"),
        ([SOURCE, "--policy", "policy.yaml", "--out", "policy.yaml/x"], "cannot be written"),
    ],
)
def test_bad_usage_is_told_before_any_version_is_touched(
    blank: Project, asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["watch", *asked, "--once"]) == 2
    assert words in capsys.readouterr().err


def test_a_policy_whose_data_went_is_not_the_versions_fault(before: Project) -> None:
    mine = watcher(before)
    (before.folder / "held_out.npz").unlink()
    with pytest.raises(PolicyError):
        mine.look()
    assert TAGS.claim(version()) is None


def test_a_model_without_versions_is_waited_for(
    blank: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = watcher(blank)
    assert (mine.look().codes, mine.look().codes) == ((), ())
    assert capsys.readouterr().err.count("has no version yet") == 1


# ── claims ────────────────────────────────────────────────────────────────────────────────


def test_a_claim_reads_back_what_it_writes_and_counts_for_its_life() -> None:
    made = held()
    assert Claim.parse(str(made)) == made
    assert Claim.parse(str(made.done())) == made.done()
    assert made.holds(made.when + LIFE - timedelta(seconds=1))
    assert not made.holds(made.when + LIFE)
    assert made.holds(made.when - timedelta(days=9))
    assert not made.released().holds(made.when)


@pytest.mark.parametrize(
    "text",
    ["", "mine", f"held yesterdayZ {'ab' * 16} by me", f"lost {held()}", "held\n"],
    ids=["empty", "a word", "no time", "no state", "no more"],
)
def test_what_is_no_claim_is_nobodys(text: str) -> None:
    assert Claim.parse(text) is None


def test_a_run_that_lives_renews_its_claim(
    before: Project, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch_events, "RENEW_S", 0.0)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock: Iterator[datetime] = (start + timedelta(minutes=n) for n in range(1000))
    mine = watcher(before, now=lambda: next(clock))
    fake, seen = watching.run_gate, []

    def gate(loaded: Any, candidate: str, **options: Any) -> Finished:
        for _ in range(2):
            seen.append(claim().when)
            options["progress"].advance(1)
        seen.append(claim().when)
        return fake(loaded, candidate, **options)

    monkeypatch.setattr(watching, "run_gate", gate)
    assert mine.look().codes == (0,)
    assert seen == sorted(set(seen))
    assert len(seen) == 3


def test_a_claim_that_cannot_be_given_back_is_told(
    before: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: Any, **__: Any) -> NoReturn:
        monkeypatch.setattr(type(registry()), "tag", lost)
        raise KeyboardInterrupt

    def lost(*_: Any) -> NoReturn:
        raise TrackerError("the server died")

    monkeypatch.setattr(watching, "run_gate", dies)
    with pytest.raises(KeyboardInterrupt):
        watcher(before).look()
    assert "could not be released, and counts until" in capsys.readouterr().err


def test_a_source_that_is_no_version_is_refused_by_name() -> None:
    with pytest.raises(UsageError):
        watching.watch("", trackers.get("mlflow"), policy="policy.yaml")


# ── watchers that died ────────────────────────────────────────────────────────────────────


def test_a_watcher_that_died_is_counted_in_the_next_claim(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(held(hours=2))
    gate_raises(monkeypatch, FetchError("not now"))
    assert watcher(before).look().failed
    assert (claim().state, claim().deaths) == ("released", 1)
    assert " after 1 that died by " in str(claim())


def test_a_version_that_three_watchers_died_of(
    before: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that crashes the runtime would end every watcher there is."""
    claimed(replace(held(hours=2), deaths=2))
    monkeypatch.setattr(watching, "run_gate", None)
    assert watcher(before).look().codes == (4,)
    found = outcome()
    assert found is not None
    assert found.outcome == "error"
    assert "3 watchers died while they gated it" in found.why


@pytest.mark.parametrize("state", ["released", "done"])
def test_a_claim_that_was_given_back_is_no_death(before: Project, state: Any) -> None:
    mine = watcher(before)
    assert mine.claims.deaths(replace(held(hours=2), state=state, deaths=2)) == 2
    own = mine.claims.new(2)
    assert mine.claims.deaths(own) == 2
    assert Claim.parse(str(own)) == own
