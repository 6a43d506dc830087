"""`gate recover` end to end: what it finds, how it ends, and that it keeps off the held-out set."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper
from support.onnx_models import cnn, model, save, vectors, weights
from support.project import CNN, SUBGRAPH, WIDE_RANGE, Project

import gate
from gate import data, errors
from gate.backends.onnxruntime import BACKEND, OnnxRuntime
from gate.cli import exit_code_of
from gate.commands import recover as module
from gate.commands._recover_text import render
from gate.commands.recover import Recovery, recover
from gate.drafts import Drafts
from gate.trials import Trial
from gate.tuning import Tuning


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


def recovered(project: Project, candidate: Any = WIDE_RANGE, **options: Any) -> Recovery:
    return recover(project.policy, candidate, tracker="none", threads=1, **options)


def code(project: Project, candidate: Any = WIDE_RANGE, *arguments: str) -> int:
    told = ["recover", str(project.policy), "--candidate", str(candidate), "--threads", "1"]
    return exit_code_of([*told, "--tracker", "none", *arguments])


def lasting(trials: tuple[Trial, ...]) -> list[dict[str, Any]]:
    """But for what a clock said."""
    return [trial.model_dump(exclude={"seconds", "milliseconds"}) for trial in trials]


def tuning_data(project: Project, count: int, *, first: int = 0, targets: bool = True) -> None:
    """Take them from the held-out data, which lose them."""
    columns = project.data("held_out")
    project.save("held_out", **{name: values[count:] for name, values in columns.items()})
    taken = {name: values[first : first + count] for name, values in columns.items()}
    if not targets:
        del taken["target"]
    project.save("tuning", **taken)
    project.spec["build"]["tuning"] = {"path": "tuning.npz"}
    project.write()


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One for each INT8 model that a trial makes; a test may make it interrupt."""
    made: list[str] = []
    draft = Drafts.int8

    def counted(self: Drafts, chosen: Any) -> Path:
        int8 = draft(self, chosen)
        made.append(int8.name)
        return int8

    monkeypatch.setattr(Drafts, "int8", counted)
    return made


# ── what it finds ─────────────────────────────────────────────────────────────────────────


