"""The whole stage, end to end, on real digits: every outcome, and every villain."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.project import CNN, SUBGRAPH, WIDE_RANGE, Project

import gate
from gate import data, errors, subject
from gate.cli import exit_code_of
from gate.records import GateRecord


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


def judged(project: Project, candidate: Any = CNN, **options: Any) -> GateRecord:
    return gate.run_gate(project.policy, candidate, tracker="none", threads=1, **options).record


def code(project: Project, candidate: Any = CNN, *arguments: str) -> int:
    return exit_code_of(
        ["run", str(project.policy), "--candidate", str(candidate), "--tracker", "none", *arguments]
    )


# ── outcomes ──────────────────────────────────────────────────────────────────────────────


def test_a_good_release_passes(project: Project) -> None:
    record = judged(project)
    assert record.verdict.outcome == "pass"
    assert record.exit_code == 0
    assert record.int8.int8_share == 1.0
    assert record.int8.quantized_nodes
    assert not record.int8.skipped_nodes
    assert record.examples_evaluated == record.examples_total == 1000


def test_the_python_api_tells_the_verdict(project: Project) -> None:
    finished = gate.run_gate(project.policy, CNN, tracker="none")
    assert finished.verdict.outcome == "pass"
    assert finished.exit_code == 0
    assert (finished.folder / "record.json").is_file()


def test_a_collapsed_release_fails(project: Project) -> None:
    record = judged(project, WIDE_RANGE)
    assert record.verdict.outcome == "fail"
    assert record.exit_code == 1
    assert "pp" in record.verdict.findings[0].reason


def test_too_little_evidence_is_inconclusive(project: Project) -> None:
    project.spec["judge"]["held_out"]["limit"] = 150
    project.write()
    record = judged(project)
    assert record.verdict.outcome == "inconclusive"
    assert record.exit_code == 3
    assert (record.verdict.findings[0].examples_needed or 0) > 150


def test_a_metric_that_does_not_fit_is_told_before_anything_is_quantized(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untimely(*args: Any, **kwargs: Any) -> None:
        pytest.fail("quantized first")

    monkeypatch.setattr(subject, "make_int8", untimely)
    project.spec["judge"]["budgets"] = [{"metric": "top10_accuracy", "max_drop": 0.01}]
    project.write()
    with pytest.raises(errors.UsageError, match="top10_accuracy"):
        judged(project)


def test_what_cannot_be_quantized_is_an_error(project: Project) -> None:
    with pytest.raises(errors.QuantizationError, match="If"):
        judged(project, SUBGRAPH)


@pytest.mark.parametrize(
    ("candidate", "limit", "expected"),
    [(CNN, None, 0), (WIDE_RANGE, None, 1), (CNN, 150, 3), (SUBGRAPH, None, 4)],
    ids=["pass", "fail", "inconclusive", "error"],
)
def test_the_command_line_exits_with_the_outcome(
    project: Project, candidate: Path, limit: int | None, expected: int
) -> None:
    if limit:
        project.spec["judge"]["held_out"]["limit"] = limit
        project.write()
    assert code(project, candidate) == expected


def test_observe_mode_exits_0_and_says_fail(project: Project) -> None:
    project.spec["judge"]["mode"] = "observe"
    project.write()
    record = judged(project, WIDE_RANGE)
    assert (record.verdict.outcome, record.exit_code) == ("fail", 0)


def test_on_inconclusive_warn_lets_nothing_else_through(project: Project) -> None:
    project.spec["judge"]["on_inconclusive"] = "warn"
    project.spec["judge"]["held_out"]["limit"] = 250
    project.write()
    assert judged(project).exit_code == 0
    assert judged(project, WIDE_RANGE).exit_code == 1


@pytest.mark.parametrize("recipe", ["static-signed", "static-per-tensor", "dynamic"])
def test_every_recipe_runs_as_integers(project: Project, recipe: str) -> None:
    every = {"op_types": ["Conv", "Gemm"]} if recipe == "dynamic" else {}
    project.spec["build"]["recipe"] = {"base": recipe, **every}
    project.spec["judge"]["held_out"]["limit"] = 300
    project.write()
    record = judged(project)
    assert record.int8.recipe.name == recipe
    assert record.int8.int8_share > 0
    assert record.provenance.batch_size == (1 if recipe == "dynamic" else 64)


def test_a_recipe_that_finds_next_to_nothing_is_no_int8(project: Project) -> None:
    project.spec["build"]["recipe"] = "dynamic"  # of a CNN, the last layer
    project.write()
    assert code(project) == 4


def test_a_module_is_judged_like_its_onnx(project: Project) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(CNN).graph.initializer}
    weights = {key: torch.from_numpy(tensors[key].copy()) for key in layers.state_dict()}
    layers.load_state_dict(weights)
    record = judged(project, layers)
    expected = judged(project)
    assert record.candidate.source == "module:Sequential"
    assert record.verdict.outcome == "pass"
    assert record.comparisons[0].reference == expected.comparisons[0].reference


def test_other_folder_and_time_give_the_same_artifact_rows_and_verdict(
    project: Project, tmp_path: Path
) -> None:
    one = judged(project, out=tmp_path / "one")
    two = judged(project, out=tmp_path / "two")
    for name in ("int8", "candidate", "comparisons", "verdict", "rows_sha256", "splits"):
        assert getattr(one, name) == getattr(two, name)
    assert one.id != two.id


# ── what a run leaves ─────────────────────────────────────────────────────────────────────


def test_the_folder_holds_what_was_promised(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = judged(project, out=out)
    assert {file.name for file in out.iterdir()} == {
        "record.json",
        "rows.npz",
        "outputs.npz",
        "model.fp32.onnx",
        "model.int8.onnx",
        "report.txt",
        "report.md",
        "report.html",
        "junit.xml",
    }
    assert GateRecord.model_validate_json((out / "record.json").read_text()) == record
    with np.load(out / "rows.npz") as rows:
        assert len(rows["id"]) == 1000


@pytest.mark.parametrize("candidate", [CNN, WIDE_RANGE], ids=["good", "bad"])
def test_the_numbers_are_those_of_the_artifacts(
    project: Project, tmp_path: Path, candidate: Path
) -> None:
    """An independent oracle: plain ONNX Runtime on the files left behind, and scikit-learn."""
    import onnxruntime
    from sklearn.metrics import accuracy_score, f1_score

    project.spec["judge"]["budgets"] += [
        {"metric": "prediction_flips", "at_most": 0.5},
        {"metric": "accuracy", "max_drop": 0.9, "slice": {"ink": "light"}},
    ]
    project.write()
    out = tmp_path / "out"
    record = judged(project, candidate, out=out)
    held_out = project.data("held_out")
    feeds = {"image": held_out["image"]}
    fp32, int8 = (
        onnxruntime.InferenceSession(str(path)).run(None, feeds)[0].argmax(axis=1)
        for path in (candidate, out / "model.int8.onnx")
    )
    shown = {(c.metric, c.slice): c for c in record.comparisons}
    for where, chosen in ((None, slice(None)), ("ink=light", held_out["ink"] == "light")):
        target = held_out["target"][chosen]
        comparison = shown["accuracy", where]
        assert comparison.reference == pytest.approx(accuracy_score(target, fp32[chosen]))
        assert comparison.int8 == pytest.approx(accuracy_score(target, int8[chosen]))
        assert comparison.n == len(target)
    assert shown["prediction_flips", None].int8 == pytest.approx((fp32 != int8).mean())
    assert shown["f1_macro", None].int8 == pytest.approx(
        f1_score(held_out["target"], int8, average="macro")
    )
    assert shown["size", None].int8 == (out / "model.int8.onnx").stat().st_size


def test_the_default_folder_is_under_dot_gate(project: Project) -> None:
    record = judged(project)
    assert (Path(".gate") / "digits-cnn" / record.id / "record.json").is_file()


def test_the_record_has_the_fields_that_others_build_on(project: Project, tmp_path: Path) -> None:
    judged(project, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["verdict"]["outcome"] == "pass"
    assert {"budget", "comparison", "outcome", "reason"} <= record["verdict"]["findings"][0].keys()
    assert {"metric", "slice", "against", "n", "reference", "int8", "degradation"} <= record[
        "comparisons"
    ][0].keys()
    assert {"lower", "upper", "p_pass", "p_fail", "method"} <= record["comparisons"][0].keys()
    assert {"sha256", "bytes", "recipe", "quantized_nodes", "skipped_nodes"} <= record[
        "int8"
    ].keys()
    assert {"int8_share", "kernels"} <= record["int8"].keys()
    assert {"git", "versions", "cpu", "seed", "policy_sha256"} <= record["provenance"].keys()
    assert record["splits"]["held_out"]["sha256"] != record["splits"]["calibration"]["sha256"]
    assert record["durations"].keys() >= {"candidate", "data", "quantize", "evaluate"}


def test_a_folder_that_holds_something_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(errors.UsageError, match=r"is not empty \(it holds mine\.txt\)"):
        judged(project, out=tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot be written"):
        judged(project, out=tmp_path / "file" / "out")


class Interrupting:
    """Presses Ctrl-C in the middle of the evaluation."""

    def step(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, examples: int) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing_that_looks_finished(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        judged(project, out=out, progress=Interrupting())
    assert list(out.iterdir()) == []


def test_a_report_that_cannot_be_rendered_leaves_no_record(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate.reporters import markdown

    def broken(record: GateRecord) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(type(markdown.REPORTER), "render", lambda self, record: broken(record))
    with pytest.raises(ZeroDivisionError):
        judged(project, out=tmp_path / "out")
    assert not (tmp_path / "out" / "record.json").exists()


# ── villains: data ────────────────────────────────────────────────────────────────────────


def first_to(value: Any, name: str = "image") -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = columns[name].astype(np.result_type(columns[name], type(value)))
        columns[name][0] = value

    return change


def keep(rows: Any) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns.update({name: column[rows] for name, column in columns.items()})

    return change


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[new] = columns.pop(old)

    return change


def recast(name: str, function: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = function(columns[name])

    return change


DATA_VILLAINS = {
    "empty": (keep(slice(0, 0)), "no examples|empty"),
    "NaN input": (first_to(np.float32(np.nan)), "digit-0"),
    "Inf input": (first_to(np.float32(np.inf)), "digit-0"),
    "NaN target": (first_to(float("nan"), "target"), "digit-0"),
    "target out of range": (first_to(10, "target"), "10"),
    "negative target": (first_to(-1, "target"), "-1"),
    "input misspelt": (rename("image", "imgae"), "image"),
    "no target": (lambda columns: columns.pop("target"), "target"),
    "rank": (recast("image", lambda image: image[:, 0]), "image"),
    "shape": (recast("image", lambda image: image[:, :, :7]), "image"),
    "dtype": (recast("image", lambda image: image.astype(np.float64)), "float64"),
    "repeated id": (first_to("digit-0003", "id"), "id"),
}


@pytest.mark.parametrize("name", DATA_VILLAINS)
def test_bad_data_is_named(project: Project, name: str) -> None:
    change, message = DATA_VILLAINS[name]
    if name == "repeated id":
        project.change("held_out", recast("id", lambda ids: np.where(ids == ids[1], ids[0], ids)))
    else:
        project.change("held_out", change)
    with pytest.raises(errors.DataError, match=message):
        judged(project)
    assert code(project) == 4


def test_one_example_decides_nothing(project: Project) -> None:
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    project.change("held_out", keep(slice(0, 1)))
    assert judged(project).verdict.outcome == "inconclusive"


def test_overlap_names_the_first_examples(project: Project) -> None:
    stolen = project.data("held_out")["image"][:3]
    project.change(
        "calibration", recast("image", lambda image: np.concatenate([stolen, image[3:]]))
    )
    with pytest.raises(errors.OverlapError, match="3 examples"):
        judged(project)


def test_paranoid_reaches_the_data(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(*_: Any, paranoid: bool, **__: Any) -> None:
        raise errors.DataError(f"paranoid is {paranoid}")

    monkeypatch.setattr(data, "open_split", opened)
    assert code(project, CNN, "--paranoid") == 4
    assert "paranoid is True" in capsys.readouterr().err


def test_a_wrong_pin_shows_the_right_one(project: Project) -> None:
    project.spec["judge"]["held_out"]["sha256"] = "0" * 64
    project.write()
    with pytest.raises(errors.DataError, match="sha256"):
        judged(project)


def test_permuted_classes_are_no_baseline(project: Project) -> None:
    project.change("held_out", recast("target", lambda target: (target + 1) % 10))
    with pytest.raises(errors.BaselineError, match=r"FP32 accuracy is 0\.0.*expects 0\.9610"):
        judged(project)


def test_wrong_preprocessing_is_no_baseline(project: Project) -> None:
    project.spec["build"]["preprocess"] = {"scale": -1.0}
    project.write()
    with pytest.raises(errors.BaselineError, match="preprocessing"):
        judged(project)


# ── villains: models ──────────────────────────────────────────────────────────────────────


def spoilt(tmp_path: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(CNN)
    change(model)
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def nan_bias(model: Any) -> None:
    bias = next(t for t in model.graph.initializer if list(t.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))


def test_fp32_that_gives_nan_is_no_baseline(project: Project, tmp_path: Path) -> None:
    with pytest.raises(errors.GateError, match="NaN"):
        judged(project, spoilt(tmp_path, nan_bias))


def test_int8_that_gives_nan_fails_with_its_reason(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate.backends import onnxruntime

    honest = onnxruntime.BACKEND.quantize

    def quantize(model: Path, recipe: Any, ranges: Any, destination: Path) -> None:
        honest(model, recipe, ranges, destination)
        proto = onnx.load(destination)
        output = proto.graph.output[0].name
        for node in proto.graph.node:
            node.output[:] = [f"{name}_finite" if name == output else name for name in node.output]
        poison = numpy_helper.from_array(np.float32(np.nan), "poison")
        proto.graph.initializer.append(poison)
        proto.graph.node.append(
            helper.make_node("Add", [f"{output}_finite", "poison"], [output], "add_poison")
        )
        onnx.save(proto, destination)

    monkeypatch.setattr(onnxruntime.BACKEND, "quantize", quantize, raising=False)
    record = judged(project)
    assert record.exit_code == 1
    assert "NaN or Inf on 1000 of 1000 examples" in record.verdict.findings[0].reason


@pytest.mark.parametrize("content", [b"", b"not a model", CNN.read_bytes()[:20000]])
def test_a_file_that_is_no_model(project: Project, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    assert code(project, path) == 4


def test_a_candidate_that_is_not_there(project: Project) -> None:
    assert code(project, "nowhere.onnx") == 2


def test_no_candidate_at_all(project: Project) -> None:
    assert exit_code_of(["run", str(project.policy), "--tracker", "none"]) == 2


def test_a_model_fixed_to_a_batch_is_fed_that_batch(project: Project, tmp_path: Path) -> None:
    def fix(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 50
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 50
        shape = next(t for t in model.graph.initializer if t.data_type == TensorProto.INT64)
        shape.CopyFrom(numpy_helper.from_array(np.array([50, 128]), shape.name))
        del model.graph.value_info[:]

    path = spoilt(tmp_path, fix)
    assert judged(project, path).provenance.batch_size == 50
    project.spec["judge"]["batch_size"] = 64
    project.write()
    with pytest.raises(errors.DataError, match="fixed to batches"):
        judged(project, path)


# ── villains: budgets ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "budget",
    [
        {"metric": "acuracy", "max_drop": 0.01},
        {"metric": "accuracy", "max_drop": 0.01, "each": "inc"},
        {"metric": "accuracy", "max_drop": 0.01, "slice": {"colour": "red"}},
        {"metric": "accuracy", "max_drop": 0.01, "against": "anchor"},
    ],
    ids=["metric", "each", "slice", "against"],
)
def test_a_budget_that_cannot_be_judged_is_refused_first(
    project: Project, budget: dict[str, Any]
) -> None:
    project.budget(**budget)
    with pytest.raises(errors.PolicyError, match=r"policy\.yaml:\d+:\d+: "):
        judged(project, "there-is-no-such-model.onnx")
    assert code(project) == 2


def test_a_slice_value_that_does_not_occur_fails(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.05, slice={"ink": "invisible"})
    record = judged(project)
    assert record.exit_code == 1
    assert "invisible" in record.verdict.findings[0].reason


def test_a_slice_below_min_examples_is_listed(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.03, each="target", min_examples=99)
    record = judged(project)
    assert len(record.verdict.findings) == 10
    assert any("99" in finding.reason for finding in record.verdict.findings)
    assert record.verdict.outcome == "pass"


# ── several policies ──────────────────────────────────────────────────────────────────────


def test_the_worst_exit_code_of_several_policies_counts(project: Project, tmp_path: Path) -> None:
    project.spec["build"]["candidate"] = str(CNN)
    good = project.write().read_text()
    project.spec["build"]["candidate"] = str(WIDE_RANGE)
    bad = project.write().read_text()
    (project.folder / "good.yaml").write_text(good)
    (project.folder / "bad.yaml").write_text(bad)
    policies = [str(project.folder / name) for name in ("good.yaml", "bad.yaml")]
    assert exit_code_of(["run", *policies, "--tracker", "none", "--out", "out"]) == 1
    assert Path("out/good/record.json").is_file()
    assert Path("out/bad/record.json").is_file()
    (project.folder / "bad.yaml").write_text("version: 1\n")
    assert exit_code_of(["run", *policies, "--tracker", "none"]) == 2


# ── stopping early ────────────────────────────────────────────────────────────────────────


def test_stopping_early_comes_to_the_same_verdict_on_fewer_examples(
    project: Project, tmp_path: Path
) -> None:
    full = judged(project, WIDE_RANGE)
    project.spec["judge"]["stopping"] = "early"
    project.write()
    early = judged(project, WIDE_RANGE, out=tmp_path / "out")
    assert early.verdict.outcome == full.verdict.outcome == "fail"
    assert early.examples_evaluated < early.examples_total == 1000
    assert early.stopped == "budget accuracy.max_drop was proven violated"
    rows = np.load(tmp_path / "out" / "rows.npz")
    assert len(rows["id"]) == early.examples_evaluated
    assert early.splits.held_out.sha256 == full.splits.held_out.sha256
    assert judged(project).verdict.outcome in ("pass", "inconclusive")


def test_rows_that_their_outcome_selected_are_not_judged_by_another_policy(
    project: Project, tmp_path: Path
) -> None:
    project.spec["judge"]["stopping"] = "early"
    project.write()
    judged(project, WIDE_RANGE, out=tmp_path / "out")
    assert exit_code_of(["judge", str(tmp_path / "out")]) == 1
    assert exit_code_of(["judge", str(tmp_path / "out"), "--policy", str(project.policy)]) == 2


def test_a_budget_that_nobody_can_bet_on_is_told_at_the_check(project: Project) -> None:
    project.spec["judge"]["stopping"] = "early"
    project.budget(metric="f1_macro", max_drop=0.05)
    with pytest.raises(errors.PolicyError, match=r"f1_macro is no proportion.*stopping: full"):
        judged(project)


# ── time and memory ───────────────────────────────────────────────────────────────────────


def test_time_and_memory_are_measured_where_a_budget_asks(project: Project) -> None:
    project.spec["judge"]["budgets"] += [
        {"metric": "latency_p50", "max_ratio": 1000.0},
        {"metric": "throughput", "at_least": 0.001},
        {"metric": "peak_memory", "max_ratio": 1000.0},
    ]
    project.write()
    record = judged(project)
    assert record.verdict.outcome == "pass"
    assert {"latency", "memory"} <= record.durations.keys()
    memory = next(c for c in record.comparisons if c.metric == "peak_memory")
    assert memory.method == "exact number"
    assert record.process.measured >= {"latency_p95", "throughput", "peak_memory"}
    assert len(record.process.rounds["latency_p50"].int8) == 30
    without = judged_without_time(project)
    assert not {"latency", "memory"} & without.durations.keys()
    assert not without.process.measured


def judged_without_time(project: Project) -> GateRecord:
    del project.spec["judge"]["budgets"][1:]
    project.write()
    return judged(project)


# ── what another look at the same data costs ──────────────────────────────────────────────


def released(project: Project, **judge: Any) -> GateRecord:
    project.spec["judge"] |= judge
    project.write()
    return gate.run_gate(project.policy, CNN, stage="release", threads=1).record


@pytest.fixture
def strict(project: Project, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A budget that this set cannot prove, and a store."""
    shutil.copyfile(empty_store, project.folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder}/mlflow.db")
    project.budget(metric="accuracy", max_drop=0.0011)
    return project


