"""The runs of a model so far, this one last: each against its budget, what is left, drift."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gate import story, wording
from gate.exhibits import PastPoint
from gate.records import GateRecord
from gate.reporters._html_plots import Frame, span
from gate.reporters._html_tags import (
    Html,
    drawing,
    label,
    mark,
    more,
    number,
    outcome,
    px,
    row,
    section,
    stroke,
    table,
    tag,
    ticks,
    wide,
)
from gate.story import Case

_WIDE, _PANEL, _HEAD, _FOOT = 900.0, 150.0, 26.0, 30.0
_LEFT, _RIGHT = 90.0, 880.0
_MOST, _DATES = 60, 6
_COLUMNS = ("When", "Stage", "Version", "Reference", "INT8", "Measured", "Limit", "Left", "Drift")


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, by the budget that stands for this one."""

    when: str
    day: str
    point: PastPoint
    number: float | None
    left: float | None
    """Of the budget; below zero beyond it."""


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    values: tuple[float | None, ...]
    limits: tuple[float | None, ...]
    words: Callable[[float], str]
    """A number of it in its unit."""


def history(record: GateRecord) -> Html:
    """A chart and a table; nothing where the record knows of no earlier run."""
    if not record.past:
        return Html()
    case = _primary(record)
    points = (*record.past, _this(record, case))
    runs = [_run(point, case) for point in points[-_MOST:]]
    left = more(len(points) - len(runs))
    return section("history", "History, and what is left of the budget", *_told(runs, case), left)


def _primary(record: GateRecord) -> Case | None:
    """What stands for a run in a history: the first budget that is no budget of many slices."""
    compared = [case for case in story.cases(record) if case.finding.comparison and case.budget]
    whole = [case for case in compared if case.budget and case.budget.each is None]
    return next(iter(whole or compared), None)


def _this(record: GateRecord, case: Case | None) -> PastPoint:
    comparison = case.finding.comparison if case else None
    return PastPoint(
        when=record.created,
        stage=record.stage,
        outcome=record.verdict.outcome,
        version=None,
        held_out=record.splits.held_out.sha256,
        reference=comparison.reference if comparison else None,
        int8=comparison.int8 if comparison else None,
        drop=comparison.degradation if comparison else None,
        limit=case.budget.limit if case and case.budget else None,
        drift=_drift(record, case),
    )


def _drift(record: GateRecord, case: Case | None) -> float | None:
    found = case.finding.comparison if case else None
    if found is None:
        return None
    return next((c.degradation for c in record.comparisons if c.against == "anchor"
                 and (c.metric, c.slice) == (found.metric, found.slice)), None)  # fmt: skip


def _run(point: PastPoint, case: Case | None) -> _Run:
    return _Run(
        story.moment(point.when),
        f"{point.when:%Y-%m-%d}",
        point,
        measured := _number(point, case),
        _left(measured, point.limit, case),
    )


def _left(measured: float | None, limit: float | None, case: Case | None) -> float | None:
    if case is None or case.budget is None or measured is None or limit is None:
        return None
    return measured - limit if case.budget.threshold == "at_least" else limit - measured


def _number(point: PastPoint, case: Case | None) -> float | None:
    """What the budget limits, of an earlier run."""
    quantity = case.quantity if case else "drop"
    if quantity == "value":
        return point.int8
    if quantity == "ratio":
        return None if point.drop is None else 1 + point.drop
    return point.drop


# ── as a table ────────────────────────────────────────────────────────────────────────────


def _told(runs: Sequence[_Run], case: Case | None) -> Iterator[Html]:
    name = "what was measured" if case is None else case.name
    yield tag("p", f"By {name}. Runs oldest first; this one is the last.")
    yield _chart(runs, case)
    rows = [_row(run, case, is_last=run is runs[-1]) for run in runs]
    yield table(
        "Runs of this model, this one last",
        (*_COLUMNS, "Outcome"),
        rows,
        most=100_000,
        numbers=_COLUMNS[3:],
    )


def _row(run: _Run, case: Case | None, *, is_last: bool) -> Html:
    point = run.point
    unit = case.unit if case else "number"
    quantity = case.quantity if case else "drop"
    difference = "drop" if quantity == "value" else quantity
    cells = (
        wording.metric_value(point.reference, unit),
        wording.metric_value(point.int8, unit),
        *(wording.NOTHING if value is None else wording.amount(value, kind, unit)
          for value, kind in ((run.number, quantity), (point.limit, quantity),
                              (run.left, difference), (point.drift, "drop"))),
    )  # fmt: skip
    told = tag("td", outcome(point.outcome, point.outcome))
    when = f"{run.when} (this run)" if is_last else run.when
    numbers = map(number, cells)
    version = point.version or wording.NOTHING
    return row(when, point.stage, version, *numbers, told, data_drop=point.drop)


