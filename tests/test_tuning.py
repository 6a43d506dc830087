"""One trial: what it measures, when it meets, and when it is given up."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.int8 import recipe
from support.onnx_models import attention, mlp, model, save, vectors, weights
from support.project import CNN, WIDE_RANGE, Project
from support.seen import point

from gate import data, graph, publish, tasks
from gate.advice import touching
from gate.backends import READINGS
from gate.backends.onnxruntime import BACKEND
from gate.drafts import Drafts
from gate.engines.local import Threads
from gate.errors import EvaluationError, UsageError
from gate.jobs import outputs_of
from gate.policy import Budget
from gate.policy_file import load_policy
from gate.progress import Silent
from gate.recipes import Recipe
from gate.run import Run
from gate.search import Exhausted
from gate.sources import DataSource
from gate.subject import Given, bring_fp32
from gate.trials import Estimate, Journal, Trial, divergence
from gate.tuning import Tuning, meet, spare
from gate.values import Array

SIZE = 64
EXAMPLES = 500


def never() -> None:
    """Nothing is used up."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Digits, of which half that are held out elsewhere are tuning data here."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    every = made.data("held_out")
    made.save("tuning", **{name: values[:EXAMPLES] for name, values in every.items()})
    return made


def tuning_of(
    project: Project,
    candidate: Path = CNN,
    *,
    targets: Array | None = None,
    size: int = SIZE,
    **changes: Any,
) -> Tuning:
    """Built by hand, as `gate recover` builds it."""
    loaded, scratch = load_policy(project.policy), project.folder / "scratch"
    scratch.mkdir()
    run = Run(
        loaded=loaded,
        stage="pr",
        backend=BACKEND,
        threads=1,
        scratch=scratch,
        progress=Silent(),
        known=publish.Known(),
    )
    _, fp32 = bring_fp32(run, Given(candidate=str(candidate)))
    calibration, tuning = (
        data.open_split(
            name,
            DataSource(path=f"{name}.npz"),
            base=project.folder,
            inputs=fp32.inputs,
            preprocess=None,
            seed=0,
            scratch=scratch / name,
            needs_target=name == "tuning",
        )
        for name in ("calibration", "tuning")
    )
    given = tuning.targets if targets is None else targets
    assert given is not None
    runner = BACKEND.open(fp32.path, threads=1)
    outputs = [runner.run(batch.feeds) for batch in tuning.batches(size)]
    sample = tuning.batch(0, 2).feeds
    bound = tasks.get("classification").bind(loaded.policy.build, fp32.outputs, given, outputs[0])
    fields: dict[str, Any] = {
        "run": run,
        "candidate": fp32,
        "drafts": Drafts(run, fp32, calibration),
        "tuning": tuning,
        "batch_size": size,
        "journal": Journal(project.folder / "trials", {}),
        "left": never,
        "late": never,
        "task": bound,
        "targets": given,
        "fp32": outputs,
        "gives": outputs_of(run, fp32, tuning, size, Threads(1)),
        "keep": lambda trial: None,
        "sample": sample,
        "kernels": BACKEND.profile(fp32.path, sample, optimize=False),
    }
    return Tuning(**(fields | changes))


def draft(found: Tuning, base: str = "model.fp32") -> Path:
    """The INT8 model of the last trial that started from the base."""
    return found.run.scratch / f"{base}.draft.onnx"


class Instead:
    """The backend, but for what a test says of it."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(BACKEND, name)


def both(found: Tuning) -> tuple[Array, Array]:
    """Logits of FP32 and of the last trial's INT8, computed here."""
    runners = (BACKEND.open(path, threads=1) for path in (found.candidate.path, draft(found)))
    batches = [*found.tuning.batches(found.batch_size)]
    fp32, int8 = (
        np.concatenate([next(iter(one.run(batch.feeds).values())) for batch in batches])
        for one in runners
    )
    return fp32.astype(np.float64), int8.astype(np.float64)


