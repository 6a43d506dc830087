"""Examples whose answer INT8 changed, by id."""

from collections.abc import Iterator, Sequence

from gate import wording
from gate.exhibits import Flipped, Flips
from gate.records import GateRecord
from gate.reporters._html_tags import Html, folded, row, section, table, tag

_KINDS = {
    "lost": "Lost: FP32 right, INT8 wrong",
    "gained": "Gained: FP32 wrong, INT8 right",
    "other": "Changed, and neither is known to be right",
}
_OPEN, _ROOM = 10, 60_000


def flips(record: GateRecord) -> Html:
    """Each kind of change as a table; nothing where the task cannot tell."""
    if record.flips is None:
        return Html()
    return section("flips", "Answers that changed", *_told(record.flips))


def _told(found: Flips) -> Iterator[Html]:
    counts = {"lost": found.lost, "gained": found.gained, "other": found.other}
    if not any(counts.values()):
        yield tag("p", f"None, by {wording.metric_name(found.metric)}.")
        return
    told = ", ".join(f"{wording.whole(count)} {kind}" for kind, count in counts.items())
    yield tag("p", f"By {wording.metric_name(found.metric)}: {told}.")
    for kind, title in _KINDS.items():
        listed = [one for one in found.shown if one.change == kind]
        if counts[kind]:
            yield from _kind(title, listed, counts[kind], _OPEN if kind == "lost" else 0)


def _kind(title: str, listed: Sequence[Flipped], count: int, opened: int) -> Iterator[Html]:
    yield tag("h3", f"{title} ({wording.whole(count)})")
    columns = _columns(listed)
    rows = [_example(one, told=len(columns) > 1) for one in listed]
    if rows[:opened]:
        yield table(title, columns, rows[:opened], most=_ROOM)
    if rest := rows[opened:]:
        name = wording.plural(len(rest), "more example" if opened else "example")
        yield folded(
            name, table(f"{title}: the rest" if opened else title, columns, rest, most=_ROOM)
        )
    if count > len(listed):
        left = wording.whole(count - len(listed))
        yield tag("p", f"and {left} more that the record does not list: rows.npz has them all",
                  class_="faint")  # fmt: skip


def _columns(listed: Sequence[Flipped]) -> tuple[str, ...]:
    return ("Example", *(("Target", "FP32", "INT8") if any(map(_is_told, listed)) else ()))


def _example(one: Flipped, *, told: bool) -> Html:
    """A row; what an example looks like would be a cell of its own."""
    answers = (one.target, one.fp32, one.int8) if told else ()
    return row(one.id, *answers, data_change=one.change)


def _is_told(one: Flipped) -> bool:
    return bool(one.target or one.fp32 or one.int8)
