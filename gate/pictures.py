"""Images: decoded, drawn to another size, and where their pixels land.

Pillow decodes and resamples. Each step of `Preprocess` is first a `Placed`, numbers that say how
the image is drawn; pixels and boxes are then moved by the same numbers.
"""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gate.errors import DataError
from gate.sources import Letterbox, Preprocess, Resampling, Resize
from gate.values import Array, Column

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""How the names of image files end, in lower case."""
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none runs another program
_DAMAGE = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError, RuntimeError, AssertionError, ZeroDivisionError, struct.error,
    zlib.error,
)  # fmt: skip
_DEEP = ("I", "F")
_DEEP_RAW = re.compile(r";16[BLN]")
"""How Pillow names 16 bits of each channel of what it cuts to 8; `BGR;16` is 16 of a pixel."""
_MOST_GREY = 255
_GREYS = ("1", "L", "LA", "La")
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_AXES = 3
_MOST_DRAWN = 16384 * 16384
"""Pixels of the largest size that a policy may ask for."""
_SHOWN = 5


class PicturesError(DataError):
    """Images of a batch from which no model can be fed; `faults`: place in the batch to reason."""

    def __init__(self, where: str, faults: Mapping[int, str], *, decode: bool) -> None:
        """`decode`: whether it is their bytes that are no images."""
        self.faults = dict(faults)
        self.decode = decode
        shown = "; ".join(f"image {place}: {why}" for place, why in [*faults.items()][:_SHOWN])
        super().__init__(f"{where}: {len(self.faults)} images of a batch cannot be used: {shown}")


# ── columns of encoded images ─────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """A column of encoded images, read from disk when they are asked for."""

    names: Array
    """(N,) of text: paths in `folder`."""
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,)."""
        return self.names.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Objects, which are `bytes`."""
        return np.dtype(object)

    def __getitem__(self, index: Any, /) -> Array:
        """(B,) of bytes, by slice or indices.

        Raises:
            DataError: a file cannot be read; names it.
        """
        return of_bytes([_read(path) for path in self.paths(index)])

    def paths(self, index: Any = slice(None), /) -> list[str]:
        """Where they lie, by slice or indices."""
        return [os.path.join(self.folder, name) for name in self.names[index].tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A column of ids that are names of files: in another folder they name other examples."""

    values: Array
    """(N,) of text."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Text."""
        return self.values.dtype

    def __getitem__(self, index: Any, /) -> Array:
        """(B,) of text, by slice or indices."""
        return np.asarray(self.values[index])


def of_bytes(values: Sequence[bytes]) -> Array:
    """(N,) of objects."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); restore the file") from error


def is_encoded(column: Column) -> bool:
    """Whether a column holds encoded images, `bytes` one an example."""
    return column.dtype.kind == "O"


# ── decoding ──────────────────────────────────────────────────────────────────────────────


def decoded(data: bytes, color: str) -> Array:
    """(H, W, C) of uint8 in `color`, upright as the EXIF orientation says; alpha is dropped.

    Raises:
        ValueError: not an image that Pillow decodes whole, or one of more than 8 bits a channel;
            says why.
    """
    return recoloured(_opened(data, _upright), color)


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height), upright, from the header alone; raises as `decoded` does."""
    size: tuple[int, int] = _opened(data, _upright_size)
    return size


