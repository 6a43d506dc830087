import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import connection

import gate
from gate.errors import RecordError, TrackerError
from gate.records import Comparison, GateRecord
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_store as store
from gate.trackers.mlflow import TRACKER

Kept = tuple[GateRecord, Path]
Keep = Callable[..., Kept]
SOURCE = str(Path(gate.__file__).parent.parent)
EVIDENCE = {"record.json", "report.md", "rows.npz"}
MODEL_FILES = {"MLmodel", "requirements.txt", "python_env.yaml", "model.int8.onnx"}


def files_of(client: Any, run: str, folder: str | None = None) -> set[str]:
    return {Path(file.path).name for file in client.list_artifacts(run, folder)}


def versions_of(client: Any) -> list[Any]:
    return list(client.search_model_versions("name='digits-cnn-int8'"))


# ── a run ─────────────────────────────────────────────────────────────────────────────────


def test_a_run_holds_what_the_record_says(client: Any, kept: Keep) -> None:
    record, folder = kept()
    run = client.get_run(TRACKER.log(record, folder))

    assert client.get_experiment(run.info.experiment_id).name == "gate/digits-cnn"
    assert (run.info.status, run.info.run_name) == ("FINISHED", record.id)
    assert run.info.start_time == record.created.timestamp() * 1000
    assert run.info.end_time - run.info.start_time == 3500
    expected = {"stage": "pr", "recipe": "static", "batch_size": "64", "seed": "7"}
    assert run.data.params.items() >= expected.items()
    assert run.data.params["confidence"] == "0.95"
    assert run.data.params["budget/accuracy.max_drop"] == "0.01"
    assert run.data.params["budget/accuracy.max_drop::5b:each site::5d:"] == "0.03"
    assert run.data.metrics["accuracy/fp32"] == 0.961
    assert run.data.metrics["accuracy.max_drop/upper"] == 0.005
    assert run.data.metrics["accuracy.max_drop/site:north/drop"] == 0.002
    assert run.data.metrics["size.max_ratio/int8"] == 30000
    assert run.data.metrics["seconds/quantize"] == 1.5
    assert run.data.tags["mlflow.note.content"] == (folder / "report.md").read_text()


def test_the_tags_hold_whole_hashes_and_the_machine(client: Any, kept: Keep) -> None:
    record, folder = kept(outcome="fail")
    tags = client.get_run(TRACKER.log(record, folder)).data.tags
    assert {
        "gate.outcome": "fail",
        "gate.complete": "true",
        "gate.stage": "pr",
        "gate.record": record.id,
        "gate.candidate": record.candidate.sha256,
        "gate.int8_sha256": record.int8.sha256,
        "gate.held_out": record.splits.held_out.sha256,
        "gate.calibration": record.splits.calibration.sha256 if record.splits.calibration else "",
        "gate.policy": record.provenance.policy_sha256,
        "gate.rows": record.rows_sha256,
        "gate.git": "a" * 40 + "-dirty",
        "mlflow.source.git.commit": "a" * 40,
        "gate.cpu": "Xeon x86_64 avx512_vnni",
        "gate.onnxruntime": "1.31.1",
        "gate.metric": "accuracy.max_drop",
        "gate.blocked": "accuracy.max_drop",
    }.items() <= tags.items()


def test_splits_are_dataset_inputs_with_their_whole_hash(client: Any, kept: Keep) -> None:
    record, folder = kept()
    inputs = client.get_run(TRACKER.log(record, folder)).inputs.dataset_inputs
    found = {tag.value: item for item in inputs for tag in item.tags if "context" in tag.key}
    assert set(found) == {"held_out", "calibration"}
    held_out = found["held_out"]
    assert held_out.dataset.digest == record.splits.held_out.sha256[:36]
    assert held_out.dataset.name == "held_out.npz"
    assert json.loads(held_out.dataset.profile)["examples"] == 1000
    assert record.splits.held_out.sha256 in {tag.value for tag in held_out.tags}


def test_a_pull_request_sends_its_evidence_and_no_model(client: Any, kept: Keep) -> None:
    run = TRACKER.log(*kept())
    assert files_of(client, run) == EVIDENCE
    assert versions_of(client) == []


