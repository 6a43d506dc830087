"""A history in the terminal: a line a run, newest last, next to the prompt."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import click
from rich.cells import cell_len

from gate.commands._history_drift import Drift
from gate.commands._history_line import Entry, Line
from gate.registered import Move
from gate.wording import plural

WIDTH = 180
"""Columns where there is no terminal."""
_GAP = 2
_NARROWEST = 24
"""Columns of the outcome, before others make way."""
_WIDEST_OUTCOME = 400
_LONGEST_REASON = 120
_LONGEST_NAME = 40
_SPARKS = "▁▂▃▄▅▆▇█"
_POINTS = 60
_DROPS = ("drop", "relative_drop")
_STYLES = {"pass": "green", "waived": "yellow", "inconclusive": "yellow", "incomplete": "cyan"}
_LARGE = 100
NONE = "–"
UNKNOWN = "?"
PRODUCTION = "★"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    name: str
    cell: Callable[[Entry], str]
    rank: int
    """How soon it makes way for others: the highest first, 0 never."""
    is_number: bool = False


Cells = list[list[str]]


# ── one model ─────────────────────────────────────────────────────────────────────────────


def render(line: Line, *, width: int, color: bool = False) -> str:
    """Every run of a model; in `width` columns what matters least is left out.

    Only the outcome is ever broken over lines.
    """
    columns = [c for c in _columns(line) if c.rank != _ABSENT]
    cells = [[plain(column.cell(entry)) for column in columns] for entry in line.entries]
    columns, cells = _fit(columns, cells, width)
    widths = _widths([c.name for c in columns], cells)
    room = max(_NARROWEST, width - sum(widths) - _GAP * len(widths))
    text = [_bold(_title(line), color), ""]
    text += [_row([c.name for c in columns], columns, widths) + " " * _GAP + "outcome"]
    text += ["─" * min(width, sum(widths) + _GAP * len(widths) + room)]
    for entry, row in zip(line.entries, cells, strict=True):
        text += _separators(entry)
        text += _lines(_row(row, columns, widths), outcome(entry), room, entry, color=color)
    text += [*map(_moved, line.later), "", *_footer(line)]
    return "".join(f"{one.rstrip()}\n" for one in text)


_ABSENT = -1


def _columns(line: Line) -> list[Column]:
    """All that there are, in the order that they are read."""
    entries = line.entries
    several = len(line.labels) > 1
    has_left = any(entry.limit is not None for entry in entries)
    has_drift = any(entry.drift.how != "none" for entry in entries)
    has_drift_left = any(entry.drift.limit is not None for entry in entries)
    has_share = any(entry.int8_share is not None for entry in entries)
    has_latency = any(entry.latency is not None for entry in entries)
    return [
        Column("when", lambda e: f"{e.run.when:%Y-%m-%d %H:%M}", 0),
        Column("stage", lambda e: e.run.stage, 4),
        Column("version", _version, 0),
        Column("candidate", lambda e: e.candidate[:_LONGEST_NAME] or NONE, 9),
        Column("recipe", lambda e: e.recipe or NONE, 8),
        Column("metric", lambda e: e.series.label if e.series else NONE, 2 if several else _ABSENT),
        Column("FP32", lambda e: number(e.reference), 6, is_number=True),
        Column("INT8", lambda e: number(e.value("int8")), 3, is_number=True),
        Column("drop", lambda e: signed(e.value("drop")), 0, is_number=True),
        Column("interval", interval, 4, is_number=True),
        Column("limit", lambda e: number(e.limit), 7 if has_left else _ABSENT, is_number=True),
        Column("left", lambda e: number(e.left), 1 if has_left else _ABSENT, is_number=True),
        Column("drift", _drift, 2 if has_drift else _ABSENT, is_number=True),
        Column("of it left", _drift_left, 3 if has_drift_left else _ABSENT, is_number=True),
        Column("in INT8", _share, 10 if has_share else _ABSENT, is_number=True),
        Column("ms", lambda e: number(e.latency), 11 if has_latency else _ABSENT, is_number=True),
    ]


def _title(line: Line) -> str:
    name = plain(line.model)
    return f"{name} · {plain(line.labels[0])}" if len(line.labels) == 1 else name


def _separators(entry: Entry) -> Iterator[str]:
    yield from map(_moved, entry.moves)
    if entry.change is not None:
        yield plain(f"── {entry.change.told}")


def _moved(move: Move) -> str:
    before = f"{move.previous} → " if move.previous else ""
    cut = "" if move.complete else ", cut short"
    what = "promoted" if move.kind == "promote" else "rolled back"
    return plain(
        f"── {move.when:%Y-%m-%d %H:%M} {move.alias}: version {before}{move.version}, {what} by "
        f"{move.who}{cut}: {_cut(move.why)}"
    )


def _footer(line: Line) -> Iterator[str]:
    releases = [entry for entry in line.entries if entry.run.stage == "release"] or line.entries
    for name, values in (
        ("INT8", [entry.value("int8") for entry in releases]),
        ("drift", [entry.drift.value for entry in releases]),
    ):
        if len(line.labels) == 1 and (drawn := spark([v for v in values if v is not None])):
            yield f"{name:<5} {drawn}"
    told = [f"{plural(len(line.entries), 'run')}, newest last; times are UTC"]
    told += [f"{PRODUCTION} is in production"] if any(e.is_production for e in line.entries) else []
    if any(entry.drift.how != "none" for entry in line.entries):
        anchor = line.anchor.told if line.anchor else "none: no release has passed yet"
        told += [f"drift is counted from {anchor}"]
    yield plain("; ".join(told))
    unknown = {e.drift.why for e in line.entries if e.drift.how == "unknown" and e.drift.why}
    yield from (plain(f"{UNKNOWN} {why}") for why in sorted(unknown))


# ── all models ────────────────────────────────────────────────────────────────────────────


def render_all(lines: Sequence[Line], *, width: int, color: bool = False) -> str:
    """The newest release of every model, given worst first."""
    shown = [line for line in lines if line.newest is not None]
    entries = [line.newest for line in shown if line.newest is not None]
    names = {id(entry): line for entry, line in zip(entries, shown, strict=True)}
    columns = [
        Column("model", lambda e: names[id(e)].model, 0),
        *(c for c in _overview() if c.rank != _ABSENT),
        Column("production", lambda e: names[id(e)].past.production or NONE, 3),
    ]
    cells = [[plain(column.cell(entry)) for column in columns] for entry in entries]
    columns, cells = _fit(columns, cells, width)
    widths = _widths([c.name for c in columns], cells)
    room = max(_NARROWEST, width - sum(widths) - _GAP * len(widths))
    text = [_row([c.name for c in columns], columns, widths) + " " * _GAP + "outcome"]
    text += ["─" * min(width, len(text[0]) + _NARROWEST)]
    for entry, row in zip(entries, cells, strict=True):
        text += _lines(_row(row, columns, widths), outcome(entry), room, entry, color=color)
    text += [f"{plain(line.model)}: no run is kept" for line in lines if line.newest is None]
    text += ["", f"{plural(len(lines), 'model')}, worst first; times are UTC"]
    return "".join(f"{one.rstrip()}\n" for one in text)


def _overview() -> list[Column]:
    return [
        Column("when", lambda e: f"{e.run.when:%Y-%m-%d %H:%M}", 4),
        Column("stage", lambda e: e.run.stage, 6),
        Column("version", _version, 2),
        Column("metric", lambda e: e.series.label if e.series else NONE, 5),
        Column("drop", lambda e: signed(e.value("drop")), 0, is_number=True),
        Column("limit", lambda e: number(e.limit), 7, is_number=True),
        Column("left", lambda e: number(e.left), 0, is_number=True),
        Column("drift", _drift, 1, is_number=True),
        Column("of it left", _drift_left, 3, is_number=True),
    ]


# ── cells ─────────────────────────────────────────────────────────────────────────────────


def _version(entry: Entry) -> str:
    sign = f" {PRODUCTION}" if entry.is_production else ""
    return f"{entry.run.version or NONE}{sign}"


def interval(entry: Entry) -> str:
    """The drop's; where a budget bounds the value or a ratio, that one's."""
    lower, upper = entry.value("lower"), entry.value("upper")
    if lower is None or upper is None:
        return NONE
    show = signed if entry.quantity in _DROPS else number
    return f"[{show(lower)}, {show(upper)}]"


def _drift(entry: Entry) -> str:
    return drift_text(entry.drift)


def drift_text(drift: Drift) -> str:
    """Signed; a question mark where it is unknown."""
    return UNKNOWN if drift.how == "unknown" else signed(drift.value)


def _drift_left(entry: Entry) -> str:
    unknown = entry.drift.how == "unknown" and entry.drift.limit is not None
    return UNKNOWN if unknown else number(entry.drift.left)


def _share(entry: Entry) -> str:
    return NONE if entry.int8_share is None else f"{entry.int8_share:.0%}"


def number(value: float | None) -> str:
    """Four decimals; large ones whole; a dash for none."""
    if value is None:
        return NONE
    return f"{value:.4f}" if abs(value) < _LARGE else f"{value:,.0f}"


def signed(value: float | None) -> str:
    """The same, with a plus."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def outcome(entry: Entry) -> str:
    """The outcome, what it does not prove, and in a few words why it is not a pass."""
    marks = "".join(f" ({mark})" for mark in entry.marks)
    why = f": {_cut(entry.reason)}" if entry.reason else ""
    return plain(f"{entry.run.outcome}{marks}{why}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON].rstrip()} …"


def plain(text: str) -> str:
    """Text without what would move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def spark(values: Sequence[float]) -> str:
    """The newest values as bars, with the first, the last and the range; else nothing."""
    shown = values[-_POINTS:]
    if len(shown) <= 1:
        return ""
    low, high = min(shown), max(shown)
    top = len(_SPARKS) - 1
    bars = "".join(
        _SPARKS[round(top * (v - low) / (high - low)) if high > low else 0] for v in shown
    )
    return f"{bars} {number(shown[0])} → {number(shown[-1])} ({number(low)} … {number(high)})"


# ── layout ────────────────────────────────────────────────────────────────────────────────


def _fit(columns: list[Column], cells: Cells, width: int) -> tuple[list[Column], Cells]:
    """Leave columns out, what matters least first, until the outcome has room."""
    while True:
        widths = _widths([c.name for c in columns], cells)
        needed = sum(widths) + _GAP * len(widths) + _NARROWEST
        least = max(columns, key=lambda column: column.rank)
        if needed <= width or least.rank == 0:
            return columns, cells
        index = columns.index(least)
        columns = columns[:index] + columns[index + 1 :]
        cells = [[*row[:index], *row[index + 1 :]] for row in cells]


def _widths(names: Sequence[str], cells: Cells) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]


def _row(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (
        _padded(cell, width, right=column.is_number)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    )
    return (" " * _GAP).join(padded)


def _padded(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return f"{space}{cell}" if right else f"{cell}{space}"


def _lines(head: str, told: str, room: int, entry: Entry, *, color: bool) -> Iterator[str]:
    """A row, and below it what its outcome says more than there is room for."""
    first, *rest = textwrap.wrap(told[:_WIDEST_OUTCOME], room) or [""]
    word = entry.run.outcome
    if color and first.startswith(word):
        first = click.style(word, fg=_STYLES.get(word, "red")) + first[len(word) :]
    yield f"{head}{' ' * _GAP}{first}"
    indent = " " * (cell_len(head) + _GAP)
    yield from (f"{indent}{part}" for part in rest)


def _bold(text: str, color: bool) -> str:
    return click.style(text, bold=True) if color else text