def values(trial: Trial) -> dict[str, float | None]:
    return {one.budget: one.value for one in trial.estimates}


# ── divergence ────────────────────────────────────────────────────────────────────────────


def batches(**outputs: Array) -> list[Mapping[str, Array]]:
    """In two parts."""
    return [{n: v[:3] for n, v in outputs.items()}, {n: v[3:] for n, v in outputs.items()}]


def test_divergence_is_the_error_over_the_signal() -> None:
    rng = np.random.default_rng(0)
    a, b, c, d = (rng.standard_normal((7, 4)).astype(np.float32) for _ in range(4))
    expected = np.mean(
        [
            np.linalg.norm(x.astype(float) - y) ** 2 / np.linalg.norm(x) ** 2
            for x, y in ((a, b), (c, d))
        ]
    )
    assert divergence(batches(one=a, two=c), batches(one=b, two=d)) == pytest.approx(expected)
    assert divergence(batches(one=a), batches(one=a)) == 0


def test_a_large_output_does_not_drown_a_small_one() -> None:
    one, noise = np.ones((7, 2)), np.full((7, 2), 1.1)
    alone = divergence(batches(y=one), batches(y=noise))
    beside = divergence(batches(y=one, z=1e6 * one), batches(y=noise, z=1e6 * one))
    assert beside == pytest.approx(alone / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_far(bad: float) -> None:
    one = np.ones((7, 2))
    spoilt = one.copy()
    spoilt[4, 1] = bad
    for pair in ((one, spoilt), (spoilt, one), (spoilt, spoilt)):
        assert divergence(*(batches(y=side) for side in pair)) == sys.float_info.max


def test_integers_and_silence_are_no_signal() -> None:
    zero, label = np.zeros((7, 2)), np.arange(7)
    assert divergence(batches(label=label), batches(label=label + 1)) == 0
    assert divergence(batches(y=zero), batches(y=zero + 2)) == pytest.approx(4 * 14)


# ── within the limits, with room to spare ─────────────────────────────────────────────────


def budget(**fields: Any) -> Budget:
    return Budget.model_validate({"metric": "accuracy"} | fields)


DROP = budget(max_drop=0.01)
RELATIVE = budget(max_relative_drop=0.1)
LEAST = budget(at_least=0.9)
FLIPS = budget(metric="prediction_flips", at_most=0.05)
SHARE = budget(metric="int8_share", at_least=0.9)
BYTES = budget(metric="size", max_ratio=0.5)


@pytest.mark.parametrize(
    ("limited", "beyond", "expected"),
    [
        (DROP, -0.0021, True),
        (DROP, -0.0019, False),
        (DROP, 0.0, False),
        (budget(max_drop=0), 0.0, True),
        (RELATIVE, -0.021, True),
        (RELATIVE, -0.019, False),
        (FLIPS, -0.011, True),
        (FLIPS, -0.009, False),
        (LEAST, 0.0, True),
        (LEAST, 1e-9, False),
        (SHARE, 0.0, True),
        (BYTES, 0.0, True),
        (BYTES, 1e-9, False),
        *((one, None, False) for one in (DROP, RELATIVE, LEAST, FLIPS, SHARE, BYTES)),
    ],
)
def test_a_fifth_of_a_sampled_limit_has_to_be_left(
    limited: Budget, beyond: float | None, expected: bool
) -> None:
    found = Estimate(budget=limited.id, value=beyond, beyond=beyond)
    assert meet([found], [LEAST, limited]) is expected


def test_every_budget_has_to_be_met() -> None:
    good, bad = (Estimate(budget=one, value=0, beyond=-0.005) for one in (DROP.id, FLIPS.id))
    assert meet([good], [DROP, FLIPS])
    assert not meet([good, bad], [DROP, FLIPS])


def test_what_is_spared_is_that_of_the_tightest_limit() -> None:
    def found(one: Budget, beyond: float | None) -> Estimate:
        return Estimate(budget=one.id, value=None, beyond=beyond)

    assert spare([found(DROP, -0.01), found(FLIPS, -0.01)], [DROP, FLIPS]) == pytest.approx(0.2)
    assert spare([found(DROP, 0.02)], [DROP]) == pytest.approx(-2)
    assert spare([found(DROP, None)], [DROP]) == -1
    others = [LEAST, SHARE, BYTES, budget(metric="log_loss", max_drop=0)]
    assert spare([found(one, -0.5) for one in others], others) is None


# ── what is measured ──────────────────────────────────────────────────────────────────────


def test_estimates_are_what_a_direct_computation_gives(project: Project) -> None:
    project.spec["judge"]["budgets"] = [
        {"metric": "accuracy", "max_drop": 0.5},
        {"metric": "accuracy", "max_relative_drop": 0.5},
        {"metric": "accuracy", "at_least": 0.5},
        {"metric": "prediction_flips", "at_most": 0.5},
        {"metric": "log_loss", "max_drop": 5.0},
        {"metric": "size", "max_ratio": 0.5},
        {"metric": "int8_share", "at_least": 0.5},
        {"metric": "accuracy", "max_drop": 0.5, "each": "target"},
        {"metric": "latency_p50", "max_ratio": 1.0},
    ]
    project.write()
    found = tuning_of(project, WIDE_RANGE)
    trial = found.attempt(recipe(exclude_nodes=[found.kernels[0].node]), "one layer")
    fp32, int8 = both(found)
    targets = project.data("tuning")["target"]
    right, still = (scores.argmax(axis=1) == targets for scores in (fp32, int8))
    lost = float((right & ~still).mean())

    def log_loss(scores: Array) -> float:
        shifted = scores - scores.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-logs[np.arange(len(logs)), targets].mean())

    assert lost > (right.mean() - still.mean()) > 0  # gains make up for none of it
    size = draft(found).stat().st_size
    assert values(trial) == pytest.approx(
        {
            "accuracy.max_drop": lost,
            "accuracy.max_relative_drop": lost / right.mean(),
            "accuracy.at_least": still.mean(),
            "prediction_flips.at_most": (fp32.argmax(axis=1) != int8.argmax(axis=1)).mean(),
            "log_loss.max_drop": log_loss(int8) - log_loss(fp32),
            "size.max_ratio": size / found.candidate.bytes,
            "int8_share.at_least": trial.int8_share,
            "accuracy.max_drop[each target]": lost,  # over all: what misses there misses here
        },
        rel=1e-5,
    )
    assert 0.5 < (trial.int8_share or 0) < 1
    assert (trial.bytes, trial.examples, trial.number) == (size, EXAMPLES, 1)
    assert trial.flips == values(trial)["prediction_flips.at_most"]
    assert trial.divergence == pytest.approx(((fp32 - int8) ** 2).sum() / (fp32**2).sum())
    over = {one.budget: one.beyond for one in trial.estimates}
    assert over["accuracy.max_drop"] == pytest.approx(lost - 0.5)
    assert over["accuracy.at_least"] == pytest.approx(0.5 - still.mean())


