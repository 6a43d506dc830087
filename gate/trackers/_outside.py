"""A tracker that is asked in the process that reaches the network."""

import json
from functools import cache, partial
from typing import Any, Literal, cast

from gate import door, outside
from gate.errors import TrackerError
from gate.trackers import GROUP, TRACKERS, Registry, Tracker

Part = Literal["tracker", "registry"]
_PROTOCOLS: dict[Part, type] = {"tracker": Tracker, "registry": Registry}


class Asked:
    """All methods of a protocol, each called there."""

    def __init__(self, key: str, part: Part) -> None:
        """Of the tracker behind `key`."""
        self.key = key
        self._part = part

    def __getattr__(self, name: str) -> Any:
        """A method that the protocol has."""
        return partial(_call, self.key, self._part, getattr(_PROTOCOLS[self._part], name))


class AskedTracker(Asked):
    """With its registry, where it has one."""

    def __init__(self, key: str) -> None:
        """`UsageError` where there is no such tracker."""
        super().__init__(key, "tracker")
        self.registry = Asked(key, "registry") if _registers(key) else None


@cache
def asked(key: str) -> Tracker:
    """The tracker behind `key`, there; `UsageError` lists the known ones."""
    return cast(Tracker, AskedTracker(key))


def _call(key: str, part: Part, method: Any, /, *given: Any, **named: Any) -> Any:
    typed = outside.Typed(method)
    arguments = json.dumps(typed.written(given, named))
    try:
        return typed.returned(json.loads(_asked(key, part, method.__name__, arguments)))
    except outside.LostError as error:
        raise TrackerError(str(error)) from error


@outside.reaches_out
def _asked(key: str, part: Part, method: str, arguments: str) -> str:
    """Call it here, and write what it returns as JSON."""
    if method.startswith("_"):
        raise PermissionError(f"{method} is no method of a {part}")
    typed = outside.Typed(getattr(_PROTOCOLS[part], method))
    tracker = _found(key)
    target = tracker if part == "tracker" else tracker.registry
    returned = getattr(target, method)(**typed.read(json.loads(arguments)))
    return json.dumps(typed.answered(returned))


@outside.reaches_out
def _registers(key: str) -> bool:
    """Whether a tracker has a registry."""
    return _found(key).registry is not None


def _found(key: str) -> Tracker:
    return cast(Tracker, door.look_up(GROUP, TRACKERS, key))
