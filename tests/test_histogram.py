"""Counts in bins, whatever comes and in whatever order."""

import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gate.histogram import BINS, Counter, Histogram

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
SIZES = st.sampled_from([2.0**-149, 1e-40, 2.0**-120, 1e-30, 1e-6, 1.0, 300.0, 5e4, 1e12, 1e38])
OFFSETS = st.sampled_from([0.0, 0.0, 1.0, -1.0, 1e-30, -7e4, 1e6, -2e38])
FINEST = 2.0**-120


@st.composite
def varied(draw: Any) -> Any:
    """(N, 3): examples of very different sizes, moved by very different offsets."""
    count = draw(st.integers(1, 6))
    unit = draw(arrays.arrays(np.float32, (count, 3), elements=st.floats(-1, 1, width=32)))
    sizes = draw(st.lists(SIZES, min_size=count, max_size=count))
    values = unit.astype(np.float64) * np.array(sizes)[:, None] + draw(OFFSETS)
    return values.astype(np.float32)


VALUES = st.one_of(
    varied(), arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=ANY)
)


def counted(*parts: Any, bins: int = BINS) -> Histogram:
    counter = Counter(bins)
    for part in parts:
        assert counter.add(part, len(part))
    return counter.result()


def same(one: Histogram, other: Histogram) -> bool:
    floats = ("low", "high", "mean_low", "mean_high", "exponent", "first")
    return all(getattr(one, name) == getattr(other, name) for name in floats) and np.array_equal(
        one.counts, other.counts
    )


def plainly(values: Any, found: Histogram) -> Any:
    """Counts of each bin by Python's exact arithmetic."""
    counts = np.zeros(len(found.counts), dtype=np.int64)
    for value in values.reshape(-1).tolist():
        counts[math.floor(math.ldexp(value, -found.exponent)) - found.first] += 1
    return counts


# ── what is counted ───────────────────────────────────────────────────────────────────────


@given(VALUES)
def test_extremes_are_exact_and_every_value_is_in_its_bin(values: Any) -> None:
    found = counted(values)
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.total == values.size
    np.testing.assert_array_equal(found.counts, plainly(values, found))
    assert found.counts[0] > 0
    assert found.counts[-1] > 0


@pytest.mark.parametrize("scale", [1e-20, 1.0, 3e30])
@pytest.mark.parametrize("offset", [0.0, 2.5, -700.0])
def test_counts_equal_numpys_on_the_same_edges(scale: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    values = ((rng.standard_normal((70, 3000)) + offset) * scale).astype(np.float32)
    found = counted(*np.array_split(values, 9))
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])


@given(VALUES)
def test_at_least_so_many_bins_cover_the_range_and_at_most_twice_as_many(values: Any) -> None:
    found = counted(values)
    assert len(found.counts) <= 2 * BINS
    if found.low == found.high:
        assert len(found.counts) == 1
    elif found.width > FINEST:
        assert len(found.counts) >= BINS
    assert found.edges[0] <= found.low
    assert found.high < found.edges[-1] or found.high == found.low == found.edges[-1]


@given(VALUES, st.sampled_from([1, 2, 7, 64]))
def test_any_number_of_bins_can_be_asked_for(values: Any, bins: int) -> None:
    found = counted(values, bins=bins)
    assert len(found.counts) <= 2 * bins
    assert found.low == found.high or found.width == FINEST or len(found.counts) >= bins
    np.testing.assert_array_equal(found.counts, plainly(values, found))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.1, 1e38, -1e38, 2.0**-149, -(2.0**-149)])
def test_a_constant_is_one_bin(value: float) -> None:
    found = counted(np.full((4, 5), value, np.float32))
    assert found.low == found.high == np.float32(value)
    assert found.counts.tolist() == [20]
    assert found.edges[0] <= found.low <= found.edges[1]


@pytest.mark.parametrize("value", [1.0, -1.0, 3e38, -1e-30, 0.0, 7.3])
@pytest.mark.parametrize("towards", [np.inf, -np.inf])
def test_a_constant_then_its_neighbour(value: float, towards: float) -> None:
    first = np.full((3, 2), value, np.float32)
    second = np.nextafter(first, np.float32(towards))
    for parts in ((first, second), (second, first)):
        found = counted(*parts)
        assert same(found, counted(np.concatenate(parts)))
        np.testing.assert_array_equal(found.counts, plainly(np.concatenate(parts), found))
        assert found.width <= FINEST or sorted(found.counts[[0, -1]]) == [6, 6]


def test_negative_values_too_small_beside_the_width_stay_below_0() -> None:
    """x / w vanishes in float32: −1e−30 / 2^115 is −0, whose floor is not −1."""
    found = counted(np.array([[-1e38], [-1e-30]], np.float32))
    assert (found.first + len(found.counts), found.counts[-1]) == (0, 1)
    both = counted(np.array([[-1e38], [-1e-30], [1e-30]], np.float32))
    assert both.counts[[-2, -1]].tolist() == [1, 1]


def test_a_range_may_grow_by_any_factor() -> None:
    small = np.array([[-1e-36], [1e-36]], np.float32)
    found = counted(small, np.array([[3e38]], np.float32))
    assert found.counts[[0, 1]].tolist() == [1, 1]
    assert found.counts[-1] == 1


