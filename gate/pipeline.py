"""`run_gate`: the whole story of one run, from a candidate to a verdict on the record."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate import backends, data, formats, preprocess, publish, tasks, timing, trackers
from gate.backends import Runner
from gate.candidate import Source, fetch, input_columns
from gate.compare import compare_budgets, describe
from gate.decide import decide
from gate.errors import (
    UsageError,
)
from gate.evaluate import demand_baseline, evaluate, first_outputs, opening, without_rows
from gate.int8 import make_int8, take_ready
from gate.judgeable import unsupported
from gate.metrics import (
    ARTIFACT_METRICS,
    MODEL_METRICS,
    PROCESS_METRICS,
    ArtifactMetric,
    Metric,
)
from gate.normalize import normalize, prove_parity
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.progress import Progress, Silent
from gate.records import (
    Array,
    Candidate,
    Comparison,
    Evaluation,
    GateRecord,
    Int8Model,
    ProcessInfo,
    Split,
    Stage,
    Verdict,
)
from gate.run import Judged, Ready, Run, charge, write
from gate.stopping import Early, Watch
from gate.tasks import BoundTask

BACKEND = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to a verdict."""

    record: GateRecord
    folder: Path
    """Where the record, the rows, the models and the reports lie."""
    run: str
    """The tracker's id; empty without a tracker."""

    @property
    def verdict(self) -> Verdict:
        """What all budgets came to."""
        return self.record.verdict

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return self.record.exit_code


def run_gate(
    policy: str | os.PathLike[str] | LoadedPolicy,
    candidate: Any = None,
    *,
    stage: Stage = "pr",
    out: str | os.PathLike[str] | None = None,
    tracker: str = "mlflow",
    int8: str | os.PathLike[str] | None = None,
    trust: bool = False,
    threads: int | None = None,
    example_inputs: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
) -> Finished:
    """Quantize a candidate, measure it against its FP32 self, decide, and record all of it.

    Args:
        policy: a file, or one that is loaded already.
        candidate: a path, an MLflow URI or a `torch.nn.Module`; default: the policy's own.
        stage: `release` also registers the INT8 model.
        out: an empty or new folder for the record; default `.gate/<model>/<run>/`.
        tracker: a key of `gate.trackers`.
        int8: an INT8 model made elsewhere, path or MLflow URI, instead of what the recipe makes.
        trust: allow candidate formats that can run code on load.
        threads: of one inference; default: every core.
        example_inputs: inputs by name, to trace a module with; default: from the policy's data.
        progress: told of each step.

    Raises:
        GateError: the gate could not judge; `exit_code` says how the command line would exit.
    """
    loaded = policy if isinstance(policy, LoadedPolicy) else load_policy(Path(policy))
    preflight(loaded, unsupported=unsupported, needs_candidate=candidate is None)
    chosen = _chosen(loaded, candidate)
    keeper = trackers.get(tracker)
    with publish.claimed(None if out is None else Path(out)) as folder:
        known, unreachable = publish.reach(keeper, loaded.policy.model)
        with (
            publish.tracing(
                keeper if unreachable is None else None,
                model=loaded.policy.model,
                stage=stage,
                source=chosen if isinstance(chosen, str) else type(chosen).__name__,
            ),
            tempfile.TemporaryDirectory(prefix="gate-") as scratch,
        ):
            run = Run(
                loaded=loaded,
                stage=stage,
                backend=backends.get(BACKEND),
                threads=threads or os.cpu_count() or 1,
                scratch=Path(scratch),
                progress=progress or Silent(),
                known=known,
                ready=None if int8 is None else _ready(os.fspath(int8), Path(scratch)),
            )
            judged = _judge(run, chosen, trust=trust, example_inputs=example_inputs)
            record, written = write(run, judged, folder)
    if unreachable is not None:
        raise publish.unsent(unreachable, written) from unreachable
    return Finished(record=record, folder=written, run=publish.send(keeper, record, written))


# ── the steps ─────────────────────────────────────────────────────────────────────────────


