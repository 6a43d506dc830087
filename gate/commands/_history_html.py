"""A history as one self-contained page: drawings and tables, no script, nothing from elsewhere."""

from collections.abc import Iterator, Sequence
from html import escape

from gate.commands._history_line import Entry, Line
from gate.commands._history_svg import drawing
from gate.commands._history_text import (
    NONE,
    PRODUCTION,
    UNKNOWN,
    drift_text,
    interval,
    number,
    outcome,
    plain,
    signed,
)
from gate.registered import Move
from gate.wording import plural

_STYLE = """
:root{color-scheme:light dark;
--ink:#1b1f24;--paper:#fff;--faint:#5b6470;--line:#d5d9df;--band:#f3f5f8;
--good:#1a7f37;--bad:#cf222e;--unsure:#9a6700;--int8:#2a78d6;--fp32:#7a8490;--drift:#8e44ad}
@media(prefers-color-scheme:dark){
:root{--ink:#e6e8eb;--paper:#15181c;--faint:#9aa3ad;--line:#3a4149;--band:#20252b;
--good:#3fb950;--bad:#f85149;--unsure:#d29922;--int8:#58a6ff;--fp32:#8b949e;--drift:#bc8cff}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin:2.5rem 0 .5rem}
p{margin:.4rem 0}.faint{color:var(--faint);font-size:.9rem}a{color:var(--int8)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{padding:.2rem .6rem;text-align:left;white-space:nowrap}
td.n,th.n{text-align:right}td.o{white-space:normal;min-width:14rem}
th{font-weight:600;color:var(--faint)}
tbody tr:nth-child(odd){background:var(--band)}
td.event{color:var(--faint);white-space:normal;overflow-wrap:anywhere;
border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
td.pass{color:var(--good)}td.fail,td.error{color:var(--bad)}
td.inconclusive,td.waived,td.incomplete{color:var(--unsure)}
svg{display:block;width:100%;height:auto;margin:.6rem 0}
svg text{fill:var(--faint);font:11px system-ui,sans-serif}svg text.head{fill:var(--ink)}
.grid{stroke:var(--line)}.curve{fill:none;stroke-width:2}.bar{stroke:var(--faint)}
.curve.int8,.curve.drop{stroke:var(--int8)}.dot.int8,.dot.drop{fill:var(--int8)}
.curve.fp32{stroke:var(--fp32)}.dot.fp32{fill:var(--fp32)}
.curve.drift{stroke:var(--drift)}.dot.drift{fill:var(--drift)}
.curve.limit{stroke:var(--bad);stroke-dasharray:6 4}.dot.limit{fill:var(--bad)}
.change{stroke:var(--unsure);stroke-width:1.5}.change.broken{stroke-dasharray:2 3}
.outcome rect{fill:var(--bad)}.outcome.pass rect{fill:var(--good)}
.outcome.inconclusive rect,.outcome.waived rect,.outcome.incomplete rect{fill:var(--unsure)}
.outcome text{fill:var(--paper);font-weight:700}
"""
_HEADS = (
    *("when", "stage", "version", "candidate", "recipe", "metric"),
    *("reference", "INT8", "drop", "interval", "limit", "left"),
    *("drift", "of it left", "in INT8", "ms", "outcome"),
)
_NUMBERS = range(6, 16)
_SUMMARY = (
    *("model", "newest", "stage", "version", "metric"),
    *("drop", "limit", "left", "drift", "of it left", "production", "outcome"),
)
_UNDRAWN = "Nothing is drawn, as runs are shown by different metrics; name one with --metric"
_SUMMARY_NUMBERS = range(5, 10)


def page(line: Line) -> str:
    """The page of one model."""
    return _page(f"History of {plain(line.model)}", [*_section(line)])


