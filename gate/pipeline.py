"""`run_gate`: the whole story of one run, from a candidate to a verdict on the record."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gate import backends, data, engines, publish, timing, trackers
from gate.changed import flips
from gate.compare import compare_budgets, describe, describe_others
from gate.decide import decide
from gate.engines import SHARD_TIMEOUT_S, Crew
from gate.evaluate import (
    Evaluated,
    demand_baseline,
    demand_no_slack,
    evaluate,
    give_back,
    grouped,
    opening,
    without_rows,
)
from gate.exhibits import Flips, Plot
from gate.given import asked_for, given_by
from gate.jobs import remembered, scoring
from gate.judgeable import unsupported
from gate.metrics import (
    ARTIFACT_METRICS,
    MODEL_METRICS,
    PROCESS_METRICS,
    ArtifactMetric,
    Metric,
)
from gate.pairing import pair_all
from gate.plugins import plugged_in
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.progress import Progress, Silent
from gate.records import Comparison, Cost, GateRecord, Part, ProcessInfo, Stage, Verdict
from gate.release import releases, wanted
from gate.row_cache import RowCache
from gate.run import By, Charge, Judged, Run, charge, write
from gate.stopping import Early, Watch
from gate.subject import Given, Subject, bring
from gate.values import Array, Batch, Evaluation, Split
from gate.waivers import beside, load_waivers, waive
from gate.why import why

BACKEND = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to a verdict."""

    record: GateRecord
    folder: Path
    """Where the record, the rows, the models and the reports lie."""
    run: str
    """The tracker's id; empty without a tracker."""
    notes: tuple[str, ...] = ()
    """What did not run, as an earlier run had left it."""

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
    reference: str | os.PathLike[str] | None = None,
    fp32_outputs: str | os.PathLike[str] | None = None,
    int8_outputs: str | os.PathLike[str] | None = None,
    trust: bool = False,
    paranoid: bool = False,
    threads: int | None = None,
    example_inputs: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    bootstrap: bool = False,
    waivers: str | os.PathLike[str] | None = None,
    engine: str = "local",
    workers: int | None = None,
    shard_timeout: float = SHARD_TIMEOUT_S,
) -> Finished:
    """Quantize a candidate, measure it against its FP32 self, decide, and record all of it.

    Args:
        policy: a file, or one that is loaded already.
        candidate: a path, an MLflow URI or a `torch.nn.Module`; default: the policy's own.
        stage: `release` also registers the INT8 model.
        out: an empty or new folder for the record; default `.gate/<model>/<run>/`.
        tracker: a key of `gate.trackers`.
        int8: an INT8 model made elsewhere, path or MLflow URI, instead of what the recipe makes.
        reference: FP32 to hold INT8 against instead of the candidate's own: dense for pruned.
        fp32_outputs, int8_outputs: npz or Parquet by id, of models that ran elsewhere.
        trust, paranoid: allow formats that can run code on load; read all data again.
        threads: of one inference; default: every core.
        example_inputs: inputs by name, to trace a module with; default: from the policy's data.
        progress: told of each step.
        plugins: Python files that bring tasks, formats and decoders; trusted.
        bootstrap: whether this is a first release, with none before it to be held against.
        waivers: their file; default: `waivers.yaml` beside the policy.
        engine, workers, shard_timeout: what runs the shards; the record is the same.

    Raises:
        GateError: the gate could not judge; `exit_code` says how the command line would exit.
    """
    models = asked_for(candidate, int8, reference, fp32_outputs, int8_outputs)
    asked = replace(models, trust=trust, paranoid=paranoid, example_inputs=example_inputs)
    with plugged_in(map(Path, plugins)):
        return _run(
            policy if isinstance(policy, LoadedPolicy) else load_policy(Path(policy)),
            asked,
            stage=stage,
            out=out,
            tracker=tracker,
            progress=progress or Silent(),
            bootstrap=bootstrap,
            waivers=None if waivers is None else Path(waivers),
            by=By(engine, threads, workers, shard_timeout),
        )


