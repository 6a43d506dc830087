"""Curves: calibration, and what a tool or task adds; latency of both models, round by round."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gate import wording
from gate.exhibits import Plot, Series
from gate.records import GateRecord, Rounds
from gate.reporters._html_tags import (
    Html,
    drawing,
    folded,
    join,
    label,
    more,
    number,
    px,
    row,
    section,
    stroke,
    table,
    tag,
    ticks,
    wide,
)

_WIDE, _HIGH = 480.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 12.0, 44.0
_SHADES, _PLOTS, _SERIES, _POINTS = 6, 8, 12, 400
_KEY = 18.0
_ROOM = 30_000
_UNITS = {"ms": "ms", "speed": "examples a second"}
_LEAST, _MOST = 1e-300, sys.float_info.max
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where values lie in a drawing."""

    across: Span
    down: Span
    left: float = _LEFT
    right: float = _WIDE - _RIGHT
    top: float = _TOP
    foot: float = _HIGH - _BOTTOM

    def x(self, value: float) -> float:
        """From the left."""
        return self.left + (self.right - self.left) * _share(value, self.across)

    def y(self, value: float) -> float:
        """From the top."""
        return self.foot - (self.foot - self.top) * _share(value, self.down)

    @property
    def data(self) -> dict[str, object]:
        """What takes a place back to its value."""
        low, high = self.across
        bottom, top = self.down
        return {"data_x0": low, "data_x1": high, "data_y0": bottom, "data_y1": top,
                "data_left": self.left, "data_right": self.right,
                "data_top": self.top, "data_foot": self.foot}  # fmt: skip


def _share(value: float, ends: Span) -> float:
    """How far it is from the one end to the other; halves, since a difference could be infinite."""
    low, high = ends
    return (value / 2 - low / 2) / (high / 2 - low / 2)


def span(values: Sequence[float]) -> Span:
    """That holds all values with a little room; never empty, and never infinite."""
    low, high = min(values), max(values)
    margin = max((high / 2 - low / 2) / 5 or abs(high) / 10 or 1.0, _LEAST)
    return max(low - margin, -_MOST), min(high + margin, _MOST)


def plots(record: GateRecord) -> Html:
    """Curves of the task: calibration, and whatever else it tells."""
    drawn = [_plot(plot, f"plot-{index}") for index, plot in enumerate(record.plots[:_PLOTS])]
    if not drawn:
        return Html()
    left = more(len(record.plots) - len(drawn))
    return section("plots", "Calibration and curves", tag("div", *drawn, class_="side"), left)


def times(record: GateRecord) -> Html:
    """Latency and its like of both models, where they were measured."""
    drawn = [_plot(plot, f"time-{index}") for index, plot in enumerate(_timed(record))]
    if not drawn:
        return Html()
    left = more(len(record.process.rounds) - len(drawn))
    return section("time", "Latency", *_medians(record), tag("div", *drawn, class_="side"), left)


def _timed(record: GateRecord) -> Iterator[Plot]:
    for metric, rounds in [*record.process.rounds.items()][:_PLOTS]:
        series = (_line("FP32", rounds.reference), _line("INT8", rounds.int8))
        unit = _UNITS.get(wording.unit_of(metric), "value")
        title = f"{wording.metric_name(metric)} by round"
        yield Plot(title=title, x="round", y=unit, series=series)


def _line(name: str, values: Sequence[float]) -> Series:
    return Series(name=name, points=tuple((float(i), v) for i, v in enumerate(values, start=1)))


def _medians(record: GateRecord) -> Iterator[Html]:
    """How both models were timed, and the median of each."""
    yield tag("p", "Both models in turn, in one process, in rounds; one value a round.")
    measured = [*record.process.rounds.items()][:_PLOTS]
    lines = [tag("li", f"{wording.metric_name(metric)}: {_median(metric, rounds)}")
             for metric, rounds in measured if rounds.reference and rounds.int8]  # fmt: skip
    if lines:
        yield tag("ul", *lines)


def _median(metric: str, rounds: Rounds) -> str:
    unit = wording.unit_of(metric)
    told = (wording.metric_value(_middle(side), unit) for side in (rounds.reference, rounds.int8))
    return " → ".join(told) + ", medians of the rounds"


