"""How far INT8 agrees with FP32, whatever the labels say: metrics that need none.

Of an example with FP32's values p and INT8's q, both (K,), K being all that was decoded ::

    output_cosine   mean of p·q / (|p| |q|); 1 where both are 0, 0 where one is
    sqnr            10 log10(Σ |p|² / Σ |p − q|²) over all examples, in dB, 150 at the most
    kl_divergence   mean of Σ p ln(p / q), of probabilities clipped to [ε, 1]

The cosine of single numbers is their signs' alone, so there is none where K is 1.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from gate.metrics import Metric, Traits
from gate.tasks._binding import flat
from gate.values import Array, Rows

EPS = float(np.finfo(np.float64).eps)
_MOST_DB = 150.0
"""Where nothing differs: the rounding of float64 itself."""
FLIPS = {"prediction_flips": Traits(proportion=True, relative=True, higher_is_better=False)}
VALUES: Mapping[str, Traits] = {
    "output_cosine": Traits(relative=True, low=-1.0),
    "sqnr": Traits(
        relative=True, low=None, high=_MOST_DB, undefined="where FP32 gives nothing but zeros"
    ),
}
KNOWN: Mapping[str, Traits] = {
    **FLIPS,
    "kl_divergence": Traits(relative=True, higher_is_better=False, high=None),
    **VALUES,
}


def defined(summary: Callable[[Array], float]) -> Callable[[Rows], float]:
    """`summary` of (N, k), but NaN over no rows or any NaN."""

    def summarize(rows: Rows) -> float:
        if len(rows) == 0 or np.isnan(rows.flat).any():
            return float("nan")
        return float(summary(rows.flat))

    return summarize


def mean(values: Array) -> float:
    """Of (N, 1)."""
    return float(values.mean())


def flips(differ: Callable[[Array, Array], Array]) -> Metric:
    """Share of examples that INT8 predicts otherwise than FP32, right or wrong.

    `differ` takes what was decoded of INT8 and of FP32 and gives (B,) of bool. A NaN row counts
    as a flip in `per_example`: what is unknown must not look unchanged.
    """

    def observe(scores: Array, targets: object, reference: Array | None) -> Array:  # noqa: ARG001
        if reference is None:
            return np.zeros((len(scores), 1))
        rows = differ(scores, reference)[:, np.newaxis].astype(np.float64)
        return _unknown(rows, scores, reference)

    return Metric(
        name="prediction_flips",
        observation="flip",
        observe=observe,
        summarize=defined(mean),
        higher_is_better=False,
        per_example=lambda rows: rows.flat[:, 0] != 0,
        relative=True,
    )


def of_values() -> list[Metric]:
    """Those of any numbers: cosine and signal to quantization noise."""
    return [
        Metric(
            name="output_cosine",
            observation="cosine",
            observe=_cosine,
            summarize=defined(mean),
            higher_is_better=True,
            relative=True,
            sway=lambda rows: np.full(len(rows), 2.0),
            flaws=lambda rows: rows.flat[:, 0] < 1,
        ),
        Metric(
            name="sqnr",
            observation="noise",
            observe=_noise,
            summarize=defined(_decibels),
            higher_is_better=True,
            relative=True,
        ),
    ]


def of_probabilities(probabilities: Callable[[Array], Array] = lambda scores: scores) -> Metric:
    """The Kullback–Leibler divergence of INT8's distribution from FP32's.

    `probabilities` makes (B, …, C), last axis a distribution, of what was decoded.
    """

    def observe(scores: Array, targets: object, reference: Array | None) -> Array:  # noqa: ARG001
        if reference is None:
            return np.zeros((len(scores), 1))
        p, q = (np.clip(probabilities(side), EPS, 1.0) for side in (reference, scores))
        found = flat(p * np.log(p / q)).sum(axis=1, keepdims=True)
        return _unknown(found, scores, reference)

    return Metric(
        name="kl_divergence",
        observation="divergence",
        observe=observe,
        summarize=defined(mean),
        higher_is_better=False,
        relative=True,
        flaws=lambda rows: rows.flat[:, 0] != 0,
    )


def telling(metrics: Mapping[str, Metric], shape: tuple[int, ...]) -> dict[str, Metric]:
    """Without the cosine where an example, of `shape`, is one number: any INT8 would pass it."""
    alone = math.prod(shape) == 1
    return {name: m for name, m in metrics.items() if not (alone and name == "output_cosine")}


def _cosine(scores: Array, targets: object, reference: Array | None) -> Array:  # noqa: ARG001
    if reference is None:
        return np.ones((len(scores), 1))
    p, q = (flat(side).astype(np.float64) for side in (reference, scores))
    product = np.sqrt(np.square(p).sum(axis=1) * np.square(q).sum(axis=1))
    alike = np.where(np.all(p == q, axis=1), 1.0, 0.0)
    found = np.divide((p * q).sum(axis=1), product, out=alike.copy(), where=product > 0)
    return _unknown(np.where(alike == 1, 1.0, found)[:, np.newaxis], scores, reference)


def _noise(scores: Array, targets: object, reference: Array | None) -> Array:  # noqa: ARG001
    """(B, 2): the energy of FP32's values, and of what INT8 adds."""
    whole = scores if reference is None else reference
    p, q = (flat(side).astype(np.float64) for side in (whole, scores))
    found = np.stack([np.square(p).sum(axis=1), np.square(p - q).sum(axis=1)], axis=1)
    return _unknown(found, scores, whole)


def _decibels(values: Array) -> float:
    signal, noise = values.sum(axis=0)
    if signal == 0:
        return _MOST_DB if noise == 0 else float("nan")
    return float(-10 * np.log10(max(noise / signal, 10 ** (-_MOST_DB / 10))))


def _unknown(rows: Array, scores: Array, reference: Array) -> Array:
    """NaN where either side is not finite."""
    for side in (scores, reference):
        rows[~np.isfinite(flat(side)).all(axis=1)] = np.nan
    return rows
