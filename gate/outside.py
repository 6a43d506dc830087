"""What reaches a network, in a process of its own, so that what runs models need not.

A command that runs models forks before anything is imported: into one process that may reach
trackers and buckets, and one that runs models and may be kept from them (`gate.offline`). They
talk through two pipes, a line of JSON at a time, read by the functions' own annotations: neither
side runs what the other sends. Where there is no such process, as under `gate.run_gate`, everything
is called where it stands.
"""

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib import import_module
from threading import Lock, Thread, Timer
from typing import Any, BinaryIO, NoReturn, ParamSpec, TypeVar, cast, get_type_hints

from gate import errors, offline
from gate.errors import EXIT_ERROR, GateError

P = ParamSpec("P")
R = TypeVar("R")
Wire = dict[str, Any]
_MOST = 1 << 30
"""Bytes of a message: far more than any record has."""
_GIVE_UP = signal.SIGUSR1
_PATIENCE_S = 4.0
"""For who is to give up; GitHub's runner kills a cancelled job ten seconds after it has asked."""
_LOST = (
    "the process that reaches the network for this run is gone: look for want of memory, and run "
    "the gate again"
)


class LostError(GateError):
    """The process that reaches the network is gone, or not understood any more."""


# ── what one side may ask of the other ────────────────────────────────────────────────────


class Typed:
    """A function's arguments, and what it returns, as JSON and back."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """By its annotations; parameters without one, as `self`, are left out."""
        self._hints = get_type_hints(function)

    def written(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> Wire:
        """Arguments, by name."""
        names = (name for name in self._hints if name != "return")
        whole = dict(zip(names, given, strict=False)) | dict(named)
        return {name: _written(self._hints[name], value) for name, value in whole.items()}

    def read(self, wire: Mapping[str, Any]) -> Wire:
        """What `written` wrote; KeyError or ValueError where it is nothing of the kind."""
        return {name: _read(self._hints[name], value) for name, value in wire.items()}

    def answered(self, value: Any) -> Any:
        """What it returned."""
        return _written(self._hints["return"], value)

    def returned(self, wire: Any) -> Any:
        """What `answered` wrote."""
        return _read(self._hints["return"], wire)


def _written(hint: Any, value: Any) -> Any:
    """What `_read` makes of it is checked; mappings that pydantic does not know are dicts."""
    return _adapter(hint).dump_python(value, mode="json", fallback=dict, warnings=False)


def _read(hint: Any, wire: Any) -> Any:
    return _adapter(hint).validate_json(json.dumps(wire))


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


_ASKABLE: dict[str, Callable[..., Any]] = {}


def reaches_out(function: Callable[P, R]) -> Callable[P, R]:
    """A function of the gate that is called in the process that reaches the network."""
    name = f"{function.__module__}:{function.__qualname__}"
    _ASKABLE[name] = function

    @wraps(function)
    def asked(*given: P.args, **named: P.kwargs) -> R:
        if _link is None:
            return function(*given, **named)
        typed = Typed(function)
        return cast(R, typed.returned(_link.ask(name, typed.written(given, named))))

    return asked


# ── the process that runs models ──────────────────────────────────────────────────────────


class Link:
    """The end of the process that runs models."""

    def __init__(self, answers: int, questions: int, pid: int | None = None) -> None:
        """By the descriptors of two pipes; `pid` is who answers, where that is a process."""
        self._answers = os.fdopen(answers, "rb")
        self._questions = os.fdopen(questions, "wb", buffering=0)
        self._pid = pid
        self._lock = Lock()
        self._asked = 0

    def ask(self, name: str, arguments: Wire) -> Any:
        """What the function returned there, as JSON.

        Raises:
            GateError: as the function raised it.
            LostError: nobody answers.
            KeyboardInterrupt: a signal came, and the function was ended by it.
        """
        with self._lock:
            self._asked += 1
            question = {"number": self._asked, "name": name, "arguments": arguments}
            try:
                answer = self._answer(question)
            except KeyboardInterrupt:
                answer = self._given_up()
        if "error" in answer:
            raise _error(answer["error"])
        return answer["returned"]

    def _answer(self, question: Wire) -> Wire:
        try:
            _put(self._questions, question)
            return self._heard()
        except (OSError, ValueError) as error:
            raise LostError(_LOST) from error

    def _heard(self) -> Wire:
        """The answer to what was asked last; others, that nobody waited for, are passed over."""
        while (answer := _got(self._answers)) is not None:
            if answer["number"] == self._asked:
                return answer
        raise LostError(_LOST)

    def _given_up(self) -> Wire:
        """The answer, where it was there before the signal: what was done is not called undone."""
        if self._pid is None:
            raise KeyboardInterrupt
        os.kill(self._pid, _GIVE_UP)
        patience = Timer(_PATIENCE_S, os.kill, (self._pid, signal.SIGKILL))
        patience.start()
        try:
            answer = self._heard()
        except (OSError, ValueError, LostError):
            raise KeyboardInterrupt from None
        finally:
            patience.cancel()
        if "given up" in answer:
            raise KeyboardInterrupt
        return answer

    def close(self) -> None:
        """Ask nothing any more, and wait until what was asked is done."""
        self._questions.close()
        self._answers.read()
        self._answers.close()

    def leave(self) -> None:
        """In another process than the one that asks."""
        self._questions.close()
        self._answers.close()


_link: Link | None = None


def begin() -> Link:
    """Fork the process that reaches the network; the end for the one that is to run models.

    Nothing heavy may be imported yet, and no thread begun.
    """
    questions, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        offline.hide()
        os.close(questions[1])
        os.close(answers[0])
        _serve(questions[0], answers[1])
    os.close(questions[0])
    os.close(answers[1])
    return Link(answers[0], questions[1], pid)


def through(link: Link) -> None:
    """From here on, what reaches out is asked of the other process."""
    global _link  # noqa: PLW0603 - a process has one
    _link = link


def linked() -> bool:
    """Whether what reaches out is called in another process."""
    return _link is not None


def end() -> None:
    """Wait until the other process has done what was asked of it, and let it end."""
    global _link  # noqa: PLW0603 - a process has one
    if _link is not None:
        _link.close()
        _link = None


def _error(told: Wire) -> Exception:
    kind = getattr(errors, told["kind"], None) if told["kind"] else None
    if kind is None:
        return RuntimeError(told["message"])  # a defect there is one here
    error = cast(GateError, kind(told["message"]))
    for note in told["notes"]:
        error.add_note(note)
    return error


# ── the process that reaches the network ──────────────────────────────────────────────────


def _serve(questions: int, answers: int) -> NoReturn:
    """A signal to end is for those who ask; where they are gone, so is what they asked for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(_GIVE_UP, _give_up)
    Thread(target=_end_with, args=[answers], daemon=True).start()
    try:
        answer_all(questions, answers)
    except (BrokenPipeError, ValueError):  # who asked was interrupted, or is gone
        pass
    except Exception:  # noqa: BLE001 - who asked hears that nobody answers any more
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_ERROR)  # by which nobody judges: answers are what counts


