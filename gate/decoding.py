"""From a model's outputs to what a task's metrics observe: graph, a decoder of one's own, the task.

A decoder of one's own is a function that a plugin or an entry point registers. It gets the outputs
by name, (B, …) each, and gives what one of the task's own decoders reads: an array (B, …), or
arrays by role where that one reads several. A model's broken outputs stay broken: neither function
nor graph sees NaN or Inf, and their example is NaN in what they give.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from gate import attached, door, tasks
from gate.errors import EvaluationError, UsageError
from gate.policy import Build, Policy
from gate.tasks import BoundTask
from gate.values import Array, Ragged, TensorSpec, Values, joined

GROUP = "gate.decoders"
Decoder = Callable[[Mapping[str, Array]], Array | Mapping[str, Array]]
READ_AS: Mapping[str, str] = {
    "classification": "probabilities",
    "detection": "boxes-scores-labels",
    "embedding": "vectors",
    "question_answering": "logits",
    "ranking": "scores",
    "regression": "values",
    "segmentation": "classes",
    "text_classification": "probabilities",
    "text_recognition": "text",
    "token_classification": "logits",
}
"""Task to the decoder of its own that reads what a function gives."""
_FIRST, _OTHERS = slice(0, 1), slice(1, None)
_CLOSE = 1e-4
_Outputs = Mapping[str, Array]
_Step = Callable[[_Outputs], dict[str, Array]]


def names(task: str) -> tuple[str, ...]:
    """Every decoder of a task, its own first.

    Raises:
        UsageError: there is no such task.
    """
    own = tasks.get(task).decoders
    return (*own, *door.names(GROUP, {})) if task in READ_AS else own


def bind(
    policy: Policy,
    outputs: tuple[TensorSpec, ...],
    targets: Values | None,
    first: _Outputs,
    *,
    home: Path,
) -> BoundTask:
    """The policy's task, fitted to a model's outputs and all targets of a split.

    Files that `build.decode` names are relative to `home`. Otherwise as `Task.bind`.

    Raises:
        UsageError: graph, decoder or output do not exist, or do not go together.
        DataError: targets and what was decoded do not fit.
        EvaluationError: a decoder of one's own does not give an entry an example.
    """
    task, build, raw = tasks.get(policy.task), policy.build, first
    steps: list[_Step] = []
    if build.decode.graph is not None:
        graph = attached.after(build.decode.graph, home, outputs)
        steps.append(_mending(graph.run, tuple(spec.name for spec in graph.inputs)))
        outputs, first = graph.outputs, steps[-1](first)
        build = _decoding(build, graph=None)
    if build.decode.name not in task.decoders and build.decode.name in names(policy.task):
        steps.append(_by_function(build, outputs))
        first = steps[-1](first)
        build = _read_as(build, READ_AS[policy.task], tuple(first))
        outputs = tuple(_spec(name, values) for name, values in first.items())
    bound = task.bind(build, outputs, targets, first)
    if not steps:
        return bound
    decode = _through(steps, bound.decode)
    _demand_alone(decode, raw)
    return replace(bound, decode=decode)


def _demand_alone(decode: Callable[[_Outputs], Values], first: _Outputs) -> None:
    """Raises EvaluationError where an example's mates in a batch change what is decoded of it."""
    parts = [{name: values[part] for name, values in first.items()} for part in (_FIRST, _OTHERS)]
    if min(len(values) for part in parts for values in part.values()) == 0:
        return
    if not _alike(decode(first), joined([decode(part) for part in parts])):
        raise EvaluationError(
            "what `build.decode` gives of an example changes with the others in its batch, so that "
            "the verdict would depend on `batch_size`: decode each example by itself (its first "
            "axis is the batch)"
        )


def _alike(whole: Values, parted: Values) -> bool:
    if isinstance(whole, Ragged) and isinstance(parted, Ragged):
        if whole.sizes.tolist() != parted.sizes.tolist():
            return False
        whole, parted = whole.values, parted.values
    one, other = np.asarray(whole), np.asarray(parted)
    if one.dtype.kind in "OU":
        return bool(one.tolist() == other.tolist())
    # kernels may add in another order in a batch of another size
    return bool(np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE, equal_nan=True))


