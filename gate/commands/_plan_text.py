"""A plan as plain text of 100 columns, with a small plot of the first budget."""

import math
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from gate.commands._plan_pages import DECIDABLE, Curve, Page, Section, Table
from gate.wording import whole

WIDTH = 100
_GAP = "  "
_PLOT = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LEAST_SPAN = 4.0


def render(page: Page) -> str:
    """The page; every line ends with a newline and has 100 columns at most."""
    lines = [*_wrapped(page.title), ""]
    for fact in page.facts:
        lines += _wrapped(fact)
    for section in page.sections:
        lines += ["", *_wrapped(section.title), *_section(section)]
    drawn = next((section for section in page.sections if section.curves), None)
    if drawn is not None:
        lines += ["", *_plot(drawn)]
    if page.legend:
        lines += ["", *(line for sentence in page.legend for line in _wrapped(sentence))]
    if page.decidable:
        lines += ["", *_wrapped(DECIDABLE), *(f"  {line}" for line in page.decidable)]
    lines += ["", *_wrapped(page.advice)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _section(section: Section) -> Iterator[str]:
    if section.table is not None:
        yield from _table(section.table)
    for note in section.notes:
        yield from _wrapped(note, "   ")


# ── table ─────────────────────────────────────────────────────────────────────────────────


def _table(table: Table) -> Iterator[str]:
    """Columns flush right, under headings of several."""
    cells = (table.columns, *table.rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    start = 0
    heads = []
    for head, count in table.groups:
        columns = range(start, start + count)
        start += count
        room = sum(widths[i] for i in columns) + len(_GAP) * (count - 1)
        widths[columns[0]] += max(0, len(head) - room)
        heads.append(head.center(max(room, len(head)), "─" if head else " "))
    yield " " * 3 + _GAP.join(heads)
    for row in cells:
        padded = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield " " * 3 + _GAP.join(padded)


# ── plot ──────────────────────────────────────────────────────────────────────────────────


def _plot(section: Section) -> Iterator[str]:
    """A bar of rising blocks for each curve, over examples on a logarithmic scale."""
    low, high = _span(section)
    examples = np.geomspace(low, high, _PLOT)
    labels = [label for label, _ in section.curves]
    width = max(map(len, labels))
    yield from _wrapped(f"Chance of PASS by number of examples: {section.title}")
    for label, curve in section.curves:
        blocks = (_BLOCKS[round(_chance(curve, n) * (len(_BLOCKS) - 1))] for n in examples)
        yield f"   {label:>{width}} ▕{''.join(blocks)}▏"
    yield f"   {'':>{width}}  {_axis(low, high)}"
    if section.marked is not None:
        name, n = section.marked
        yield f"   {'':>{width}}  {_pointed(name, _column(n, low, high))}"


def _span(section: Section) -> tuple[float, float]:
    numbers = [n for _, curve in section.curves for n, _ in curve]
    numbers += [section.marked[1]] if section.marked else []
    low, high = min(numbers) * 0.8, max(numbers) * 1.1
    return max(1.0, low), max(high, low * _LEAST_SPAN, _LEAST_SPAN)


def _chance(curve: Curve, n: float) -> float:
    """Chance of PASS with n examples: between the curve's points on a logarithmic scale."""
    logs = np.log([examples for examples, _ in curve])
    return float(np.interp(math.log(n), logs, [chance for _, chance in curve], left=0.0))


def _column(n: float, low: float, high: float) -> int:
    """Of 0.._PLOT − 1."""
    place = math.log(n / low) / math.log(high / low)
    return min(_PLOT - 1, max(0, round(place * (_PLOT - 1))))


def _axis(low: float, high: float) -> str:
    """Round numbers under their columns, those that do not touch."""
    line = ""
    for n in ticks(low, high):
        text = f"↑{whole(n)}"
        place = _column(n, low, high)
        if place >= len(line) + bool(line) and place + len(text) <= _PLOT + len(_GAP):
            line = line.ljust(place) + text
    return line


def _pointed(name: str, place: int) -> str:
    return f"{name} ▲".rjust(place + 1) if len(name) + 1 < place else f"{'':>{place}}▲ {name}"


def ticks(low: float, high: float) -> Sequence[int]:
    """1, 2 and 5 times the powers of ten between two numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (digit * 10**power for power in powers for digit in (1, 2, 5))
    return [int(n) for n in numbers if low <= n <= high and n >= 1]