def _judge(
    run: Run, chosen: Any, *, trust: bool, example_inputs: Mapping[str, Array] | None
) -> Judged:
    with run.step("candidate"):
        examples = _examples(run, example_inputs)
        source = fetch(chosen, scratch=run.scratch, trust=trust, examples=examples)
        candidate = _normalised(run, source)
    with run.step("data"):
        splits = _open_splits(run, candidate)
        alone = run.ready is not None and run.ready.alone
        batch_size = data.batch_size(run.policy, candidate, splits.values(), alone=alone)
    with run.step("parity"):
        fp32 = run.backend.open(candidate.path, threads=run.threads)
        shown = opening(splits.get("calibration", splits["held_out"]), batch_size)
        reference = source.reference or run.backend.open(source.onnx, threads=run.threads).run
        prove_parity(reference, fp32, shown, candidate.source)
        task, metrics = _metrics(run, candidate, splits["held_out"], fp32, batch_size)
    int8 = make_int8(run, candidate, splits.get("calibration"), shown[0])
    cost = charge(run, candidate, int8, splits["held_out"])
    order, watch = _order(run, splits["held_out"], metrics, cost.alpha)
    with run.step("evaluate", total=len(order)):
        evaluated = evaluate(
            fp32,
            run.backend.open(int8.path, threads=run.threads),
            order,
            task=task,
            metrics=metrics,
            batch_size=batch_size,
            seed=run.policy.judge.seed,
            progress=run.progress.advance,
            stop=watch,
        )
    baseline = demand_baseline(
        run.policy.judge.expect_fp32, evaluated.evaluation, metrics, total=len(order)
    )
    process = _process(run, (candidate, int8), opening(order, batch_size), batch_size)
    with run.step("judge"):
        early = watch.early(len(evaluated.evaluation.ids), len(order)) if watch else None
        comparisons, verdict = _decide(
            run,
            (candidate, int8),
            evaluated.evaluation,
            metrics,
            alpha=cost.alpha,
            early=early,
            process=process,
        )
    return Judged(
        candidate=candidate,
        int8=int8,
        splits=splits,
        batch_size=batch_size,
        charge=cost,
        evaluated=evaluated,
        baseline=baseline,
        comparisons=comparisons,
        verdict=verdict,
        process=process,
    )


def _ready(source: str, scratch: Path) -> Ready:
    """An INT8 artifact that was made elsewhere: ONNX, which is only data."""

    def no_examples(_: tuple[str, ...]) -> Mapping[str, Array]:
        raise UsageError(f"--int8 {source} is no ONNX file: export it to ONNX")

    folder = _subfolder(scratch, "int8")
    return take_ready(fetch(source, scratch=folder, trust=False, examples=no_examples), scratch)


def _normalised(run: Run, source: Source) -> Candidate:
    return normalize(
        source.onnx,
        name=source.name,
        sha256=source.sha256,
        backend=run.backend,
        threads=run.threads,
        scratch=run.scratch,
    )


def _open_splits(run: Run, candidate: Candidate) -> dict[str, Split]:
    """The splits that the policy names, proven disjoint."""
    build, judge = run.policy.build, run.policy.judge
    named = {"held_out": judge.held_out, "calibration": build.calibration, "tuning": build.tuning}
    splits = {
        name: data.open_split(
            name,
            source,
            base=run.loaded.base,
            inputs=candidate.inputs,
            preprocess=build.preprocess,
            seed=judge.seed,
            scratch=_subfolder(run.scratch, name),
            needs_target=name == "held_out",
        )
        for name, source in named.items()
        if source is not None
    }
    data.prove_disjoint(tuple(splits.values()))
    return splits


def _metrics(
    run: Run, candidate: Candidate, held_out: Split, fp32: Runner, batch_size: int
) -> tuple[BoundTask, dict[str, Metric]]:
    """The task fitted to the model, and every metric that is judged, expected or shown."""
    policy = run.policy
    assert held_out.targets is not None
    first = first_outputs(fp32, opening(held_out, batch_size))
    task = tasks.get(policy.task).bind(policy.build, candidate.outputs, held_out.targets, first)
    asked = [budget.metric for budget in policy.judge.budgets]
    if policy.judge.expect_fp32 != "unknown":
        asked += policy.judge.expect_fp32.metrics
    extra = [name for name in asked if name not in MODEL_METRICS]
    return task, dict(task.metrics) | {name: task.metric(name) for name in extra}


