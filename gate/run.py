"""One run of the gate: what stays the same through it, what it came to, and its record."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from gate import artifact, data, plugins, preprocess, publish
from gate.backends import Backend
from gate.diagnosis import Diagnosis
from gate.engines import SHARD_TIMEOUT_S
from gate.errors import RecordError
from gate.evaluate import Evaluated
from gate.exhibits import Flips, Plot
from gate.metrics import PROCESS_METRICS
from gate.policy import Policy
from gate.policy_file import LoadedPolicy
from gate.progress import Progress
from gate.provenance import provenance
from gate.records import (
    Attestation,
    Baseline,
    CandidateInfo,
    Comparison,
    Cost,
    GateRecord,
    Int8Info,
    Part,
    PolicySource,
    ProcessInfo,
    Splits,
    Stage,
    Verdict,
)
from gate.registered import ReleaseInfo
from gate.release import Release
from gate.rows import rows_of, save_arrays
from gate.since import line, since
from gate.statistics import ledger
from gate.values import Candidate, Int8Model, Split
from gate.waivers import InForce

SMOOTHED = "smoothed.onnx"
"""In the run's private folder: FP32 with outliers moved into weights, where the recipe asks."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An INT8 artifact that was made elsewhere."""

    path: Path
    """In the run's private folder."""
    source: str
    """As the user named it."""
    alone: bool
    """Whether an example's outputs depend on its batch mates."""


@dataclass(frozen=True, slots=True)
class By:
    """What runs the shards; the record is the same whatever it is."""

    engine: str = "local"
    """A key of `gate.engines`."""
    threads: int | None = None
    """Of one inference; None: every core."""
    workers: int | None = None
    """Models that run at once; None: the engine's default."""
    shard_timeout_s: float = SHARD_TIMEOUT_S
    """After which a cluster's shard counts as lost."""


@dataclass(slots=True)
class Run:
    """What stays the same through the steps of one run."""

    loaded: LoadedPolicy
    stage: Stage
    backend: Backend
    threads: int
    scratch: Path
    progress: Progress
    known: publish.Known
    """What the tracker remembers of this model."""
    ready: Ready | None = None
    """Instead of what the policy's recipe would make."""
    releases: tuple[Release, ...] = ()
    """Those that budgets are against."""
    bootstrap: bool = False
    """Whether none has passed yet."""
    waivers: InForce = field(default_factory=InForce)
    paranoid: bool = False
    """Whether all data are read again, and have to be what is remembered of them."""
    by: By = field(default_factory=By)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        """The resolved policy."""
        return self.loaded.policy

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[None]:
        """Tell that a step begins, and keep how long it took."""
        self.progress.step(name, total)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


@dataclass(frozen=True, slots=True)
class Charge:
    """What judging costs: the error that a PASS is allowed, and who counts."""

    alpha: float
    attempt: int | None = None
    ledger: Literal["none", "tracker"] = "none"
    key: str | None = None


def charge(
    run: Run,
    candidate: Candidate,
    int8: Int8Model,
    held_out: Split,
    *,
    beside: tuple[str, ...] = (),
) -> Charge:
    """Reserve an attempt at a release, before it is evaluated; a pull request costs nothing.

    `beside` tells what else than the candidate and its recipe the answer depends on.
    """
    alpha = run.policy.alpha
    if run.stage != "release":
        return Charge(alpha)
    earlier = [f"against {release.record.int8.sha256}" for release in run.releases]
    draw = _draw(run.policy, (*beside, *earlier))
    key = ledger.attempt_key(candidate.sha256, Int8Info.of(int8).origin, draw)
    past = run.known.reserve(run.policy.model, held_out=held_out.population, key=key)
    if past is None:
        return Charge(alpha)
    attempt = ledger.attempt_number(past, key, run.policy.demands)
    return Charge(ledger.alpha_of_attempt(alpha, attempt), attempt, "tracker", key)


def _draw(policy: Policy, beside: tuple[str, ...]) -> str:
    """What of this run another one of the same candidate would see otherwise."""
    judge, build = policy.judge, policy.build
    read = build.model_dump_json(include={"preprocess", "decode", "classes"})
    drawn = judge.held_out.limit is not None or judge.stopping == "early"
    timed = any(budget.metric in PROCESS_METRICS for budget in judge.budgets)
    parts = [f"seed {judge.seed}, {judge.stopping}, limit {judge.held_out.limit}"] if drawn else []
    measured = [f"measured {uuid4().hex}"] if timed else []
    brought = [f"plugin {sha256}" for _, sha256 in sorted(plugins.active().items())]
    return ", ".join([*beside, read, *brought, *parts, *measured])


