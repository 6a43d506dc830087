"""Regression: numbers (B,) or (B, K), held against targets of the same shape.

With errors e = prediction − target over N examples of K values each ::

    rmse               √(mean e²), over all N·K values
    mae                mean |e|
    r2                 1 − Σe² / Σ(t − mean t)² of each of the K values, then their mean
    quantile_loss_<q>  mean of max(p·(t − y), (p − 1)·(t − y)), p = q / 100: the pinball loss

R. Koenker, G. Bassett (1978), "Regression Quantiles", Econometrica 46, for the last. All are
undefined over no examples, and r2 where one of the values does not vary: scikit-learn's 0 or 1
there would be a number made up.

Rows: the mean of e² over K, of |e|, of the pinball loss, one column each; for r2 e² and t, 2 K.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gate.errors import DataError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._summaries import observing, of_mean
from gate.values import Array, Rows, TensorSpec, Values

_LOSS = Traits(higher_is_better=False, high=None)
_QUANTILE = re.compile(r"quantile_loss_([1-9][0-9]?)")
_PERCENT = 100
KNOWN: Mapping[str, Traits] = {
    "rmse": _LOSS,
    "mae": _LOSS,
    "r2": Traits(low=None, undefined="where targets do not vary"),
    "quantile_loss_90": _LOSS,
    **agreement.VALUES,
}
_ASKED = frozenset({"quantile_loss_90"})


class Regression:
    """The task `regression`; see `gate.tasks.Task`."""

    key: str = "regression"
    unit: str = "example"
    decoders: tuple[str, ...] = ("values",)
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric; `quantile_loss_<q>` takes any q from 1 to 99."""
        return _LOSS if _QUANTILE.fullmatch(metric) else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to an output (B,) or (B, K) and targets of that shape; (B, 1) is (B,).

        Raises:
            DataError: shapes differ, or a target is no number; says which example.
            UsageError: the policy names an output or decoder that does not exist.
        """
        binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        sample = np.asarray(first[output])
        binding.demand_floats(output, sample)
        numbers = binding.demand_array(self.key, targets, "a number, or K of them, an example")
        _demand_shapes(output, sample.shape, numbers)
        if numbers is not None:
            _encode(numbers)
        metrics = agreement.telling(binding.labelled(_catalogue(), numbers), sample.shape[1:])
        return BoundTask(
            kind="regression",
            decode=partial(_decode, output=output, shape=sample.shape[1:]),
            metrics={name: m for name, m in metrics.items() if name not in _ASKED},
            metric=partial(_metric, metrics),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:  # noqa: ARG002
        """Metrics of rows observed earlier: rows say all there is to know."""
        return partial(_metric, binding.labelled(_catalogue(), targets))


def _demand_shapes(output: str, raw: tuple[int, ...], targets: Array | None) -> None:
    """Raises DataError where the output has not one number for each target."""
    fits = len(raw) in (1, 2) and raw[1:] != (0,)
    if fits and targets is not None:
        fits = (raw[1:] or (1,)) == (targets.shape[1:] or (1,))
    if not fits:
        given = "" if targets is None else f"targets {binding.told('N', targets.shape)} and "
        raise DataError(
            f"{given}output {output!r} {binding.told('B', raw)} do not fit regression; it takes an "
            "output (B,) or (B, K), and targets of the same shape"
        )


def _decode(outputs: Mapping[str, Array], *, output: str, shape: tuple[int, ...]) -> Array:
    """(B, K) in float64; NaN for an example with any value that is not finite."""
    values = binding.read(outputs, output, shape)
    return binding.where_finite(values.reshape(len(values), *(shape or (1,))), lambda found: found)


def _encode(targets: Array) -> Array:
    """(B, K) in float64."""
    found = binding.numbers(targets, "a number", lambda values: values == values)  # noqa: PLR0124
    return found.reshape(len(found), *(found.shape[1:] or (1,)))


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue() -> list[Metric]:
    mae = of_mean("mae", "absolute", _absolute, bounded=False)
    return [_rmse(), mae, _r2(), _quantile(90), *agreement.of_values()]


def _metric(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    quantile = _QUANTILE.fullmatch(name)
    if quantile and "mae" in metrics:
        return _quantile(int(quantile[1]))
    raise binding.no_metric(name, metrics, TASK.traits(name), "regression")


def _rmse() -> Metric:
    return Metric(
        name="rmse",
        observation="squared",
        observe=observing(lambda y, targets: _mean_of(np.square(y - _encode(targets)))),
        summarize=agreement.defined(lambda values: float(np.sqrt(values.mean()))),
        higher_is_better=False,
        flaws=lambda rows: rows.flat[:, 0] > 0,
    )


def _absolute(y: Array, targets: Array) -> Array:
    return _mean_of(np.abs(y - _encode(targets)))


def _mean_of(errors: Array) -> Array:
    """(B, K) to (B, 1)."""
    return np.asarray(errors.mean(axis=1, keepdims=True))


def _r2() -> Metric:
    def see(y: Array, targets: Array) -> Array:
        truth = _encode(targets)
        return np.hstack([np.square(y - truth), truth])

    return Metric(
        name="r2",
        observation="explained",
        observe=observing(see),
        summarize=agreement.defined(_explained),
        higher_is_better=True,
        flaws=lambda rows: np.any(np.hsplit(rows.flat, 2)[0] > 0, axis=1),
    )


def _explained(values: Array) -> float:
    """Of rows (N, 2 K): squared errors, and targets."""
    errors, truth = np.hsplit(values, 2)
    if (truth == truth[0]).all(axis=0).any():
        return float("nan")
    spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    return float((1 - errors.sum(axis=0) / spread).mean())


def _quantile(percent: int) -> Metric:
    p = percent / _PERCENT

    def see(y: Array, targets: Array) -> Array:
        below = _encode(targets) - y
        return _mean_of(np.maximum(p * below, (p - 1) * below))

    return of_mean(f"quantile_loss_{percent}", f"pinball{percent}", see, bounded=False)


TASK: Task = Regression()
