"""Two releases side by side, as plain text of 100 columns or as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from gate.commands.compare import Changed, Compared, Side
from gate.records import Comparison
from gate.wording import (
    amount,
    both_values,
    bounds,
    few,
    interval,
    json_text,
    measured,
    metric_name,
    metric_value,
    plain,
    short,
    unit_of,
    whole,
)

_LISTED = 20


def render(found: Compared, format_: str) -> str:
    """All of it; `format_` is text or json."""
    return _json(found) if format_ == "json" else "".join(f"{line}\n" for line in _lines(found))


def _json(found: Compared) -> str:
    document = {
        "a": _told(found.a),
        "b": _told(found.b),
        "examples": found.n,
        "int8": [one.model_dump(mode="json") for one in found.int8],
        "fp32": [one.model_dump(mode="json") for one in found.fp32],
        "changed": None if found.changed is None else asdict(found.changed),
    }
    return json_text(document)


def _told(side: Side) -> dict[str, str | int]:
    record = side.record
    return {
        "name": side.name,
        "record": record.id,
        "outcome": record.verdict.outcome,
        "int8_sha256": record.int8.sha256,
        "held_out": record.splits.held_out.sha256,
        "examples": record.examples_evaluated,
    }


def _lines(found: Compared) -> Iterator[str]:
    for letter, side in (("A", found.a), ("B", found.b)):
        yield f"{letter}  {_named(side)}"
    yield _examples(found)
    yield ""
    yield from _table(
        ("Metric", "FP32 A", "FP32 B", "INT8 A", "INT8 B", "INT8 loses [90 % interval]"),
        [_row(one, found.fp32) for one in found.int8],
    )
    yield ""
    yield from _changes(found.changed)


def _named(side: Side) -> str:
    record = side.record
    made = record.int8.recipe.name if record.int8.recipe else "made elsewhere"
    return (
        f"{plain(side.name)}: {record.model}, {record.verdict.outcome}, stage {record.stage}, "
        f"{record.created:%Y-%m-%d}, recipe {plain(made)}, INT8 {short(record.int8.sha256)}"
    )


def _examples(found: Compared) -> str:
    totals = {side.record.examples_evaluated for side in (found.a, found.b)}
    if totals == {found.n}:
        return f"On the same {whole(found.n)} examples. A loss is positive where B is worse."
    of_a, of_b = (whole(side.record.examples_evaluated) for side in (found.a, found.b))
    return (
        f"On the {whole(found.n)} examples that both were judged on, of {of_a} in A and {of_b} in "
        "B; a changed example is another one. A loss is positive where B is worse."
    )


def _row(one: Comparison, fp32: Sequence[Comparison]) -> tuple[str, ...]:
    own = next((other for other in fp32 if other.metric == one.metric), None)
    unit = unit_of(one.metric, one)
    before = ("–", "–") if own is None else both_values(own)
    reference, int8 = (metric_value(value, unit) for value in (one.reference, one.int8))
    return metric_name(one.metric), *before, reference, int8, _loss(one)


def _loss(one: Comparison) -> str:
    unit, number = unit_of(one.metric, one), measured(one, "drop")
    if number is None:
        number = one.degradation
    if number is None:
        return "–"
    around = bounds(one, "drop")
    text = amount(number, "drop", unit)
    return text if around is None else f"{text} {interval(*around, 'drop', unit)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        first, *rest = row
        cells = [
            first.ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)),
        ]
        yield "  ".join(cells).rstrip()


def _changes(changed: Changed | None) -> Iterator[str]:
    if changed is None:
        return
    name = metric_name(changed.metric)
    if not changed.is_right:
        yield f"{whole(len(changed.lost))} examples have another {name}: {_listed(changed.lost)}"
        return
    yield f"Lost, right in A and wrong in B ({name}): {_listed(changed.lost)}"
    yield f"Gained, wrong in A and right in B: {_listed(changed.gained)}"


def _listed(ids: Sequence[str]) -> str:
    if not ids:
        return "none"
    return f"{whole(len(ids))}: {few([*map(plain, ids)], _LISTED)}"
