"""What is judged: INT8 against its own FP32, or against the model that its FP32 was made of."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.onnx_models import mlp, save
from support.project import CNN, Project

from gate import errors
from gate.cli import exit_code_of
from gate.commands.judge import judge
from gate.pipeline import run_gate
from gate.records import GateRecord


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def pruned(folder: Path, share: float) -> Path:
    """The digits CNN, the smallest weights of each layer set to 0."""
    model = onnx.load(CNN)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if values.ndim > 1:
            values[np.abs(values) < np.quantile(np.abs(values), share)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, folder / "pruned.onnx")
    return folder / "pruned.onnx"


def judged(project: Project, candidate: Path, **options: Any) -> GateRecord:
    return run_gate(project.policy, candidate, tracker="none", out="out", **options).record


def test_what_pruning_cost_and_what_quantization_did_are_told_apart(project: Project) -> None:
    candidate = pruned(project.folder, 0.7)
    record = judged(project, candidate, reference=CNN)
    assert record.reference is not None
    assert record.reference.source == str(CNN)
    accuracy = next(c for c in record.comparisons if c.metric == "accuracy")
    cost = next(c for c in record.costs if c.metric == "accuracy")
    assert cost.candidate.reference == accuracy.reference == pytest.approx(0.961, abs=1e-6)
    assert cost.candidate.int8 == cost.quantization.reference
    assert cost.quantization.int8 == accuracy.int8
    parts = (cost.candidate.degradation, cost.quantization.degradation)
    assert None not in parts
    assert sum(parts) == pytest.approx(accuracy.degradation)  # type: ignore[arg-type]
    assert cost.candidate.degradation > 0.02  # type: ignore[operator]


def test_a_pruned_model_alone_hides_what_pruning_cost(project: Project) -> None:
    candidate = pruned(project.folder, 0.7)
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.budget(metric="accuracy", max_drop=0.02)
    assert run_gate(project.policy, candidate, tracker="none").record.verdict.outcome == "pass"
    against = judged(project, candidate, reference=CNN)
    assert against.verdict.outcome == "fail"
    assert judge(Path("out")).verdict == against.verdict
    assert judge(Path("out"), str(project.policy)).verdict == against.verdict


def test_the_report_names_both(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = pruned(project.folder, 0.05)
    arguments = ["--candidate", str(candidate), "--reference", str(CNN), "--tracker", "none"]
    assert exit_code_of(["run", str(project.policy), *arguments]) in (0, 3)
    said = " ".join(capsys.readouterr().out.split())
    assert "what INT8 is held against as FP32" in said
    assert "Lost where accuracy: candidate " in said
    assert ", quantization " in said


def test_expect_fp32_is_about_the_reference(project: Project) -> None:
    with pytest.raises(errors.BaselineError):
        judged(project, CNN, reference=pruned(project.folder, 0.9))


def test_a_model_is_its_own_reference(project: Project) -> None:
    plain = run_gate(project.policy, CNN, tracker="none").record
    own = judged(project, CNN, reference=CNN)
    assert own.comparisons == plain.comparisons
    assert all(cost.candidate.degradation == 0 for cost in own.costs)


@pytest.mark.parametrize("kind", ["other", "gone", "garbage"])
def test_a_reference_that_does_not_fit_is_refused(project: Project, kind: str) -> None:
    path = project.folder / "reference.onnx"
    if kind == "other":
        save(mlp(), path)
    elif kind == "garbage":
        path.write_bytes(b"garbage")
    with pytest.raises((errors.CandidateError, errors.UsageError), match=r"reference"):
        judged(project, CNN, reference=path)


def test_a_reference_is_in_fp32(project: Project) -> None:
    run_gate(project.policy, CNN, tracker="none", out="first")
    int8 = Path("first/model.int8.onnx")
    with pytest.raises(errors.CandidateError, match=r"--reference .* is already quantized"):
        judged(project, CNN, int8=int8, reference=int8)


def test_a_reference_worse_than_the_candidate_grants_no_slack(project: Project) -> None:
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    with pytest.raises(errors.BaselineError, match="INT8 would look better than it is"):
        judged(project, CNN, reference=pruned(project.folder, 0.9))


def test_a_reference_that_conversion_changes_is_refused(project: Project) -> None:
    with pytest.raises(errors.CandidateError, match=r"--reference .* no longer computes the same"):
        judged(project, CNN, reference=misread(project.folder))


def misread(folder: Path) -> Path:
    """The CNN behind what changes nothing in opset 10, and does after ONNX's own conversion."""
    model = onnx.load(CNN)
    image = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["same" if name == image else name for name in node.input]
        kept = [a for a in node.attribute if a.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")
    model.graph.initializer.append(scales)
    model.graph.node.insert(
        0, onnx.helper.make_node("Resize", [image, "twice"], ["larger"], mode="linear")
    )
    model.graph.node.insert(
        1,
        onnx.helper.make_node("MaxPool", ["larger"], ["same"], kernel_shape=[1, 1], strides=[2, 2]),
    )
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 10))
    onnx.save(model, folder / "misread.onnx")
    return folder / "misread.onnx"