@dataclass(frozen=True, slots=True)
class Judged:
    """What the verdict rests on."""

    candidate: Candidate
    int8: Int8Model
    splits: Mapping[str, Split]
    batch_size: int
    charge: Charge
    evaluated: Evaluated
    baseline: tuple[Baseline, ...]
    comparisons: tuple[Comparison, ...]
    parts: tuple[Part, ...]
    flips: Flips | None
    plots: tuple[Plot, ...]
    verdict: Verdict
    process: ProcessInfo
    diagnosis: Diagnosis | None = None
    costs: tuple[Cost, ...] = ()
    reference: Candidate | None = None
    attested: tuple[Attestation, ...] = ()
    releases: tuple[ReleaseInfo, ...] = ()


def write(run: Run, judged: Judged, folder: Path | None) -> tuple[GateRecord, Path]:
    """Models and rows first, then the record that vouches for them."""
    created = datetime.now(UTC)
    name = f"{created:%Y%m%dT%H%M%S%fZ}-{judged.candidate.sha256[:12]}"
    folder = folder or publish.made(publish.RUNS / run.policy.model / name)
    rows = folder / "rows.npz"
    with publish.writing(folder):
        save_arrays(rows, rows_of(judged.evaluated.evaluation))
        save_arrays(folder / "outputs.npz", judged.evaluated.sample)
        publish.keep_models(run.scratch, folder)
        if not judged.attested:
            _demand_as_judged(folder / "model.fp32.onnx", judged.candidate.fp32_sha256)
            _demand_as_judged(folder / "model.int8.onnx", judged.int8.sha256)
        hashes = {
            "rows_sha256": artifact.sha256_of(rows),
            "outputs_sha256": artifact.sha256_of(folder / "outputs.npz"),
        }
    record = _record(run, judged, name, created, hashes)
    if run.known.last is not None:
        past, stored = run.known.last
        previous = since(record, stored, run=past.run, when=past.when)
        record = record.model_copy(update={"previous": previous})
    publish.finish(record, folder)
    return record, folder


def _demand_as_judged(model: Path, sha256: str) -> None:
    """Raises RecordError where a model is no longer, byte for byte, what was measured."""
    found = artifact.sha256_of(*artifact.files(model))
    if found != sha256:
        raise RecordError(
            f"{model} was changed after it was judged: its sha256 is {found[:12]}…, and that was "
            f"{sha256[:12]}…. Look at the disk, and at what else writes there; run the gate again"
        )


def _record(
    run: Run, judged: Judged, name: str, created: datetime, hashes: Mapping[str, str]
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
        judged_from=run.loaded.judged_from,
        policy_source=PolicySource(
            file=str(run.loaded.budgets_file),
            lines=dict(run.loaded.lines),
            base=str(run.loaded.base),
            policy="" if run.loaded.file == run.loaded.budgets_file else str(run.loaded.file),
        ),
        candidate=CandidateInfo.of(candidate),
        int8=Int8Info.of(int8),
        splits=Splits.model_validate(infos),
        preprocessing_sha256=preprocess.digest(policy.build.preprocess),
        reference=None if judged.reference is None else CandidateInfo.of(judged.reference),
        attested=judged.attested,
        releases=judged.releases,
        bootstrap=run.bootstrap,
        waivers=run.waivers.waivers,
        costs=judged.costs,
        baseline=judged.baseline,
        comparisons=judged.comparisons,
        parts=judged.parts,
        flips=judged.flips,
        plots=judged.plots,
        past=line(run.known.runs),
        alpha=judged.charge.alpha,
        attempt_key=judged.charge.key,
        attempt=judged.charge.attempt,
        ledger=judged.charge.ledger,
        consulted=run.known.consulted(held_out.sha256, candidate.sha256),
        verdict=judged.verdict,
        provenance=provenance(
            Path.cwd(),
            versions=run.backend.versions(),
            seed=policy.judge.seed,
            policy_sha256=run.loaded.sha256,
            threads=run.threads,
            batch_size=judged.batch_size,
            plugins=plugins.active(),
        ),
        process=judged.process,
        diagnosis=judged.diagnosis,
        durations=run.seconds,
        examples_evaluated=len(judged.evaluated.evaluation.ids),
        examples_total=len(held_out),
        stopped=judged.evaluated.stopped,
        **hashes,
    )
