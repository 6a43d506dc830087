"""What the system refuses ONNX Runtime, which it tells as a fault of the model."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gate.errors import CandidateError


@contextmanager
def told_of_disk(folder: Path, model: Path) -> Iterator[None]:
    """In the block it writes what it makes of `model` into `folder`.

    Where it cannot, it says that the model is invalid.

    Raises:
        OSError: there is less room than the model takes.
    """
    try:
        yield
    except CandidateError as error:
        if shutil.disk_usage(folder).free >= model.stat().st_size:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def demand_memory(error: Exception) -> None:
    """Raises MemoryError where that is what it wanted."""
    if "std::bad_alloc" in str(error):
        raise MemoryError from error
