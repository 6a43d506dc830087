"""Rows that grow shard by shard, on disk: a million examples are not held in memory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gate import mapped
from gate.errors import EvaluationError
from gate.values import Array, Ragged, Values


class Stream:
    """(N, k) values, or N entries of rows, of which only what is appended is in memory."""

    def __init__(self, file: Path) -> None:
        """Write to `file`, which is not there yet."""
        self._file = file
        self._sizes: list[Array] = []
        self._like: Array | None = None
        self._kind = ""
        self._rows = 0

    def append(self, values: Values) -> None:
        """The next examples.

        Raises:
            EvaluationError: the disk is full, or refuses.
        """
        flat = values.values if isinstance(values, Ragged) else values
        kind = _kind(values)
        self._kind = self._kind or kind
        if kind != self._kind or flat.dtype.hasobject:
            raise EvaluationError(
                f"a metric observed {kind} of an example in one shard and {self._kind} in another: "
                "rows have to be alike, and numbers. Mend the task's `observe`"
            )
        if self._like is None:
            self._like = flat[:0].copy()
        if isinstance(values, Ragged):
            self._sizes.append(values.sizes)
        try:
            with self._file.open("ab") as out:
                out.write(np.ascontiguousarray(flat).data)
        except OSError as error:
            raise EvaluationError(
                f"rows cannot be written to {self._file.parent}: {error.strerror}. Free the disk, "
                "or set TMPDIR to one with room"
            ) from error
        self._rows += len(flat)

    def whole(self, examples: int) -> Values:
        """Of the first `examples`, mapped into memory as they are read."""
        assert self._like is not None
        tail, dtype = self._like.shape[1:], self._like.dtype
        values = np.zeros((self._rows if 0 in tail else 0, *tail), dtype)
        if self._rows and 0 not in tail:
            values = mapped.opened(self._file, dtype, (self._rows, *tail))
        if not self._sizes:
            return values[:examples]
        sizes = np.concatenate(self._sizes)[:examples]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        return Ragged(values[: int(offsets[-1])], offsets)


def _kind(values: Values) -> str:
    several = "any number of " if isinstance(values, Ragged) else ""
    flat = values.values if isinstance(values, Ragged) else values
    return f"{several}{flat.dtype}{list(flat.shape[1:])}"


class Streams:
    """One for every name."""

    def __init__(self, folder: Path) -> None:
        """In a folder of its own, which is not there yet."""
        self._folder = folder
        self._found: dict[str, Stream] = {}
        folder.mkdir(parents=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Of what was appended."""
        return tuple(self._found)

    def append(self, rows: Mapping[str, Values]) -> None:
        """The next examples of each.

        Raises:
            EvaluationError: as `Stream.append`.
        """
        for name, values in rows.items():
            if name not in self._found:
                self._found[name] = Stream(self._folder / f"{len(self._found)}.rows")
            self._found[name].append(values)

    def whole(self, examples: int) -> dict[str, Values]:
        """Of the first `examples`, by name."""
        return {name: stream.whole(examples) for name, stream in self._found.items()}
