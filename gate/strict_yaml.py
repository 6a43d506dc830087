"""Text to plain data, with the line and column of everything in it.

YAML as written by people, read in one way only. A document is mappings with text keys, lists,
text, whole numbers, decimal numbers, `true`, `false` and `null`, by YAML 1.2's core schema; what
YAML 1.1 and 1.2 or two parsers would read differently is refused, with what to write instead:

- `1e-3`, `1E3`, `.5`, `5.`, `+1` are numbers. `010`, `0o10`, `0x1F`, `0b1`, `1_000`, `1:30`,
  `.inf` and `.nan` are refused, and so is a number that a float or 64 bits cannot hold.
- `true`, `True`, `TRUE` and `false`, `False`, `FALSE` are the booleans. `yes`, `no`, `on`, `off`
  in any such case are refused as values (booleans in YAML 1.1, text in 1.2); in quotes they are
  text, and as keys they are text always. `y` and `n` are text.
- `null`, `Null`, `NULL` and `~` are null; a value that is left out is refused.
- `2024-01-01` is text, `1%` is text.
- Duplicate keys, anchors, aliases, merge keys, tags, several documents, tabs, invisible and
  control characters, more than 1 MB and more than 50 levels are refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gate.errors import Mark, PolicyError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
_MAX_DIGITS = 400
_MAX_SHOWN = 60

Scalar = str | int | float | bool | None
Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands."""

    value: "Scalar | dict[str, Node] | list[Node]"
    mark: Mark
    key: Mark | None = None
    """Where its key stands, for the entry of a mapping."""

    def plain(self) -> Any:
        """The value as dict, list and scalars."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, step: str | int) -> "Node | None":
        """The entry or item under `step`."""
        if isinstance(self.value, dict):
            return self.value.get(str(step))
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None


@dataclass(frozen=True, slots=True)
class Document:
    """A file's data, with the place of everything in it."""

    file: Path
    root: Node

    @property
    def data(self) -> Any:
        """The whole document as dict, list and scalars."""
        return self.root.plain()

    def mark(self, *loc: str | int) -> Mark:
        """Where the value at `loc` begins; the nearest value around it, where there is none."""
        return self._nearest(loc)[-1].mark

    def key_mark(self, *loc: str | int) -> Mark:
        """Where the key at `loc` stands; `mark(*loc)` where it is not a key."""
        node = self._nearest(loc)[-1]
        return node.key or node.mark

    def exists(self, *loc: str | int) -> bool:
        """Whether something is written at `loc`."""
        return len(self._nearest(loc)) == len(loc) + 1

    def value(self, *loc: str | int) -> Any:
        """The plain data at `loc`; None where nothing is written."""
        return self._nearest(loc)[-1].plain() if self.exists(*loc) else None

    def _nearest(self, loc: Loc) -> list[Node]:
        """The nodes from the root towards `loc`, as far as they exist."""
        path = [self.root]
        for step in loc:
            child = path[-1].child(step)
            if child is None:
                break
            path.append(child)
        return path


def load(path: Path, asked: Mark | None = None) -> Document:
    """Read a file.

    Args:
        path: the file; marks name it as given.
        asked: where another file names this one, to point at when it cannot be read.

    Raises:
        PolicyError: it cannot be read, or is not strict YAML; begins with file:line:column.
    """
    return parse(_read(path, asked), path)


def parse(text: str, file: Path) -> Document:
    """Parse what `file` holds.

    Raises:
        PolicyError: it is not strict YAML; begins with file:line:column.
    """
    _refuse_characters(text, file)
    composer = _Composer(text, file)
    try:
        return Document(file, composer.document())
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file) from error
    except (ValueError, OverflowError) as error:  # an escape or version beyond what Python holds
        raise PolicyError(
            f"not YAML: {error}; check the escapes in double quotes", composer.here
        ) from error