def test_artifacts_lie_beside_the_database(workplace: Path, client: Any, kept: Keep) -> None:
    run = TRACKER.log(*kept())
    assert (workplace / "mlruns/gate/digits-cnn" / run / "artifacts/record.json").is_file()


def test_more_metrics_than_one_request_may_hold(client: Any, kept: Keep) -> None:
    shape = {"metric": "accuracy", "n": 9, "method": "m", "reference": 0.5, "degradation": 0.0}
    many = tuple(Comparison(**shape, slice=f"class={i}", int8=i / 1000) for i in range(400))
    run = client.get_run(TRACKER.log(*kept(comparisons=many)))
    assert len(run.data.metrics) > 1200
    assert run.data.metrics["accuracy/class:399/int8"] == 0.399


def test_a_long_verdict_is_cut_where_one_sees_it(client: Any, kept: Keep) -> None:
    record, folder = kept()
    (folder / "report.md").write_text("x" * 20_000)
    note = client.get_run(TRACKER.log(record, folder)).data.tags["mlflow.note.content"]
    assert len(note) == 8000
    assert note.endswith(" … (cut)")


# ── a release ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # its own import
@pytest.mark.parametrize("external", [False, True])
def test_a_release_registers_the_judged_bytes(
    workplace: Path, client: Any, kept: Keep, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.artifacts
    import mlflow.onnx

    record, folder = kept(stage="release", external=external)
    run = TRACKER.log(record, folder)
    version = versions_of(client)[0]
    assert (version.run_id, client.get_run(run).data.tags["gate.version"]) == (run, "1")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlflow.db'}")
    uri = "models:/digits-cnn-int8/1"
    copy = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(workplace / "copy")))
    data = yaml.safe_load((copy / "MLmodel").read_text())["flavors"]["onnx"]["data"]
    files = sorted(copy.glob(f"{data}*"))
    assert len(files) == 1 + external
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert digest == record.int8.sha256
    assert set(os.listdir(copy)) >= MODEL_FILES
    weights = onnx.numpy_helper.to_array(mlflow.onnx.load_model(uri).graph.initializer[0])
    assert weights.tolist() == np.ones((4, 2)).tolist()


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_a_version_says_where_it_comes_from_and_what_it_came_to(
    client: Any, kept: Keep, outcome: str
) -> None:
    record, folder = kept(stage="release", outcome=outcome)
    TRACKER.log(record, folder)
    assert {
        "gate.outcome": outcome,
        "gate.record": record.id,
        "gate.candidate": record.candidate.sha256,
        "gate.source": "models:/digits-cnn/3",
        "gate.int8_sha256": record.int8.sha256,
        "gate.stage": "release",
    }.items() <= versions_of(client)[0].tags.items()
    assert client.get_registered_model("digits-cnn-int8").aliases == {}
    assert TRACKER.past("digits-cnn")[0].version == "1"


def test_a_signature_shows_the_inputs(client: Any, kept: Keep, tmp_path: Path) -> None:
    run = TRACKER.log(*kept(stage="release"))
    file = client.download_artifacts(run, "model/MLmodel", str(tmp_path))
    described = yaml.safe_load(Path(file).read_text())
    shape = json.loads(described["signature"]["inputs"])[0]["tensor-spec"]["shape"]
    assert shape == [-1, 4]
    assert (
        "onnxruntime==1.31.1"
        in Path(client.download_artifacts(run, "model/requirements.txt", str(tmp_path))).read_text()
    )


def test_a_model_that_was_not_judged_is_not_registered(client: Any, kept: Keep) -> None:
    record, folder = kept(stage="release")
    with (folder / "model.int8.onnx").open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(TrackerError, match="not the model that was judged"):
        TRACKER.log(record, folder)
    assert TRACKER.past("digits-cnn") == ()
    assert versions_of(client) == []


@pytest.mark.parametrize("name", ["record.json", "model.int8.onnx"])
def test_a_folder_without_its_files_is_refused(workplace: Path, kept: Keep, name: str) -> None:
    record, folder = kept(stage="release")
    (folder / name).unlink()
    with pytest.raises(TrackerError, match=f"holds no {name}"):
        TRACKER.log(record, folder)