def _through(steps: list[_Step], decode: Callable[[_Outputs], Values]) -> Callable[..., Values]:
    def decoded(outputs: _Outputs) -> Values:
        for step in steps:
            outputs = step(outputs)
        return decode(outputs)

    return decoded


def _decoding(build: Build, **changes: Any) -> Build:
    return build.model_copy(update={"decode": build.decode.model_copy(update=changes)})


def _read_as(build: Build, name: str, given: tuple[str, ...]) -> Build:
    several = given != (build.decode.name,)
    roles = {role: role for role in given} if several else {}
    return _decoding(build, name=name, output=None, outputs=roles)


def _spec(name: str, values: Array) -> TensorSpec:
    kind = "object" if values.dtype.kind in "OU" else values.dtype.name
    return TensorSpec(name, kind, (None, *values.shape[1:]))


# ── decoders of one's own ─────────────────────────────────────────────────────────────────


def _by_function(build: Build, outputs: tuple[TensorSpec, ...]) -> _Step:
    key, known = build.decode.name, tuple(spec.name for spec in outputs)
    if build.decode.outputs:
        raise UsageError(
            f"`decode: {{as: {key}}}` does not read `outputs`: its function gets every output by "
            "name, or the one that `output` names; delete it"
        )
    if build.decode.output is not None and build.decode.output not in known:
        raise UsageError(
            door.unknown("output", build.decode.output, known) + ". Mend `build.decode`"
        )
    function = cast(Decoder, door.look_up(GROUP, {}, key))
    reads = known if build.decode.output is None else (build.decode.output,)

    def run(given: _Outputs) -> dict[str, Array]:
        count = len(next(iter(given.values())))
        own = {name: values.copy() for name, values in given.items()}  # to write into, if it likes
        return _demanded(key, function(own), count)

    return _mending(run, reads)


def _demanded(key: str, given: object, count: int) -> dict[str, Array]:
    """Arrays by role, or the one array under the decoder's own name; (B, …) each.

    Raises:
        EvaluationError: it is none.
    """
    named = given if isinstance(given, Mapping) else {key: given}
    for role, values in named.items():
        what = f"decoder {key!r} gives " + ("" if role == key else f"{role!r} as ")
        wanted = f"a batch of {count} examples needs an array with first axis {count}"
        if not isinstance(values, np.ndarray):
            raise EvaluationError(f"{what}a {type(values).__name__}, and {wanted}")
        if values.shape[:1] != (count,) or values.dtype.kind not in "biufUO":
            raise EvaluationError(f"{what}{values.dtype} {values.shape}, and {wanted}")
    if not named:
        raise EvaluationError(f"decoder {key!r} gives nothing")
    return dict(named)


# ── broken outputs ────────────────────────────────────────────────────────────────────────


def _mending(run: Callable[[_Outputs], dict[str, Array]], reads: tuple[str, ...]) -> _Step:
    """`run` of the outputs in `reads`, examples with NaN or Inf set apart."""

    def step(outputs: _Outputs) -> dict[str, Array]:
        given = _chosen(outputs, reads)
        broken = np.any([_broken(values) for values in given.values()], axis=0)
        whole = {name: _blanked(values, broken, 0) for name, values in given.items()}
        found = run(whole if broken.any() else given)
        return {name: _unknown(values, broken) for name, values in found.items()}

    return step


def _chosen(outputs: _Outputs, reads: tuple[str, ...]) -> dict[str, Array]:
    missing = [name for name in reads if name not in outputs]
    if missing:
        raise EvaluationError(
            f"the model gives no output {missing[0]!r}, only {', '.join(outputs)}; it must have "
            "the outputs of the FP32 model"
        )
    return {name: np.asarray(outputs[name]) for name in reads}


def _broken(values: Array) -> Array:
    """(B,) of bool."""
    if values.dtype.kind != "f":
        return np.zeros(len(values), dtype=bool)
    return np.asarray(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def _blanked(values: Array, broken: Array, blank: Any) -> Array:
    if values.dtype.kind not in "biuf":
        return values
    found = values.copy()
    found[broken] = blank
    return found


def _unknown(values: Array, broken: Array) -> Array:
    """NaN in the place of broken examples, None where there is text."""
    if not broken.any():
        return values
    text = values.dtype.kind in "OU"
    found = values.astype(object if text else np.result_type(values.dtype, np.float32))
    found[broken] = None if text else np.nan
    return found