def merge(base: Node, over: Node) -> Node:
    """`base` with `over` laid on it: mappings key by key, anything else replaced as a whole."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    entries = dict(base.value)
    for name, child in over.value.items():
        entries[name] = merge(entries[name], child) if name in entries else child
    return replace(over, value=entries)


# ── from bytes to text ────────────────────────────────────────────────────────────────────

_REFUSED = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    r"|[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
"""Control characters, line ends that only YAML 1.1 knows, and what hides or turns text around."""


def _read(path: Path, asked: Mark | None) -> str:
    begin = asked or Mark(path, 1, 1)
    try:
        if path.exists() and not path.is_file():
            raise PolicyError(f"{path} is not a file; name a YAML file", begin)
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PolicyError(f"{path} cannot be read: {reason}", begin) from error
    if len(raw) > MAX_BYTES:
        raise PolicyError(
            f"{path} is over {MAX_BYTES:,} bytes, and no policy is; name a policy file", begin
        )
    return _decoded(raw.removeprefix(b"\xef\xbb\xbf"), path)


def _decoded(raw: bytes, file: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        mark = _mark_after(raw[: error.start].decode("utf-8"), file)
        byte = raw[error.start]
        raise PolicyError(f"byte 0x{byte:02x} is not UTF-8; save it as UTF-8", mark) from error


def _refuse_characters(text: str, file: Path) -> None:
    if found := _REFUSED.search(text):
        raise _bad_character(found[0], _mark_after(text[: found.start()], file))


def _bad_character(character: str, mark: Mark) -> PolicyError:
    return PolicyError(
        f"character U+{ord(character):04X} is a control character or invisible; delete it", mark
    )


def _mark_after(before: str, file: Path) -> Mark:
    lines = re.split("\r\n|\n|\r", before)
    return Mark(file, len(lines), len(lines[-1]) + 1)


# ── from text to nodes ────────────────────────────────────────────────────────────────────


class _Composer:
    """Composes `Node`s straight from the parser's events, so that nothing refused is built."""

    def __init__(self, text: str, file: Path) -> None:
        self._parser: Any = yaml.SafeLoader(text)
        self._file = file

    @property
    def here(self) -> Mark:
        """How far the parser has read."""
        return _mark_of(self._parser.get_mark(), self._file)

    def document(self) -> Node:
        self._parser.get_event()
        if self._parser.check_event(yaml.StreamEndEvent):
            raise PolicyError("the file is empty; write a policy", Mark(self._file, 1, 1))
        self._parser.get_event()
        root = self._node(depth=1)
        self._parser.get_event()
        if not self._parser.check_event(yaml.StreamEndEvent):
            raise PolicyError(
                "a second document begins here; a file holds one, delete the `---`",
                self._mark(self._parser.peek_event()),
            )
        return root

    def _node(self, depth: int) -> Node:
        event = self._parser.get_event()
        mark = self._mark(event)
        _refuse_indirection(event, mark)
        if depth > MAX_DEPTH:
            raise PolicyError(f"nested deeper than {MAX_DEPTH} levels; no policy is", mark)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._entries(depth), mark)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(list(self._items(depth)), mark)
        return Node(_value_of(event, mark), mark)

    def _items(self, depth: int) -> Iterator[Node]:
        while not self._parser.check_event(yaml.SequenceEndEvent):
            yield self._node(depth + 1)
        self._parser.get_event()

    def _entries(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not self._parser.check_event(yaml.MappingEndEvent):
            name, mark = self._key()
            if name in entries:
                raise PolicyError(
                    f"duplicate key {_shown(name)}, first on line {lines[name]}; keep one", mark
                )
            lines[name] = mark.line
            entries[name] = replace(self._node(depth + 1), key=mark)
        self._parser.get_event()
        return entries

    def _key(self) -> tuple[str, Mark]:
        event = self._parser.get_event()
        mark = self._mark(event)
        _refuse_indirection(event, mark)
        if not isinstance(event, yaml.ScalarEvent):
            raise PolicyError("a key has to be text, not a mapping or a list", mark)
        if event.style is None and not event.value:
            raise PolicyError("a key is missing here; write it before the colon", mark)
        if event.style is None and event.value == "<<":
            raise PolicyError("merge keys (`<<`) are refused; repeat, or use `extends`", mark)
        if event.style is None and not _is_text_key(event.value):
            shown = _shown(event.value)
            raise PolicyError(f"a key has to be text, not {shown}; write it in quotes", mark)
        return _quoted(event.value, mark), mark

    def _mark(self, event: yaml.Event) -> Mark:
        return _mark_of(event.start_mark, self._file)


def _mark_of(mark: Any, file: Path) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1)