def _opened(data: bytes, use: Callable[[Any], Any]) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return use(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no image of {', '.join(_FORMATS)}") from error
    except (*_DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _upright(image: Any) -> Array:
    from PIL import ImageOps

    if image.mode.split(";")[0] in _DEEP or any(map(_is_deep, image.tile)):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel; save it with 8")
    upright = ImageOps.exif_transpose(image)
    return _from_pillow(upright.convert("L" if upright.mode in _GREYS else "RGB"))


def _is_deep(tile: Any) -> bool:
    """Whether a part of a file has more than the 8 bits a channel that Pillow makes of it."""
    how = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    if tile.codec_name.startswith("ppm"):  # the raw mode, and the highest value
        return any(isinstance(most, int) and most > _MOST_GREY for most in how)
    return any(isinstance(raw, str) and _DEEP_RAW.search(raw) for raw in how)


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # Pillow tells some of them upright already
        width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


def recoloured(image: Array, color: str) -> Array:
    """(H, W, C) of RGB or grey -> (H, W, C) in `color`."""
    if color == "L":
        return image if image.shape[2] == 1 else _from_pillow(_to_pillow(image).convert("L"))
    coloured = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    return coloured[..., ::-1] if color == "BGR" else coloured


# ── where pixels go ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Placed:
    """An image drawn to `drawn`, its corner at `at` of a canvas; all (x, y) in pixels."""

    drawn: tuple[int, int]
    at: tuple[int, int]
    """Negative where the canvas begins within the image."""
    canvas: tuple[int, int]
    resampling: Resampling | None = None
    fill: int = 0


def placements(preprocess: Preprocess, width: int, height: int) -> list[Placed]:
    """What becomes of an image of this size, step after step.

    Raises:
        ValueError: it is smaller than `crop`, or so long that it would be drawn without end.
    """
    size, found = (width, height), []
    steps: tuple[tuple[Any, Callable[..., Placed]], ...] = (
        (preprocess.resize, _resized),
        (preprocess.crop, _cropped),
        (preprocess.letterbox, _letterboxed),
    )
    for step, place in steps:
        if step is not None:
            found.append(place(step, *size))
            size = found[-1].canvas
    return found


def geometry(
    preprocess: Preprocess | None, width: int, height: int
) -> tuple[float, float, float, float]:
    """(scale_x, scale_y, shift_x, shift_y): place in the model's input = original · scale + shift.

    Places are continuous: pixel i reaches from i to i + 1. The size is that of the upright image.

    Raises:
        ValueError: the image is smaller than `crop`.
    """
    scale, shift, size = (1.0, 1.0), (0.0, 0.0), (width, height)
    for placed in placements(preprocess, width, height) if preprocess else ():
        grown = placed.drawn[0] / size[0], placed.drawn[1] / size[1]
        scale = scale[0] * grown[0], scale[1] * grown[1]
        shift = shift[0] * grown[0] + placed.at[0], shift[1] * grown[1] + placed.at[1]
        size = placed.canvas
    return (*scale, *shift)


def output_size(preprocess: Preprocess) -> tuple[int | None, int | None]:
    """(height, width) after all steps; None where it depends on the image."""
    if preprocess.letterbox:
        return preprocess.letterbox.size
    if preprocess.crop:
        return preprocess.crop
    return (preprocess.resize and preprocess.resize.size) or (None, None)


def _resized(step: Resize, width: int, height: int) -> Placed:
    """The longer side is cut to whole pixels, as torchvision's `Resize` does."""
    if step.size:
        size = step.size[1], step.size[0]
    else:
        known = step.shortest or step.longest or 0
        base = min(width, height) if step.shortest else max(width, height)
        # the side that is given is exact: side · known / side
        size = max(1, known * width // base), max(1, known * height // base)
    if size[0] * size[1] > _MOST_DRAWN:
        raise ValueError(
            f"{width}×{height} pixels (width×height) would be drawn as {size[0]}×{size[1]}, more "
            f"than {_MOST_DRAWN} pixels: resize by `longest` or `size`, or leave the image out"
        )
    return Placed(size, (0, 0), size, step)


def _cropped(step: tuple[int, int], width: int, height: int) -> Placed:
    """The middle; of an odd pixel half goes to even, as torchvision's `CenterCrop` rounds."""
    if step[0] > height or step[1] > width:
        raise ValueError(
            f"{width}×{height} pixels (width×height) are fewer than `crop: {list(step)}` "
            "(height, width); resize first, or leave the image out"
        )
    at = -round((width - step[1]) / 2), -round((height - step[0]) / 2)
    return Placed((width, height), at, (step[1], step[0]))


def _letterboxed(step: Letterbox, width: int, height: int) -> Placed:
    high, wide = step.size
    scale = min(high / height, wide / width)
    drawn = max(1, round(width * scale)), max(1, round(height * scale))
    spare = wide - drawn[0], high - drawn[1]
    at = (spare[0] // 2, spare[1] // 2) if step.align == "center" else (0, 0)
    return Placed(drawn, at, (wide, high), step, step.fill)


# ── drawing ───────────────────────────────────────────────────────────────────────────────


def transformed(image: Array, preprocess: Preprocess) -> Array:
    """(H, W, C) of uint8 through every step that draws; raises as `placements` does."""
    for placed in placements(preprocess, image.shape[1], image.shape[0]):
        image = _canvas(_resampled(image, placed), placed)
    return image


def _canvas(image: Array, placed: Placed) -> Array:
    (x, y), (wide, high) = placed.at, placed.canvas
    if x <= 0 and y <= 0:
        image, x, y = image[-y:, -x:][:high, :wide], 0, 0
    if image.shape[:2] == (high, wide):
        return image
    canvas = np.full((high, wide, image.shape[2]), placed.fill, dtype=np.uint8)
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas


def _resampled(image: Array, placed: Placed) -> Array:
    how = placed.resampling
    if how is None or placed.drawn == (image.shape[1], image.shape[0]):
        return image
    if not how.antialias and how.interpolation == "bilinear":
        return four_nearest(image, placed.drawn)
    from PIL import Image

    filters = Image.Resampling[how.interpolation.upper()]
    return _from_pillow(_to_pillow(image).resize(placed.drawn, filters))


def four_nearest(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear without antialiasing, to (width, height): half-pixel centres, edges repeated.

    Rounded to the nearest, halves to even, as torchvision does with tensors of bytes.
    """
    values = image.astype(np.float64)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        length = values.shape[axis]
        places = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
        low = np.floor(places).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        weight = (places - low).reshape([-1 if a == axis else 1 for a in range(_AXES)])
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return np.rint(values).astype(np.uint8)


def _to_pillow(image: Array) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))


def _from_pillow(image: Any) -> Array:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == _AXES else pixels[..., None]


# ── batches ───────────────────────────────────────────────────────────────────────────────


def batch(where: str, raw: Array, preprocess: Preprocess) -> Array:
    """Encoded (B,) or arrays (B, H, W, C) of uint8 -> (B, H', W', C') of uint8, drawn.

    Raises:
        PicturesError: some do not decode, or are too small, all of the batch are told; or they
            come out in different sizes, the first is told.
    """
    images = _each(where, raw, partial(_source, preprocess), decode=raw.dtype.kind == "O")
    drawn = _each(where, images, partial(transformed, preprocess=preprocess), decode=False)
    (high, wide), *others = (image.shape[:2] for image in drawn)
    for place, (odd_high, odd_wide) in enumerate(others, start=1):
        if (odd_high, odd_wide) != (high, wide):
            why = (
                f"it comes out as {odd_wide}×{odd_high} pixels (width×height), and the first of "
                f"its batch as {wide}×{high}; bring all to one size by `resize: {{size: …}}`, "
                "`crop` or `letterbox` in `build.preprocess`"
            )
            raise PicturesError(where, {place: why}, decode=False)
    return np.stack(drawn)


def _source(preprocess: Preprocess, value: Any) -> Array:
    if isinstance(value, bytes):
        return decoded(value, preprocess.color or "RGB")
    return recoloured(value, preprocess.color) if preprocess.color else np.asarray(value)


def _each(
    where: str, values: Iterable[Any], step: Callable[[Any], Array], *, decode: bool
) -> list[Array]:
    found, faults = [], {}
    for place, value in enumerate(values):
        try:
            found.append(step(value))
        except ValueError as error:
            faults[place] = str(error)
    if faults:
        raise PicturesError(where, faults, decode=decode)
    return found
