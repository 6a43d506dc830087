"""Shards of the one sequence in which a split is visited, and what both models make of one.

A shard is whole batches, and which batches depends on the split and its batch size alone: not on
the engine, the number of workers, or what was kept of an earlier run. So the arithmetic is the same
everywhere, and shards put together in their order are exactly the whole run.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from gate.errors import EvaluationError
from gate.metrics import Metric
from gate.tasks import BoundTask
from gate.values import Array, Batch, Split, Values, finite, joined

Give = Callable[[Batch], Mapping[str, Array]]
"""What a model gives for a batch: outputs by name, (B, …)."""
Made_co = TypeVar("Made_co", covariant=True)
"""What becomes of a shard."""
Rows = dict[str, Values]
"""By observation name, an entry an example."""
_NAMED = 5
SMALL, _LARGE, _SHARDS = 128, 4096, 64
"""Examples of a shard at the least and at the most, and shards that a large set is cut into."""


# ── what is handed out ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A shard: consecutive examples of a split, n of them, in whole batches."""

    number: int
    """From 0."""
    start: int
    """Of the first example, in the sequence."""
    split: Split
    """These examples alone."""
    kept: Array
    """(n,) of bool: examples whose raw INT8 outputs are kept."""
    reference: Values | None = None
    """What FP32's outputs were decoded to in an earlier run; None where FP32 has to run."""

    @property
    def stop(self) -> int:
        """Of the first example behind it."""
        return self.start + len(self.split)

    def knowing(self, reference: Values) -> "Part":
        """The same, for which FP32 need not run."""
        return replace(self, reference=reference)


