"""A record for a person at a terminal: the verdict first, then why, then what it rests on."""

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TextIO

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gate import facts, reasons, story, wording
from gate.errors import GateError
from gate.records import GateRecord
from gate.story import Group, Row

_WIDTH = 100
_NARROWEST = 60
_BLOCKERS = 5
_GROUPS = 40
_OTHERS = 24
_ROWS = 10
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "waived": "magenta"}


class TextReporter:
    """Plain text, 100 columns wide."""

    key = "text"
    filename: str | None = "report.txt"

    def render(self, record: GateRecord) -> str:
        """The whole report, without colours."""
        return _plain(_report(record, _WIDTH))


REPORTER = TextReporter()


def terminal(stream: TextIO) -> Console:
    """A console on a stream; in colour where it is a terminal and NO_COLOR does not object."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


def render_terminal(record: GateRecord, console: Console) -> None:
    """Print the report to a terminal, in its width, with the colours that `console` allows."""
    for part in _report(record, max(console.width, _NARROWEST)):
        console.print(part)


def table(records: Sequence[GateRecord], problems: Sequence[tuple[str, GateError]] = ()) -> str:
    """One line for each of several records, without colours.

    `problems` are the runs that came to no verdict: what was to be judged, and why it was not.
    """
    return _plain([_overview(records, problems)])


def print_table(
    records: Sequence[GateRecord], problems: Sequence[tuple[str, GateError]], console: Console
) -> None:
    """Print `table` to a terminal."""
    console.print(_overview(records, problems))


def _plain(parts: Iterable[RenderableType]) -> str:
    console = Console(
        file=StringIO(),
        width=_WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        force_interactive=False,
        legacy_windows=False,
        _environ={},
    )
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


# ── one record ────────────────────────────────────────────────────────────────────────────


def _report(record: GateRecord, width: int) -> Iterator[RenderableType]:
    yield _headline(record)
    yield from _first_lines(record)
    for notice in facts.notices(record):
        yield _hanging("!", notice, "yellow")
    yield Text()
    yield from _budgets(record, width)
    yield from _why(record)
    yield from _parts(record)
    yield from _others(record)
    yield Rule(style="dim")
    yield _facts(record)


def _headline(record: GateRecord) -> Text:
    outcome = record.verdict.outcome
    return Text.assemble(
        (outcome.upper(), f"bold {_COLOURS[outcome]}"),
        "  ",
        (wording.plain(record.model), "bold"),
        (f"  stage {record.stage}, {story.exit_text(record)}", "dim"),
    )


def _first_lines(record: GateRecord) -> Iterator[RenderableType]:
    if record.verdict.outcome == "pass":
        yield Text(story.summary(record))
        return
    blockers = story.blockers(record)
    for blocker in blockers[:_BLOCKERS]:
        yield _hanging("-", blocker, "bold")
    if len(blockers) > _BLOCKERS:
        more = wording.plural(len(blockers) - _BLOCKERS, "more budget")
        yield _hanging("-", f"and {more} in the way, below", "")
    if not blockers:
        yield Text(story.summary(record))
    yield Text(story.since(record))


def _hanging(mark: str, text: str, style: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=style), Text(text, style=style))
    return grid


def _budgets(record: GateRecord, width: int) -> Iterator[RenderableType]:
    groups = story.groups(record)
    shown = groups[:_GROUPS]
    header = (
        "Budget",
        story.reference_title(record),
        "INT8",
        story.measured_title(record),
        "Outcome",
    )
    widths = _widths(header, [row for group in shown for row in group.rows], width)
    yield _line([Text(title, style="bold") for title in header], widths)
    yield Rule(style="dim")
    for group in shown:
        yield from _group(group, widths)
    if len(groups) > _GROUPS:
        yield _hidden(groups[_GROUPS:])


def _hidden(groups: Sequence[Group]) -> Text:
    blocking = sum(group.blocking for group in groups)
    return Text(f"{wording.plural(len(groups), 'more budget')}, {blocking} of them blocking")


def _widths(header: Sequence[str], rows: Sequence[Row], width: int) -> list[int]:
    """Numbers take what they need; the budget's name gets the rest, and wraps."""
    cells = [(row.reference, row.int8, row.change, row.outcome) for row in rows]
    columns = zip(header[1:], *cells, strict=True)
    needed = [min(max(map(len, column)), 32) for column in columns]
    return [max(width - sum(needed) - 2 * len(needed), 16), *needed]


