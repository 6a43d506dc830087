"""`gate replay`: run a record's INT8 model here, or on an emulated CPU, against its stored outputs.

A record says what a model gave on one CPU. Others choose other kernels: with AVX2 and without VNNI
sums of products with 8-bit signed weights saturate, and the same file predicts other things.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gate import backends, publish
from gate.commands import _replay_cpu as cpus
from gate.commands import _replay_stored as stores
from gate.commands._replay_stored import Stored
from gate.commands.report import load_record, record_file
from gate.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, EvaluationError, UsageError
from gate.metrics import Metric
from gate.pipeline import BACKEND
from gate.progress import Progress, Silent
from gate.provenance import ARM_FEATURES, X86_FEATURES
from gate.records import GateRecord
from gate.statistics import clopper_pearson
from gate.tasks import BoundTask
from gate.values import Array, Rows, Split, Values

Outcome = Literal["same", "close", "different", "not proven"]
MAX_FLIPS, CONFIDENCE = 0.01, 0.95
_EXIT: Mapping[str, int] = {
    "same": EXIT_PASS,
    "close": EXIT_PASS,
    "different": EXIT_FAIL,
    "not proven": EXIT_INCONCLUSIVE,
}
_FLIPS = "prediction_flips"


@dataclass(frozen=True, slots=True)
class Difference:
    """Replayed raw outputs held against the stored ones."""

    identical: int
    """Examples of which every output has the same bits, and none is NaN."""
    not_finite: int
    """Examples with NaN or Inf in an output, stored or replayed."""
    largest: float | None
    """Absolute; None where no number was finite on both sides."""
    median: float | None
    """Of all numbers' absolute differences."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay came to."""

    record: str
    model: str
    int8_sha256: str
    machine: str
    """`this machine`, or the emulated CPU and what emulated it."""
    outcome: Outcome
    examples: int
    stored: int
    """Examples with stored outputs."""
    held_out: int
    outputs: Difference
    flips: int
    """Examples whose prediction changed, or is undefined."""
    flips_are: Literal["predictions", "outputs"]
    """What is counted: where a task has no prediction to flip, any changed output."""
    flip_rate_upper: float
    """Clopper–Pearson's one-sided 95 % bound."""
    max_flips: float
    metrics: Mapping[str, tuple[float | None, float | None]]
    """On these examples: stored and replayed; None where undefined."""
    recorded_cpu: Mapping[str, Any]
    cpu: Mapping[str, Any]
    missing: tuple[str, ...]
    """CPU features that the record's machine had and this one has not."""
    added: tuple[str, ...]
    """CPU features that only this machine has."""
    versions: Mapping[str, tuple[str, str]]
    """Libraries of another version here: the record's and this one's."""
    saturates: bool
    """Whether sums with 8-bit signed weights saturate on one of the two CPUs alone."""
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 same or close, 1 different, 3 not proven."""
        return _EXIT[self.outcome]


def replay(
    path: Path,
    *,
    cpu: str | None = None,
    data: Path | None = None,
    examples: int | None = None,
    max_flips: float = MAX_FLIPS,
    progress: Progress | None = None,
) -> Replay:
    """Run the INT8 model beside a record on the sample whose outputs it stored.

    Args:
        path: the record, or its folder.
        cpu: a name of `gate.commands._replay_cpu.CPUS`; default: this machine's own.
        data: the held-out data, where they are not at the policy's place.
        examples: how many; default: as many as prove `max_flips` if none flips.
        max_flips: the flip rate up to which a replay is close.
        progress: told of each step.

    Raises:
        UsageError: unknown CPU, no such record or data, other data, too many examples, or
            `max_flips` is no share.
        RecordError: a file of the record's folder is missing, damaged or not what it vouches for.
        EvaluationError: the model failed, was killed or took too long.
        GateError: there is no emulator.
    """
    told = progress or Silent()
    if not 0 <= max_flips < 1:
        raise UsageError(f"--max-flips {max_flips}: it is a share of examples, from 0 to below 1")
    on = cpus.machine(cpu)
    record, folder = load_record(path), record_file(path).parent
    told.step("read the record")
    model = stores.demand_artifact(folder, record)
    every = stores.load_stored(folder, record)
    with publish.scratch() as scratch:
        record = stores.with_own_files(record, folder)
        split = stores.held_out(record, data, _subfolder(scratch, "data"))
        task = stores.bind(folder, record, split, every, backends.get(BACKEND))
        vouched = stores.targets_of(every, split)
        stores.demand_vouched(every, task, vouched, folder / stores.OUTPUTS)
        chosen = _chosen(len(every.ids), examples, max_flips, record.policy.judge.seed)
        sample = every.take(chosen)
        targets = None if vouched is None else vouched[chosen]
        # an emulator is slow: where batch mates do not matter, the sample alone is run
        whole = cpu is None or not _alone(record)
        ran = _run(on, record, model, sample, split=split, whole=whole, scratch=scratch, told=told)
    return _compared(
        record,
        sample,
        ran,
        task=task,
        targets=targets,
        machine=on.name,
        max_flips=max_flips,
        stored=len(every.ids),
    )


def _run(
    on: cpus.Machine,
    record: GateRecord,
    model: Path,
    sample: Stored,
    *,
    split: Split,
    whole: bool,
    scratch: Path,
    told: Progress,
) -> cpus.Ran:
    size = record.provenance.batch_size
    examples = _examples_run(sample, size, whole=whole)
    told.step(f"run on {on.name}", total=examples)
    return cpus.run(
        on,
        model,
        stores.batches(sample, split, size=size, whole=whole),
        backend=BACKEND,
        threads=record.provenance.threads,
        scratch=_subfolder(scratch, "run"),
        timeout=cpus.limit(examples, _seconds_each(record), record.int8.bytes),
    )


def _subfolder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def needed(max_flips: float) -> int | None:
    """Examples of which none may flip to prove the flip rate: 299 for 1 %; None: no number does."""
    if max_flips <= 0:
        return None
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-max_flips))


def _chosen(stored: int, examples: int | None, max_flips: float, seed: int) -> Array:
    """(n,) of int64, ascending: a seeded sample of what is stored."""
    if examples is not None and examples > stored:
        raise UsageError(
            f"--examples {examples}: the record stored the outputs of {stored} examples, and no "
            "more can be replayed"
        )
    n = min(examples or needed(max_flips) or stored, stored)
    return np.sort(np.random.default_rng(seed).permutation(stored)[:n])


def _alone(record: GateRecord) -> bool:
    """Whether an example's outputs are known not to depend on its batch mates."""
    recipe = record.int8.recipe
    return recipe is not None and recipe.scheme == "static"


