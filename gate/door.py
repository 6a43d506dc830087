"""How a key in a policy or a flag becomes an implementation.

Built-in implementations are named in each door's literal dict, as `module:attribute`, and are
imported when they are asked for. A third party adds one by entry point in the door's group, and
whoever writes the command line by a plugin, for as long as the command runs.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from types import MappingProxyType
from typing import Any

from gate.errors import UsageError

_Brought = Mapping[str, Mapping[str, Any]]
_BROUGHT: ContextVar[_Brought] = ContextVar("brought", default=MappingProxyType({}))
"""By group and key: what plugins bring."""


def names(group: str, builtin: Mapping[str, str]) -> tuple[str, ...]:
    """Every key that `look_up` knows, sorted."""
    points = (point.name for point in _points(group, tuple(sys.path)))
    return tuple(sorted({*builtin, *_BROUGHT.get().get(group, ()), *points}))


def look_up(group: str, builtin: Mapping[str, str], key: str) -> Any:
    """The implementation behind `key`.

    Raises:
        UsageError: nothing has that name; the message lists what has.
    """
    if key in builtin:
        module, _, attribute = builtin[key].partition(":")
        return getattr(import_module(module), attribute)
    brought = _BROUGHT.get().get(group, {})
    if key in brought:
        return brought[key]
    for point in _points(group, tuple(sys.path)).select(name=key):
        return point.load()
    raise UsageError(unknown(group.removeprefix("gate.").rstrip("s"), key, names(group, builtin)))


def extended(groups: Iterable[str]) -> bool:
    """Whether an installed package adds to one of these groups."""
    return any(_points(group, tuple(sys.path)) for group in groups)


@cache
def _points(group: str, _path: tuple[str, ...]) -> EntryPoints:
    """Of every package on the path: looking through hundreds takes tens of milliseconds."""
    return entry_points(group=group)


@contextmanager
def bringing(brought: _Brought) -> Iterator[None]:
    """Add implementations, by group and key, until the block ends; no key may be taken."""
    before = _BROUGHT.get()
    groups = {*before, *brought}
    both = {group: {**before.get(group, {}), **brought.get(group, {})} for group in groups}
    token = _BROUGHT.set(both)
    try:
        yield
    finally:
        _BROUGHT.reset(token)


def unknown(kind: str, key: object, known: tuple[str, ...]) -> str:
    """`unknown metric 'acuracy'; did you mean 'accuracy'? Known: …`."""
    close = get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {key!r}{hint} Known: {', '.join(known)}"