def test_a_missing_folder_is_refused(workplace: Path, kept: Keep) -> None:
    with pytest.raises(TrackerError, match="cannot be read"):
        TRACKER.log(kept()[0], workplace / "nowhere")


# ── once, and whole ───────────────────────────────────────────────────────────────────────


def test_the_same_record_again_is_the_same_run(client: Any, kept: Keep) -> None:
    record, folder = kept(stage="release")
    run = TRACKER.log(record, folder)
    before = client.get_run(run).to_dictionary()
    assert TRACKER.log(record, folder) == run
    assert client.get_run(run).to_dictionary() == before
    assert len(TRACKER.past("digits-cnn")) == len(versions_of(client)) == 1


CUTS = (
    "log_artifact",
    "log_artifacts",
    "create_model_version",
    "log_inputs",
    "log_batch",
    "set_terminated",
)


@pytest.mark.parametrize(
    ("cut", "kind"), [*((cut, OSError) for cut in CUTS), ("log_artifact", KeyboardInterrupt)]
)
def test_a_run_that_is_cut_short_is_no_pass_and_can_be_completed(
    client: Any, kept: Keep, cut: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def fail(*_: Any, **__: Any) -> None:
        raise kind("the disk is full")

    record, folder = kept(stage="release")
    expected = TrackerError if kind is OSError else kind
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, cut, fail)
        with pytest.raises(expected, match="disk is full"):
            TRACKER.log(record, folder)
    (half,) = TRACKER.past("digits-cnn")
    assert half.outcome == "incomplete"
    assert "outcome" not in half.tags
    assert all("gate.outcome" not in version.tags for version in versions_of(client))

    run = TRACKER.log(record, folder)
    (whole,) = TRACKER.past("digits-cnn")
    assert (whole.run, whole.outcome, whole.version) == (half.run, "pass", "1")
    assert files_of(client, run) == EVIDENCE | {"model"}
    assert files_of(client, run, "model") == MODEL_FILES
    assert len(versions_of(client)) == 1
    assert len(client.get_run(run).inputs.dataset_inputs) == 2
    assert len(client.get_metric_history(run, "accuracy/fp32")) == 1


def test_a_version_shows_no_verdict_before_its_run_and_gets_it_with_the_record_sent_again(
    client: Any, kept: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    record, folder = kept(stage="release")
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "set_model_version_tag", fail)
        with pytest.raises(TrackerError, match="disk is full"):
            TRACKER.log(record, folder)
    assert [run.outcome for run in TRACKER.past("digits-cnn")] == ["pass"]
    (version,) = versions_of(client)
    assert "gate.outcome" not in version.tags
    TRACKER.log(record, folder)
    (version,) = versions_of(client)
    assert version.tags["gate.outcome"] == "pass"


def test_the_outcome_is_the_last_thing_written(
    client: Any, kept: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    log_batch = mlflow.MlflowClient.log_batch

    def all_but_the_last(self: Any, run_id: str, **what: Any) -> Any:
        if any(tag.key == "gate.outcome" for tag in what.get("tags", ())):
            raise KeyboardInterrupt
        return log_batch(self, run_id, **what)

    record, folder = kept()
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "log_batch", all_but_the_last)
        with pytest.raises(KeyboardInterrupt):
            TRACKER.log(record, folder)
    assert TRACKER.past("digits-cnn")[0].outcome == "incomplete"


def test_a_deleted_experiment_is_named(client: Any, kept: Keep) -> None:
    TRACKER.log(*kept(0))
    experiment = client.get_experiment_by_name("gate/digits-cnn")
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackerError, match="'gate/digits-cnn' is deleted; restore it with"):
        TRACKER.log(*kept(1))


# ── reading back ──────────────────────────────────────────────────────────────────────────


