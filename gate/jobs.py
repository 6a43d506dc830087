"""What a run's shards need: to be run here, to be run anywhere, and to be known again."""

from collections.abc import Generator, Iterator
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from gate import decoding, engines, formats, plugins, preprocess, publish, tasks
from gate.engines import Elsewhere, Job, Shipped
from gate.evaluate import Score
from gate.provenance import cpu, environment
from gate.row_cache import RowCache
from gate.run import Run
from gate.scoring import Models, Part, Scored, Scorer
from gate.subject import Subject

CACHE = publish.RUNS / "cache" / "rows"


def scoring(run: Run, subject: Subject) -> Score:
    """What makes rows of shards, by the run's engine."""
    elsewhere = None if subject.attested else _elsewhere(run, subject)
    job = Job(_scorer(subject), elsewhere, run.by.shard_timeout_s)
    return partial(_scored, engines.get(run.by.engine), job, run.by.workers)


def _scored(
    engine: engines.Engine, job: Job, workers: int | None, parts: Iterator[Part]
) -> Generator[Scored, None, None]:
    return engine.score(job, parts, workers=workers)


def _scorer(subject: Subject) -> Scorer:
    return Scorer(
        Models(subject.fp32_gives, subject.int8_gives, subject.own_gives),
        subject.task,
        subject.metrics,
        subject.batch_size,
    )


def _elsewhere(run: Run, subject: Subject) -> Elsewhere:
    candidate, reference = subject.candidate, subject.reference
    baseline = candidate if reference is None else reference
    models = {"fp32": Shipped(baseline.path, baseline.fp32_sha256)}
    models["int8"] = Shipped(subject.int8.path, subject.int8.sha256)
    if reference is not None:
        models["own"] = Shipped(candidate.path, candidate.fp32_sha256)
    return Elsewhere(
        backend=run.backend.key,
        threads=run.threads,
        models=models,
        policy=run.policy,
        base=run.loaded.base.resolve(),
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        targets=subject.splits["held_out"].targets,
        first=subject.first,
        metrics=tuple(subject.metrics),
        batch_size=subject.batch_size,
        environment=environment(run.backend.versions()),
        plugins=plugins.files(),
    )


# ── what is kept between runs ─────────────────────────────────────────────────────────────


def remembered(run: Run, subject: Subject) -> RowCache | None:
    """What earlier runs left of these shards; None where nothing shows that it would be the same.

    Code that an installed package brings is not identified, and outputs that were made elsewhere
    cost nothing to read again.
    """
    groups = (tasks.GROUP, decoding.GROUP, formats.GROUP, "gate.backends")
    if subject.attested or any(entry_points(group=group) for group in groups):
        return None
    build, held_out = run.policy.build, subject.splits["held_out"]
    fp32: dict[str, Any] = {
        "model": (subject.reference or subject.candidate).fp32_sha256,
        "task": run.policy.task,
        "kind": subject.task.kind,
        "decode": build.decode.model_dump(mode="json"),
        "classes": list(build.classes),
        "preprocessing": preprocess.digest(build.preprocess),
        "plugins": plugins.active(),
        "population": held_out.population,
        "batch_size": subject.batch_size,
        "threads": run.threads,
        "environment": environment(run.backend.versions()),
        "cpu": cpu(),
    }
    models = {
        "int8": subject.int8.sha256,
        "own": subject.candidate.fp32_sha256,
        "metrics": list(subject.metrics),
        "examples": held_out.sha256,
    }
    return RowCache(
        CACHE, fp32=fp32, run=models, again=_scorer(subject).reference, batch=subject.batch_size
    )
