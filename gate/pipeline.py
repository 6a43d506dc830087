"""`run_gate`: the whole story of one run, from a candidate to a verdict on the record."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gate.calibrate as calibration
from gate import backends, data, formats, preprocess, publish, tasks, trackers
from gate.backends import Backend, Runner
from gate.candidate import fetch, input_columns
from gate.compare import compare_budgets, describe
from gate.decide import decide
from gate.errors import (
    GateError,
    UsageError,
)
from gate.evaluate import Evaluated, demand_baseline, evaluate, first_outputs, rows_of, save_arrays
from gate.judgeable import unsupported
from gate.metrics import ARTIFACT_METRICS, ArtifactMetric, Metric
from gate.normalize import normalize, prove_parity
from gate.policy import Policy
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.progress import Progress, Silent
from gate.provenance import provenance
from gate.quantize import quantize
from gate.records import (
    Array,
    Baseline,
    Candidate,
    CandidateInfo,
    Comparison,
    GateRecord,
    Int8Info,
    Int8Model,
    PolicySource,
    Split,
    Splits,
    Stage,
    Verdict,
)
from gate.since import since
from gate.tasks import BoundTask

BACKEND = "onnxruntime"
_RUNS = Path(".gate")


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


@dataclass(slots=True)
class _Run:
    """What stays the same through the steps of one run."""

    loaded: LoadedPolicy
    stage: Stage
    backend: Backend
    threads: int
    scratch: Path
    progress: Progress
    last: publish.LastPass | None
    """The newest PASS of this model, and its record."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        return self.loaded.policy

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[None]:
        self.progress.step(name, total)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the verdict rests on."""

    candidate: Candidate
    int8: Int8Model
    splits: Mapping[str, Split]
    batch_size: int
    evaluated: Evaluated
    baseline: tuple[Baseline, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict


def run_gate(
    policy: str | os.PathLike[str] | LoadedPolicy,
    candidate: Any = None,
    *,
    stage: Stage = "pr",
    out: str | os.PathLike[str] | None = None,
    tracker: str = "mlflow",
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
    folder = publish.claim(Path(out)) if out is not None else None
    publish.demand_writable(folder or _RUNS)
    last, unreachable = publish.reach(keeper, loaded.policy.model)
    try:
        with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
            run = _Run(
                loaded=loaded,
                stage=stage,
                backend=backends.get(BACKEND),
                threads=threads or os.cpu_count() or 1,
                scratch=Path(scratch),
                progress=progress or Silent(),
                last=last,
            )
            judged = _judge(run, chosen, trust=trust, example_inputs=example_inputs)
            record, folder = _write(run, judged, folder)
    except GateError as error:
        if unreachable is None:
            source = chosen if isinstance(chosen, str) else type(chosen).__name__
            publish.leave_trace(
                keeper, error, model=loaded.policy.model, stage=stage, source=source
            )
        raise
    if unreachable is not None:
        raise publish.unsent(unreachable, folder) from unreachable
    return Finished(record=record, folder=folder, run=publish.send(keeper, record, folder))


# ── the steps ─────────────────────────────────────────────────────────────────────────────


def _judge(
    run: _Run, chosen: Any, *, trust: bool, example_inputs: Mapping[str, Array] | None
) -> _Judged:
    with run.step("candidate"):
        source = fetch(
            chosen, scratch=run.scratch, trust=trust, examples=_examples(run, example_inputs)
        )
        candidate = normalize(
            source.onnx,
            name=source.name,
            sha256=source.sha256,
            backend=run.backend,
            threads=run.threads,
            scratch=run.scratch,
        )
    with run.step("data"):
        splits = _open_splits(run, candidate)
        batch_size = data.batch_size(run.policy, candidate, splits.values())
    with run.step("parity"):
        fp32 = run.backend.open(candidate.path, threads=run.threads)
        first = next(splits.get("calibration", splits["held_out"]).batches(batch_size))
        reference = source.reference or run.backend.open(source.onnx, threads=run.threads).run
        prove_parity(reference, fp32, first.feeds, candidate.source)
    with run.step("quantize"):
        int8 = _quantize(run, candidate, splits, batch_size, first.feeds)
    task, metrics = _metrics(run, candidate, splits["held_out"], fp32, batch_size)
    with run.step("evaluate", total=len(splits["held_out"])):
        evaluated = evaluate(
            fp32,
            run.backend.open(int8.path, threads=run.threads),
            splits["held_out"],
            task=task,
            metrics=metrics,
            batch_size=batch_size,
            seed=run.policy.judge.seed,
            progress=run.progress.advance,
        )
    baseline = demand_baseline(run.policy.judge.expect_fp32, evaluated.evaluation, metrics)
    with run.step("judge"):
        comparisons, verdict = _decide(run.policy, candidate, int8, evaluated, metrics)
    return _Judged(candidate, int8, splits, batch_size, evaluated, baseline, comparisons, verdict)


def _open_splits(run: _Run, candidate: Candidate) -> dict[str, Split]:
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


def _quantize(
    run: _Run,
    candidate: Candidate,
    splits: Mapping[str, Split],
    batch_size: int,
    sample: Mapping[str, Array],
) -> Int8Model:
    return quantize(
        candidate,
        run.policy.build.recipe,
        splits.get("calibration"),
        backend=run.backend,
        calibrate=calibration.calibrate,
        sample_feeds=sample,
        threads=run.threads,
        batch_size=batch_size,
        destination=run.scratch / "model.int8.onnx",
    )


def _metrics(
    run: _Run, candidate: Candidate, held_out: Split, fp32: Runner, batch_size: int
) -> tuple[BoundTask, dict[str, Metric]]:
    """The task fitted to the model, and every metric that is judged, expected or shown."""
    policy = run.policy
    assert held_out.targets is not None
    first = first_outputs(fp32, held_out, batch_size)
    task = tasks.get(policy.task).bind(policy.build, candidate.outputs, held_out.targets, first)
    asked = [budget.metric for budget in policy.judge.budgets]
    if policy.judge.expect_fp32 != "unknown":
        asked += policy.judge.expect_fp32.metrics
    extra = [name for name in asked if name not in ARTIFACT_METRICS]
    return task, dict(task.metrics) | {name: task.metric(name) for name in extra}


def _decide(
    policy: Policy,
    candidate: Candidate,
    int8: Int8Model,
    evaluated: Evaluated,
    metrics: Mapping[str, Metric],
) -> tuple[tuple[Comparison, ...], Verdict]:
    artifacts = {name: m.measure(candidate, int8) for name, m in ARTIFACT_METRICS.items()}
    known: dict[str, Metric | ArtifactMetric] = {**metrics, **ARTIFACT_METRICS}
    measured = compare_budgets(
        policy.judge.budgets, evaluated.evaluation, known, artifacts, policy.alpha
    )
    budgeted = tuple(m.comparison for m in measured if m.comparison is not None)
    judged = {comparison.metric for comparison in budgeted if comparison.slice is None}
    others = [metric for name, metric in known.items() if name not in judged]
    shown = describe(evaluated.evaluation, others, artifacts, policy.alpha)
    return (*budgeted, *shown), decide(measured, policy.alpha)


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


def _examples(run: _Run, given: Mapping[str, Array] | None) -> Any:
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


# ── the record ────────────────────────────────────────────────────────────────────────────


def _write(run: _Run, judged: _Judged, folder: Path | None) -> tuple[GateRecord, Path]:
    """Models and rows first, then the record that vouches for them."""
    created = datetime.now(UTC)
    name = f"{created:%Y%m%dT%H%M%S%fZ}-{judged.candidate.sha256[:12]}"
    folder = folder or publish.claim(_RUNS / run.policy.model / name)
    rows = folder / "rows.npz"
    with publish.writing(folder):
        save_arrays(rows, rows_of(judged.evaluated.evaluation))
        save_arrays(folder / "outputs.npz", judged.evaluated.sample)
        publish.keep_models(run.scratch, folder)
        rows_sha256 = hashlib.sha256(rows.read_bytes()).hexdigest()
    record = _record(run, judged, name, created, rows_sha256)
    if run.last is not None:
        past, stored = run.last
        previous = since(record, stored, run=past.run, when=past.when)
        record = record.model_copy(update={"previous": previous})
    publish.finish(record, folder)
    return record, folder


def _record(
    run: _Run, judged: _Judged, name: str, created: datetime, rows_sha256: str
) -> GateRecord:
    policy, candidate, int8 = run.policy, judged.candidate, judged.int8
    infos = {key: data.info(split) for key, split in judged.splits.items()}
    held_out = judged.splits["held_out"]
    return GateRecord(
        id=name,
        created=created,
        model=policy.model,
        stage=run.stage,
        policy=policy,
        policy_source=PolicySource(file=str(run.loaded.budgets_file), lines=dict(run.loaded.lines)),
        candidate=CandidateInfo.of(candidate),
        int8=Int8Info.of(int8),
        splits=Splits.model_validate(infos),
        preprocessing_sha256=preprocess.digest(policy.build.preprocess),
        baseline=judged.baseline,
        comparisons=judged.comparisons,
        alpha=policy.alpha,
        verdict=judged.verdict,
        provenance=provenance(
            Path.cwd(),
            versions=run.backend.versions(),
            seed=policy.judge.seed,
            policy_sha256=run.loaded.sha256,
            threads=run.threads,
            batch_size=judged.batch_size,
        ),
        durations=run.seconds,
        examples_evaluated=len(judged.evaluated.evaluation.ids),
        examples_total=len(held_out),
        rows_sha256=rows_sha256,
    )
