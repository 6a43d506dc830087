"""Which layers cost the accuracy, and why: one paired pass of FP32 and INT8.

At every tensor that both models have, the probe gives the squares of three differences, summed over
examples: E of INT8 against FP32, O of what the layer before it loses on FP32's own inputs, and C of
what came to it from further up. The error at a tensor is the sum of the latter two, whose energies
add up where they do not correlate, as rounding errors do.

So the error at the outputs is followed back: of the responsibility R of a tensor the share
O / (O + C) is its layer's, and the rest goes to what the layer reads, in proportion to the error
there (relative to the signal, unless the layer adds or joins). Responsibility is never lost or
made: the shares of all layers sum to 1. One pass ranks all layers, and no labels are needed.

What only moves values and rounds them as they were rounded before loses nothing, though it would on
FP32's own: all of its responsibility goes to what it reads.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from gate.backends import READINGS, Probe
from gate.causes import ADDING, Seen, by_rounding, cause
from gate.diagnosis import Diagnosis, LayerError, SliceLoss
from gate.errors import DataError
from gate.metrics import Metric
from gate.statistics import slices
from gate.values import Array, Batch, Evaluation

_MOVING = frozenset(
    {"Concat", "Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
"""Operators that give values which they were given, or 0."""
_SURE = 0.05
"""p up to which a slice is said to lose more."""
_SHOWN_DB = 200.0
"""Signal-to-noise ratios beyond are as good as exact."""


def observe(
    probe: Probe, batches: Iterable[Batch], *, progress: Callable[[int], None] = lambda _: None
) -> Seen:
    """Run FP32 and INT8 side by side; memory does not grow with the number of examples.

    Raises:
        DataError: there are no examples.
        EvaluationError: a model fails.
    """
    far = READINGS.index("far")
    sums, examples = np.zeros((len(probe.points), len(READINGS))), 0
    peaks: dict[int, Array] = {}
    ragged: set[int] = set()
    for batch in batches:
        found, largest = probe.run(batch.feeds)
        found[:, far] *= len(batch.ids)
        sums += found
        examples += len(batch.ids)
        for place, channels in largest.items():
            before = peaks.get(place, channels)
            if before.shape != channels.shape:  # no channels, but what a batch or a text is long
                ragged.add(place)
                continue
            peaks[place] = np.maximum(before, channels)
        progress(len(batch.ids))
    if not examples:
        raise DataError("there are no examples to diagnose the layers on; give at least one")
    sums[:, far] /= examples
    kept = {place: peak for place, peak in peaks.items() if place not in ragged}
    return Seen(probe.points, sums, kept, examples)


# ── who is to blame ───────────────────────────────────────────────────────────────────────


def layers(seen: Seen) -> tuple[LayerError, ...]:
    """Every layer that loses something, the one that costs most first."""
    blame = shares(seen)
    own, whole = _decibels(seen, "own"), _decibels(seen, "whole")
    found = [
        LayerError(
            node=point.node or point.tensor,
            op=point.op or "Input",
            tensor=point.tensor,
            readers=tuple(p.node for p in seen.points if point.tensor in p.sources and p.node),
            loses="activations" if by_rounding(seen, place) else "weights",
            share=float(blame[place]),
            own_sqnr=own[place],
            sqnr=whole[place],
            cause=cause(seen, place),
        )
        for place, point in enumerate(seen.points)
        if blame[place] > 0
    ]
    return tuple(sorted(found, key=lambda layer: (-layer.share, layer.node)))


def shares(seen: Seen) -> Array:
    """(P,) of the error at the outputs, summing to 1; all 0 where there is no error."""
    own, came, whole = (_energy(seen.reading(name)) for name in ("own", "came", "whole"))
    signal = np.maximum(np.nan_to_num(seen.reading("signal"), posinf=_MOST), 1 / _MOST)
    places = {point.tensor: place for place, point in enumerate(seen.points)}
    outputs = [p for p, point in enumerate(seen.points) if point.is_output and whole[p] > 0]
    held, kept = np.zeros(len(whole)), np.zeros(len(whole))
    held[outputs] = 1 / max(1, len(outputs))
    for place in reversed(range(len(whole))):
        point, here = seen.points[place], held[place]
        sources = [places[name] for name in point.sources]
        errors = whole[sources] if point.op in ADDING else whole[sources] / signal[sources]
        passed = 0.0
        if errors.sum() > 0 and here > 0:
            passed = _passed(seen, place, float(own[place]), float(came[place]))
            held[sources] += here * passed * (errors / errors.sum())  # the tiniest is not lost
        kept[place] = here * (1 - passed)
    return kept


def _passed(seen: Seen, place: int, own: float, came: float) -> float:
    """The share of a layer's responsibility that is not its own."""
    if not np.isfinite(seen.reading("own")[place]):  # where it makes NaN, all that came is NaN, too
        return 0.0
    if _only_moves(seen, place):
        return 1.0
    return came / (own + came) if own + came > 0 else 0.0


