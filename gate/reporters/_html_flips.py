"""Examples whose answer INT8 changed, by id."""

from collections.abc import Iterator, Mapping, Sequence

from gate import wording
from gate.exhibits import Flipped, Flips, Seen
from gate.records import GateRecord
from gate.reporters._html_tags import Html, folded, row, section, table, tag

_KINDS = {
    "lost": "Lost: FP32 right, INT8 wrong",
    "gained": "Gained: FP32 wrong, INT8 right",
    "other": "Changed, and neither is known to be right",
}
_OPEN, _ROOM = 10, 60_000
_ROOM_WITH_EXAMPLES = 4_000_000
_LONGEST = 600
"""Characters of a text that are shown."""


def flips(record: GateRecord, examples: Mapping[str, Seen]) -> Html:
    """Each kind of change as a table; nothing where the task cannot tell.

    `examples` are what some of them look like, by id.
    """
    if record.flips is None:
        return Html()
    return section("flips", "Answers that changed", *_told(record.flips, examples))


def _told(found: Flips, examples: Mapping[str, Seen]) -> Iterator[Html]:
    counts = {"lost": found.lost, "gained": found.gained, "other": found.other}
    if not any(counts.values()):
        yield tag("p", f"None, by {wording.metric_name(found.metric)}.")
        return
    told = ", ".join(f"{wording.whole(count)} {kind}" for kind, count in counts.items())
    yield tag("p", f"By {wording.metric_name(found.metric)}: {told}.")
    for kind, title in _KINDS.items():
        listed = [one for one in found.shown if one.change == kind]
        if counts[kind]:
            opened = _OPEN if kind == "lost" else 0
            yield from _kind(title, listed, counts[kind], opened, examples)


def _kind(
    title: str,
    listed: Sequence[Flipped],
    count: int,
    opened: int,
    examples: Mapping[str, Seen],
) -> Iterator[Html]:
    yield tag("h3", f"{title} ({wording.whole(count)})")
    columns = _columns(listed, examples)
    told = any(map(_is_told, listed))
    room = _ROOM_WITH_EXAMPLES if examples else _ROOM
    rows = [_example(one, examples, told=told) for one in listed]
    if rows[:opened]:
        yield table(title, columns, rows[:opened], most=room)
    if rest := rows[opened:]:
        name = wording.plural(len(rest), "more example" if opened else "example")
        yield folded(
            name, table(f"{title}: the rest" if opened else title, columns, rest, most=room)
        )
    if count > len(listed):
        left = wording.whole(count - len(listed))
        yield tag("p", f"and {left} more that the record does not list: rows.npz has them all",
                  class_="faint")  # fmt: skip


def _columns(listed: Sequence[Flipped], examples: Mapping[str, Seen]) -> tuple[str, ...]:
    answers = ("Target", "FP32", "INT8") if any(map(_is_told, listed)) else ()
    return ("Example", *(("What it is",) if examples else ()), *answers)


def _example(one: Flipped, examples: Mapping[str, Seen], *, told: bool) -> Html:
    """A row, with a cell for what the example looks like where that is asked for."""
    answers = (one.target, one.fp32, one.int8) if told else ()
    looks = (_look(one, examples.get(one.id)),) if examples else ()
    return row(one.id, *looks, *answers, data_change=one.change)


def _look(one: Flipped, seen: Seen | None) -> object:
    if seen is None:
        return wording.NOTHING
    if seen.kind == "text":
        return wording.plain(seen.data, _LONGEST)
    source = f"data:image/png;base64,{seen.data}"
    return tag("td", tag("img", src=source, alt=f"example {one.id}", class_="example"))


def _is_told(one: Flipped) -> bool:
    return bool(one.target or one.fp32 or one.int8)