@pytest.mark.parametrize("named", ["", "model.pt2", "gone.onnx"])
def test_errors_say_which_flag(project: Project, named: str) -> None:
    with pytest.raises(errors.UsageError, match=rf"^--int8 {named}"):
        judged(project, CNN, int8=named)


def attempts(project: Project, *options: dict[str, Any]) -> list[int | None]:
    return [
        run_gate(project.policy, CNN, stage="release", **each).record.attempt for each in options
    ]


@pytest.mark.slow
def test_another_reference_is_another_attempt(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.0001)
    own, dense = {"reference": None}, {"reference": CNN}
    assert attempts(project, own, own, dense, dense) == [1, 1, 2, 2]


@pytest.mark.slow
def test_another_calibration_sample_is_another_attempt(project: Project) -> None:
    project.spec["build"]["calibration"]["limit"] = 8
    project.budget(metric="accuracy", max_drop=0.0001)
    first = attempts(project, {})
    project.spec["judge"]["seed"] = 1
    project.write()
    assert first + attempts(project, {}) == [1, 2]


def test_folders_of_three_models_do_not_mix(project: Project) -> None:
    record = judged(project, pruned(project.folder, 0.3), reference=CNN)
    fp32 = onnx.load("out/model.fp32.onnx")
    sparse = [onnx.numpy_helper.to_array(t) for t in fp32.graph.initializer if len(t.dims) > 1]
    assert all((values == 0).mean() > 0.25 for values in sparse)
    assert record.candidate.sha256 != record.reference.sha256  # type: ignore[union-attr]


# ── what a module is traced with ──────────────────────────────────────────────────────────


def test_a_module_is_traced_with_images_of_a_folder(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("calibration", 8), ("held_out", 40)):
        for place in range(count):
            folder = tmp_path / split / str(place % 2)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (8, 8, 3)) + 150 * (place % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}-{place}.png")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "{version: 1, model: m, task: classification, build: {recipe: static, calibration: "
        "{path: calibration, format: image_folder}, preprocess: {scale: 0.004}, "
        "classes: ['0', '1']}, judge: {held_out: {path: held_out, format: image_folder}, "
        "expect_fp32: unknown, budgets: [{metric: prediction_flips, at_most: 0.5}]}}"
    )
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    found = run_gate(policy, module, out=tmp_path / "out", tracker="none")
    assert [spec.name for spec in found.record.candidate.inputs] == ["image"]
    assert found.record.candidate.inputs[0].shape == (None, 3, 8, 8)


def test_a_module_is_traced_with_tokens_of_the_policys_texts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from support import language_model

    class Words(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = torch.nn.Embedding(19, 16)
            self.head = torch.nn.Linear(16, 2)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.head((self.table(input_ids) * attention_mask[:, :, None]).mean(1))

    language_model.tokenizer().save_pretrained(tmp_path)
    tokenizer = {"file": "tokenizer.json", "max_length": language_model.LENGTH}
    policy = language_model.project(
        tmp_path, preprocess={"tokenizer": tokenizer}, classes=["neg", "pos"]
    )
    policy.write_text(policy.read_text().replace("accuracy: 0.99", "accuracy: 0.5"))
    policy.write_text(policy.read_text().replace("within: 0.02", "within: 0.5"))
    found = run_gate(policy, Words(), out=tmp_path / "out", tracker="none")
    names = [spec.name for spec in found.record.candidate.inputs]
    assert names == ["input_ids", "attention_mask"]
