"""One streaming pass over the calibration data, from which every method takes its ranges.

The FP32 model runs once. Of each tensor exact extremes and a histogram of fixed size are kept, so
memory does not depend on the number of examples, and no choice of method costs a second pass.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gate import ranges
from gate.errors import DataError, EvaluationError
from gate.histogram import Counter, Histogram
from gate.recipes import Recipe
from gate.sealed import Sealed
from gate.values import Array, Batch, Split
from gate.wording import few

Ranges = dict[str, tuple[float, float]]
Observed = Mapping[str, Histogram]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
BUDGET = 64 << 20
"""Bytes of activations at a time, where one example alone has no more."""
_MOST = 64


# ── the pass ──────────────────────────────────────────────────────────────────────────────


def observe(run: Run, batches: Iterable[Batch], tensors: Sequence[str]) -> dict[str, Histogram]:
    """Histograms of `tensors`, float16 or float32, of any shape, over all `batches`.

    `run` turns feeds into outputs by name, `tensors` among them; a tensor that is a model input
    is taken from the feeds.

    Raises:
        EvaluationError: a tensor is NaN or infinite, with the examples that make it so, or never
            has a value.
        DataError: there are no batches.
    """
    counters = {name: Counter() for name in tensors}
    seen = 0
    for batch, values in _ahead(run, batches):
        seen += len(batch.ids)
        for name, counter in counters.items():
            found = values.get(name)
            if found is not None and not counter.add(found, len(batch.ids)):
                raise EvaluationError(_not_finite(name, found, batch))
    if not seen:
        raise DataError("there are no calibration examples; activation ranges need at least one")
    _check_all_seen(counters, seen)
    return {name: counter.result() for name, counter in counters.items()}


def largest_by_channel(
    run: Run, batches: Iterable[Batch], axes: Mapping[str, int]
) -> dict[str, Array]:
    """(K,) largest absolute value of each channel of every tensor, by the axis of its channels.

    Raises:
        EvaluationError, DataError: as `observe`.
    """
    found: dict[str, Array] = {}
    for name, channels in _by_channel(run, batches, axes):
        largest = np.abs(channels).max(axis=0)
        found[name] = np.maximum(found.get(name, largest), largest)
    return found


def mean_by_channel(
    run: Run, batches: Iterable[Batch], axes: Mapping[str, int]
) -> dict[str, Array]:
    """(K,) mean of each channel of every tensor, by the axis of its channels.

    Raises:
        EvaluationError, DataError: as `observe`.
    """
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for name, channels in _by_channel(run, batches, axes):
        total = channels.sum(axis=0, dtype=np.float64)
        sums[name] = sums.get(name, 0.0) + total
        counts[name] = counts.get(name, 0) + len(channels)
    return {name: total / counts[name] for name, total in sums.items()}


def _by_channel(
    run: Run, batches: Iterable[Batch], axes: Mapping[str, int]
) -> Iterator[tuple[str, Array]]:
    """Each tensor of each batch as (values, K)."""
    seen = 0
    for batch, values in _ahead(run, batches):
        seen += len(batch.ids)
        for name, axis in axes.items():
            array = values[name]
            if not np.isfinite(array).all():
                raise EvaluationError(_not_finite(name, array, batch))
            if array.size:
                channels = np.moveaxis(array, axis, -1)
                yield name, channels.reshape(-1, channels.shape[-1])
    if not seen:
        raise DataError("there are no calibration examples; at least one is needed")


def _ahead(run: Run, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
    """Each batch with its tensors; the model runs on the next one while this one is counted."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        running: tuple[Batch, Future[Mapping[str, Array]]] | None = None
        for batch in batches:
            before, running = running, (batch, pool.submit(run, batch.feeds))
            if before is not None:
                yield before[0], {**before[1].result(), **before[0].feeds}
        if running is not None:
            yield running[0], {**running[1].result(), **running[0].feeds}


