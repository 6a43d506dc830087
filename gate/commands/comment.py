"""`gate comment`: one comment for a pull request, from the records of all its models.

The records may come from somebody else's fork, as files of an artifact: they are read as data, by
the record's schema, and every word of them is shown as text. It begins with a mark by which the
next one finds and replaces it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gate import facts, story, wording
from gate.commands.report import load_record
from gate.errors import EXIT_ERROR, GateError, RecordError, UsageError, worst
from gate.markup import markdown as escape
from gate.publish import RECORD
from gate.records import GateRecord
from gate.wording import plain

LIMIT = 65_000
"""Characters; GitHub takes 65,536."""
MARK = "<!-- int8-gate -->"
MOST = 200
"""Models."""
_LARGEST = 32 * 2**20
_SIGNS = {"pass": "✅", "waived": "🟣", "inconclusive": "🟡", "fail": "❌"}
_WORST_FIRST = {"fail": 0, "inconclusive": 1, "waived": 2, "pass": 3}
_SPARKS = "▁▂▃▄▅▆▇█"
_BLOCKERS = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the folders."""

    records: tuple[GateRecord, ...]
    """The worst first."""
    problems: tuple[tuple[str, GateError], ...]
    """Where a record could not be read, and why."""

    @property
    def exit_code(self) -> int:
        """The worst of all."""
        codes = [record.exit_code for record in self.records]
        codes += [error.exit_code for _, error in self.problems]
        return worst(codes) if codes else EXIT_ERROR


def gathered(places: Sequence[Path]) -> Found:
    """Every record in these folders and below, each once; links are not followed.

    Raises:
        UsageError: a folder is not there, or there are more than 200 records.
    """
    files = [file for place in places for file in _files(place)]
    if len(files) > MOST:
        raise UsageError(f"{len(files)} records are more than the {MOST} that a comment is for")
    records: dict[str, GateRecord] = {}
    problems: list[tuple[str, GateError]] = []
    for file in files:
        try:
            record = _read(file)
        except GateError as error:
            problems.append((str(file), error))
            continue
        known = records.setdefault(record.id, record)
        if known != record:
            told = RecordError(f"it is another record than the one with the same id, {record.id}")
            problems.append((str(file), told))
    return Found(tuple(sorted(records.values(), key=_badness)), tuple(problems))


def _files(place: Path) -> Iterator[Path]:
    if place.is_file() and not place.is_symlink():
        yield place
        return
    if not place.is_dir():
        raise UsageError(f"{place} is not there: name a folder that holds records")
    for folder, _, names in sorted(os.walk(place, followlinks=False)):
        file = Path(folder) / RECORD
        if RECORD in names and not file.is_symlink():
            yield file


def _read(file: Path) -> GateRecord:
    if file.stat().st_size > _LARGEST:
        raise RecordError(f"{file} has {file.stat().st_size:,} bytes: no gate writes such a record")
    record = load_record(file)
    _demand_one_story(record)
    return record


def _demand_one_story(record: GateRecord) -> None:
    """Whether a verdict follows from its findings; numbers that were all made up nobody can tell.

    Raises:
        RecordError: it lets through what they block.
    """
    verdict = record.verdict
    blocked = any(one.blocking or one.outcome == "fail" for one in verdict.findings)
    waived = any(one.outcome == "waived" for one in verdict.findings)
    if verdict.outcome in ("pass", "waived") and (
        blocked or waived != (verdict.outcome == "waived")
    ):
        raise RecordError(
            f"record {record.id} says {verdict.outcome.upper()}, and its own findings do not: it "
            "was changed after it was written. Run the gate again"
        )


def _badness(record: GateRecord) -> tuple[int, str, str]:
    return _WORST_FIRST[record.verdict.outcome], record.model, record.id


# ── the comment ───────────────────────────────────────────────────────────────────────────


def render(found: Found, *, mark: str = MARK, link: str | None = None) -> str:
    """GitHub's Markdown, at most 65,000 characters; what does not fit is counted.

    Args:
        found: the records.
        mark: an HTML comment by which the comment is found again.
        link: where the whole reports are.
    """
    head = "".join(f"{line}\n" for line in _head(found, mark, link))
    tail = "\n_Only a pass releases. Intervals are two-sided; the whole reports are in the job._\n"
    room = LIMIT - len(head) - len(tail)
    rows, room = _fitting([_row(record) for record in found.records], room)
    details, _ = _fitting([_details(record) for record in found.records if _is_open(record)], room)
    return f"{head}{rows}\n{details}{tail}"


