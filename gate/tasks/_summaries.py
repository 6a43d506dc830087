"""Metrics of the forms that most tasks share: a mean over examples, a share of a total.

An example whose decoded values are not finite has NaN rows, and a summary over any NaN, or over
no rows, is NaN.
"""

from collections.abc import Callable

import numpy as np

from gate.metrics import Metric, Observe
from gate.tasks._agreement import defined, mean
from gate.tasks._binding import flat
from gate.values import Array, Rows

See = Callable[[Array, Array], Array]
"""What was decoded (B, …) and targets as the data hold them -> rows (B, k)."""
Change = Callable[[Array, Array, Array | None], Array]
"""INT8's and FP32's decoded values (B, …), and targets or None -> rows (B, k)."""


def observing(see: See) -> Observe:
    """Rows of one model, in float64, NaN where what was decoded is not finite."""

    def observe(scores: Array, targets: Array, reference: Array | None) -> Array:  # noqa: ARG001
        return _blanked(see(scores, targets), scores)

    return observe


def comparing(change: Change) -> Observe:
    """Rows of INT8 beside FP32; FP32 is compared with itself."""

    def observe(scores: Array, targets: Array | None, reference: Array | None) -> Array:
        other = scores if reference is None else reference
        return _blanked(change(scores, other, targets), scores, other)

    return observe


def _blanked(rows: Array, *sides: Array) -> Array:
    found = rows.astype(np.float64)
    for side in sides:
        found[~np.isfinite(flat(side)).all(axis=1)] = np.nan
    return found


def of_mean(name: str, observation: str, see: See, *, bounded: bool = True) -> Metric:
    """The mean of one value an example, from `see` (B, 1); in 0..1 and better high if `bounded`.

    Otherwise it is a loss without an upper end, 0 at the best.
    """
    if not bounded:
        return Metric(
            name=name,
            observation=observation,
            observe=observing(see),
            summarize=defined(mean),
            higher_is_better=False,
            flaws=lambda rows: rows.flat[:, 0] > 0,
        )
    return Metric(
        name=name,
        observation=observation,
        observe=observing(see),
        summarize=defined(mean),
        higher_is_better=True,
        sway=lambda rows: np.maximum(rows.flat[:, 0], 1 - rows.flat[:, 0]),
        flaws=lambda rows: rows.flat[:, 0] < 1,
    )


def of_share(name: str, observation: str, see: See, columns: tuple[int, int] = (0, 1)) -> Metric:
    """Σ part / Σ total over all examples, better high; `columns` of the rows hold the two.

    Undefined where the total is 0.
    """
    part, total = columns
    return Metric(
        name=name,
        observation=observation,
        observe=observing(see),
        summarize=defined(lambda values: _share(values[:, part], values[:, total])),
        higher_is_better=True,
        sway=lambda rows: _weights(rows, total),
        flaws=lambda rows: rows.flat[:, part] < rows.flat[:, total],
        sees=lambda rows: rows.flat[:, [part, total]],
    )


def of_changes(name: str, observation: str, change: Change) -> Metric:
    """Share of parts of examples (pixels, tokens) that INT8 predicts otherwise than FP32.

    Rows are (changed, total) an example; undefined where there are no parts.
    """
    return Metric(
        name=name,
        observation=observation,
        observe=comparing(change),
        summarize=defined(lambda values: _share(values[:, 0], values[:, 1])),
        higher_is_better=False,
        relative=True,
        sway=lambda rows: _weights(rows, 1),
        flaws=lambda rows: rows.flat[:, 0] > 0,
    )


def of_example_changes(change: Change) -> Metric:
    """`prediction_flips` where targets say what of an example counts; `change` gives (B, 1)."""
    return Metric(
        name="prediction_flips",
        observation="flip",
        observe=comparing(change),
        summarize=defined(mean),
        higher_is_better=False,
        # a NaN row counts: what is unknown must not look unchanged
        per_example=lambda rows: rows.flat[:, 0] != 0,
        relative=True,
    )


def _share(part: Array, total: Array) -> float:
    whole = float(total.sum())
    return float(part.sum()) / whole if whole else float("nan")


def _weights(rows: Rows, column: int) -> Array:
    """(N,) an example's share of the total, times N."""
    totals = rows.flat[:, column]
    return np.asarray(len(totals) * totals / max(float(totals.sum()), 1.0))


def ratio(part: float, whole: float) -> float:
    """0 where `whole` is 0, as scikit-learn and seqeval have it."""
    return float(part / whole) if whole else 0.0
