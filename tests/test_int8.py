"""An INT8 model made elsewhere is judged as it came; a recipe's is calibrated once."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.int8 import ranges_of, recipe
from support.onnx_models import batched_product, cnn, save
from support.project import CNN, Project

from gate import artifact, calibrate, errors, recipes
from gate.backends.onnxruntime import BACKEND
from gate.facts import facts
from gate.pipeline import run_gate
from gate.records import GateRecord

BROKEN = onnx.helper.make_model(
    onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["nothing"], ["y"])],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
).SerializeToString()
"""ONNX that no runtime loads."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def judged(project: Project, int8: Path | None = None, **options: object) -> GateRecord:
    found = run_gate(project.policy, CNN, tracker="none", int8=int8, **options)  # type: ignore[arg-type]
    return found.record


def made(project: Project, base: str = "static", **changes: Any) -> Path:
    chosen = recipe(base, **changes)
    feeds = {"image": project.data("calibration")["image"]}
    ranges = ranges_of(CNN, chosen, feeds) if chosen.needs_calibration else {}
    BACKEND.quantize(CNN, chosen, ranges, project.folder / f"{base}.onnx")
    return project.folder / f"{base}.onnx"


# ── made elsewhere ────────────────────────────────────────────────────────────────────────


def test_an_artifact_is_judged_byte_for_byte(project: Project) -> None:
    project.spec["judge"]["budgets"] += [
        {"metric": "size", "max_ratio": 0.5},
        {"metric": "int8_share", "at_least": 0.9},
    ]
    project.write()
    file = made(project)
    record = judged(project, file)
    assert record.verdict.outcome == "pass"
    assert record.int8.sha256 == artifact.sha256_of(file)
    assert record.int8.recipe is None
    assert record.int8.source == str(file)
    assert record.int8.quantized_nodes
    assert "calibrate" not in record.durations
    written = GateRecord.model_validate_json(record.model_dump_json())
    assert written == record


def test_weights_beside_the_artifact_come_along(project: Project) -> None:
    model = onnx.load(made(project))
    onnx.save_model(
        model, project.folder / "large.onnx", save_as_external_data=True, size_threshold=0
    )
    whole, split = judged(project, made(project)), judged(project, project.folder / "large.onnx")
    assert split.verdict == whole.verdict


def test_a_damaged_artifact_fails(project: Project) -> None:
    model = onnx.load(made(project))
    int8 = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    weights = max(int8, key=lambda tensor: tensor.ByteSize())
    nothing = onnx.numpy_helper.to_array(weights) * np.int8(0)
    weights.CopyFrom(onnx.numpy_helper.from_array(nothing, weights.name))
    onnx.save(model, project.folder / "damaged.onnx")
    assert judged(project, project.folder / "damaged.onnx").verdict.outcome == "fail"


def test_fp32_in_its_place_is_no_int8(project: Project) -> None:
    with pytest.raises(errors.QuantizationError, match="runs no integer kernel"):
        judged(project, CNN)


def test_an_artifact_of_another_model_is_refused(project: Project) -> None:
    chosen, feeds = recipe(), {"image": project.data("calibration")["image"]}
    other = onnx.load(save(cnn(), project.folder / "other.onnx"))
    other.graph.input[0].name = other.graph.node[0].input[0] = "picture"
    path = save(other, project.folder / "other.onnx")
    ranges = ranges_of(path, chosen, {"picture": feeds["image"]})
    BACKEND.quantize(path, chosen, ranges, project.folder / "wrong.onnx")
    with pytest.raises(errors.QuantizationError, match=r"inputs are .*picture"):
        judged(project, project.folder / "wrong.onnx")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("no.onnx", None, errors.UsageError),
        ("empty.onnx", b"", errors.CandidateError),
        ("garbage.onnx", b"not a model", errors.CandidateError),
        ("broken.onnx", BROKEN, errors.CandidateError),
        ("model.pt2", b"PK", errors.UsageError),
    ],
)
def test_what_is_no_artifact_is_refused(
    project: Project, name: str, content: bytes | None, error: type[errors.GateError]
) -> None:
    if content is not None:
        (project.folder / name).write_bytes(content)
    with pytest.raises(error, match=name):
        judged(project, project.folder / name)


def test_dynamic_artifacts_are_judged_one_example_at_a_time(project: Project) -> None:
    project.change("held_out", lambda columns: columns.update(_first(columns, 100)))
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    dynamic = made(project, "dynamic", op_types=["Conv", "Gemm"])
    assert judged(project, dynamic).provenance.batch_size == 1
    assert judged(project, made(project)).provenance.batch_size > 1


def test_two_artifacts_of_a_candidate_are_two_attempts(project: Project) -> None:
    first, second = (judged(project, made(project, base)) for base in ("static", "static-7bit"))
    assert first.int8.origin != second.int8.origin
    assert judged(project).int8.origin.startswith("{")


