"""Every finding against its budget: intervals beside one line, what is right of it is beyond."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gate import wording
from gate.records import GateRecord
from gate.reporters._html_tags import (
    Html,
    drawing,
    folded,
    join,
    label,
    mark,
    more,
    px,
    slice_key,
    stroke,
    tag,
    wide,
)
from gate.story import Case, Group, groups

_WIDE, _ROW, _HEAD, _AXIS = 980.0, 22.0, 26.0, 24.0
_LEFT, _RIGHT, _LIMIT = 310.0, 670.0, 530.0
"""Where the plot begins and ends, and where every budget's line stands."""
_NAME, _MEASURED = 42, 28
_APART = 72.0
"""Least distance of two ticks, so that their words do not touch."""
_LEAST = 1e-12
_OPEN, _FEW = 8, 3
"""Findings of a budget that are drawn unfolded, and of many budgets."""
_FOLDED = 300
"""Findings that are drawn folded, of all budgets together."""
_GROUPS = 60
_UNCHANGED = {"drop": 0.0, "relative_drop": 0.0, "ratio": 1.0}


@dataclass(frozen=True, slots=True)
class _Scale:
    """From a number that a budget limits to a place: beyond its limit is right of the line."""

    limit: float
    sign: int
    """−1 for a floor, where less is beyond."""
    per_unit: float

    def x(self, number: float) -> float:
        return _LIMIT + self.sign * (number - self.limit) * self.per_unit


@dataclass(frozen=True, slots=True)
class _Place:
    """A finding with the numbers that are drawn of it."""

    case: Case
    number: float | None
    ends: tuple[float, float] | None

    @property
    def numbers(self) -> tuple[float, ...]:
        return () if self.number is None else (self.number, *(self.ends or ()))


def forest(record: GateRecord) -> Html:
    """The chart, and folded below it the slices that it has no room for."""
    every = groups(record)
    shown = every[:_GROUPS]
    opened = _OPEN if len(shown) <= _OPEN else _FEW
    chart = _chart(
        "forest",
        "Every budget against its limit, the worst first",
        [(group, group.cases[:opened]) for group in shown],
    )
    many = [group for group in shown if len(group.cases) > opened]
    room = _FOLDED // max(len(many), 1)
    folds = [_rest(group, group.cases[opened:], room, i) for i, group in enumerate(many)]
    hidden = sum(len(group.cases) for group in every[_GROUPS:])
    return join((chart, more(hidden), *folds))


def _rest(group: Group, cases: Sequence[Case], room: int, index: int) -> Html:
    name = f"{group.name}: {wording.plural(len(cases), 'more slice')}"
    chart = _chart(f"forest-{index}", name, [(group, cases[:room])])
    return folded(name, chart, more(len(cases) - len(cases[:room])))


def _chart(key: str, name: str, shown: Sequence[tuple[Group, Sequence[Case]]]) -> Html:
    blocks: list[Html] = []
    y = _AXIS
    for group, cases in shown:
        block, high = _block(group, cases, y)
        blocks.append(block)
        y += high
    words = (
        label(_LIMIT - 6, 12, "within the budget ◂", anchor="end", class_="small"),
        label(_LIMIT + 6, 12, "▸ beyond it", class_="small"),
    )
    return wide(name, drawing(key, name, _told(shown), (_WIDE, y + 4), *words, *blocks))


def _told(shown: Sequence[tuple[Group, Sequence[Case]]]) -> str:
    cases = [case for _, found in shown for case in found]
    beyond = sum(case.beyond is not None and case.beyond > 0 for case in cases)
    return (
        f"{wording.plural(len(cases), 'finding')} of {wording.plural(len(shown), 'budget')}, each "
        "an interval around what was measured, beside the line of its limit. Beyond the limit: "
        f"{beyond}. The tables hold the same numbers."
    )


# ── a budget ──────────────────────────────────────────────────────────────────────────────


def _block(group: Group, cases: Sequence[Case], top: float) -> tuple[Html, float]:
    """A budget's rows with an axis of their own, and how high they are."""
    places = [_place(case) for case in cases]
    scale = _scale(places)
    alone = len(group.cases) == 1
    parts, y = [], top
    if not alone:
        parts.append(label(0, y + 17, _fit(_heading(group), 150), class_="strong"))
        y += _HEAD
    parts += _budget_line(y, y + _ROW * len(places)) if scale else []
    for place in places:
        name = place.case.name if alone or group.tally is None else place.case.finding.slice
        parts.append(_row(place, name or place.case.name, scale, y))
        y += _ROW
    parts += _axis(places, scale, y) if scale else []
    y += _AXIS if scale else 4
    limits = {} if scale is None else {
        "data_limit": scale.limit, "data_sign": scale.sign, "data_per_unit": scale.per_unit,
    }  # fmt: skip
    return tag("g", *parts, data_budget=cases[0].finding.budget, **limits), y - top


