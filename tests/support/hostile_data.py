"""A sample of data in every format, and the task that opens one as a run does."""

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.fuzzing import as_command
from support.pictures import encoded, pixels

from gate import data
from gate.sources import DataSource, Preprocess
from gate.values import TensorSpec

COUNT = 6
VECTOR = (TensorSpec("image", "float32", (None, 4)),)
PICTURE = (TensorSpec("image", "float32", (None, 3, 4, 4)),)
NAMES = {
    "npz": "split.npz",
    "parquet": "split.parquet",
    "jsonl": "split.jsonl",
    "coco": "split.json",
    "images": "picture.jsonl",
}
"""The file of each kind, in a folder of its own."""


def rows() -> list[dict[str, Any]]:
    """Examples as JSON Lines have them."""
    image = np.arange(4 * COUNT, dtype=np.float32).reshape(COUNT, 4) / 7
    return [
        {"id": f"r{n}", "image": image[n].tolist(), "target": n % 3, "site": "ab"[n % 2], "unit": n}
        for n in range(COUNT)
    ]


def coco() -> dict[str, Any]:
    """Boxes."""
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 4, "height": 4} for n in range(COUNT)
        ],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 7, "bbox": [1, 1, 2, 3], "area": 5.5},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0.5, 4, 3], "iscrowd": 1},
            {"id": 3, "image_id": 0, "category_id": 7, "bbox": [0, 0, 1, 1]},
        ],
    }


def pictured() -> list[dict[str, Any]]:
    """Examples that name images."""
    return [{"image_path": f"{n}.png", "target": n % 3} for n in range(COUNT)]


def columns() -> dict[str, Any]:
    """The rows by column."""
    found = rows()
    arrays = {name: np.array([row[name] for row in found]) for name in found[0]}
    return arrays | {"image": arrays["image"].astype(np.float32)}


def npz() -> bytes:
    """An archive that is not compressed."""
    stream = BytesIO()
    np.savez(stream, **columns())
    return stream.getvalue()


def packed_npz() -> bytes:
    """An archive that is compressed."""
    stream = BytesIO()
    np.savez_compressed(stream, **columns())
    return stream.getvalue()


def npz_of(members: dict[str, bytes]) -> bytes:
    """An archive of these members, whose checksums are right whatever they hold."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def members() -> dict[str, bytes]:
    """Of the archive."""
    with zipfile.ZipFile(BytesIO(npz())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def parquet(compression: str = "none") -> bytes:
    """A table in several row groups."""
    stream = BytesIO()
    found = columns()
    flat = pa.array(found.pop("image").reshape(-1))
    fields = {name: pa.array(values) for name, values in found.items()}
    table = pa.table(fields | {"image": pa.FixedSizeListArray.from_arrays(flat, 4)})
    pq.write_table(table, stream, row_group_size=4, compression=compression)
    return stream.getvalue()


def lines(documents: Any) -> bytes:
    """JSON Lines."""
    texts = [json.dumps(one) for one in documents] if isinstance(documents, list) else [documents]
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass")


def pictures() -> dict[str, bytes]:
    """Image files by name."""
    return {f"{n}.png": encoded(pixels(4, 4, seed=n)) for n in range(COUNT)}


def picture_kinds() -> list[bytes]:
    """One image in several formats."""
    kinds = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
    return [encoded(pixels(4, 4), kind) for kind in kinds]


def opened(folder: str, kind: str) -> int:
    """As a run ends that cannot open its held-out data, or else 0."""
    return as_command(_open, Path(folder), kind)


def _open(folder: Path, kind: str) -> None:
    illustrated = kind in ("coco", "images")
    split = data.open_split(
        "held_out",
        DataSource(path=NAMES[kind]),
        base=folder,
        inputs=PICTURE if illustrated else VECTOR,
        preprocess=Preprocess() if illustrated or kind == "jsonl" else None,
        seed=0,
        scratch=folder / "scratch",
        needs_target=True,
        paranoid=True,
    )
    batch = {name: column[split.order[:2]] for name, column in split.inputs.items()}
    fed = split.prepare(batch)
    assert all(np.isfinite(values).all() for values in fed.values()), "fed what is no number"
