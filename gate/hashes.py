"""What hashing a table's examples found, kept from one run to the next.

What is kept of an example holds while the file it was read from is the same by path, size and both
times of change, and code, libraries, columns and preprocessing are the same. Of those times anyone
can set the one that `ls` shows; the inode's only the kernel sets, so that an exchanged file that
was given its old time is hashed again. A file that was changed just now may change once more within
the same tick of the clock: nothing is kept of it.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b, sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gate import formats, identity, mapped, preprocess, tokens
from gate.errors import DataError
from gate.pictures import Files
from gate.sealed import Sealed
from gate.sources import Preprocess
from gate.table import Table
from gate.values import Array, Ragged, TensorSpec, Values
from gate.wording import few

FOLDER = Path(".gate") / "cache" / "hashes"
"""Relative to the current folder, as the folders of runs are."""
STORED, SOUND, PREPARED, MISSING, MEASURED, LONG = 1, 2, 4, 8, 16, 32
"""What is known of a row, bit by bit: the hash of its inputs as stored; that they hold no NaN and
the like; the hash of what the model gets, or that it does not decode; whether its text is cut."""
_OF_PREPARED = PREPARED | MISSING | MEASURED | LONG
_MOST = 1 << 30
"""Bytes of the folder, about ten million examples; what was used longest ago goes first."""
_FORMAT = 1
_JUST_NOW = 2_000_000_000
"""Nanoseconds: the coarsest clock that file systems keep."""
_TAG, _HASH = 16, 32
_BLOCK = 65536
_LIBRARIES = ("int8-gate", "numpy", "pillow", "pyarrow", "tokenizers")
_CODE = (
    "boxes.py", "census.py", "hashes.py", "identity.py", "pictures.py", "preprocess.py",
    "sources.py", "table.py", "tokens.py", "values.py", "formats/*.py",
)  # fmt: skip
Stamp = tuple[int, int, int]
"""Size, time of change of the content, of the inode; nanoseconds."""


@dataclass(slots=True)
class Known:
    """What is known of each of a table's rows; nothing at first."""

    count: int
    state: Array = field(init=False)
    """(N,) of uint8: bits."""
    stored: Array = field(init=False)
    """(N, 32) of uint8: sha256 of the inputs as stored."""
    prepared: Array = field(init=False)
    """(N, 32) of uint8: of what the model gets."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why the image of a row does not decode."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of many rows together, by a hash of all that they were made of."""
    remembered: dict[str, str] = field(default_factory=dict)
    """Those of earlier runs."""

    def __post_init__(self) -> None:
        """Pages that nothing is written to take no memory."""
        self.state = np.zeros(self.count, dtype=np.uint8)
        self.stored = np.zeros((self.count, _HASH), dtype=np.uint8)
        self.prepared = np.zeros((self.count, _HASH), dtype=np.uint8)

    def lacking(self, rows: Array, what: int) -> Array:
        """Places in `rows` of those of which some of `what` is not known."""
        return np.flatnonzero(self.state[rows] & what != what)

    def digest(self, make: Callable[..., str], *values: Values | None) -> str:
        """What `make` gives for `values`, from before where all of their bytes are the same."""
        state = sha256(make.__name__.encode())
        for value in values:
            parts = (value.values, value.offsets) if isinstance(value, Ragged) else (value,)
            for part in parts:
                state.update(f"{None if part is None else (part.dtype.str, part.shape)}".encode())
                if part is not None:
                    for place in mapped.windows(part):
                        state.update(part[place].tobytes())
        told = state.hexdigest()
        found = self.remembered.get(told) or make(*values)
        self.digests[told] = found
        return found

    def copy(self, mine: Array, other: "Known", theirs: Array) -> None:
        """Take over rows of another table as these rows."""
        self.state[mine] = other.state[theirs]
        self.stored[mine] = other.stored[theirs]
        self.prepared[mine] = other.prepared[theirs]
        self.reasons |= {
            row: other.reasons[place]
            for row, place in zip(mine.tolist(), theirs.tolist(), strict=True)
            if place in other.reasons
        }


@dataclass(frozen=True, slots=True)
class _Stamps:
    """The files that rows were read from, as they were before that."""

    tags: Array
    """(N, 16) of uint8, of path, size and time; (0, 16) where one file holds all rows."""
    changed: Array
    """(N,) or (1,) of int64: the inode's time; 0 where the file was changed just now."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a table was read from."""

    path: Path
    stamp: Stamp
    """Of the path, before anything was read."""
    format: str | None = None
    """As the policy names it."""
    pinned: bool = False
    """Whether its content is held against a pin, which only the bytes themselves can be."""