def test_past_runs_come_newest_first_with_errors(client: Any, kept: Keep) -> None:
    late = TRACKER.log(*kept(5, stage="release"))
    early = TRACKER.log(*kept(1, outcome="inconclusive"))
    TRACKER.log_error("digits-cnn", stage="pr", source="models/x.onnx", error="nothing to quantize")
    client.create_run(client.get_experiment_by_name("gate/digits-cnn").experiment_id)

    runs = TRACKER.past("digits-cnn")
    assert [run.outcome for run in runs] == ["error", "pass", "inconclusive"]
    assert [run.run for run in runs[1:]] == [late, early]
    assert (runs[0].candidate, runs[0].tags["error"]) == ("models/x.onnx", "nothing to quantize")
    assert client.get_run(runs[0].run).info.status == "FAILED"
    assert runs[1].when.isoformat() == "2026-03-01T17:00:00+00:00"
    assert runs[1].metrics["accuracy.max_drop/site=süd, [a=b]/c:d/drop"] == 0.002


def test_an_outcome_that_nobody_knows_is_not_believed(client: Any, kept: Keep) -> None:
    run = TRACKER.log(*kept())
    client.set_tag(run, "gate.outcome", "PASSED")
    assert TRACKER.past("digits-cnn")[0].outcome == "incomplete"


def test_a_long_error_is_cut_where_one_sees_it(client: Any, workplace: Path) -> None:
    TRACKER.log_error("m", stage="pr", source="s" * 9000, error="e" * 9000)
    tags = TRACKER.past("m")[0].tags
    assert len(tags["error"]) == len(tags["source"]) == 8000
    assert tags["error"].endswith("(cut)")


def test_the_record_comes_back_whole(workplace: Path, kept: Keep) -> None:
    record, folder = kept()
    run = TRACKER.log(record, folder)
    assert GateRecord.model_validate(TRACKER.record(run)) == record
    assert TRACKER.record("0" * 32) is None


def test_a_record_whose_file_is_gone_is_none(workplace: Path, kept: Keep) -> None:
    run = TRACKER.log(*kept())
    next(workplace.rglob("artifacts/record.json")).unlink()
    assert TRACKER.record(run) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"a": NaN}', ""])
def test_a_damaged_record_is_an_error(workplace: Path, kept: Keep, text: str) -> None:
    run = TRACKER.log(*kept())
    next(workplace.rglob("artifacts/record.json")).write_text(text)
    with pytest.raises(RecordError, match=rf"record.json of run {run} .* is damaged"):
        TRACKER.record(run)


def test_models_are_those_with_experiments(client: Any, kept: Keep) -> None:
    client.create_experiment("someone else's")
    TRACKER.log(*kept())
    TRACKER.log_error("another", stage="pr", source="s", error="e")
    assert TRACKER.models() == ("another", "digits-cnn")


def test_reading_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (TRACKER.past("m"), TRACKER.models(), TRACKER.record("r")) == ((), (), None)
    assert list(tmp_path.iterdir()) == []


# ── where, and how fast ───────────────────────────────────────────────────────────────────


def test_a_relative_database_is_held_to_the_folder_it_was_named_in(
    workplace: Path, kept: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "mlflow.db").rename(workplace / "own name.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own name.db")
    run = TRACKER.log(*kept())
    assert (workplace / "mlruns/gate/digits-cnn" / run / "artifacts/record.json").is_file()
    assert TRACKER.where() == f"mlflow ui --backend-store-uri sqlite:///{workplace}/own name.db"


