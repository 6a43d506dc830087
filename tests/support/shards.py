"""Shards of small splits, and the work of a real run, to be given to an engine by itself."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import CNN, Project

import gate
from gate import engines
from gate.engines import Engine, Job
from gate.engines.local import ENGINE as LOCAL
from gate.metrics import Metric
from gate.records import GateRecord
from gate.scoring import Give, Models, Part, Scored, Scorer, cut
from gate.tasks import BoundTask
from gate.values import Batch, Ragged, Rows, Split, Values

# ── of fakes ──────────────────────────────────────────────────────────────────────────────


def split_of(count: int, **changes: Any) -> Split:
    """Examples whose inputs `x` are seeded numbers."""
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "name": "held_out",
        "source": "test",
        "ids": np.array([f"id-{i}" for i in range(count)]),
        "explicit_ids": True,
        "content": rng.integers(0, 256, (count, 16), dtype=np.uint8),
        "inputs": {"x": rng.standard_normal((count, 3)).astype(np.float32)},
        "targets": rng.integers(0, 3, count),
        "slices": {"site": np.resize(np.array(["a", "b"]), count)},
        "unit": None,
        "sha256": "0" * 64,
        "population": "0" * 64,
        "order": np.arange(count),
        "prepare": lambda raw: raw,
    }
    return Split(**(fields | changes))


def observed(name: str, observe: Callable[..., Values]) -> Metric:
    """A metric of these rows."""
    return Metric(
        name=name,
        observation=name,
        observe=observe,
        summarize=lambda rows: float(rows.values.mean()),
        higher_is_better=True,
    )


def _right(scores: Any, targets: Any, reference: Any) -> Any:
    return (scores.argmax(axis=1) == targets).astype(float)[:, np.newaxis]


def _moved(scores: Any, targets: Any, reference: Any) -> Any:
    before = scores if reference is None else reference
    return np.abs(scores - before).sum(axis=1, keepdims=True)


def _ragged(scores: Any, targets: Any, reference: Any) -> Ragged:
    """As many rows of an example as its class says: none, one or two."""
    return Ragged.of([np.full((c, 2), s[0]) for s, c in zip(scores, targets, strict=True)], 2)


METRICS = {
    "right": observed("right", _right),
    "moved": observed("moved", _moved),
    "ragged": observed("ragged", _ragged),
}
TASK = BoundTask(
    kind="test",
    decode=lambda outputs: outputs["scores"],
    metrics=METRICS,
    metric=METRICS.__getitem__,
)


class Counting:
    """A model that computes scores by a function of its input, and tells what it ran on."""

    def __init__(self, function: Callable[[Any], Any] = lambda x: x) -> None:
        self.function = function
        self.seen: list[str] = []

    def __call__(self, batch: Batch) -> dict[str, Any]:
        self.seen += batch.ids.tolist()
        return {"scores": self.function(batch.feeds["x"]), "offsets": batch.feeds["x"] * 3}


def scorer_of(
    fp32: Give, int8: Give, *, batch_size: int = 64, metrics: Any = METRICS, own: Give | None = None
) -> Scorer:
    """What makes rows of both."""
    return Scorer(Models(fp32, int8, own), replace(TASK, metrics=metrics), metrics, batch_size)


def parts_of(split: Split, batch_size: int = 64, *, early: bool = False) -> list[Part]:
    """All of its shards; the raw outputs of every third example are kept."""
    return list(cut(split, batch_size, np.arange(len(split)) % 3 == 0, early=early))


def scored(
    engine: Engine, job: Job[Any], parts: Iterable[Part], workers: int | None
) -> Generator[Any, None, None]:
    """What becomes of shards, by a crew of their own."""
    with (
        engine.crew(workers=workers, threads=1) as crew,
        closing(crew.score(job, iter(parts))) as made,
    ):
        yield from made


# ── what came back ────────────────────────────────────────────────────────────────────────


def bits(found: Any) -> Any:
    """Whatever a shard came to, so that equal is equal to the last bit."""
    if isinstance(found, Rows):
        return bits(found.values)
    if isinstance(found, Ragged):
        return "ragged", bits(found.offsets), bits(found.values)
    if isinstance(found, np.ndarray):
        return str(found.dtype), found.shape, np.ascontiguousarray(found).tobytes()
    if isinstance(found, dict):
        return {name: bits(value) for name, value in found.items()}
    if isinstance(found, Scored):
        names = ("ids", "fp32", "int8", "own", "broken", "sample", "reference")
        return {name: bits(getattr(found, name)) for name in names}
    raise TypeError(type(found))


# ── of a real run ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Work:
    """What a run gave to its engine, to be given to any."""

    job: Job[Any]
    parts: list[Part]
    record: GateRecord
    """What the run came to, by one worker here."""

    def changed(self, **elsewhere: Any) -> Job[Any]:
        """With other things to be had elsewhere."""
        assert self.job.elsewhere is not None
        return replace(self.job, elsewhere=replace(self.job.elsewhere, **elsewhere))


class _Recorder:
    """Keeps what it is given, and lets another engine do it."""

    key = "recorder"

    def __init__(self) -> None:
        self.job: Job[Any] | None = None
        self.parts: list[Part] = []

    def demand(self) -> None:
        """Always there."""

    @contextmanager
    def crew(self, *, workers: int | None, threads: int) -> Iterator["_Recorder"]:
        yield self

    def score(self, job: Job[Any], parts: Iterator[Part]) -> Generator[Any, None, None]:
        self.job, self.parts = job, list(parts)
        return scored(LOCAL, job, self.parts, 1)


def work_of(project: Project, out: Path, candidate: Path = CNN, **options: Any) -> Work:
    """What a whole run gives to its engine; its models are kept in `out`."""
    recorder = _Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "get", lambda _: recorder)
        patch.chdir(project.folder)
        finished = gate.run_gate(
            project.policy, candidate, tracker="none", threads=1, out=out, **options
        )
    assert recorder.job is not None
    assert recorder.job.elsewhere is not None
    models = {role: out / f"model.{role}.onnx" for role in recorder.job.elsewhere.models}
    elsewhere = replace(recorder.job.elsewhere, models=models)
    job = replace(recorder.job, elsewhere=elsewhere)
    return Work(job, recorder.parts, finished.record)


def told(record: GateRecord) -> dict[str, Any]:
    """A record without what differs between any two runs."""
    return record.model_dump(mode="json", exclude={"id", "created", "durations"})
