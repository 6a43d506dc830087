"""The error is followed back to who made it; slices and flips are told from the rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import pairs
from support.seen import point, seen

from gate import diagnose
from gate.backends import READINGS
from gate.errors import DataError
from gate.values import Batch


def chain(**changes: Any) -> tuple[Any, ...]:
    return (
        point("x", "Input"),
        point("a", "Conv", "x"),
        point("y", "Gemm", "a", is_output=True, **changes),
    )


def errors(own: float, came: float, whole: float | None = None) -> dict[str, float]:
    return {"own": own, "came": came, "whole": own + came if whole is None else whole}


def shares(found: Any) -> dict[str, float]:
    values = diagnose.shares(found)
    return {p.tensor: float(v) for p, v in zip(found.points, values, strict=True)}


# ── shares ────────────────────────────────────────────────────────────────────────────────


def test_what_came_to_a_layer_is_charged_further_up() -> None:
    readings = {"x": errors(1, 0), "a": errors(3, 1), "y": errors(1, 4)}
    assert shares(seen(readings, *chain())) == pytest.approx(
        {"y": 0.2, "a": 0.8 * 0.75, "x": 0.8 * 0.25}
    )


@given(st.lists(st.tuples(*[st.floats(0, 1e30)] * 2), min_size=4, max_size=4))
@example([(0.0, 0.0), (0.0, 0.0), (0.0, 5e-324), (1.0, 1.0)])
def test_nothing_is_lost_or_made(found: list[tuple[float, float]]) -> None:
    points = (
        point("x", "Input"),
        point("a", "Conv", "x"),
        point("b", "Conv", "x", "a"),
        point("y", "Add", "a", "b", is_output=True),
    )
    readings = {p.tensor: errors(*pair) for p, pair in zip(points, found, strict=True)}
    values = diagnose.shares(seen(readings, *points))
    assert (values >= 0).all()
    assert values.sum() == pytest.approx(1 if sum(found[3]) else 0)


def test_exact_int8_blames_nobody() -> None:
    found = seen({}, *chain())
    assert diagnose.layers(found) == ()
    assert set(shares(found).values()) == {0.0}


def test_layers_that_join_pass_on_energies_and_others_relative_errors() -> None:
    readings = {
        "a": {**errors(1, 0), "signal": 100.0},
        "b": {**errors(1, 0), "signal": 1.0},
        "y": errors(0, 1),
    }
    two = (point("a", "Conv"), point("b", "Conv"))
    join, product = (
        shares(seen(readings, *two, point("y", op, "a", "b", is_output=True)))
        for op in ("Add", "MatMul")
    )
    assert (join["a"], join["b"]) == pytest.approx((0.5, 0.5))
    assert (product["a"], product["b"]) == pytest.approx((1 / 101, 100 / 101))


@pytest.mark.parametrize(("ends", "blamed"), [((0.0, 1.0), "a"), ((0.0, 2.0), "m")])
def test_what_moves_rounded_values_and_rounds_them_alike_loses_nothing(
    ends: tuple[float, float], blamed: str
) -> None:
    """On FP32's own values it would clip as much as the layer before it already has."""
    points = (point("a", "Conv"), point("m", "MaxPool", "a", ends=ends, is_output=True))
    readings = {"a": errors(5, 0), "m": errors(5, 0)}
    assert shares(seen(readings, *points))[blamed] == 1