class Memory:
    """What earlier runs found of a table's rows.

    Of a table whose content its files do not tell for sure nothing is kept: one of a plugin's
    format, or with images beside other inputs.
    """

    def __init__(
        self,
        table: Table,
        origin: Origin,
        inputs: tuple[TensorSpec, ...],
        told: Preprocess | None,
        home: Path,
    ) -> None:
        """`inputs` and `told` say what the model gets; files are relative to `home`."""
        self._key = _key(table, origin, inputs, told, home)
        self._table, self._origin, self._count = table, origin, len(table)
        self._files = next((c for c in table.inputs.values() if isinstance(c, Files)), None)
        self._disk = Sealed(FOLDER, ".hashes")
        self._prepared = self._key is not None and self._key["prepared"] is not None
        self._now = _Stamps(np.zeros((0, _TAG), dtype=np.uint8), np.zeros(1, dtype=np.int64))
        self._then: tuple[_Stamps, Known] | None = None
        self._recalled = np.zeros(self._count, dtype=np.uint8)

    def recall(self, *, trust: bool) -> Known:
        """What holds of each row; nothing without `trust`, for everything to be read again."""
        known = Known(self._count)
        if self._key is None:
            return known
        self._now = self._stamps()
        payload = self._disk.load(self._key)
        self._then = None if payload is None else _unpacked(payload)
        if self._then is not None and trust:
            then, found = self._then
            mine, theirs = self._same()
            changed = np.broadcast_to(self._now.changed, self._count)[mine]
            held = (changed > 0) & (changed == np.broadcast_to(then.changed, found.count)[theirs])
            known.copy(mine[held], found, theirs[held])
            known.remembered = found.digests
        self._recalled = known.state.copy()
        return known

    def keep(self, known: Known) -> None:
        """Keep what is new, of files that are still what they were before they were read."""
        if self._key is None:
            return
        learnt = np.flatnonzero(known.state != self._recalled)
        alike = self._then is not None and np.array_equal(self._then[0].tags, self._now.tags)
        if alike and not learnt.size and known.digests.keys() <= known.remembered.keys():
            return
        changed = self._now.changed.copy()
        changed[self._moved(learnt)] = 0
        state = np.where(changed > 0, known.state, 0).astype(np.uint8)
        if state.any():
            stamps = _Stamps(self._now.tags, changed)
            self._disk.save(self._key, _packed(stamps, known, state, prepared=self._prepared))
            self._disk.prune(_MOST)

    def demand_same(self, known: Known) -> None:
        """Show that no file that has the size and time that it had has other content than it had.

        Raises:
            DataError: one has; names it, and the first examples.
        """
        rows = self._contradicted(known)
        if not len(rows):
            return
        ids = identity.heads(known.stored[rows]) if self._table.id is None else self._table.id[rows]
        file = self._origin.path if self._files is None else self._files.paths(rows[:1])[0]
        raise DataError(
            f"{self._table.where}: {file} has the size and the time of change that it had when it "
            f"was hashed before, and other content; {len(rows)} examples are others than they "
            f"were: {few([repr(str(one)) for one in ids])}. The disk is failing, or something gave "
            "an exchanged file its old time: restore it, or find out what wrote it. From now on "
            "it counts as what it is now"
        )

    def _contradicted(self, known: Known) -> Array:
        if self._then is None:
            return np.zeros(0, dtype=np.int64)
        mine, theirs = self._same()
        found = self._then[1]
        both = known.state[mine] & found.state[theirs]
        stored = (known.stored[mine] != found.stored[theirs]).any(axis=1)
        prepared = (known.prepared[mine] != found.prepared[theirs]).any(axis=1)
        prepared |= (known.state[mine] ^ found.state[theirs]) & MISSING > 0
        parted = (stored & (both & STORED > 0)) | (prepared & (both & PREPARED > 0))
        rows: Array = mine[parted]
        return rows

    def _same(self) -> tuple[Array, Array]:
        """Rows, and places in what was found then, of the same path, size and time."""
        assert self._then is not None
        then, found = self._then
        if np.array_equal(then.tags, self._now.tags) and found.count == self._count:
            return (np.arange(self._count),) * 2
        if not (len(then.tags) and len(self._now.tags)):
            return (np.zeros(0, dtype=np.int64),) * 2
        old, new = identity.keys(then.tags), identity.keys(self._now.tags)
        order = np.argsort(old)
        places = order[np.searchsorted(old[order], new).clip(max=len(old) - 1)]
        mine = np.flatnonzero(old[places] == new)
        return mine, places[mine]

    def _stamps(self) -> _Stamps:
        latest = time.time_ns() - _JUST_NOW
        if self._files is None:
            return _Stamps(self._now.tags, _settled(np.array([self._origin.stamp]), latest))
        tags, stamps = bytearray(), np.zeros((self._count, 3), dtype=np.int64)
        for start in range(0, self._count, _BLOCK):
            paths = self._files.paths(slice(start, start + _BLOCK))
            for row, path in enumerate(paths, start):
                stamps[row] = size, when, _ = stamp_of(path)
                told = b"%b\0%d\0%d" % (os.fsencode(path), size, when)
                tags += blake2b(told, digest_size=_TAG).digest()
        return _Stamps(
            np.frombuffer(bytes(tags), dtype=np.uint8).reshape(-1, _TAG), _settled(stamps, latest)
        )

    def _moved(self, rows: Array) -> Array:
        """Of these rows those whose file is another than before it was read."""
        if self._files is None:
            moved = stamp_of(self._origin.path) != self._origin.stamp
            return np.zeros(int(moved), dtype=np.int64)
        found = [
            row
            for row, path in zip(rows.tolist(), self._files.paths(rows), strict=True)
            if stamp_of(path)[2] != self._now.changed[row]
        ]
        return np.array(found, dtype=np.int64)


