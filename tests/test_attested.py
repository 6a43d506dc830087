"""Models that ran elsewhere are judged from what they gave, and never believed beyond that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from support.int8 import ranges_of, recipe
from support.project import CNN, Project

from gate import errors
from gate.backends.onnxruntime import BACKEND
from gate.cli import exit_code_of
from gate.commands.judge import judge
from gate.pipeline import run_gate
from gate.records import GateRecord

SHA = {"fp32": "a" * 64, "int8": "b" * 64}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Held-out examples with ids, and the outputs of both models in files."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    for name in ("held_out", "calibration"):
        count = len(made.data(name)["target"])
        made.change(name, lambda columns, n=count, w=name: columns.update(id=ids(w, n)))
    chosen, images = recipe(), made.data("held_out")["image"]
    ranges = ranges_of(CNN, chosen, {"image": images[:64]})
    BACKEND.quantize(CNN, chosen, ranges, tmp_path / "int8.onnx")
    for side, model in (("fp32", CNN), ("int8", tmp_path / "int8.onnx")):
        found = BACKEND.open(model, threads=1).run({"image": images})
        save(tmp_path, side, found["logits"], made.data("held_out")["id"])
    return made


def ids(name: str, count: int) -> Any:
    return np.array([f"{name}-{index}" for index in range(count)])


def save(folder: Path, side: str, logits: Any, keys: Any, **changes: Any) -> None:
    columns = {
        "id": keys,
        "logits": logits,
        "artifact_sha256": np.full(len(keys), SHA[side]),
        "runtime": np.full(len(keys), "TensorRT 10.3"),
        "device": np.full(len(keys), "Jetson Orin"),
    }
    kept = {name: value for name, value in (columns | changes).items() if value is not None}
    np.savez(folder / f"{side}.npz", **kept)


def judged(project: Project, fp32: str = "fp32.npz", int8: str = "int8.npz") -> GateRecord:
    return run_gate(
        project.policy, tracker="none", out="out", fp32_outputs=fp32, int8_outputs=int8
    ).record


def test_outputs_are_judged_as_the_models_would_be(project: Project) -> None:
    record = judged(project)
    assert record.verdict.outcome == "pass"
    assert [one.runtime for one in record.attested] == ["TensorRT 10.3"] * 2
    assert (record.candidate.sha256, record.int8.sha256) == (SHA["fp32"], SHA["int8"])
    assert not {"size", "int8_share"} & {c.metric for c in record.comparisons}
    ran = run_gate(project.policy, CNN, tracker="none", int8="int8.onnx").record
    mine, theirs = (
        {(c.metric, c.slice): (c.reference, c.int8) for c in one.comparisons if c.n}
        for one in (record, ran)
    )
    assert mine == theirs
    assert not list(Path("out").glob("*.onnx"))


def test_the_report_says_what_was_not_seen(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--fp32-outputs", "fp32.npz", "--int8-outputs", "int8.npz", "--tracker", "none"]
    assert exit_code_of(["run", str(project.policy), *arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ATTESTED, not seen: int8.npz" in said
    assert "by TensorRT 10.3 on Jetson Orin" in said
    assert "No model ran here" in said
    assert "0 B" not in said


def test_the_order_of_the_rows_and_the_format_do_not_matter(project: Project) -> None:
    before = judged(project)
    with np.load("int8.npz") as archive:
        turned = {name: archive[name][::-1] for name in archive.files}
    table = {name: list(v) if v.ndim > 1 else v for name, v in turned.items()}
    table["logits"] = pa.FixedSizeListArray.from_arrays(turned["logits"].ravel(), 10)
    pq.write_table(pa.table(table), "int8.parquet")
    after = run_gate(
        project.policy, tracker="none", fp32_outputs="fp32.npz", int8_outputs="int8.parquet"
    ).record
    assert after.comparisons == before.comparisons


def test_a_worse_model_fails(project: Project) -> None:
    with np.load("int8.npz") as archive:
        logits = archive["logits"][:, ::-1]
    save(Path(), "int8", logits, project.data("held_out")["id"])
    assert judged(project).exit_code == 1


def test_nan_fails(project: Project) -> None:
    with np.load("int8.npz") as archive:
        logits = archive["logits"].copy()
    logits[3] = np.nan
    save(Path(), "int8", logits, project.data("held_out")["id"])
    assert judged(project).verdict.outcome == "fail"


def test_wrong_labels_are_no_baseline(project: Project) -> None:
    project.spec["judge"]["expect_fp32"]["accuracy"] = 0.5
    project.write()
    with pytest.raises(errors.BaselineError):
        judged(project)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns.update({name: None})


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no id": (without("id"), "has no column 'id'"),
    "no outputs": (without("logits"), "has no column of outputs"),
    "no hash": (without("artifact_sha256"), "does not say its artifact_sha256"),
    "no runtime": (without("runtime"), "does not say its runtime"),
    "no device": (without("device"), "does not say its device"),
    "two devices": (
        lambda c: c.update(device=np.where(np.arange(len(c["id"])) < 5, "a", "b")),
        "'device' has 2 values",
    ),
    "no digest": (
        lambda c: c.update(artifact_sha256=np.full(len(c["id"]), "abc")),
        "64 hexadecimal digits",
    ),
    "twice": (
        lambda c: c.update(id=np.concatenate([c["id"][:-1], c["id"][:1]])),
        "'held_out-0' occurs more than once",
    ),
    "too few": (
        lambda c: c.update({name: value[:-2] for name, value in c.items()}),
        "has no outputs for 2 of 1000 held-out examples",
    ),
    "other outputs": (lambda c: c.update(scores=c["logits"], logits=None), "cannot be compared"),
    "other shape": (lambda c: c.update(logits=c["logits"][:, :9]), "cannot be compared"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_outputs_that_do_not_fit_are_refused(project: Project, kind: str) -> None:
    change, said = BROKEN[kind]
    with np.load("int8.npz") as archive:
        columns = {name: archive[name] for name in archive.files}
    change(columns)
    np.savez("int8.npz", **{name: value for name, value in columns.items() if value is not None})
    with pytest.raises((errors.DataError, errors.EvaluationError), match=said) as caught:
        judged(project)
    assert caught.value.exit_code == 4


def test_a_model_is_not_held_against_itself(project: Project) -> None:
    with pytest.raises(errors.DataError, match="outputs of one artifact"):
        judged(project, "int8.npz", "int8.npz")


def test_examples_without_ids_are_refused(project: Project) -> None:
    project.change("held_out", lambda columns: columns.pop("id"))
    with pytest.raises(errors.UsageError, match="no column 'id', by which outputs are matched"):
        judged(project)


@pytest.mark.parametrize(
    "budget",
    [
        {"metric": "size", "max_ratio": 0.5},
        {"metric": "int8_share", "at_least": 0.5},
        {"metric": "latency_p50", "max_ratio": 1.0},
    ],
)
def test_budgets_that_need_the_model_say_so(project: Project, budget: dict[str, Any]) -> None:
    project.spec["judge"]["budgets"].append(budget)
    project.write()
    with pytest.raises(errors.UsageError, match=rf"policy\.yaml:\d+: {budget['metric']} needs the"):
        judged(project)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fp32_outputs": "fp32.npz"}, "go together"),
        ({"int8_outputs": "int8.npz"}, "go together"),
        ({"int8": "int8.onnx"}, "--int8 is a model"),
        ({"reference": "int8.onnx"}, "--reference is a model"),
        ({"candidate": "int8.onnx"}, "--candidate is a model"),
        ({"fp32_outputs": "gone.npz", "int8_outputs": "int8.npz"}, "there is no such file"),
    ],
)
def test_what_does_not_go_together_is_refused(
    project: Project, options: dict[str, Any], said: str
) -> None:
    if "go together" not in said:
        options = {"fp32_outputs": "fp32.npz", "int8_outputs": "int8.npz"} | options
    with pytest.raises(errors.UsageError, match=said) as caught:
        run_gate(project.policy, tracker="none", **options)
    assert caught.value.exit_code == 2


def test_examples_of_calibration_are_still_told_apart(project: Project) -> None:
    project.change("calibration", lambda c: c.update(project.data("held_out")))
    with pytest.raises(errors.OverlapError):
        judged(project)


def test_a_table_of_ids_and_targets_is_enough(project: Project) -> None:
    for name in ("held_out", "calibration"):
        project.change(name, lambda columns: columns.pop("image"))
    assert judged(project).verdict.outcome == "pass"


def test_the_record_is_judged_again(project: Project) -> None:
    record = judged(project)
    assert judge(Path("out")).verdict == record.verdict
    assert judge(Path("out"), str(project.policy)).verdict == record.verdict
    project.budget(metric="size", max_ratio=0.5)
    with pytest.raises(errors.GateError):
        judge(Path("out"), str(project.policy))


def test_outputs_that_torch_computed_are_judged(project: Project) -> None:
    """The same weights in another runtime, and the same with weights rounded to eight bits."""
    torch = pytest.importorskip("torch")
    numbers = {t.name: numpy_helper.to_array(t) for t in onnx.load(CNN).graph.initializer}

    def logits(images: Any, rounded: bool) -> Any:
        def weight(name: str) -> Any:
            w = torch.from_numpy(numbers[f"{name}.weight"].copy())
            step = w.abs().reshape(len(w), -1).amax(1).reshape(-1, *[1] * (w.ndim - 1)) / 127
            return (w / step).round() * step if rounded else w

        x = torch.from_numpy(images)
        for name, pooled in (("0", False), ("2", True), ("5", True)):
            bias = torch.from_numpy(numbers[f"{name}.bias"].copy())
            x = torch.relu(torch.nn.functional.conv2d(x, weight(name), bias, padding=1))
            x = torch.nn.functional.max_pool2d(x, 2) if pooled else x
        bias = torch.from_numpy(numbers["9.bias"].copy())
        return torch.nn.functional.linear(x.flatten(1), weight("9"), bias).numpy()

    data = project.data("held_out")
    for side in ("fp32", "int8"):
        made = np.full(len(data["id"]), f"torch {torch.__version__}")
        found = logits(data["image"], side == "int8")
        save(project.folder, side, found, data["id"], runtime=made)
    record = judged(project)
    assert record.verdict.outcome == "pass"
    assert record.attested[1].runtime == f"torch {torch.__version__}"
    accuracy = next(c for c in record.comparisons if c.metric == "accuracy")
    assert accuracy.reference == pytest.approx(0.961, abs=1e-6)