def _only_moves(seen: Seen, place: int) -> bool:
    """Whether it gives values that lie on its integers already."""
    point = seen.points[place]
    ends = {one.ends for one in seen.points if one.tensor in point.sources}
    return point.op in _MOVING and point.ends is not None and ends == {point.ends}


_MOST = 1e100
"""Energies beyond are as good as infinite, and can still be divided by one another."""


def _energy(values: Array) -> Array:
    """What is NaN or infinite is more than all else together, and still a number."""
    finite = np.minimum(values[np.isfinite(values)], _MOST)
    most = min(_MOST, 1e6 * max(1.0, float(finite.sum())))
    return np.asarray(np.minimum(np.nan_to_num(values, nan=most, posinf=most), _MOST))


def _decibels(seen: Seen, name: str) -> list[float | None]:
    """Signal-to-quantization-noise ratios, 10 log10(signal / error); None where INT8 is exact."""
    errors, signal = _energy(seen.reading(name)), np.nan_to_num(seen.reading("signal"))
    found: list[float | None] = []
    for error, power in zip(errors.tolist(), signal.tolist(), strict=True):
        ratio = 10 * math.log10(max(power, 1e-300) / error) if error > 0 else math.inf
        found.append(None if ratio > _SHOWN_DB else max(ratio, -_SHOWN_DB))
    return found


# ── which examples ────────────────────────────────────────────────────────────────────────


def losing_slices(evaluation: Evaluation, metrics: Mapping[str, Metric], *, seed: int) -> Diagnosis:
    """Slices that lose more than the rest, beyond what looking at all of them turns up by chance.

    A loss is what INT8 gets wrong and FP32 got right, less the other way about.
    """
    metric = next((one for one in metrics.values() if one.is_proportion), None)
    if metric is None or metric.per_example is None:
        return Diagnosis(problems=("no metric is a share of examples, so slices are not compared",))
    fp32, int8 = (
        np.asarray(metric.per_example(side[metric.observation]), dtype=float)
        for side in (evaluation.fp32, evaluation.int8)
    )
    losses, columns = metric.worse(fp32, int8), evaluation.slices
    found = slices.excesses(losses, columns, unit=evaluation.unit, seed=seed)
    left = slices.untested(columns, unit=evaluation.unit)
    return Diagnosis(
        lost=metric.name,
        slices=tuple(
            SliceLoss(slice=f"{e.column}={e.value}", n=e.n, loss=e.mean, rest=e.rest, p=e.p)
            for e in found
            if e.p <= _SURE
        ),
        looked_at=len(found),
        problems=tuple(
            f"slice {one.column}{'' if one.value is None else f'={one.value}'} is not compared: "
            f"{one.why}"
            for one in left
        ),
    )


def flipped(evaluation: Evaluation, metrics: Mapping[str, Metric]) -> Array | None:
    """(N,) of bool: examples whose prediction INT8 changed; None where the task has none."""
    metric = metrics.get("prediction_flips")
    if metric is None or metric.per_example is None:
        return None
    return np.asarray(metric.per_example(evaluation.int8[metric.observation]), dtype=bool)


def margins(fp32: Array, int8: Array) -> Array:
    """(B,) by how much the score of FP32's class over that of INT8's fell, of scores (B, C).

    Where a threshold was crossed and not another class, the largest change of a score.
    """
    rows, before, after = np.arange(len(fp32)), fp32.argmax(axis=1), int8.argmax(axis=1)
    leads = (scores[rows, before] - scores[rows, after] for scores in (fp32, int8))
    same = np.abs(fp32 - int8).max(axis=1)
    return np.asarray(np.where(before == after, same, next(leads) - next(leads)))
