"""`--plugin FILE.py`: tasks, formats and decoders of one's own, for as long as a command runs.

A plugin is code, so it is named on the command line by whoever writes that, and never by a policy.
It says what it brings in dictionaries by key at its top level ::

    TASKS      a value of `task`: an instance that does what `gate.tasks.Task` says
    FORMATS    a value of `format`: an instance that does what `gate.formats.Format` says
    DECODERS   a value of `build.decode`: a function of outputs by name, as `gate.decoding` says

Keys that exist already are refused. A plugin is loaded by itself: nothing is added to `sys.path`.
"""

import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from hashlib import sha256
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from gate import decoding, door, formats, tasks
from gate.errors import GateError, PluginError, UsageError
from gate.formats import Format
from gate.tasks import Task

_DOORS: Mapping[str, tuple[str, Mapping[str, str], type | None]] = {
    "TASKS": (tasks.GROUP, tasks.TASKS, Task),
    "FORMATS": (formats.GROUP, formats.FORMATS, Format),
    "DECODERS": (decoding.GROUP, {}, None),
}
"""What a plugin may hold: the group of the door, its own keys, and what it demands."""
_ACTIVE: ContextVar[Mapping[Path, str]] = ContextVar("active", default=MappingProxyType({}))
"""Plugins that are loaded, with their sha256."""


def active() -> dict[str, str]:
    """sha256 by file name of the plugins that are loaded."""
    return {path.name: digest for path, digest in _ACTIVE.get().items()}


def files() -> dict[Path, str]:
    """sha256 by path of the plugins that are loaded."""
    return dict(_ACTIVE.get())


def demand_same(recorded: Mapping[str, str]) -> None:
    """Show that no plugin is another than the one of that name in a record.

    Raises:
        UsageError: one is.
    """
    for name, digest in active().items():
        if recorded.get(name, digest) != digest:
            raise UsageError(
                f"--plugin {name} is not the one that the record was made with (sha256 "
                f"{digest[:12]}…, and it was {recorded[name][:12]}…): restore it, or run the gate "
                "again"
            )


@contextmanager
def plugged_in(files: Iterable[Path | str]) -> Iterator[None]:
    """Load plugins, in order, until the block ends; one that is loaded already is left alone.

    Raises:
        UsageError: a file is missing or wrong, a key is taken, or what it names is not of its door.
        PluginError: within the block a plugin raised anything but a `GateError`.
    """
    with ExitStack() as stack:
        for file in map(Path, files):
            if file.resolve() not in _ACTIVE.get():
                stack.enter_context(_loaded(file))
        with _blamed():
            yield


@contextmanager
def _loaded(file: Path) -> Iterator[None]:
    path, before = file.resolve(), _ACTIVE.get()
    if path.name in active():
        raise UsageError(
            f"two plugins are called {path.name}, and a record tells them apart by that: rename one"
        )
    content = _content(file)
    digest = sha256(content).hexdigest()
    name = f"_gate_plugin_{path.stem}_{digest[:12]}"
    token = _ACTIVE.set({**before, path: digest})
    try:
        with door.bringing(_brought(file, _executed(file, content, name))):
            yield
    finally:
        _ACTIVE.reset(token)
        sys.modules.pop(name, None)


# ── the file ──────────────────────────────────────────────────────────────────────────────


class _Loader(SourceLoader):
    """Runs the bytes that were hashed, and leaves none behind."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        return self._content


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"--plugin {file} cannot be read: {error.strerror}") from error


def _executed(file: Path, content: bytes, name: str) -> ModuleType:
    """The module, under a private name.

    Raises:
        UsageError: it does not compile, or raises.
    """
    spec = spec_from_loader(name, _Loader(file.resolve(), content), origin=str(file))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        at = file if error.filename == str(file.resolve()) else error.filename
        raise UsageError(f"--plugin {at}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        place = _place(error) or str(file)
        raise UsageError(f"--plugin {place}: {_told(error)} while it was loaded") from error
    return module


# ── what it brings ────────────────────────────────────────────────────────────────────────


def _brought(file: Path, module: ModuleType) -> dict[str, dict[str, Any]]:
    """Implementations by group and key.

    Raises:
        UsageError: there are none, or one is not what its door demands.
    """
    held = {name: getattr(module, name) for name in _DOORS if hasattr(module, name)}
    if not held:
        raise UsageError(f"--plugin {file} brings nothing: it has none of {', '.join(_DOORS)}")
    for name, entries in held.items():
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise UsageError(f"--plugin {file}: {name} has to be a dict of keys that are text")
        for key, value in entries.items():
            _demand_free(file, name, key)
            _demand_sound(file, name, key, value)
    return {_DOORS[name][0]: dict(entries) for name, entries in held.items()}


def _demand_free(file: Path, name: str, key: str) -> None:
    group, builtin, _ = _DOORS[name]
    taken = set(door.names(group, builtin))
    if name == "DECODERS":
        taken = taken.union(*(tasks.get(task).decoders for task in decoding.READ_AS))
    if key in taken or not key:
        raise UsageError(
            f"--plugin {file}: {name} has {key!r}, which exists already: give it another key"
        )


def _demand_sound(file: Path, name: str, key: str, value: Any) -> None:
    """Raises UsageError where a value does not do what its door demands."""
    told = f"--plugin {file}: {name}[{key!r}]"
    protocol = _DOORS[name][2]
    if protocol is None:
        _demand_decoder(told, value)
        return
    if isinstance(value, type):
        raise UsageError(f"{told} is a class, and an instance is wanted: {value.__name__}()")
    missing = [one for one in _members(protocol) if not hasattr(value, one)]
    if missing:
        raise UsageError(
            f"{told} has no {', '.join(missing)}; {protocol.__module__}.{protocol.__name__} tells "
            "what it has to have"
        )
    if value.key != key:
        raise UsageError(f"{told} says of itself that it is {value.key!r}: say the same twice")
    if name == "FORMATS":
        _demand_own_suffixes(told, value)


def _members(protocol: type) -> Sequence[str]:
    methods = (one for one in vars(protocol) if not one.startswith("_"))
    return sorted({*protocol.__annotations__, *methods})


def _demand_decoder(told: str, value: Any) -> None:
    wanted = "a function of one argument, the outputs by name"
    if not callable(value):
        raise UsageError(f"{told} is a {type(value).__name__}, and {wanted}, is wanted")
    try:
        inspect.signature(value).bind({})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{told} is not {wanted}: {error}") from error


def _demand_own_suffixes(told: str, value: Format) -> None:
    """No file that is read today may be read by another format tomorrow."""
    for name in formats.names():
        for suffix in formats.get(name).suffixes:
            if any(mine.endswith(suffix) or suffix.endswith(mine) for mine in value.suffixes):
                raise UsageError(
                    f"{told} claims files that end in {suffix}, and {name} reads those: claim "
                    "others, or none, and write `format:` into the policy"
                )


# ── who is to blame ───────────────────────────────────────────────────────────────────────


@contextmanager
def _blamed() -> Iterator[None]:
    """What a plugin's code raises is no defect of the gate."""
    try:
        yield
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error)
        if place is None:
            raise
        raise PluginError(f"plugin {place}: {_told(error)}. Mend the plugin") from error


def _place(error: BaseException) -> str | None:
    """`file:line` of the innermost line of a plugin that an error went through."""
    files = {str(path) for path in _ACTIVE.get()}
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if frame.filename in files]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else None


def _told(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
