"""A cause is told where the readings show it, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from support.seen import point, seen

from gate.causes import cause
from gate.diagnosis import Cause

ROUNDED = {"own": 1.0, "rounding": 1.0, "far": 0.5}
WEIGHTS = {"own": 1.0, "rounding": 0.1, "far": 0.5}
EVEN = np.ones(8)
OUTLIER = np.array([1.0] * 7 + [50.0])


def inner(op: str = "Conv", **changes: Any) -> tuple[Any, ...]:
    """x -> before -> t, which is neither first nor last."""
    return point("x", "Input"), point("before", "Conv", "x"), point("t", op, "before", **changes)


def of(readings: dict[str, float], *points: Any, **peaks: Any) -> Cause | None:
    return cause(seen({"t": readings}, *points, peaks=peaks), len(points) - 1)


def name(found: Cause | None) -> str | None:
    return None if found is None else found.name


def test_clipping() -> None:
    found = of({**ROUNDED, "clipped": 0.9}, *inner(), t=EVEN * 4)
    assert found == Cause(
        name="saturation",
        detail="the integers end at 0 and 1 and values reach 4, and 90 % of the rounding error is "
        "what is cut off",
    )


@pytest.mark.parametrize("readings", [{"clipped": 0.4}, {"clipped": np.nan}, {"rounding": np.nan}])
def test_little_clipping_or_nan_is_no_saturation(readings: dict[str, float]) -> None:
    assert of({**ROUNDED, **readings}, *inner(), t=EVEN) is None


def test_a_layer_that_stays_in_floating_point_saturates_nothing() -> None:
    assert of({**ROUNDED, "clipped": 1.0}, *inner(ends=None)) is None


def test_a_channel_out_of_range() -> None:
    found = of(ROUNDED, *inner(), t=OUTLIER)
    assert found is not None
    assert found.name == "range outlier"
    assert found.detail.startswith("channel 7 of t reaches 50 and the median channel 1, and one")


@pytest.mark.parametrize("peaks", [EVEN, EVEN * 0, [1.0, 50.0], [1.0, np.nan, 50.0, 1.0]])
def test_channels_that_tell_nothing(peaks: Any) -> None:
    assert of(ROUNDED, *inner(), t=peaks) is None


@pytest.mark.parametrize(
    ("far", "said"),
    [(0.0005, "99.95 % of the values lie"), (0.0, "all values seen here lie"), (0.01, None)],
)
def test_values_out_of_range(far: float, said: str | None) -> None:
    found = of({**ROUNDED, "far": far}, *inner(), t=EVEN)
    assert (None if found is None else found.detail.split(" within")[0]) == said


@pytest.mark.parametrize("op", ["Concat", "Add"])
@pytest.mark.parametrize(("wide", "expected"), [(8.0, "unequal inputs"), (7.0, None)])
def test_a_join_of_unequal_ranges(op: str, wide: float, expected: str | None) -> None:
    points = (
        point("a", ends=(-wide, 0.0)),
        point("b", ends=(0.0, 1.0)),
        point("t", op, "a", "b"),
    )
    found = of(ROUNDED, *points)
    assert name(found) == expected
    if found is not None:
        assert found.detail.startswith("it joins a (up to 8) with b (up to 1), and one scale")


@pytest.mark.parametrize(
    ("weights", "scales", "expected"),
    [
        ([1.0, 1.0, 50.0], 1, "unequal channels"),
        ([0.0, 0.0, 50.0], 1, "unequal channels"),
        ([1.0, 1.0, 50.0], 3, None),
        ([1.0, 1.0, 2.0], 1, None),
        ([0.0, 0.0, 0.0], 1, None),
        ([50.0], 1, None),
    ],
)
def test_weights_of_unequal_channels(
    weights: list[float], scales: int, expected: str | None
) -> None:
    found = of(WEIGHTS, *inner(weights=np.array(weights), scales=scales))
    assert name(found) == expected


def test_weights_that_meet_a_large_channel() -> None:
    points = inner(weights=EVEN, scales=8)
    found = of(WEIGHTS, *points, before=OUTLIER)
    assert found is not None
    assert found.name == "unequal channels"
    assert found.detail == (
        "channel 7 of before reaches 50 and the median channel 1, which multiplies what rounding "
        "its weights loses"
    )
    assert of(WEIGHTS, *points, before=EVEN) is None


def test_a_channel_without_weights_is_no_cause() -> None:
    """The quantizer widens its scale until the bias fits: nothing is lost."""
    assert of(WEIGHTS, *inner(weights=np.array([1.0, 1e-9, 1.0]), scales=3)) is None


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ((point("p", "Softmax"), point("m", "MatMul", "p"), point("t", "Add", "m")), True),
        ((point("n", "LayerNormalization"), point("m", "Conv"), point("t", "Mul", "m")), True),
        ((point("p", "Softmax"), point("m", "Conv", "p"), point("t", "Add", "m")), False),
        ((point("p", "Softmax"), point("m", "MatMul", "p"), point("t", "MatMul", "m")), False),
    ],
)
def test_delicate_operators_are_those_of_transformers(
    points: tuple[Any, ...], expected: bool
) -> None:
    assert (name(of(ROUNDED, *points)) == "delicate operator") == expected


@pytest.mark.parametrize(("groups", "expected"), [(8, "depthwise"), (4, None), (1, None)])
def test_depthwise_convolutions(groups: int, expected: str | None) -> None:
    found = of(WEIGHTS, *inner(weights=EVEN, scales=8, groups=groups))
    assert name(found) == expected


def test_ends_of_the_model() -> None:
    weights: dict[str, Any] = {"weights": EVEN, "scales": 8}
    first = of(WEIGHTS, point("x", "Input"), point("t", "Conv", "x", **weights))
    last = of(WEIGHTS, *inner(is_output=True, **weights))
    assert (name(first), name(last)) == ("first layer", "last layer")
    assert of(ROUNDED, point("x", "Input"), point("t", "Reshape", "x")) is None


def test_a_model_input_has_no_cause_but_its_values() -> None:
    assert of(ROUNDED, point("t", "Input"), t=EVEN) is None
    assert name(of(ROUNDED, point("t", "Input"), t=OUTLIER)) == "range outlier"


@pytest.mark.parametrize(
    "found",
    [
        of({**ROUNDED, "clipped": 0.9}, *inner(), t=EVEN),
        of(ROUNDED, *inner(), t=OUTLIER),
        of({**ROUNDED, "far": 0.0}, *inner()),
        of(WEIGHTS, *inner(weights=OUTLIER, scales=1)),
        of(WEIGHTS, *inner(weights=EVEN, scales=8), before=OUTLIER),
        of(WEIGHTS, *inner(weights=EVEN, scales=8, groups=8)),
        of(WEIGHTS, *inner(weights=EVEN, scales=8, is_output=True)),
        of(WEIGHTS, point("x", "Input"), point("t", "Conv", "x", weights=EVEN)),
    ],
)
def test_a_detail_does_not_repeat_its_name(found: Cause | None) -> None:
    assert found is not None
    assert found.name not in found.detail
    assert not found.detail.endswith(".")
    assert len(found.detail) < 200
