"""A history for programs: JSON with stable keys, and CSV without formulas."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gate.commands._history_line import Change, Entry, Line
from gate.registered import Move
from gate.wording import json_text

SCHEMA_VERSION = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_json(line: Line) -> str:
    """One model, its runs oldest first."""
    return _dumped({"schema_version": SCHEMA_VERSION, **_model(line)})


def all_as_json(lines: Sequence[Line]) -> str:
    """Every model, in the order given; `newest` is the release that stands for it."""
    return _dumped({"schema_version": SCHEMA_VERSION, "models": [*map(_summary, lines)]})


def _dumped(document: dict[str, Any]) -> str:
    return json_text(document)


def _model(line: Line) -> dict[str, Any]:
    anchor = line.anchor
    return {
        "model": line.model,
        "metric": line.asked.metric,
        "slice": line.asked.slice,
        "production": line.past.production,
        "anchor": None
        if anchor is None
        else {
            "name": anchor.name,
            "named_by_policy": anchor.named,
            "record": anchor.run.tags.get("record") if anchor.run else None,
            "run": anchor.run.run if anchor.run else None,
        },
        "runs": [_entry(entry) for entry in line.entries],
        "moves": [_move(move) for move in line.past.moves],
    }


def _summary(line: Line) -> dict[str, Any]:
    newest = line.newest
    return {
        "model": line.model,
        "production": line.past.production,
        "runs": len(line.entries),
        "newest": None if newest is None else _entry(newest),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    run, series, drift = entry.run, entry.series, entry.drift
    return {
        "run": run.run,
        "record": run.tags.get("record"),
        "when": _time(run.when),
        "stage": run.stage,
        "version": run.version,
        "is_production": entry.is_production,
        "candidate": run.candidate,
        "recipe": entry.recipe,
        "held_out": run.tags.get("held_out"),
        "metric": series.name if series else None,
        "slice": series.slice if series else None,
        "against": series.against if series else None,
        "reference": entry.reference,
        "int8": entry.value("int8"),
        "drop": entry.value("drop"),
        "quantity": entry.quantity if series else None,
        "lower": entry.value("lower"),
        "upper": entry.value("upper"),
        "limit": entry.limit,
        "left": entry.left,
        "drift": drift.value,
        "drift_how": drift.how,
        "drift_why_unknown": drift.why,
        "drift_limit": drift.limit,
        "drift_left": drift.left,
        "int8_share": entry.int8_share,
        "latency_p50_ms": entry.latency,
        "outcome": run.outcome,
        "reason": entry.reason,
        "marks": [*entry.marks],
        "held_out_change": _change(entry.change),
    }


def _change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "before": change.before,
        "after": change.after,
        "bridge": change.bridge,
        "anchor_known": change.anchored,
    }


def _move(move: Move) -> dict[str, Any]:
    return {
        "when": _time(move.when),
        "alias": move.alias,
        "version": move.version,
        "previous": move.previous,
        "kind": move.kind,
        "record": move.record,
        "who": move.who,
        "why": move.why,
        "complete": move.complete,
    }


def _time(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")


# ── CSV ───────────────────────────────────────────────────────────────────────────────────


def as_csv(line: Line) -> str:
    """A row a run, oldest first; lines end with CRLF, as RFC 4180 has it."""
    return _table([_flat(line, _entry(entry)) for entry in line.entries])


def all_as_csv(lines: Sequence[Line]) -> str:
    """A row a model: its newest release; a model without runs has nothing but its name."""
    return _table([_flat(line, _entry(line.newest) if line.newest else {}) for line in lines])


def _flat(line: Line, entry: dict[str, Any]) -> dict[str, Any]:
    change = entry.get("held_out_change")
    nested = {
        "marks": "; ".join(entry.get("marks", ())),
        "held_out_change": change and ("bridged" if change["bridge"] else "not bridged"),
    }
    return {"model": line.model, "production": line.past.production, **entry, **nested}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    names = max((list(row) for row in rows), key=len, default=["model", "production"])
    writer = csv.writer(stream)
    writer.writerow(names)
    writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    return stream.getvalue()


def _cell(value: Any) -> str:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
