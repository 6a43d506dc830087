"""The numbers of every finding, of what has no budget, and of what the task tells besides."""

from collections.abc import Iterator, Sequence

from gate import story, wording
from gate.records import Comparison, GateRecord, Part
from gate.reporters._html_tags import (
    Html,
    fitting,
    folded,
    header,
    join,
    more,
    number,
    outcome,
    row,
    section,
    slice_key,
    table,
    tag,
    wide,
)
from gate.story import Case, Group
from gate.wording import NOTHING

_TABLE, _SLICES, _PARTS = 200_000, 700_000, 150_000
_OPEN = 15


def budgets(record: GateRecord) -> Html:
    """Each budget with what was measured: of many slices those that block and the worst."""
    groups = story.groups(record)
    bodies = [_body(group) for group in groups]
    shown, left = fitting(bodies, _TABLE)
    columns = _columns(record, "Budget")
    caption = "Every budget, with what was measured"
    whole = tag("table", tag("caption", caption), header(columns, columns[1:-2]), *shown)
    return join((wide(caption, whole), more(left)))


def _columns(record: GateRecord, first: str) -> tuple[str, ...]:
    reference, measured = story.reference_title(record), story.measured_title(record)
    return first, "n", reference, "INT8", measured, "Lost / gained", "p", "Outcome", "Why"


def _body(group: Group) -> Html:
    nested = group.tally is not None
    rows = [_finding(each.case, each.name, each.reason, nested=nested) for each in group.rows]
    if nested:
        tally = "; ".join(filter(None, (group.tally, group.shown)))
        head = tag("th", f"{group.name}: {tally}", colspan=9, scope="rowgroup")
        rows.insert(0, tag("tr", head, class_="group"))
    return tag("tbody", *rows)


def slices(record: GateRecord) -> Html:
    """All slices of each budget that the table above has not room for, folded."""
    many = [group for group in story.groups(record) if len(group.rows) < len(group.cases)]
    room = _SLICES // max(len(many), 1)
    folds = [_slices(record, group, room) for group in many]
    return section("slices", "Slices", *folds)


def _slices(record: GateRecord, group: Group, room: int) -> Html:
    rows = [_finding(case, case.finding.slice or case.name, _why(case)) for case in group.cases]
    columns = _columns(record, "Slice")
    return folded(
        f"{group.name}: {group.tally}",
        table(group.name, columns, rows, most=room, numbers=columns[1:-2]),
    )


def _why(case: Case) -> str:
    reason, needed = case.finding.reason, case.finding.examples_needed
    if not needed or wording.whole(needed) in reason:
        return reason
    return f"{reason.rstrip('.')}; about {wording.whole(needed)} examples would decide it"


def _finding(case: Case, name: str, why: str, *, nested: bool = False) -> Html:
    comparison = case.finding.comparison
    kinds = ("blocking" if case.finding.blocking else "", "nested" if nested else "")
    told = outcome(case.outcome, case.finding.outcome)
    last = (tag("td", told), tag("td", why, class_="why"))
    attributes = {
        "class_": " ".join(filter(None, kinds)) or None,
        "data_budget": case.finding.budget, "data_slice": slice_key(case),
    }  # fmt: skip
    return row(name, *map(number, _numbers(case, comparison)), *last, **attributes)


def _numbers(case: Case, comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return (NOTHING,) * 6
    counts = comparison.counts
    crossed = NOTHING if counts is None else f"{counts.lost} / {counts.gained}"
    # against "within the budget" where that was rejected, else against "violated"
    deciding = comparison.p_fail if case.finding.outcome == "fail" else comparison.p_pass
    p = NOTHING if deciding is None else wording.p_value(deciding)
    change = wording.measured_text(comparison, case.quantity, case.unit)
    values = wording.both_values(comparison)
    return wording.whole(comparison.n), *values, change, crossed, p


# ── what is no finding ────────────────────────────────────────────────────────────────────


def parts(record: GateRecord) -> Iterator[Html]:
    """Tables of the task: newly confused classes and their like."""
    room = _PARTS // max(len(record.parts), 1)
    for index, part in enumerate(record.parts):
        yield section(f"part-{index}", part.title, *_part(part, room))


def _part(part: Part, room: int) -> Iterator[Html]:
    rows = [row(cells[0] if cells else "", *cells[1:]) for cells in part.rows]
    yield table(part.title, part.columns, rows[:_OPEN], most=room // 2)
    if rest := rows[_OPEN:]:
        name = wording.plural(len(rest), "more row")
        yield folded(name, table(f"{part.title}: the rest", part.columns, rest, most=room // 2))


def others(record: GateRecord) -> Html:
    """What was measured and has no budget."""
    found: Sequence[tuple[str, str, str]] = story.others(record)
    if not found:
        return Html()
    rows = [row(name, number(fp32), number(int8)) for name, fp32, int8 in found]
    columns = ("Metric", "FP32", "INT8")
    name = "Measured without a budget"
    inside = table(name, columns, rows, most=_PARTS, numbers=columns[1:])
    return section("others", "Measured without a budget", folded(
        wording.plural(len(found), "number"), inside
    ))  # fmt: skip