def test_a_degraded_release_is_recovered(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is printed, pasted into the policy, gives the very model that was judged."""
    assert code(project) == 0
    text = capsys.readouterr().out
    assert "On the held-out set: PASS" in text
    (line,) = re.findall(r"^  build:\n    (recipe: .*)$", text, flags=re.MULTILINE)
    (record,) = re.findall(r"^record in (.*)$", text, flags=re.MULTILINE)
    pasted = yaml.safe_load(line)
    assert pasted["recipe"]["equalize"] is True
    project.spec["build"] |= pasted
    again = gate.run_gate(project.write(), WIDE_RANGE, tracker="none", threads=1)
    winner = json.loads((Path(record) / "record.json").read_text())
    assert again.record.int8.sha256 == winner["int8"]["sha256"]
    assert again.record.verdict.outcome == winner["verdict"]["outcome"] == "pass"
    assert again.record.provenance.policy_sha256 == winner["provenance"]["policy_sha256"]


def test_the_policys_own_recipe_is_kept_where_it_is_good_enough(project: Project) -> None:
    found = recovered(project, CNN)
    assert (found.exit_code, len(found.trials)) == (0, 1)
    assert found.winner is not None
    assert found.winner.recipe == found.finished.record.int8.recipe  # type: ignore[union-attr]
    assert found.tuned_on == "100 examples of calibration"


def test_json_says_what_the_exit_code_says(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, expected in ((["--trials", "1"], 1), ([], 0)):
        assert code(project, WIDE_RANGE, "--format", "json", *arguments) == expected
        told = json.loads(capsys.readouterr().out)
        assert told["exit_code"] == expected
        assert (told["winner"] is None) == (expected == 1)
        assert (told["record"] is None) == (expected == 1)
        assert {*told["front"]} <= {trial["number"] for trial in told["trials"]}
    assert told["recipe"]["equalize"] is True
    assert (Path(told["record"]) / "record.json").is_file()


def test_tuning_data_of_their_own_leave_calibration_whole(project: Project) -> None:
    tuning_data(project, 300)
    found = recovered(project)
    assert found.exit_code == 0
    assert found.tuned_on == "300 examples of tuning"
    assert found.winner is not None
    assert found.winner.bytes == found.finished.record.int8.bytes  # type: ignore[union-attr]


def test_tuning_data_need_no_targets(project: Project) -> None:
    """Each flip then counts as an error, and with targets only what is lost."""
    tuning_data(project, 200, targets=False)
    blind = recovered(project)
    assert blind.exit_code == 0
    for trial in blind.trials:
        assert trial.estimates[0].value == pytest.approx(trial.flips)
    project.change("tuning", lambda columns: columns.update(target=np.zeros(200, dtype=np.int64)))
    wrong = recovered(project, trials=1)
    assert wrong.folder != blind.folder
    assert wrong.trials[0].estimates[0].value != blind.trials[0].estimates[0].value


def binary(project: Project) -> Path:
    """A model of one score, and data without targets for it."""
    node = helper.make_node("Gemm", ["x", "w1", "b1"], ["g"], "fc1")
    head = helper.make_node("Gemm", ["g", "w2"], ["y"], "fc2")
    initializers = {"w1": weights(16, 32), "b1": weights(32), "w2": weights(32, 1, seed=3)}
    path = save(
        model([node, head], {"x": ["N", 16]}, {"y": ["N", 1]}, initializers),
        project.folder / "binary.onnx",
    )
    x = vectors(1200)
    scores = BACKEND.open(path, threads=1).run({"x": x})["y"]
    project.save("calibration", x=x[:200])
    project.save("held_out", x=x[200:], target=(scores[200:, 0] > 0).astype(np.int64))
    project.spec["judge"]["expect_fp32"] = {"accuracy": 1.0, "within": 0.0}
    project.budget(metric="accuracy", max_drop=0.05)
    return path


def test_a_binary_classifier_needs_no_targets_either(project: Project) -> None:
    found = recovered(project, binary(project))
    assert found.exit_code == 0
    assert found.trials[0].estimates[0].value == pytest.approx(found.trials[0].flips)


def smoothed(project: Project) -> Path:
    """A model in which smoothing puts a Mul between Tanh and product, and its data."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], "first"),
        helper.make_node("Tanh", ["m1"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "w2"], ["y"], "second"),
    ]
    initializers = {"w1": weights(16, 32, seed=1), "w2": weights(32, 4, seed=2)}
    path = save(
        model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, initializers),
        project.folder / "smoothed.onnx",
    )
    x = vectors(1200)
    target = BACKEND.open(path, threads=1).run({"x": x})["y"].argmax(axis=1)
    project.save("calibration", x=x[:200], target=target[:200])
    project.save("held_out", x=x[200:], target=target[200:])
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.budget(metric="accuracy", max_drop=0.1)
    return path


def test_a_recipe_may_override_ranges_that_smoothing_alone_brings(project: Project) -> None:
    """As one that was recovered, and pasted into the policy, does."""
    candidate = smoothed(project)
    project.spec["build"]["recipe"] = {"base": "smoothquant", "overrides": {"t_smoothed": "mse"}}
    project.write()
    found = recovered(project, candidate)
    assert [trial.error for trial in found.trials] == [None]
    assert found.exit_code == 0


def test_a_dynamic_recipe_is_tried_one_example_at_a_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    attempt = Tuning.attempt

    def told(self: Tuning, *arguments: Any) -> Trial:
        sizes.append(self.batch_size)
        return attempt(self, *arguments)

    monkeypatch.setattr(Tuning, "attempt", told)
    project.spec["build"] = {"recipe": {"base": "dynamic", "op_types": ["Conv", "Gemm"]}}
    tuning_data(project, 40)
    recovered(project, trials=1)
    assert {*sizes} == {1}


def test_calibration_data_of_a_model_of_fixed_batches_are_parted_between_batches(
    project: Project,
) -> None:
    """200 examples are 25 batches of 8, and half of that are 12."""
    candidate = save(cnn(batch=8), project.folder / "fixed.onnx")
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.budget(metric="prediction_flips", at_most=0.2)
    found = recovered(project, candidate)
    assert found.tuned_on == "96 examples of calibration"
    assert found.trials[0].outcome == "meets"