def _examples_run(sample: Stored, size: int, *, whole: bool) -> int:
    if not whole:
        return math.ceil(len(sample.ids) / size) * min(size, len(sample.evaluation.ids))
    return min(len(np.unique(sample.places // size)) * size, len(sample.evaluation.ids))


def _seconds_each(record: GateRecord) -> float | None:
    """What an example took both models when the record was made."""
    spent = record.durations.get("evaluate")
    return spent / record.examples_evaluated if spent and record.examples_evaluated else None


# ── comparing ─────────────────────────────────────────────────────────────────────────────


def _compared(
    record: GateRecord,
    sample: Stored,
    ran: cpus.Ran,
    *,
    task: BoundTask,
    targets: Values | None,
    machine: str,
    max_flips: float,
    stored: int,
) -> Replay:
    _demand_alike(sample.outputs, ran.outputs)
    outputs = difference(sample.outputs, ran.outputs)
    n = len(sample.ids)
    before, after = task.decode(sample.outputs), task.decode(ran.outputs)
    flip = task.metrics.get(_FLIPS)
    flips = _flips(flip, before, after, targets) if flip else n - outputs.identical
    then, now = record.provenance.cpu, ran.cpu
    missing, added = _features(then, now), _features(now, then)
    return Replay(
        record=record.id,
        model=record.model,
        int8_sha256=record.int8.sha256,
        machine=machine,
        outcome=outcome(n, outputs.identical, flips, max_flips),
        examples=n,
        stored=stored,
        held_out=record.examples_total,
        outputs=outputs,
        flips=flips,
        flips_are="predictions" if flip else "outputs",
        flip_rate_upper=clopper_pearson.interval(flips, n, 2 * CONFIDENCE - 1)[1],
        max_flips=max_flips,
        metrics={
            name: (_value(metric, before, targets), _value(metric, after, targets))
            for name, metric in task.metrics.items()
            if not metric.relative
        },
        recorded_cpu=then,
        cpu=now,
        missing=missing,
        added=added,
        versions=_versions(record),
        saturates=_saturates(record, now),
        seconds=ran.seconds,
    )


def outcome(n: int, identical: int, flips: int, max_flips: float) -> Outcome:
    """What `n` examples come to, of which so many are identical and so many flipped.

    Without flips, few examples prove little: only the same bits, or a bound, are good enough.
    """
    if identical == n:
        return "same"
    p_pass, _ = clopper_pearson.p_at_most(flips, n, max_flips)
    if p_pass <= 1 - CONFIDENCE:
        return "close"
    return "different" if flips / n > max_flips else "not proven"


def _demand_alike(stored: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    kinds = [
        {name: (values.shape, values.dtype.kind) for name, values in side.items()}
        for side in (stored, found)
    ]
    if kinds[0] != kinds[1]:
        raise EvaluationError(
            f"the model gives {_described(found)} here, and the record stored "
            f"{_described(stored)}: nothing was compared. Run the gate again"
        )


def _described(outputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in outputs.items()) or "nothing"


def difference(stored: Mapping[str, Array], found: Mapping[str, Array]) -> Difference:
    """Both sides (N, …) by output name, of the same shapes."""
    n = len(next(iter(stored.values())))
    same, finite, gaps = np.ones(n, dtype=bool), np.ones(n, dtype=bool), []
    for name, old in stored.items():
        new = found[name]
        same &= _same_bits(old, new)
        if old.dtype.kind not in "biuf":
            continue
        sides = old.astype(np.float64), new.astype(np.float64)
        known = np.isfinite(sides[0]) & np.isfinite(sides[1])
        finite &= _each(known)
        gaps.append(np.abs(sides[0][known] - sides[1][known]))
    every = np.concatenate(gaps) if gaps else np.empty(0)
    return Difference(
        identical=int(same.sum()),
        not_finite=int((~finite).sum()),
        largest=float(every.max()) if every.size else None,
        median=float(np.median(every)) if every.size else None,
    )


def _same_bits(old: Array, new: Array) -> Array:
    """(N,) of bool. Zeros of different sign differ, and NaN differs from everything."""
    equal = old == new
    if old.dtype.kind == "f":
        equal &= np.signbit(old) == np.signbit(new)
    return _each(equal)


def _each(values: Array) -> Array:
    """(N, …) of bool to (N,): whether all of an example is true."""
    return np.asarray(values.reshape(len(values), math.prod(values.shape[1:])).all(axis=1))


def _flips(metric: Metric, before: Values, after: Values, targets: Values | None) -> int:
    """An example that is NaN on either side counts: what is unknown must not look unchanged."""
    assert metric.per_example is not None
    rows = Rows(metric.observe(after, targets, before))
    return int(np.sum(metric.per_example(rows)))


def _value(metric: Metric, scores: Values, targets: Values | None) -> float | None:
    value = float(metric.summarize(Rows(metric.observe(scores, targets, None))))
    return value if math.isfinite(value) else None


def _features(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """What INT8 kernels look at that only the first CPU has, in a fixed order."""
    known = (*X86_FEATURES, *ARM_FEATURES)
    alone = set(mine.get("features", ())) - set(theirs.get("features", ()))
    return tuple(name for name in known if name in alone)


def _saturates(record: GateRecord, cpu: Mapping[str, Any]) -> bool:
    """Whether 8-bit signed weights make sums saturate on one of the two CPUs alone.

    Signed activations do not help: on x86 ONNX Runtime turns those of a QDQ model into unsigned
    ones (its QDQS8ToU8 transformer), unless `session.qdqisint8allowed` is set.
    """
    recipe = record.int8.recipe
    wide = recipe is None or (recipe.weight_type == "int8" and not recipe.reduce_range)
    return wide and _narrow(record.provenance.cpu) != _narrow(cpu)


def _narrow(cpu: Mapping[str, Any]) -> bool:
    """Whether its kernels add pairs of products in 16 bits: AVX2 without VNNI."""
    return "avx2" in cpu.get("features", ()) and not cpu.get("vnni")


def _versions(record: GateRecord) -> dict[str, tuple[str, str]]:
    then = record.provenance.versions
    return {
        name: (then.get(name, "unknown"), here)
        for name, here in backends.get(BACKEND).versions().items()
        if then.get(name) != here
    }
