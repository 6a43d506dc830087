"""`rows.npz`: what was written comes back, and what is damaged does not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gate.errors import RecordError
from gate.rows import load_rows, rows_of, same_examples, save_arrays
from gate.values import Array, Evaluation, Ragged, Rows


def boxes(*sizes: int) -> Ragged:
    return Ragged.of([np.arange(2.0 * size).reshape(size, 2) for size in sizes], 2)


def evaluation(targets: Array | Ragged | None) -> Evaluation:
    return Evaluation(
        ids=np.array(["a", "b", "c"]),
        targets=targets,
        slices={"site": np.array(["x", "y", "x"])},
        unit=None,
        fp32={"boxes": Rows(boxes(1, 0, 2)), "flip": Rows(np.zeros((3, 1)))},
        int8={"boxes": Rows(boxes(1, 1, 2)), "flip": Rows(np.ones((3, 1)))},
    )


@pytest.mark.parametrize("targets", [None, np.array([1, 2, 3]), boxes(0, 3, 1)])
def test_what_was_written_comes_back(tmp_path: Path, targets: Array | Ragged | None) -> None:
    given = evaluation(targets)
    save_arrays(tmp_path / "rows.npz", rows_of(given))
    found = load_rows(tmp_path / "rows.npz")
    assert found.ids.tolist() == ["a", "b", "c"]
    for side in ("fp32", "int8"):
        for name, rows in getattr(given, side).items():
            back = getattr(found, side)[name].values
            if isinstance(rows.values, Ragged):
                assert isinstance(back, Ragged)
                assert back.digests.tolist() == rows.values.digests.tolist()
            else:
                assert back.tolist() == rows.values.tolist()
    if isinstance(targets, Ragged):
        assert isinstance(found.targets, Ragged)
        assert found.targets.offsets.tolist() == targets.offsets.tolist()
    else:
        assert (found.targets is None) is (targets is None)


@pytest.mark.parametrize(
    "offsets", [[0, 1, 1], [0, 1, 1, 9], [0, 2, 1, 3], [1, 1, 1, 3], [0.0, 1.0, 1.0, 3.0]]
)
def test_offsets_that_are_none_are_damage(tmp_path: Path, offsets: list[float]) -> None:
    arrays = rows_of(evaluation(None)) | {"fp32/boxes/offsets": np.array(offsets)}
    save_arrays(tmp_path / "rows.npz", arrays)
    with pytest.raises(RecordError, match=r"damaged: the offsets of fp32/boxes are none"):
        load_rows(tmp_path / "rows.npz")


# ── the same example in another set ───────────────────────────────────────────────────────

CONTENT = np.arange(48, dtype=np.uint8).reshape(3, 16)
CHANGED = CONTENT + np.array([[0], [9], [0]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (None, None, [True, True, True]),
        (None, np.array([1, 2, 3]), [False, False, False]),
        (np.array([1, 2, 3]), np.array([1, 2, 4]), [True, True, False]),
        (np.array([1, 2, 3]), np.array([[1], [2], [3]]), [False, False, False]),
        (
            np.array([[1, 2], [3, 4], [5, 6]]),
            np.array([[1, 2], [3, 0], [5, 6]]),
            [True, False, True],
        ),
        (boxes(0, 3, 1), boxes(0, 2, 1), [True, False, True]),
        (boxes(0, 3, 1), np.array([1, 2, 3]), [False, False, False]),
    ],
)
def test_the_same_example_has_the_same_content_and_target(
    mine: Array | Ragged | None, theirs: Array | Ragged | None, same: list[bool]
) -> None:
    one = replace(evaluation(mine), content=CONTENT)
    other = replace(evaluation(theirs), content=CONTENT)
    at = np.arange(3)
    assert same_examples(one, other, at, at).tolist() == same
    changed = replace(evaluation(theirs), content=CHANGED)
    assert same_examples(one, changed, at, at).tolist() == [same[0], False, same[2]]


def test_examples_are_found_where_they_stand_in_either_set() -> None:
    at, where = np.array([0, 2]), np.array([2, 0])
    one = replace(evaluation(np.array([1, 2, 3])), content=CONTENT)
    other = replace(evaluation(np.array([3, 2, 1])), content=CONTENT[::-1])
    assert same_examples(one, other, at, where).tolist() == [True, True]
    assert same_examples(one, other, at, at).tolist() == [False, False]
    assert same_examples(one, other, at[:0], at[:0]).tolist() == []


def test_without_contents_nothing_is_the_same() -> None:
    one, at = evaluation(np.array([1, 2, 3])), np.arange(3)
    assert same_examples(one, replace(one, content=CONTENT), at, at).tolist() == [False] * 3
    assert same_examples(replace(one, content=CONTENT), one, at, at).tolist() == [False] * 3
