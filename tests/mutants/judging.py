"""Whether the tests notice a mutant, each in a process of its own.

A process that has collected and run the tests once knows which test runs which line. For each
mutant it forks: the child puts the changed code into the functions that are there already, and
runs the tests of that line until one fails, those that mirror the file first. What runs when a
module is loaded is changed in a process in which no module of the gate has been loaded yet.
"""

import ast
import functools
import gc
import importlib.abc
import importlib.util
import itertools
import math
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings
from mutants.operators import Mutant, applied, mutants

KILLED, SURVIVED, TIMEOUT, UNTESTED = "killed", "survived", "timeout", "no test"
LOG = "session.log"
_PATIENCE = 3
"""Times the usual seconds of the processor, and that many seconds more, are an endless loop."""
_MOST = 5.0
"""Seconds for tests that do not mirror the file: what is noticed later counts as missed."""
_LOADING = 20.0
"""Seconds in which modules are loaded."""
_OPTIONS = (
    "-s", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider",
    "-m", "not slow and not real",
    "--hypothesis-profile=mutants", "-o", "tmp_path_retention_policy=none",
)  # fmt: skip
settings.register_profile(
    "mutants", deadline=None, derandomize=True, database=None,
    phases=(Phase.explicit, Phase.generate),
)  # fmt: skip
"""Always the same examples, and none made simpler."""
Line = tuple[str, int]
Told = Callable[[str, Mutant, str], None]


@dataclass(slots=True)
class Map:
    """What is known of the tests from having run them."""

    lines: dict[Line, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The tests that run a line."""
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    loaded: tuple[str, ...] = ()
    """Names of modules that are none of the gate's or the tests'."""

    def of_line(self, file: str, line: int) -> list[str]:
        """The tests of a line, as many as there is time for."""
        return self._in_time(file, self.lines.get((file, line), set()))

    def of_file(self, file: str) -> list[str]:
        """Those that mirror a file, or run anything of it, as many as there is time for."""
        found = (tests for at, tests in self.lines.items() if at[0] == file)
        mirrored = {test for test in self.seconds if _mirrors(test, file)}
        return self._in_time(file, mirrored.union(*found) - {*self.failed})

    def _in_time(self, file: str, tests: set[str]) -> list[str]:
        """Those that mirror the file first, and the quickest of these."""
        own = {test for test in tests if _mirrors(test, file)}
        order = sorted(tests, key=lambda test: (test not in own, self.seconds[test], test))
        spent = itertools.accumulate(self.seconds[test] for test in order)
        return [test for test, now in zip(order, spent, strict=True) if test in own or now < _MOST]


def _mirrors(test: str, file: str) -> bool:
    return Path(test.partition("::")[0]).stem.removeprefix("test_") in Path(file).stem


def judge(
    root: Path, chosen: dict[str, list[int]], tests: Sequence[str], told: Told
) -> Iterator[str]:
    """Tell of every chosen mutant, by file and number, what came of it; yields what went wrong.

    Args:
        root: of the repository, also the working folder.
        chosen: files, and the numbers of their mutants.
        tests: paths to take tests from.
        told: is given file, mutant and outcome.
    """
    trees = {name: ast.parse((root / name).read_text(encoding="utf-8")) for name in chosen}
    made = {name: mutants(tree) for name, tree in trees.items()}
    with tempfile.TemporaryDirectory(prefix="gate-mutants-") as scratch:
        found: Map | None = None
        late = {name: [n for n in ns if made[name][n].at_import] for name, ns in chosen.items()}
        warm = {name: sorted({*numbers} - {*late[name]}) for name, numbers in chosen.items()}
        for what in _forked_session(root, warm, tests, Path(scratch)):
            if isinstance(what, Map):
                found = what
                yield from (f"left out, as it fails unchanged: {name}" for name in found.failed)
            elif what[2] == UNTESTED:  # perhaps it runs when the module is loaded, and then only
                late[what[0]].append(what[1])
            else:
                name, number, outcome = what
                told(name, made[name][number], outcome)
        if found is None:
            yield "the tests could not be run: " + (Path(scratch) / LOG).read_text(encoding="utf-8")
            return
        _load(found.loaded)
        for name, numbers in late.items():
            if numbers and _loaded(root, name, None, found, scratch) not in (SURVIVED, UNTESTED):
                yield f"{name} does not pass when it is loaded unchanged"
            for number in numbers:
                outcome = _loaded(root, name, number, found, scratch)
                unseen = outcome == SURVIVED and not made[name][number].at_import
                told(name, made[name][number], UNTESTED if unseen else outcome)


# ── in functions that are there ───────────────────────────────────────────────────────────


def _forked_session(
    root: Path, chosen: dict[str, list[int]], tests: Sequence[str], scratch: Path
) -> Iterator[Any]:
    """The map, then outcomes, from a process that runs pytest."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _quiet(scratch / LOG)
        try:
            with os.fdopen(writing, "wb") as out:
                plugin = _Session(root, chosen, out)
                pytest.main([*_OPTIONS, *_base(scratch), *tests], plugins=[plugin])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as source:
        while True:
            try:
                yield pickle.load(source)
            except EOFError:
                break
    os.waitpid(pid, 0)


def _base(scratch: Path) -> tuple[str, ...]:
    return ("--basetemp", tempfile.mkdtemp(dir=scratch))


def _quiet(log: Path | str = os.devnull) -> None:
    """Send whatever is printed elsewhere."""
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)