@pytest.mark.slow
def test_another_sample_of_the_same_set_is_another_attempt(strict: Project) -> None:
    held_out = {"path": "held_out.npz", "limit": 700}
    numbers = [released(strict, held_out=held_out, seed=seed).attempt for seed in (0, 1, 1, 2)]
    assert numbers == [1, 2, 2, 3]


def test_the_same_examples_under_other_ids_are_the_same_set(strict: Project) -> None:
    assert released(strict).attempt == 1
    for prefix, attempt in (("a", 1), ("b", 1)):
        names = np.array([f"{prefix}{index}" for index in range(1000)])
        strict.change("held_out", lambda columns, names=names: columns.update(id=names))
        assert released(strict).attempt == attempt
    strict.spec["build"]["recipe"] = "static-mse"
    assert released(strict).attempt == 2


@pytest.mark.slow
def test_another_order_is_another_attempt_where_it_may_stop_early(strict: Project) -> None:
    assert [released(strict, stopping="early", seed=seed).attempt for seed in (0, 0, 5)] == [
        1,
        1,
        2,
    ]


@pytest.mark.slow
def test_time_is_measured_anew_by_every_attempt(strict: Project) -> None:
    budgets = [{"metric": "latency_p50", "max_ratio": 1e-6}]
    assert [released(strict, budgets=budgets).attempt for _ in range(2)] == [1, 2]


def test_a_looser_policy_does_not_reset_the_count(strict: Project) -> None:
    budgets = strict.spec["judge"]["budgets"]
    loose = [{"metric": "accuracy", "max_drop": 0.9}]
    assert released(strict).attempt == 1
    assert released(strict, budgets=loose, mode="observe").verdict.outcome == "pass"
    assert released(strict, budgets=loose, mode="enforce").verdict.outcome == "pass"
    strict.spec["build"]["recipe"] = "static-mse"
    assert released(strict, budgets=budgets).attempt == 2