def _group(group: Group, widths: list[int]) -> Iterator[RenderableType]:
    if group.tally is not None:
        yield Text(group.name)
        tally = "; ".join(filter(None, (group.tally, group.shown)))
        yield Padding(Text(tally, style="dim"), (0, 0, 0, 4))
    for row in group.rows:
        yield from _row(row, widths, nested=group.tally is not None)


def _row(row: Row, widths: list[int], *, nested: bool) -> Iterator[RenderableType]:
    finding = row.case.finding
    colour = _COLOURS[finding.outcome] if finding.blocking or finding.outcome == "pass" else "dim"
    name = Text(f"  {row.name}" if nested else row.name)
    cells = [name, Text(row.reference), Text(row.int8), Text(row.change)]
    yield _line([*cells, Text(row.outcome, style=colour)], widths)
    code = "" if finding.outcome == "pass" else f" [{row.case.code}]"
    yield Padding(Text(row.reason + code, style="dim"), (0, 0, 0, 6 if nested else 4))


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for index, width in enumerate(widths):
        line.add_column(
            width=width, overflow="fold", justify="right" if index in (1, 2) else "left"
        )
    line.add_row(*cells)
    return line


def _others(record: GateRecord) -> Iterator[RenderableType]:
    others = story.others(record)
    if not others:
        return
    yield Text()
    yield Text("Without a budget (FP32 → INT8)", style="bold")
    entries = [Text(f"{name} {fp32} → {int8}") for name, fp32, int8 in others[:_OTHERS]]
    yield Columns(entries, padding=(0, 3))
    if len(others) > _OTHERS:
        yield Text(f"and {len(others) - _OTHERS} more, in record.json", style="dim")


def _why(record: GateRecord) -> Iterator[RenderableType]:
    if record.diagnosis is None:
        return
    yield Text()
    yield Text("Why (the whole of it: gate diagnose)", style="bold")
    yield _labelled(reasons.brief(record.diagnosis))


def _parts(record: GateRecord) -> Iterator[RenderableType]:
    """What the task tells besides."""
    for part in record.parts:
        yield Text()
        yield Text(wording.plain(part.title), style="bold")
        grid = Table.grid(padding=(0, 3, 0, 0))
        for cells in (part.columns, *part.rows[:_ROWS]):
            grid.add_row(*(Text(wording.plain(cell)) for cell in cells))
        yield grid
        if len(part.rows) > _ROWS:
            yield Text(f"and {len(part.rows) - _ROWS} more, in record.json", style="dim")


def _labelled(lines: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(Text(label), Text(text))
    return grid


def _facts(record: GateRecord) -> Table:
    grid = _labelled(facts.facts(record))
    if codes := (*story.codes(record), *facts.codes(record)):
        grid.add_row(Text("Explained"), Text(f"gate explain {' '.join(codes)}"))
    if record.verdict.outcome == "pass":
        grid.add_row(Text("History"), Text(story.since(record)))
    return grid


# ── several records ───────────────────────────────────────────────────────────────────────


def _overview(records: Sequence[GateRecord], problems: Sequence[tuple[str, GateError]]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("Model", overflow="fold", max_width=30)
    grid.add_column("Outcome", no_wrap=True)
    grid.add_column("Blocked by", overflow="fold", ratio=1)
    grid.add_column("Exit", justify="right", no_wrap=True)
    for record in records:
        outcome = record.verdict.outcome
        shown = Text(outcome if outcome == "pass" else outcome.upper(), style=_COLOURS[outcome])
        model, why = wording.plain(record.model, 60), _blocked_by(record)
        grid.add_row(Text(model), shown, Text(why), Text(str(record.exit_code)))
    for subject, error in problems:
        model, why = wording.plain(subject, 60), wording.plain(error, 300)
        shown = Text("ERROR", style="red")
        grid.add_row(Text(model), shown, Text(why), Text(str(error.exit_code)))
    return grid


def _blocked_by(record: GateRecord) -> str:
    blockers = story.blockers(record)
    if not blockers:
        return wording.NOTHING
    hidden = len(blockers) - 1
    more = f"; and {wording.plural(hidden, 'more budget')}" if hidden else ""
    return blockers[0] + more
