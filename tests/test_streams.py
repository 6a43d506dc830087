"""Rows on disk: what was appended comes back, and of a full disk nothing is made up."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shards import bits

from gate.errors import EvaluationError
from gate.streams import Stream, Streams
from gate.values import Ragged, joined

RNG = np.random.default_rng(1)
ARRAYS: dict[str, list[Any]] = {
    "numbers": [RNG.normal(size=(n, 3)) for n in (4, 1, 6)],
    "one by one": [RNG.normal(size=(1, 1)) for _ in range(5)],
    "empty in between": [np.ones((2, 2)), np.zeros((0, 2)), np.ones((1, 2))],
    "nothing": [np.zeros((0, 2)), np.zeros((0, 2))],
    "no columns": [np.zeros((3, 0)), np.zeros((2, 0))],
    "not contiguous": [RNG.normal(size=(3, 4)).T, RNG.normal(size=(6, 3))[::2]],
    "truths": [np.array([[True], [False]]), np.array([[True]])],
    "boxes": [
        Ragged.of([np.ones((n, 2)) * n for n in sizes], 2) for sizes in ((0, 3, 1), (2,), (0, 0))
    ],
    "no boxes": [Ragged.of([np.zeros((0, 2))] * 2, 2), Ragged.of([np.zeros((0, 2))], 2)],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_what_was_appended_comes_back(tmp_path: Path, kind: str) -> None:
    parts = ARRAYS[kind]
    stream = Stream(tmp_path / "rows")
    for part in parts:
        stream.append(part)
    whole = joined(parts)
    for count in range(len(whole) + 1):
        assert bits(stream.whole(count)) == bits(whole[:count])


def test_streams_are_kept_apart_whatever_they_are_called(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "fp32")
    names = ("a/b", "../c", "", "é" * 300)
    for part in range(3):
        streams.append({name: np.full((2, 1), 10.0 * k + part) for k, name in enumerate(names)})
    assert streams.names == names
    whole = streams.whole(5)
    for k, name in enumerate(names):
        assert whole[name][:, 0].tolist() == [10.0 * k + part for part in (0, 0, 1, 1, 2)]
    assert [file.parent for file in tmp_path.rglob("*.rows")] == [tmp_path / "fp32"] * 4


@pytest.mark.parametrize(
    "other",
    [np.zeros((2, 1), np.float32), np.zeros((2, 2)), Ragged.of([np.zeros((1, 1))] * 2, 1)],
    ids=["type", "width", "ragged"],
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, other: Any) -> None:
    """Read back as what the first ones were, they would be other numbers."""
    stream = Stream(tmp_path / "rows")
    stream.append(np.zeros((2, 1)))
    with pytest.raises(EvaluationError, match=r"rows have to be alike"):
        stream.append(other)


def test_a_full_disk_is_told_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = Stream(tmp_path / "rows")
    stream.append(np.zeros((2, 1)))
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(EvaluationError, match=r"No space left on device\. Free the disk, or set"):
        stream.append(np.zeros((2, 1)))


def test_objects_are_refused(tmp_path: Path) -> None:
    """What is written of them are addresses in memory."""
    with pytest.raises(EvaluationError, match=r"object\[1\] .* alike, and numbers"):
        Stream(tmp_path / "rows").append(np.array([["a"], [None]], dtype=object))
