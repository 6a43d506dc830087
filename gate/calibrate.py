"""One streaming pass over the calibration data: the exact range of every tensor."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from gate.errors import DataError, EvaluationError
from gate.records import Array, Batch

Ranges = dict[str, tuple[float, float]]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
_NAMED = 5
"""Examples that a message names."""


def calibrate(run: Run, batches: Iterable[Batch], tensors: Sequence[str]) -> Ranges:
    """Smallest and largest value of each of `tensors` over all `batches`, as (low, high).

    `run` turns feeds into outputs by name, `tensors` among them; a tensor that is a model input
    is taken from the feeds. One batch is held at a time, so memory does not grow with the data.

    Raises:
        EvaluationError: a tensor is NaN or infinite, with the examples that make it so, or never
            has a value.
        DataError: there are no batches.
    """
    ranges: Ranges = {}
    seen = 0
    for batch in batches:
        seen += len(batch.ids)
        values = {**run(batch.feeds), **batch.feeds}
        for name in tensors:
            _widen(ranges, name, values, batch)
    if not seen:
        raise DataError("there are no calibration examples; activation ranges need at least one")
    _check_all_seen(ranges, tensors, seen)
    return ranges


def _widen(ranges: Ranges, name: str, values: Mapping[str, Array], batch: Batch) -> None:
    if name not in values or values[name].size == 0:
        return
    array = values[name]
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise EvaluationError(_not_finite(name, array, batch))
    before = ranges.get(name, (low, high))
    ranges[name] = (min(before[0], low), max(before[1], high))


def _not_finite(name: str, array: Array, batch: Batch) -> str:
    ids = batch.ids
    if array.ndim and len(array) == len(ids):
        ids = ids[~np.isfinite(array.reshape(len(array), -1)).all(axis=1)]
    named = ", ".join(repr(str(key)) for key in ids[:_NAMED])
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    source = "input" if name in batch.feeds else "activation"
    return (
        f"{source} {name!r} is NaN or infinite on calibration example {named}{more}, so it has no "
        "range. Mend those examples, or exclude the nodes around it with `exclude_nodes`"
    )


def _check_all_seen(ranges: Ranges, tensors: Sequence[str], examples: int) -> None:
    missing = [name for name in tensors if name not in ranges]
    if missing:
        raise EvaluationError(
            f"tensor {missing[0]!r} had no value on any of {examples} calibration examples, so it "
            "has no range; exclude the nodes around it with `exclude_nodes`"
        )