# ── as a drawing ──────────────────────────────────────────────────────────────────────────


def _chart(runs: Sequence[_Run], case: Case | None) -> Html:
    quantity, unit = (case.quantity, case.unit) if case else ("drop", "number")
    title = "Measured, and its limit" if case is None else case.name
    panels = [
        _Panel(title, tuple(r.number for r in runs), tuple(r.point.limit for r in runs),
               lambda value: wording.amount(value, quantity, unit)),
        _Panel("Drift of INT8 against the anchor, positive is worse",
               tuple(r.point.drift for r in runs), (),
               lambda value: wording.amount(value, "drop", unit)),
    ]  # fmt: skip
    drawn = [panel for panel in panels if any(value is not None for value in panel.values)]
    if not drawn:
        return Html()
    parts, top = [], 0.0
    for panel in drawn:
        parts.append(_drawn(panel, runs, top + _HEAD))
        top += _HEAD + _PANEL
    parts += [*_changes(runs, top), *_dates(runs, top + 18)]
    name = "Runs of this model, oldest first"
    told = f"{wording.plural(len(runs), 'run')}; the table below has the same numbers."
    return wide(name, drawing("history-chart", name, told, (_WIDE, top + _FOOT), *parts))


def _drawn(panel: _Panel, runs: Sequence[_Run], top: float) -> Html:
    known = [value for value in (*panel.values, *panel.limits) if value is not None]
    frame = Frame((-0.5, len(runs) - 0.5), span([*known, 0.0] if panel.limits else known),
                  _LEFT, _RIGHT, top, top + _PANEL - 12)  # fmt: skip
    parts = [label(_LEFT, top - 8, wording.plain(panel.title, 90), class_="strong")]
    for value in ticks(*frame.down, most=4):
        y = frame.y(value)
        parts += [stroke(f"M{px(_LEFT)} {px(y)}H{px(_RIGHT)}", "grid"),
                  label(_LEFT - 6, y + 4, panel.words(value), anchor="end",
                        class_="small")]  # fmt: skip
    parts += [*_limits(panel.limits, frame), *_line(panel.values, frame)]
    parts += [_point(run, panel.words(value), value, (frame.x(i), frame.y(value)))
              for i, (run, value) in enumerate(zip(runs, panel.values, strict=True))
              if value is not None]  # fmt: skip
    return tag("g", *parts, **frame.data)


def _limits(limits: Sequence[float | None], frame: Frame) -> Iterator[Html]:
    for index, limit in enumerate(limits):
        if limit is not None:
            left, right = frame.x(index - 0.5), frame.x(index + 0.5)
            yield stroke(f"M{px(left)} {px(frame.y(limit))}H{px(right)}", "limit", data_limit=limit)


def _line(values: Sequence[float | None], frame: Frame) -> Iterator[Html]:
    for (i, before), (j, after) in pairwise(enumerate(values)):
        if before is not None and after is not None:
            ends = (
                f"{px(frame.x(at))} {px(frame.y(value))}" for at, value in ((i, before), (j, after))
            )
            yield stroke(f"M{'L'.join(ends)}", "grid")


def _point(run: _Run, words: str, value: float, place: tuple[float, float]) -> Html:
    told = tag("title", f"{run.when}: {run.point.outcome}, {words}")
    x, y = map(px, place)
    sign = mark(*place, run.point.outcome)
    return tag("g", told, sign, data_value=value, data_x=x, data_y=y)


def _changes(runs: Sequence[_Run], foot: float) -> Iterator[Html]:
    """Where the held-out set changed: numbers on both sides are of other examples."""
    frame = Frame((-0.5, len(runs) - 0.5), (0.0, 1.0), _LEFT, _RIGHT)
    for index, (before, after) in enumerate(pairwise(runs)):
        if before.point.held_out != after.point.held_out:
            line = tag("title", "another held-out set from here on")
            x = px(frame.x(index + 0.5))
            yield tag("g", line, stroke(f"M{x} {px(_HEAD)}V{px(foot)}", "none"))
            yield label(frame.x(index + 0.5) + 4, _HEAD + 10, "other data", class_="small")


def _dates(runs: Sequence[_Run], y: float) -> Iterator[Html]:
    frame = Frame((-0.5, len(runs) - 0.5), (0.0, 1.0), _LEFT, _RIGHT)
    chosen = {round(step * (len(runs) - 1) / max(1, _DATES - 1)) for step in range(_DATES)}
    for index in sorted(chosen):
        yield label(frame.x(index), y, runs[index].day, anchor="middle", class_="small")
