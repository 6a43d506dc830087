"""`gate history`: what the releases of a model lost to INT8, version by version."""

import io
import shutil
from collections.abc import Sequence
from difflib import get_close_matches

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gate.errors import UsageError
from gate.trackers import PastRun, Tracker

_WIDTH_WITHOUT_TERMINAL = 140
_WIDEST = 10_000
_NARROWEST_OUTCOME = 32
_LONGEST_REASON = 120
_DROPS = ("drop", "relative_drop")
_STYLES = {"pass": "green", "waived": "yellow", "inconclusive": "yellow", "incomplete": "dim"}
_NONE = "–"


def history(tracker: Tracker, model: str) -> tuple[PastRun, ...]:
    """Every run of a model that the tracker remembers, newest first; errors are runs too.

    Raises:
        UsageError: it remembers none; the message lists the models that it knows.
        TrackerError: the tracker cannot be reached.
    """
    runs = tuple(tracker.past(model))
    if runs:
        return runs
    known = tracker.models()
    close = get_close_matches(model, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    listed = (
        f"Known: {', '.join(known)}" if known else "No model has runs yet: begin with `gate run`"
    )
    raise UsageError(f"no run of {model!r} is kept. {hint}{listed} (looked in: {tracker.where()})")


def render(runs: Sequence[PastRun], *, width: int | None = None, color: bool = False) -> str:
    """A table of runs, given newest first and shown newest last, next to the prompt.

    Each run shows the metric of its own first budget. `width` in columns defaults to the
    terminal's; only the outcome is ever broken over lines.
    """
    table = _table(runs)
    columns = width or shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns
    console = Console(
        file=io.StringIO(),
        width=columns,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    console.width = _fit(table, console, columns)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _fit(table: Table, console: Console, columns: int) -> int:
    """Give the last column what the others leave of `columns`; the width of the whole table."""
    last = table.columns[-1]
    last.width = _NARROWEST_OUTCOME
    narrowest = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    last.width += max(0, columns - narrowest)
    return max(columns, narrowest)


def _table(runs: Sequence[PastRun]) -> Table:
    metrics = {run.tags["metric"] for run in runs if "metric" in run.tags}
    table = Table(
        title=_plain(_title(runs, metrics)),
        title_justify="left",
        title_style="bold",
        caption=f"{len(runs)} run{'s'[: len(runs) - 1]}, newest last; times are UTC",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("when", "stage", "version", "candidate", "recipe"):
        table.add_column(name, no_wrap=True)
    if len(metrics) > 1:
        table.add_column("metric", no_wrap=True)
    for name in ("FP32", "INT8", "drop", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome", overflow="fold")
    for run in reversed(runs):
        table.add_row(*_row(run, named=len(metrics) > 1))
    return table


def _title(runs: Sequence[PastRun], metrics: set[str]) -> str:
    model = next((run.tags["model"] for run in runs if "model" in run.tags), "")
    return f"{model} · {metrics.pop()}" if len(metrics) == 1 else model


def _row(run: PastRun, *, named: bool) -> list[Text]:
    metric = [run.tags.get("metric", _NONE)] if named else []
    cells = [
        f"{run.when:%Y-%m-%d %H:%M}",
        run.stage,
        run.version or _NONE,
        _candidate(run),
        run.tags.get("recipe", _NONE),
        *metric,
        _number(_value(run, "fp32")),
        _number(_value(run, "int8")),
        _signed(_value(run, "drop")),
        _interval(run),
    ]
    return [*map(_plain, cells), _outcome(run)]


def _candidate(run: PastRun) -> str:
    """The head of a hash, or the end of a source's name where nothing could be hashed."""
    digest = len(run.candidate) == 64 and set(run.candidate) <= set("0123456789abcdef")  # noqa: PLR2004
    return run.candidate[:12] if digest else run.candidate.rpartition("/")[2][-16:] or _NONE


def _value(run: PastRun, quantity: str) -> float | None:
    """The value of the run's own metric; the reference stands in its FP32 column."""
    metric = run.tags.get("metric", "")
    if quantity == "fp32" and "@" in metric:
        quantity = metric.partition("@")[2].partition("/")[0]
    return run.metrics.get(f"{metric}/{quantity}")


def _interval(run: PastRun) -> str:
    """The drop's interval; where a budget bounds the value itself, the value's."""
    lower, upper = _value(run, "lower"), _value(run, "upper")
    if lower is None or upper is None:
        return _NONE
    show = _signed if run.tags.get("quantity") in _DROPS else _number
    return f"[{show(lower)}, {show(upper)}]"


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"  # noqa: PLR2004


def _signed(value: float | None) -> str:
    return f"+{_number(value)}" if value is not None and value > 0 else _number(value)


def _outcome(run: PastRun) -> Text:
    """The outcome, and in a few words why it is not a pass."""
    why = run.tags.get("error") if run.outcome == "error" else run.tags.get("blocked")
    why = "logging was cut short" if run.outcome == "incomplete" else why
    text = _plain(run.outcome)
    text.stylize(_STYLES.get(run.outcome, "red"))
    for mark, holds in (
        ("stopped early", "stopped" in run.tags),
        ("observed only", run.tags.get("mode") == "observe"),
        ("by point estimates", run.tags.get("decision") == "point"),
        ("attested", "attested" in run.tags),
    ):
        if holds:
            text.append(f" ({mark})")
    return text.append(": ").append(_plain(_cut(why))) if why else text


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON].rstrip()} …"


def _plain(text: str) -> Text:
    """Text without markup, and without what would move a terminal's cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text).strip())
