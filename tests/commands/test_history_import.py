import json
import shutil
from pathlib import Path

import pytest
from support.project import CNN, Project

import gate
from gate import trackers
from gate.commands._history_import import import_folder
from gate.commands.history import command, history
from gate.errors import UsageError
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


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, made once: its migrations take seconds."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        trackers.get("mlflow").prepare()
    return folder / "mlflow.db"


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