# ── recipes ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["static-percentile", "static-entropy", "static-mse", "smoothquant"]
)
def test_a_recipe_with_ranges_of_its_own_passes(project: Project, name: str) -> None:
    types = {"op_types": ["Conv", "Gemm"]} if name == "smoothquant" else {}
    project.spec["build"]["recipe"] = {"base": name, **types}
    project.write()
    record = judged(project)
    assert record.verdict.outcome == "pass"
    assert record.int8.recipe is not None
    assert record.int8.recipe.name == name
    assert ("rescale" in record.durations) == (name == "smoothquant")


@pytest.mark.parametrize(
    ("target", "activations", "reduced"),
    [("x86-vnni", "uint8", False), ("x86", "uint8", True), ("arm64", "int8", False)],
)
def test_a_target_chooses_the_integer_types(
    project: Project, target: str, activations: str, reduced: bool
) -> None:
    project.spec["build"]["recipe"] = {"base": "static-mse", "target": target}
    project.write()
    made_by = judged(project).int8.recipe
    assert made_by is not None
    assert (made_by.activation_type, made_by.reduce_range) == (activations, reduced)
    assert made_by.target == target


# ── what was calibrated before ────────────────────────────────────────────────────────────


def test_a_second_run_takes_what_the_first_one_saw(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(project)

    def untimely(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(type(BACKEND), "open_exposed", untimely)
    project.spec["build"]["recipe"] = {"base": "static", "calibration": "entropy"}
    project.write()
    assert judged(project).int8.sha256 != first.int8.sha256
    project.spec["build"]["recipe"] = "static"
    project.write()
    assert judged(project).int8.sha256 == first.int8.sha256


def test_a_cached_pass_over_other_tensors_is_not_used(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(project)
    monkeypatch.setattr(calibrate.Cache, "load", lambda *_: {})
    assert judged(project).int8.sha256 == first.int8.sha256


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": "tensorrt", "activation_type": "uint8"}, "asks for `activation_type: int8`"),
        ({"target": "x86", "reduce_range": False}, "asks for `reduce_range: true`"),
        ({"base": "dynamic", "target": "arm64"}, "takes int8 activations"),
    ],
)
def test_a_refinement_does_not_take_back_its_target(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        recipes.resolve({"base": "static"} | changes)


def test_a_range_of_a_tensor_that_is_not_there_is_refused(project: Project) -> None:
    project.spec["build"]["recipe"] = {"base": "static", "overrides": {"nope": "mse"}}
    project.write()
    with pytest.raises(errors.QuantizationError, match="overrides names 'nope'"):
        judged(project)


@pytest.mark.parametrize(
    "changes", [{"correct_bias": True}, {"overrides": {"relu": "percentile"}}, {"equalize": True}]
)
def test_refinements_pass_and_give_the_same_bytes_again(
    project: Project, changes: dict[str, Any]
) -> None:
    plain = judged(project)
    project.spec["build"]["recipe"] = {"base": "static", **changes}
    project.write()
    first, second = judged(project), judged(project)
    assert first.verdict.outcome == "pass"
    assert first.int8.sha256 == second.int8.sha256 != plain.int8.sha256


@pytest.mark.parametrize(
    "changes", [{"correct_bias": True}, {"overrides": {"relu": "percentile"}}, {"equalize": True}]
)
def test_dynamic_recipes_take_no_ranges_and_no_means(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"dynamic|calibration data"):
        recipes.resolve({"base": "dynamic", **changes})


def test_per_channel_weights_of_three_axes_are_left_in_floating_point(tmp_path: Path) -> None:
    path = save(batched_product(), tmp_path / "m.onnx")
    for base in ("static", "dynamic"):
        with pytest.raises(errors.QuantizationError, match="more than two axes"):
            BACKEND.quantize(path, recipes.resolve(base), {}, tmp_path / "q.onnx")


@pytest.mark.parametrize("change", ["data", "model", "nodes"])
def test_another_model_or_other_data_are_calibrated_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    judged(project)
    asked = []
    opened = type(BACKEND).open_exposed

    def noted(*arguments: object, **options: object) -> object:
        asked.append(arguments)
        return opened(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(BACKEND), "open_exposed", noted)
    candidate = CNN
    if change == "data":
        project.change("calibration", lambda columns: columns["image"].__imul__(2))
    elif change == "model":
        model = onnx.load(CNN)
        weight = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weight) * 1.001
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), weight.name))
        candidate = project.folder / "other.onnx"
        onnx.save(model, candidate)
    else:
        project.spec["build"]["recipe"] = {"base": "static", "op_types": ["Conv"]}
        project.write()
    run_gate(project.policy, candidate, tracker="none")
    assert len(asked) == 1


# ── inputs that are unlike any other ──────────────────────────────────────────────────────


def test_one_calibration_example_is_enough_to_run(project: Project) -> None:
    project.change("calibration", lambda columns: columns.update(_first(columns, 1)))
    record = judged(project)
    assert record.int8.int8_share == 1.0
    assert record.splits.calibration is not None
    assert record.splits.calibration.examples == 1