class _Session:
    """A plugin in the place of pytest's loop over tests."""

    def __init__(self, root: Path, chosen: dict[str, list[int]], out: Any) -> None:
        self._root, self._chosen, self._out = root, chosen, out
        self._tracer = _Tracer({str(root / name): name for name in chosen})
        self._map = Map()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn which test runs what, then judge."""
        self._learn(session.items)
        self._caches = [*_caches()]
        self._leave_out([item for item in session.items if not self._passes(item)])
        self._tell(self._map)
        items = {item.nodeid: item for item in session.items}
        for name, numbers in self._chosen.items():
            self._judge(name, numbers, items)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """What is made for a whole module is run for each of its tests."""
        own, self._tracer.sink = self._tracer.sink, self._tracer.shared[item.nodeid.split("::")[0]]
        try:
            return (yield)
        finally:
            self._tracer.sink = own

    def _tell(self, what: Any) -> None:
        pickle.dump(what, self._out)
        self._out.flush()

    def _learn(self, items: list[pytest.Item]) -> None:
        caches = [*_caches()]
        for item, after in zip(items, [*items[1:], items[0]], strict=True):
            _forget(caches)
            began = time.process_time()
            with self._tracer.running() as lines:
                reports = runtestprotocol(item, log=False, nextitem=after)
            self._map.seconds[item.nodeid] = time.process_time() - began
            if any(report.failed for report in reports):
                self._map.failed.append(item.nodeid)
                continue
            for line in lines:
                self._map.lines[line].add(item.nodeid)
        for item in items:
            if item.nodeid not in self._map.failed:
                for line in self._tracer.shared[item.nodeid.split("::")[0]]:
                    self._map.lines[line].add(item.nodeid)
        self._map.loaded = tuple(
            name
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", None) or "").startswith(str(self._root) + "/")
            or "site-packages" in str(getattr(module, "__file__", ""))
        )

    def _passes(self, item: pytest.Item) -> bool:
        """Whether it does so in a child, too, where nothing is changed."""
        if item.nodeid in self._map.failed:
            return False
        run = functools.partial(_pass, [item], self._caches)
        return _outcome(run, self._map.seconds[item.nodeid]) == SURVIVED

    def _leave_out(self, items: list[pytest.Item]) -> None:
        names = {item.nodeid for item in items}
        self._map.failed = sorted(names)
        for tests in self._map.lines.values():
            tests.difference_update(names)

    def _judge(self, name: str, numbers: list[int], items: dict[str, pytest.Item]) -> None:
        path = self._root / name
        tree = ast.parse(path.read_text(encoding="utf-8"))
        made, functions = mutants(tree), _functions(str(path))
        for number in numbers:
            tests = self._map.of_line(name, made[number].line)
            outcome = UNTESTED
            if tests:
                with applied(made[number]):
                    code = compile(tree, str(path), "exec")
                usual = sum(self._map.seconds[test] for test in tests)
                run = functools.partial(
                    _pass, [items[test] for test in tests], self._caches, functions, code
                )
                outcome = _outcome(run, usual)
            self._tell((name, number, outcome))


def _pass(
    items: Sequence[pytest.Item],
    caches: Sequence[Any],
    functions: Sequence[FunctionType] = (),
    code: CodeType | None = None,
) -> bool:
    """Whether all of the tests pass, with the functions' code out of `code`."""
    _forget(caches)
    codes = {(one.co_qualname, one.co_firstlineno): one for one in _codes(code)} if code else {}
    for function in functions:
        own = function.__code__
        function.__code__ = codes[own.co_qualname, own.co_firstlineno]
    for item, after in zip(items, [*items[1:], items[0]], strict=True):
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
            return False
    return True


