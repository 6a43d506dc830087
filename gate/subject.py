"""What a run judges: two models on this machine's runtime, or what two models gave elsewhere."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gate import attested, data, decoding, pictures, preprocess, tasks
from gate.adoption import adopted
from gate.candidate import Source, fetch, input_columns
from gate.errors import CandidateError, GateError, UsageError
from gate.evaluate import first_outputs, opening
from gate.int8 import make_int8, take_ready
from gate.metrics import MODEL_METRICS, Metric
from gate.normalize import normalize, prove_parity
from gate.records import Attestation
from gate.run import Run
from gate.scoring import Give
from gate.sources import DataSource, Preprocess
from gate.tasks import BoundTask
from gate.values import Array, Batch, Candidate, Column, Int8Model, Split, TensorSpec

_OF_TORCH = (".pt2", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller hands in."""

    candidate: Any = None
    """A path, an MLflow URI or a `torch.nn.Module`; None where outputs are judged."""
    int8: str | None = None
    """An INT8 model made elsewhere."""
    reference: str | None = None
    """The FP32 model that INT8 is held against, where it is not the candidate's own."""
    fp32_outputs: Path | None = None
    int8_outputs: Path | None = None
    trust: bool = False
    """Whether formats may run code on load."""
    paranoid: bool = False
    """Whether all data are read again, and have to be what is remembered of them."""
    example_inputs: Mapping[str, Array] | None = None
    """To trace a module with."""

    @property
    def name(self) -> str:
        """As a person would name it."""
        chosen = self.int8_outputs if self.candidate is None else self.candidate
        return str(chosen) if isinstance(chosen, str | os.PathLike) else type(chosen).__name__


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged, on what."""

    candidate: Candidate
    int8: Int8Model
    splits: Mapping[str, Split]
    batch_size: int
    task: BoundTask
    metrics: Mapping[str, Metric]
    fp32_gives: Give
    """What INT8 is held against."""
    int8_gives: Give
    first: Mapping[str, Array]
    """FP32's raw outputs of the first examples, as the task was fitted to."""
    own_gives: Give | None = None
    """The candidate's own FP32 outputs, where INT8 is held against a reference."""
    reference: Candidate | None = None
    attested: tuple[Attestation, ...] = ()
    """FP32's and INT8's, where outputs are judged that were made elsewhere."""

    @property
    def beside(self) -> tuple[str, ...]:
        """What the answers depend on besides the candidate and what makes INT8 of it."""
        calibration = self.splits.get("calibration")
        if self.int8.recipe is None:
            calibration = None
        return (
            *([] if calibration is None else [f"calibration {calibration.sha256}"]),
            *([] if self.reference is None else [f"reference {self.reference.sha256}"]),
            *(f"outputs {told.outputs_sha256}" for told in self.attested),
            f"batches of {self.batch_size}",
        )


def bring(run: Run, given: Given) -> Subject:
    """Everything that has to be there before the models are compared.

    Raises:
        GateError: it cannot be had.
    """
    if given.fp32_outputs is not None and given.int8_outputs is not None:
        return _of_outputs(run, given.fp32_outputs, given.int8_outputs)
    return _of_models(run, given)


# ── two models ────────────────────────────────────────────────────────────────────────────


def _of_models(run: Run, given: Given) -> Subject:
    source, candidate = bring_fp32(run, given)
    if given.int8 is not None:
        with _called("int8", given.int8):
            run.ready = take_ready(_fetched(run, "int8", given.int8), run.scratch)
    with run.step("data"):
        splits = open_splits(run, candidate.inputs)
        alone = run.ready is not None and run.ready.alone
        batch_size = data.batch_size(run.policy, candidate, splits.values(), alone=alone)
    shown = opening(splits.get("calibration", splits["held_out"]), batch_size)
    prove_same(run, source, candidate, shown)
    own = _gives(run, candidate)
    reference = (
        None if given.reference is None else _reference(run, given.reference, candidate, shown)
    )
    baseline = own if reference is None else _gives(run, reference)
    first = first_outputs(baseline, opening(splits["held_out"], batch_size))
    task, metrics = _metrics(run, candidate.outputs, splits["held_out"], first)
    int8 = make_int8(run, candidate, splits.get("calibration"), shown[0].feeds)
    return Subject(
        candidate=candidate,
        int8=int8,
        splits=splits,
        batch_size=batch_size,
        task=task,
        metrics=metrics,
        fp32_gives=baseline,
        int8_gives=_gives(run, int8),
        first=first,
        own_gives=None if reference is None else own,
        reference=reference,
    )


