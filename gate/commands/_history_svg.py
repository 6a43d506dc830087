"""A history as a drawing: INT8 and FP32 over the releases, each drop against its budget, drift."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from gate.commands._history_line import Entry, Line
from gate.commands._history_text import drift_text, number, outcome, signed
from gate.wording import plain, plural

_WIDE, _PANEL, _GAP = 960, 170, 34
_LEFT, _RIGHT, _TOP, _FOOT = 70, 16, 26, 46
_TICKS = 3
_LEAST_SPAN = 1e-6
_DATES = 6
_LONGEST_LEVEL = 9
_NOTHING = 1e-12
_NEAR = 0.06
"""Of a panel's height: two numbers closer than that would lie on each other."""
_DENSE = 150
"""Releases beyond which each is drawn smaller."""
_NO_NUMBER_BELOW = 8
Point = tuple[int, float]
_DROPS = ("drop", "relative_drop")


@dataclass(frozen=True, slots=True)
class _Curve:
    name: str
    style: str
    values: tuple[float | None, ...]
    """One a release; None breaks the line."""


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    curves: tuple[_Curve, ...]
    bars: tuple[tuple[float, float] | None, ...] = ()
    """Interval of each release."""

    @property
    def span(self) -> tuple[float, float]:
        values = [v for curve in self.curves for v in curve.values if v is not None]
        values += [end for bar in self.bars if bar for end in bar]
        low, high = min(values), max(values)
        margin = max((high - low) * 0.08, _LEAST_SPAN * max(1.0, abs(low), abs(high)))
        return low - margin, high + margin

    @property
    def is_empty(self) -> bool:
        drawn = (curve.values for curve in self.curves if curve.style != "limit")
        return all(value is None for values in drawn for value in values)


def drawing(line: Line) -> str:
    """One SVG; nothing where no release has a number, or they are of different metrics."""
    entries = [e for e in line.entries if e.run.stage == "release"] or [*line.entries]
    panels = [panel for panel in _panels(entries) if not panel.is_empty]
    if not panels:
        return ""
    high = _TOP + len(panels) * (_PANEL + _GAP) + _FOOT
    parts = [*_changes(entries, high)]
    for index, panel in enumerate(panels):
        parts += _drawn(panel, _TOP + index * (_PANEL + _GAP), len(entries))
    foot = high - _FOOT
    parts += [*_outcomes(entries, foot), *_dates(entries, foot + 30)]
    name = f"{plain(line.model)}: {plural(len(entries), 'release')}, oldest first"
    told = f"{name}. {' '.join(f'{panel.title}.' for panel in panels)} {_said(entries[-1])}"
    return (
        f'<svg viewBox="0 0 {_WIDE} {high}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(name)}</title><desc>{escape(told)}</desc>{''.join(parts)}</svg>"
    )


def _panels(entries: Sequence[Entry]) -> Iterator[_Panel]:
    """Nothing is drawn on one scale but what has one unit."""
    names = {entry.series.name for entry in entries if entry.series}
    quantities = {entry.quantity for entry in entries if entry.series}
    against = {entry.series.against for entry in entries if entry.series}
    reference = "FP32" if against == {"fp32"} else "what it is held against"
    if len(names) > 1 and len({e.series.metric for e in entries if e.series}) > 1:
        return  # different metrics share no scale: name one
    yield _Panel(
        f"INT8 and {reference}",
        (
            _curve(reference, "fp32", entries, lambda e: e.reference),
            _curve("INT8", "int8", entries, lambda e: e.value("int8")),
        ),
    )
    if len(quantities) == 1 and quantities <= set(_DROPS):
        yield _Panel(
            "Drop with its interval; positive is worse",
            (
                _curve("budget", "limit", entries, lambda e: e.limit),
                _curve("drop", "drop", entries, lambda e: e.value("drop")),
            ),
            tuple(_bar(entry) for entry in entries),
        )
    yield _Panel(
        "Drift against the anchor; positive is worse",
        (
            _curve("budget", "limit", entries, _drift_limit),
            _curve("drift", "drift", entries, lambda e: e.drift.value),
        ),
    )


def _curve(
    name: str, style: str, entries: Sequence[Entry], value: Callable[[Entry], float | None]
) -> _Curve:
    return _Curve(name, style, tuple(map(value, entries)))


def _bar(entry: Entry) -> tuple[float, float] | None:
    lower, upper = entry.value("lower"), entry.value("upper")
    return None if lower is None or upper is None else (lower, upper)


def _drift_limit(entry: Entry) -> float | None:
    """On the scale of a drop; a relative budget is on another."""
    drift = entry.drift
    if drift.limit is None or drift.left is None or drift.value is None:
        return None
    fits = math.isclose(drift.limit - drift.left, drift.value, abs_tol=_LEAST_SPAN)
    return drift.limit if fits else None


# ── a panel ───────────────────────────────────────────────────────────────────────────────