def test_a_good_recipe_meets_and_a_bad_one_misses(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.02)
    found = tuning_of(project, WIDE_RANGE)
    bad, good = (found.attempt(recipe(**one), "") for one in ({}, {"equalize": True}))
    assert (bad.outcome, good.outcome) == ("misses", "meets")
    assert (good.divergence or 0) < 0.01 * (bad.divergence or 0)
    assert [trial.number for trial in found.tried] == [1, 2]


def test_calibration_is_observed_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all recipes that start from the same FP32."""
    found, opened = tuning_of(project), []
    exposed = BACKEND.open_exposed

    def counted(path: Path, tensors: Any, **options: Any) -> Any:
        opened.append(path)
        return exposed(path, tensors, **options)

    found.run.backend = Instead(open_exposed=counted)  # type: ignore[assignment]
    for changes in ({}, {"calibration": "mse"}, {"per_channel": False}, {"calibration": "entropy"}):
        assert found.attempt(recipe(**changes), "").outcome != "failed"
    assert len(opened) == 1
    for method in ("mse", "entropy"):
        found.attempt(recipe(equalize=True, calibration=method), "")
    assert len(opened) == 3  # the largest values by channel, and the ranges after that


def test_a_trials_model_is_the_gates_own(project: Project) -> None:
    """The same calibration data give the same bytes, whatever was tried before."""
    import gate

    found = tuning_of(project, WIDE_RANGE)
    chosen = {"equalize": True, "calibration": "mse"}
    for changes in ({"calibration": "entropy"}, chosen):
        found.attempt(recipe(**changes), "")
    tried = draft(found, "base-0").read_bytes()
    project.spec["build"]["recipe"] = {"base": "static", **chosen}
    finished = gate.run_gate(project.write(), WIDE_RANGE, tracker="none", threads=1)
    assert (finished.folder / "model.int8.onnx").read_bytes() == tried


def test_without_targets_each_flip_counts(project: Project) -> None:
    """`gate recover` then takes what FP32 predicts for true."""
    labelled = tuning_of(project, WIDE_RANGE)
    predicted = np.concatenate([next(iter(one.values())) for one in labelled.fp32]).argmax(axis=1)
    found = replace(labelled, targets=predicted, tried=[])
    trial = found.attempt(recipe(), "")
    assert trial.flips
    assert values(trial)["accuracy.max_drop"] == pytest.approx(trial.flips)


# ── given up ──────────────────────────────────────────────────────────────────────────────


def test_a_hopeless_trial_stops_early(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.001)
    found = tuning_of(project, WIDE_RANGE)
    given_up, good = (found.attempt(recipe(**one), "") for one in ({}, {"equalize": True}))
    assert given_up.outcome == "misses"
    assert given_up.examples in (64, 128, 256)
    assert good.examples == EXAMPLES


def test_what_is_not_beyond_doubt_goes_on(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.09)  # where it is, by and large
    trial = tuning_of(project, WIDE_RANGE).attempt(recipe(), "")
    assert trial.examples == EXAMPLES


def test_where_nothing_tells_what_chance_does_a_trial_goes_on(project: Project) -> None:
    """Log loss moves with every example, and without any flip."""
    project.budget(metric="log_loss", max_drop=0)
    trial = tuning_of(project).attempt(recipe(), "")
    assert (trial.outcome, trial.examples) == ("misses", EXAMPLES)


def test_in_small_batches_it_is_seldom_looked_at(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    look = Tuning._is_hopeless
    monkeypatch.setattr(
        Tuning,
        "_is_hopeless",
        lambda self, outputs: seen.append(len(outputs)) or look(self, outputs),
    )
    tuning_of(project, size=1).attempt(recipe(), "")
    assert seen == [64, 128, 256]


def test_time_that_is_up_ends_a_trial_and_keeps_nothing_of_it(project: Project) -> None:
    clock = iter([None, None, "late"])
    found = tuning_of(project, late=lambda: next(clock))
    with pytest.raises(Exhausted, match="late"):
        found.attempt(recipe(), "")
    assert found.tried == []
    assert found.journal.known(recipe()) is None


def test_trials_that_are_used_up_end_the_search_known_or_not(project: Project) -> None:
    """So that a search that goes on comes to what one in a piece would have come to."""
    found = tuning_of(project)
    found.attempt(recipe(), "")
    again = replace(found, tried=[], left=lambda: "used up")
    with pytest.raises(Exhausted, match="used up"):
        again.attempt(recipe(), "")


def test_a_trial_that_is_known_takes_no_time(project: Project) -> None:
    found, kept = tuning_of(project), []
    first = found.attempt(recipe(), "once")
    found.run.backend = Instead(quantize=pytest.fail)  # type: ignore[assignment]
    again = replace(found, tried=[], late=lambda: "late", keep=kept.append)
    assert again.attempt(recipe(), "again") == first
    assert kept == [first]  # a tracker that has it leaves it as it is
    with pytest.raises(Exhausted, match="late"):
        again.attempt(recipe("static-mse"), "new")


# ── what fails ────────────────────────────────────────────────────────────────────────────


def test_a_crash_inside_the_backend_is_a_failed_trial_with_its_reason(project: Project) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("protobuf: out of cheese")

    kept: list[Trial] = []
    found = tuning_of(project, keep=kept.append)
    found.run.backend = Instead(quantize=crash)  # type: ignore[assignment]
    trial = found.attempt(recipe(), "")
    assert (trial.outcome, trial.error) == ("failed", "RuntimeError: protobuf: out of cheese")
    assert trial.estimates == ()
    assert kept == [trial]
    assert found.journal.known(recipe()) == trial


def test_an_interruption_is_no_failed_trial(project: Project) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    found = tuning_of(project)
    found.run.backend = Instead(quantize=interrupted)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        found.attempt(recipe(), "")
    assert found.journal.known(recipe()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exclude_nodes": ["conv9"]}, "exclude_nodes names 'conv9'"),
        ({"exclude_op_types": ["Conv", "Gemm"]}, "leave out"),
    ],
)
def test_what_the_gate_refuses_is_told_in_its_words(
    project: Project, changes: dict[str, Any], reason: str
) -> None:
    trial = tuning_of(project).attempt(recipe(**changes), "")
    assert trial.outcome == "failed"
    assert reason in (trial.error or "")
    assert "Error" not in (trial.error or "")


class Spoilt:
    """A runner whose outputs are not all finite."""

    def __init__(self, path: Path, *, threads: int, bad: float, all_of_it: bool) -> None:
        self._runner, self._bad = BACKEND.open(path, threads=threads), bad
        self._rows = slice(None) if all_of_it else slice(0, 1)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._runner.run(feeds)
        for given in outputs.values():
            given[self._rows] = self._bad
        return outputs


@pytest.mark.parametrize("all_of_it", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "limited",
    [
        {"metric": "accuracy", "max_drop": 0.9},
        {"metric": "accuracy", "at_least": 0.01},
        {"metric": "prediction_flips", "at_most": 0.99},
        {"metric": "log_loss", "max_drop": 1e9},
    ],
)
def test_outputs_that_are_not_finite_never_meet(
    project: Project, limited: dict[str, Any], bad: float, all_of_it: bool
) -> None:
    project.budget(**limited)
    found = tuning_of(project)
    found.run.backend = Instead(  # type: ignore[assignment]
        open=lambda path, threads: Spoilt(path, threads=threads, bad=bad, all_of_it=all_of_it)
    )
    trial = found.attempt(recipe(), "")
    assert trial.outcome == "misses"
    assert trial.estimates[0].beyond is None
    assert trial.divergence == sys.float_info.max
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


def test_fp32_that_is_not_finite_is_no_baseline(project: Project) -> None:
    found = tuning_of(project)
    found.demand_reachable()
    next(iter(found.fp32[1].values()))[3, 2] = np.nan
    broken = str(found.tuning.ids[SIZE + 3])
    with pytest.raises(EvaluationError, match=rf"NaN or Inf on 1 tuning examples \({broken}\)"):
        found.demand_reachable()


@pytest.mark.parametrize(("least", "reached"), [(0.9, True), (0.99, False)])
def test_what_fp32_itself_misses_no_recipe_reaches(
    project: Project, least: float, reached: bool
) -> None:
    project.budget(metric="accuracy", at_least=least)
    found = tuning_of(project)
    if reached:
        found.demand_reachable()
        return
    with pytest.raises(UsageError, match=r"FP32 itself has accuracy 0\.9.*at least 0\.99 of INT8"):
        found.demand_reachable()


# ── of other models ───────────────────────────────────────────────────────────────────────


def other_model(project: Project, made: onnx.ModelProto, x: Array) -> Path:
    """The project with that model, and its predictions as targets."""
    path = save(made, project.folder / "other.onnx")
    outputs = BACKEND.open(path, threads=1).run({"x": x})
    targets = next(iter(outputs.values())).argmax(axis=1)
    for name, part in (("calibration", slice(0, 50)), ("tuning", slice(50, None))):
        project.save(name, x=x[part], target=targets[part])
    return path


def flat_attention() -> onnx.ModelProto:
    """x (N, 4, 4) -> attention, flat -> y (N, 16)."""
    made = attention()
    made.graph.node.append(helper.make_node("Flatten", ["y"], ["flat"], "flat"))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("flat", 1, ["N", 16]))
    onnx.checker.check_model(made)
    return made


def test_what_runs_as_integers_though_it_is_excluded_is_refused_as_the_gate_does(
    project: Project,
) -> None:
    x = np.random.default_rng(0).standard_normal((150, 4, 4)).astype(np.float32)
    found = tuning_of(project, other_model(project, flat_attention(), x))
    (scores,) = (kernel.node for kernel in found.kernels if kernel.node.startswith("scores"))
    trial = found.attempt(recipe(exclude_nodes=[scores]), "")
    assert trial.outcome == "failed"
    assert "scores runs as integers, though it is excluded" in (trial.error or "")


def smoothed() -> onnx.ModelProto:
    """Two products read what a Tanh made, so that smoothing puts a Mul of its own there."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "w1"], ["m1"], "first"),
        helper.make_node("Relu", ["m1"], ["r1"], "relu"),
        helper.make_node("MatMul", ["r1", "w2"], ["y"], "second"),
    ]
    initializers = {"w1": weights(16, 32, seed=1), "w2": weights(32, 4, seed=2)}
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, initializers)