def _functions(path: str) -> list[FunctionType]:
    """Those that live and were written in a file."""
    found = (one for one in gc.get_objects() if isinstance(one, FunctionType))
    return [one for one in found if one.__code__.co_filename == path]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _caches() -> Iterator[Any]:
    """What functions of the gate and the tests remember."""
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper) and _is_ours(one.__module__):
            yield one


def _forget(caches: Iterable[Any]) -> None:
    for one in caches:
        one.cache_clear()


def _is_ours(module: str | None) -> bool:
    return str(module).startswith(("gate", "tests", "support", "test_"))


class _Tracer:
    """The lines of some files that are run."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.shared: dict[str, set[Line]] = defaultdict(set)
        self.sink: set[Line] = set()

    @contextmanager
    def running(self) -> Iterator[set[Line]]:
        """While tracing."""
        self.sink = lines = set[Line]()
        before = sys.gettrace()
        threading.settrace(self._call)
        sys.settrace(self._call)
        try:
            yield lines
        finally:
            sys.settrace(before)
            threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._names:
            return None
        return self._line(frame, event, arg)

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.sink.add((self._names[frame.f_code.co_filename], frame.f_lineno))
        return self._line


# ── in a module that is not loaded yet ────────────────────────────────────────────────────


def _load(names: Sequence[str]) -> None:
    """Load what children would load each for itself."""
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]):
            try:
                importlib.import_module(name)
            except ImportError:
                continue


def _loaded(root: Path, name: str, number: int | None, known: Map, scratch: str) -> str:
    tests = known.of_file(name)
    if not tests:
        return UNTESTED

    def run() -> bool:
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        with nullcontext() if number is None else applied(mutants(tree)[number]):
            code = compile(tree, str(root / name), "exec")
        sys.meta_path.insert(0, _Finder(name.removesuffix(".py").replace("/", "."), code))
        return pytest.main([*_OPTIONS, "-x", *_base(Path(scratch)), *tests]) == 0

    return _outcome(run, _LOADING + sum(known.seconds[test] for test in tests))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds one module, and gives it other code."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._module, self._code = module, code

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Only of that module."""
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._code.co_filename, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        """The changed."""
        return self._code

    def get_source(self, fullname: str) -> None:
        """There is none."""


# ── a process each ────────────────────────────────────────────────────────────────────────


def _outcome(run: Callable[[], bool], usual: float) -> str:
    """What came of it in a child, with all that the child starts."""
    pid = os.fork()
    if not pid:
        _in_child(run, _PATIENCE * (1 + math.ceil(usual)))
    deadline = time.monotonic() + 20 * _PATIENCE * (1 + usual)
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _end(pid)
            return {0: SURVIVED, signal.SIGXCPU: TIMEOUT}.get(status, KILLED)
        time.sleep(0.002)
    _end(pid)
    os.waitpid(pid, 0)
    return TIMEOUT


def _in_child(run: Callable[[], bool], seconds: int) -> None:
    """Runs, and ends the process: 0 where nothing was noticed."""
    os.setsid()
    _quiet()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spent = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 5))
    status = 1
    try:
        status = 0 if run() else 1
    finally:
        os._exit(status)


def _end(pid: int) -> None:
    """The child and what it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