def _refuse_indirection(event: Any, mark: Mark) -> None:
    """Anchors and aliases make small files huge and local edits far-reaching; tags run code."""
    name = _shown(event.anchor or "")
    if isinstance(event, yaml.AliasEvent):
        raise PolicyError(f"alias {name} is refused; repeat the value, or use `extends`", mark)
    if event.anchor is not None:
        raise PolicyError(f"anchor {name} is refused; repeat the value, or use `extends`", mark)
    if event.tag is not None:
        raise PolicyError(
            f"tag {_shown(event.tag)} is refused; delete it: text goes in quotes, numbers plain",
            mark,
        )


def _syntax_error(error: yaml.MarkedYAMLError, file: Path) -> PolicyError:
    """The library's error, in our words where people often meet it."""
    mark = _mark_of(error.problem_mark or error.context_mark, file)
    problem = error.problem or error.context or "it cannot be parsed"
    if "'\\t'" in problem:
        return PolicyError("a tab; YAML is indented and separated with spaces, write spaces", mark)
    if "mapping values are not allowed here" in problem:
        return PolicyError(
            "`: ` is not allowed here; put text that holds a colon in quotes, or check the "
            "indentation",
            mark,
        )
    context = f" {error.context}" if error.context and error.problem else ""
    return PolicyError(f"not YAML{context}: {problem}; check quotes, brackets, indentation", mark)


# ── from scalars to values ────────────────────────────────────────────────────────────────

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~"), None),
}
_WORDS = {
    word: boolean
    for boolean, names in (("true", ("yes", "on")), ("false", ("no", "off")))
    for name in names
    for word in (name, name.title(), name.upper())
}
_AMBIGUOUS = (
    (re.compile(r"[-+]?0[0-9]+"), "is octal to some parsers and decimal to others"),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+"), "is hexadecimal"),
    (re.compile(r"[-+]?0[oO][0-7_]+"), "is octal"),
    (re.compile(r"[-+]?0[bB][01_]+"), "is binary"),
    (re.compile(r"(?=[^_]*_)[-+]?[0-9][0-9_]*(\.[0-9_]*)?"), "is a number to some parsers only"),
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?"), "is base 60 to some parsers"),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), "is not a finite number"),
)


def _value_of(event: Any, mark: Mark) -> Scalar:
    """A scalar's value; only plain ones are anything but text."""
    text: str = event.value
    if event.style is not None:
        return _quoted(text, mark)
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    _refuse_ambiguous(text, mark)
    if _INTEGER.fullmatch(text):
        return _integer(text, mark)
    if _FLOAT.fullmatch(text):
        return _float(text, mark)
    return text


def _quoted(text: str, mark: Mark) -> str:
    """Text as it is; an escape may not bring in what the file itself may not hold."""
    if found := _REFUSED.search(text):
        raise _bad_character(found[0], mark)
    return text


def _is_text_key(text: str) -> bool:
    numeric = _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)
    odd = any(pattern.fullmatch(text) for pattern, _ in _AMBIGUOUS)
    return bool(text) and text not in _CONSTANTS and not numeric and not odd


def _refuse_ambiguous(text: str, mark: Mark) -> None:
    if not text:
        raise PolicyError("a value is missing here; write it, or `null`, or delete the line", mark)
    if text in _WORDS:
        raise PolicyError(
            f"{text} is a boolean to some parsers and text to others; write {_WORDS[text]}, "
            f'or "{text}" in quotes for the text',
            mark,
        )
    for pattern, why in _AMBIGUOUS:
        if pattern.fullmatch(text):
            raise PolicyError(
                f"{_shown(text)} {why}; write a plain decimal number such as 10 or 0.01, "
                "or put it in quotes for the text",
                mark,
            )


def _integer(text: str, mark: Mark) -> int:
    if len(text) > _MAX_DIGITS or abs(int(text)) >= 2**63:
        raise PolicyError(f"{_shown(text)} does not fit 64 bits; put text in quotes", mark)
    return int(text)


def _float(text: str, mark: Mark) -> float:
    number = float(text)
    vanished = number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]) is not None
    if vanished or number in (float("inf"), float("-inf")):
        raise PolicyError(
            f"{_shown(text)} is too large or too small for a number; put text in quotes", mark
        )
    return number


def _shown(text: str) -> str:
    """Quoted, and cut to what a line can hold."""
    return repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")