def test_several_outputs_count_alike() -> None:
    points = (
        point("a", "Conv"),
        point("y", "Gemm", "a", is_output=True),
        point("z", "Gemm", "a", is_output=True),
    )
    readings = {"a": errors(1, 0), "y": errors(1, 0), "z": errors(100, 0)}
    found = shares(seen(readings, *points))
    assert (found["y"], found["z"]) == (0.5, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_nan_is_charged_to_who_made_it(bad: float) -> None:
    readings = {"a": errors(bad, 0), "y": {"own": 1.0, "came": bad, "whole": bad}}
    found = diagnose.layers(seen(readings, *chain()))
    assert found[0].node == "node_a"
    assert found[0].share == pytest.approx(1)
    assert found[0].sqnr is None or np.isfinite(found[0].sqnr)


@pytest.mark.parametrize("signal", [0.0, np.nan, np.inf])
def test_a_signal_that_is_none_gives_a_finite_ranking(signal: float) -> None:
    readings = {"a": {**errors(1, 1), "signal": signal}, "y": errors(1, 1)}
    found = diagnose.layers(seen(readings, *chain()))
    assert sum(one.share for one in found) == pytest.approx(1)


def test_a_layer_is_described() -> None:
    readings = {
        "a": {**errors(1, 0), "rounding": 1.0, "signal": 100.0},
        "y": {**errors(3, 1), "rounding": 1.0},
    }
    y, a = diagnose.layers(seen(readings, *chain()))
    assert (y.node, y.op, y.loses, y.readers) == ("node_y", "Gemm", "weights", ())
    assert (a.node, a.loses, a.readers) == ("node_a", "activations", ("node_y",))
    assert a.own_sqnr == pytest.approx(20)
    assert a.sqnr == pytest.approx(20)


def test_a_model_input_is_named_after_itself() -> None:
    readings = {"x": errors(1, 0), "a": errors(0, 1), "y": errors(0, 1)}
    (found,) = diagnose.layers(seen(readings, *chain()))
    assert (found.node, found.op) == ("x", "Input")


# ── what is seen ──────────────────────────────────────────────────────────────────────────


class Recorded:
    """A probe that says what it was fed."""

    points = (point("x", "Input"),)

    def run(self, feeds: Any) -> tuple[Any, dict[int, Any]]:
        x = feeds["x"]
        return np.full((1, len(READINGS)), x.sum()), {0: np.array([x.max()])}


def batch(*values: float) -> Batch:
    ids = np.arange(len(values)).astype(str)
    return Batch(start=0, ids=ids, feeds={"x": np.array(values)}, targets=None)


def test_sums_add_up_and_shares_of_far_values_are_means() -> None:
    told: list[int] = []
    found = diagnose.observe(Recorded(), [batch(1, 3), batch(10)], progress=told.append)
    assert found.reading("own")[0] == 14
    assert found.reading("far")[0] == pytest.approx((4 * 2 + 10) / 3)
    assert found.peaks[0] == [10]
    assert (found.examples, told) == (3, [2, 1])


def test_without_examples_nothing_can_be_told() -> None:
    with pytest.raises(DataError, match="no examples to diagnose"):
        diagnose.observe(Recorded(), [])


# ── slices and flips ──────────────────────────────────────────────────────────────────────


def test_the_slice_that_loses_is_found() -> None:
    site = np.repeat(["north", "south"], [300, 100])
    fp32 = np.ones(400)
    int8 = np.where((site == "south") & (np.arange(400) % 4 == 0), 0, 1)
    found = diagnose.losing_slices(
        pairs.evaluation(fp32, int8, {"site": site}), pairs.METRICS, seed=0
    )
    (south,) = found.slices
    assert (south.slice, south.n, south.loss, south.rest) == ("site=south", 100, 0.25, 0.0)
    assert south.p < 0.01
    assert (found.lost, found.looked_at) == ("accuracy", 2)


def test_chance_is_not_told() -> None:
    rng = np.random.default_rng(0)
    fp32, int8 = np.ones(400), rng.random(400) > 0.1
    slices = {"site": rng.choice(["north", "south"], 400)}
    found = diagnose.losing_slices(pairs.evaluation(fp32, int8, slices), pairs.METRICS, seed=0)
    assert found.slices == ()
    assert found.looked_at == 2


def test_slices_that_are_too_small_are_named() -> None:
    site = np.array(["north"] * 96 + ["south"] * 4)
    found = diagnose.losing_slices(
        pairs.evaluation(np.ones(100), np.ones(100), {"site": site}), pairs.METRICS, seed=0
    )
    assert any("slice site=south is not compared: 4 examples" in text for text in found.problems)


def test_without_a_share_of_examples_slices_are_not_compared() -> None:
    one = {"log_loss": pairs.LOG_LOSS}
    found = diagnose.losing_slices(pairs.evaluation([1.0], [1.0]), one, seed=0)
    assert found.problems == ("no metric is a share of examples, so slices are not compared",)


def test_flips_are_those_of_the_rows() -> None:
    evaluation = pairs.evaluation([1, 1, 0], [1, 0, 0])
    found = diagnose.flipped(evaluation, pairs.METRICS)
    assert found is not None
    assert found.tolist() == [False, True, False]
    assert diagnose.flipped(evaluation, {"accuracy": pairs.ACCURACY}) is None


def test_a_margin_is_the_fall_of_the_lead() -> None:
    fp32 = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
    int8 = np.array([[0.3, 0.6, 0.1], [0.5, 0.1, 0.4]])
    assert diagnose.margins(fp32, int8) == pytest.approx([0.8, 0.3])
    assert diagnose.margins(np.array([[0.6]]), np.array([[0.4]])) == pytest.approx([0.2])


def test_what_is_as_long_as_a_batch_has_no_channels() -> None:
    class Ragged:
        points = (point("x", "Input"),)

        def run(self, feeds: dict[str, Any]) -> tuple[Any, dict[int, Any]]:
            return np.ones((1, len(READINGS))), {0: np.ones(len(feeds["x"]))}

    batches = [Batch(0, np.arange(n).astype(str), {"x": np.ones(n)}, None) for n in (8, 8, 4)]
    assert diagnose.observe(Ragged(), batches).peaks == {}