def _order(
    run: Run, held_out: Split, metrics: Mapping[str, Metric], alpha: float
) -> tuple[Split, Watch | None]:
    """The held-out set as it is visited, and who looks whether the evidence suffices."""
    judge = run.policy.judge
    if judge.stopping == "full":
        return held_out, None
    order = data.shuffled(held_out, judge.seed)
    whole = without_rows(order)
    return order, Watch(judge.budgets, metrics, whole, alpha=alpha, fail_alpha=run.policy.alpha)


def _process(
    run: Run,
    models: tuple[Candidate, Int8Model],
    feeds: Sequence[Mapping[str, Array]],
    batch_size: int,
) -> ProcessInfo:
    """Time and memory of both models, on the batches that begin the held-out set."""
    asked = {budget.metric for budget in run.policy.judge.budgets} & PROCESS_METRICS.keys()
    whole = [batch for batch in feeds if len(next(iter(batch.values()))) == batch_size] or feeds
    found = ProcessInfo()
    if asked - {"peak_memory"}:
        with run.step("latency"):
            fp32, int8 = (run.backend.open(m.path, threads=run.threads) for m in models)
            times = timing.time_models(fp32, int8, whole, seed=run.policy.judge.seed)
            rounds = timing.by_metric(*times, batch=len(next(iter(whole[0].values()))))
            found = found.model_copy(update={"rounds": rounds})
    if "peak_memory" in asked:
        with run.step("memory"):
            peaks = tuple(
                timing.peak_memory(m.path, whole[0], backend=BACKEND, threads=run.threads)
                for m in models
            )
            found = found.model_copy(update={"peak_memory": peaks})
    return found


def _decide(
    run: Run,
    models: tuple[Candidate, Int8Model],
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
    *,
    alpha: float,
    early: Early | None,
    process: ProcessInfo,
) -> tuple[tuple[Comparison, ...], Verdict]:
    """Every comparison, and what they come to; `alpha` is that of a PASS."""
    budgets, fail_alpha = run.policy.judge.budgets, run.policy.alpha
    artifacts = {name: m.measure(*models) for name, m in ARTIFACT_METRICS.items()}
    artifacts |= process.numbers
    known: dict[str, Metric | ArtifactMetric] = {**metrics, **MODEL_METRICS}
    measured = compare_budgets(
        budgets,
        evaluation,
        known,
        artifacts,
        alpha,
        fail_alpha=fail_alpha,
        early=early,
        rounds=process.rounds,
    )
    budgeted = tuple(m.comparison for m in measured if m.comparison is not None)
    judged = {comparison.metric for comparison in budgeted if comparison.slice is None}
    others = [metric for name, metric in known.items() if name not in judged]
    shown = describe(evaluation, others, artifacts, alpha)
    point = run.policy.judge.decision == "point"
    return (*budgeted, *shown), decide(measured, alpha, fail_alpha, point=point)


# ── what it needs to begin ────────────────────────────────────────────────────────────────


def _chosen(loaded: LoadedPolicy, candidate: Any) -> Any:
    """The candidate that was asked for, else the policy's."""
    if candidate is not None:
        return os.fspath(candidate) if isinstance(candidate, os.PathLike) else candidate
    named = loaded.policy.build.candidate
    if named is None:
        raise UsageError(
            f"{loaded.file} names no candidate: pass --candidate, or write `build.candidate`"
        )
    return named if ":/" in named else str(loaded.resolve(named))


def _examples(run: Run, given: Mapping[str, Array] | None) -> Any:
    """What a module is traced with: the caller's inputs, else the first of the policy's data."""

    def examples(parameters: tuple[str, ...]) -> Mapping[str, Array]:
        if given is not None:
            return given
        source = run.policy.build.calibration or run.policy.judge.held_out
        path = data.locate("calibration", source, run.loaded.base)
        columns = formats.of(path, source.format).read(path, _subfolder(run.scratch, "examples"))
        names = input_columns(parameters, {name: col.shape for name, col in columns.items()})
        prepare = preprocess.for_tracing(columns, names, run.policy.build.preprocess)
        return {name: prepare(columns[name][0:2]) for name in names}

    return examples


def _subfolder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder
