"""`gate diagnose`: which layers, slices and examples cost a release its accuracy, and what to try.

Layers are compared on calibration data, never on held-out examples: what is chosen on those has
seen what it will be judged on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gate import backends, decoding, diagnose, plugins, publish, tasks
from gate.backends import Backend
from gate.commands import _replay_stored as stores
from gate.commands.report import load_record, record_file
from gate.diagnosis import Diagnosis, Flip
from gate.errors import EvaluationError, GateError
from gate.int8 import rescaled
from gate.metrics import Metric
from gate.pipeline import BACKEND
from gate.progress import Progress, Silent
from gate.records import GateRecord
from gate.rows import places
from gate.run import SMOOTHED
from gate.tasks import BoundTask
from gate.values import Array, Evaluation, Int8Model, Ragged, Split, TensorSpec, Values, joined
from gate.why import NO_DATA, of_layers, some, with_problem

EXAMPLES = 256
_LISTED = 1000
"""Layers: all of them, as good as."""
_CLASSES = 2
"""Axes of scores by class."""
_FLIPS = 20
_CONSIDERED = 2000
"""Flips of which the largest are shown; more are not run again."""


@dataclass(frozen=True, slots=True)
class _Case:
    """What is diagnosed, and with what."""

    record: GateRecord
    fp32: Path
    int8: Path
    evaluation: Evaluation
    metrics: Mapping[str, Metric]
    backend: Backend
    scratch: Path

    @property
    def threads(self) -> int:
        """As in the run."""
        return self.record.provenance.threads

    @property
    def fixed(self) -> int | None:
        """The batch that the model is fixed to."""
        sizes = (spec.shape[0] for spec in self.record.candidate.inputs if spec.shape)
        return next((size for size in sizes if size is not None), None)

    def folder(self, name: str) -> Path:
        """A private one."""
        made = self.scratch / name
        made.mkdir()
        return made


def diagnosed(
    path: Path,
    *,
    calibration: Path | None = None,
    data: Path | None = None,
    examples: int = EXAMPLES,
    progress: Progress | None = None,
) -> tuple[GateRecord, Diagnosis]:
    """Hold a record's two models against each other, and its rows.

    Args:
        path: the record, or its folder.
        calibration: the calibration data, where they are not at the policy's place.
        data: the held-out data, likewise.
        examples: calibration examples that the layers are compared on, at most.
        progress: told of each step.

    Raises:
        UsageError: no such record or data, or others than the record's.
        RecordError: a file of the record's folder is missing, damaged or not what it vouches for.
    """
    told = progress or Silent()
    told.step("read the record")
    folder = record_file(path).parent
    record = stores.with_own_files(load_record(path), folder)
    int8, fp32 = stores.demand_artifact(folder, record), stores.demand_fp32(folder, record)
    evaluation = stores.vouched_rows(folder, record)
    with publish.scratch() as scratch:
        case = _Case(
            record=record,
            fp32=fp32,
            int8=int8,
            evaluation=evaluation,
            metrics=_metrics(record, evaluation),
            backend=backends.get(BACKEND),
            scratch=scratch,
        )
        told.step("slices")
        found = diagnose.losing_slices(evaluation, case.metrics, seed=record.policy.judge.seed)
        told.step("layers", total=examples)
        found = _with_layers(case, found, calibration, examples)
        told.step("examples")
        return record, _with_flips(case, found, data)


def _metrics(record: GateRecord, evaluation: Evaluation) -> dict[str, Metric]:
    """Those that the task has for what was observed, in the order of the record."""
    task = tasks.get(record.policy.task)
    metric = task.observed(evaluation.targets, evaluation.fp32)
    measured = dict.fromkeys(one.metric for one in record.comparisons)
    known = [name for name in measured if task.traits(name) is not None]
    return {name: metric(name) for name in known}


# ── layers ────────────────────────────────────────────────────────────────────────────────


def _with_layers(
    case: _Case, found: Diagnosis, calibration: Path | None, examples: int
) -> Diagnosis:
    splits = case.record.splits
    name = "calibration" if splits.calibration else "tuning" if splits.tuning else None
    if name is None:
        return with_problem(found, NO_DATA)
    folder = case.folder("layers")
    split = stores.opened(name, case.record, calibration, folder, flag="--calibration")
    batches = some(split, examples, fixed=case.fixed, recipe=case.record.int8.recipe)
    try:
        layers = of_layers(
            case.backend,
            (case.fp32, _base(case, split)),
            _as_model(case),
            batches,
            threads=case.threads,
            listed=_LISTED,
        )
    except GateError as error:
        return with_problem(found, f"layers are not compared: {error}")
    return found.model_copy(update={**layers, "split": name})


def _base(case: _Case, split: Split) -> Path:
    """What INT8 was made of: FP32, smoothed where the recipe asks for it."""
    recipe = case.record.int8.recipe
    if recipe is None or not recipe.is_rescaled:
        return case.fp32
    return rescaled(
        case.backend,
        case.fp32,
        recipe,
        split,
        fixed=case.fixed,
        threads=case.threads,
        destination=case.scratch / SMOOTHED,
    )


def _as_model(case: _Case) -> Int8Model:
    told = case.record.int8
    return Int8Model(
        path=case.int8,
        sha256=told.sha256,
        bytes=told.bytes,
        recipe=told.recipe,
        quantized_nodes=told.quantized_nodes,
        skipped_nodes=told.skipped_nodes,
        int8_share=told.int8_share,
        kernels=told.kernels,
    )


# ── examples ──────────────────────────────────────────────────────────────────────────────


def _with_flips(case: _Case, found: Diagnosis, data: Path | None) -> Diagnosis:
    """The examples whose prediction INT8 changed, the largest change of margin first."""
    changed = diagnose.flipped(case.evaluation, case.metrics)
    if changed is None:
        return with_problem(found, f"a {case.record.policy.task} task has no predictions to flip")
    ids = case.evaluation.ids[changed]
    if not len(ids):
        return found.model_copy(update={"flipped": 0})
    if case.record.reference is not None:
        found = found.model_copy(update={"flipped": len(ids)})
        return with_problem(
            found, "flips are not shown: the reference model is not in the record's folder"
        )
    split = stores.held_out(case.record, data, case.folder("examples"))
    flips = _flips(case, split, ids[:_CONSIDERED])
    if len(ids) > _CONSIDERED:
        found = with_problem(found, f"only the first {_CONSIDERED} flips were run again")
    return found.model_copy(update={"flipped": len(ids), "flips": flips})


def _flips(case: _Case, split: Split, ids: Array) -> tuple[Flip, ...]:
    found = places(ids, split.ids)
    if found is None:
        raise EvaluationError("the held-out set does not hold the record's examples")
    runners = [case.backend.open(model, threads=case.threads) for model in (case.fp32, case.int8)]
    size = case.record.provenance.batch_size
    sides: tuple[list[Values], list[Values]] = ([], [])
    task: BoundTask | None = None
    for start in range(0, len(ids), size):
        part = found[start : start + size]
        rows = split.order[np.resize(part, case.fixed or len(part))]
        feeds = split.feeds(rows)
        outputs = [runner.run(feeds) for runner in runners]
        task = task or _task(case, split, outputs[0])
        for side, given in zip(sides, outputs, strict=True):
            side.append(task.decode(given)[: len(part)])
    assert task is not None
    fp32, int8 = (joined(side) for side in sides)
    targets = None if split.targets is None else split.targets[found]
    return _largest(case, task, ids, targets, (fp32, int8))


def _task(case: _Case, split: Split, first: Mapping[str, Array]) -> BoundTask:
    policy = case.record.policy
    outputs = tuple(TensorSpec(**info.model_dump()) for info in case.record.candidate.outputs)
    home = stores.home_of(case.record)
    plugins.demand_same(case.record.provenance.plugins)
    return decoding.bind(policy, outputs, split.targets, first, home=home)


def _largest(
    case: _Case,
    task: BoundTask,
    ids: Array,
    targets: Values | None,
    decoded: tuple[Values, Values],
) -> tuple[Flip, ...]:
    fp32, int8 = decoded
    labels = targets is not None and targets.ndim > 1
    margins = task.apart(fp32, int8) if task.apart else _margins(fp32, int8, labels=labels)
    order = np.argsort(-np.where(np.isnan(margins), np.inf, margins), kind="stable")[:_FLIPS]
    classes = case.record.policy.build.classes

    def told(at: int) -> tuple[str, str]:
        both = [side.entry(at) if isinstance(side, Ragged) else side[at] for side in decoded]
        if task.tell:
            return task.tell(*both)
        before, after = (_predicted(one, classes, labels=labels) for one in both)
        return before, after

    return tuple(
        Flip(
            id=str(ids[at]),
            target=str(targets[at]) if isinstance(targets, np.ndarray) else "",
            fp32=told(at)[0],
            int8=told(at)[1],
            margin=float(np.nan_to_num(margins[at])),
        )
        for at in order.tolist()
    )


def _margins(fp32: Values, int8: Values, *, labels: bool) -> Array:
    """(N,) how far the two are apart; 0 where rows have no counterpart to be held against."""
    if isinstance(fp32, Ragged) or isinstance(int8, Ragged):
        return np.zeros(len(fp32))
    if labels or fp32.ndim != _CLASSES:
        return np.asarray(np.abs(fp32 - int8).reshape(len(fp32), -1).max(axis=1))
    return diagnose.margins(fp32, int8)


def _predicted(scores: Array, classes: tuple[str, ...], *, labels: bool) -> str:
    """`7 (0.93)`; several labels or one score are written out."""
    if not np.isfinite(scores).all():
        return "NaN"
    if scores.ndim != 1:
        return "changed"
    if labels or len(scores) == 1:
        return " ".join(f"{score:.3f}" for score in scores)
    best = int(scores.argmax())
    return f"{classes[best] if classes else best} ({scores[best]:.3f})"
