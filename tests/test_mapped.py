"""Arrays on disk: the same values as in memory, and never more of them in memory than a window."""

import errno
import gc
import mmap
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.memory import peak, resident

from gate import mapped
from gate.errors import DataError

RNG = np.random.default_rng(0)
LARGE = 64 << 20
"""Bytes: what is left in memory of it by accident is seen beside what Python itself takes."""


def _opened(folder: Path, values: np.ndarray) -> np.ndarray:
    file = folder / "values"
    values.tofile(file)
    return mapped.opened(file, values.dtype, values.shape)


PLACES: dict[str, Any] = {
    "all": np.arange(1000),
    "some": np.arange(3, 1000, 7),
    "none": np.zeros(0, dtype=np.int64),
    "shuffled": RNG.permutation(1000),
    "again and again": RNG.integers(0, 1000, 5000),
    "from the end": np.array([-1, 5, -1000]),
    "a mask": RNG.random(1000) < 0.3,
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("shape", [(1000,), (1000, 3), (1000, 2, 2)])
def test_what_is_taken_is_what_numpy_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Any, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(mapped, "WINDOW", 100)
    values = RNG.normal(size=shape)
    on_disk = _opened(tmp_path, values)
    for found in (mapped.take(on_disk, places), mapped.take(values, places)):
        assert found.dtype == values.dtype
        assert np.array_equal(found, values[places])
        assert found.flags.writeable


@pytest.mark.parametrize("place", [1000, -1001])
def test_a_place_that_is_not_there_is_an_error(tmp_path: Path, place: int) -> None:
    on_disk = _opened(tmp_path, np.arange(1000))
    with pytest.raises(IndexError):
        mapped.take(on_disk, np.array([0, place]))


def test_texts_are_taken_too(tmp_path: Path) -> None:
    names = np.array(["é", "", "ab"])
    assert mapped.take(_opened(tmp_path, names), np.array([2, 0])).tolist() == ["ab", "é"]


@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_windows_are_all_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(mapped, "WINDOW", window)
    values = RNG.normal(size=(50, 2))
    on_disk = _opened(tmp_path, values)
    parts = [on_disk[part].copy() for part in mapped.windows(on_disk)]
    assert np.array_equal(np.concatenate(parts), values)


def test_what_is_in_memory_is_left_alone() -> None:
    values = np.arange(5)
    mapped.give_back(values, values[1:], None)
    assert values.tolist() == [0, 1, 2, 3, 4]


linux = pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no such advice here")


@linux
def test_what_was_read_is_given_back_and_read_again(tmp_path: Path) -> None:
    on_disk = _opened(tmp_path, np.ones(LARGE // 8))
    before = resident()
    assert on_disk.sum() == LARGE // 8
    assert resident() - before > LARGE / 2
    mapped.give_back(on_disk[5:].reshape(1, -1))
    assert resident() - before < LARGE / 8
    assert on_disk.sum() == LARGE // 8


@linux
@pytest.mark.parametrize("how", ["take", "windows"])
def test_no_more_than_a_window_stays_in_memory(tmp_path: Path, how: str) -> None:
    on_disk = _opened(tmp_path, np.ones((LARGE // 64, 8)))
    places = RNG.permutation(len(on_disk))[: len(on_disk) // 50]
    gc.collect()
    before = resident()
    if how == "take":
        mapped.take(on_disk, places)
    else:
        for part in mapped.windows(on_disk):
            on_disk[part].sum()
            assert resident() - before < LARGE / 8
    assert resident() - before < LARGE / 8


# ── what is laid down ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("window", [1, 50, 1 << 20])
@pytest.mark.parametrize(
    "values",
    [np.arange(100), RNG.random((30, 3, 2)).T, np.array(["é", "", "ab"] * 9), np.zeros((0, 2))],
    ids=["numbers", "not contiguous", "texts", "nothing"],
)
def test_what_is_laid_down_is_the_same(
    monkeypatch: pytest.MonkeyPatch, values: np.ndarray, window: int
) -> None:
    monkeypatch.setattr(mapped, "WINDOW", window)
    found = mapped.laid(values)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert np.array_equal(found, values)


def test_what_is_large_is_not_in_memory_and_cannot_be_changed() -> None:
    found = mapped.laid_out(np.full((4096, 8), block) for block in range(8))
    assert found[::4096, 0].tolist() == list(range(8))
    assert found.base is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    assert peak(lambda: mapped.laid_out(np.zeros(1 << 17) for _ in range(64))) < 8 << 20


def test_blocks_of_several_types_are_refused() -> None:
    """Read back as the first one is, the others would be other values."""
    with pytest.raises(ValueError, match="blocks are <U1 and <U2"):
        mapped.laid_out([np.array(["a"]), np.array(["ab"])])
    with pytest.raises(ValueError, match="blocks are object"):
        mapped.laid_out([np.array([b"a"], dtype=object)] * 2)


def test_a_full_disk_is_told_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match=r"No space left on device\. Free the disk, or set TMPDIR"):
        mapped.laid_out([np.arange(3), np.arange(3)])


def test_a_column_of_wide_rows_is_read_in_windows_of_whole_rows(tmp_path: Path) -> None:
    on_disk = _opened(tmp_path, np.arange(LARGE // 8, dtype=np.int64).reshape(-1, 64))
    before = resident()
    column = on_disk[:, 3]
    for part in mapped.windows(column):
        column[part].sum()
        assert resident() - before < LARGE / 8
    places = np.array([5, 0])
    assert mapped.take(column, places).tolist() == [5 * 64 + 3, 3]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_function_of_rows_by_themselves_is_the_same_on_windows(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(mapped, "WINDOW", 30)
    values = RNG.random((count, 2))
    assert np.array_equal(mapped.each(lambda rows: rows[:, 0] > 0.5, values), values[:, 0] > 0.5)