def batches(split: Split, *, fixed: int | None, measure: Callable[[Batch], int]) -> Iterator[Batch]:
    """Batches whose activations fit into `BUDGET` bytes, or of the size that the model is fixed to.

    `measure` gives the bytes of a batch's activations; it is asked about the first example.
    """
    if fixed is not None:
        yield from split.batches(fixed)
        return
    if not len(split):
        return
    each = max(1, measure(split.batch(0, 1)))
    yield from split.batches(max(1, min(_MOST, BUDGET // each)))


def _not_finite(name: str, array: Array, batch: Batch) -> str:
    ids = batch.ids
    if array.ndim and len(array) == len(ids):
        ids = ids[~np.isfinite(array.reshape(len(array), -1)).all(axis=1)]
    named = few([repr(str(key)) for key in ids])
    source = "input" if name in batch.feeds else "activation"
    return (
        f"{source} {name!r} is NaN or infinite on calibration example {named}, so it has no "
        "range. Mend those examples, or exclude the nodes around it with `exclude_nodes`"
    )


def _check_all_seen(counters: Mapping[str, Counter], examples: int) -> None:
    missing = [name for name, counter in counters.items() if not counter.seen]
    if missing:
        raise EvaluationError(
            f"tensor {missing[0]!r} had no value on any of {examples} calibration examples, so it "
            "has no range; exclude the nodes around it with `exclude_nodes`"
        )


# ── from what was seen to ranges ──────────────────────────────────────────────────────────


def ranges_of(observed: Observed, recipe: Recipe, sources: Mapping[str, str]) -> Ranges:
    """(low, high) of every tensor of `sources`, by the method that the recipe names.

    `sources` says for each tensor which one was observed in its stead: itself, or one whose range
    is as good.

    Raises:
        ValueError: the recipe takes no ranges.
    """
    if recipe.calibration is None:
        raise ValueError(f"recipe {recipe.name!r} takes no ranges")
    how = {name: recipe.overrides.get(name, recipe.calibration) for name in sources}
    chosen = dict.fromkeys((source, how[name]) for name, source in sources.items())
    found = {
        (source, method): ranges.METHODS[method](
            observed[source], share=recipe.percentile, symmetric=recipe.is_symmetric
        )
        for source, method in chosen
    }
    return {name: found[source, how[name]] for name, source in sources.items()}


# ── what was seen before ──────────────────────────────────────────────────────────────────


class Cache:
    """What earlier passes saw, in a folder, under a hash of all that it depends on."""

    def __init__(self, folder: Path) -> None:
        """The folder need not exist."""
        self._files = Sealed(folder, ".ranges")

    def load(self, key: Mapping[str, Any]) -> dict[str, Histogram] | None:
        """What was seen under this key; None where there is nothing that can be trusted."""
        payload = self._files.load(_whole(key))
        return None if payload is None else _unpacked(payload)

    def save(self, key: Mapping[str, Any], observed: Observed) -> bool:
        """Keep it; False where the folder cannot be written."""
        return self._files.save(_whole(key), _packed(observed))


_FORMAT = 2
"""Of the files, and of what is counted in them."""
_FLOATS = ("low", "high", "mean_low", "mean_high")


def _whole(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, **key}


def _packed(observed: Observed) -> bytes:
    found = list(observed.values())
    ends = [(one.exponent, one.first, len(one.counts)) for one in found]
    out = BytesIO()
    np.savez_compressed(
        out,
        names=np.frombuffer(json.dumps(list(observed)).encode(), dtype=np.uint8),
        floats=np.array([[getattr(one, name) for name in _FLOATS] for one in found]),
        bins=np.array(ends, dtype=np.int64).reshape(-1, 3),
        counts=np.concatenate([np.zeros(0, dtype=np.int64), *(one.counts for one in found)]),
    )
    return out.getvalue()


def _unpacked(payload: bytes) -> dict[str, Histogram] | None:
    """None where it holds anything but histograms."""
    parts = ("names", "floats", "bins", "counts")
    try:
        with np.load(BytesIO(payload), allow_pickle=False) as archive:
            names, floats, bins, counts = (archive[part] for part in parts)
        return _histograms(json.loads(names.tobytes()), floats, bins, counts)
    except (ValueError, KeyError, TypeError, EOFError, OSError, BadZipFile):
        return None


def _histograms(
    names: list[str], floats: Array, bins: Array, counts: Array
) -> dict[str, Histogram]:
    if not (np.isfinite(floats).all() and (counts >= 0).all()):
        raise ValueError("no counts of finite values")
    parts = np.split(counts, np.cumsum(bins[:, 2]))
    rows = zip(names, floats.tolist(), bins.tolist(), parts, strict=False)
    return {
        name: Histogram(
            **dict(zip(_FLOATS, values, strict=True)),
            exponent=exponent,
            first=first,
            counts=mine,
        )
        for name, values, (exponent, first, _), mine in rows
    }