def _first(columns: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: column[:count] for name, column in columns.items()}


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    "base",
    [
        "static",
        pytest.param("static-mse", marks=pytest.mark.slow),
        "static-entropy",
        pytest.param("static-percentile", marks=pytest.mark.slow),
    ],
)
def test_constant_activations_have_a_range(project: Project, base: str, value: float) -> None:
    """Blank images: what little INT8 then keeps is measured, and no range is empty."""
    project.spec["build"]["recipe"] = base
    project.write()
    blank = np.full((4, 1, 8, 8), value, np.float32)
    project.save("calibration", image=blank, id=np.array(list("abcd")))
    record = judged(project)
    assert record.int8.int8_share == 1.0
    assert record.verdict.outcome == "fail"


def test_a_quantized_model_is_no_candidate(project: Project) -> None:
    int8 = made(project)
    for elsewhere in (None, int8):
        with pytest.raises(errors.CandidateError, match=r"already quantized.*FP32") as caught:
            run_gate(project.policy, int8, tracker="none", int8=elsewhere)
        assert caught.value.exit_code == 4


def test_integers_that_work_beside_the_model_prove_nothing(project: Project) -> None:
    model = onnx.load(CNN)
    graph, output = model.graph, model.graph.output[0].name
    logits = next(node for node in graph.node if output in node.output)
    logits.output[0] = "before"
    weights = {
        "step": np.float32(0.1),
        "zero": np.uint8(0),
        "wide": np.ones((64, 20_000), np.int8),
        "none": np.float32(0),
    }
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value), name) for name, value in weights.items()
    )
    graph.node.extend(
        [
            onnx.helper.make_node("Flatten", [graph.input[0].name], ["flat"]),
            onnx.helper.make_node("QuantizeLinear", ["flat", "step", "zero"], ["rounded"]),
            onnx.helper.make_node("MatMulInteger", ["rounded", "wide"], ["work"]),
            onnx.helper.make_node("Cast", ["work"], ["cast"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("ReduceMean", ["cast"], ["mean"], keepdims=1),
            onnx.helper.make_node("Mul", ["mean", "none"], ["nothing"]),
            onnx.helper.make_node("Add", ["before", "nothing"], [output]),
        ]
    )
    onnx.save(model, project.folder / "padded.onnx")
    with pytest.raises(errors.QuantizationError, match="comes on top of it"):
        judged(project, project.folder / "padded.onnx")


def changed(project: Project, *nodes: onnx.NodeProto, kind: int | None = None) -> Path:
    """INT8 of the CNN with nodes between its `before` and its output."""
    model = onnx.load(made(project))
    output = model.graph.output[0]
    next(node for node in model.graph.node if output.name in node.output).output[0] = "before"
    model.graph.node.extend(nodes)
    if kind is not None:
        output.type.tensor_type.elem_type = kind
    path = project.folder / "changed.onnx"
    onnx.save(model, path)
    return path


def test_outputs_of_another_type_are_refused(project: Project) -> None:
    kind = onnx.TensorProto.STRING
    cast = onnx.helper.make_node("Cast", ["before"], ["logits"], to=kind)
    with pytest.raises(errors.QuantizationError, match=r"outputs are .*object.*same outputs"):
        judged(project, changed(project, cast, kind=kind))


def test_every_output_has_one_row_an_example(project: Project) -> None:
    twice = onnx.helper.make_node("Concat", ["before", "before"], ["logits"], axis=0)
    with pytest.raises(errors.EvaluationError, match="needs one row an example"):
        judged(project, changed(project, twice))


def test_a_fixed_batch_says_what_to_write(project: Project) -> None:
    model = onnx.load(made(project))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, project.folder / "one.onnx")
    with pytest.raises(errors.QuantizationError, match="batch_size: 1"):
        judged(project, project.folder / "one.onnx")


def test_what_nothing_tells_is_not_called_safe(project: Project) -> None:
    record = judged(project, made(project))
    assert record.int8.saturating is None
    told = dict(facts(record))
    assert told["x86, no VNNI"].startswith("not checked")


def half(opset: int) -> onnx.ModelProto:
    """The CNN in half precision, inputs and outputs included."""
    model = cnn(opset=opset)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("opset", [13, pytest.param(17, marks=pytest.mark.slow), 19])
@pytest.mark.parametrize(("base", "share"), [("static", 1.0), ("dynamic", 0.085)])
def test_half_precision_runs_as_integers(
    project: Project, base: str, share: float, opset: int
) -> None:
    project.spec["build"]["recipe"] = base
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    for name in ("calibration", "held_out"):
        project.change(name, lambda c: c.update(image=c["image"].astype(np.float16)))
    project.change("held_out", lambda columns: columns.update(_first(columns, 300)))
    record = run_gate(
        project.policy, save(half(opset), project.folder / "half.onnx"), tracker="none"
    ).record
    assert record.int8.int8_share == pytest.approx(share, abs=0.001)
    assert record.int8.bytes < record.candidate.bytes
    accuracy = next(one for one in record.comparisons if one.metric == "accuracy")
    assert accuracy.degradation is not None
    assert abs(accuracy.degradation) < 0.1
