"""A team's own function that prepares an example, as `FILE.py:function` names it.

The file is run: whoever writes the command line trusts it.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np

from gate.errors import UsageError
from gate.values import Array

_COLON = ":"
Function = Callable[..., Any]
Arrays = dict[str, Array]
"""By input name; an array without a name is under the empty one."""


@contextmanager
def loaded(against: str) -> Iterator[Function]:
    """The function of `FILE.py:function`, with its folder to import from while it runs.

    What it prints goes to stderr, as stdout is the report's.

    Raises:
        UsageError: there is none, or the file fails when it is loaded.
    """
    file, colon, name = against.rpartition(_COLON)
    path = Path(file)
    if not colon or not name or path.suffix != ".py":
        raise UsageError(f"--against {against!r} has to be FILE.py:function")
    if not path.is_file():
        raise UsageError(f"--against {against}: there is no {path}")
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield _function(path, name)
    finally:
        sys.path.remove(folder)


def _function(path: Path, name: str) -> Function:
    spec = importlib.util.spec_from_file_location(f"against_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise UsageError(f"{path} fails when it is loaded: {_what(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, one in vars(module).items() if callable(one) and key[0] != "_"]
        raise UsageError(f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return cast(Function, found)


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def fed(
    against: str, call: Function, examples: Iterable[tuple[str, Sequence[Any]]]
) -> Iterator[Arrays]:
    """What the function gives for each example, by input name.

    `examples` are their labels and their raw values, one a column.

    Raises:
        UsageError: it fails, gives no finite numbers, or other inputs than for those before.
    """
    first: Arrays | None = None
    for label, values in examples:
        found = _one(against, call, f"example {label!r}", values)
        if first is not None and found.keys() != first.keys():
            raise UsageError(
                f"{against} gives {', '.join(found)} for example {label!r}, and "
                f"{', '.join(first)} for those before; return the same inputs for all"
            )
        first = found
        yield found


def _one(against: str, call: Function, example: str, values: Sequence[Any]) -> Arrays:
    try:
        given = call(*values)
    except (Exception, SystemExit) as error:  # it is the user's code
        kinds = ", ".join(type(value).__name__ for value in values)
        raise UsageError(
            f"{against} fails on {example}: {_what(error)}. It is given {kinds}"
        ) from error
    named = dict(given) if isinstance(given, Mapping) else {"": given}
    if not named:
        raise UsageError(f"{against} gives an empty dict for {example}")
    return {str(name): _array(against, example, value) for name, value in named.items()}


def _array(against: str, example: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # lists of other lengths, tensors elsewhere
        raise UsageError(
            f"{against} gives {type(value).__name__} for {example}, which makes no array "
            f"({_what(error)}): return one"
        ) from error
    if array.dtype.kind not in "biuf":
        raise UsageError(
            f"{against} gives {type(value).__name__} for {example}, which holds no "
            "numbers: return what the model is fed, an array or a dict of arrays"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{against} gives NaN or infinite values for {example}; mend it")
    return array
