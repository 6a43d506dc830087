"""`gate diagnose`, from a record to a recipe that works."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper
from support import saturating
from support.int8 import ranges_of, recipe
from support.onnx_models import model, save, weights
from support.project import CNN, WIDE_RANGE, Project

from gate import run_gate
from gate.backends.onnxruntime import BACKEND
from gate.cli import exit_code_of
from gate.commands._diagnose_text import render
from gate.commands.diagnose import diagnosed
from gate.commands.report import load_record
from gate.diagnosis import Diagnosis
from gate.errors import RecordError, UsageError
from gate.why import NO_DATA


def made(folder: Path, candidate: Path = WIDE_RANGE, **options: Any) -> Path:
    """The folder of a run of the project in `folder`."""
    finished = run_gate(
        folder / "policy.yaml", candidate, tracker="none", threads=1, out=folder / "run", **options
    )
    return finished.folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    Project(folder)
    return made(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    """A run that may be spoilt."""
    shutil.copytree(once, tmp_path / "copy")
    return tmp_path / "copy"


def told(folder: Path, **options: Any) -> Diagnosis:
    return diagnosed(folder, **options)[1]


# ── from end to end ───────────────────────────────────────────────────────────────────────


def test_layers_slices_and_flips(once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["diagnose", str(once)]) == 0
    out = capsys.readouterr().out
    assert "lose something; on 200 examples of calibration)" in out
    assert "node_conv2d (Conv)" in out.splitlines()[3]
    assert "range outlier: channel" in out.splitlines()[4]
    assert "target=5 loses 29.17 pp of accuracy" in out
    assert "Predictions that changed: 121" in out
    assert all(len(line) < 300 for line in out.splitlines())


def test_json_holds_all_of_it(once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["diagnose", str(once), "--format", "json", "--examples", "40"]) == 0
    found = Diagnosis.model_validate(json.loads(capsys.readouterr().out))
    assert found.examples == 40
    assert sum(one.share for one in found.layers) == pytest.approx(1)
    assert found.flipped == 121
    assert len(found.flips) == 20
    margins = [flip.margin for flip in found.flips]
    assert margins == sorted(margins, reverse=True)


def test_flips_are_those_of_the_two_models(once: Path) -> None:
    first = told(once).flips[0]
    with np.load(once.parent / "held_out.npz") as archive:
        row = archive["id"].tolist().index(first.id)
        feeds = {"image": archive["image"][row : row + 1]}
        target = archive["target"][row]
    classes = [
        int(BACKEND.open(once / f"model.{kind}.onnx", threads=1).run(feeds)["logits"].argmax())
        for kind in ("fp32", "int8")
    ]
    assert first.target == str(target)
    assert [first.fp32.split()[0], first.int8.split()[0]] == [str(found) for found in classes]


def test_what_it_proposes_can_be_pasted_and_mends_it(
    once: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["diagnose", str(once)]) == 0
    text = capsys.readouterr().out.split("To try: ")[1].split("\n", 1)[1]
    project.spec["build"] |= yaml.safe_load(text)["build"]
    project.write()
    assert load_record(made(project.folder)).exit_code == 0


def test_excluding_what_is_blamed_can_be_pasted(project: Project) -> None:
    project.spec["build"]["recipe"] = {"base": "static-equalized", "equalize": True}
    project.budget(metric="size", max_ratio=0.01)
    advice = told(made(project.folder)).advice
    assert advice is not None
    project.spec["build"]["recipe"] = advice.recipe
    project.write()
    shutil.rmtree(project.folder / "run")
    assert load_record(made(project.folder)).exit_code == 1  # too large still, and it ran


def test_a_pass_can_be_diagnosed(project: Project) -> None:
    folder = made(project.folder, CNN)
    found = told(folder)
    assert found.layers
    assert found.slices == ()
    assert "none beyond chance" in render(load_record(folder), found, "text")


def test_a_rescaled_model_is_held_against_what_it_was_made_of(project: Project) -> None:
    project.spec["build"]["recipe"] = "static-equalized"
    project.budget(metric="size", max_ratio=0.01)
    found = told(made(project.folder, CNN))
    assert found.layers
    assert all(one.sqnr is None or one.sqnr > 10 for one in found.layers)


def linear(folder: Path, chosen: str) -> Path:
    policy, candidate = saturating.project(folder, chosen)
    spec = yaml.safe_load(policy.read_text())
    spec["judge"]["budgets"] = [{"metric": "size", "max_ratio": 0.01}]
    if chosen == "dynamic":
        del spec["build"]["calibration"]
    policy.write_text(yaml.safe_dump(spec))
    return made(folder, candidate)


def test_of_a_smoothed_model_no_node_is_named_that_fp32_lacks(tmp_path: Path) -> None:
    found = told(linear(tmp_path / "linear", "smoothquant"))
    assert found.layers
    assert found.advice is None or "smoothed" not in str(found.advice.recipe)


def test_a_dynamic_recipe_without_data_says_so(tmp_path: Path) -> None:
    folder = linear(tmp_path / "linear", "dynamic")
    found = told(folder)
    assert NO_DATA in found.problems
    assert (found.layers, found.advice) == ((), None)
    assert f"Not told: {NO_DATA[:40]}" in render(load_record(folder), found, "text")


def test_an_artifact_from_elsewhere(project: Project) -> None:
    chosen, feeds = recipe("static"), {"image": project.data("calibration")["image"]}
    file = project.folder / "made.onnx"
    BACKEND.quantize(WIDE_RANGE, chosen, ranges_of(WIDE_RANGE, chosen, feeds), file)
    found = told(made(project.folder, int8=file))
    assert found.layers[0].node == "node_conv2d"
    assert found.advice is None


def qoperators(folder: Path) -> Path:
    """The digits' inputs and outputs, by integer operators and names of its own."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q8"], "q"),
        helper.make_node("Reshape", ["q8", "flat"], ["f8"], "flatten"),
        helper.make_node(
            "QLinearMatMul", ["f8", "s", "z", "w", "s", "zw", "t", "z"], ["m8"], "product"
        ),
        helper.make_node("DequantizeLinear", ["m8", "t", "z"], ["logits"], "dq"),
    ]
    scalars = {"s": np.float32(1 / 255), "z": np.uint8(0), "zw": np.int8(0), "t": np.float32(0.1)}
    constants: dict[str, Any] = {name: np.array(value) for name, value in scalars.items()}
    constants["w"] = (100 * weights(64, 10)).astype(np.int8)
    constants["flat"] = np.array([-1, 64])
    proto = model(nodes, {"image": ["N", 1, 8, 8]}, {"logits": ["N", 10]}, constants)
    return save(proto, folder / "qoperator.onnx")


