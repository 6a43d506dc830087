"""`gate report`: read a record back, and show it again."""

import json
import math
import os
import sys
from collections.abc import Sequence
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import ValidationError

from gate import publish, reporters, trackers
from gate.errors import GateError, RecordError, UsageError
from gate.records import SCHEMA_VERSION, GateRecord

_PROBLEMS = 3
Problems = Sequence[tuple[str, GateError]]


# ── reading ───────────────────────────────────────────────────────────────────────────────


def load_record(path: Path) -> GateRecord:
    """The record at `path`: a record.json, or the folder that holds it.

    Raises:
        UsageError: there is none.
        RecordError: it is damaged, or of a schema that this version cannot read.
    """
    file = record_file(path)
    fields = _parse(file, _text(file))
    _demand_schema(file, fields)
    try:
        return GateRecord.model_validate(fields)
    except ValidationError as error:
        raise RecordError(
            f"{file} does not fit the record's schema: {_problems(error)}. It was changed after "
            "it was written, or by another version of gate: fetch it again, or run the gate again"
        ) from error


def record_file(path: Path) -> Path:
    """`path`, or the record.json in it.

    Raises:
        UsageError: there is none.
    """
    file = path / publish.RECORD if is_there(path) and path.is_dir() else path
    if is_there(file) and file.is_file():
        return file
    if is_there(path):
        raise UsageError(
            f"{path} holds no {publish.RECORD}: it is no run's folder, or the run did not finish"
        )
    raise UsageError(f"{path} does not exist: name a record.json, or the folder that holds it")


def is_there(path: Path) -> bool:
    """Whether something lies there; nothing does under a name that no file can have.

    Raises:
        UsageError: the system does not tell.
    """
    try:
        return path.exists()
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{file} is not UTF-8 text, so it is not a record") from error
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        fields = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{file}:{error.lineno}:{error.colno}: not complete JSON ({error.msg}): the run that "
            "wrote it was interrupted, or the copy is damaged. Fetch it, or run the gate, again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{file} is damaged: {error}. No gate wrote this; run it again"
        ) from error
    if not isinstance(fields, dict):
        raise RecordError(f"{file} is not a record: it holds a JSON {type(fields).__name__}")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return fields


def _demand_schema(file: Path, fields: dict[str, Any]) -> None:
    found = fields.get("schema_version")
    if type(found) is not int:
        raise RecordError(f"{file} is not a record: it has no whole number as `schema_version`")
    if found > SCHEMA_VERSION:
        raise RecordError(
            f"{file} has schema version {found}, this gate reads {SCHEMA_VERSION}: "
            "it is newer. Upgrade with `pip install --upgrade int8-gate`"
        )
    if found < SCHEMA_VERSION:
        raise RecordError(
            f"{file} has schema version {found}, this gate reads {SCHEMA_VERSION}: "
            "it is older. Run the gate again on this candidate"
        )


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found[:_PROBLEMS]]
    hidden = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {hidden} more" if hidden else "")


# ── showing ───────────────────────────────────────────────────────────────────────────────


def render(record: GateRecord, format: str) -> str:  # noqa: A002
    """The record in one format.

    Raises:
        UsageError: no reporter has that name; the message lists those that are.
    """
    return reporters.get(format).render(record)


def demand_place(formats: Sequence[str]) -> None:
    """Prove, before any work, that reports can be shown in `formats` and where CI wants them.

    Raises:
        UsageError: no reporter has a name in `formats`, or GitHub Actions says not where to write.
    """
    from gate.reporters import github

    for key in formats:
        reporters.get(key)
    if github.active(os.environ):
        github.targets(os.environ)


def show(records: Sequence[GateRecord], formats: Sequence[str], problems: Problems = ()) -> None:
    """Print reports to standard output; several records as text end with one table of all.

    Without `formats` it is text, and in GitHub Actions annotations too; in Actions the summary
    and the step's outputs are written as well. `problems` are runs that came to no verdict: what
    was to be judged, and why it was not.

    Raises:
        UsageError: no reporter has a name in `formats`.
    """
    from gate.reporters import github

    in_actions = github.active(os.environ)
    for key in formats or (("text", "github") if in_actions else ("text",)):
        reporter = reporters.get(key)
        if key == "text":
            _show_text(records, problems)
            continue
        _print("".join(reporter.render(record) for record in records))
        if key == "github":
            _print("".join(github.announce(error) for _, error in problems))
    if in_actions:
        github.publish(records, os.environ, problems)


def embed(record: GateRecord, format: str, data: Path | None) -> str:  # noqa: A002
    """The HTML report with what changed examples look like.

    Args:
        record: the record.
        format: html: no other shows pictures.
        data: the held-out data, where they have moved.

    Raises:
        UsageError: another format, or the data are not there or not the record's.
    """
    from gate.commands._embed import examples
    from gate.reporters import html

    if format != html.REPORTER.key:
        raise UsageError(f"--embed-examples goes with --format html, not {format}")
    return html.REPORTER.render_with(record, examples(record, data))


def _show_text(records: Sequence[GateRecord], problems: Problems) -> None:
    from gate.reporters import text

    several = len(records) + len(problems) > 1
    if not _is_terminal():
        parts = [text.REPORTER.render(record) for record in records]
        parts += [text.table(records, problems)] if several else []
        _print("\n".join(parts))
        return
    console = text.terminal(sys.stdout)
    for record in records:
        text.render_terminal(record, console)
        console.print()
    if several:
        text.print_table(records, problems, console)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()


def _print(text: str) -> None:
    """Characters that standard output's encoding lacks become `?`: a report is shown, not lost."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)


# ── sending ───────────────────────────────────────────────────────────────────────────────


def send(path: Path, tracker: str) -> str:
    """Give a finished record, and the files beside it, to a tracker; what to tell the user.

    Raises:
        UsageError: no tracker has that name, or there is no record.
        RecordError: the record is damaged.
        TrackerError: the tracker cannot be reached or refused.
    """
    keeper = trackers.get(tracker)
    record, folder = load_record(path), record_file(path).parent
    keeper.prepare()
    run = publish.send(keeper, record, folder)
    return f"gate: record {record.id} is kept as run {run}; look at it with: {keeper.where()}"
