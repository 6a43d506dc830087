"""A model on disk: its file, the weights beside it, the hash of both; and what is no file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 1 << 20


def weights_of(model: Path) -> Path:
    """Where the weights of a model that is too large for one file lie."""
    return model.with_name(f"{model.name}.data")


def files(model: Path) -> tuple[Path, ...]:
    """The model, and the weights beside it where there are any."""
    weights = weights_of(model)
    return (model, weights) if weights.is_file() else (model,)


def is_endless(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket: who reads it may never come to its end."""
    return path.exists() and not path.is_file() and not path.is_dir()


def measured(paths: Iterable[Path]) -> tuple[str, int]:
    """sha256 and number of the bytes of all files, one after the other."""
    digest, size = hashlib.sha256(), 0
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
    return digest.hexdigest(), size


def sha256_of(*paths: Path) -> str:
    """sha256 of the bytes of all files, one after the other; of one, what `sha256sum` prints."""
    return measured(paths)[0]