def _drawn(panel: _Panel, top: float, count: int) -> Iterator[str]:
    low, high = panel.span

    def down(value: float) -> float:
        return top + _PANEL * (high - value) / (high - low)

    yield f'<text class="head" x="{_LEFT}" y="{top - 8:.1f}">{escape(panel.title)}</text>'
    yield from _grid(low, high, down)
    for index, bar in enumerate(panel.bars):
        if bar is not None:
            x = _across(index, count)
            yield f'<path class="bar" d="M{x:.1f} {down(bar[1]):.1f}V{down(bar[0]):.1f}"/>'
    for place, curve in enumerate(panel.curves):
        yield from _traced(curve, down, count)
        yield _key(curve, place, top)


def _grid(low: float, high: float, down: Callable[[float], float]) -> Iterator[str]:
    levels = [low + (high - low) * step / (_TICKS - 1) for step in range(_TICKS)]
    digits = max(2, min(_NO_NUMBER_BELOW, 2 - math.floor(math.log10(high - low))))
    shown = [(level, _level(level, digits)) for level in levels]
    is_near = any(abs(level) < _NEAR * (high - low) for level in levels)
    for level, text in shown + ([(0.0, "0")] if low < 0 < high and not is_near else []):
        y = down(level)
        yield (
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )


def _level(value: float, digits: int) -> str:
    """As short as the room beside a panel is."""
    text = "0" if abs(value) < _NOTHING else f"{value:.{digits}f}"
    return text if len(text) <= _LONGEST_LEVEL else f"{value:.1e}"


def _traced(curve: _Curve, down: Callable[[float], float], count: int) -> Iterator[str]:
    """A line through neighbours; a release without a value breaks it."""
    radius = 1.5 if count > _DENSE else 3
    for part in _unbroken(curve.values):
        path = "L".join(f"{_across(i, count):.1f} {down(v):.1f}" for i, v in part)
        yield f'<path class="curve {curve.style}" d="M{path}"/>'
        if curve.style != "limit" or len(part) == 1:
            yield from (
                f'<circle class="dot {curve.style}" cx="{_across(i, count):.1f}" '
                f'cy="{down(v):.1f}" r="{radius}"/>'
                for i, v in part
            )


def _unbroken(values: Sequence[float | None]) -> Iterator[list[Point]]:
    part: list[Point] = []
    for index, value in enumerate(values):
        if value is not None:
            part.append((index, value))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _key(curve: _Curve, place: int, top: float) -> str:
    x, y = _WIDE - _RIGHT - 190 * (place + 1), top - 12
    return (
        f'<path class="curve {curve.style}" d="M{x} {y:.1f}h18"/>'
        f'<text x="{x + 24}" y="{y + 4:.1f}">{escape(curve.name)}</text>'
    )


# ── what all panels share ─────────────────────────────────────────────────────────────────


def _across(index: int, count: int) -> float:
    return _LEFT + (_WIDE - _LEFT - _RIGHT) * (index + 0.5) / count


def _changes(entries: Sequence[Entry], high: int) -> Iterator[str]:
    """Where the held-out set changed: dashed where no bridge joins the two."""
    for index, entry in enumerate(entries):
        if entry.change is not None:
            x = (_across(index, len(entries)) + _across(index - 1, len(entries))) / 2
            kind = "bridged" if entry.change.bridge else "broken"
            yield (
                f'<path class="change {kind}" d="M{x:.1f} {_TOP - 10}V{high - _FOOT}">'
                f"<title>{escape(entry.change.told)}</title></path>"
            )


def _outcomes(entries: Sequence[Entry], foot: float) -> Iterator[str]:
    """A square a release: a colour and a letter, so that no colour has to be told apart."""
    count = len(entries)
    wide = min(14.0, max(1.0, (_WIDE - _LEFT - _RIGHT) / count - 1))
    for index, entry in enumerate(entries):
        x = _across(index, count)
        told = escape(_said(entry))
        yield (
            f'<g class="outcome {entry.run.outcome}"><title>{told}</title>'
            f'<rect x="{x - wide / 2:.1f}" y="{foot - 8:.1f}" width="{wide:.1f}" height="14"/>'
        )
        if wide >= _NO_NUMBER_BELOW:
            letter = "★" if entry.is_production else entry.run.outcome[0].upper()
            yield f'<text x="{x:.1f}" y="{foot + 3:.1f}" text-anchor="middle">{letter}</text>'
        yield "</g>"


def _said(entry: Entry) -> str:
    """A release in one line, for who hovers over it or hears it."""
    version = f" version {entry.run.version}" if entry.run.version else ""
    serving = " in production" if entry.is_production else ""
    return (
        f"{entry.run.when:%Y-%m-%d %H:%M}{version}{serving}: {outcome(entry)}; "
        f"INT8 {number(entry.value('int8'))}, drop {signed(entry.value('drop'))}, "
        f"left {number(entry.left)}, drift {drift_text(entry.drift)}"
    )


def _dates(entries: Sequence[Entry], y: float) -> Iterator[str]:
    count = len(entries)
    chosen = {round(step * (count - 1) / max(1, _DATES - 1)) for step in range(_DATES)}
    for index in sorted(chosen):
        x = min(_across(index, count), _WIDE - _RIGHT - 34)
        text = f"{entries[index].run.when:%Y-%m-%d}"
        yield f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>'
