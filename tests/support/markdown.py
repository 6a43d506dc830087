"""What a page of the documentation holds: blocks, links, headings, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(
    r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$", re.M | re.S
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Command:
    """A line behind a prompt, and what is shown below it."""

    line: str
    """Joined where it goes on behind a backslash, without the prompt."""
    shown: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[list[str]]:
        """Its words, a list for each command between `|`, `&&`, `||` and `;`."""
        lexer = shlex.shlex(self.line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        found: list[list[str]] = [[]]
        for word in lexer:
            if set(word) <= set("|&;"):
                found.append([])
            else:
                found[-1].append(word)
        return found


def told(page: Path) -> str:
    """For the name of a test."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> Iterator[str]:
    """Bodies of fenced blocks in a language."""
    for found in _FENCE.finditer(text):
        if found["language"] == language:
            yield found["body"]


def prose(text: str) -> str:
    """Everything outside fenced blocks and code between backticks."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def links(text: str) -> list[str]:
    """Targets of links and pictures that lead to no other host."""
    targets = (found["target"] for found in _LINK.finditer(_FENCE.sub("", text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Of every heading, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", _FENCE.sub("", text), re.M):
        plain = _LINK.sub(lambda one: one[0].split("](")[0].lstrip("!["), heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        free = next(name for name in _numbered(slug) if name not in found)
        found.add(free)
    return found


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    number = 0
    while True:
        number += 1
        yield f"{slug}-{number}"


def consoles(text: str) -> Iterator[list[Command]]:
    """The commands of each console block."""
    for body in blocks(text, "console"):
        found: list[Command] = []
        for line in body.replace("\\\n", " ").splitlines():
            if line.startswith(_PROMPT):
                found.append(Command(line.removeprefix(_PROMPT)))
            elif found:
                found[-1].shown.append(line)
        yield found
