"""A record for GitHub Actions: annotations at the policy's lines, job summary, step outputs."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gate import facts, reporters, story, wording
from gate.errors import GateError, PolicyError, RecordError, UsageError, worst
from gate.records import GateRecord, Outcome
from gate.story import Case, Group

SUMMARY_LIMIT = 1024 * 1024
_PER_TYPE = 10
_MESSAGE = 1000
_FILE = 500
_OUTCOMES: dict[int, tuple[Outcome, ...]] = {
    1: ("fail",),
    3: ("inconclusive",),
    0: ("fail", "inconclusive", "waived", "pass"),
}


class GithubReporter:
    """Workflow commands, for a step's output."""

    key = "github"
    filename: str | None = None

    def render(self, record: GateRecord) -> str:
        """`::error`, `::warning` and `::notice` lines, at most ten of each.

        What blocks is an error, or a warning where the exit code is 0 all the same.
        """
        errors, warnings = list(_blocking(record)), list(_open(record))
        if record.exit_code == 0:
            errors, warnings = [], errors + warnings
        notices = [_passed(record)] if record.verdict.outcome == "pass" else []
        kinds = {"error": errors, "warning": warnings, "notice": notices}
        lines = [line for kind, found in kinds.items() for line in _commands(kind, found)]
        return "".join(f"{line}\n" for line in lines or _commands("warning", [_bare(record)]))


REPORTER = GithubReporter()
_Annotation = tuple[dict[str, str], str]


def active(environ: Mapping[str, str]) -> bool:
    """Whether this runs as a step of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def announce(error: GateError) -> str:
    """The annotation of a run that could not judge; at the policy's line where it is one."""
    place = {"title": f"gate could not judge (exit {error.exit_code})"}
    if isinstance(error, PolicyError) and error.mark is not None:
        mark = error.mark
        place = {"file": str(mark.file), "line": str(mark.line), "col": str(mark.column)} | place
    return "".join(f"{line}\n" for line in _commands("error", [(place, str(error))]))


# ── annotations ───────────────────────────────────────────────────────────────────────────


def _blocking(record: GateRecord) -> Iterator[_Annotation]:
    """One for each finding in the way; the first says what changed."""
    changed = f". {story.since(record)}"
    for group in story.groups(record):
        for case in group.cases:
            if case.finding.blocking:
                message = story.sentence(case, record.alpha) + changed
                yield _place(record, case, f"{case.outcome} {record.model}"), message
                changed = ""


def _open(record: GateRecord) -> Iterator[_Annotation]:
    """What does not block and still has to be seen; one for all slices of a budget."""
    for group in story.groups(record):
        quiet = [case for case in group.cases if not case.finding.blocking]
        unproven = [case for case in quiet if case.finding.outcome != "pass"]
        if unproven:
            title = f"{unproven[0].outcome} {record.model}"
            yield _place(record, unproven[0], title), _unproven(record, group, unproven)
    for notice in facts.notices(record):
        yield {"file": record.policy_source.file, "title": f"gate {record.model}"}, notice


def _unproven(record: GateRecord, group: Group, unproven: Sequence[Case]) -> str:
    worst_of = story.sentence(unproven[0], record.alpha)
    return worst_of if group.tally is None else f"{group.name}: {group.tally}. Worst: {worst_of}"


def _place(record: GateRecord, case: Case, title: str) -> dict[str, str]:
    """The line that the budget begins on; the file alone where the record does not say."""
    line = record.policy_source.lines.get(case.finding.budget)
    at = {} if line is None else {"line": str(line)}
    return {"file": record.policy_source.file, **at, "title": title}


def _passed(record: GateRecord) -> _Annotation:
    place = {"file": record.policy_source.file, "title": f"PASS {record.model}"}
    return place, story.summary(record)


def _bare(record: GateRecord) -> _Annotation:
    """A verdict that nothing in the record explains."""
    title = f"{record.verdict.outcome.upper()} {record.model}"
    return {"file": record.policy_source.file, "title": title}, story.summary(record)


