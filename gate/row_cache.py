"""What models made of shards in earlier runs: FP32's for any, both models' for one interrupted.

FP32 gives the same for the same example under every recipe, in every release that holds INT8
against it and every retry, so what its outputs were decoded to is kept, under a hash of all that it
depends on: the model, the examples as it gets them, their batches, how outputs are decoded, the
runtime, its session options, the CPU, and the gate's own code. Before anything is reused, FP32 runs
on one batch again and has to give the same bits.

Shards of a run that was interrupted are taken up where both models, too, are the same; a run that
ends leaves none, so that INT8 is always measured.
"""

import io
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gate.scoring import Part, Scored
from gate.sealed import Sealed
from gate.values import Array, Batch, Ragged, Values, finite

_FORMAT = 1
_LARGEST = 64 << 20
"""Bytes of a shard; models are run again rather than that more is written and read back."""
_MOST = 4 << 30
"""Bytes of a folder; what was used longest ago goes first."""
_OFFSETS = "\0offsets"
"""No output and no metric has such a name."""
_ARRAYS = ("fp32", "int8", "own", "sample")
Key = Mapping[str, Any]


class RowCache:
    """What is kept of the shards of one run; as `gate.evaluate.Memory`."""

    def __init__(
        self, folder: Path, *, fp32: Key, run: Key, again: Callable[[Batch], Values], batch: int
    ) -> None:
        """Keep files in `folder`, which several runs may share.

        Args:
            folder: need not exist.
            fp32: what FP32's decoded outputs depend on, besides the examples.
            run: what the rows of both models depend on besides that.
            again: FP32's decoded outputs of a batch, by running it.
            batch: examples of one.
        """
        self._references = Sealed(folder, ".fp32")
        self._scored = Sealed(folder, ".shard")
        self._fp32 = {"format": _FORMAT, **fp32}
        self._run = {**self._fp32, **run}
        self._again, self._batch = again, batch
        self._trusted: bool | None = None
        self._left: list[Key] = []
        self._reused = 0
        """Examples for which INT8 alone ran."""
        self._resumed = 0
        """Examples for which no model ran."""

    def load(self, part: Part) -> Scored | None:
        """What both models made of a shard in a run that was interrupted; None: nothing is left."""
        payload = self._scored.load(self._run_key(part))
        found = None if payload is None else _restored(payload)
        if found is None or not _fits(found, part):
            return None
        self._left.append(self._run_key(part))
        self._resumed += len(part.split)
        return found

    def known(self, part: Part) -> Part:
        """The shard with what FP32 made of it in any run, where that is shown to be the same."""
        if self._trusted is False:
            return part
        payload = self._references.load(self._fp32_key(part))
        arrays = None if payload is None else _unpacked(payload)
        found = None if arrays is None else _value(arrays, "reference")
        if found is None or len(found) != len(part.split) or not finite(found).all():
            return part
        if self._trusted is None:
            self._trusted = self._is_same(part, found)
        if not self._trusted:
            return part
        return part.knowing(found)

    def save(self, part: Part, scored: Scored) -> None:
        """A shard is done; a folder that cannot be written costs the next run the time again."""
        if part.reference is None:
            self._keep(self._references, self._fp32_key(part), _flat("reference", scored.reference))
        else:
            self._reused += len(part.split)
        key = self._run_key(part)
        if self._keep(self._scored, key, _arrays(scored)):
            self._left.append(key)

    def clear(self, examples: int) -> tuple[str, ...]:
        """The run is on the record, with so many examples: what of it was not run, in sentences.

        What an interrupted run would need goes, and so does what the folder has no room for.
        """
        for key in self._left:
            self._scored.drop(key)
        for files in (self._references, self._scored):
            files.prune(_MOST)
        resumed = min(self._resumed, examples)
        lines = []
        if resumed:
            lines.append(f"{resumed:,} examples were taken up from a run that was interrupted")
        if self._reused:
            lines.append(
                f"FP32 was known of {self._reused:,} examples; it gave the same bits again"
            )
        return tuple(lines)

    def _keep(self, files: Sealed, key: Key, arrays: Mapping[str, Array]) -> bool:
        """Whether it is; what is very large would fill the disk that this run's rows need."""
        if sum(array.nbytes for array in arrays.values()) > _LARGEST:
            return False
        payload = _packed(arrays)
        return payload is not None and files.save(key, payload)

    def _is_same(self, part: Part, found: Values) -> bool:
        fresh = self._again(part.split.batch(0, self._batch))
        return _bits(fresh) == _bits(found[: len(fresh)])

    def _fp32_key(self, part: Part) -> Key:
        return self._fp32 | {"content": sha256(part.split.content.tobytes()).hexdigest()}

    def _run_key(self, part: Part) -> Key:
        kept = sha256(np.packbits(part.kept).tobytes()).hexdigest()
        ids = sha256("\0".join(part.split.ids.tolist()).encode()).hexdigest()
        return self._run | {**self._fp32_key(part), "kept": kept, "ids": ids, "part": part.number}


def _fits(found: Scored, part: Part) -> bool:
    sides = [*found.fp32.values(), *found.int8.values(), *found.own.values(), found.broken]
    return found.ids.tolist() == part.split.ids.tolist() and all(
        len(values) == len(part.split) for values in sides
    )


def _bits(values: Values) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(values, Ragged):
        return "ragged", values.shape, values.offsets.tobytes() + values.values.tobytes()
    return str(values.dtype), values.shape, np.ascontiguousarray(values).tobytes()


# ── on disk ───────────────────────────────────────────────────────────────────────────────


def _arrays(scored: Scored) -> dict[str, Array]:
    """What is needed to go on; not what FP32 made, which is kept by itself."""
    arrays = {"ids": scored.ids, "broken": scored.broken}
    for side in _ARRAYS:
        for name, values in getattr(scored, side).items():
            arrays |= _flat(f"{side}/{name}", values)
    return arrays


def _restored(payload: bytes) -> Scored | None:
    arrays = _unpacked(payload)
    if arrays is None or not {"ids", "broken"} <= arrays.keys():
        return None
    sides: dict[str, dict[str, Any]] = {side: {} for side in _ARRAYS}
    for name in arrays:
        side, _, rest = name.partition("/")
        if side in sides and not name.endswith(_OFFSETS):
            sides[side][rest] = _value(arrays, name)
    none = np.zeros((0, 0))
    return Scored(ids=arrays["ids"], broken=arrays["broken"], reference=none, **sides)


def _flat(name: str, values: Values) -> dict[str, Array]:
    if isinstance(values, Ragged):
        return {name: values.values, name + _OFFSETS: values.offsets}
    return {name: values}


def _value(arrays: Mapping[str, Array], name: str) -> Values | None:
    if name not in arrays:
        return None
    offsets = arrays.get(name + _OFFSETS)
    return arrays[name] if offsets is None else Ragged(arrays[name], offsets)


def _packed(arrays: Mapping[str, Array]) -> bytes | None:
    """None where one holds Python's objects, which no file brings back as they were."""
    out = io.BytesIO()
    names = json.dumps(list(arrays)).encode()
    try:
        for array in (np.frombuffer(names, dtype=np.uint8), *arrays.values()):
            np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)
    except ValueError:
        return None
    return out.getvalue()


def _unpacked(payload: bytes) -> dict[str, Array] | None:
    """None where it holds anything else."""
    source = io.BytesIO(payload)
    try:
        names = json.loads(np.lib.format.read_array(source, allow_pickle=False).tobytes())
        return {name: np.lib.format.read_array(source, allow_pickle=False) for name in names}
    except (ValueError, TypeError, EOFError, OSError):
        return None