def stamp_of(path: str | Path) -> Stamp:
    """What a file is without its content; zeros where it cannot be told."""
    try:
        told = os.stat(path)
    except OSError:
        return 0, 0, 0
    return told.st_size, told.st_mtime_ns, told.st_ctime_ns


def _settled(stamps: Array, latest: int) -> Array:
    """(N, 3) -> (N,) of the inode's time; 0 where either time is later than `latest`."""
    return np.where((stamps[:, 1:] < latest).all(axis=1), stamps[:, 2], 0)


# ── what hashes depend on ─────────────────────────────────────────────────────────────────


def _key(
    table: Table,
    origin: Origin,
    inputs: tuple[TensorSpec, ...],
    told: Preprocess | None,
    home: Path,
) -> dict[str, Any] | None:
    """All that hashes depend on, besides images; None where that does not tell."""
    images = [isinstance(column, Files) for column in table.inputs.values()]
    read_as, code = formats.of(origin.path, origin.format).key, _code()
    sure = images == [True] or (not any(images) and origin.path.is_file())
    if origin.pinned or code is None or read_as not in formats.FORMATS or not sure:
        return None
    by_row = preprocess.is_by_row(table.inputs, inputs, told)
    return {
        "format": _FORMAT,
        "code": code,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "machine": platform.machine(),
        "path": str(origin.path),
        "read_as": read_as,
        "file": None if any(images) else origin.stamp[:2],
        "columns": [[n, c.dtype.str, [*c.shape[1:]]] for n, c in sorted(table.inputs.items())],
        "prepared": _of_preparing(inputs, told, home) if by_row else None,
    }


def _of_preparing(
    inputs: tuple[TensorSpec, ...], told: Preprocess | None, home: Path
) -> list[Any] | None:
    if told is None:
        return None
    specs = [[spec.name, spec.dtype, [*spec.shape]] for spec in inputs]
    file = None if told.tokenizer is None else tokens.place(told.tokenizer, home)
    return [preprocess.digest(told), file and tokens.sha256(file), specs]


@cache
def _code() -> str | None:
    """Hash of the modules that read, prepare and hash; None where they are not there to read."""
    state, home = sha256(), Path(__file__).parent
    files = sorted(file for pattern in _CODE for file in home.glob(pattern))
    if len(files) < len(_CODE):
        return None
    for file in files:
        state.update(file.name.encode() + sha256(file.read_bytes()).digest())
    return state.hexdigest()


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ── on disk ───────────────────────────────────────────────────────────────────────────────


def _packed(stamps: _Stamps, known: Known, state: Array, *, prepared: bool) -> bytes:
    """A line of JSON, then arrays one after the other; what a batch decides is left out."""
    if not prepared:
        state = state & np.uint8(0xFF ^ _OF_PREPARED)
    reasons = {row: why for row, why in known.reasons.items() if state[row] & MISSING}
    sizes = {"rows": known.count, "tags": len(stamps.tags), "changed": len(stamps.changed)}
    more = {"prepared": prepared, "reasons": reasons, "digests": known.digests}
    told = json.dumps({**sizes, **more})
    arrays = [stamps.tags, stamps.changed.astype("<i8"), state, known.stored]
    arrays += [known.prepared] if prepared else []
    return b"".join([told.encode(), b"\n", *(np.ascontiguousarray(a).data for a in arrays)])


def _unpacked(payload: bytes) -> tuple[_Stamps, Known] | None:
    """Of what `_packed` gave; None of anything else."""
    try:
        return _read(payload)
    except (ValueError, KeyError, TypeError):
        return None


def _read(payload: bytes) -> tuple[_Stamps, Known]:
    start = payload.index(b"\n") + 1
    told = json.loads(payload[:start])
    known = Known(told["rows"])
    known.reasons = {int(row): why for row, why in told["reasons"].items()}
    known.digests = told["digests"]

    def array(count: int, size: int, kind: str = "u1") -> Array:
        nonlocal start
        found: Array = np.frombuffer(payload, kind, count * size, start).reshape(count, size)
        start += found.nbytes
        return found

    stamps = _Stamps(array(told["tags"], _TAG), array(told["changed"], 1, "<i8").ravel())
    known.state = array(known.count, 1).ravel()
    known.stored = array(known.count, _HASH)
    if told["prepared"]:
        known.prepared = array(known.count, _HASH)
    return stamps, known
