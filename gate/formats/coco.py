"""Reads COCO's annotations: boxes of objects in images that lie beside the file.

Source: the data format of https://cocodataset.org/#format-data; `bbox` is x, y, width, height.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import boxes
from gate.errors import DataError
from gate.pictures import Files, Names, size_of
from gate.values import Array, Classed, Column, Ragged

_BOX = 4
_SLACK = 1.0
"""Pixels that a box may stand out of its image by, as rounding does."""
_LONGEST = 1 << 30
"""Pixels of a side, more than any image has."""
_TOLD = 80
"""Characters of a wrong value that a message shows."""
_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "images": {"id": (int, str), "file_name": str, "width": int, "height": int},
    "annotations": {"image_id": (int, str), "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}


class Coco:
    """Columns `image`, `id` (the file name) and `target`: an image's boxes, rows as `gate.boxes`.

    The class of a box is the place of its category in the sorted ids of the categories.
    """

    key: str = "coco"
    suffixes: tuple[str, ...] = (".json",)

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:
        """Columns of the file, with images beside it."""
        return self.read_with(path, scratch, path.parent)

    def read_with(self, path: Path, scratch: Path, images: Path) -> Mapping[str, Column]:  # noqa: ARG002
        """Columns (N,), in the order of `images`; images are read when they are asked for.

        Raises:
            DataError: not such a file, an image without file or of another size than it says, a
                box of no image or category, without area, or out of its image by more than a
                pixel.
        """
        document = _document(path)
        listed = [image["file_name"] for image in document.images]
        _check_files(path, images, listed)
        names = np.array(listed, dtype=str)
        files = Files(names, images)
        _check_sizes(path, document.images, files)
        return {
            "image": files,
            "id": Names(names),
            "target": _target(path, document),
        }

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes, without looking for the images."""
        count = len(_document(path).images)
        return {"image": (count,), "id": (count,), "target": (count, boxes.WIDTH)}


FORMAT = Coco()