def test_a_block_is_no_boundary() -> None:
    values = np.random.default_rng(0).standard_normal((1, 3 * (1 << 16) + 17)).astype(np.float32)
    found = counted(values)
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])


# ── nothing depends on order or batches ───────────────────────────────────────────────────


@given(VALUES, st.data())
def test_order_and_batches_change_nothing(values: Any, data: Any) -> None:
    order = data.draw(st.permutations(range(len(values))))
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=4).map(sorted))
    parts = [part for part in np.split(values[order], cuts) if len(part)]
    assert same(counted(*parts), counted(values))


@given(VALUES)
def test_moving_averages_are_the_means_of_each_examples_extremes(values: Any) -> None:
    found = counted(values)
    lows, highs = values.min(axis=1).tolist(), values.max(axis=1).tolist()
    least = 2.0**-149  # below which a mean of float32 need not be exact
    assert found.mean_low == pytest.approx(math.fsum(lows) / len(lows), rel=1e-15, abs=least)
    assert found.mean_high == pytest.approx(math.fsum(highs) / len(highs), rel=1e-15, abs=least)


def test_parts_of_any_shape_count_as_their_values() -> None:
    rng = np.random.default_rng(1)
    shapes = [(2, 3, 4), (1, 7), (5,), (3, 0, 2), (2, 1, 1, 9)]
    parts = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    found = counted(*parts)
    flat = np.concatenate([part.reshape(-1) for part in parts])
    np.testing.assert_array_equal(found.counts, plainly(flat, found))
    assert (found.low, found.high) == (flat.min(), flat.max())


# ── what an example is ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "examples", "lows"),
    [
        ((3, 4), 3, "each"),
        ((3,), 3, "each"),
        ((4, 3), 3, "whole"),  # sequence first
        ((12,), 3, "whole"),
        ((), 3, "whole"),
        ((), 1, "whole"),
        ((1, 4), 3, "whole"),  # computed once for the batch
    ],
)
def test_the_first_axis_is_the_examples_where_it_is_as_long(
    shape: tuple[int, ...], examples: int, lows: str
) -> None:
    values = np.asarray(np.random.default_rng(2).standard_normal(shape), dtype=np.float32)
    counter = Counter()
    assert counter.add(values, examples)
    found = counter.result()
    rows = values.reshape(examples if lows == "each" else 1, -1).astype(np.float64)
    assert found.mean_low == pytest.approx(rows.min(axis=1).mean(), rel=1e-15)
    assert found.mean_high == pytest.approx(rows.max(axis=1).mean(), rel=1e-15)
    assert found.total == values.size


def test_float16_counts_as_the_same_float32() -> None:
    half = np.random.default_rng(3).standard_normal((5, 100)).astype(np.float16)
    assert same(counted(half), counted(half.astype(np.float32)))


def test_a_view_in_any_order_counts_as_its_copy() -> None:
    values = np.random.default_rng(3).standard_normal((6, 8, 4)).astype(np.float32)
    moved = values.transpose(0, 2, 1)[:, ::-1]
    assert same(counted(moved), counted(np.ascontiguousarray(moved)))


# ── what is not counted ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_what_is_not_finite_changes_nothing(bad: float, kind: Any) -> None:
    good = np.arange(12, dtype=np.float32).reshape(4, 3)
    spoilt = (10 * good).astype(kind)
    spoilt[2, 1] = bad
    counter = Counter()
    assert not counter.add(spoilt, 4)
    assert not counter.seen
    assert counter.add(good, 4)
    assert not counter.add(spoilt, 4)
    assert same(counter.result(), counted(good))


def test_no_value_is_nothing_seen() -> None:
    counter = Counter()
    assert counter.add(np.zeros((4, 0), np.float32), 4)
    assert not counter.seen
    with pytest.raises(ValueError, match="no value was counted"):
        counter.result()


def test_a_result_is_not_changed_by_what_comes_later() -> None:
    counter = Counter()
    counter.add(np.arange(6, dtype=np.float32), 6)
    before = counter.result()
    counter.add(np.arange(6, dtype=np.float32), 6)
    assert (before.total, counter.result().total) == (6, 12)


def test_memory_does_not_grow() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 5000)).astype(np.float32)

    def peak(times: int) -> int:
        tracemalloc.start()
        counter = Counter()
        for number in range(times):
            counter.add(values * np.float32(1 + number), 8)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(3)
    assert peak(300) < 1.05 * peak(30)


def test_a_thousand_counters_take_little() -> None:
    """A deep model has as many tensors; each takes its bins and no room to work in."""
    values = np.linspace(-1, 1, 70_000, dtype=np.float32)[None]
    Counter().add(values, 1)
    tracemalloc.start()
    counters = [Counter() for _ in range(100)]
    for counter in counters:
        counter.add(values, 1)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 100 * 40_000


def test_threads_count_without_each_other() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((1, 400_000)).astype(np.float32) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(counted, parts))
    assert all(same(one, counted(part)) for one, part in zip(found, parts, strict=True))