def test_trials_are_calibrated_on_a_part_of_what_the_winner_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    attempt = Tuning.attempt

    def told(self: Tuning, *arguments: Any) -> Trial:
        assert self.drafts.calibration is not None
        sizes.append((len(self.drafts.calibration), len(self.tuning)))
        return attempt(self, *arguments)

    monkeypatch.setattr(Tuning, "attempt", told)
    calibration, others = project.data("calibration"), project.data("held_out")
    project.save(
        "calibration", **{n: np.concatenate([calibration[n], others[n][:400]]) for n in others}
    )
    project.save("held_out", **{n: values[400:] for n, values in others.items()})
    found = recovered(project)
    assert {*sizes} == {(module._CALIBRATED, 300)}
    assert found.finished is not None
    assert found.finished.record.splits.calibration is not None
    assert found.finished.record.splits.calibration.examples == 600


def one_bad_layer(project: Project) -> Path:
    """A model whose first weights differ so much within a row that eight bits lose most of them."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["g1"], "bad", transB=1),
        helper.make_node("Tanh", ["g1"], ["t"], "tanh"),
        helper.make_node("Gemm", ["t", "w2"], ["y"], "good", transB=1),
    ]
    scale = np.where(np.arange(16) == 0, 1e3, 1.0).astype(np.float32)
    initializers = {
        "w1": weights(32, 16, seed=1) * scale,
        "b1": weights(32, seed=2),
        "w2": weights(4, 32, seed=3),
    }
    path = save(
        model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, initializers),
        project.folder / "bad.onnx",
    )
    x = vectors(1800) / scale
    target = BACKEND.open(path, threads=1).run({"x": x})["y"].argmax(axis=1)
    project.save("calibration", x=x[:600], target=target[:600])
    project.save("held_out", x=x[600:], target=target[600:])
    project.spec["build"]["recipe"] = {"base": "static", "op_types": ["Gemm"]}
    project.spec["judge"]["expect_fp32"] = {"accuracy": 1.0, "within": 0.0}
    project.budget(metric="accuracy", max_drop=0.06)
    return path


def test_mixed_precision_is_the_last_resort(project: Project) -> None:
    """The layer that eight bits cannot bear stays in floating point, and the other does not."""
    found = recovered(project, one_bad_layer(project))
    assert found.exit_code == 0
    assert found.winner is not None
    assert found.winner.recipe.exclude_nodes == ("bad",)
    assert found.winner.move == "the layer that costs most in floating point"
    assert found.finished is not None
    assert found.finished.record.int8.skipped_nodes == ("bad",)
    assert not any(trial.recipe.exclude_nodes for trial in found.trials[:4])


# ── interrupted, and the same again ───────────────────────────────────────────────────────


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)


def test_the_same_seed_gives_the_same_trials(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = recovered(project)
    elsewhere(tmp_path / "elsewhere", monkeypatch)
    second = recovered(project)
    assert lasting(first.trials) == lasting(second.trials)
    assert first.folder == second.folder  # each in its own working folder
    project.spec["judge"]["seed"] = 1
    project.write()
    other = recovered(project, trials=1)
    assert other.folder != first.folder
    assert lasting(other.trials) != lasting(first.trials[:1])


def test_what_was_interrupted_goes_on_where_it_was(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantized: list[str]
) -> None:
    profile = OnnxRuntime.profile

    def interrupting(self: OnnxRuntime, path: Path, *arguments: Any, **options: Any) -> Any:
        if len(quantized) == 2:
            raise KeyboardInterrupt
        return profile(self, path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(OnnxRuntime, "profile", interrupting)
        assert code(project) == 130
    quantized.clear()
    resumed = recovered(project)
    assert len(quantized) == len(resumed.trials) - 1
    quantized.clear()
    third = recovered(project)
    assert quantized == []
    elsewhere(tmp_path / "elsewhere", monkeypatch)
    whole = recovered(project)
    assert len(quantized) == len(whole.trials)
    for one in (resumed, third):
        assert lasting(one.trials) == lasting(whole.trials)
        assert one.winner is not None
        assert one.finished is not None
        assert whole.finished is not None
        assert one.finished.record.int8.sha256 == whole.finished.record.int8.sha256


@pytest.mark.parametrize("most", [1])
def test_so_many_trials_and_no_more_whether_known_or_not(project: Project, most: int) -> None:
    """What a search comes to does not depend on what an earlier one left behind."""
    fresh = recovered(project, trials=most)
    recovered(project)
    again = recovered(project, trials=most)
    assert len(fresh.trials) == len(again.trials) == most
    assert lasting(fresh.trials) == lasting(again.trials)
    assert fresh.ended == again.ended == f"--trials {most} allows no more"
    assert (fresh.winner, fresh.exit_code) == (None, 1)


# ── nothing meets ─────────────────────────────────────────────────────────────────────────


def test_time_that_is_up_before_anything_was_tried(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(project, WIDE_RANGE, "--minutes", "1e-9") == 4  # nothing is known of any budget
    assert "no recipe could be tried: --minutes 1e-09 are over" in capsys.readouterr().err


def test_budgets_that_nothing_can_meet_exit_1_with_the_best_and_the_front(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.spec["judge"]["budgets"] = [
        {"metric": "accuracy", "max_drop": 0},
        {"metric": "size", "max_ratio": 0.01},
    ]
    project.write()
    assert code(project) == 1
    text = capsys.readouterr().out
    assert "Nothing met the budgets on tuning data. The best that was found:" in text
    assert re.search(r"^  trial \d+, recipe: \{.*\"equalize\": true", text, flags=re.MULTILINE)
    assert re.search(r"^\* +\d+ misses ", text, flags=re.MULTILINE)
    assert "On the held-out set" not in text
    assert not [*Path(".gate/digits-cnn").glob("*/record.json")]


def test_the_front_is_of_a_budget_that_trials_have_an_estimate_of(project: Project) -> None:
    project.spec["judge"]["budgets"] = [
        {"metric": "latency_p50", "max_ratio": 9},
        {"metric": "accuracy", "max_drop": 0.01},
    ]
    project.write()
    found = recovered(project, trials=2)
    assert found.main == "accuracy.max_drop"
    assert "* " in render(found, "text")


# ── what cannot be done ───────────────────────────────────────────────────────────────────


def no_data(project: Project) -> None:
    project.spec["build"] = {"recipe": "dynamic"}


def few_to_tune_on(project: Project) -> None:
    tuning_data(project, 29)


def few_to_carve(project: Project) -> None:
    project.spec["build"]["calibration"]["limit"] = 58


def too_good(project: Project) -> None:
    tuning_data(project, 100)
    project.budget(metric="accuracy", at_least=0.999)


def no_such_node(project: Project) -> None:
    project.spec["build"]["recipe"] = {"base": "static", "exclude_nodes": ["conv9"]}


def shared_with_calibration(project: Project) -> None:
    project.save("tuning", **project.data("calibration"))
    project.spec["build"]["tuning"] = {"path": "tuning.npz"}


def same_file(project: Project) -> None:
    project.spec["build"]["tuning"] = {"path": "held_out.npz"}


def misspelt(project: Project) -> None:
    project.spec["judge"]["budgets"] = [{"metric": "acuracy", "max_drop": 0.01}]


def nothing(project: Project) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("spoil", "candidate", "expected", "message"),
    [
        (no_data, WIDE_RANGE, 2, r"no data to try recipes on.*`build: \{tuning: \{path: …\}\}`"),
        (few_to_tune_on, WIDE_RANGE, 2, r"29 examples to try recipes on \(tuning\.npz\).*30"),
        (few_to_carve, WIDE_RANGE, 2, r"29 examples to try recipes on \(calibration\.npz\)"),
        (too_good, CNN, 2, r"FP32 itself has accuracy 0\.\d+ on the tuning data.*at least 0\.999"),
        (no_such_node, WIDE_RANGE, 4, "exclude_nodes names 'conv9'"),
        (shared_with_calibration, WIDE_RANGE, 4, "calibration .* and tuning .* share 200 examples"),
        (same_file, WIDE_RANGE, 2, "build.tuning is the same file as judge.held_out"),
        (misspelt, WIDE_RANGE, 2, "unknown metric 'acuracy'"),
        (nothing, SUBGRAPH, 4, "inside subgraphs, where ONNX Runtime's quantizers do not look"),
        (nothing, "absent.onnx", 2, "absent.onnx"),
    ],
)
def test_what_no_trial_could_mend_is_told_before_the_first(  # noqa: PLR0917
    project: Project,
    capsys: pytest.CaptureFixture[str],
    quantized: list[str],
    spoil: Callable[[Project], None],
    candidate: Any,
    expected: int,
    message: str,
) -> None:
    spoil(project)
    project.write()
    assert code(project, candidate) == expected
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(message, told)
    assert quantized == []


def test_a_policy_without_a_candidate_says_so(project: Project) -> None:
    with pytest.raises(errors.UsageError, match="names no candidate: pass --candidate"):
        recovered(project, None)


def test_the_policys_own_candidate_is_taken(project: Project) -> None:
    project.spec["build"]["candidate"] = str(CNN)
    project.write()
    assert recovered(project, None).exit_code == 0


def test_a_folder_that_is_not_empty_is_refused_before_the_search(
    project: Project, tmp_path: Path, quantized: list[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert code(project, WIDE_RANGE, "--out", str(tmp_path / "out")) == 2
    assert quantized == []


def test_what_there_is_to_be_held_against_is_looked_for_before_the_search(
    project: Project, quantized: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    project.budget(metric="accuracy", max_drop=0.01, against="production")
    assert code(project) == 2
    assert "remembers nothing" in capfd.readouterr().err
    assert quantized == []


def test_the_winners_record_goes_where_it_is_asked_for(project: Project, tmp_path: Path) -> None:
    assert code(project, CNN, "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "record.json").is_file()


# ── the held-out set ──────────────────────────────────────────────────────────────────────


def test_the_held_out_set_is_opened_to_show_that_it_is_another_and_to_judge(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_split, judge = data.open_split, module.run_gate

    def told(name: str, *arguments: Any, **options: Any) -> Any:
        opened.append(name)
        return open_split(name, *arguments, **options)

    def judged(*arguments: Any, **options: Any) -> Any:
        opened.append("judged")
        return judge(*arguments, **options)

    monkeypatch.setattr(data, "open_split", told)
    monkeypatch.setattr(module, "run_gate", judged)
    tuning_data(project, 100)
    assert recovered(project).exit_code == 0
    assert opened[:4] == ["calibration", "tuning", "held_out", "judged"]
    assert opened.count("held_out") == 2


def test_a_search_does_not_read_the_held_out_file(project: Project) -> None:
    """Its columns' names apart: whatever its values are, the search is the same."""
    before = recovered(project, trials=3)
    project.change("held_out", lambda columns: columns.update(image=0 * columns["image"]))
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    after = recovered(project, trials=3)
    assert after.folder == before.folder
    assert lasting(after.trials) == lasting(before.trials)


