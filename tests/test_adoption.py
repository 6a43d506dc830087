"""What a candidate says of itself, filled into a policy; and a language model gated end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import language_model as lm

from gate.adoption import adopted
from gate.cli import exit_code_of
from gate.errors import PolicyError
from gate.pipeline import Finished, run_gate
from gate.policy_file import LoadedPolicy, load_policy

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lm.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def finished(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    return run_gate(lm.project(folder), saved, out=folder / "out", tracker="none")


def filled(policy: Path, saved: Path, **given: Any) -> tuple[LoadedPolicy, tuple[str, ...]]:
    own = {"classes": lm.LABELS, "tokenizer": saved / "tokenizer.json"} | given
    return adopted(load_policy(policy), name="m", **own)


# ── the policy ────────────────────────────────────────────────────────────────────────────


def test_what_the_policy_leaves_open_is_the_candidates(tmp_path: Path, saved: Path) -> None:
    written = load_policy(lm.project(tmp_path))
    found, told = filled(written.file, saved)
    assert found.policy.build.classes == ("neg", "pos")
    assert told == ("classes from its label map: neg, pos", "its own tokenizer.json")
    preprocess = found.policy.build.preprocess
    assert preprocess is not None
    assert preprocess.tokenizer is not None
    assert preprocess.tokenizer.own == saved / "tokenizer.json"
    assert preprocess.tokenizer.sha256 is not None
    assert found.sha256 != written.sha256  # it is judged by more than was written


def test_what_the_policy_says_stays(tmp_path: Path, saved: Path) -> None:
    tokenizer = {"file": "tokenizer.json", "max_length": lm.LENGTH}
    policy = lm.project(tmp_path, classes=["neg", "pos"], preprocess={"tokenizer": tokenizer})
    shutil.copy(saved / "tokenizer.json", tmp_path)
    found, told = filled(policy, saved)
    assert (found.policy.build, told) == (load_policy(policy).policy.build, ())


@pytest.mark.slow
def test_onnx_says_nothing_of_itself(tmp_path: Path) -> None:
    tokenizer = {"file": "tokenizer.json", "max_length": lm.LENGTH}
    policy = lm.project(tmp_path, preprocess={"tokenizer": tokenizer})
    shutil.copy(lm.save(tmp_path / "m") / "tokenizer.json", tmp_path)
    loaded = load_policy(policy)
    assert adopted(loaded, name="m", classes=(), tokenizer=None) == (loaded, ())


@pytest.mark.parametrize("classes", [["pos", "neg"], ["neg", "pos", "mixed"]])
def test_other_classes_than_the_label_map_are_an_error(
    tmp_path: Path, saved: Path, classes: list[str]
) -> None:
    policy = lm.project(tmp_path, classes=classes)
    with pytest.raises(PolicyError, match=r"policy\.yaml:\d+:\d+: .*label map of candidate m says"):
        filled(policy, saved)


def test_a_tokenizer_of_another_vocabulary_is_an_error(tmp_path: Path, saved: Path) -> None:
    told = json.loads((saved / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (tmp_path / "other.json").write_text(json.dumps(told))
    tokenizer = {"file": "other.json", "max_length": lm.LENGTH}
    policy = lm.project(tmp_path, preprocess={"tokenizer": tokenizer})
    with pytest.raises(PolicyError, match="another vocabulary than the tokenizer"):
        filled(policy, saved)


def test_a_tokenizer_that_neither_names_is_an_error(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(PolicyError, match=r"names no `file`, and candidate m brings no"):
        filled(lm.project(tmp_path), saved, tokenizer=None)


# ── end to end ────────────────────────────────────────────────────────────────────────────


def test_a_folder_passes_and_the_record_tells_what_was_taken_from_it(finished: Finished) -> None:
    record = finished.record
    assert finished.exit_code == 0
    assert record.candidate.steps[:3] == (
        "safetensors to ONNX, any number of tokens",
        "classes from its label map: neg, pos",
        "its own tokenizer.json",
    )
    assert record.policy.build.classes == ("neg", "pos")
    assert (finished.folder / "tokenizer.json").is_file()


def test_its_record_is_judged_again_and_replayed_from_its_folder(finished: Finished) -> None:
    record = finished.folder / "record.json"
    assert exit_code_of(["judge", str(record)]) == 0
    assert exit_code_of(["replay", str(record), "--examples", "50"]) == 0


def test_a_record_without_its_tokenizer_cannot_be_replayed(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    (folder / "tokenizer.json").unlink()
    assert exit_code_of(["replay", str(folder / "record.json")]) == 4
    assert "tokenizer.json is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_mlflows_transformers_flavour_of_a_registered_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("reviews")
    for name, model in (("good", None), ("spoilt", lm.spoilt())):
        client.create_model_version("reviews", lm.log(tmp_path / name, model).as_uri())
    policy = lm.project(tmp_path / "project")
    codes = {}
    for version in (1, 2):
        out = tmp_path / f"out-{version}"
        asked = ["run", str(policy), "--candidate", f"models:/reviews/{version}"]
        codes[version] = exit_code_of([*asked, "--tracker", "none", "--out", str(out)])
        record = json.loads((out / "record.json").read_text())
        assert record["candidate"]["source"] == f"models:/reviews/{version}"
    assert codes == {1: 0, 2: 1}
