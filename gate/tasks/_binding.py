"""What every task does when it is fitted to a model and data: choose outputs, read them, say no.

Private to the tasks. Shapes are told as `(N, …)` for targets and `(B, …)` for outputs.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gate import door
from gate.errors import DataError, EvaluationError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.values import Array, Ragged, TensorSpec, Values

# ── outputs ───────────────────────────────────────────────────────────────────────────────


def decoder(task: str, build: Build, known: tuple[str, ...], used: Iterable[str]) -> str:
    """The decoder that the policy names; `used` are the fields of `build.decode` that it reads.

    Raises:
        UsageError: the task has no such decoder, or a field is given that it does not read.
    """
    asked = build.decode
    if asked.name not in known:
        raise UsageError(door.unknown("decoder", asked.name, known))
    for name, field in type(asked).model_fields.items():
        given = getattr(asked, name) != field.get_default(call_default_factory=True)
        if given and name not in {"name", *used}:
            raise UsageError(
                f"`decode: {{as: {asked.name}}}` of {task} does not read `{name}`: delete it"
            )
    return asked.name


def only_output(build: Build, outputs: tuple[TensorSpec, ...]) -> str:
    """The name of the one output that is read.

    Raises:
        UsageError: the policy names none that exists, or none where there are several.
    """
    names = tuple(spec.name for spec in outputs)
    chosen = build.decode.output
    if chosen is not None and chosen not in names:
        raise UsageError(door.unknown("output", chosen, names) + ". Mend `build.decode`")
    if chosen is None and len(names) != 1:
        raise UsageError(
            f"the model has {len(names)} outputs ({', '.join(names)}): say in `build` which one "
            f"to read, `decode: {{as: {build.decode.name}, output: NAME}}`"
        )
    return chosen or names[0]


def outputs_by_role(
    build: Build, outputs: tuple[TensorSpec, ...], roles: tuple[str, ...]
) -> dict[str, str]:
    """Role to output name, for a decoder that reads several; all of `roles` are there.

    Outputs that are called like the roles need not be named.

    Raises:
        UsageError: `decode.outputs` names other roles, one output twice, or one that is not there.
    """
    names = tuple(spec.name for spec in outputs)
    given = dict(build.decode.outputs)
    if not given and {*roles} <= {*names}:
        given = {role: role for role in roles}
    if set(given) != set(roles) or len(set(given.values())) != len(roles):
        wanted = ", ".join(f"{role}: NAME" for role in roles)
        raise UsageError(
            f"`decode: {{as: {build.decode.name}}}` reads {len(roles)} different outputs; write "
            f"`outputs: {{{wanted}}}` with names of the model's, which are {', '.join(names)}"
        )
    for name in given.values():
        if name not in names:
            raise UsageError(door.unknown("output", name, names) + ". Mend `build.decode.outputs`")
    return {role: given[role] for role in roles}


def demand_floats(output: str, sample: Array) -> None:
    """Raises DataError where an output holds no floating-point numbers."""
    if not np.issubdtype(sample.dtype, np.floating):
        raise DataError(
            f"output {output!r} holds {sample.dtype}, not floating-point scores; name the output "
            "with logits or probabilities: `decode: {as: …, output: NAME}`"
        )


def read(outputs: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """One output (B, *shape) in float64; `shape` is that of FP32's first batch.

    Raises:
        EvaluationError: the output is missing, or of another shape than FP32's.
    """
    if name not in outputs:
        raise EvaluationError(
            f"the model gives no output {name!r}, only {', '.join(outputs)}; it must have the "
            "outputs of the FP32 model"
        )
    raw = np.asarray(outputs[name])
    if raw.shape[1:] != shape:
        raise EvaluationError(
            f"output {name!r} has shape {told('B', raw.shape)}; expected "
            f"{told('B', (0, *shape))} as in FP32's first batch"
        )
    return raw.astype(np.float64)


def where_finite(values: Array, decode: Callable[[Array], Array]) -> Array:
    """`decode` of (B, …) in float64, entries that are not finite being NaN in what it gives."""
    sound = np.asarray(np.isfinite(flat(values)).all(axis=1))
    found = decode(_masked(values, sound, 0.0))
    return _masked(found.astype(np.float64), sound, np.nan)


def flat(values: Array) -> Array:
    """(B, …) as (B, K), also where B or K is 0."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _masked(values: Array, kept: Array, other: float) -> Array:
    return np.where(kept.reshape(-1, *(1,) * (values.ndim - 1)), values, other)


