"""Regression: every metric agrees with scikit-learn, and what does not fit is refused."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, EvaluationError, UsageError
from gate.policy import Build
from gate.values import Rows, TensorSpec

TASK = tasks.get("regression")
RNG = np.random.default_rng(0)
VALUES = st.floats(-1e3, 1e3, width=32)


def bind(targets, first, **decode):
    build = Build(recipe="dynamic", decode={"as": "values", **decode})
    first = np.asarray(first, dtype=np.float32)
    specs = (TensorSpec("y", "float32", (None, *first.shape[1:])),)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), {"y": first})


def value(name, targets, raw):
    bound = bind(targets, raw)
    rows = bound.metric(name).observe(bound.decode({"y": raw}), np.asarray(targets), None)
    return bound.metric(name).summarize(Rows(rows))


@st.composite
def predictions(draw):
    n, k = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    shape = (n,) if k == 1 and draw(st.booleans()) else (n, k)
    return tuple(draw(arrays(np.float32, shape, elements=VALUES)) for _ in range(2))


@settings(max_examples=60, deadline=None)
@given(predictions(), st.integers(1, 99))
def test_it_agrees_with_scikit_learn(pair, percent):
    targets, raw = (side.astype(np.float64) for side in pair)
    close = {"rel": 1e-9, "abs": 1e-9}
    mse = sk.mean_squared_error(targets, raw)
    assert value("rmse", targets, raw) == pytest.approx(math.sqrt(mse), **close)
    assert value("mae", targets, raw) == pytest.approx(
        sk.mean_absolute_error(targets, raw), **close
    )
    pinball = sk.mean_pinball_loss(targets, raw, alpha=percent / 100)
    assert value(f"quantile_loss_{percent}", targets, raw) == pytest.approx(pinball, **close)
    columns = targets.reshape(len(targets), -1)
    if (columns == columns[0]).all(axis=0).any():
        assert math.isnan(value("r2", targets, raw))
    else:
        assert value("r2", targets, raw) == pytest.approx(sk.r2_score(targets, raw), rel=1e-7)


def test_a_column_of_one_is_a_flat_output():
    targets = RNG.normal(size=8)
    assert value("mae", targets, targets[:, None] + 0.5) == pytest.approx(0.5, abs=1e-6)


def test_a_model_that_saturates_at_the_ranges_end_loses():
    """The villain: INT8 whose range ends where a tenth of the targets begin."""
    targets = RNG.normal(0, 10, 500)
    clipped = np.clip(targets, -12, 12)
    assert value("rmse", targets, targets) == 0
    assert value("rmse", targets, clipped) > 1
    assert value("r2", targets, targets) == 1
    assert value("r2", targets, clipped) < 0.99
    bound = bind(targets, targets)
    noise = bound.metric("sqnr").observe(clipped[:, None], targets, targets[:, None])
    assert bound.metric("sqnr").summarize(Rows(noise)) < 20


@pytest.mark.parametrize(
    ("targets", "raw", "message"),
    [
        ((4,), (4, 2), r"targets \(N,\) and output 'y' \(B, 2\) do not fit regression"),
        ((4, 2), (4, 3), r"targets \(N, 2\)"),
        ((4, 2), (4,), r"output 'y' \(B,\)"),
        ((4, 2, 2), (4, 2, 2), r"takes an output \(B,\) or \(B, K\)"),
        ((4, 0), (4, 0), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(targets, raw, message):
    with pytest.raises(DataError, match=message):
        bind(np.zeros(targets), np.zeros(raw))


def test_a_target_that_is_no_number_is_named():
    with pytest.raises(DataError, match=r"target of example 1 \(counting from 0\) is nan"):
        bind([0.0, math.nan], np.zeros(2))
    with pytest.raises(DataError, match=r"target of example 0 .*is 'much'; expected a number"):
        bind(["much", "little"], np.zeros(2))
    assert bind(np.array([1, 2.5], dtype=object), np.zeros(2)).kind == "regression"


def test_metrics_and_decoders_are_asked_by_name():
    bound = bind([0.0, 1.0], np.zeros(2))
    assert list(bound.metrics) == ["rmse", "mae", "r2", "sqnr"]
    pair = bind(np.zeros((2, 2)), np.zeros((2, 2)))
    assert list(pair.metrics) == ["rmse", "mae", "r2", "output_cosine", "sqnr"]
    for targets in ([0.0, 1.0], None):  # the sign of one number tells nothing of INT8
        with pytest.raises(UsageError, match="'output_cosine' does not apply to regression"):
            bind(targets, np.ones((2, 1))).metric("output_cosine")
    with pytest.raises(UsageError, match="unknown metric 'quantile_loss_0'"):
        bound.metric("quantile_loss_0")
    with pytest.raises(UsageError, match="does not read `outputs`: delete it"):
        bind([0.0], [0.0], outputs={"start": "y"})
    with pytest.raises(UsageError, match="'quantile_loss_50' needs labels"):
        bind(None, np.zeros(2)).metric("quantile_loss_50")
    assert TASK.traits("quantile_loss_100") is None
    assert not TASK.traits("quantile_loss_7").higher_is_better


def test_an_int8_model_with_another_output_is_refused():
    with pytest.raises(EvaluationError, match=r"has shape \(B, 2\); expected \(B,\)"):
        bind([0.0], [0.0]).decode({"y": np.zeros((1, 2))})
    build, outputs = Build(recipe="dynamic", decode="values"), (TensorSpec("y", "int64", (None,)),)
    with pytest.raises(DataError, match="holds int64, not floating-point"):
        TASK.bind(build, outputs, None, {"y": np.zeros(2, int)})
