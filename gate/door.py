"""How a key in a policy or a flag becomes an implementation.

Built-in implementations are named in each door's literal dict, as `module:attribute`, and are
imported when they are asked for. A third party adds one by entry point in the door's group.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from gate.errors import UsageError


def names(group: str, builtin: Mapping[str, str]) -> tuple[str, ...]:
    """Every key that `look_up` knows, sorted."""
    return tuple(sorted({*builtin, *(point.name for point in entry_points(group=group))}))


def look_up(group: str, builtin: Mapping[str, str], key: str) -> Any:
    """The implementation behind `key`.

    Raises:
        UsageError: nothing has that name; the message lists what has.
    """
    if key in builtin:
        module, _, attribute = builtin[key].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=group, name=key):
        return point.load()
    raise UsageError(unknown(group.removeprefix("gate.").rstrip("s"), key, names(group, builtin)))


def unknown(kind: str, key: object, known: tuple[str, ...]) -> str:
    """`unknown metric 'acuracy'; did you mean 'accuracy'? Known: …`."""
    close = get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {key!r}{hint} Known: {', '.join(known)}"
