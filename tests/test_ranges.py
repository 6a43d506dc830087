"""From histograms to ranges, each method against the plainest way to say what it promises."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gate import ranges
from gate.histogram import Counter, Histogram

N = 60_000
LEVELS = 255
EVERY = 10_000
"""More candidates than there are windows."""


def counted(values: Any, examples: int = 1) -> Histogram:
    counter = Counter()
    assert counter.add(np.asarray(values, dtype=np.float32).reshape(examples, -1), examples)
    return counter.result()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SAMPLES: dict[str, Callable[[], Any]] = {
    "uniform": lambda: rng().uniform(-1, 1, N),
    "gaussian": lambda: rng().standard_normal(N),
    "laplace": lambda: rng().laplace(size=N),
    "relu": lambda: np.maximum(rng().standard_normal(N), 0),
    "relu6": lambda: np.clip(4 * rng().standard_normal(N), 0, 6),
    "silu": lambda: (x := 2 * rng().standard_normal(N)) / (1 + np.exp(-x)),
    "student-2": lambda: rng().standard_t(2, N),
    "log-normal": lambda: np.exp(2 * rng().standard_normal(N)),
    "negative": lambda: -0.1 - np.abs(rng().standard_normal(N)),
    "far from 0": lambda: rng().normal(10, 1, N),
    "outlier": lambda: np.append(np.maximum(rng().standard_normal(N), 0), 1000.0),
    "outliers": lambda: np.append(rng().standard_normal(N), [300.0, -500.0]),
}
SIMPLE: dict[str, list[float]] = {
    "0": [0.0] * 4,
    "constant": [5.0] * 4,
    "negative constant": [-0.3] * 4,
    "tiny": [1e-42] * 4,
    "tiny, both signs": [1e-42, -1e-42],
    "one value": [7.0],
    "0 and 1": [0.0, 0.0, 0.0, 1.0],
    "two values": [-2.0, 3.0],
    "two that are near": [1.0, 1.0 + 2.0**-23],
    "integers": [float(n) for n in range(-20, 100)],
    "all negative": [-4.0, -3.0, -2.5, -1.0],
    "without 0": [100.0, 101.0, 102.5, 250.0],
    "huge": [-3e38, 0.0, 3e38],
    "far apart": [-1e38, -1e-30, 1e-30],
}
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY = arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=FINITE)


def check_within(found: Histogram) -> None:
    for method, choose in ranges.METHODS.items():
        for symmetric in (False, True):
            low, high = choose(found, share=99.9, symmetric=symmetric)
            assert math.isfinite(low), method
            assert math.isfinite(high), method
            assert found.low <= low <= high <= found.high, method


# ── all methods ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_values_give_a_range_within_them(name: str) -> None:
    check_within(counted(SIMPLE[name]))


@given(ANY)
@settings(max_examples=60)
def test_any_values_give_a_range_within_them(values: Any) -> None:
    check_within(counted(values, len(values)))


@pytest.mark.parametrize("method", ranges.METHODS)
@pytest.mark.parametrize("name", ["0", "constant", "negative constant", "tiny", "one value"])
def test_a_single_value_is_its_own_range(method: str, name: str) -> None:
    value = float(np.float32(SIMPLE[name][0]))
    for symmetric in (False, True):
        found = counted(SIMPLE[name])
        assert ranges.METHODS[method](found, share=90, symmetric=symmetric) == (value, value)


def test_min_max_is_all_and_the_moving_average_the_mean_of_the_extremes() -> None:
    found = counted([[-1, 2, 3], [-5, 0, 1], [0, 0, 8]], 3)
    assert ranges.min_max(found) == (-5, 8)
    assert ranges.moving_average(found) == (-2, 4)


# ── percentile ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [51, 75, 90, 99, 99.9, 99.99])
@pytest.mark.parametrize("name", SAMPLES)
def test_percentiles_are_numpys_to_within_a_bin(name: str, share: float) -> None:
    values = SAMPLES[name]().astype(np.float32)
    found = counted(values)
    cut = (1 - share / 100) / 2
    low, high = ranges.percentile(found, share=share)
    step, one = found.width, 1 / len(values)
    assert quantile(values, cut - one) - step <= low <= quantile(values, cut + one)
    assert quantile(values, 1 - cut - one) <= high <= quantile(values, 1 - cut + one) + step


@pytest.mark.parametrize("share", [51, 75, 99, 99.99])
@pytest.mark.parametrize("name", SAMPLES)
def test_symmetric_percentiles_are_those_of_sizes(name: str, share: float) -> None:
    values = SAMPLES[name]().astype(np.float32)
    found = counted(values)
    low, high = ranges.percentile(found, share=share, symmetric=True)
    size, one = np.abs(values), 1 / len(values)
    fewest, most = quantile(size, share / 100 - one), quantile(size, share / 100 + one)
    if max(-low, high) < size.max():
        assert fewest <= max(-low, high) <= most + found.width
    assert low == max(found.low, -max(-low, high))
    assert high == min(found.high, max(-low, high))


def quantile(values: Any, share: float) -> float:
    return float(np.quantile(values, np.clip(share, 0, 1), method="inverted_cdf"))


def test_the_percentile_of_all_is_min_max() -> None:
    found = counted(SAMPLES["student-2"]())
    for symmetric in (False, True):
        assert ranges.percentile(found, share=100, symmetric=symmetric) == ranges.min_max(found)


@pytest.mark.parametrize("share", [50, 0, -1, 100.1, math.nan])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="above 50 and is at most 100"):
        ranges.percentile(counted([1, 2]), share=share)


# ── entropy ───────────────────────────────────────────────────────────────────────────────


def divergence(h: list[float], begin: int, end: int, levels: int) -> float:
    """Of one window, bin by bin."""
    size = end - begin
    p = h[begin:end]
    p[0] += sum(h[:begin])
    p[-1] += sum(h[end:])
    q = [0.0] * size
    for level in range(levels):
        bins = range(size * level // levels, size * (level + 1) // levels)
        filled = [at for at in bins if p[at] > 0]
        for at in filled:
            q[at] = (sum(h[begin + at] for at in bins) or 1) / len(filled)
    if not any(h[begin:end]):
        return math.inf
    p_all, q_all = sum(p), sum(q)
    return sum(
        p[at] / p_all * math.log((p[at] / p_all) / (q[at] / q_all))
        for at in range(size)
        if p[at] > 0
    )


def windows(found: Histogram, levels: int) -> dict[int, tuple[int, int]]:
    """Bins −half … half, of those that were counted, where they have as many bins as levels."""
    size, found_at = len(found.counts), {}
    for half in range(1, max(abs(found.first), abs(found.first + size)) + 1):
        begin = min(max(-half - found.first, 0), size)
        end = min(max(half - found.first, 0), size)
        if end > begin and end - begin >= min(levels, size):
            found_at[half] = (begin, end)
    return found_at


def without_spike(found: Histogram) -> list[float]:
    h, zero = [float(count) for count in found.counts], -found.first
    for spike, beside in ((zero, zero + 1), (zero - 1, zero - 2)):
        if 0 <= spike < len(h) and 0 <= beside < len(h):
            h[spike] = min(h[spike], h[beside])
    return h


@st.composite
def histograms(draw: Any) -> Histogram:
    """Small ones, wherever they lie, many of their bins empty."""
    counts = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 10, 500]), min_size=1, max_size=24))
    counts[0], counts[-1] = max(counts[0], 1), max(counts[-1], 1)
    first, exponent = draw(st.integers(-30, 10)), draw(st.integers(-3, 3))
    width = 2.0**exponent
    low, high = first * width, (first + len(counts) - 0.5) * width
    return Histogram(low, high, low, high, exponent, first, np.array(counts))


@given(histograms(), st.integers(1, 8))
@settings(max_examples=400)
def test_entropy_is_the_least_of_all_windows(found: Histogram, levels: int) -> None:
    h = without_spike(found)
    losses = {
        half: divergence(list(h), begin, end, levels)
        for half, (begin, end) in windows(found, levels).items()
    }
    chosen = ranges.entropy(found, levels=levels, candidates=EVERY)
    best = [
        (max(found.low, -half * found.width), min(found.high, half * found.width))
        for half, loss in losses.items()
        if loss <= min(losses.values()) + 1e-9
    ]
    assert chosen in best


@given(histograms(), st.integers(1, 8))
@settings(max_examples=200)
def test_divergences_are_those_of_p_and_q(found: Histogram, levels: int) -> None:
    h, all_of_them = without_spike(found), windows(found, levels)
    begins, ends = np.array(list(all_of_them.values())).T
    got = ranges._divergences(np.array(h), begins, ends, levels)
    expected = [divergence(list(h), begin, end, levels) for begin, end in all_of_them.values()]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_entropy_clips_outliers_and_hardly_a_gaussian() -> None:
    low, high = ranges.entropy(counted(SAMPLES["outliers"]()))
    assert (low > -250) & (high < 150)
    values = SAMPLES["gaussian"]()
    low, high = ranges.entropy(counted(values))
    assert ((values < low) | (values > high)).mean() < 0.01
    low, high = ranges.entropy(counted(SAMPLES["uniform"]()))
    assert high - low > 1.98


def test_entropy_does_not_mind_how_many_zeros_a_relu_gives() -> None:
    values = SAMPLES["relu"]()
    more = np.append(values, np.zeros(20 * N))
    assert ranges.entropy(counted(more)) == ranges.entropy(counted(values))


def test_a_choice_among_windows_is_as_good_as_all() -> None:
    found = counted(SAMPLES["laplace"]())
    some, every = ranges.entropy(found), ranges.entropy(found, candidates=EVERY)
    assert some[1] == pytest.approx(every[1], rel=0.05)


# ── squared error ─────────────────────────────────────────────────────────────────────────


def true_error(values: Any, low: float, high: float, *, symmetric: bool) -> float:
    """Mean squared error of quantizing and dequantizing, as kernels do it."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    step = (high - low) / LEVELS
    zero = 0 if symmetric else round(-low / step)
    lowest, highest = (-127, 127) if symmetric else (0, 255)
    codes = np.clip(np.rint(values / step) + zero, lowest, highest)
    return float(np.mean(((codes - zero) * step - values) ** 2))


def best_error(values: Any, *, symmetric: bool) -> float:
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    parts = np.geomspace(1 / 200, 1, 60 if symmetric else 24)
    if symmetric:
        pairs = [(-part * max(-low, high), part * max(-low, high)) for part in parts]
    else:
        some = [parts if end else [1.0] for end in (low, high)]
        pairs = [(low * a, high * b) for a in some[0] for b in some[1]]
    return min(true_error(values, *pair, symmetric=symmetric) for pair in pairs)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_other_range_has_a_smaller_error(name: str, symmetric: bool) -> None:
    values = SAMPLES[name]().astype(np.float32).astype(np.float64)
    chosen = ranges.mean_squared_error(counted(values), symmetric=symmetric)
    error = true_error(values, *chosen, symmetric=symmetric)
    # Values that pile up at one place, a SiLU's least, are not evenly spread between two codes.
    allowed = 1.2 if name == "silu" else 1.05
    assert error <= allowed * best_error(values, symmetric=symmetric)


def test_fewer_levels_clip_more() -> None:
    found = counted(SAMPLES["gaussian"]())
    ends = [ranges.mean_squared_error(found, levels=levels)[1] for levels in (7, 15, 63, 255)]
    assert ends == sorted(ends)
    assert ends[0] < 0.7 * ends[-1]


def test_a_signed_range_is_chosen_for_its_coarser_steps() -> None:
    """Half of int8's codes are below 0, where a Relu's output has nothing."""
    found = counted(SAMPLES["relu"]())
    signed = ranges.mean_squared_error(found, symmetric=True)[1]
    assert signed < ranges.mean_squared_error(found)[1]


def test_what_lies_on_one_side_has_half_of_a_symmetric_types_levels() -> None:
    found = counted(SAMPLES["relu"]())
    assert ranges.entropy(found, symmetric=True) == ranges.entropy(found, levels=128)
    both = counted(SAMPLES["gaussian"]())
    assert ranges.entropy(both, symmetric=True) == ranges.entropy(both)