def test_an_artifact_of_integer_operators_is_told_as_far_as_it_goes(project: Project) -> None:
    version = onnx.load(CNN).opset_import[0].version
    file = qoperators(project.folder)
    proto = onnx.load(file)
    proto.opset_import[0].version = version
    onnx.save(proto, file)
    folder = made(project.folder, CNN, int8=file)
    found = told(folder)
    assert load_record(folder).exit_code == 1
    assert found.flipped
    assert sum(one.share for one in found.layers) == pytest.approx(1) or found.problems


def test_a_model_of_fixed_batches(project: Project) -> None:
    proto = onnx.load(WIDE_RANGE)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 50
    del proto.graph.value_info[:]
    file = save(proto, project.folder / "fixed.onnx")
    project.spec["build"]["recipe"] = {"base": "static-equalized", "calibration": "min-max"}
    project.budget(metric="size", max_ratio=0.01)
    found = told(made(project.folder, file))
    assert found.examples == 200
    assert found.flipped == len(found.flips)


# ── what is missing or was changed ────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_missing_model(run: Path, kind: str) -> None:
    (run / f"model.{kind}.onnx").unlink()
    with pytest.raises(RecordError, match=f"model.{kind}.onnx is missing"):
        told(run)
    assert exit_code_of(["diagnose", str(run)]) == 4


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_another_model(run: Path, kind: str) -> None:
    shutil.copy(CNN, run / f"model.{kind}.onnx")
    with pytest.raises(RecordError, match="is not the"):
        told(run)


def test_changed_rows(run: Path) -> None:
    with np.load(run / "rows.npz") as archive:
        rows = dict(archive)
    np.savez(run / "rows.npz", **rows)
    with pytest.raises(RecordError, match="not what record"):
        told(run)


def test_no_record(tmp_path: Path) -> None:
    assert exit_code_of(["diagnose", str(tmp_path)]) == 2


@pytest.fixture
def moved(project: Project) -> Callable[[str], tuple[Path, Path]]:
    """A run whose data of one kind are elsewhere now."""

    def move(name: str) -> tuple[Path, Path]:
        folder = made(project.folder)
        return folder, (project.folder / f"{name}.npz").rename(project.folder / "elsewhere.npz")

    return move


@pytest.mark.parametrize(
    ("name", "flag", "option"),
    [("calibration", "--calibration", "calibration"), ("held_out", "--data", "data")],
)
def test_data_that_have_moved(
    moved: Callable[[str], tuple[Path, Path]], name: str, flag: str, option: str
) -> None:
    folder, there = moved(name)
    with pytest.raises(UsageError, match=f"no longer at .*say where they are with {flag}"):
        told(folder)
    assert exit_code_of(["diagnose", str(folder)]) == 2
    found = told(folder, **{option: there})
    assert (found.layers[0].node, found.flipped) == ("node_conv2d", 121)


def test_other_data_are_refused(once: Path, project: Project) -> None:
    with pytest.raises(UsageError, match="not the calibration set of record"):
        told(once, calibration=project.folder / "held_out.npz")


def test_an_attested_record_has_no_models(project: Project) -> None:
    held_out = project.data("held_out")
    outputs = BACKEND.open(CNN, threads=1).run({"image": held_out["image"]})["logits"]
    for name, sha256 in (("fp32", "ab" * 32), ("int8", "cd" * 32)):
        project.save(
            name,
            id=held_out["id"],
            logits=outputs,
            artifact_sha256=np.array([sha256] * 1000),
            runtime=np.array(["TensorRT"] * 1000),
            device=np.array(["a phone"] * 1000),
        )
    folder = made(
        project.folder,
        None,  # type: ignore[arg-type]
        fp32_outputs=project.folder / "fp32.npz",
        int8_outputs=project.folder / "int8.npz",
    )
    with pytest.raises(RecordError, match="ran elsewhere"):
        told(folder)


def test_a_reference_is_not_run_again(project: Project) -> None:
    found = told(made(project.folder, WIDE_RANGE, reference=CNN))
    assert found.flipped
    assert found.flips == ()
    assert any("the reference model is not in" in problem for problem in found.problems)