def _budget_line(top: float, foot: float) -> tuple[Html, Html]:
    """The limit, and what is beyond it."""
    size = {"width": px(_RIGHT - _LIMIT), "height": px(foot - top)}
    zone = tag("rect", x=px(_LIMIT), y=px(top), class_="zone", **size)
    return zone, stroke(f"M{px(_LIMIT)} {px(top)}V{px(foot)}", "limit")


def _heading(group: Group) -> str:
    return group.name if group.tally is None else f"{group.name}: {group.tally}"


def _place(case: Case) -> _Place:
    """Numbers whose distances a screen can show; others are written, not drawn."""
    comparison = case.finding.comparison
    if case.budget is None or comparison is None:
        return _Place(case, None, None)
    number = wording.measured(comparison, case.quantity)
    ends = wording.bounds(comparison, case.quantity)
    found = () if number is None else (number, *(ends or ()))
    far = [wording.excess(case.budget, value) for value in found]
    if not far or not math.isfinite(max(far) - min(far)):
        return _Place(case, None, None)
    return _Place(case, number, ends)


def _scale(places: Sequence[_Place]) -> _Scale | None:
    """That shows every number of a budget, and where nothing has changed."""
    budget = places[0].case.budget
    numbers = [number for place in places for number in place.numbers]
    if budget is None or not numbers:
        return None
    unchanged = _UNCHANGED.get(places[0].case.quantity)
    numbers += [] if unchanged is None else [unchanged]
    far = [wording.excess(budget, number) for number in numbers]
    room = min(
        (_LIMIT - _LEFT - 10) / max(-min(far), _LEAST), (_RIGHT - _LIMIT - 10) / max(*far, _LEAST)
    )
    sign = -1 if budget.threshold == "at_least" else 1
    return _Scale(budget.limit, sign, room)


def _row(place: _Place, name: str, scale: _Scale | None, top: float) -> Html:
    case, y = place.case, top + _ROW / 2
    kind = case.finding.outcome
    told = _measured(case)
    parts = [
        tag("title", f"{case.name}: {told}, {case.outcome}"),
        label(8, y + 4, _fit(name, _NAME), class_="strong" if case.finding.blocking else ""),
        stroke(f"M{px(_LEFT)} {px(y)}H{px(_RIGHT)}", "grid"),
    ]
    data: dict[str, object] = {}
    if scale is not None and place.number is not None:
        parts += _interval(place, scale, y)
        data["data_value"] = place.number
        if place.ends is not None:
            data |= {"data_lower": place.ends[0], "data_upper": place.ends[1]}
    parts += [
        label(_RIGHT + 12, y + 4, _fit(told, _MEASURED)),
        label(_WIDE, y + 4, case.outcome, anchor="end", class_="right"),
    ]
    return tag("g", *parts, class_=f"finding {kind}", data_slice=slice_key(case), **data)


def _interval(place: _Place, scale: _Scale, y: float) -> Iterator[Html]:
    if place.ends is not None:
        low, high = sorted(map(scale.x, place.ends))
        path = f"M{px(low)} {px(y)}H{px(high)}M{px(low)} {px(y - 4)}v8M{px(high)} {px(y - 4)}v8"
        yield stroke(path, "bar", data_from=px(low), data_to=px(high))
    if place.number is not None:
        x = scale.x(place.number)
        yield tag("g", mark(x, y, place.case.finding.outcome), data_x=px(x))


def _measured(case: Case) -> str:
    comparison = case.finding.comparison
    if comparison is None:
        return wording.NOTHING
    return wording.measured_text(comparison, case.quantity, case.unit)


def _axis(places: Sequence[_Place], scale: _Scale, y: float) -> Iterator[Html]:
    """The limit, where nothing has changed, and the ends, as far as there is room for them."""
    case = places[0].case
    numbers = sorted((n for place in places for n in place.numbers), key=scale.x)
    unchanged = _UNCHANGED.get(case.quantity)
    wanted = [scale.limit, *([] if unchanged is None else [unchanged]), numbers[-1], numbers[0]]
    taken: list[float] = []
    for number in wanted:
        x = scale.x(number)
        if any(abs(x - other) < _APART for other in taken):
            continue
        taken.append(x)
        words = wording.amount(number, case.quantity, case.unit, limit=number == scale.limit)
        if case.budget is not None and case.quantity == "ratio":
            words = words.replace("FP32", wording.side_name(case.budget.against))
        yield stroke(f"M{px(x)} {px(y)}v4", "grid")
        yield label(x, y + 15, words, anchor="middle", class_="small")


def _fit(words: str, room: int) -> str:
    """As much as there is room for, in the width of Latin letters; its middle goes first."""
    shown = wording.plain(words, 200)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in shown)
    if len(shown) + wide <= room:
        return shown
    return wording.plain(shown, room // 2 if wide else room)