@dataclass(frozen=True, slots=True)
class _Document:
    """Lists of checked entries."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


# ── the document ──────────────────────────────────────────────────────────────────────────


def _document(path: Path) -> _Document:
    try:
        raw = json.loads(path.read_bytes(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): the file is truncated, damaged or not COCO's JSON; "
            "write it again"
        ) from error
    document = _Document(**{name: list(_listed(path, raw, name)) for name in _FIELDS})
    if not document.images:
        raise DataError(f"{path} holds no images")
    for entries, field in (
        (document.images, "id"),
        (document.images, "file_name"),
        (document.categories, "id"),
        ([one for one in document.annotations if isinstance(one.get("id"), int | str)], "id"),
    ):
        _refuse_repeated(path, entries, field)
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _listed(path: Path, raw: Any, name: str) -> Iterator[dict[str, Any]]:
    entries = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            f"{path} has no list {name!r}: an annotation file of COCO has "
            f"{', '.join(map(repr, _FIELDS))}; name another `format:`, or write it so"
        )
    for place, entry in enumerate(entries):
        where = f"{path}: {name}[{place}]"
        for field, kind in _FIELDS[name].items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise DataError(f"{where}: {field!r} is {_told(value)}; correct the entry")
        yield entry


def _told(value: Any) -> str:
    return "missing" if value is None else f"{_shown(json.dumps(value))}, which it cannot be"


def _shown(text: str) -> str:
    return text if len(text) <= _TOLD else text[:_TOLD] + "…"


def _refuse_repeated(path: Path, entries: list[dict[str, Any]], field: str) -> None:
    seen: set[Any] = set()
    for entry in entries:
        value = entry[field]
        if value in seen:
            raise DataError(
                f"{path}: {field!r} {value!r} occurs more than once; keep one of the entries"
            )
        seen.add(value)


# ── images ────────────────────────────────────────────────────────────────────────────────


def _check_files(path: Path, images: Path, names: list[str]) -> None:
    for name in names:
        outside = os.path.isabs(name) or ".." in name.split("/")
        if not name.isprintable() or not name or outside:
            raise DataError(
                f"{path}: 'file_name' {name!r} is no plain path in the folder of the images; "
                "correct it"
            )
        if not os.path.isfile(os.path.join(images, name)):
            raise DataError(
                f"{path}: image {_shown(name)!r} is not in {images}; restore it, or say in "
                "`images:` which folder holds the images"
            )


def _check_sizes(path: Path, images: list[dict[str, Any]], files: Files) -> None:
    """Boxes are in pixels of the image; one that is no image is found where it is decoded."""
    for place, image in enumerate(images):
        if not all(1 <= image[side] <= _LONGEST for side in ("width", "height")):
            raise DataError(
                f"{path}: image {image['file_name']!r} has no pixels, or more than an image can "
                "have; correct its width and height"
            )
        try:
            size = size_of(files[place : place + 1][0])
        except ValueError:
            continue
        if size != (image["width"], image["height"]):
            raise DataError(
                f"{path}: image {image['file_name']!r} is {size[0]}×{size[1]} pixels upright, and "
                f"its annotation says {image['width']}×{image['height']}; its boxes would be in "
                "other places: correct the annotation"
            )


# ── boxes ─────────────────────────────────────────────────────────────────────────────────


def _target(path: Path, document: _Document) -> Classed:
    rows = Ragged.of(_entries(path, document), boxes.WIDTH)
    named = sorted(document.categories, key=lambda category: category["id"])
    return Classed(rows.values, rows.offsets, tuple(category["name"] for category in named))


def _entries(path: Path, document: _Document) -> list[Array]:
    """(m, 7) of each image, the row of the image first."""
    rows = {
        image["id"]: [boxes.image_row(image["width"], image["height"])] for image in document.images
    }
    images = {image["id"]: image for image in document.images}
    classes = {key: place for place, key in enumerate(sorted(c["id"] for c in document.categories))}
    for place, annotation in enumerate(document.annotations):
        where = f"{path}: annotations[{place}]"
        if annotation["image_id"] not in images:
            raise DataError(
                f"{where} is of image {annotation['image_id']!r}, which 'images' does not have; "
                "add the image, or remove the annotation"
            )
        if annotation["category_id"] not in classes:
            raise DataError(
                f"{where} is of category {annotation['category_id']}, which 'categories' does not "
                "have; add the category, or remove the annotation"
            )
        image = images[annotation["image_id"]]
        row = _row(f"{where} ({image['file_name']!r})", annotation, image)
        rows[image["id"]].append((float(classes[annotation["category_id"]]), *row))
    return [np.array(rows[image["id"]]) for image in document.images]


def _row(where: str, annotation: dict[str, Any], image: dict[str, Any]) -> tuple[float, ...]:
    """(x1, y1, x2, y2, area, crowd)."""
    numbers = annotation["bbox"]
    crowd, area = annotation.get("iscrowd", 0), annotation.get("area")
    if len(numbers) != _BOX or not all(map(_is_number, numbers)):
        raise DataError(
            f"{where}: 'bbox' is {_shown(str(numbers))}; it has to be [x, y, width, height]"
        )
    x, y, width, height = map(float, numbers)
    if width <= 0 or height <= 0:
        raise DataError(
            f"{where}: 'bbox' {numbers} has no area; its width and height have to be above 0"
        )
    inside = x >= -_SLACK and x + width <= image["width"] + _SLACK
    inside &= y >= -_SLACK and y + height <= image["height"] + _SLACK
    if not inside:
        raise DataError(
            f"{where}: 'bbox' {numbers} stands out of the image of {image['width']}×"
            f"{image['height']} pixels by more than one; correct it (x, y, width, height)"
        )
    most = (image["width"] + 2 * _SLACK) * (image["height"] + 2 * _SLACK)
    if crowd not in (0, 1) or (area is not None and not (_is_number(area) and 0 <= area <= most)):
        raise DataError(
            f"{where}: 'iscrowd' is 0 or 1, and 'area' a number of pixels, no more than the image "
            "has; correct it"
        )
    return x, y, x + width, y + height, float(width * height if area is None else area), crowd


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False
