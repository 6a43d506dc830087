"""A folder of what took time to make, each file under a hash of all that it depends on.

A file that is damaged, that was written for anything else, or without this user's secret, is never
used: a change under test could bring files of its own into the folder where it is checked out. One
that cannot be written costs the next run the time again, and nothing else. Several runs may share
the folder.
"""

import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

KEY = "GATE_CACHE_KEY"
"""Environment variable: a secret that machines with one cache share."""
_STALE_S = 3600.0
"""No file takes so long to write."""
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
            with file.open("rb") as stream:
                seal, payload = stream.read(_SEAL), stream.read()
        except OSError:
            return None
        if not hmac.compare_digest(seal, _seal(digest, payload)):
            return None
        with suppress(OSError):
            os.utime(file)  # what was used last goes last
        return payload

    def save(self, key: Mapping[str, Any], payload: bytes) -> bool:
        """Keep it; False where the folder cannot be written."""
        digest = digest_of(key)
        file = self._file(digest)
        part = file.with_suffix(f".{uuid4().hex}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                stream.writelines([_seal(digest, payload), payload])
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
        self._sweep()

    def _sweep(self) -> None:
        """What processes that were killed while writing left behind."""
        for part in self.folder.glob("*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _STALE_S:
                    part.unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}{self._suffix}"


def digest_of(key: Mapping[str, Any]) -> str:
    """Hex sha256 of a key, whatever the order of its parts."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _seal(digest: str, payload: bytes) -> bytes:
    """Tells that a file is whole, what it was written for, and that its writer knew the secret."""
    state = hmac.new(_secret(), digest.encode(), "sha256")
    state.update(payload)
    return state.digest()


@cache
def _secret() -> bytes:
    """From the environment, for machines that share a cache; else this user's, made once.

    Where no file can be kept in the user's folder it lasts as long as the process.
    """
    if told := os.environ.get(KEY):
        return told.encode()
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    file = home / "int8-gate" / "cache.key"
    made = secrets.token_bytes(_SEAL)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{uuid4().hex}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(made)
        with suppress(FileExistsError):
            os.link(part, file)  # whole, or not at all, and by one process alone
        part.unlink()
        found = file.read_bytes()
    except (OSError, RuntimeError):
        return made
    return found if len(found) == _SEAL else made
