"""A record for a pull request, a job's summary, or a run's page: GitHub's Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from gate import facts, reasons, story, wording
from gate.markup import markdown as escape
from gate.records import GateRecord
from gate.story import Group, Row

LIMIT = 60_000
_BLOCKERS = 10
_UNBROKEN = "&nbsp;"


class MarkdownReporter:
    """The verdict, why, the table of budgets; the rest folded away."""

    key = "markdown"
    filename: str | None = "report.md"

    def render(self, record: GateRecord) -> str:
        """The whole report, under 60 kB."""
        return render_within(record, LIMIT)


REPORTER = MarkdownReporter()


def render_within(record: GateRecord, limit: int) -> str:
    """The report in at most `limit` bytes of UTF-8; what does not fit is counted, never dropped.

    The verdict and its reasons come first, so that the least important goes first. `limit` is at
    least 2000.
    """
    room = limit
    parts: list[str] = []
    for section in _sections(record):
        text = _written(section, room - (limit // 4 if section.leaves_room else 0))
        room -= _length(text)
        parts.append(text)
    return "".join(parts)


# ── sections that fit ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Section:
    """Lines between a head and a tail."""

    head: str
    lines: Sequence[str]
    tail: str = ""
    more: str = "- {count} more, in record.json"
    """Stands for the lines that do not fit."""
    leaves_room: bool = False
    """Whether it must leave a quarter of the page to what follows."""


def _written(section: _Section, room: int) -> str:
    """A section in at most `room` bytes; nothing where not even its frame fits."""
    if not section.lines:
        return ""
    count = len(section.lines)
    last = section.more.format(count=wording.whole(count)) + "\n"
    whole = [f"{line}\n" for line in section.lines]
    left = room - _length(section.head) - _length(section.tail)
    if sum(map(_length, whole)) <= left:
        return section.head + "".join(whole) + section.tail
    left -= _length(last)
    if left < 0:
        return ""
    shown: list[str] = []
    for line in whole:
        left -= _length(line)
        if left < 0:
            break
        shown.append(line)
    last = section.more.format(count=wording.whole(count - len(shown))) + "\n"
    return section.head + "".join(shown) + last + section.tail


def _length(text: str) -> int:
    return len(text.encode())


# ── what they say ─────────────────────────────────────────────────────────────────────────


def _sections(record: GateRecord) -> tuple[_Section, ...]:
    codes = (*story.codes(record), *facts.codes(record))
    explained = [("Explained", f"gate explain {' '.join(codes)}")] if codes else []
    known = (*facts.facts(record), *explained)
    return (
        _headline(record),
        _reasons(record),
        _Section("", [escape(story.since(record))], "\n"),
        _Section("", [f"> {escape(notice)}  " for notice in facts.notices(record)], "\n"),
        _budgets(record),
        _why(record),
        _folded("What was compared, and how", ("What", "As judged"), known),
        *(_folded(wording.plain(p.title), p.columns, p.rows) for p in record.parts),
        _folded("Measured without a budget", ("Metric", "FP32", "INT8"), story.others(record)),
    )


def _headline(record: GateRecord) -> _Section:
    model = escape(wording.plain(record.model))
    where = f"stage {record.stage}, {escape(story.exit_text(record))}"
    return _Section("", [f"## {record.verdict.outcome.upper()}: {model}", "", where, ""])


def _reasons(record: GateRecord) -> _Section:
    blockers = story.blockers(record)
    if record.verdict.outcome == "pass" or not blockers:
        return _Section("", [escape(story.summary(record))], "\n")
    lines = [f"- **{escape(name)}**: {escape(why)}" for name, why in map(_parted, blockers)]
    hidden = len(lines) - _BLOCKERS
    shown = lines[:_BLOCKERS] + ([f"- and {hidden} more budgets, below"] if hidden > 0 else [])
    head = "Blocked by" if record.exit_code else "Would be blocked by"
    return _Section(f"{head}\n\n", shown, "\n")


def _parted(blocker: str) -> tuple[str, str]:
    name, _, why = blocker.partition(": ")
    return name, why


def _budgets(record: GateRecord) -> _Section:
    reference, measured = story.reference_title(record), story.measured_title(record)
    titles = ("Budget", reference, "INT8", measured, "Outcome", "Why")
    head = f"{_cells(titles)}\n| --- | ---: | ---: | :--- | :--- | :--- |\n"
    lines = [line for group in story.groups(record) for line in _group(group)]
    more = "| {count} more rows, in record.json | | | | | |"
    return _Section(head, lines, "\n", more, leaves_room=True)


def _why(record: GateRecord) -> _Section:
    if record.diagnosis is None:
        return _Section("", [])
    lines = [f"- **{label}** {escape(text)}" for label, text in reasons.brief(record.diagnosis)]
    return _Section("Why (the whole of it: gate diagnose)\n\n", lines, "\n")


def _group(group: Group) -> list[str]:
    rows = [_row(row, nested=group.tally is not None) for row in group.rows]
    if group.tally is None:
        return rows
    tally = "; ".join(filter(None, (group.tally, group.shown)))
    return [_cells((group.name, "", "", "", "", tally)), *rows]


def _row(row: Row, *, nested: bool) -> str:
    name = f"↳ {row.name}" if nested else row.name
    numbers = [escape(cell).replace(" ", _UNBROKEN) for cell in (row.reference, row.int8)]
    outcome = escape(row.outcome).replace(" ", _UNBROKEN)
    cells = [escape(name), *numbers, escape(row.change)]
    cells.append(f"**{outcome}**" if row.case.finding.blocking else outcome)
    code = "" if row.case.finding.outcome == "pass" else f" {row.case.code}"
    return f"| {' | '.join([*cells, escape(row.reason) + code])} |"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"


def _folded(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Section:
    head = f"<details>\n<summary>{escape(title)}</summary>\n\n"
    head += f"{_cells(header)}\n|{' --- |' * len(header)}\n"
    more = "| {count} more, in record.json |" + " |" * (len(header) - 1)
    return _Section(head, [_cells(row) for row in rows], "\n</details>\n\n", more)
