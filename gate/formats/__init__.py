"""File formats that a split can come in."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from gate import door
from gate.errors import DataError, UsageError
from gate.values import Column

GROUP = "gate.formats"
FORMATS = {
    "coco": "gate.formats.coco:FORMAT",
    "image_folder": "gate.formats.image_folder:FORMAT",
    "jsonl": "gate.formats.jsonl:FORMAT",
    "npz": "gate.formats.npz:FORMAT",
    "parquet": "gate.formats.parquet:FORMAT",
}
_FOLDER = "image_folder"


class Format(Protocol):
    """Reads columns out of a file."""

    key: str
    suffixes: tuple[str, ...]
    """File name endings that mean this format; empty for one of folders."""

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:
        """Columns by name, first axis N, read lazily.

        What cannot be mapped into memory in place is unpacked once, streaming, into `scratch`,
        the run's private folder. Nothing that can run code (pickles) is ever loaded.

        Raises:
            DataError: the file is damaged or holds something that is not a column.
        """

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes, without reading the data."""


@runtime_checkable
class Illustrated(Protocol):
    """A format whose files name images that lie elsewhere."""

    def read_with(self, path: Path, scratch: Path, images: Path) -> Mapping[str, Column]:
        """As `read`, with the folder of the images."""


def get(key: str) -> Format:
    """The format behind `key`; `UsageError` lists the known ones."""
    return cast(Format, door.look_up(GROUP, FORMATS, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, FORMATS)


def of(path: Path, key: str | None) -> Format:
    """The format named by `key`, else the one that the file's name tells.

    Raises:
        UsageError: neither says.
    """
    if key is not None:
        return get(key)
    if path.is_dir():
        return get(_FOLDER)
    for name in names():
        candidate = get(name)
        if candidate.suffixes and path.name.endswith(candidate.suffixes):
            return candidate
    raise UsageError(
        f"cannot tell the format of {path} from its name; "
        f"add `format:` with one of: {', '.join(names())}"
    )


def read(path: Path, key: str | None, scratch: Path, images: Path | None) -> Mapping[str, Column]:
    """Columns by name, by the format that `of` finds; `images` is a folder of them.

    Raises:
        UsageError: the format is not known, or its files name no images.
        DataError: as `Format.read`.
    """
    found = of(path, key)
    if images is None:
        return found.read(path, scratch)
    if not isinstance(found, Illustrated):
        raise UsageError(
            f"`images: {images}` is for formats that name images, and {path} is {found.key}: "
            "remove it"
        )
    return found.read_with(path, scratch, images)


def unpacking_folder(scratch: Path, path: Path, size: int) -> Path:
    """A new folder in `scratch` for the `size` bytes that `path` unpacks to.

    Raises:
        DataError: the disk has no room for them.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(scratch).free
    if size > free:
        raise DataError(
            f"{path} unpacks to {size:,} bytes, and {scratch} has {free:,} free; make room, "
            "or set TMPDIR to a larger disk"
        )
    return Path(tempfile.mkdtemp(prefix="columns-", dir=scratch))