def bring_fp32(run: Run, given: Given) -> tuple[Source, Candidate]:
    """The candidate as it came, and normalised; what it says of itself is the policy's from here.

    Raises:
        GateError: it cannot be had.
    """
    with run.step("candidate"):
        examples = _examples(run, given.example_inputs)
        source = fetch(
            given.candidate,
            scratch=run.scratch,
            trust=given.trust,
            examples=examples,
            max_length=_max_length(run),
        )
        run.loaded, filled = adopted(
            run.loaded,
            name=source.name,
            classes=source.classes,
            tokenizer=_kept(source.tokenizer, run.scratch),
        )
        found = _normalised(run, source, run.scratch)
        return source, replace(found, steps=(*source.steps, *filled, *found.steps))


def _max_length(run: Run) -> int | None:
    preprocess = run.policy.build.preprocess
    return (
        None if preprocess is None or not preprocess.tokenizer else preprocess.tokenizer.max_length
    )


def _kept(tokenizer: Path | None, scratch: Path) -> Path | None:
    """A candidate's own tokenizer, where it goes into the record's folder."""
    return None if tokenizer is None else Path(shutil.copyfile(tokenizer, scratch / tokenizer.name))


def prove_same(run: Run, source: Source, candidate: Candidate, shown: Sequence[Batch]) -> None:
    """Normalising changed nothing that the model computes.

    Raises:
        CandidateError: it did.
    """
    with run.step("parity"):
        fp32 = run.backend.open(candidate.path, threads=run.threads)
        before = source.reference or run.backend.open(source.onnx, threads=run.threads).run
        prove_parity(before, fp32, [batch.feeds for batch in shown], candidate.source)


def _gives(run: Run, model: Candidate | Int8Model) -> Give:
    runner = run.backend.open(model.path, threads=run.threads)

    def give(batch: Batch) -> Mapping[str, Array]:
        return runner.run(batch.feeds)

    return give


def _reference(run: Run, named: str, candidate: Candidate, shown: Sequence[Batch]) -> Candidate:
    """Another FP32 model of the same inputs and outputs, shown to compute what its file does."""
    with run.step("reference"), _called("reference", named):
        source = _fetched(run, "reference", named)
        found = _normalised(run, source, _subfolder(run.scratch, "reference"))
        _demand_same_types(named, candidate, found)
        _demand_same_shapes(named, candidate, found)
        before, after = (
            run.backend.open(path, threads=run.threads) for path in (source.onnx, found.path)
        )
        prove_parity(before.run, after, [batch.feeds for batch in shown], found.source)
    return found


def _demand_same_types(named: str, candidate: Candidate, reference: Candidate) -> None:
    for side in ("inputs", "outputs"):
        mine, theirs = (
            {spec.name: spec.dtype for spec in getattr(model, side)}
            for model in (candidate, reference)
        )
        if mine != theirs:
            raise CandidateError(
                f"the reference {named} has {side} {theirs} and the candidate {mine}: they cannot "
                "be held against each other; export both alike"
            )


def _demand_same_shapes(named: str, candidate: Candidate, reference: Candidate) -> None:
    for mine, theirs in zip(candidate.outputs, reference.outputs, strict=True):
        sizes = zip(mine.shape[1:], theirs.shape[1:], strict=False)
        known = all(None in pair or pair[0] == pair[1] for pair in sizes)
        if len(mine.shape) != len(theirs.shape) or not known:
            raise CandidateError(
                f"--reference {named}: output {mine.name!r} has shape {theirs.shape}, and the "
                f"candidate's {mine.shape}: name a model of the same classes"
            )


def _fetched(run: Run, flag: str, named: str) -> Source:
    """ONNX, which is only data."""

    def no_examples(_: tuple[str, ...]) -> Mapping[str, Array]:
        raise UsageError(f"--{flag} {named} is no ONNX file: export it to ONNX")

    if not named:
        raise UsageError(f"--{flag} is empty: name an ONNX file or an MLflow URI")
    if Path(named).suffix in _OF_TORCH:
        raise UsageError(f"--{flag} {named} is a torch file: export it to ONNX")
    folder = _subfolder(run.scratch, f"{flag}-source")
    return fetch(named, scratch=folder, trust=False, examples=no_examples)


@contextmanager
def _called(flag: str, named: str) -> Iterator[None]:
    """Errors about a model say by which flag it was given."""
    try:
        yield
    except GateError as error:
        told = str(error).replace(f"candidate {named}", f"--{flag} {named}")
        raise type(error)(told) from error


def _normalised(run: Run, source: Source, folder: Path) -> Candidate:
    return normalize(
        source.onnx,
        name=source.name,
        sha256=source.sha256,
        backend=run.backend,
        threads=run.threads,
        scratch=folder,
    )