def _head(found: Found, mark: str, link: str | None) -> Iterator[str]:
    yield mark
    yield f"### INT8 gate: {_overall(found)}"
    yield ""
    if link is not None:
        yield f"[The whole reports]({_address(link)})"
        yield ""
    for place, error in found.problems:
        yield f"> ❌ **ERROR** {escape(plain(place, 200))}: {escape(plain(str(error), 300))}"
    if not found.records:
        yield "> ❌ There is no record: nothing was judged."
        return
    yield "| | model | outcome | what it comes to | INT8 so far |"
    yield "| --- | --- | --- | --- | --- |"


def _address(link: str) -> str:
    """An address, and nothing that could end the link or begin markup."""
    if not link.startswith("https://") or any(c in link for c in " ()<>\\\"'`\n\r\t"):
        raise UsageError(f"--link {link!r}: give an address that begins with https://")
    return link


def _overall(found: Found) -> str:
    counts = {
        outcome: sum(record.verdict.outcome == outcome for record in found.records)
        for outcome in _WORST_FIRST
    }
    parts = [f"{n} {outcome}" for outcome, n in counts.items() if n]
    parts += [f"{len(found.problems)} could not be read"] if found.problems else []
    return ", ".join(parts) or "nothing was judged"


def _row(record: GateRecord) -> str:
    outcome = record.verdict.outcome
    observed = " (observed)" if record.policy.judge.mode == "observe" else ""
    cells = (
        _SIGNS[outcome],
        escape(plain(record.model, 100)),
        outcome.upper() + observed,
        escape(_gist(record)),
        _trend(record),
    )
    return f"| {' | '.join(cells)} |\n"


def _gist(record: GateRecord) -> str:
    blockers = story.blockers(record)
    if not blockers:
        return plain(story.summary(record), 300)
    more = f" (and {len(blockers) - 1} more)" if len(blockers) > 1 else ""
    return plain(blockers[0], 300) + more


def _trend(record: GateRecord) -> str:
    """INT8's value in earlier runs and in this one, where the same metric stands for all."""
    first = next((one.comparison for one in record.verdict.findings if one.comparison), None)
    values = [point.int8 for point in record.past] + [first.int8 if first else None]
    known = [value for value in values if value is not None]
    if len(known) < 2:  # noqa: PLR2004
        return wording.NOTHING
    scale = max(map(abs, known)) or 1.0  # a stranger's numbers may be too far apart to subtract
    shares = [value / scale for value in known]
    low, span = min(shares), (max(shares) - min(shares)) or 1.0
    marks = [_SPARKS[round((share - low) / span * (len(_SPARKS) - 1))] for share in shares]
    return f"{''.join(marks)} {known[-1]:.4g}"


def _is_open(record: GateRecord) -> bool:
    """Whether there is more to say than one row: also where a change would loosen its own gate."""
    held = record.judged_from
    return record.verdict.outcome != "pass" or (held is not None and bool(held.looser))


def _details(record: GateRecord) -> str:
    title = f"{escape(plain(record.model, 100))}: {record.verdict.outcome.upper()}"
    blockers = story.blockers(record)
    lines = [f"- {escape(plain(text, 600))}" for text in blockers[:_BLOCKERS]]
    if len(blockers) > _BLOCKERS:
        lines.append(f"- and {len(blockers) - _BLOCKERS} more, in the report")
    if not blockers:
        lines.append(escape(plain(story.summary(record), 600)))
    told = facts.notices(record)
    lines += ["", *(f"- {escape(plain(notice, 300))}" for notice in told[:_BLOCKERS])]
    if len(told) > _BLOCKERS:
        lines.append(f"- and {len(told) - _BLOCKERS} more, in the report")
    lines += ["", escape(plain(story.since(record), 600))]
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>\n"


def _fitting(parts: Sequence[str], room: int) -> tuple[str, int]:
    """Those that fit in `room` characters, with a line that counts the others; and what is left."""
    note = "\n…and {} more, in the job's reports.\n"
    left, shown = room - len(note) - 4, []
    for part in parts:
        if left < len(part):
            break
        left -= len(part)
        shown.append(part)
    hidden = len(parts) - len(shown)
    return "".join(shown) + (note.format(hidden) if hidden else ""), left
