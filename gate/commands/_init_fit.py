"""A drafted policy run up to the comparison: data opened, task bound, FP32 measured, INT8 made.

What INT8 answers is not looked at: budgets that were chosen by it would prove nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gate import artifact, data, decoding, tasks
from gate.adoption import adopted
from gate.commands._init_model import Model, drafted
from gate.commands._init_text import Spec
from gate.errors import BaselineError, DataError, UsageError
from gate.evaluate import (
    demand_baseline,
    first_outputs,
    grouped,
    observe_alone,
    opening,
    without_rows,
)
from gate.int8 import make_int8
from gate.judgeable import unsupported
from gate.metrics import Metric
from gate.pictures import Files
from gate.policy import ExpectFp32
from gate.policy_file import LoadedPolicy
from gate.preflight import preflight
from gate.run import Run
from gate.subject import open_splits, prove_same
from gate.tasks import BoundTask
from gate.values import Array, Batch, Int8Model, Rows, Split


@dataclass(frozen=True, slots=True)
class Opened:
    """The data of a draft, and what FP32 gives for the first of them."""

    run: Run
    model: Model
    splits: Mapping[str, Split]
    batch_size: int
    shown: Sequence[Batch]
    first: Mapping[str, Array]

    @property
    def held_out(self) -> Split:
        """What is judged on."""
        return self.splits["held_out"]

    def pin(self, name: str) -> str | None:
        """The sha256 that the policy pins a split by: of its file, else of all that it holds."""
        split = self.splits.get(name)
        if split is None:
            return None
        build, judge = self.run.policy.build, self.run.policy.judge
        source = judge.held_out if name == "held_out" else build.calibration
        assert source is not None
        path = data.locate(name, source, self.run.loaded.base)
        alone = path.is_file() and not any(isinstance(c, Files) for c in split.inputs.values())
        return artifact.sha256_of(path) if alone else split.sha256


@dataclass(frozen=True, slots=True)
class Fitted:
    """The task on its data, and FP32 alone on all of them."""

    split: Split
    """The held-out set, with the slice columns that its targets make."""
    task: BoundTask
    metrics: Mapping[str, Metric]
    """Those that FP32 has a value of."""
    rows: Mapping[str, Rows]

    def value(self, metric: str, index: Array | None = None) -> float:
        """FP32's, on all examples or on those at `index`."""
        found = self.metrics[metric]
        rows = self.rows[found.observation]
        return found.summarize(rows if index is None else rows.take(index))

    def demand(self, expected: ExpectFp32) -> None:
        """Raises BaselineError where FP32 is not what training is said to have reported."""
        evaluation = replace(without_rows(self.split), fp32=self.rows)
        try:
            demand_baseline(expected, evaluation, self.metrics)
        except BaselineError as error:
            raise BaselineError(
                f"{error}. (Flags: --preprocess, --classes, --data, --expect; nothing was written)"
            ) from error


def opened(run: Run, model: Model) -> Opened:
    """Open the data of the draft that `run` has, and see that FP32 takes them.

    Raises:
        GateError: as a run.
    """
    preflight(run.loaded, unsupported=unsupported)
    run.loaded, _ = _adopted(run, model)
    candidate = model.candidate
    with run.step("data"):
        splits = open_splits(run, candidate.inputs)
        size = data.batch_size(run.policy, candidate, splits.values())
    shown = opening(splits.get("calibration", splits["held_out"]), size)
    prove_same(run, model.source, candidate, shown)
    held_out = opening(splits["held_out"], size)
    return Opened(run, model, splits, size, shown, first_outputs(_gives(run, model), held_out))


def alone(run: Run, model: Model) -> Split:
    """The draft's held-out data by themselves, as FP32 takes them."""
    run.loaded, _ = _adopted(run, model)
    return open_splits(run, model.candidate.inputs, ("held_out",))["held_out"]


def _adopted(run: Run, model: Model) -> tuple[LoadedPolicy, tuple[str, ...]]:
    source = model.source
    return adopted(run.loaded, name=source.name, classes=source.classes, tokenizer=source.tokenizer)


def _gives(run: Run, model: Model) -> Any:
    runner = run.backend.open(model.candidate.path, threads=run.threads)
    return lambda batch: runner.run(batch.feeds)


def bound(found: Opened, spec: Spec, decoders: Sequence[Any]) -> tuple[BoundTask, Any]:
    """The task, and the first of the decoders that fits.

    Raises:
        DataError, UsageError: none does; says why the first one does not.
    """
    wrong: list[DataError | UsageError] = []
    for decoder in decoders:
        try:
            return _bound(found, replace(spec, decode=decoder)), decoder
        except (DataError, UsageError) as error:
            wrong.append(error)
    raise wrong[0]


def _bound(found: Opened, spec: Spec) -> BoundTask:
    loaded, policy = found.run.loaded, found.run.policy
    read = drafted(spec, loaded.file).policy.build.decode
    build = policy.build.model_copy(update={"decode": read})
    return decoding.bind(
        policy.model_copy(update={"build": build}),
        found.model.candidate.outputs,
        found.held_out.targets,
        found.first,
        home=loaded.base,
    )


def decoders(task: str, output: str | None) -> list[Any]:
    """Those of a task, to be tried in turn."""
    names = tasks.get(task).decoders
    return [name if output is None else {"as": name, "output": output} for name in names]


def measured(found: Opened, task: BoundTask, asked: Iterable[str] = ()) -> Fitted:
    """FP32 alone, on every held-out example, by all metrics that are shown or `asked` for.

    Raises:
        UsageError: a metric does not apply.
        EvaluationError: it fails, or gives NaN.
    """
    split = grouped(found.held_out, task)
    shown = {name: one for name, one in task.metrics.items() if not one.relative}
    metrics = shown | {name: task.metric(name) for name in asked}
    rows: Mapping[str, Rows] = {}
    if split.targets is not None and metrics:
        with found.run.step("FP32", total=len(split)):
            rows = observe_alone(
                _gives(found.run, found.model),
                split,
                task=task,
                metrics=metrics,
                batch_size=found.batch_size,
                who="the FP32 model",
                progress=found.run.progress.advance,
            )
    known = {name: one for name, one in metrics.items() if one.observation in rows}
    return Fitted(split, task, known, rows)


def quantized(found: Opened) -> Int8Model:
    """The INT8 model by the draft's recipe; its answers are not looked at.

    Raises:
        QuantizationError: the recipe does not fit, or nothing runs as INT8.
    """
    return make_int8(
        found.run, found.model.candidate, found.splits.get("calibration"), found.shown[0].feeds
    )
