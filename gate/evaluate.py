"""Both models on every shard of a split, in order, and the rows that they leave."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from gate import mapped
from gate.errors import BaselineError, DataError, EvaluationError
from gate.metrics import Metric
from gate.policy import Budget, ExpectFp32
from gate.records import Baseline
from gate.scoring import (
    Give,
    Part,
    Scored,
    cut,
    demand_finite,
    demand_rows,
    demand_shapes,
)
from gate.stopping import chance
from gate.streams import Streams
from gate.tasks import BoundTask
from gate.values import Array, Batch, Evaluation, Ragged, Rows, Split, Values, joined

Score = Callable[[Iterator[Part]], Generator[Scored, None, None]]
"""What an engine makes of shards, in their order; closing it ends the work."""
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


class Memory(Protocol):
    """What is kept of shards between runs."""

    def load(self, part: Part) -> Scored | None:
        """What both models made of it in a run that was interrupted."""

    def known(self, part: Part) -> Part:
        """The same, with what FP32 made of it in any run."""

    def save(self, part: Part, scored: Scored) -> None:
        """A shard is done."""


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
        demand_rows(outputs, batch)
        demand_shapes(outputs, parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate(
    score: Score,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    scratch: Path,
    progress: Callable[[int], None],
    stop: Callable[[Evaluation], str | None] | None = None,
    memory: Memory | None = None,
) -> Evaluated:
    """Run both models on every shard of a split, and keep each example's rows, in order.

    Shards may be finished in any order. They are taken in the order of the split, and `stop` looks
    at one batch after another: whatever finished first, what was seen when it says so is the head
    of one fixed sequence, which is a uniform sample where that is a shuffle. What an engine had
    finished behind it is left out, as if it had never run; so engine and workers change nothing.

    Args:
        score: what runs the shards.
        split: in the order in which it is visited.
        batch_size: shards are whole batches of it.
        seed: chooses the examples whose raw outputs are kept.
        scratch: a private folder, to which rows are written as they come.
        progress: called with the number of examples done after each shard.
        stop: given each batch's rows, says why evaluation may end there, or None; then the
            split has to come in a random order.
        memory: what earlier runs left of shards.

    Raises:
        EvaluationError: a model fails, or FP32 itself gives NaN or Inf.
    """
    # a random order makes the first examples as good a sample as any
    kept = _sampled(len(split), seed) if stop is None else np.arange(len(split)) < SAMPLE
    parts = cut(split, batch_size, kept, early=stop is not None)
    fp32, int8, own = (Streams(scratch / side) for side in ("fp32", "int8", "own"))
    collected = _Collected(fp32, int8, own)
    why, done = None, 0
    with closing(_finished(score, parts, memory)) as finished:
        for part, scored in finished:
            why, done = _looked(part, scored, batch_size, stop)
            collected.take(part, scored, done - part.start)
            give_back(split)
            progress(done - part.start)
            if why or done < part.stop or (stop and collected.broken):
                break
    return Evaluated(
        collected.evaluation(split, done), collected.outputs(), why if done < len(split) else None
    )


def _finished(
    score: Score, parts: Iterator[Part], memory: Memory | None
) -> Generator[tuple[Part, Scored], None, None]:
    """Every shard with what became of it, in order: kept by an earlier run, or from the engine.

    What is kept is read once, as another run may take it away: an engine is given the shards up to
    the next one that is kept, and another one, or the same again, those behind it.
    """
    kept: list[tuple[Part, Scored]] = []
    sent: deque[Part] = deque()

    def missing(first: Part) -> Iterator[Part]:
        for part in chain([first], parts):
            found = None if memory is None or part is first else memory.load(part)
            if found is not None:
                kept.append((part, found))
                return
            sent.append(part if memory is None else memory.known(part))
            yield sent[-1]

    for part in parts:
        found = None if memory is None else memory.load(part)
        if found is not None:
            yield part, found
            continue
        with closing(score(missing(part))) as running:
            for scored in running:
                yield _checked(sent.popleft(), scored, memory), scored
        if sent:
            raise EvaluationError(f"the engine has left out {len(sent)} shards: run the gate again")
        yield from kept
        kept.clear()


def _checked(part: Part, scored: Scored, memory: Memory | None) -> Part:
    """The shard, whose rows these are, kept."""
    if scored.ids.tolist() != part.split.ids.tolist():
        raise EvaluationError(f"shard {part.number} came back with examples of another one")
    if memory is not None:
        memory.save(part, scored)
    return part


def _looked(
    part: Part,
    scored: Scored,
    batch_size: int,
    stop: Callable[[Evaluation], str | None] | None,
) -> tuple[str | None, int]:
    """Why evaluation ends in this shard, batch by batch, or None; and where it does."""
    if stop is None:
        return None, part.stop
    for begin in range(0, len(part.split), batch_size):
        end = min(begin + batch_size, len(part.split))
        why = stop(_head(part.split, scored, begin, end))
        if why or scored.broken[:end].any():
            return why, part.start + end
    return None, part.stop


def _head(split: Split, scored: Scored, begin: int, end: int) -> Evaluation:
    """One batch of a shard."""
    place = slice(begin, end)
    return replace(
        without_rows(split.take(place)),
        fp32={name: Rows(rows[place]) for name, rows in scored.fp32.items()},
        int8={name: Rows(rows[place]) for name, rows in scored.int8.items()},
        own={name: Rows(rows[place]) for name, rows in scored.own.items()},
    )


@dataclass(slots=True)
class _Collected:
    """What grows with each shard."""

    fp32: Streams
    int8: Streams
    own: Streams
    broken: list[str] = field(default_factory=list)
    sample: list[Mapping[str, Array]] = field(default_factory=list)

    def take(self, part: Part, scored: Scored, examples: int) -> None:
        """The first `examples` of the next shard."""
        sides = (self.fp32, scored.fp32), (self.int8, scored.int8), (self.own, scored.own)
        for streams, rows in sides:
            streams.append({name: found[:examples] for name, found in rows.items()})
        self.broken += scored.ids[:examples][scored.broken[:examples]].tolist()
        kept = int(part.kept[:examples].sum())
        # a view would hold on to all that came with it, which a cluster's store keeps in one piece
        sample = {name: values[:kept].copy() for name, values in scored.sample.items()}
        self.sample.append(sample)
        demand_shapes(*(_outputs(one) for one in (sample, self.sample[0])))

    def outputs(self) -> dict[str, Array]:
        """`Evaluated.sample`."""
        names = self.sample[0] if self.sample else {}
        return {name: np.concatenate([part[name] for part in self.sample]) for name in names}

    def evaluation(self, split: Split, examples: int) -> Evaluation:
        """Of the first `examples` of the split."""
        return replace(
            without_rows(split.take(slice(0, examples))),
            fp32=_rows(self.fp32, examples),
            int8=_rows(self.int8, examples),
            own=_rows(self.own, examples),
            problems=self._problems(examples),
        )

    def _problems(self, examples: int) -> dict[str, str]:
        if not self.broken:
            return {}
        named = ", ".join(self.broken[:_NAMED])
        why = (
            f"the INT8 model gives NaN or Inf on {len(self.broken)} of {examples} examples "
            f"(first ids: {named})"
        )
        return dict.fromkeys(self.int8.names, why)


def _outputs(sample: Mapping[str, Array]) -> dict[str, Array]:
    begin = "output/"
    named = ((name.removeprefix(begin), values) for name, values in sample.items())
    return {name: values for name, values in named if begin + name in sample}


def _rows(streams: Streams, examples: int) -> dict[str, Rows]:
    return {name: Rows(values) for name, values in streams.whole(examples).items()}


def _sampled(n: int, seed: int) -> Array:
    """(N,) of bool: the examples whose raw outputs are kept."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(seed).choice(n, size=min(SAMPLE, n), replace=False)] = True
    return chosen


def give_back(found: Split | Evaluation) -> None:
    """Let go of what was read of it off the disk; it is read again when it is used."""
    held = [found.ids, found.content, found.unit, found.targets, *found.slices.values()]
    if isinstance(found, Split):
        held.append(found.order)
    else:
        sides = (found.fp32, found.int8, found.own)
        held += [rows.values for side in sides for rows in side.values()]
    mapped.give_back(*(one.values if isinstance(one, Ragged) else one for one in held))


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
        outputs = give(batch)
        demand_rows(outputs, batch)
        scores = task.decode(outputs)
        demand_finite(scores, batch, who)
        for name, metric in observed.items():
            parts[name].append(metric.observe(scores, batch.targets, None))
        progress(len(batch.ids))
    return {name: Rows(joined(rows)) for name, rows in parts.items()}


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
    laid = {name: mapped.laid(values) for name, values in made.items()}
    return replace(split, slices={**laid, **split.slices})


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
