"""What a piece of work takes of memory, counted and not timed."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident() -> int:
    """Bytes of this process that are in memory now, those of files among them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python and numpy had at once while `work` ran, beyond those from before."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def an_example(work: Callable[[int], Callable[[], Any]], few: int, many: int) -> float:
    """Bytes by which the peak grows with each example: `work` makes of a number what is run."""
    work(few)()  # what is imported and cached on the way is none of it
    return (peak(work(many)) - peak(work(few))) / (many - few)
