"""Evaluations with a known 2 × 2 table, and metrics to read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gate.metrics import Metric
from gate.values import Evaluation, Rows


def _unused(scores: Any, targets: Any, reference: Any) -> Any:
    raise AssertionError("rows are given, nothing is observed")


def _share(rows: Rows) -> float:
    return float(np.mean(rows.values)) if len(rows) else float("nan")


ACCURACY = Metric(
    name="accuracy",
    observation="label",
    observe=_unused,
    summarize=_share,
    higher_is_better=True,
    per_example=lambda rows: rows.values[:, 0] == 1,
)
ERROR_RATE = Metric(
    name="error_rate",
    observation="wrong",
    observe=_unused,
    summarize=_share,
    higher_is_better=False,
    per_example=lambda rows: rows.values[:, 0] == 1,
)
FLIPS = Metric(
    name="prediction_flips",
    observation="flip",
    observe=_unused,
    summarize=_share,
    higher_is_better=False,
    per_example=lambda rows: rows.values[:, 0] != 0,
    relative=True,
)
LOG_LOSS = Metric(
    name="log_loss",
    observation="loss",
    observe=_unused,
    summarize=_share,
    higher_is_better=False,
)
METRICS = {metric.name: metric for metric in (ACCURACY, ERROR_RATE, FLIPS, LOG_LOSS)}


def table(both: int, lost: int, gained: int, wrong: int) -> tuple[Any, Any]:
    """(FP32 right, INT8 right), (N,) each of 0 and 1."""
    sizes = (both, lost, gained, wrong)
    return np.repeat([1.0, 1.0, 0.0, 0.0], sizes), np.repeat([1.0, 0.0, 1.0, 0.0], sizes)


def evaluation(
    fp32: Any, int8: Any, slices: Mapping[str, Any] | None = None, **changes: Any
) -> Evaluation:
    """Rows of accuracy, error rate, flips and log loss from who is right where."""
    old, new = np.asarray(fp32, dtype=float), np.asarray(int8, dtype=float)
    n = len(old)
    fields: dict[str, Any] = {
        "ids": np.array([f"id{index}" for index in range(n)]),
        "targets": np.zeros(n, dtype=np.int64),
        "slices": {name: np.asarray(values) for name, values in (slices or {}).items()},
        "unit": None,
        "fp32": _rows(old, np.zeros(n)),
        "int8": _rows(new, np.where(np.isnan(new), np.nan, old != new)),
    }
    return Evaluation(**(fields | changes))


def _rows(right: Any, flipped: Any) -> dict[str, Rows]:
    columns = {"label": right, "wrong": 1 - right, "flip": flipped, "loss": 1 - 0.5 * right}
    return {name: Rows(values[:, np.newaxis]) for name, values in columns.items()}