def all_page(lines: Sequence[Line]) -> str:
    """All models, given worst first: a table of their newest releases, then one after the other."""
    rows = "".join(_summary(number_, line) for number_, line in enumerate(lines))
    parts = [f"<p>{escape(plural(len(lines), 'model'))}, worst first; times are UTC.</p>"]
    parts += [_table("Newest releases", _SUMMARY, _SUMMARY_NUMBERS, rows)]
    for number_, line in enumerate(lines):
        parts += [f'<h2 id="m{number_}">{_text(line.model)}</h2>', *_section(line)]
    return _page("History of all models", parts)


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(line: Line) -> Iterator[str]:
    if not line.entries:
        yield "<p>No run is kept.</p>"
        return
    anchor = line.anchor.told if line.anchor else "nothing: no release has passed yet"
    serves = f"Version {line.past.production} is in production ({PRODUCTION}). "
    serves = serves if line.past.production else "No version is in production. "
    runs = f"{plural(len(line.entries), 'run')}, newest last; times are UTC. "
    yield f"<p>{_text(runs + serves)}Drift is counted from {_text(anchor)}.</p>"
    if drawn := drawing(line):
        yield f'<div class="wide">{drawn}</div>'
    elif len(line.labels) > 1:
        listed = ", ".join(line.labels)
        yield f'<p class="faint">{_text(_UNDRAWN)}: {_text(listed)}.</p>'
    rows = "".join(part for entry in line.entries for part in _rows(entry))
    rows += "".join(_event(_moved(move)) for move in line.later)
    yield _table(f"Runs of {plain(line.model)}", _HEADS, _NUMBERS, rows)
    whys = {e.drift.why for e in line.entries if e.drift.how == "unknown" and e.drift.why}
    yield from (f'<p class="faint">{UNKNOWN} {_text(why)}.</p>' for why in sorted(whys))


def _table(name: str, heads: Sequence[str], numbers: range, rows: str) -> str:
    """A table that a keyboard can scroll; `rows` are escaped already."""
    head = "".join(
        f'<th scope="col"{_numeric(index in numbers)}>{escape(name)}</th>'
        for index, name in enumerate(heads)
    )
    return (
        f'<div class="wide" role="region" aria-label="{escape(name)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
        "</table></div>"
    )


def _numeric(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _rows(entry: Entry) -> Iterator[str]:
    yield from (_event(_moved(move)) for move in entry.moves)
    if entry.change is not None:
        yield _event(entry.change.told)
    cells = [
        f"{entry.run.when:%Y-%m-%d %H:%M}",
        entry.run.stage,
        _version(entry),
        entry.candidate or NONE,
        entry.recipe or NONE,
        entry.series.label if entry.series else NONE,
        number(entry.reference),
        number(entry.value("int8")),
        signed(entry.value("drop")),
        interval(entry),
        number(entry.limit),
        number(entry.left),
        drift_text(entry.drift),
        number(entry.drift.left),
        NONE if entry.int8_share is None else f"{entry.int8_share:.0%}",
        number(entry.latency),
    ]
    yield _row([*map(_text, cells)], _NUMBERS, entry)


def _row(cells: Sequence[str], numbers: range, entry: Entry) -> str:
    """A row of cells that are escaped already, and the outcome."""
    shown = (f"<td{_numeric(i in numbers)}>{cell}</td>" for i, cell in enumerate(cells))
    kind = f"o {entry.run.outcome}"
    return f'<tr>{"".join(shown)}<td class="{kind}">{_text(outcome(entry))}</td></tr>\n'


def _summary(index: int, line: Line) -> str:
    name = f'<a href="#m{index}">{_text(line.model)}</a>'
    entry = line.newest
    if entry is None:
        return f'<tr><td>{name}</td><td colspan="{len(_SUMMARY) - 1}">no run is kept</td></tr>\n'
    cells = [
        f"{entry.run.when:%Y-%m-%d %H:%M}",
        entry.run.stage,
        _version(entry),
        entry.series.label if entry.series else NONE,
        signed(entry.value("drop")),
        number(entry.limit),
        number(entry.left),
        drift_text(entry.drift),
        number(entry.drift.left),
        line.past.production or NONE,
    ]
    return _row([name, *map(_text, cells)], _SUMMARY_NUMBERS, entry)


def _version(entry: Entry) -> str:
    return f"{entry.run.version or NONE}{f' {PRODUCTION}' if entry.is_production else ''}"


def _event(told: str) -> str:
    return f'<tr><td class="event" colspan="{len(_HEADS)}">{_text(told)}</td></tr>\n'


def _moved(move: Move) -> str:
    before = f"{move.previous} → " if move.previous else ""
    cut = "" if move.complete else ", cut short"
    what = "promoted" if move.kind == "promote" else "rolled back"
    return (
        f"{move.when:%Y-%m-%d %H:%M} {move.alias}: version {before}{move.version}, {what} by "
        f"{move.who}{cut}: {move.why}"
    )


def _text(text: str) -> str:
    return escape(plain(text))
