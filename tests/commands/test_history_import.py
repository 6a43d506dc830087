import json
import shutil
from pathlib import Path

import pytest
from support import line as releases
from support.project import CNN, WIDE_RANGE, Project

import gate
from gate import trackers
from gate.commands._history_import import import_folder
from gate.commands.history import command, history
from gate.errors import UsageError
from gate.records import GateRecord
from gate.statistics.ledger import attempt_number
from gate.trackers.none import TRACKER as NONE

MODEL = "digits-cnn"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs, the second made first by name."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "project").mkdir()
    project = Project(folder / "project")
    for name in ("z-first", "a-second"):
        out = folder / "runs" / "deep" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        gate.run_gate(project.policy, CNN, out=out, tracker="none")
    return folder / "runs"


@pytest.fixture
def folder(
    records: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy to spoil, with an empty store beside it."""
    shutil.copytree(records, tmp_path / "runs")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return tmp_path / "runs"


def spoil(record: Path, **changes: object) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))


def test_records_are_sent_in_the_order_they_were_made_in_and_once(folder: Path) -> None:
    keeper = trackers.get("mlflow")
    done = import_folder(keeper, folder)
    assert [path.parent.name for path, _ in done.sent] == ["z-first", "a-second"]
    assert (done.known, done.refused, done.exit_code) == ((), (), 0)
    line = history(keeper, MODEL)
    assert [entry.run.run for entry in line.entries] == [run for _, run in done.sent]
    again = import_folder(keeper, folder)
    assert (len(again.sent), len(again.known), again.exit_code) == (0, 2, 0)
    assert len(history(keeper, MODEL).entries) == 2


def test_what_does_not_hold_is_refused_and_the_rest_is_sent(folder: Path) -> None:
    first, second = folder / "deep" / "z-first", folder / "deep" / "a-second"
    shutil.copytree(second, folder / "no-rows")
    (folder / "no-rows" / "rows.npz").unlink()
    (folder / "torn").mkdir()
    (folder / "torn" / "record.json").write_text('{"schema_version": 1')
    verdict = json.loads((first / "record.json").read_text())["verdict"]
    spoil(first / "record.json", verdict=verdict | {"outcome": "fail"})
    told, code = command(
        ["import", str(folder)], "mlflow", metric=None, slice_=None, format_="text", out=None
    )
    assert code == 4
    refused = [line for line in told.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 3
    assert "it should be pass" in next(line for line in refused if "z-first" in line)
    assert "rows.npz is not there" in next(line for line in refused if "no-rows" in line)
    assert "not complete JSON" in next(line for line in refused if "torn" in line)
    assert "1 record sent, 0 there already, 3 could not be sent" in told


def test_another_record_under_a_known_id_is_refused(folder: Path) -> None:
    keeper = trackers.get("mlflow")
    import_folder(keeper, folder)
    record = folder / "deep" / "z-first" / "record.json"
    spoil(record, durations={"evaluate": 1.0})
    done = import_folder(keeper, folder)
    assert (len(done.known), len(done.refused), done.exit_code) == (1, 1, 4)
    assert "keeps another record under the same id" in done.refused[0][1]


def test_a_folder_without_records_is_a_mistake(tmp_path: Path) -> None:
    keeper = trackers.get("mlflow")
    with pytest.raises(UsageError, match=r"holds no record\.json"):
        import_folder(keeper, tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        import_folder(keeper, tmp_path / "no")
    with pytest.raises(UsageError, match="keeps nothing"):
        import_folder(NONE, tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"created": "2026-07-30T09:12:04"}, "which no gate writes"),
        ({"created": "0001-01-01T00:00:00Z"}, "which no gate writes"),
        ({"model": "other"}, "is about 'other', and its policy about 'digits-cnn'"),
    ],
)
def test_a_record_that_was_put_elsewhere_is_refused(
    folder: Path, changes: dict[str, str], told: str
) -> None:
    spoil(folder / "deep" / "z-first" / "record.json", **changes)
    keeper = trackers.get("mlflow")
    done = import_folder(keeper, folder)
    assert (len(done.sent), len(done.refused)) == (1, 1)
    assert told in done.refused[0][1]
    assert list(keeper.models()) == [MODEL]


def test_a_stored_record_of_another_schema_is_another_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = trackers.get("mlflow")
    import_folder(keeper, folder)
    monkeypatch.setattr(type(keeper), "record", lambda self, run: {"schema_version": 99})
    done = import_folder(keeper, folder)
    assert len(done.refused) == 2
    assert "keeps another record under the same id" in done.refused[0][1]


def test_what_records_do_not_tell_is_said(folder: Path) -> None:
    keeper = trackers.get("mlflow")
    first, again = import_folder(keeper, folder), import_folder(keeper, folder)
    assert "where aliases stand" in "".join(first.lines(""))
    assert "where aliases stand" not in "".join(again.lines(""))


# ── a store made again ────────────────────────────────────────────────────────────────────


@pytest.fixture
def lost(
    line: Project,
    first_release: tuple[Path, GateRecord],
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Project, int]:
    """Two releases whose store is gone, and the attempt that would have come next in it.

    The second was held against the first, and an attempt before it never came to a verdict.
    """
    keeper = trackers.get("mlflow")
    releases.policy(line, releases.PRODUCTION)
    held_out = first_release[1].splits.held_out.population
    assert held_out is not None
    keeper.reserve(MODEL, held_out=held_out, key="0" * 64)
    second = releases.released(line, WIDE_RANGE, out=line.folder / "runs" / "second")
    assert (second.verdict.outcome, second.attempt) == ("fail", 2)
    following = attempt_number(keeper.attempts(MODEL), "next", second.policy.demands)
    (line.folder / "again").mkdir()
    shutil.copyfile(empty_store, line.folder / "again" / "mlflow.db")
    monkeypatch.chdir(line.folder / "again")
    return line, following


def test_attempts_cost_what_they_did_before(
    lost: tuple[Project, int], first_release: tuple[Path, GateRecord]
) -> None:
    project, following = lost
    shutil.copytree(first_release[0] / "first", project.folder / "runs" / "first")
    keeper = trackers.get("mlflow")
    for sent in (2, 0):
        assert len(import_folder(keeper, project.folder / "runs").sent) == sent
        demands = first_release[1].policy.demands
        assert attempt_number(keeper.attempts(MODEL), "next", demands) == following == 3


def test_a_number_that_would_mean_another_release_is_refused(lost: tuple[Project, int]) -> None:
    project, _ = lost
    keeper = trackers.get("mlflow")
    done = import_folder(keeper, project.folder / "runs")
    assert (done.sent, len(done.refused)) == ((), 1)
    assert "models:/digits-cnn-int8/1, which was record" in done.refused[0][1]
    assert "In this store it is nothing yet" in done.refused[0][1]
    assert keeper.registry is not None
    assert keeper.registry.find("digits-cnn-int8", version="1") is None