def _examples(run: Run, given: Mapping[str, Array] | None) -> Any:
    """What a module is traced with: the caller's inputs, else the first of the policy's data."""

    def examples(parameters: tuple[str, ...]) -> Mapping[str, Array]:
        if given is not None:
            return given
        source = run.policy.build.calibration or run.policy.judge.held_out
        scratch = _subfolder(run.scratch, "examples")
        columns = data.read("calibration", source, run.loaded.base, scratch)
        told = run.policy.build.preprocess
        names, read = _fed(parameters, columns, told)
        prepare = preprocess.for_tracing(columns, names, told, run.loaded.base)
        return prepare({name: columns[name][0:2] for name in read})

    return examples


def _fed(
    parameters: tuple[str, ...], columns: Mapping[str, Column], told: Preprocess | None
) -> tuple[Sequence[str], Sequence[str]]:
    """Inputs that a module is traced with, and the columns that they are made of."""
    if told is not None and told.tokenizer is not None:
        return parameters, told.tokenizer.columns
    images = [name for name, column in columns.items() if pictures.is_encoded(column)]
    if told is not None and len(parameters) == len(images) == 1:
        return images, images
    names = input_columns(parameters, {name: column.shape for name, column in columns.items()})
    return names, names


# ── what two models gave ──────────────────────────────────────────────────────────────────


def _of_outputs(run: Run, fp32: Path, int8: Path) -> Subject:
    with run.step("outputs"):
        before, after = (
            attested.open_outputs(f"--{side}-outputs", path, _subfolder(run.scratch, side))
            for side, path in (("fp32", fp32), ("int8", int8))
        )
        attested.demand_same_outputs(before, after)
    with run.step("data"):
        splits = open_splits(run, None)
        if not splits["held_out"].explicit_ids:
            raise UsageError(
                f"held_out ({splits['held_out'].source}) has no column 'id', by which outputs are "
                "matched: add the ids that the outputs were written with"
            )
    for side in (before, after):
        side.demand(splits["held_out"].ids)
    candidate = attested.as_candidate(before)
    batch_size = data.batch_size(run.policy, candidate, splits.values())
    first = first_outputs(before.give, opening(splits["held_out"], batch_size))
    task, metrics = _metrics(run, before.specs, splits["held_out"], first)
    return Subject(
        candidate=candidate,
        int8=attested.as_int8(after),
        splits=splits,
        batch_size=batch_size,
        task=task,
        metrics=metrics,
        fp32_gives=before.give,
        int8_gives=after.give,
        first=first,
        attested=(before.told, after.told),
    )


# ── both ──────────────────────────────────────────────────────────────────────────────────


_SPLITS = ("held_out", "calibration", "tuning")


def open_splits(
    run: Run, inputs: tuple[TensorSpec, ...] | None, names: Sequence[str] = _SPLITS
) -> dict[str, Split]:
    """Those of the splits that the policy names, proven disjoint; raw, where no model has inputs.

    Raises:
        GateError: one cannot be opened, or they share examples.
    """
    build, judge = run.policy.build, run.policy.judge
    named = {"held_out": judge.held_out, "calibration": build.calibration, "tuning": build.tuning}
    splits = {
        name: data.open_split(
            name,
            source,
            base=run.loaded.base,
            inputs=inputs,
            preprocess=build.preprocess,
            seed=judge.seed,
            scratch=_subfolder(run.scratch, name),
            needs_target=name == "held_out" and _labelled(run, source),
            classes=build.classes,
            paranoid=run.paranoid,
        )
        for name, source in named.items()
        if source is not None and name in names
    }
    data.prove_disjoint(tuple(splits.values()))
    return splits


def _labelled(run: Run, source: DataSource) -> bool:
    """Whether labels are read: where there are any, and where a metric needs them."""
    judge, task = run.policy.judge, tasks.get(run.policy.task)
    asked = [budget.metric for budget in judge.budgets if budget.metric not in MODEL_METRICS]
    asked += [] if judge.expect_fp32 == "unknown" else judge.expect_fp32.metrics
    traits = [task.traits(name) for name in asked]
    if any(one is None or not one.relative for one in traits):
        return True
    return data.has_target("held_out", source, run.loaded.base)


def _metrics(
    run: Run, outputs: Sequence[TensorSpec], held_out: Split, first: Mapping[str, Array]
) -> tuple[BoundTask, dict[str, Metric]]:
    """The task fitted to the outputs, and every metric that is judged, expected or shown."""
    policy = run.policy
    home = run.loaded.base
    task = decoding.bind(policy, tuple(outputs), held_out.targets, first, home=home)
    asked = [budget.metric for budget in policy.judge.budgets]
    if policy.judge.expect_fp32 != "unknown":
        asked += policy.judge.expect_fp32.metrics
    extra = [name for name in asked if name not in MODEL_METRICS]
    return task, dict(task.metrics) | {name: task.metric(name) for name in extra}


def _subfolder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder
