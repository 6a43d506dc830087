"""Excess losses of slices: by enumeration, against scipy, and error rates by simulation."""

import itertools
import math
import time
import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gate.statistics import slices
from gate.statistics.slices import Untested, excesses, untested

ALPHA = 0.05


def most(runs):
    """Of false accusations at level ALPHA: three standard errors more."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def by_slice(found):
    return {(one.column, one.value): one for one in found}


# --- definitions, one slice and one draw at a time ---


def t_of(y, inside):
    here, there = y[inside], y[~inside]
    n, m = len(here), len(there)
    welch = here.var(ddof=1) / n + there.var(ddof=1) / m
    pooled = y.var(ddof=1) * (1 / n + 1 / m)
    return (here.mean() - there.mean()) / math.sqrt(max(welch, pooled))


def step_down(observed, draws):
    """Exact adjusted p, when `draws` are all there are and the observed is one of them."""
    order = sorted(range(len(observed)), key=lambda k: -observed[k])
    p, largest = [0.0] * len(observed), 0.0
    for step, k in enumerate(order):
        left = order[step:]
        reached = np.mean([max(d[j] for j in left) >= observed[k] - 1e-9 for d in draws])
        p[k] = largest = max(largest, float(reached))
    return p


@pytest.mark.parametrize(
    "y",
    [
        [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, -1.0],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [2.5, 0.3, 1.1, -0.7, 0.2, -3.0, 0.9],
    ],
)
def test_permutations_agree_with_all_of_them(y):
    columns = {"a": ["x", "x", "x", "y", "y", "z", "z"], "b": [1, 0, 1, 1, 0, 0, 0]}
    found = excesses(y, columns, permutations=20_000, least=2)
    assert len(found) == 5
    masks = [np.array([str(v) == s.value for v in columns[s.column]]) for s in found]
    observed = [t_of(np.array(y), mask) for mask in masks]
    draws = [[t_of(np.array(order), mask) for mask in masks] for order in itertools.permutations(y)]
    assert [s.p for s in found] == pytest.approx(step_down(observed, draws), abs=0.015)


def test_one_slice_agrees_with_scipy():
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.normal(0.9, 1, 5), rng.normal(0, 1, 7)])
    column = np.array(["a"] * 5 + ["b"] * 3 + ["c"] * 4)
    (found,) = excesses(y, {"k": column}, permutations=20_000, least=5)

    def statistic(here, there):
        return t_of(np.concatenate([here, there]), np.arange(12) < 5)

    exact = stats.permutation_test(
        (y[:5], y[5:]), statistic, vectorized=False, n_resamples=np.inf, alternative="greater"
    )
    assert 0.01 < exact.pvalue < 0.3
    assert found.p == pytest.approx(exact.pvalue, abs=4 * math.sqrt(0.25 / 20_000))


def unit_statistics(y, unit, masks):
    """(T, g) with g[k][u], by the formulas."""
    e = y - y.mean()
    variance = (e**2).sum() / (len(e) - 1)
    names = sorted(set(unit.tolist()))
    products = [
        e[i] * e[j] for i in range(len(e)) for j in range(len(e)) if i != j and unit[i] == unit[j]
    ]
    within = min(max(float(np.mean(products)), 0.0), variance)
    t, g = [], []
    for mask in masks:
        c = np.where(mask, 1 / mask.sum(), -1 / (~mask).sum())
        parts = np.array([(c * e)[unit == name].sum() for name in names])
        sums = np.array([c[unit == name].sum() for name in names])
        pooled = (variance - within) * (c**2).sum() + within * (sums**2).sum()
        t.append(parts.sum() / math.sqrt(max((parts**2).sum(), pooled)))
        g.append(parts)
    return t, np.array(g)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_flips_agree_with_all_of_them(seed):
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(8), [1, 3, 2, 4, 1, 2, 3, 2])
    y = rng.normal(size=8)[unit] + rng.normal(size=18)
    columns = {
        "within": rng.integers(0, 3, 18),
        "between": np.array([0, 0, 1, 1, 0, 1, 0, 1])[unit],
    }
    found = excesses(y, columns, unit=unit, permutations=20_000, least=2)
    masks = [columns[one.column] == int(one.value) for one in found]
    assert len(masks) >= 4
    observed, g = unit_statistics(y, unit, masks)
    robust = np.sqrt((g**2).sum(axis=1))
    draws = [(g @ np.array(signs)) / robust for signs in itertools.product([1, -1], repeat=8)]
    assert [s.p for s in found] == pytest.approx(step_down(observed, draws), abs=0.015)


# --- what is told ---


def example(n=400, seed=1):
    rng = np.random.default_rng(seed)
    columns = {"site": rng.choice(["n", "s", "e"], n), "night": rng.random(n) < 0.3}
    return rng.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.7, 0.2]), columns, rng.integers(0, 60, n)


def test_means_are_those_of_the_slice_and_of_the_rest():
    y, columns, _ = example()
    found = by_slice(excesses(y, columns, permutations=19))
    assert set(found) == {("site", s) for s in "nse"} | {("night", "true"), ("night", "false")}
    north = found["site", "n"]
    here = columns["site"] == "n"
    assert north.n == here.sum()
    assert (north.mean, north.rest) == pytest.approx((y[here].mean(), y[~here].mean()))
    assert north.excess == north.mean - north.rest


def test_the_surest_come_first_and_no_p_is_0():
    y, columns, _ = example()
    y[columns["night"]] += 5.0
    found = excesses(y, columns, permutations=99)
    assert (found[0].column, found[0].value, found[0].p) == ("night", "true", 0.01)
    assert [one.p for one in found] == sorted(one.p for one in found)
    assert found[-1].p == 1.0


@pytest.mark.parametrize("with_units", [False, True])
def test_the_order_of_rows_and_columns_changes_no_digit(with_units):
    y, columns, unit = example()
    y = y + np.random.default_rng(2).normal(size=len(y))
    order = np.random.default_rng(3).permutation(len(y))
    turned = {name: columns[name][order] for name in reversed(columns)}
    one = excesses(y, columns, unit=unit if with_units else None, permutations=99)
    two = excesses(y[order], turned, unit=unit[order] if with_units else None, permutations=99)
    assert one == two


@pytest.mark.parametrize("with_units", [False, True])
def test_the_seed_decides_the_draws(with_units):
    y, columns, unit = example()
    keywords = {"unit": unit if with_units else None, "permutations": 99}
    assert excesses(y, columns, **keywords) == excesses(y, columns, **keywords)
    ps = {tuple(s.p for s in excesses(y, columns, seed=seed, **keywords)) for seed in range(5)}
    assert len(ps) > 1


@pytest.mark.parametrize("with_units", [False, True])
@pytest.mark.parametrize("factor", [1e-200, 1e-3, 1e200])
def test_the_unit_of_a_loss_does_not_matter(with_units, factor):
    y, columns, unit = example()
    keywords = {"unit": unit if with_units else None, "permutations": 99}
    scaled = by_slice(excesses(y * factor, columns, **keywords))
    for key, one in by_slice(excesses(y, columns, **keywords)).items():
        assert scaled[key].p == one.p
        assert scaled[key].excess == pytest.approx(one.excess * factor)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
@pytest.mark.parametrize("with_units", [False, True])
def test_without_any_variance_there_is_no_excess(value, with_units):
    y, columns, unit = example()
    found = excesses(np.full(len(y), value), columns, unit=unit if with_units else None)
    assert len(found) == 5
    assert {(one.excess, one.p) for one in found} == {(0.0, 1.0)}


def test_units_that_cancel_out_are_no_evidence():
    y = np.tile([1.0, -1.0], 40)
    unit = np.repeat(np.arange(40), 2)
    found = excesses(y, {"half": unit < 20}, unit=unit, permutations=99)
    assert [one.p for one in found] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "within"),
    [
        ([1.0, -1.0, 1.0, -1.0], 0.0),  # the two of a unit differ more than others do
        ([1.0, 1.0, -1.0, -1.0], 1.0),
        ([2.0, 1.0, -1.0, -2.0], 2.0),
    ],
)
def test_the_covariance_within_a_unit_is_none_below_zero(losses, within):
    """Σ of the products of pairs, (u, u) and (v, v), over their number; σ² is the larger."""
    variance, found = slices._components(np.array(losses), np.array([0, 0, 1, 1]))
    assert variance == pytest.approx(np.var(losses, ddof=1))
    assert found == pytest.approx(within)


def test_units_of_one_example_are_none():
    y, columns, _ = example()
    own = np.random.default_rng(0).permutation(len(y))
    assert excesses(y, columns, unit=own, permutations=99) == excesses(y, columns, permutations=99)


def test_a_value_is_told_as_a_policy_writes_it():
    n = 40
    values = {
        "bool": np.arange(n) % 2 == 0,
        "float": np.where(np.arange(n) % 2, 1.0, 0.5),
        "mixed": np.array([True, 3, "north", None] * 10, dtype=object),
        "gaps": np.where(np.arange(n) % 2, 1.0, math.nan),
        "numpy": np.array([np.float32(2), np.bool_(True)] * 20, dtype=object),
    }
    found = by_slice(excesses(np.arange(n, dtype=float), values, permutations=9))
    assert set(found) == {
        *(("bool", text) for text in ("true", "false")),
        *(("float", text) for text in ("1", "0.5")),
        *(("mixed", text) for text in ("true", "3", "north", "None")),
        *(("gaps", text) for text in ("1", "nan")),
        *(("numpy", text) for text in ("2", "true")),
    }


# --- what is not tested ---


def test_what_is_left_out_is_told():
    n = 300
    columns = {
        "id": np.arange(n),
        "frame": np.arange(n) % 150,
        "camera": np.full(n, "one"),
        "site": np.array(["n"] * 5 + ["s"] * 295),
        "half": np.arange(n) % 2,
    }
    assert untested(columns) == (
        Untested("camera", None, n, "all examples have the same value"),
        Untested("frame", None, n, "150 distinct values, more than 100"),
        Untested("id", None, n, "every example has its own value"),
        Untested("site", "n", 5, "5 examples, fewer than 10"),
        Untested("site", "s", 295, "5 examples outside it, fewer than 10"),
    )
    found = by_slice(excesses(np.arange(n) % 7, columns, permutations=9))
    assert set(found) == {("half", "0"), ("half", "1")}


def test_units_are_what_counts_where_there_are_any():
    unit = np.repeat(np.arange(30), 10)
    columns = {"site": unit < 9, "shot": np.arange(300) % 10 < 1}
    assert untested(columns, unit=unit) == (
        Untested("site", "false", 210, "9 units outside it, fewer than 10"),
        Untested("site", "true", 90, "9 units, fewer than 10"),
    )
    found = excesses(np.sin(np.arange(300)), columns, unit=unit, permutations=9)
    assert {one.column for one in found} == {"shot"}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.integers(0, 9)), min_size=1),
    st.integers(1, 6),
    st.booleans(),
)
def test_every_value_is_tested_or_told(rows, least, with_units):
    number, letter, unit = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"number": number, "letter": letter}
    keywords = {"unit": unit if with_units else None, "least": least}
    found = excesses(np.arange(len(rows)), columns, permutations=2, **keywords)
    tested = [(one.column, one.value) for one in found]
    left = [(one.column, one.value) for one in untested(columns, **keywords)]
    values = {name: set(map(str, column.tolist())) for name, column in columns.items()}
    whole = {name for name, value in left if value is None}
    expected = [(name, None) for name in whole]
    expected += [(name, v) for name in columns if name not in whole for v in values[name]]
    assert sorted(tested + left, key=str) == sorted(expected, key=str)
    assert all(math.isfinite(one.p) and 0 < one.p <= 1 for one in found)


def test_no_columns_no_slices():
    assert excesses([0.0, 1.0], {}) == ()
    assert untested({}) == ()
    assert untested({}, unit=["a", "b"]) == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"losses": [0.0] * 19 + [math.nan]}, "losses"),
        ({"losses": [0.0] * 19 + [math.inf]}, "losses"),
        ({"losses": []}, "losses"),
        ({"losses": [[0.0] * 20]}, "losses"),
        ({"losses": [0.0] * 19}, "site must have"),
        ({"columns": {"site": ["a"] * 21}}, "site must have"),
        ({"columns": {"site": np.zeros((20, 1))}}, "site must have"),
        ({"unit": [1] * 19}, "unit must have"),
        ({"permutations": 0}, "permutations"),
        ({"seed": -1}, "seed"),
        ({"least": 0}, "least"),
    ],
)
def test_what_cannot_be_is_refused(arguments, match):
    usual = {"losses": [0.0] * 20, "columns": {"site": ["a"] * 20}}
    with pytest.raises(ValueError, match=match):
        excesses(**(usual | arguments))


def test_columns_that_differ_in_length_have_no_untested():
    with pytest.raises(ValueError, match="b must have"):
        untested({"a": [1, 2], "b": [1]})
    with pytest.raises(ValueError, match="unit must have"):
        untested({"a": [1, 2]}, unit=[1])


# --- error rates ---


def some_columns(rng, n):
    return {
        "digit": rng.integers(0, 10, n),
        "site": rng.choice(6, n, p=[0.4, 0.3, 0.2, 0.05, 0.03, 0.02]),
        "night": rng.random(n) < 0.05,
    }


def flips(rng, n, p=(0.01, 0.97, 0.02)):
    return rng.choice([-1.0, 0.0, 1.0], n, p=p)


def accused(simulate, runs, draws=199):
    """Share of data sets in which any slice is accused."""
    false = 0
    for run in range(runs):
        y, columns, unit = simulate(np.random.default_rng([11, run]))
        found = excesses(y, columns, unit=unit, seed=run, permutations=draws)
        false += found[0].p <= ALPHA
    return false / runs


def of_flips(rng, n=600):
    return flips(rng, n), some_columns(rng, n), None


def of_gains(rng, n=600):
    return flips(rng, n, (0.03, 0.97, 0.0)), some_columns(rng, n), None


def of_log_losses(rng, n=600):
    return np.exp(1.5 * rng.normal(size=n)), some_columns(rng, n), None


def uneven(rng, n=3000):
    """Small sites flip twenty times as often, both ways."""
    columns = some_columns(rng, n)
    often = np.where(columns["site"] >= 3, 0.2, 0.01)
    return (rng.random(n) < often) * rng.choice([-1.0, 1.0], n), columns, None


def clustered(rng, count=150, *, across=False, draw=None):
    """Units of 1 to some 30, half of whose variance is common."""
    size = rng.poisson(14, count) + 1
    unit = np.repeat(np.arange(count), size)
    columns = some_columns(rng, len(unit) if across else count)
    if not across:
        columns = {name: column[unit] for name, column in columns.items()}
    common = rng.normal(size=count) if draw is None else draw(rng, count)
    own = rng.normal(size=len(unit)) if draw is None else rng.random(len(unit)) < 0.5
    return (common[unit] + own if draw is None else common[unit] * own), columns, unit


def clustered_flips(rng):
    return clustered(rng, draw=lambda rng, n: flips(rng, n, (0.05, 0.93, 0.02)))


def across(rng):
    return clustered(rng, across=True)


def test_without_an_excess_few_are_accused():
    assert accused(partial(of_flips, n=300), 300, draws=99) <= 0.07


@pytest.mark.parametrize("simulate", [clustered, across, clustered_flips])
def test_units_keep_the_level(simulate):
    assert accused(simulate, 300, draws=99) <= 0.07


def test_without_their_units_they_would_not():
    def ignored(rng):
        y, columns, _ = clustered(rng)
        return y, columns, None

    assert accused(ignored, 40, draws=99) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "simulate", [of_flips, of_gains, of_log_losses, clustered, across, clustered_flips]
)
def test_the_level_is_kept(simulate):
    assert accused(simulate, 2000) <= most(2000)


@pytest.mark.slow
def test_the_level_is_nearly_kept_where_only_the_means_are_equal():
    assert accused(uneven, 1000) <= 0.09  # a pooled variance alone accuses in 0.56 of them


# --- what is found ---


@pytest.mark.parametrize("size", [None, 2])
def test_five_points_more_in_a_tenth_are_found(size):
    found = 0
    for run in range(20):
        rng = np.random.default_rng([13, run])
        y = flips(rng, 3000, (0.001, 0.998, 0.001))
        bad = np.arange(3000) < 300
        y[rng.choice(300, 15, replace=False)] = 1.0
        columns = some_columns(rng, 3000) | {"bad": bad}
        unit = None if size is None else np.arange(3000) // size
        worst = excesses(y, columns, unit=unit, permutations=199)[0]
        found += (worst.column, worst.value) == ("bad", "true") and worst.p <= ALPHA
    assert found >= 19


def test_a_slice_that_flips_more_often_both_ways_is_not_accused():
    y = np.zeros(3000)
    y[:36], y[36:60] = 1.0, -1.0
    site = {"site": np.arange(3000) < 100}
    found = by_slice(excesses(y, site, permutations=199))["site", "true"]
    assert found.excess == pytest.approx(0.12)
    assert found.p > ALPHA  # T is 1.55; with the variance of all losses it would be 8.3
    assert by_slice(excesses(np.abs(y), site, permutations=199))["site", "true"].p == 0.005


@pytest.mark.parametrize("size", [None, 2])
def test_a_few_without_a_loss_do_not_accuse_the_many_others(size):
    rng = np.random.default_rng(4)
    y = np.zeros(3000)
    y[rng.choice(np.arange(100, 3000), 30, replace=False)] = 1.0
    unit = None if size is None else np.arange(3000) // size
    found = by_slice(excesses(y, {"night": np.arange(3000) < 100}, unit=unit, permutations=199))
    assert found["night", "false"].p > 0.1  # Welch's T alone is 5.5


def test_looking_at_more_slices_costs():
    y, columns, _ = example()
    y[columns["night"]] += 0.25
    alone = by_slice(excesses(y, {"night": columns["night"]}))["night", "true"]
    rng = np.random.default_rng(0)
    more = {f"c{k}": rng.integers(0, 10, len(y)) for k in range(8)}
    among = by_slice(excesses(y, more | {"night": columns["night"]}))["night", "true"]
    assert alone.p < among.p
    assert replace(among, p=alone.p) == alone


@pytest.mark.slow
@pytest.mark.parametrize("units", [None, 30_000])
def test_a_hundred_slices_of_fifty_thousand_examples_take_seconds(units):
    rng = np.random.default_rng(0)
    y = rng.normal(size=50_000)
    columns = {f"c{k}": rng.integers(0, 10, 50_000) for k in range(10)}
    unit = None if units is None else rng.integers(0, units, 50_000)
    tracemalloc.start()
    assert len(excesses(y, columns, unit=unit, permutations=200)) == 100
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    started = time.process_time()
    assert len(excesses(y, columns, unit=unit, permutations=2000)) == 100
    assert time.process_time() - started < 20  # 4 s on a core; BLAS threads all count