@pytest.mark.parametrize("build", [mlp, smoothed])
def test_layers_of_a_smoothed_model_can_all_be_excluded(
    project: Project, build: Callable[[], onnx.ModelProto]
) -> None:
    found = tuning_of(project, other_model(project, build(), vectors(150)))
    chosen = recipe("static-matmul", op_types=["MatMul"] if build is smoothed else [], smooth=0.5)
    layers = found.blame(chosen)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    names = {node.name for node in graph.read(found.candidate.path).graph.node}
    base = found.drafts.base(chosen)
    assert {node.name for node in graph.read(base.path).graph.node} - names  # something was put in
    for layer in layers:
        assert {*touching(layer)} <= names
        trial = found.attempt(_excluding(chosen, touching(layer)), "")
        assert "exclude_nodes names" not in (trial.error or "")


def _excluding(chosen: Recipe, nodes: tuple[str, ...]) -> Recipe:
    return chosen.model_copy(update={"exclude_nodes": nodes})


def test_layers_that_cannot_be_told_apart_end_the_search(project: Project) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EvaluationError("the probe ran out of memory")

    found = tuning_of(project)
    found.run.backend = Instead(probe=fail)  # type: ignore[assignment]
    with pytest.raises(Exhausted, match="cannot be told apart: the probe ran out of memory"):
        found.blame(recipe())


def test_a_dynamic_recipe_is_blamed_on_one_example_at_a_time(project: Project) -> None:
    """What one of its batches gives depends on all that are in it."""
    sizes: set[int] = set()

    class Told:
        points = (point("image", "Input"),)

        def run(self, feeds: Mapping[str, Array]) -> Any:
            sizes.add(len(feeds["image"]))
            return np.zeros((1, len(READINGS))), {}

    found = tuning_of(project)
    found.run.backend = Instead(probe=lambda *_, **__: Told())  # type: ignore[assignment]
    found.blame(recipe("dynamic", op_types=["Conv", "Gemm"]))
    found.blame(recipe())
    assert sizes == {1, 8}


def test_work_is_shared_out_by_operator(project: Project) -> None:
    found = tuning_of(project).work
    assert sum(found.values()) == pytest.approx(1)
    assert found["Conv"] > found["Gemm"] > 0
