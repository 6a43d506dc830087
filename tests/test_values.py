"""Entries of any number of rows: cut, joined, compared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.values import Ragged, Rows, finite, joined

entries = st.lists(
    st.lists(st.tuples(*[st.floats(-9, 9)] * 2), max_size=4).map(
        lambda x: np.array(x).reshape(-1, 2)
    ),
    max_size=6,
)


def listed(found: Ragged) -> list[list[list[float]]]:
    return [found.entry(index).tolist() for index in range(len(found))]


@given(given=entries)
def test_entries_come_back_as_they_were(given: list[np.ndarray]) -> None:
    found = Ragged.of(given, 2)
    assert listed(found) == [entry.tolist() for entry in given]
    assert found.shape == (len(given), 2)
    assert found.sizes.tolist() == [len(entry) for entry in given]
    assert found.owners.tolist() == [i for i, entry in enumerate(given) for _ in entry]


@given(given=entries, data=st.data())
def test_a_cut_is_the_entries_that_were_asked_for(
    given: list[np.ndarray], data: st.DataObject
) -> None:
    found = Ragged.of(given, 2)
    index = data.draw(st.lists(st.integers(0, max(0, len(given) - 1)), max_size=5 if given else 0))
    whole = [given[i].tolist() for i in index]
    assert listed(found[np.array(index, dtype=int)]) == whole
    mask = np.array([i % 2 == 0 for i in range(len(given))], dtype=bool)
    assert listed(found[mask]) == [entry.tolist() for entry in given[::2]]
    assert listed(found[1:3]) == [entry.tolist() for entry in given[1:3]]


@given(first=entries, second=entries)
def test_parts_joined_are_the_whole(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    whole = joined([Ragged.of(first, 2), Ragged.of(second, 2)])
    assert isinstance(whole, Ragged)
    assert listed(whole) == listed(Ragged.of([*first, *second], 2))


@given(given=entries)
def test_digests_tell_entries_apart_and_nothing_else(given: list[np.ndarray]) -> None:
    digests = Ragged.of(given, 2).digests
    for i, one in enumerate(given):
        for j, other in enumerate(given):
            alike = bool((digests[i] == digests[j]).all())
            assert alike is (one.shape == other.shape and bool((one == other).all()))


def test_an_entry_with_nan_is_not_finite_and_an_empty_one_is() -> None:
    found = Ragged.of([np.ones((1, 2)), np.zeros((0, 2)), np.array([[1.0, np.nan]])], 2)
    assert finite(found).tolist() == [True, True, False]
    assert finite(np.array([[1.0, np.inf], [0.0, 1.0]])).tolist() == [False, True]
    assert finite(np.zeros((0, 3))).tolist() == []


def test_rows_of_any_number_are_not_flat() -> None:
    assert Rows(np.ones((2, 1))).flat.shape == (2, 1)
    with pytest.raises(AssertionError):
        _ = Rows(Ragged.of([], 2)).flat
