"""What changed examples look like: pictures and texts of the held-out data, for one page.

Reports hold ids and never data, unless somebody asks for it: held-out data may be private.
"""

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate import pictures
from gate.commands._replay_stored import held_out
from gate.errors import UsageError
from gate.exhibits import Seen
from gate.records import GateRecord
from gate.values import Array, Ragged

SIZE = 96
"""Pixels of a picture's longer side."""
MOST = 200
"""Examples that are shown."""
_CHANNELS = (1, 3)
_LONGEST = 2000


def examples(record: GateRecord, data: Path | None) -> dict[str, Seen]:
    """What the changed examples of a record look like, by id; at most 200, lost ones first.

    Args:
        record: whose `flips` name them.
        data: the held-out data, where they have moved.

    Raises:
        UsageError: the data are not there, are others, or hold neither pictures nor text.
        GateError: they are damaged.
    """
    listed = [] if record.flips is None else [one.id for one in record.flips.shown][:MOST]
    if not listed:
        return {}
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        split = held_out(record, data, Path(scratch))
        place = {key: index for index, key in enumerate(split.ids.tolist())}
        wanted = [key for key in listed if key in place]
        rows = split.order[np.array([place[key] for key in wanted], dtype=np.int64)]
        columns = {name: column[rows] for name, column in split.inputs.items()}
    found = dict(_seen(wanted, columns))
    if not found:
        raise UsageError(
            f"--embed-examples: the inputs of {record.splits.held_out.source} are neither pictures "
            "nor text, so there is nothing to show of an example: leave it out"
        )
    return found


def _seen(ids: list[str], columns: Mapping[str, Any]) -> Iterator[tuple[str, Seen]]:
    """By the first column that a person can look at."""
    for values in columns.values():
        looks = [_look(values, index) for index in range(len(ids))]
        if any(look is not None for look in looks):
            yield from ((key, look) for key, look in zip(ids, looks, strict=True) if look)
            return


def _look(values: Any, index: int) -> Seen | None:
    if isinstance(values, Ragged):
        return None
    value = values[index]
    if values.dtype.kind == "U":
        return Seen("text", str(value)[:_LONGEST])
    if values.dtype.kind == "O":
        return _picture(pictures.decoded(value, "RGB"))
    pixels = _pixels(np.asarray(value))
    return None if pixels is None else _picture(pixels)


def _picture(pixels: Array) -> Seen:
    """A PNG of at most 96 by 96 pixels of (H, W, C) uint8; small ones are enlarged as they are."""
    from PIL import Image

    picture = Image.fromarray(
        np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)
    )
    factor = SIZE / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    stream = io.BytesIO()
    picture.resize((width, height), how).save(stream, "PNG", optimize=True)
    return Seen("image", base64.b64encode(stream.getvalue()).decode())


def _pixels(value: Array) -> Array | None:
    """(H, W, C) uint8 of an array that is an image: (H, W), (C, H, W) or (H, W, C), C of 1 or 3.

    Floats are spread over the range that they have.
    """
    if value.ndim == 2:  # noqa: PLR2004
        value = value[..., None]
    elif value.ndim == 3 and value.shape[0] in _CHANNELS:  # noqa: PLR2004
        value = np.moveaxis(value, 0, -1)
    if value.ndim != 3 or value.shape[2] not in _CHANNELS or min(value.shape[:2]) < 2:  # noqa: PLR2004
        return None
    if value.dtype == np.uint8:
        return value
    spread = value.astype(np.float64)
    low, high = float(spread.min()), float(spread.max())
    return np.asarray(np.round(255 * (spread - low) / ((high - low) or 1.0)), dtype=np.uint8)
