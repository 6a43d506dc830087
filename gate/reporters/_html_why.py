"""Which layers and slices cost the accuracy."""

from collections.abc import Iterator, Sequence

from gate import reasons, wording
from gate.diagnosis import Diagnosis, LayerError
from gate.records import GateRecord
from gate.reporters._html_tags import (
    Html,
    drawing,
    folded,
    join,
    label,
    more,
    number,
    px,
    row,
    section,
    table,
    tag,
    wide,
)

_WIDE, _ROW = 900.0, 22.0
_LEFT, _BAR, _NAME = 300.0, 420.0, 42
_DRAWN, _LAYERS, _SLICES = 12, 100, 30
_COLUMNS = ("Layer", "Operator", "Loses by", "Of the error", "Own SQNR", "Whole SQNR", "Cause")


def why(record: GateRecord) -> Html:
    """The layers that cost most as bars and as a table, and slices that lose more than the rest."""
    found = record.diagnosis
    return Html() if found is None else section("why", "Why it degraded", *_told(found))


def _told(found: Diagnosis) -> Iterator[Html]:
    if found.layers:
        examples = wording.plural(found.examples, "example")
        yield tag("h3", "Layers")
        yield tag(
            "p", f"Compared on {examples} of {found.split}: FP32 beside INT8, layer by layer."
        )
        yield _bars(found.layers[:_DRAWN])
        rows = [_layer(one) for one in found.layers[:_LAYERS]]
        hidden = len(found.layers) - len(rows) + found.others
        inside = table(
            "Layers, the one that costs most first",
            _COLUMNS,
            rows,
            most=100_000,
            numbers=_COLUMNS[3:6],
        )
        rest = (
            tag("p", f"and {wording.plural(hidden, 'more layer')} that lose less") if hidden else ""
        )
        yield folded(wording.plural(len(rows), "layer"), join((inside, rest)))
    if found.slices:
        yield tag("h3", "Slices that lose more than the rest")
        lost = [tag("li", reasons.lost(one, found.lost)) for one in found.slices[:_SLICES]]
        yield tag("ul", *lost)
        yield more(len(found.slices) - len(lost))
    if found.problems:
        yield tag("h3", "Not told")
        yield tag("ul", *(tag("li", problem) for problem in found.problems[:_SLICES]))
        yield more(len(found.problems[_SLICES:]))


def _layer(one: LayerError) -> Html:
    numbers = (f"{100 * one.share:.3g} %", _decibels(one.own_sqnr), _decibels(one.sqnr))
    cause = wording.NOTHING if one.cause is None else f"{one.cause.name}: {one.cause.detail}"
    return row(one.node, one.op, one.loses, *map(number, numbers), cause, data_share=one.share)


def _decibels(sqnr: float | None) -> str:
    return wording.NOTHING if sqnr is None else f"{wording.decimal(sqnr, 1)} dB"


def _bars(layers: Sequence[LayerError]) -> Html:
    parts = [part for index, one in enumerate(layers) for part in _bar(one, index * _ROW)]
    name = "Share of the error at the outputs, by layer"
    told = ". ".join(reasons.layer(one) for one in layers[:3])
    return wide(name, drawing("layers", name, told, (_WIDE, len(layers) * _ROW + 4), *parts))


def _bar(one: LayerError, top: float) -> Iterator[Html]:
    across = _BAR * min(max(one.share, 0.0), 1.0)
    name = wording.plain(one.node, _NAME)
    yield label(0, top + 15, name)
    yield tag("rect", x=px(_LEFT), y=px(top + 4), width=px(across), height=px(_ROW - 8),
              class_="share", data_share=one.share)  # fmt: skip
    cause = "" if one.cause is None else f", {wording.plain(one.cause.name, 30)}"
    yield label(_LEFT + across + 8, top + 15, f"{100 * one.share:.3g} %{cause}")