def cut(
    split: Split, batch_size: int, kept: Array, *, early: bool, small: int = SMALL
) -> Iterator[Part]:
    """The shards of a split, in order.

    Where evaluation may stop `early`, shards are `small`, so that little runs past the end.
    """
    most = small if early else min(max(small, len(split) // _SHARDS), _LARGE)
    each = max(1, most // batch_size) * batch_size
    for number, start in enumerate(range(0, len(split), each)):
        stop = min(start + each, len(split))
        yield Part(number, start, split.take(slice(start, stop)), kept[start:stop])


# ── what is done with it ──────────────────────────────────────────────────────────────────

Permit = AbstractContextManager[object]
"""Held while a model runs: so many at once, while others prepare and reduce."""


class Work(Protocol[Made_co]):
    """What is done with a shard; several threads may, with one."""

    def under(self, permit: Permit) -> "Work[Made_co]":
        """The same, whose models run by this permit."""

    def __call__(self, part: Part) -> Made_co:
        """What becomes of a shard.

        Raises:
            EvaluationError: a model fails.
        """


# ── what comes back ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What both models made of a shard of n examples, reduced to rows."""

    ids: Array
    """(n,) of str."""
    fp32: Rows
    int8: Rows
    own: Rows
    """The rows of the FP32 model that INT8 was made of, where `fp32` is another model's."""
    broken: Array
    """(n,) of bool: examples on which INT8 gives NaN or Inf."""
    sample: Mapping[str, Array]
    """`id` (s,), and `output/<name>` (s, …): raw INT8 outputs of the examples that are kept."""
    reference: Values
    """What FP32's outputs were decoded to."""


@dataclass(frozen=True, slots=True)
class Models:
    """What runs."""

    fp32: Give
    """What INT8 is held against."""
    int8: Give
    own: Give | None = None
    """The FP32 model that INT8 was made of, where it is not the one held against."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Runs models on a shard; several threads may, on one."""

    models: Models
    task: BoundTask
    metrics: Mapping[str, Metric]
    """Those whose rows are wanted; metrics of one observation share them."""
    batch_size: int
    """Fixed, because the arithmetic of some kernels depends on it."""
    permit: Permit = field(default_factory=nullcontext)

    def under(self, permit: Permit) -> "Scorer":
        """As `Work.under`."""
        return replace(self, permit=permit)

    def __call__(self, part: Part) -> Scored:
        """What both models make of a shard: each batch is read once, and what was reduced, gone.

        Raises:
            EvaluationError: a model fails, FP32 itself gives NaN or Inf, or outputs have not one
                row an example or other shapes in other batches.
        """
        found = [self._batch(part, batch) for batch in part.split.batches(self.batch_size)]
        first = found[0].outputs
        for one in found:
            demand_shapes(one.outputs, first)
        sample = {name: np.concatenate([one.outputs[name] for one in found]) for name in first}
        return Scored(
            ids=part.split.ids,
            fp32=_joined([one.fp32 for one in found]),
            int8=_joined([one.int8 for one in found]),
            own=_joined([one.own for one in found]),
            broken=np.concatenate([one.broken for one in found]),
            sample={"id": part.split.ids[part.kept]}
            | {f"output/{name}": values for name, values in sample.items()},
            reference=joined([one.reference for one in found]),
        )

    def reference(self, batch: Batch) -> Values:
        """What FP32's outputs are decoded to."""
        values = self._decoded(self.models.fp32, batch)[1]
        demand_finite(values, batch)
        return values

    def _batch(self, part: Part, batch: Batch) -> "_Batch":
        place = slice(batch.start, batch.start + len(batch.ids))
        known = part.reference
        reference = self.reference(batch) if known is None else known[place]
        outputs, scores = self._decoded(self.models.int8, batch)
        own: Rows = {}
        if self.models.own is not None:
            between = self._decoded(self.models.own, batch)[1]
            demand_finite(between, batch)
            own = self._observed(between, batch, reference)
        kept = part.kept[place]
        return _Batch(
            fp32=self._observed(reference, batch, None),
            int8=self._observed(scores, batch, reference),
            own=own,
            broken=~finite(scores),
            outputs={name: values[kept] for name, values in outputs.items()},
            reference=reference,
        )

    def _decoded(self, give: Give, batch: Batch) -> tuple[Mapping[str, Array], Values]:
        with self.permit:
            outputs = give(batch)
        demand_rows(outputs, batch)
        values = self.task.decode(outputs)
        _demand_one_each(len(values), batch, "build.decode gives")
        return outputs, values

    def _observed(self, scores: Values, batch: Batch, reference: Values | None) -> Rows:
        observed = {metric.observation: metric for metric in self.metrics.values()}
        rows = {
            name: metric.observe(scores, batch.targets, reference)
            for name, metric in observed.items()
        }
        for name, found in rows.items():
            _demand_one_each(len(found), batch, f"metrics of {name!r} observe")
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """What is left of a batch."""

    fp32: Rows
    int8: Rows
    own: Rows
    broken: Array
    outputs: Mapping[str, Array]
    """Of INT8, (s, …), of the examples that are kept."""
    reference: Values


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: joined([part[name] for part in parts]) for name in parts[0]}


# ── what one model makes of a shard ───────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """What a model gave for a batch, as it is."""

    examples: int
    outputs: Mapping[str, Array]
    """By name, (B, …)."""
    seconds: float
    """Of inference alone."""


Gives = Callable[[Path], Generator[tuple[Ran, ...], None, None]]
"""What a model gives on a split, shard by shard, batch by batch."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Runs one model on a shard."""

    model: Give
    batch_size: int
    permit: Permit = field(default_factory=nullcontext)

    def under(self, permit: Permit) -> "Alone":
        """As `Work.under`."""
        return replace(self, permit=permit)

    def __call__(self, part: Part) -> tuple[Ran, ...]:
        """What the model gives, batch by batch.

        Raises:
            EvaluationError: it fails.
        """
        return tuple(map(self._ran, part.split.batches(self.batch_size)))

    def _ran(self, batch: Batch) -> Ran:
        with self.permit:
            begun = time.perf_counter()
            outputs = self.model(batch)
            return Ran(len(batch.ids), outputs, time.perf_counter() - begun)


# ── what outputs have to be ───────────────────────────────────────────────────────────────


def demand_rows(outputs: Mapping[str, Array], batch: Batch) -> None:
    """Raises EvaluationError where an output has not one row an example."""
    for name, values in outputs.items():
        if np.shape(values)[:1] != (len(batch.ids),):
            raise EvaluationError(
                f"output {name!r} has shape {np.shape(values)} for a batch of {len(batch.ids)} "
                "examples: every output needs one row an example. Export the model so, or fix its "
                "batch"
            )


def _demand_one_each(count: int, batch: Batch, who: str) -> None:
    """Raises EvaluationError where rows would be held against other examples' rows."""
    if count != len(batch.ids):
        raise EvaluationError(
            f"{who} {count} entries for a batch of {len(batch.ids)} examples: every example needs "
            "one. Mend the task that does so"
        )


def demand_shapes(outputs: Mapping[str, Array], first: Mapping[str, Array]) -> None:
    """Raises EvaluationError where outputs of another batch differ in more than their number."""
    for name, values in outputs.items():
        if np.shape(values)[1:] != np.shape(first[name])[1:]:
            raise EvaluationError(
                f"an example has {np.shape(first[name])[1:]} of output {name!r} in one batch and "
                f"{np.shape(values)[1:]} in another: batches have to come out alike. Pad texts to "
                "one length (`padding: max_length`), or leave that output out when exporting"
            )


def demand_finite(scores: Values, batch: Batch, who: str = "the FP32 model") -> None:
    """Raises EvaluationError where `who` gives NaN or Inf."""
    broken = batch.ids[~finite(scores)]
    if len(broken):
        named = ", ".join(broken[:_NAMED])
        raise EvaluationError(
            f"{who} gives NaN or Inf on {len(broken)} held-out examples of one batch "
            f"(first ids: {named}): it is no baseline. Mend the model, or these examples"
        )
