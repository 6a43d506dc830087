"""Holm's adjustment, by its definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import holm

unhurried = settings(deadline=None)


def test_a_worked_example():
    assert holm.adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@unhurried
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.4))
def test_it_rejects_what_the_step_down_procedure_rejects(p, alpha):
    order = sorted(range(len(p)), key=lambda i: p[i])
    rejected = set()
    for step, index in enumerate(order):
        if (len(p) - step) * p[index] > alpha:
            break
        rejected.add(index)
    found = {i for i, value in enumerate(holm.adjusted(p)) if value <= alpha}
    assert found == rejected


@unhurried
@given(st.lists(st.floats(0, 1), max_size=20), st.randoms())
def test_order_does_not_matter(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    assert np.array_equal(holm.adjusted([p[i] for i in order]), holm.adjusted(p)[order])


def test_one_is_itself_and_none_is_none():
    assert holm.adjusted([0.03]).tolist() == [0.03]
    assert holm.adjusted([]).tolist() == []
    assert holm.adjusted([0.9, 0.8]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm.adjusted([0.5, p])
