"""ONNX graphs that a policy attaches before a model or after it; they stay in floating point.

Both models have the same ones, so a graph is never quantized and its work is never counted. It
runs on one thread, so that what it gives depends on nothing but its input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gate import artifact, backends, graph
from gate.backends import Runner
from gate.errors import CandidateError, DataError, EvaluationError, UsageError
from gate.sources import Graph
from gate.values import Array, TensorSpec

_BACKEND = "onnxruntime"
_BEFORE, _AFTER = "build.preprocess.graph", "build.decode.graph"


@dataclass(frozen=True, slots=True)
class Attached:
    """A graph, opened."""

    where: str
    """The policy's key and the file, as every message begins."""
    runner: Runner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it reads."""
        return self.runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return self.runner.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, (B, …), of the inputs among `feeds`, (B, …).

        Raises:
            EvaluationError: the runtime refused the inputs, or an output has not one row an
                example.
        """
        given = {spec.name: feeds[spec.name] for spec in self.inputs}
        count = len(next(iter(given.values())))
        try:
            found = self.runner.run(given)
        except EvaluationError as error:
            raise EvaluationError(f"{self.where}: {error}") from error
        for name, values in found.items():
            if np.shape(values)[:1] != (count,):
                raise EvaluationError(
                    f"{self.where}: output {name!r} has shape {np.shape(values)} for a batch of "
                    f"{count} examples; it needs one row an example"
                )
        return found


def before(told: Graph, home: Path, inputs: Sequence[TensorSpec]) -> Attached:
    """The graph that makes a model's `inputs`; its file is relative to `home`.

    Raises:
        UsageError: as `_opened`, or it does not give exactly the inputs.
        DataError: an output is of another type or shape than the model's input.
    """
    found = _opened(_BEFORE, (home / told.file).resolve(), told.sha256)
    given = {spec.name: spec for spec in found.outputs}
    if set(given) != {spec.name for spec in inputs}:
        raise UsageError(
            f"{found.where} gives {_listed(found.outputs)}, and the model takes "
            f"{_listed(inputs)}: name the graph's outputs as the model's inputs, and no others"
        )
    for spec in inputs:
        _demand_fit(found.where, given[spec.name], spec)
    return found


def after(told: Graph, home: Path, outputs: Sequence[TensorSpec]) -> Attached:
    """The graph that reads a model's `outputs`, some or all of them.

    Raises:
        UsageError: as `_opened`, or it reads what the model does not give.
        DataError: an output of the model is of another type or shape than the graph's input.
    """
    found = _opened(_AFTER, (home / told.file).resolve(), told.sha256)
    given = {spec.name: spec for spec in outputs}
    if not {spec.name for spec in found.inputs} <= set(given):
        raise UsageError(
            f"{found.where} reads {_listed(found.inputs)}, and the model gives "
            f"{_listed(outputs)}: name the graph's inputs as the model's outputs"
        )
    for spec in found.inputs:
        _demand_fit(found.where, given[spec.name], spec)
    return found


@lru_cache(maxsize=8)
def _opened(key: str, path: Path, pin: str | None) -> Attached:
    """A session on the file.

    Raises:
        UsageError: there is no such file, it is not the pinned one, keeps its weights elsewhere,
            is fixed to a batch, or the runtime cannot load it.
    """
    where = f"`{key}` {path}"
    _demand_file(where, path, pin)
    try:
        runner = backends.get(_BACKEND).open(path, threads=1)
    except CandidateError as error:
        raise UsageError(
            f"{where}: {error} Libraries of custom operators are not loaded: a graph has to do "
            "with standard ones"
        ) from error
    for spec in (*runner.inputs, *runner.outputs):
        if not spec.shape or spec.shape[0] is not None:
            raise UsageError(
                f"{where}: {spec.name!r} has shape {spec.shape}, and its first axis must be free, "
                "for batches of any size: export the graph so"
            )
    return Attached(where, runner)


def _demand_file(where: str, path: Path, pin: str | None) -> None:
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file; it is relative to the policy")
    found = artifact.sha256_of(path)
    if pin not in (None, found):
        raise UsageError(
            f"{where} is not the graph that the policy pins: pinned {pin}, found {found}. "
            "Restore it, or, if the change is meant, write its sha256 into the policy"
        )
    try:
        loose = graph.needs_data_file(path)
    except CandidateError as error:
        raise UsageError(f"{where}: {error}") from error
    if loose:
        raise UsageError(
            f"{where} keeps weights in another file, which its sha256 does not cover: save it as "
            "one file"
        )


def _demand_fit(where: str, given: TensorSpec, taken: TensorSpec) -> None:
    """What one gives the other can take, as far as types and shapes are told."""
    sizes = zip(given.shape[1:], taken.shape[1:], strict=False)
    fits = all(None in pair or pair[0] == pair[1] for pair in sizes)
    if given.dtype != taken.dtype or len(given.shape) != len(taken.shape) or not fits:
        raise DataError(
            f"{where}: {taken.name!r} is given as {given.dtype} {_dims(given)} and taken as "
            f"{taken.dtype} {_dims(taken)}: export one like the other"
        )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {_dims(spec)}" for spec in specs) or "nothing"


def _dims(spec: TensorSpec) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in spec.shape) + ")"
