"""What a run's shards need: to be run here, to be run anywhere, and to be known again."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gate import decoding, door, formats, plugins, preprocess, publish, tasks, tokens
from gate.engines import Crew, Elsewhere, Job
from gate.evaluate import Score
from gate.provenance import cpu, environment
from gate.row_cache import RowCache
from gate.run import Run
from gate.scoring import Alone, Gives, Models, Ran, Scorer, cut
from gate.sources import DataSource
from gate.subject import Subject
from gate.values import Candidate, Split

CACHE = publish.RUNS / "cache" / "rows"
_TRIED = 64
"""Examples of a shard, after which a trial may be given up."""


def scoring(run: Run, subject: Subject, crew: Crew) -> Score:
    """What makes rows of the held-out set's shards."""
    elsewhere = None if subject.attested else _elsewhere(run, subject)
    return partial(crew.score, Job(_scorer(subject), elsewhere, run.by.shard_timeout_s))


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
    models = {"fp32": baseline.path, "int8": subject.int8.path}
    if reference is not None:
        models["own"] = candidate.path
    held_out = subject.splits["held_out"]
    source, size = run.policy.judge.held_out, subject.batch_size
    return replace(
        _anywhere(run, candidate, models, held_out, source, batch_size=size),
        targets=held_out.targets,
        first=subject.first,
        metrics=tuple(subject.metrics),
    )


def _anywhere(
    run: Run,
    candidate: Candidate,
    models: Mapping[str, Path],
    split: Split,
    source: DataSource,
    *,
    batch_size: int,
) -> Elsewhere:
    return Elsewhere(
        backend=run.backend.key,
        threads=run.threads,
        models=models,
        policy=run.policy,
        split=split.name,
        source=source,
        base=run.loaded.base.resolve(),
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        batch_size=batch_size,
        environment=environment(run.backend.versions()),
        plugins=plugins.files(),
        tokenizer=tokens.own(run.policy.build.preprocess),
    )


def outputs_of(run: Run, candidate: Candidate, split: Split, batch_size: int, crew: Crew) -> Gives:
    """What makes raw outputs of the split that recipes are tried on."""
    source = run.policy.build.tuning or run.policy.build.calibration
    assert source is not None

    def gives(model: Path) -> Generator[tuple[Ran, ...], None, None]:
        runner = run.backend.open(model, threads=run.threads)
        work = Alone(lambda batch: runner.run(batch.feeds), batch_size)
        models, size = {"alone": model}, batch_size
        elsewhere = _anywhere(run, candidate, models, split, source, batch_size=size)
        nothing = np.zeros(len(split), dtype=bool)
        parts = cut(split, batch_size, nothing, early=True, small=_TRIED)
        return crew.score(Job(work, elsewhere, run.by.shard_timeout_s), parts)

    return gives


# ── what is kept between runs ─────────────────────────────────────────────────────────────


def remembered(run: Run, subject: Subject) -> RowCache | None:
    """What earlier runs left of these shards; None where nothing shows that it would be the same.

    Code that an installed package brings is not identified, and outputs that were made elsewhere
    cost nothing to read again.
    """
    groups = (tasks.GROUP, decoding.GROUP, formats.GROUP, "gate.backends")
    if subject.attested or door.extended(groups):
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