def told(first: str, shape: tuple[int, ...]) -> str:
    """A shape as text, its first axis named `first`."""
    if not shape:
        return "()"
    rest = ", ".join(str(size) for size in shape[1:])
    return f"({first}, {rest})" if rest else f"({first},)"


# ── targets ───────────────────────────────────────────────────────────────────────────────


def demand_array(task: str, targets: Values | None, takes: str) -> Array | None:
    """Targets that are no rows of any number; `takes` says what a task's targets are.

    Raises:
        DataError: they are ragged.
    """
    if isinstance(targets, Ragged):
        raise DataError(
            f"targets have any number of rows an example; {task} takes {takes}: is this another "
            "task's data?"
        )
    return targets


def numbers_if_all(targets: Array) -> Array:
    """A column of Python numbers as an array of them; any other column as it is."""
    if targets.dtype == object and all(
        isinstance(value, bool | int | float | np.number) for value in targets.flat
    ):
        return targets.astype(np.float64)
    return targets


def numbers(
    targets: Array, expected: str, sound: Callable[[Array], Array], part: str = "label"
) -> Array:
    """Targets in float64, each of them `sound`, elementwise; `part` names their second axis.

    Raises:
        DataError: one is not; the message names the first, and what was `expected`.
    """
    values = numbers_if_all(targets)
    if values.dtype.kind not in "biuf":
        every = np.ones(targets.shape, dtype=bool)
        raise wrong_target(targets, every, f"expected {expected}", part)
    values = values.astype(np.float64)
    good = np.isfinite(values) & sound(values)
    if not good.all():
        raise wrong_target(targets, ~good, f"expected {expected}", part)
    return values


def wrong_target(targets: Array, wrong: Array, expected: str, part: str = "label") -> DataError:
    """The error that names the first of `wrong`, (N, …) of bool with one True or more."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.size else (0,)
    value: Any = targets[place] if wrong.size else None
    shown = value.item() if isinstance(value, np.generic) else value
    where = "".join(f", {part} {at}," for at in place[1:2])
    if len(place) > 2:  # noqa: PLR2004
        where = f", at {place[1:]},"
    return DataError(
        f"target of example {place[0]} (counting from 0){where} is {shown!r}; {expected}. "
        "Mend the targets, or the example"
    )


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def labelled(metrics: Iterable[Metric], targets: object | None) -> dict[str, Metric]:
    """Metrics by name; without targets those that compare INT8 with FP32 in itself."""
    return {m.name: m for m in metrics if targets is not None or m.relative}


def no_metric(
    name: str, metrics: Mapping[str, Metric], traits: Traits | None, what: str
) -> UsageError:
    """Why `name` is none of `metrics`; `traits` are None where no task's metric has that name.

    `what` says what was bound: "regression", "embedding by pairs".
    """
    if traits is None:
        return UsageError(door.unknown("metric", name, tuple(metrics)))
    if not traits.relative and all(metric.relative for metric in metrics.values()):
        return needs_labels(name, metrics)
    return UsageError(
        f"metric {name!r} does not apply to {what}; those that do: {', '.join(metrics)}"
    )


def needs_labels(name: str, metrics: Mapping[str, Metric]) -> UsageError:
    """Where there are no targets."""
    return UsageError(
        f"metric {name!r} needs labels, and the data have no column 'target': add them, or "
        f"hold INT8 to FP32 alone, e.g. by {next(iter(metrics), 'prediction_flips')}"
    )
