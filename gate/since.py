"""What is different from the last PASS of the same model: the first thing asked of a red run."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from pydantic import ValidationError

from gate.exhibits import PastPoint
from gate.recipes import Recipe
from gate.records import Comparison, GateRecord, PreviousRelease
from gate.trackers import PastRun
from gate.wording import few

_JUDGED = frozenset({"pass", "fail", "inconclusive", "waived"})
_LINE = 30
"""Runs that a report's chart holds."""
_MOVED = 1e-9
_NAMED = 3
_CPU_KEYS = ("model", "architecture", "vnni")


def since(
    record: GateRecord, stored: Mapping[str, Any] | None, *, run: str, when: datetime
) -> PreviousRelease:
    """Compare a record with that of the last PASS.

    Args:
        record: this run.
        stored: the record of the last PASS, parsed from JSON; None where it is lost.
        run: the tracker's id of the last PASS.
        when: its time.
    """
    try:
        last = GateRecord.model_validate(stored)
    except ValidationError:
        lost = f"unknown: the record of run {run} is lost, damaged or of another version"
        return PreviousRelease(when=when, run=run, changes=(lost,))
    changes = (*_inputs(record, last), *_layers(record, last), *_results(record, last))
    return PreviousRelease(when=last.created, run=run, changes=changes)


def _inputs(now: GateRecord, last: GateRecord) -> Iterator[str]:
    if now.candidate.fp32_sha256 != last.candidate.fp32_sha256:
        yield f"weights: {_short(last.candidate.sha256)} -> {_short(now.candidate.sha256)}"
    if now.int8.recipe != last.int8.recipe:
        yield f"recipe: {_recipe(now.int8.recipe, last.int8.recipe)}"
    yield from _splits(now, last)
    if now.preprocessing_sha256 != last.preprocessing_sha256:
        yield "preprocessing"
    if now.policy.judge != last.policy.judge:
        yield f"policy: {', '.join(_differing(now.policy.judge, last.policy.judge))}"
    if now.provenance.plugins != last.provenance.plugins:
        yield "plugins"
    yield from _machine(now, last)


def _splits(now: GateRecord, last: GateRecord) -> Iterator[str]:
    for name in ("held_out", "calibration"):
        mine, theirs = getattr(now.splits, name), getattr(last.splits, name)
        if (mine and mine.sha256) != (theirs and theirs.sha256):
            yield f"{name.replace('_', '-')} data"


def _machine(now: GateRecord, last: GateRecord) -> Iterator[str]:
    mine, theirs = now.provenance, last.provenance
    for library in ("onnxruntime", "onnx"):
        old, new = theirs.versions.get(library), mine.versions.get(library)
        if old != new:
            yield f"{library} {old} -> {new}"
    if any(mine.cpu.get(key) != theirs.cpu.get(key) for key in _CPU_KEYS):
        yield f"CPU: {theirs.cpu.get('model')} -> {mine.cpu.get('model')}"


def _layers(now: GateRecord, last: GateRecord) -> Iterator[str]:
    """Layers that used to run as integers and do not any more, or the other way about."""
    for text, mine, theirs in (
        ("stopped being quantized", now.int8.skipped_nodes, last.int8.quantized_nodes),
        ("began to be quantized", now.int8.quantized_nodes, last.int8.skipped_nodes),
    ):
        moved = [node for node in mine if node in frozenset(theirs)]
        if moved:
            layers = "layer" if len(moved) == 1 else "layers"
            yield f"{len(moved)} {layers} {text}: {few(moved, _NAMED)}"


def _results(now: GateRecord, last: GateRecord) -> Iterator[str]:
    """Which side of the first budgeted example metric moved."""
    before = {(c.metric, c.slice, c.against): c for c in last.comparisons}
    for comparison in now.comparisons:
        earlier = before.get((comparison.metric, comparison.slice, comparison.against))
        if comparison.counts is not None and earlier is not None:
            yield from _moved(comparison, earlier)
            return


def _moved(now: Comparison, last: Comparison) -> Iterator[str]:
    for side, new, old in (
        ("FP32", now.reference, last.reference),
        ("INT8", now.int8, last.int8),
    ):
        if new is not None and old is not None and abs(new - old) > _MOVED:
            yield f"{side} {now.metric} {old:.4g} -> {new:.4g}"


def _differing(now: Any, last: Any) -> list[str]:
    return [name for name in type(now).model_fields if getattr(now, name) != getattr(last, name)]


def _recipe(now: Recipe | None, last: Recipe | None) -> str:
    if now is None or last is None:
        return " -> ".join("made elsewhere" if one is None else one.name for one in (last, now))
    if now.name != last.name:
        return f"{last.name} -> {now.name}"
    return f"{now.name}, other {', '.join(_differing(now, last))}"


def _short(digest: str) -> str:
    return digest[:12]


# ── the line so far ───────────────────────────────────────────────────────────────────────


def line(runs: Iterable[PastRun]) -> tuple[PastPoint, ...]:
    """The last judged runs, oldest first, each by the metric that stands for it.

    `runs` are newest first; what came to no verdict has no numbers.
    """
    judged = (run for run in runs if run.outcome in _JUDGED and "metric" in run.tags)
    return tuple(reversed([_point(run) for run in islice(judged, _LINE)]))


def _point(run: PastRun) -> PastPoint:
    metric = run.tags["metric"]
    name, _, where = metric.partition("/")
    plain = name.partition("@")[0].partition(".")[0]
    drift = "/".join([f"{plain}@anchor", *([where] if where else []), "drop"])
    against = name.partition("@")[2] or "fp32"

    def value(key: str) -> float | None:
        found = run.metrics.get(key)
        return found if found is not None and math.isfinite(found) else None

    return PastPoint(
        when=run.when,
        stage=run.stage,
        outcome=run.outcome,
        version=run.version,
        held_out=run.tags.get("held_out"),
        reference=value(f"{metric}/{against}"),
        int8=value(f"{metric}/int8"),
        drop=value(f"{metric}/drop"),
        limit=None if where else run.limits.get(name),
        drift=value(drift),
    )