@pytest.mark.parametrize("name", ["50%41", "a%20b", "c:d", "e?f"])
def test_any_folder_can_hold_a_database(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (workplace / name).mkdir()
    shutil.copyfile(workplace / "mlflow.db", workplace / name / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(workplace / name)
    place = store.locate()
    assert place.file == workplace / name / "mlflow.db"
    assert not place.missing
    assert TRACKER.reserve("m", held_out="a" * 64, key="k") is not None
    assert TRACKER.models() == ("m",)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    assert store.locate() == place


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///file:x.db?uri=true"])
def test_what_is_no_path_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert (store.locate().uri, store.locate().file) == (uri, None)


def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def attempts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fills with the addresses that are connected to, one for each try."""
    tried: list[object] = []
    connect = connection.create_connection

    def counted(address: Any, *arguments: Any, **options: Any) -> Any:
        tried.append(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(connection, "create_connection", counted)
    return tried


def test_a_dead_server_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    port = dead_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s3cret@127.0.0.1:{port}")
    before, tried = dict(os.environ), attempts(monkeypatch)
    with pytest.raises(TrackerError) as caught:
        TRACKER.prepare()
    assert 1 <= len(tried) <= 2
    assert dict(os.environ) == before
    assert str(caught.value).startswith(f"MLflow at http://127.0.0.1:{port}: no connection: ")
    assert "Connection refused" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert TRACKER.where() == f"http://127.0.0.1:{port}"


def test_a_server_that_never_answers_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int(store.PROMPT["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * 2 + 1 < 10
    monkeypatch.setitem(store.PROMPT, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tried = attempts(monkeypatch)
        with pytest.raises(TrackerError, match=r"timed out|timeout"):
            TRACKER.prepare()
    assert 1 <= len(tried) <= 2  # of a second each, whatever the user has set
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_every_call_says_that_the_server_is_dead(
    monkeypatch: pytest.MonkeyPatch, kept: Keep
) -> None:
    record, folder = kept()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{dead_port()}")
    calls: tuple[Callable[[], object], ...] = (
        lambda: TRACKER.log(record, folder),
        lambda: TRACKER.log_error("m", stage="pr", source="s", error="e"),
        lambda: TRACKER.past("m"),
        TRACKER.models,
        lambda: TRACKER.record("r"),
    )
    for call in calls:
        with pytest.raises(TrackerError, match="Connection refused"):
            call()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nosuch://x", "nosuch://x"),
        ("http://[::", "is not a URI"),
        ("sqlite:////proc/nowhere/m.db", "sqlite:////proc/nowhere/m.db"),
    ],
)
def test_a_wrong_uri_is_named(monkeypatch: pytest.MonkeyPatch, uri: str, message: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackerError, match=message.replace("[", r"\[")):
        TRACKER.prepare()


def test_a_file_that_is_no_database_is_told_at_once(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "mlflow.db").write_text("not a database" * 100)
    from mlflow.store.db import utils

    slept: list[float] = []
    monkeypatch.setattr(utils, "time", SimpleNamespace(sleep=slept.append))
    with pytest.raises(TrackerError, match=r"mlflow\.db: file is not a database"):
        TRACKER.prepare()
    assert slept == []  # MLflow itself tries again for 100 s


def test_what_an_interrupted_start_left_is_replaced(workplace: Path) -> None:
    (workplace / "mlflow.db").unlink()
    (workplace / "mlflow.db.partial").write_text("half a database")
    TRACKER.prepare()
    assert {path.name for path in workplace.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert TRACKER.past("m") == ()


# ── what it leaves behind ─────────────────────────────────────────────────────────────────


def test_the_process_is_left_as_it_was(
    workplace: Path, kept: Keep, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    uri, level = mlflow.get_tracking_uri(), logging.getLogger("mlflow").level
    before = dict(os.environ)
    TRACKER.prepare()
    TRACKER.log(*kept(stage="release"))
    TRACKER.past("digits-cnn")
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    assert (mlflow.get_tracking_uri(), logging.getLogger("mlflow").level) == (uri, level)
    assert mlflow.active_run() is None


# ── names ─────────────────────────────────────────────────────────────────────────────────

PARTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=2)


@given(PARTS)
def test_any_slice_becomes_a_legal_metric_name_and_comes_back(values: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric

    slices = [f"column={value}" for value in values]
    key = content.encode("accuracy.max_drop", *slices, "drop")
    _validate_metric(key, 0.0, 0, 0)
    if len(key) < content.LONGEST_KEY:
        assert content.decode(key) == "/".join(("accuracy.max_drop", *slices, "drop"))


@given(st.lists(st.text("=:/a,5b", max_size=12), unique=True, min_size=2, max_size=2))
def test_different_slices_have_different_names(values: list[str]) -> None:
    first, second = (content.encode("m", f"c={value}", "drop") for value in values)
    assert first != second


def test_a_name_that_is_too_long_ends_with_a_hash() -> None:
    keys = {content.encode("m", f"c={'x' * 300}{end}", "drop") for end in "ab"}
    assert len(keys) == 2
    assert all(len(key) == 250 and key.endswith("/drop") for key in keys)
