"""`gate history`: what the releases of a model lost to INT8, version by version."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from gate import trackers
from gate.commands import _history_data as data
from gate.commands import _history_text as text
from gate.commands._history_line import Line, Past, line_of
from gate.commands._history_series import Asked, demand_known
from gate.errors import EXIT_PASS, UsageError
from gate.registered import PRODUCTION, registered_name
from gate.trackers import PastRun, Tracker

IMPORT = "import"


def command(
    words: Sequence[str],
    tracker: str,
    *,
    metric: str | None,
    slice_: str | None,
    format_: str,
    out: Path | None,
) -> tuple[str, int]:
    """`gate history [MODEL]` or `gate history import FOLDER`: what to print, and the exit code.

    Raises:
        UsageError: other words, or as `show` and `import_folder`.
        TrackerError: the tracker cannot be reached.
    """
    keeper = trackers.get(tracker)
    match words:
        case []:
            model = None
        case [only] if only == IMPORT and only not in keeper.models():
            raise UsageError(f"`{IMPORT}` which folder? gate history {IMPORT} FOLDER")
        case [model]:
            pass
        case [first, folder] if first == IMPORT:
            from gate.commands._history_import import import_folder

            done = import_folder(keeper, Path(folder))
            return "".join(f"{line}\n" for line in done.lines(keeper.where())), done.exit_code
        case _:
            raise UsageError(f"{' '.join(words)!r}: name one model, or `{IMPORT} FOLDER`")
    asked = Asked(metric, slice_)
    return show(keeper, model, asked=asked, format_=format_, out=out), EXIT_PASS


def show(
    tracker: Tracker,
    model: str | None = None,
    *,
    asked: Asked | None = None,
    format_: str = "text",
    out: Path | None = None,
) -> str:
    """What `gate history` prints of a model, or of all of them; with `out` where it wrote it.

    Raises:
        UsageError: no run of the model, or none of what was asked for, is kept; `out` cannot be
            written.
        TrackerError: the tracker cannot be reached.
    """
    asked = asked or Asked()
    with _uncollected():
        shown = (
            _of_all(tracker, asked, format_)
            if model is None
            else _of(tracker, model, asked, format_)
        )
    return shown if out is None else _written(shown, out)


def _of(tracker: Tracker, model: str, asked: Asked, format_: str) -> str:
    line = history(tracker, model, asked)
    match format_:
        case "json":
            return data.as_json(line)
        case "csv":
            return data.as_csv(line)
        case "html":
            from gate.commands._history_html import page

            return page(line)
    return text.render(line, width=_columns(), color=_colored())


def _of_all(tracker: Tracker, asked: Asked, format_: str) -> str:
    lines = histories(tracker, asked)
    match format_:
        case "json":
            return data.all_as_json(lines)
        case "csv":
            return data.all_as_csv(lines)
        case "html":
            from gate.commands._history_html import all_page

            return all_page(lines)
    return text.render_all(lines, width=_columns(), color=_colored())


# ── reading ───────────────────────────────────────────────────────────────────────────────


def history(tracker: Tracker, model: str, asked: Asked | None = None) -> Line:
    """Every run of a model that the tracker remembers; errors are runs too.

    Raises:
        UsageError: it remembers none; the message lists the models that it knows. Or no run has
            the metric or the slice that was asked for.
        TrackerError: the tracker cannot be reached.
    """
    asked = asked or Asked()
    runs = tuple(tracker.past(model))
    if not runs:
        raise UsageError(_unknown(tracker, model))
    demand_known(runs, asked)
    return line_of(_past(tracker, model, runs), asked)


def histories(tracker: Tracker, asked: Asked | None = None) -> tuple[Line, ...]:
    """The lines of every model that the tracker knows, worst first.

    Raises:
        UsageError: it knows none, or no run of any has what was asked for.
        TrackerError: the tracker cannot be reached.
    """
    asked = asked or Asked()
    runs = {model: tuple(tracker.past(model)) for model in tracker.models()}
    if not runs:
        raise UsageError(f"{_NO_RUNS} (looked in: {tracker.where()})")
    demand_known([run for found in runs.values() for run in found], asked)
    lines = [line_of(_past(tracker, model, found), asked) for model, found in runs.items()]
    return tuple(sorted(lines, key=lambda line: line.badness))


_NO_RUNS = "No model has runs yet: begin with `gate run`"


def _unknown(tracker: Tracker, model: str) -> str:
    known = tracker.models()
    close = get_close_matches(model, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    listed = f"Known: {', '.join(known)}" if known else _NO_RUNS
    return f"no run of {model!r} is kept. {hint}{listed} (looked in: {tracker.where()})"


def _past(tracker: Tracker, model: str, runs: Sequence[PastRun]) -> Past:
    registry = tracker.registry
    if registry is None:
        return Past(model, tuple(runs))
    serving = registry.find(registered_name(model), alias=PRODUCTION)
    return Past(
        model,
        tuple(runs),
        production=None if serving is None else serving.version,
        moves=tuple(registry.moves(model)),
        bridges=tuple(bridge for _, bridge in registry.bridges(model)),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: it goes through all of a million live objects again and
    again, finds nothing, and takes more time than all else."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ── writing ───────────────────────────────────────────────────────────────────────────────


def _columns() -> int:
    return shutil.get_terminal_size((text.WIDTH, 24)).columns


def _colored() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _written(shown: str, out: Path) -> str:
    try:
        out.write_text(shown, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error
    return f"wrote {out}\n"