def _commands(kind: str, found: Sequence[_Annotation]) -> list[str]:
    """GitHub shows ten of a kind: the last one says how many it leaves out."""
    if len(found) <= _PER_TYPE:
        return [_command(kind, place, message) for place, message in found]
    hidden = len(found) - _PER_TYPE + 1
    place = {"file": found[0][0]["file"], "title": found[0][0]["title"]}
    shown = [_command(kind, place, message) for place, message in found[: _PER_TYPE - 1]]
    return [*shown, _command(kind, place, f"{hidden} more: see the summary and record.json")]


def _command(kind: str, place: Mapping[str, str], message: str) -> str:
    properties = ",".join(f"{key}={_property(value)}" for key, value in place.items())
    return f"::{kind} {properties}::{_data(wording.plain(message, _MESSAGE))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    shown = _data(wording.plain(text, _FILE))
    return shown.replace(":", "%3A").replace(",", "%2C")


# ── summary and outputs ───────────────────────────────────────────────────────────────────


def publish(
    records: Sequence[GateRecord],
    environ: Mapping[str, str],
    problems: Sequence[tuple[str, GateError]] = (),
) -> None:
    """Append the reports to the job's summary, and `outcome`, `exit-code`, `record-id` to outputs.

    Of several records the worst outcome and exit code count, and ids stand one a line. `problems`
    are runs that came to no verdict: what was to be judged, and why it was not.

    Raises:
        UsageError: this is no step of GitHub Actions.
        RecordError: its files cannot be written.
    """
    summary, output = targets(environ)
    try:
        _append(summary, _summary(records, problems, _room(summary)))
        _append(output, "".join(_outputs(records, problems)))
    except OSError as error:
        raise RecordError(f"GitHub's file for this step cannot be written: {error}") from error


def targets(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """The files that take the step's summary and its outputs.

    Raises:
        UsageError: this is no step of GitHub Actions.
    """
    return _target(environ, "GITHUB_STEP_SUMMARY"), _target(environ, "GITHUB_OUTPUT")


def _target(environ: Mapping[str, str], name: str) -> Path:
    path = environ.get(name)
    if not path:
        raise UsageError(
            f"{name} is not set: publishing works in a step of GitHub Actions; "
            "elsewhere use --format markdown"
        )
    return Path(path)


def _room(summary: Path) -> int:
    written = summary.stat().st_size if summary.exists() else 0
    return SUMMARY_LIMIT - written


def _summary(
    records: Sequence[GateRecord], problems: Sequence[tuple[str, GateError]], room: int
) -> str:
    """All reports that fit; the last line counts those that do not."""
    markdown = reporters.get("markdown")
    texts = [_problem(subject, error) for subject, error in problems]
    texts += [markdown.render(record) for record in records]
    left, shown = room - 200, []
    for text in texts:
        left -= len(text.encode()) + 1
        if left < 0:
            break
        shown.append(text + "\n")
    hidden = len(texts) - len(shown)
    note = f"{wording.plural(hidden, 'more report')}: no room here, see the records.\n"
    return "".join(shown) + (note if hidden and room > len(note) else "")


def _problem(subject: str, error: GateError) -> str:
    """An indented block: nothing in it is markup."""
    heading = f"## ERROR: could not judge, exit {error.exit_code}"
    lines = [wording.plain(subject, 200), *(wording.plain(x, 500) for x in str(error).splitlines())]
    return "\n".join([heading, "", *(f"    {line}" for line in lines[:20]), ""])


def _outputs(
    records: Sequence[GateRecord], problems: Sequence[tuple[str, GateError]]
) -> Iterator[str]:
    codes = [error.exit_code for _, error in problems] + [record.exit_code for record in records]
    code = worst(codes)
    yield _output("outcome", _worst_outcome(records, code))
    yield _output("exit-code", str(code))
    yield _output("record-id", "\n".join(wording.plain(record.id) for record in records))


def _worst_outcome(records: Sequence[GateRecord], code: int) -> str:
    """The outcome behind an exit code; `error` where there is none."""
    found = {record.verdict.outcome for record in records}
    return next((outcome for outcome in _OUTCOMES.get(code, ()) if outcome in found), "error")


def _output(name: str, value: str) -> str:
    """With a delimiter that nobody can know, so that no value can end it and add an output."""
    delimiter = f"gate_{uuid.uuid4().hex}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
