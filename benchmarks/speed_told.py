"""Runs the gate's command line, and writes down what the parts of a run took, and its peak.

`speed.py` starts it, with the file to write, when it did so, and the command line.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gate import cli, pipeline, publish
from gate.commands import run

PARTS = ((publish, "reach"), (pipeline, "write"), (publish, "send"))
"""What has no place among the durations of a record."""


def main() -> None:
    """Exit as the command line does."""
    told, started, *arguments = sys.argv[1:]
    marks = {"imports": time.time() - float(started)}
    assert run.run_gate is pipeline.run_gate  # whose imports are among those that were timed
    for module, name in PARTS:
        setattr(module, name, _watched(getattr(module, name), name, marks))
    try:
        cli.main(arguments)
    finally:
        Path(told).write_text(json.dumps({"marks": marks, "peak": _peak()}), encoding="utf-8")


def _watched(function: Callable[..., Any], name: str, marks: dict[str, float]) -> Any:
    def watched(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = function(*arguments, **options)
        marks[name] = time.perf_counter() - start
        return found

    return watched


def _peak() -> float:
    """Of this program alone, where rusage knows of the one that started it, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
