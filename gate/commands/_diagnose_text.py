"""A diagnosis for people, and for programs."""

from collections.abc import Iterator

from gate import reasons
from gate.diagnosis import Diagnosis, Flip
from gate.records import GateRecord
from gate.wording import metric_name, plain, plural

_LAYERS = 20


def render(record: GateRecord, found: Diagnosis, format: str) -> str:  # noqa: A002
    """The diagnosis as `text` or `json`, ending in a line break."""
    if format == "json":
        return found.model_dump_json(indent=2) + "\n"
    return "\n".join(_lines(record, found)) + "\n"


def _lines(record: GateRecord, found: Diagnosis) -> Iterator[str]:
    yield f"{plain(record.model)}, record {plain(record.id)}: {record.verdict.outcome.upper()}"
    yield ""
    yield from _layers(found)
    yield from _slices(found)
    yield from _examples(found)
    yield from (f"Not told: {plain(problem, 300)}" for problem in found.problems)
    yield from _next(found)


def _layers(found: Diagnosis) -> Iterator[str]:
    if not found.examples:
        return
    every = len(found.layers) + found.others
    on = f"{plural(found.examples, 'example')} of {found.split}"
    yield f"Layers, by their share of the error at the outputs ({every} lose something; on {on})"
    for one in found.layers[:_LAYERS]:
        yield f"  {100 * one.share:5.1f} %  own {_db(one.own_sqnr)}  all {_db(one.sqnr)}  " + (
            f"{plain(one.node, 60)} ({plain(one.op, 30)})"
        )
        if one.cause is not None:
            yield f"           {one.cause.name}: {plain(one.cause.detail, 200)}"
    if every > _LAYERS:
        yield f"  and {every - _LAYERS} more, in --format json"
    yield ""


def _db(value: float | None) -> str:
    return "exact   " if value is None else f"{value:5.1f} dB"


def _slices(found: Diagnosis) -> Iterator[str]:
    if not found.lost:
        return
    metric = metric_name(found.lost)
    yield f"Slices that lose more {metric} than the rest ({found.looked_at} looked at)"
    yield from (f"  {reasons.lost(one, found.lost)}" for one in found.slices)
    if not found.slices:
        yield "  none beyond chance"
    yield ""


def _examples(found: Diagnosis) -> Iterator[str]:
    if found.flipped is None:
        return
    yield f"Predictions that changed: {found.flipped}; the largest changes first"
    if found.flips:
        yield _row("id", "target", "FP32", "INT8", "by")
    yield from (_flip(one) for one in found.flips)
    yield ""


def _flip(one: Flip) -> str:
    return _row(one.id, one.target, one.fp32, one.int8, f"{one.margin:.3f}")


def _row(*cells: str) -> str:
    widths = (24, 14, 20, 20, 14)
    texts = (f"{plain(cell, width):<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"  {' '.join(texts)}".rstrip()


def _next(found: Diagnosis) -> Iterator[str]:
    if found.advice is None:
        return
    yield f"To try: {plain(found.advice.why)}"
    yield "  build:"
    yield f"    {reasons.recipe(found.advice)}"
