"""One loop over fixed batches that runs both models, and the rows that it leaves."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np

from gate.errors import BaselineError, DataError, EvaluationError
from gate.metrics import Metric
from gate.policy import Budget, ExpectFp32
from gate.records import Baseline
from gate.stopping import chance
from gate.tasks import BoundTask
from gate.values import Array, Batch, Evaluation, Rows, Split, Values, finite, joined

Give = Callable[[Batch], Mapping[str, Array]]
"""What a model gives for a batch: outputs by name, (B, …)."""
SAMPLE = 320
"""Examples whose raw INT8 outputs are kept: 299 without a flip prove that less than 1 % flip."""
_OPENING = 64
_NAMED = 5
_DUST = 1e-12
"""So that 0.98 lies within 0.02 of 0.96."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation, and a seeded sample of the INT8 model's raw outputs."""

    evaluation: Evaluation
    sample: Mapping[str, Array]
    """`id` (S,), and `output/<name>` (S, …) for each output."""
    stopped: str | None = None
    """Why evaluation ended before the last example; None where it did not."""


@dataclass(slots=True)
class _Collected:
    """What grows with each batch; concatenated once, at the end."""

    fp32: dict[str, list[Values]] = field(default_factory=dict)
    int8: dict[str, list[Values]] = field(default_factory=dict)
    own: dict[str, list[Values]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    sample: dict[str, list[Array]] = field(default_factory=dict)

    def last(self) -> "_Collected":
        """The newest batch alone."""

        def newest(side: Mapping[str, list[Values]]) -> dict[str, list[Values]]:
            return {name: rows[-1:] for name, rows in side.items()}

        return _Collected(newest(self.fp32), newest(self.int8), newest(self.own), self.broken)


def opening(split: Split, batch_size: int) -> list[Batch]:
    """The first 64 examples or so, in batches as they are judged."""
    return list(islice(split.batches(batch_size), math.ceil(_OPENING / batch_size)))


def first_outputs(give: Give, batches: Sequence[Batch]) -> dict[str, Array]:
    """Outputs by name, (B, …), for all `batches` together.

    Raises:
        EvaluationError: an output has not one row an example, or other shapes in other batches.
    """
    parts = [give(batch) for batch in batches]
    for batch, outputs in zip(batches, parts, strict=True):
        _demand_rows(outputs, batch)
        _demand_shapes(outputs, parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate(
    fp32: Give,
    int8: Give,
    split: Split,
    *,
    own: Give | None = None,
    task: BoundTask,
    metrics: Mapping[str, Metric],
    batch_size: int,
    seed: int,
    progress: Callable[[int], None],
    stop: Callable[[Evaluation], str | None] | None = None,
) -> Evaluated:
    """Run both models on the same batches, in order, and keep each example's rows.

    Args:
        fp32: what INT8 is held against.
        int8: what is judged.
        own: the FP32 model that INT8 was made of, where it is not the one held against.
        metrics: those whose rows are wanted; metrics of one observation share them.
        batch_size: fixed, because the arithmetic of some kernels depends on it.
        seed: chooses the examples whose raw outputs are kept.
        progress: called with the number of examples done after each batch.
        stop: given each batch's rows, says why evaluation may end there, or None; then the
            split has to come in a random order.

    Raises:
        EvaluationError: a model fails, or FP32 itself gives NaN or Inf.
    """
    observed = {metric.observation: metric for metric in metrics.values()}
    # a random order makes the first examples as good a sample as any
    kept = _sampled(len(split), seed) if stop is None else np.arange(len(split)) < SAMPLE
    collected = _Collected()
    why, done = None, 0
    for batch in split.batches(batch_size):
        _observe((fp32, int8, own), batch, task=task, observed=observed, kept=kept, into=collected)
        progress(len(batch.ids))
        done = batch.start + len(batch.ids)
        why = stop(_evaluation(split, collected.last(), batch.start, done)) if stop else None
        if why or (stop and collected.broken):
            break
    whole = _evaluation(split, collected, 0, done)
    return Evaluated(whole, _joined(collected.sample), why if done < len(split) else None)


def observe_alone(
    give: Give,
    split: Split,
    *,
    task: BoundTask,
    metrics: Mapping[str, Metric],
    batch_size: int,
    who: str,
    progress: Callable[[int], None],
) -> dict[str, Rows]:
    """One model's rows by observation name, in the split's order, for metrics of one model alone.

    Raises:
        EvaluationError: the model fails, or gives NaN or Inf; it is called `who`.
    """
    observed = {metric.observation: metric for metric in metrics.values()}
    parts: dict[str, list[Values]] = {name: [] for name in observed}
    for batch in split.batches(batch_size):
        scores = _scores(task, give(batch), batch)
        _demand_finite(scores, batch, who)
        for name, metric in observed.items():
            parts[name].append(metric.observe(scores, batch.targets, None))
        progress(len(batch.ids))
    return {name: Rows(rows) for name, rows in _joined(parts).items()}


def _sampled(n: int, seed: int) -> Array:
    """(N,) of bool: the examples whose raw outputs are kept."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(seed).choice(n, size=min(SAMPLE, n), replace=False)] = True
    return chosen


def _observe(
    models: tuple[Give, Give, Give | None],
    batch: Batch,
    *,
    task: BoundTask,
    observed: Mapping[str, Metric],
    kept: Array,
    into: _Collected,
) -> None:
    fp32, int8, own = models
    reference = _scores(task, fp32(batch), batch)
    _demand_finite(reference, batch)
    outputs = int8(batch)
    scores = _scores(task, outputs, batch)
    into.broken.extend(batch.ids[~finite(scores)].tolist())
    for name, metric in observed.items():
        into.fp32.setdefault(name, []).append(metric.observe(reference, batch.targets, None))
        into.int8.setdefault(name, []).append(metric.observe(scores, batch.targets, reference))
    if own is not None:
        between = _scores(task, own(batch), batch)
        _demand_finite(between, batch)
        for name, metric in observed.items():
            into.own.setdefault(name, []).append(metric.observe(between, batch.targets, reference))
    here = kept[batch.start : batch.start + len(batch.ids)]
    into.sample.setdefault("id", []).append(batch.ids[here])
    firsts = {name: into.sample.get(f"output/{name}", [outputs[name]])[0] for name in outputs}
    _demand_shapes(outputs, firsts)
    for name, values in outputs.items():
        into.sample.setdefault(f"output/{name}", []).append(values[here])


def _scores(task: BoundTask, outputs: Mapping[str, Array], batch: Batch) -> Values:
    _demand_rows(outputs, batch)
    return task.decode(outputs)


def _demand_rows(outputs: Mapping[str, Array], batch: Batch) -> None:
    for name, values in outputs.items():
        if np.shape(values)[:1] != (len(batch.ids),):
            raise EvaluationError(
                f"output {name!r} has shape {np.shape(values)} for a batch of {len(batch.ids)} "
                "examples: every output needs one row an example. Export the model so, or fix its "
                "batch"
            )


def _demand_shapes(outputs: Mapping[str, Array], first: Mapping[str, Array]) -> None:
    """Batches are joined, also in what is kept for replay."""
    for name, values in outputs.items():
        if np.shape(values)[1:] != np.shape(first[name])[1:]:
            raise EvaluationError(
                f"an example has {np.shape(first[name])[1:]} of output {name!r} in one batch and "
                f"{np.shape(values)[1:]} in another: batches have to come out alike. Pad texts to "
                "one length (`padding: max_length`), or leave that output out when exporting"
            )


def _demand_finite(scores: Values, batch: Batch, who: str = "the FP32 model") -> None:
    broken = batch.ids[~finite(scores)]
    if len(broken):
        named = ", ".join(broken[:_NAMED])
        raise EvaluationError(
            f"{who} gives NaN or Inf on {len(broken)} held-out examples of one batch "
            f"(first ids: {named}): it is no baseline. Mend the model, or these examples"
        )


def _evaluation(split: Split, collected: _Collected, start: int, end: int) -> Evaluation:
    """Of the examples from `start` to before `end`."""
    whole = without_rows(split)
    part = slice(start, end)
    return replace(
        whole,
        ids=whole.ids[part],
        targets=None if whole.targets is None else whole.targets[part],
        slices={name: values[part] for name, values in whole.slices.items()},
        unit=None if whole.unit is None else whole.unit[part],
        content=None if whole.content is None else whole.content[part],
        fp32={name: Rows(rows) for name, rows in _joined(collected.fp32).items()},
        int8={name: Rows(rows) for name, rows in _joined(collected.int8).items()},
        own={name: Rows(rows) for name, rows in _joined(collected.own).items()},
        problems=_problems(collected, end),
    )


def grouped(split: Split, task: BoundTask) -> Split:
    """With the slice columns that targets themselves make.

    Raises:
        DataError: the data hold a column of such a name, too.
    """
    if task.groups is None or split.targets is None:
        return split
    made = task.groups(split.targets)
    if both := sorted(made.keys() & split.slices.keys()):
        raise DataError(
            f"{split.name} ({split.source}) has a column {both[0]!r}, and so are called the groups "
            "that `build.classes` make: rename the column, or leave it out"
        )
    return replace(split, slices={**made, **split.slices})


def without_rows(split: Split) -> Evaluation:
    """What is known of a split before any model has run."""
    target: dict[str, Array] = {}
    if isinstance(split.targets, np.ndarray) and split.targets.ndim == 1:
        target["target"] = split.targets
    return Evaluation(
        ids=split.ids,
        targets=split.targets,
        slices={**split.slices, **target},
        unit=split.unit,
        fp32={},
        int8={},
        content=split.content,
    )


def _problems(collected: _Collected, n: int) -> dict[str, str]:
    if not collected.broken:
        return {}
    named = ", ".join(collected.broken[:_NAMED])
    why = (
        f"the INT8 model gives NaN or Inf on {len(collected.broken)} of {n} examples "
        f"(first ids: {named})"
    )
    return dict.fromkeys(collected.int8, why)


def _joined(parts: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: joined(arrays) for name, arrays in parts.items()}


def demand_baseline(
    expected: ExpectFp32 | Literal["unknown"],
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
    *,
    total: int | None = None,
) -> tuple[Baseline, ...]:
    """FP32 held against what training reported.

    Where only some of `total` examples were seen, a share may differ by 3.3 standard errors more,
    which chance alone exceeds once in a thousand.

    Raises:
        BaselineError: it measures something else; then no comparison means anything.
    """
    if expected == "unknown":
        return ()
    checks = []
    for name, value in expected.metrics.items():
        metric = metrics[name]
        measured = metric.summarize(evaluation.fp32[metric.observation])
        off = chance(measured, len(evaluation.ids), total)
        if not abs(measured - value) <= expected.within + off + _DUST:
            raise BaselineError(
                f"FP32 {name} is {measured:.4f} on the held-out data, and the policy expects "
                f"{value:.4f} within {expected.within}: preprocessing, class order or data differ "
                "from training. Nothing was compared; mend them, or `expect_fp32` if it is wrong"
            )
        checks.append(
            Baseline(metric=name, expected=value, measured=measured, within=expected.within)
        )
    return tuple(checks)


def demand_no_slack(
    budgets: Iterable[Budget], evaluation: Evaluation, metrics: Mapping[str, Metric]
) -> None:
    """A reference is at least as good as the candidate where a drop from it is limited.

    Raises:
        BaselineError: it is worse, so that INT8 would be granted what the candidate is better by.
    """
    limited = [b.metric for b in budgets if b.threshold in ("max_drop", "max_relative_drop")]
    for name in dict.fromkeys(limited):
        metric = metrics[name]
        reference, own = (
            metric.summarize(side[metric.observation]) for side in (evaluation.fp32, evaluation.own)
        )
        if not metric.worse(own, reference) <= 0:
            raise BaselineError(
                f"the reference's {name} is {reference:.4f} and the candidate's own FP32 has "
                f"{own:.4f}: held against the worse one, INT8 would look better than it is. Leave "
                "--reference out, or name the model that the candidate was made from"
            )