def test_tuning_on_held_out_examples_is_found_out(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = project.data("held_out")
    project.save("tuning", **{name: values[:100] for name, values in columns.items()})
    project.spec["build"]["tuning"] = {"path": "tuning.npz"}
    project.write()
    assert code(project) == 4
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"tuning\.npz.* share 100 examples .*take them out of", told)


def test_slices_alone_are_looked_at_over_all(project: Project) -> None:
    budgets = [{"metric": "accuracy", "max_drop": 0.03, "each": "target"}]
    project.spec["judge"]["budgets"] = budgets
    project.write()
    assert len(recovered(project).trials) > 1


def test_budgets_that_trials_cannot_look_at_are_not_met_by_all(project: Project) -> None:
    project.budget(metric="latency_p50", max_ratio=9)
    with pytest.raises(errors.UsageError, match="which trials do not measure"):
        recovered(project)


def test_tuning_on_calibration_that_is_held_out_is_found_out(project: Project) -> None:
    columns = project.data("held_out")
    project.save("calibration", **{name: values[:200] for name, values in columns.items()})
    with pytest.raises(errors.OverlapError):
        recovered(project, trials=1)


def test_what_could_not_be_tried_is_no_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(OnnxRuntime, "quantize", full)
    with pytest.raises(errors.QuantizationError, match=r"no recipe could be tried.*no space left"):
        recovered(project)


def test_what_met_on_tuning_data_alone_is_not_released(project: Project) -> None:
    """The winner meets the held-out set as any release does."""
    project.change("held_out", lambda columns: columns.update(target=9 - columns["target"]))
    assert code(project) == 4  # FP32 is not what the policy expects
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.spec["judge"]["held_out"]["limit"] = 100
    project.write()
    assert recovered(project).exit_code == 3


def test_a_fixed_batch_is_no_reason_to_open_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_gate", lambda *_, **__: pytest.fail("judged"))
    candidate = save(cnn(batch=7), project.folder / "fixed.onnx")
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    with pytest.raises(errors.DataError, match="batches of 7"):
        recovered(project, candidate)


def test_a_model_that_onnx_cannot_read_is_told(project: Project) -> None:
    bad = project.folder / "bad.onnx"
    bad.write_bytes(onnx.ModelProto().SerializeToString()[:3] + b"junk")
    assert code(project, bad) == 4
