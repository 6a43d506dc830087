"""A plan as one self-contained page: the same tables, and a drawing of chances for each budget."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from gate.commands._plan_pages import DECIDABLE, Curve, Page, Section, Table
from gate.commands._plan_text import ticks
from gate.wording import whole

_WIDE, _HIGH = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 26, 34
_SHADES = ("#2a78d6", "#1a936f", "#c2571a", "#8e44ad", "#b8860b", "#c0392b")
_LEVELS = (0.0, 0.5, 0.8, 1.0)
_TARGET = 0.8
_ROW, _ABREAST = 18, 2
_Span = tuple[float, float]
_STYLE = """
:root{color-scheme:light dark;
--ink:#1b1f24;--paper:#fff;--faint:#5b6470;--line:#d5d9df;--band:#f3f5f8}
@media(prefers-color-scheme:dark){
:root{--ink:#e6e8eb;--paper:#15181c;--faint:#9aa3ad;--line:#3a4149;--band:#20252b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}
p{margin:.4rem 0}.faint{color:var(--faint);font-size:.9rem}
.advice{border-left:4px solid #2a78d6;background:var(--band);padding:.6rem .9rem;font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.2rem .7rem;text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--faint)}
thead tr:first-child th{text-align:center}
tbody tr:nth-child(odd){background:var(--band)}
svg{display:block;width:100%;height:auto;margin:.6rem 0}
svg text{fill:var(--faint);font:11px system-ui,sans-serif}
.grid{stroke:var(--line)}.curve{fill:none;stroke-width:2}
.hand{stroke:var(--ink);stroke-dasharray:4 3}
"""


def render(page: Page) -> str:
    """The page: no script, and nothing that is loaded from elsewhere."""
    body = "\n".join(
        (
            f"<h1>{escape(page.title)}</h1>",
            f'<p class="advice">{escape(page.advice)}</p>',
            *(f"<p>{escape(fact)}</p>" for fact in page.facts),
            *_decidable(page),
            *(part for section in page.sections for part in _section(section)),
            *(f'<p class="faint">{escape(text)}</p>' for text in page.legend),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _decidable(page: Page) -> Iterator[str]:
    if page.decidable:
        lines = escape("\n".join(page.decidable))
        yield f"<p>{escape(DECIDABLE)}</p>\n<pre>{lines}</pre>"


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    if section.table is not None:
        yield _table(section.table)
    yield from (f"<p>{escape(note)}</p>" for note in section.notes)
    if section.curves:
        yield _drawing(section)


def _table(table: Table) -> str:
    groups = "".join(f'<th colspan="{count}">{escape(head)}</th>' for head, count in table.groups)
    columns = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{groups}</tr><tr>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


# ── drawing ───────────────────────────────────────────────────────────────────────────────


def _drawing(section: Section) -> str:
    """Chance of PASS over examples on a logarithmic scale, with what is at hand."""
    span = _span(section)
    parts = [*_levels(), *_ticks(span)]
    for index, (label, curve) in enumerate(section.curves):
        shade = _SHADES[index % len(_SHADES)]
        parts += [_line(curve, shade, span), *_key(label, shade, index)]
    if section.marked is not None:
        parts += _mark(*section.marked, span)
    name = escape(f"Chance of PASS by number of examples: {section.title}", quote=True)
    high = _HIGH + _ROW * math.ceil(len(section.curves) / _ABREAST)
    return (
        f'<svg viewBox="0 0 {_WIDE} {high}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    )


def _span(section: Section) -> _Span:
    numbers = [n for _, curve in section.curves for n, _ in curve]
    numbers += [section.marked[1]] if section.marked else []
    low = max(1.0, min(numbers) * 0.7)
    return low, max(max(numbers) * 1.15, low * 4)


def _x(n: float, span: _Span) -> float:
    low, high = span
    return _LEFT + (_WIDE - _LEFT - _RIGHT) * math.log(n / low) / math.log(high / low)


def _y(chance: float) -> float:
    return _TOP + (_HIGH - _TOP - _BOTTOM) * (1 - chance)


def _levels() -> Iterator[str]:
    for level in _LEVELS:
        y, dashed = _y(level), ' stroke-dasharray="2 3"' if level == _TARGET else ""
        yield (
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"{dashed}/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{level:.0%}</text>'
        )


def _ticks(span: _Span) -> Iterator[str]:
    foot, last = _HIGH - _BOTTOM, -math.inf
    for n in ticks(*span):
        x = _x(n, span)
        if x - last < _LEFT:
            continue
        last = x
        yield (
            f'<path class="grid" d="M{x:.1f} {foot}v5"/>'
            f'<text x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{whole(n)}</text>'
        )


def _line(curve: Curve, shade: str, span: _Span) -> str:
    """From nothing to the right edge."""
    points = [(curve[0][0], 0.0), *curve, (span[1], curve[-1][1])]
    path = "L".join(f"{_x(n, span):.1f} {_y(chance):.1f}" for n, chance in points)
    return f'<path class="curve" stroke="{shade}" d="M{path}"/>'


def _key(label: str, shade: str, index: int) -> Sequence[str]:
    """What a line means, below the axis."""
    row, place = divmod(index, _ABREAST)
    x, y = _LEFT + place * (_WIDE - _LEFT) // _ABREAST, _HIGH + _ROW * row
    return (
        f'<path class="curve" stroke="{shade}" d="M{x} {y + 4}h16"/>',
        f'<text x="{x + 22}" y="{y + 8}">{escape(label)}</text>',
    )


def _mark(name: str, n: int, span: _Span) -> Sequence[str]:
    x = _x(n, span)
    left = x > _WIDE / 2
    return (
        f'<path class="hand" d="M{x:.1f} {_TOP - 18}V{_HIGH - _BOTTOM}"/>',
        f'<text x="{x - 5 if left else x + 5:.1f}" y="{_TOP - 8}" '
        f'text-anchor="{"end" if left else "start"}">{escape(name)}</text>',
    )
