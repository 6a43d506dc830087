"""Reads a folder of images, one subfolder a class, as everyone lays them out."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gate.errors import DataError
from gate.pictures import SUFFIXES, Files, Names
from gate.values import Column

_SHOWN = 5


class ImageFolder:
    """Columns `image`, `id` (the path in the folder) and, where there are subfolders, `target`.

    The target is the subfolder's name, however deep below it an image lies. Names that begin with
    a dot are passed over, as listings do.
    """

    key: str = "image_folder"
    suffixes: tuple[str, ...] = ()

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:  # noqa: ARG002
        """Columns (N,) in the order of the paths; images are read when they are asked for.

        Raises:
            DataError: no folder, a file that is no image, an image beside subfolders, an empty
                class, or a name that is no text.
        """
        names = _names(path)
        values = np.array(names, dtype=str)
        columns: dict[str, Column] = {"image": Files(values, path), "id": Names(values)}
        if _classes(path, names):
            columns["target"] = np.array([name.split("/")[0] for name in names], dtype=str)
        return columns

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes."""
        return {name: column.shape for name, column in self.read(path, path).items()}


FORMAT = ImageFolder()


def _names(path: Path) -> list[str]:
    """Paths in the folder, with `/`, sorted."""
    if not path.is_dir():
        raise DataError(f"{path} cannot be read: `image_folder` is a folder of images")
    names = sorted(_walk(path))
    if not names:
        raise DataError(f"{path} holds no images ({', '.join(SUFFIXES)})")
    strange = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if strange:
        more = ", …" if len(strange) > _SHOWN else ""
        raise DataError(
            f"{path} holds {len(strange)} files that are no images by name "
            f"({', '.join(SUFFIXES)}): {', '.join(map(repr, strange[:_SHOWN]))}{more}; move them "
            "out of the folder"
        )
    for name in names:
        if not os.path.isfile(os.path.join(path, name)):
            raise DataError(
                f"{path}: {name!r} is no file but a device, a pipe or a link to nothing; take it "
                "out of the folder"
            )
        if not name.isprintable():
            raise DataError(
                f"{path}: the file name {name!r} has control characters or is not Unicode; rename "
                "it"
            )
    return names


def _walk(path: Path) -> list[str]:
    found = []
    above: dict[str, tuple[str, ...]] = {}
    for folder, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        above[folder] = _chain(path, folder, above.get(os.path.dirname(folder), ()))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(folder).relative_to(path)
        if not folders and not any(not name.startswith(".") for name in files) and inner.parts:
            raise DataError(f"{path}: folder {str(inner)!r} is empty; remove it, or restore it")
        prefix = f"{inner.as_posix()}/" if inner.parts else ""
        found += [prefix + name for name in files if not name.startswith(".")]
    return found


def _chain(path: Path, folder: str, above: tuple[str, ...]) -> tuple[str, ...]:
    """The real folders from `path` down to this one; none of them occurs twice."""
    real = str(Path(folder).resolve())
    if real in above:
        raise DataError(
            f"{path}: {str(Path(folder).relative_to(path))!r} is a link to a folder that it lies "
            "in; remove it"
        )
    return (*above, real)


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error


def _classes(path: Path, names: list[str]) -> bool:
    """Whether images lie in subfolders, which are their classes."""
    flat = [name for name in names if "/" not in name]
    if flat and len(flat) < len(names):
        raise DataError(
            f"{path}: {flat[0]!r} lies beside the folders of the classes, so that it has none; "
            "move it into one"
        )
    return not flat
