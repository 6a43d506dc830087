"""Files of known types, written by the standard library's own writers."""

import bz2
import configparser
import csv
import difflib
import gzip
import importlib.util
import io
import json
import lzma
import marshal
import pickle
import plistlib
import random
import sqlite3
import sysconfig
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml

BEGIN = END = 1024
BLOCK = 4096
PADDING = 256

WORDS = (
    *("amount", "answer", "branch", "carbon", "circle", "corner", "country", "degree", "effect"),
    *("engine", "figure", "forest", "garden", "history", "island", "journal", "kitchen"),
    *("language", "market", "member", "nature", "number", "office", "outcome", "paper", "period"),
    *("planet", "policy", "record", "region", "result", "school", "season", "signal", "silver"),
    *("spirit", "summer", "supply", "system", "table", "tunnel", "valley", "village", "weather"),
    *("window", "winter", "worker"),
)


class Writer:
    """Contents that differ from file to file, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def words(self, few: int = 3, many: int = 12) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(few, many)))

    def records(self) -> list[dict[str, object]]:
        keys = self.random.sample(WORDS, self.random.randint(3, 7))
        return [
            {key: self._value(index) for index, key in enumerate(keys)}
            for _ in range(self.random.randint(8, 60))
        ]

    def _value(self, index: int) -> object:
        kinds = (lambda: self.random.randint(0, 9999), self.words, self.random.random)
        return kinds[index % 3]()

    def text(self) -> bytes:
        return "\n".join(self.words() for _ in range(self.random.randint(30, 300))).encode()


def _json(w: Writer) -> bytes:
    return json.dumps(w.records(), indent=w.random.choice((None, 1, 2, 4))).encode()


def _jsonl(w: Writer) -> bytes:
    return "\n".join(map(json.dumps, w.records())).encode()


def _csv(w: Writer) -> bytes:
    out, rows = io.StringIO(), w.records()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _xml(w: Writer) -> bytes:
    root = ElementTree.Element(w.random.choice(WORDS))
    for row in w.records():
        child = ElementTree.SubElement(root, "item", id=str(w.random.randint(0, 999)))
        for key, value in row.items():
            ElementTree.SubElement(child, key).text = str(value)
    return ElementTree.tostring(root, xml_declaration=True, encoding="utf-8")


def _ini(w: Writer) -> bytes:
    parser, out = configparser.ConfigParser(), io.StringIO()
    for index, row in enumerate(w.records()):
        parser[f"{w.random.choice(WORDS)}.{index}"] = {k: str(v) for k, v in row.items()}
    parser.write(out)
    return out.getvalue().encode()


def _yaml(w: Writer) -> bytes:
    return yaml.safe_dump({w.words(1, 1): w.records()}, default_flow_style=False).encode()


def _mail(w: Writer) -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"] = (f"{w.random.choice(WORDS)}@example.org" for _ in range(2))
    mail["Subject"] = w.words()
    mail["Message-ID"] = f"<{w.random.randint(0, 10**9)}@example.org>"
    mail.set_content(w.text().decode())
    return mail.as_bytes()


def _tar(w: Writer) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for index in range(w.random.randint(1, 4)):
            entry, content = tarfile.TarInfo(f"{w.random.choice(WORDS)}{index}"), w.text()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _zip(w: Writer) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(w.random.randint(1, 4)):
            entry = zipfile.ZipInfo(f"{w.random.choice(WORDS)}{index}", (2026, 1, 1, 0, 0, 0))
            archive.writestr(entry, w.text())
    return out.getvalue()


def _wave(w: Writer) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setparams((w.random.choice((1, 2)), 2, w.random.choice((8000, 44100)), 0, "NONE", ""))
        sound.writeframes(w.random.randbytes(4 * w.random.randint(600, 3000)))
    return out.getvalue()


def _png(w: Writer) -> bytes:
    width, height = w.random.randint(16, 64), w.random.randint(16, 64)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    rows = b"".join(b"\0" + w.random.randbytes(3 * width) for _ in range(height))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _sqlite(w: Writer) -> bytes:
    database = sqlite3.connect(":memory:")
    rows = w.records()
    columns = ", ".join(f'"{key}"' for key in rows[0])
    database.execute(f"create table {w.random.choice(WORDS)}_ ({columns})")
    name = database.execute("select name from sqlite_master").fetchone()[0]
    marks = ", ".join("?" * len(rows[0]))
    database.executemany(f"insert into {name} values ({marks})", [list(r.values()) for r in rows])
    database.commit()
    return database.serialize()


def _bytecode(w: Writer) -> bytes:
    source = _python(w)
    code = compile(source, f"{w.random.choice(WORDS)}.py", "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _sources() -> list[Path]:
    """The standard library's own modules, in an order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return sorted(file for file in folder.glob("*.py") if file.stat().st_size > BLOCK)


def _python(w: Writer) -> bytes:
    return w.random.choice(_sources()).read_bytes()


def _html(w: Writer) -> bytes:
    before = w.text().decode().splitlines()
    after = [line for line in before if w.random.random() < 0.9]
    return difflib.HtmlDiff(wrapcolumn=60).make_file(before, after).encode()


def _npy(w: Writer) -> bytes:
    out = io.BytesIO()
    shape = [w.random.randint(2, 30) for _ in range(2)]
    np.save(out, np.random.default_rng(w.random.randint(0, 10**9)).normal(size=shape))
    return out.getvalue()


KINDS: dict[str, Callable[[Writer], bytes]] = {
    "applebplist": lambda w: plistlib.dumps(w.records(), fmt=plistlib.FMT_BINARY),
    "appleplist": lambda w: plistlib.dumps(w.records()),
    "bzip": lambda w: bz2.compress(w.text()),
    "csv": _csv,
    "eml": _mail,
    "gzip": lambda w: gzip.compress(w.text(), mtime=w.random.randint(0, 2**31)),
    "html": _html,
    "ini": _ini,
    "json": _json,
    "jsonl": _jsonl,
    "npy": _npy,
    "pickle": lambda w: pickle.dumps(w.records()),
    "png": _png,
    "python": _python,
    "pythonbytecode": _bytecode,
    "sqlite": _sqlite,
    "tar": _tar,
    "wav": _wave,
    "xml": _xml,
    "xz": lambda w: lzma.compress(w.text()),
    "yaml": _yaml,
    "zip": _zip,
}


def features(content: bytes) -> np.ndarray:
    """(2048,) of int32: what begins and what ends a file, as magika reads it."""
    begin = list(content[:BLOCK].lstrip()[:BEGIN])
    end = list(content[-BLOCK:].rstrip()[-END:])
    padded = [*begin, *[PADDING] * (BEGIN - len(begin)), *[PADDING] * (END - len(end)), *end]
    return np.array(padded, dtype=np.int32)


def written(kinds: list[str], count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """`count` files of each kind, no two of which look the same to the model."""
    seen: set[bytes] = set()
    for kind in kinds:
        left, number = count, seed
        while left:
            found = features(KINDS[kind](Writer(number)))
            number += 1
            if found.tobytes() not in seen:
                seen.add(found.tobytes())
                left -= 1
                yield kind, found