def _run(
    loaded: LoadedPolicy,
    asked: Given,
    *,
    stage: Stage,
    out: str | os.PathLike[str] | None,
    tracker: str,
    progress: Progress,
    bootstrap: bool,
    waivers: Path | None,
    by: By,
) -> Finished:
    by_policy = (asked.candidate, asked.fp32_outputs, asked.int8_outputs) == (None, None, None)
    preflight(loaded, unsupported=unsupported, needs_candidate=by_policy)
    engines.get(by.engine).demand()
    given = given_by(loaded, asked)
    held = load_waivers(beside(loaded.file, waivers), loaded.policy, datetime.now(UTC).date())
    keeper = trackers.get(tracker)
    with publish.claimed(None if out is None else Path(out)) as folder:
        known, unreachable = publish.reach(keeper, loaded.policy.model)
        with (
            publish.tracing(
                keeper if unreachable is None else None,
                model=loaded.policy.model,
                stage=stage,
                source=given.name,
            ),
            publish.scratch() as scratch,
        ):
            if unreachable is not None and (bootstrap or wanted(loaded.policy)):
                raise unreachable  # what there is to be held against is there
            run = Run(
                loaded=loaded,
                stage=stage,
                backend=backends.open_once(backends.get(BACKEND)),
                threads=by.threads or os.cpu_count() or 1,
                scratch=scratch,
                progress=progress,
                known=known,
                releases=releases(keeper, loaded.policy, scratch, bootstrap=bootstrap),
                bootstrap=bootstrap,
                waivers=held,
                paranoid=asked.paranoid,
                by=by,
            )
            with engines.get(by.engine).crew(workers=by.workers, threads=run.threads) as crew:
                subject = bring(run, given)
                memory = remembered(run, subject)
                seen = _evaluated(run, subject, crew, memory)
            judged = _judge(run, subject, seen)
            record, written = write(run, judged, folder)
            told = () if memory is None else memory.clear(record.examples_evaluated)
    if unreachable is not None:
        raise publish.unsent(unreachable, written) from unreachable
    sent = publish.send(keeper, record, written)
    return Finished(record=record, folder=written, run=sent, notes=told)


# ── the steps ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Seen:
    """What both models did, on which a verdict is to rest."""

    charge: Charge
    held_out: Split
    order: Split
    """The same, as it was visited."""
    watch: Watch | None
    evaluated: Evaluated


def _evaluated(run: Run, subject: Subject, crew: Crew, memory: RowCache | None) -> _Seen:
    held_out = grouped(subject.splits["held_out"], subject.task)
    cost = charge(run, subject.candidate, subject.int8, held_out, beside=subject.beside)
    order, watch = _order(run, held_out, subject.metrics, cost.alpha)
    with run.step("evaluate", total=len(order)):
        evaluated = evaluate(
            scoring(run, subject, crew),
            order,
            batch_size=subject.batch_size,
            seed=run.policy.judge.seed,
            scratch=run.scratch / "rows",
            progress=run.progress.advance,
            stop=watch,
            memory=memory,
        )
    return _Seen(cost, held_out, order, watch, evaluated)


def _judge(run: Run, subject: Subject, seen: _Seen) -> Judged:
    metrics, evaluated, order, watch = subject.metrics, seen.evaluated, seen.order, seen.watch
    baseline = demand_baseline(
        run.policy.judge.expect_fp32, evaluated.evaluation, metrics, total=len(order)
    )
    if subject.reference is not None:
        demand_no_slack(run.policy.judge.budgets, evaluated.evaluation, metrics)
    give_back(evaluated.evaluation)
    process = _process(run, subject, opening(order, subject.batch_size))
    evaluation, earlier = pair_all(run, evaluated.evaluation, seen.held_out, metrics)
    evaluated = replace(evaluated, evaluation=evaluation)
    with run.step("judge"):
        early = watch.early(len(evaluated.evaluation.ids), len(order)) if watch else None
        comparisons, verdict = _decide(
            run,
            subject,
            evaluated.evaluation,
            alpha=seen.charge.alpha,
            early=early,
            process=process,
        )
    diagnosis = None
    if verdict.outcome == "fail" and not subject.attested:
        models = subject.candidate, subject.int8
        diagnosis = why(run, models, subject.splits, evaluated.evaluation, metrics)
    parts, changed, plots = _exhibits(subject, evaluated.evaluation)
    return Judged(
        candidate=subject.candidate,
        int8=subject.int8,
        splits=subject.splits,
        batch_size=subject.batch_size,
        charge=seen.charge,
        evaluated=evaluated,
        baseline=baseline,
        comparisons=comparisons,
        parts=parts,
        flips=changed,
        plots=plots,
        verdict=verdict,
        process=process,
        diagnosis=diagnosis,
        costs=_costs(subject, evaluated.evaluation, run.policy.alpha),
        reference=subject.reference,
        attested=subject.attested,
        releases=earlier,
    )


