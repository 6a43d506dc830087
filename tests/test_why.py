"""A run that fails says why; nothing about that changes what it says."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml
from support import saturating
from support.int8 import ranges_of, recipe
from support.project import CNN, WIDE_RANGE, Project

from gate import diagnose, why
from gate.backends.onnxruntime import BACKEND
from gate.cli import exit_code_of
from gate.diagnosis import Diagnosis
from gate.errors import CandidateError
from gate.pipeline import Finished, run_gate
from gate.recipes import RECIPES
from gate.values import Split

SECTION = "Why (the whole of it: gate diagnose)"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def judged(project: Project, candidate: Path = WIDE_RANGE, **options: Any) -> Finished:
    return run_gate(project.policy, candidate, tracker="none", threads=1, **options)


def told(finished: Finished) -> Diagnosis:
    assert finished.record.diagnosis is not None
    return finished.record.diagnosis


def reports(finished: Finished) -> list[str]:
    return [path.read_text() for path in finished.folder.glob("*.md")]


def test_a_failed_run_tells_why(project: Project) -> None:
    finished = judged(project)
    assert finished.verdict.outcome == "fail"
    found = told(finished)
    assert (found.examples, found.split) == (64, "calibration")
    assert found.layers[0].node == "node_conv2d"
    assert found.layers[0].cause is not None
    assert found.layers[0].cause.name == "range outlier"
    assert found.slices[0].slice == "target=5"
    assert found.advice is not None
    assert "diagnose" in finished.record.durations
    written = json.loads((finished.folder / "record.json").read_text())
    assert written["diagnosis"]["layers"][0]["node"] == "node_conv2d"
    assert reports(finished)
    assert all(SECTION in text and "node_conv2d" in text for text in reports(finished))


def test_the_text_report_has_it(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    finished = judged(project)
    for format_ in ("text", "markdown"):
        assert exit_code_of(["report", str(finished.folder), "--format", format_]) in (0, 1)
        assert SECTION in capsys.readouterr().out


def test_a_pass_has_nothing_to_tell(project: Project) -> None:
    finished = judged(project, CNN)
    assert finished.verdict.outcome == "pass"
    assert finished.record.diagnosis is None
    assert "diagnose" not in finished.record.durations
    assert all(SECTION not in text for text in reports(finished))


def test_what_cannot_be_diagnosed_fails_all_the_same(project: Project) -> None:
    plain = judged(project)
    broken = CandidateError("they cannot be held against each other")
    with mock.patch.object(type(BACKEND), "probe", side_effect=broken):
        finished = judged(project)
    assert finished.verdict == plain.verdict
    assert finished.exit_code == plain.exit_code == 1
    found = told(finished)
    assert found.layers == ()
    assert found.slices == told(plain).slices
    assert found.problems[-1] == "layers are not compared: they cannot be held against each other"
    assert all("cannot be held against each other" in text for text in reports(finished))


def linear(folder: Path, **build: Any) -> Finished:
    """A matrix product by a dynamic recipe, too large."""
    policy, candidate = saturating.project(folder, "dynamic")
    spec = yaml.safe_load(policy.read_text())
    spec["build"] = {"recipe": "dynamic", **build}
    spec["judge"]["budgets"] = [{"metric": "size", "max_ratio": 0.01}]
    policy.write_text(yaml.safe_dump(spec))
    return run_gate(policy, candidate, tracker="none", threads=1)


def test_without_data_to_look_at_it_says_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = linear(tmp_path / "linear")
    assert finished.exit_code == 1
    assert why.NO_DATA in told(finished).problems
    assert told(finished).layers == ()


def test_a_dynamic_recipe_is_compared_on_tuning_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = told(linear(tmp_path / "linear", tuning={"path": "calibration.npz"}))
    assert (found.split, found.examples) == ("tuning", 64)
    assert [one.node for one in found.layers] == ["fc"]
    assert found.advice is None  # without its only layer nothing would be INT8


def test_an_artifact_from_elsewhere_gets_no_recipe(project: Project) -> None:
    chosen, feeds = recipe("static"), {"image": project.data("calibration")["image"]}
    ranges = ranges_of(WIDE_RANGE, chosen, feeds)
    BACKEND.quantize(WIDE_RANGE, chosen, ranges, project.folder / "made.onnx")
    found = told(judged(project, int8=project.folder / "made.onnx"))
    assert found.advice is None
    assert found.layers[0].node == "node_conv2d"


def test_a_smoothed_model_is_held_against_what_it_was_made_of(project: Project) -> None:
    project.spec["build"]["recipe"] = {"base": "static-equalized", "weight_type": "int8"}
    project.budget(metric="accuracy", at_least=0.999)
    found = told(judged(project))
    assert found.layers
    assert min(one.sqnr or 99.0 for one in found.layers) > 10


def test_batches_are_what_the_models_take() -> None:
    ids = np.arange(100).astype(str)
    split = Split(
        name="calibration",
        source="",
        ids=ids,
        explicit_ids=True,
        inputs={"x": np.zeros((100, 2))},
        targets=None,
        slices={},
        unit=None,
        sha256="",
        content=ids,
        population="",
        order=np.arange(100),
        prepare=lambda values: values,
    )
    for fixed, chosen, sizes in (
        (None, RECIPES["static"], [8] * 8),
        (None, None, [8] * 8),
        (None, RECIPES["dynamic"], [1] * 64),
        (5, RECIPES["static"], [5] * 12),
        (100, RECIPES["static"], [100]),
    ):
        found = why.some(split, 64, fixed=fixed, recipe=chosen)
        assert [len(batch.ids) for batch in found] == sizes


def test_nan_in_int8_does_not_stop_it(project: Project) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise CandidateError("NaN")

    with mock.patch.object(diagnose, "observe", broken):
        assert judged(project).exit_code == 1


@pytest.mark.parametrize("broken", ["losing_slices", "observe"])
def test_a_defect_of_the_diagnosis_changes_no_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("out of cheese")

    monkeypatch.setattr(diagnose, broken, crash)
    finished = judged(project)
    assert finished.exit_code == 1
    assert "a defect of the gate, ZeroDivisionError: out of cheese" in told(finished).problems[-1]
