"""`gate explain`: the page of a code, from the files of gate/explanations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources

from gate.door import unknown
from gate.errors import UsageError
from gate.wording import json_text

_KINDS = {
    "G1": "Errors: the gate could not judge",
    "G2": "Findings: what a budget came to",
    "G3": "Of a verdict: what else to know",
}
_INTRODUCTION = """\
# Codes

Every error and every finding of a report has a code. It is stable: a code never changes what it
means, and is never used again. An error ends with `gate: more: gate explain CODE`; reports show the
codes of what did not pass; in `record.json` each finding has its `code`.

`gate explain G210` prints a page, `gate explain` lists all. This file is what
`gate explain --format markdown` prints.
"""


@dataclass(frozen=True, slots=True)
class Page:
    """What there is to say about a code."""

    code: str
    title: str
    """One line."""
    text: str
    """Markdown, without the heading."""

    @property
    def whole(self) -> str:
        """As its file is written."""
        return f"# {self.code}: {self.title}\n\n{self.text}"


def known() -> tuple[str, ...]:
    """Every code, sorted."""
    files = resources.files("gate").joinpath("explanations").iterdir()
    return tuple(sorted(f.name.removesuffix(".md") for f in files if f.name.endswith(".md")))


def page(code: str) -> Page:
    """The page of `code`, in any case, with or without the brackets that reports put around it.

    Raises:
        UsageError: there is no such code; the message suggests one.
    """
    asked, every = code.strip().strip("[]").upper(), known()
    if asked not in every:
        raise UsageError(unknown("code", asked, every))
    text = resources.files("gate").joinpath("explanations", f"{asked}.md").read_text("utf-8")
    heading, _, body = text.partition("\n\n")
    return Page(asked, heading.removeprefix(f"# {asked}: "), body)


def explain(codes: Sequence[str], format_: str = "text") -> str:
    """The pages of `codes`, or without any what there is.

    Args:
        codes: as `page` takes them; empty: all of them.
        format_: text, markdown or json.

    Raises:
        UsageError: one of them does not exist.
    """
    pages = [page(code) for code in (codes or known())]
    if format_ == "json":
        told = {"pages": [asdict(one) for one in pages]}
        return json_text(told)
    if codes:
        return "\n".join(one.whole for one in pages)
    return document(pages) if format_ == "markdown" else _listing(pages)


def _listing(pages: Sequence[Page]) -> str:
    lines: list[str] = []
    for prefix, title in _KINDS.items():
        lines += ["", title] if lines else [title]
        lines += [f"{one.code}  {one.title}" for one in pages if one.code.startswith(prefix)]
    return "\n".join([*lines, "", "A page: gate explain CODE"]) + "\n"


def document(pages: Sequence[Page]) -> str:
    """docs/errors.md: an introduction, a table of all codes, and every page."""
    parts = [_INTRODUCTION]
    for prefix, title in _KINDS.items():
        mine = [one for one in pages if one.code.startswith(prefix)]
        rows = [f"| [{one.code}](#{one.code.lower()}) | {one.title} |" for one in mine]
        parts.append("\n".join([f"## {title}", "", "| code | |", "| --- | --- |", *rows]) + "\n")
        parts += [f"### {one.code}\n\n{one.title}.\n\n{one.text}" for one in mine]
    return "\n".join(parts)