def _order(
    run: Run, held_out: Split, metrics: Mapping[str, Metric], alpha: float
) -> tuple[Split, Watch | None]:
    """The held-out set as it is visited, and who looks whether the evidence suffices."""
    judge = run.policy.judge
    if judge.stopping == "full":
        return held_out, None
    order = data.shuffled(held_out, judge.seed)
    whole = without_rows(order)
    return order, Watch(
        judge.budgets,
        metrics,
        whole,
        alpha=alpha,
        fail_alpha=run.policy.alpha,
        expected=judge.expect_fp32,
    )


def _process(run: Run, subject: Subject, batches: Sequence[Batch]) -> ProcessInfo:
    """Time and memory of both models, on the batches that begin the held-out set."""
    asked = {budget.metric for budget in run.policy.judge.budgets} & PROCESS_METRICS.keys()
    models, size = (subject.candidate, subject.int8), subject.batch_size
    whole = [batch.feeds for batch in batches if len(batch.ids) == size] or [batches[0].feeds]
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
    subject: Subject,
    evaluation: Evaluation,
    *,
    alpha: float,
    early: Early | None,
    process: ProcessInfo,
) -> tuple[tuple[Comparison, ...], Verdict]:
    """Every comparison, and what they come to; `alpha` is that of a PASS."""
    budgets, fail_alpha = run.policy.judge.budgets, run.policy.alpha
    known: dict[str, Metric | ArtifactMetric] = {**subject.metrics, **MODEL_METRICS}
    artifacts = process.numbers
    if not subject.attested:
        models = subject.candidate, subject.int8
        artifacts |= {name: m.measure(*models) for name, m in ARTIFACT_METRICS.items()}
    measured = compare_budgets(
        budgets,
        evaluation,
        known,
        artifacts,
        alpha,
        fail_alpha=fail_alpha,
        early=early,
        rounds=process.rounds,
        releases={r.against: {"size": float(r.record.int8.bytes)} for r in run.releases},
        bootstrap=run.bootstrap,
    )
    budgeted = tuple(m.comparison for m in measured if m.comparison is not None)
    shown = describe_others(budgeted, evaluation, known, artifacts, alpha)
    point = run.policy.judge.decision == "point"
    verdict = decide(measured, alpha, fail_alpha, point=point)
    held = run.waivers
    return (*budgeted, *shown), waive(verdict, held.waivers, held.expired)


def _exhibits(
    subject: Subject, evaluation: Evaluation
) -> tuple[tuple[Part, ...], Flips | None, tuple[Plot, ...]]:
    """What a report shows besides, each made of all rows."""
    task = subject.task
    parts = tuple(task.parts(evaluation)) if task.parts else ()
    give_back(evaluation)
    changed = flips(evaluation, subject.metrics, task.answers)
    give_back(evaluation)
    plots = tuple(task.plots(evaluation)) if task.plots else ()
    give_back(evaluation)
    return parts, changed, plots


def _costs(subject: Subject, evaluation: Evaluation, alpha: float) -> tuple[Cost, ...]:
    """What making the candidate of the reference cost, and what quantizing it did."""
    if not evaluation.own:
        return ()
    metrics = [metric for metric in subject.task.metrics.values() if not metric.relative]
    made = describe(replace(evaluation, int8=evaluation.own, problems={}), metrics, {}, alpha)
    quantized = describe(replace(evaluation, fp32=evaluation.own), metrics, {}, alpha)
    return tuple(
        Cost(metric=one.metric, candidate=one, quantization=other)
        for one, other in zip(made, quantized, strict=True)
    )
