"""A workflow or action as GitHub reads it, with the place of everything in it.

Apart from `strict_yaml`, which refuses what workflows are full of: `pull_request:` without a value,
and anchors. Every scalar is text here, `on` among them; duplicate and merge keys are refused, as
GitHub refuses them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gate.errors import Mark, PolicyError
from gate.strict_yaml import MAX_BYTES, MAX_DEPTH

_MAX_NODES = 50_000


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands."""

    value: "str | dict[str, Node] | list[Node]"
    mark: Mark
    span: tuple[int, int]
    """Of the file's characters."""
    key: Mark | None = None
    """Where its key stands, for the entry of a mapping."""

    @property
    def text(self) -> str:
        """The scalar; empty for anything else."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def items(self) -> "list[Node]":
        """The items of a list; a scalar is a list of one, as for `needs: plan`."""
        if isinstance(self.value, list):
            return self.value
        return [self] if self.text else []

    @property
    def entries(self) -> "dict[str, Node]":
        """The entries of a mapping; none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def at(self, *keys: str) -> "Node | None":
        """What stands under `keys`, from mapping to mapping."""
        node: Node | None = self
        for key in keys:
            node = None if node is None else node.entries.get(key)
        return node

    def word(self, *keys: str) -> str:
        """The scalar under `keys`; empty where there is none."""
        found = self.at(*keys)
        return "" if found is None else found.text

    def walk(self) -> "Iterator[Node]":
        """It, and everything in it."""
        yield self
        if not isinstance(self.value, str):
            children = self.value if isinstance(self.value, list) else self.value.values()
            for child in children:
                yield from child.walk()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A file's data, and its text."""

    file: Path
    text: str
    root: Node

    def place(self, index: int) -> Mark:
        """Line and column of the character at `index`."""
        before = self.text[:index]
        return Mark(self.file, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)

    @property
    def jobs(self) -> dict[str, Node]:
        """The jobs by their ids."""
        found = self.root.at("jobs")
        return {} if found is None else found.entries

    @property
    def triggers(self) -> dict[str, Node]:
        """What starts it: `on:` as a word, a list or a mapping."""
        on = self.root.at("on")
        if on is None:
            return {}
        return on.entries or {item.text: item for item in on.items}


def load(path: Path) -> Workflow:
    """Read a file.

    Raises:
        PolicyError: it cannot be read, or GitHub would not take it; begins with file:line:column.
    """
    begin = Mark(path, 1, 1)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}", begin) from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8; save it as UTF-8", begin) from error
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"{path} is over {MAX_BYTES:,} bytes, and no workflow is", begin)
    return parse(text.replace("\r\n", "\n"), path)


def parse(text: str, file: Path) -> Workflow:
    """Parse what `file` holds.

    Raises:
        PolicyError: GitHub would not take it; begins with file:line:column.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = _mark(place, file) if place else Mark(file, 1, 1)
        raise PolicyError(
            f"not YAML: {error.problem}; check quotes and indentation", mark
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"not YAML: {error}", Mark(file, 1, 1)) from error
    if not isinstance(root, yaml.MappingNode):
        raise PolicyError("a workflow is `key: value` pairs, and this is not", Mark(file, 1, 1))
    return Workflow(file, text, _Reader(file).node(root, depth=1))


class _Reader:
    """Nodes of PyYAML as ours. An alias is read where it stands, so that copies are counted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._left = _MAX_NODES

    def node(self, node: Any, depth: int, key: Mark | None = None) -> Node:
        mark = _mark(node.start_mark, self._file)
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise PolicyError("deeper or larger than any workflow; check its aliases", mark)
        return Node(
            self._value(node, depth), mark, (node.start_mark.index, node.end_mark.index), key
        )

    def _value(self, node: Any, depth: int) -> "str | dict[str, Node] | list[Node]":
        if isinstance(node, yaml.MappingNode):
            return self._entries(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.node(item, depth + 1) for item in node.value]
        text: str = node.value
        return text

    def _entries(self, node: Any, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for name, child in node.value:
            mark = _mark(name.start_mark, self._file)
            if not isinstance(name, yaml.ScalarNode) or name.value == "<<":
                raise PolicyError("GitHub takes plain keys only, no merge keys; repeat", mark)
            if name.value in entries:
                raise PolicyError(f"duplicate key {name.value!r}; keep one", mark)
            entries[name.value] = self.node(child, depth + 1, mark)
        return entries


def _mark(mark: Any, file: Path) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1)