def _middle(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else ordered[half - 1] / 2 + ordered[half] / 2


# ── a plot ────────────────────────────────────────────────────────────────────────────────


def _plot(plot: Plot, key: str) -> Html:
    """The curves, and their numbers folded below."""
    drawable = [line for line in plot.series if line.points]
    lines = drawable[:_SERIES]
    caption = tag("figcaption", plot.title)
    if not lines:
        return tag("figure", caption, tag("p", "No points."))
    svg = _curves(plot, lines, key)
    rows = [_numbers(line.name, x, y) for line in lines for x, y in line.points]
    columns, name = ("Series", plot.x, plot.y), f"Numbers of {plot.title}"
    inside = table(name, columns, rows, most=_ROOM, numbers=columns[1:])
    left = more(len(drawable) - len(lines))
    return tag("figure", caption, wide(plot.title, svg), left, folded(name, inside))


def _numbers(name: str, x: float, y: float) -> Html:
    return row(name, number(f"{x:.5g}"), number(f"{y:.5g}"))


def _curves(plot: Plot, lines: Sequence[Series], key: str) -> Html:
    thinned = [_thin(line.points, _POINTS // len(lines)) for line in lines]
    points = [point for line in thinned for point in line]
    corners = [0.0, 1.0] if plot.diagonal else []
    frame = Frame(
        (0.0, 1.0) if _is_share(points, plot) else span([x for x, _ in points] + corners),
        (0.0, 1.0) if _is_share(points, plot) else span([y for _, y in points] + corners),
    )
    parts = [*grid(frame, plot.x, plot.y)]
    if plot.diagonal:
        low, high = max(frame.across[0], frame.down[0]), min(frame.across[1], frame.down[1])
        parts.append(stroke(
            f"M{px(frame.x(low))} {px(frame.y(low))}L{px(frame.x(high))} {px(frame.y(high))}",
            "none",
        ))  # fmt: skip
    parts += [_traced(line.name, thinned[i], frame, i) for i, line in enumerate(lines)]
    parts += [_key(line.name, i) for i, line in enumerate(lines)]
    told = "; ".join(_said(line, plot) for line in lines)
    high = _HIGH + _KEY * ((len(lines) + 1) // 2)
    return drawing(key, plot.title, told, (_WIDE, high), tag("g", *parts, **frame.data))


def _is_share(points: Sequence[tuple[float, float]], plot: Plot) -> bool:
    """Whether it is of shares, so that the whole square is shown."""
    return plot.diagonal and all(0 <= value <= 1 for point in points for value in point)


def _thin(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """At most as many as there is room for, evenly."""
    step = -(-len(points) // most)
    return points[::step]


def _said(line: Series, plot: Plot) -> str:
    first, last = line.points[0], line.points[-1]
    count = wording.plural(len(line.points), "point")
    return (
        f"{line.name}: {count}, {plot.y} from {first[1]:.4g} at {plot.x} {first[0]:.4g} "
        f"to {last[1]:.4g} at {last[0]:.4g}"
    )


def grid(frame: Frame, x: str, y: str) -> Iterator[Html]:
    """Lines and numbers of both axes, with what they show."""
    for value in ticks(*frame.down):
        at = frame.y(value)
        yield stroke(f"M{px(frame.left)} {px(at)}H{px(frame.right)}", "grid")
        yield label(frame.left - 6, at + 4, f"{value:.4g}", anchor="end", class_="small")
    for value in ticks(*frame.across):
        at = frame.x(value)
        yield stroke(f"M{px(at)} {px(frame.foot)}v4", "grid")
        yield label(at, frame.foot + 16, f"{value:.4g}", anchor="middle", class_="small")
    middle = (frame.left + frame.right) / 2
    yield label(middle, frame.foot + 33, wording.plain(x, 40), anchor="middle", class_="small")
    turned = f"translate(12 {px((frame.top + frame.foot) / 2)}) rotate(-90)"
    name = wording.plain(y, 30)
    yield tag("text", name, class_="small", text_anchor="middle", transform=turned)


def _traced(name: str, points: Sequence[tuple[float, float]], frame: Frame, index: int) -> Html:
    path = "L".join(f"{px(frame.x(x))} {px(frame.y(y))}" for x, y in points)
    dots = (
        tag("circle", tag("title", f"{name}: {x:.5g}, {y:.5g}"), class_="dot", r="2.5",
            cx=px(frame.x(x)), cy=px(frame.y(y)), data_x=x, data_y=y)
        for x, y in points
    )  # fmt: skip
    parts = (stroke(f"M{path}", "curve"), *dots)
    return tag("g", *parts, class_=f"s{index % _SHADES}", data_series=name)


def _key(name: str, index: int) -> Html:
    """What a line means."""
    line, place = divmod(index, 2)
    x, y = _LEFT + place * 210, _HIGH + _KEY * line
    sign = tag("g", stroke(f"M{px(x)} {px(y + 4)}h24", "curve"), class_=f"s{index % _SHADES}")
    return join((sign, label(x + 30, y + 8, wording.plain(name, 26))))
