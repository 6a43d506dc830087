"""The text of a policy that `gate init` writes: order, words and comments a person would write."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate import strict_yaml
from gate.errors import PolicyError, UsageError
from gate.wording import plain

SCHEMA = "policy.schema.json"
"""Beside the policy, for editors."""
UNKNOWN = "unknown"
_WIDTH = 100
_COLUMN = 38
"""Where comments begin at the least, as in the bundled policies."""
_BUDGET_COLUMN = 62
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@+ -]*(?<! )|[0-9a-f]{64}")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class Line:
    """A budget, and what is said of it."""

    budget: Mapping[str, Any]
    comment: str
    above: str = ""
    """A sentence or two, over it."""


@dataclass(frozen=True, slots=True)
class Place:
    """A data file."""

    path: str
    """Relative to the policy."""
    sha256: str | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """All that is written."""

    name: str
    task: str
    task_why: str
    candidate: str
    recipe: str
    recipe_why: str
    held_out: Place
    calibration: Place | None = None
    preprocess: Any = None
    preprocess_why: str = ""
    decode: Any = None
    decode_why: str = ""
    classes: tuple[str, ...] = ()
    classes_why: str = ""
    expect: Mapping[str, float] | None = None
    """None: unknown."""
    within: float = 0.02
    expect_why: str = ""
    budgets: tuple[Line, ...] = ()


def compose(spec: Spec) -> str:
    """The policy, as text that the strict reader takes.

    Raises:
        UsageError: a name holds what no policy may: it has to be renamed.
    """
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "version: 1",
        *_entry("model", spec.name, "the registered model's name; its history is kept under it"),
        *_entry("task", spec.task, spec.task_why),
        "",
        *_build(spec),
        "",
        *_judge(spec),
    ]
    return "\n".join(lines) + "\n"


def _build(spec: Spec) -> Iterable[str]:
    yield _commented("build:", "how the release is made")
    yield from _entry("candidate", spec.candidate, "`--candidate` names another one", 2)
    yield from _entry("recipe", spec.recipe, spec.recipe_why, 2)
    if spec.calibration is not None:
        yield from _place("calibration", spec.calibration)
    if spec.preprocess is not None:
        yield from _entry("preprocess", spec.preprocess, spec.preprocess_why, 2)
    if spec.decode is not None:
        yield from _entry("decode", spec.decode, spec.decode_why, 2)
    if spec.classes:
        yield from _entry("classes", spec.classes, spec.classes_why, 2)


def _judge(spec: Spec) -> Iterable[str]:
    yield _commented("judge:", "what it must meet")
    yield from _place("held_out", spec.held_out)
    expect: Any = UNKNOWN if spec.expect is None else {**spec.expect, "within": spec.within}
    yield from _entry("expect_fp32", expect, spec.expect_why, 2)
    yield "  confidence: 0.95"
    yield "  budgets:"
    for line in spec.budgets:
        yield from _wrapped(line.above, 4)
        text = f"    - {flow(line.budget)}"
        behind = _commented(text, line.comment, _BUDGET_COLUMN)
        yield from [behind] if len(behind) <= _WIDTH else [*_wrapped(line.comment, 4), text]


def _place(key: str, place: Place) -> Iterable[str]:
    yield f"  {key}:"
    yield from _entry("path", place.path, place.comment, 4)
    if place.sha256 is not None:
        yield f"    sha256: {scalar(place.sha256)}"  # digits alone would be a number


def _entry(key: str, value: Any, comment: str = "", indent: int = 0) -> list[str]:
    """`key: value`, its comment behind it, or above where it would not fit."""
    text = f"{' ' * indent}{key}: {flow(value)}"
    behind = _commented(text, comment)
    if len(text) > _WIDTH:
        return [*_wrapped(comment, indent), *_folded(text, indent)]
    return [behind] if len(behind) <= _WIDTH else [*_wrapped(comment, indent), text]


def _folded(text: str, indent: int) -> list[str]:
    """A flow value over several lines, broken after commas outside of quotes."""
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|[^",])+,?\s*|,', text)
    lines, line = [], ""
    for part in parts:
        if line and len(line) + len(part.rstrip()) > _WIDTH:
            lines.append(line.rstrip())
            line = " " * (indent + 2)
        line += part
    return [*lines, line.rstrip()]


def _commented(text: str, comment: str, column: int = _COLUMN) -> str:
    return f"{text:<{max(column, len(text) + 2)}}# {_told(comment)}" if comment else text


def _told(comment: str) -> str:
    """One line, without a character that a policy may not hold."""
    return plain(comment, 10_000)


def _wrapped(comment: str, indent: int) -> list[str]:
    lead = f"{' ' * indent}# "
    width = _WIDTH - len(lead)
    return [lead + line for line in textwrap.wrap(_told(comment), width, break_long_words=False)]


def flow(value: Any) -> str:
    """A value on one line, as YAML's flow style has it.

    Raises:
        UsageError: a text in it cannot stand in a policy.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return scalar(str(value))


def scalar(text: str) -> str:
    """A text as the strict reader reads it back: bare where that is safe, else in quotes.

    Raises:
        UsageError: it holds what is invisible, or is no text at all.
    """
    if _PLAIN.fullmatch(text) and _read_back(text) == text:
        return text
    quoted = '"' + "".join(_ESCAPES.get(letter, letter) for letter in text) + '"'
    if _read_back(quoted) != text:
        raise UsageError(
            f"{plain(ascii(text))} holds a line end, a control or an invisible character, which no "
            "policy may: rename it"
        )
    return quoted


def _read_back(written: str) -> Any:
    try:
        return strict_yaml.parse(f"- {written}\n", Path("scalar")).data[0]
    except (PolicyError, UnicodeError):
        return None
