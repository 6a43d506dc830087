"""HTML that nothing can break out of: what is not built here is text, and is escaped."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape

from gate.story import Case
from gate.wording import plain, whole

LONGEST = 1000
"""Characters of any text from outside; what is longer loses its middle."""
_VOID = frozenset({"meta", "br", "img"})
_NAME = re.compile(r"_(?=.)")


class Html(str):
    """Markup that goes into the page as it is; any other text is escaped."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; `class_` and `data_value` are written `class` and `data-value`.

    What is not `Html` is text. None and False leave an attribute out, True writes its name alone,
    and floats are written with all of their digits.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """One after another."""
    return Html("".join(text(part) for part in parts))


def text(value: object) -> Html:
    """Text as it is seen: nothing in it is markup, invisible, or on another line."""
    return value if isinstance(value, Html) else Html(escape(plain(value, LONGEST)))


def code(lines: str) -> Html:
    """Text to copy: unlike `text` it is whole, and keeps its lines and its colons."""
    shown = "\n".join("".join(map(plain, line)) for line in lines.split("\n"))
    inert = escape(shown).replace("##[", "##&#91;").replace("::", ":&#58;")
    return tag("pre", tag("code", Html(inert)), tabindex="0")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = _NAME.sub("-", key).rstrip("_")
    if value is True:
        return f" {name}"
    if isinstance(value, Html):
        return f' {name}="{escape(value)}"'
    shown = repr(value) if isinstance(value, float) else plain(value, LONGEST)
    return f' {name}="{escape(shown)}"'


# ── what pages are made of ────────────────────────────────────────────────────────────────


def section(key: str, title: str, *children: object) -> Html:
    """A part of the page under its heading; nothing where there is nothing in it."""
    body = join(children)
    if not body:
        return Html()
    return tag("section", tag("h2", title, id=key), body, aria_labelledby=key)


def folded(summary: object, *children: object) -> Html:
    """What a reader opens if they want to."""
    return tag("details", tag("summary", summary), *children)


def wide(name: str, child: Html) -> Html:
    """What may be wider than the page: it scrolls by itself, by keyboard too."""
    return tag("div", child, class_="wide", role="region", aria_label=name, tabindex="0")


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Html],
    *,
    most: int,
    numbers: Collection[str] = (),
) -> Html:
    """A table of rows that `row` made, in about `most` bytes; what does not fit is counted."""
    head = header(columns, numbers)
    shown, left = fitting(rows, most)
    inside = (tag("caption", caption), head, tag("tbody", *shown))
    return join((wide(caption, tag("table", *inside)), more(left)))


def header(columns: Sequence[str], numbers: Collection[str] = ()) -> Html:
    """The head of a table; `numbers` are the columns of cells that `number` made."""
    cells = (
        tag("th", column, scope="col", class_="number" if column in numbers else None)
        for column in columns
    )
    return tag("thead", tag("tr", *cells))


def row(head: object, *cells: object, **attributes: object) -> Html:
    """A row of a table, headed by its first cell."""
    rest = (cell if _is_cell(cell) else tag("td", cell) for cell in cells)
    return tag("tr", tag("th", head, scope="row"), *rest, **attributes)


def number(value: object) -> Html:
    """A cell that lines up with the numbers above and below it."""
    return tag("td", value, class_="number")


def _is_cell(cell: object) -> bool:
    return isinstance(cell, Html) and cell.startswith("<td")


def fitting(parts: Sequence[Html], most: int) -> tuple[Sequence[Html], int]:
    """The first parts that take up at most `most` bytes together, and how many are left."""
    used = 0
    for count, part in enumerate(parts):
        used += len(part.encode())
        if used > most:
            return parts[:count], len(parts) - count
    return parts, 0


def more(left: int) -> Html:
    """Says that something is left out, and where it is."""
    return tag("p", f"and {whole(left)} more, in record.json", class_="faint") if left else Html()


def slice_key(case: Case) -> str | None:
    """What tells a finding's element from the others of its budget."""
    return case.finding.slice and plain(case.finding.slice, 60)


# ── drawings ──────────────────────────────────────────────────────────────────────────────


def drawing(key: str, name: str, told: str, wide_high: tuple[float, float], *parts: Html) -> Html:
    """An SVG that a screen reader announces by `name` and describes by `told`."""
    across, down = wide_high
    return tag(
        "svg",
        tag("title", name, id=f"{key}-title"),
        tag("desc", told, id=f"{key}-told"),
        *parts,
        viewBox=f"0 0 {across:g} {down:g}",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-told",
    )


def label(x: float, y: float, value: object, *, anchor: str = "start", class_: str = "") -> Html:
    """Text in a drawing."""
    place = {"x": px(x), "y": px(y), "text_anchor": None if anchor == "start" else anchor}
    return tag("text", value, class_=class_ or None, **place)


def stroke(path: str, class_: str, **attributes: object) -> Html:
    """A line in a drawing."""
    return tag("path", d=Html(path), class_=class_, **attributes)


_MARKS = {
    "pass": "M{x} {y}m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
    "fail": "M{x} {y}m-4.5 -4.5h9v9h-9z",
    "waived": "M{x} {y}m0 -5.5l5.5 9.5h-11z",
    "inconclusive": "M{x} {y}m0 -6l6 6l-6 6l-6 -6z",
}


def mark(x: float, y: float, outcome: str) -> Html:
    """Where a number stands: a shape for each outcome, so that no colour has to be told apart."""
    path = _MARKS.get(outcome, _MARKS["inconclusive"])
    return stroke(path.format(x=px(x), y=px(y)), f"mark {_known(outcome)}")


def outcome(name: str, kind: str) -> Html:
    """An outcome in words, with the shape that drawings have for it."""
    shape = {"pass": "●", "fail": "■", "waived": "▲"}.get(kind, "◇")
    sign = tag("span", shape, aria_hidden="true")
    return tag("span", sign, Html(" "), name, class_=f"outcome {_known(kind)}")


def _known(kind: str) -> str:
    return kind if kind in _MARKS else "inconclusive"


def px(value: float) -> str:
    """A coordinate."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two ends that differ: 1, 2 or 5 times a power of ten apart."""
    rough = high / most - low / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]
