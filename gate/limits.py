"""What a run may take of a machine: whoever made the model may have made it to take all."""

import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from gate.errors import EvaluationError, UsageError

GIB = 1 << 30
MINUTES = 24 * 60.0
"""Of a run that nobody has limited."""
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_LIBRARIES_GIB = 2.0
"""With less, what is imported later may be refused."""
_REFUSED = (
    "failed to map segment",
    "can't start new thread",
    "error return without exception set",
    "returned NULL without setting an exception",
)


def limit(*, memory_gib: float | None, minutes: float | None) -> None:
    """From here on: this process ends, or is refused memory, beyond these; None: no limit.

    Memory is what it has to itself (Linux's RLIMIT_DATA: not files that are mapped). A model that
    wants more fails as one that has no room. Time is what a clock shows; a runtime that hangs does
    not outlive it.

    Raises:
        UsageError: a limit is no number, or this system does not hold a process to it.
    """
    for flag, value in (("--max-memory", memory_gib), ("--max-minutes", minutes)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{flag} {value} is no amount: give a number above 0")
    if memory_gib is not None:
        if memory_gib < _LIBRARIES_GIB:
            import scipy.special  # noqa: F401  (its BLAS and numpy's loop when they are refused)

        _limit_memory(int(memory_gib * GIB))
    if minutes is not None:
        timer = threading.Timer(60 * minutes, _end, args=[minutes])
        timer.daemon = True
        timer.start()


def machine_gib() -> float | None:
    """Memory of this machine and its swap, or of the container; None where nothing tells.

    A process that has more for itself than there is has taken it in vain.
    """
    if sys.platform != "linux":
        return None
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    there = sum(int(told[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))
    return min([there, *_of_container()]) / GIB


def _of_container() -> Iterator[int]:
    """What its groups may have: with version 2 of cgroups, those above it count as well."""
    for line in _CGROUP.read_text().splitlines() if _CGROUP.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers:
            continue
        group = _CGROUPS / path.lstrip("/")
        for folder in (group, *group.parents):
            limit = folder / "memory.max"
            if limit.is_file() and (text := limit.read_text().strip()).isdigit():
                yield int(text)


def is_want_of_memory(error: BaseException) -> bool:
    """Whether code was refused memory; native code tells of it in words of its own."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, ImportError | RuntimeError | SystemError) and any(
        words in str(error) for words in _REFUSED
    )


def out_of_memory() -> EvaluationError:
    """What to tell where Python itself was refused memory."""
    return EvaluationError(
        "there is not enough memory for this run: give it more (`--max-memory`, or a larger "
        "machine), a smaller `batch_size`, or look at what the model asks for"
    )


def _limit_memory(size: int) -> None:
    import resource

    if sys.platform != "linux":
        raise UsageError("--max-memory is held on Linux alone: leave it out, or use a container's")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    size = min(size, sys.maxsize)
    size = size if most == resource.RLIM_INFINITY else min(size, most)  # a lower one holds on
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _end(minutes: float) -> None:
    """A signal that Python heeds would wait for a runtime that hangs."""
    sys.stderr.write(f"gate: --max-minutes {minutes:g} are over; the run is ended\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