def _end_with(answers: int) -> None:
    """Leave it half done, as a run's record in a tracker, which counts only when it is whole."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [_GIVE_UP])
    watched = select.poll()
    watched.register(answers, 0)  # an error, once nobody can read there, is told in any case
    watched.poll()
    os._exit(EXIT_ERROR)


_busy = False


def _give_up(*_: object) -> None:
    if _busy:
        raise KeyboardInterrupt


def answer_all(questions: int, answers: int) -> None:
    """Answer until nobody can ask any more.

    Args:
        questions, answers: descriptors of pipes, as `Link` has their other ends.

    Raises:
        ValueError: what is asked is no question.
        BrokenPipeError: nobody waits for the answer.
    """
    with os.fdopen(questions, "rb") as asked, os.fdopen(answers, "wb", buffering=0) as told:
        while (question := _got(asked)) is not None:
            _put(told, _answered(question))


def _answered(question: Wire) -> Wire:
    global _busy  # noqa: PLW0603 - a process has one
    number = {"number": question["number"]}
    try:
        _busy = True
        returned = _called(question["name"], question["arguments"])
        _busy = False  # what is done is not given up
        return number | {"returned": returned}
    except KeyboardInterrupt:
        return number | {"given up": True}
    except GateError as error:
        notes = list(getattr(error, "__notes__", []))
        return number | _told(type(error).__name__, str(error), notes)
    except Exception:  # noqa: BLE001 - told as a defect to who asked, with where it happened
        return number | _told("", traceback.format_exc(), [])
    finally:
        _busy = False


def _told(kind: str, message: str, notes: list[str]) -> Wire:
    return {"error": {"kind": kind, "message": message, "notes": notes}}


def _called(name: str, arguments: Wire) -> Any:
    """Of the functions that reach out, and of no other."""
    module = name.partition(":")[0]
    if not module.startswith(f"{__package__}."):
        raise PermissionError(f"{name} is none of the gate's")
    import_module(module)
    function = _ASKABLE[name]
    typed = Typed(function)
    return typed.answered(function(**typed.read(arguments)))


# ── messages ──────────────────────────────────────────────────────────────────────────────


def _put(stream: Any, message: Wire) -> None:
    rest = memoryview(json.dumps(message).encode() + b"\n")
    while rest:
        rest = rest[stream.write(rest) :]


def _got(stream: BinaryIO) -> Wire | None:
    """The next message; None where there is none any more.

    Raises:
        ValueError: it is none, or longer than any.
    """
    text = stream.readline(_MOST)
    return cast(Wire, json.loads(text)) if text else None
