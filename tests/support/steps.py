"""How much work a call is, in lines that run: the same on every machine, however busy."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


def taken(call: Callable[[], object], *packages: ModuleType) -> int:
    """Lines of these packages that ran, loops counted each time."""
    folders = tuple(f"{Path(str(package.__file__)).parent}/" for package in packages)
    counted = 0

    def line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal counted
        counted += event == "line"
        return line

    def entered(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(folders) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        call()
    finally:
        sys.settrace(before)
    return counted
