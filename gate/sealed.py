"""A folder of what took time to make, each file under a hash of all that it depends on.

A file that is damaged, or that was written for anything else, is never used; one that cannot be
written costs the next run the time again, and nothing else. Several runs may share the folder.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

_SEAL = 32
"""Bytes of the hash that a file begins with."""


class Sealed:
    """Payloads by key."""

    def __init__(self, folder: Path, suffix: str) -> None:
        """The folder need not exist; `suffix` tells its files from others."""
        self.folder, self._suffix = folder, suffix

    def load(self, key: Mapping[str, Any]) -> bytes | None:
        """What was kept under this key; None where there is nothing that can be trusted."""
        digest = digest_of(key)
        file = self._file(digest)
        try:
            whole = file.read_bytes()
        except OSError:
            return None
        seal, payload = whole[:_SEAL], whole[_SEAL:]
        if seal != _seal(digest, payload):
            return None
        with suppress(OSError):
            os.utime(file)  # what was used last goes last
        return payload

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a file of that name, whatever it holds."""
        return self._file(digest_of(key)).is_file()

    def save(self, key: Mapping[str, Any], payload: bytes) -> bool:
        """Keep it; False where the folder cannot be written."""
        digest = digest_of(key)
        file = self._file(digest)
        part = file.with_suffix(f".{uuid4().hex}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(_seal(digest, payload) + payload)
            part.replace(file)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return True

    def drop(self, key: Mapping[str, Any]) -> None:
        """What was kept under this key is not wanted any more."""
        with suppress(OSError):
            self._file(digest_of(key)).unlink(missing_ok=True)

    def prune(self, most: int) -> None:
        """Keep at most so many bytes; what was used longest ago goes first."""
        found = []
        for file in self.folder.glob(f"*{self._suffix}"):
            with suppress(OSError):
                told = file.stat()
                found.append((told.st_mtime_ns, told.st_size, file))
        for _, size, file in sorted(found, reverse=True):
            most -= size
            if most < 0:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}{self._suffix}"


def digest_of(key: Mapping[str, Any]) -> str:
    """Hex sha256 of a key, whatever the order of its parts."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _seal(digest: str, payload: bytes) -> bytes:
    """Tells that a file is whole, and what it was written for."""
    return sha256(digest.encode() + payload).digest()
