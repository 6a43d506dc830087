"""Where two ways to turn text into tokens part: what usually explains it, tried and measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from gate.commands._parity_found import Cause, gap_of
from gate.sources import Tokenizer
from gate.values import Array

Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read; the policy can say the first two, the tokenizer's file the others."""

    max_length: int
    padding: str
    special: bool = True
    lower: bool = False
    cut: str = "right"
    pad: str = "right"


_OTHER_SIDE = {"left": "right", "right": "left"}
_Try = tuple[str, str, Reading]


def explained(
    load: Callable[[], Any], texts: Sequence[Text], theirs: Sequence[Array], spec: Tokenizer
) -> tuple[list[Cause], Tokenizer | None]:
    """Causes, each on top of those before, and the policy's tokenizer where it can say them all.

    `load` gives a tokenizer of one's own, `theirs` are the ids (T,) of each text.
    """
    encode = _Encoder(load, texts)
    given = encode.given(spec)
    now, ids, causes = given, encode.ids(given), []
    while (best := _best(encode, now, ids, theirs)) is not None:
        (name, detail, now), made = best
        causes.append(_cause(name, detail, ids, made, theirs))
        ids = made
    known = replace(given, max_length=now.max_length, padding=now.padding)
    if not causes or now != known:
        return causes, None
    padding = cast(Literal["max_length", "longest"], now.padding)
    return causes, spec.model_copy(update={"max_length": now.max_length, "padding": padding})


def _best(
    encode: "_Encoder", now: Reading, ids: Sequence[Array], theirs: Sequence[Array]
) -> tuple[_Try, list[Array]] | None:
    """The try that leaves the fewest tokens different, if it leaves fewer."""
    best, least = None, gap_of("", ids, theirs).share
    for one in _tries(now, theirs):
        made = encode.ids(one[2])
        share = gap_of("", made, theirs).share
        if share < least:
            best, least = (one, made), share
    return best


def _tries(now: Reading, theirs: Sequence[Array]) -> Iterator[_Try]:
    lengths = sorted({len(ids) for ids in theirs})
    if len(lengths) == 1 and lengths[0] != now.max_length:
        detail = f"the function's is {lengths[0]} tokens, the policy's {now.max_length}"
        yield "length", detail, replace(now, max_length=lengths[0], padding="max_length")
    if lengths[-1] < now.max_length and len(lengths) > 1:
        detail = f"the function gives {lengths[-1]} tokens at most, the policy {now.max_length}"
        yield "truncation", detail, replace(now, max_length=lengths[-1])
    other = "longest" if now.padding == "max_length" else "max_length"
    verb = "does not pad one text alone" if other == "longest" else f"pads to {now.max_length}"
    yield "padding", f"the function {verb}", replace(now, padding=other)
    has = "has no" if now.special else "adds"
    detail = f"the function {has} special tokens, and the policy's tokenizer does otherwise"
    yield "special tokens", detail, replace(now, special=not now.special)
    if not now.lower:
        yield "case", "the function makes text lower-case first", replace(now, lower=True)
    cut, pad = (_OTHER_SIDE[side] for side in (now.cut, now.pad))
    detail = f"the function cuts off on the {cut}, the policy's tokenizer on the {now.cut}"
    yield "truncation side", detail, replace(now, cut=cut)
    detail = f"the function pads on the {pad}, the policy's tokenizer on the {now.pad}"
    yield "padding side", detail, replace(now, pad=pad)


def _cause(
    name: str, detail: str, before: Sequence[Array], after: Sequence[Array], theirs: Sequence[Array]
) -> Cause:
    gaps = [gap_of("", made, theirs) for made in (before, after)]
    return Cause(
        name=name,
        detail=detail,
        mean_before=gaps[0].mean,
        mean_after=gaps[1].mean,
        share_before=gaps[0].share,
        share_after=gaps[1].share,
    )


class _Encoder:
    """Reads the texts in any way."""

    def __init__(self, load: Callable[[], Any], texts: Sequence[Text]) -> None:
        self._load = load
        self._texts = texts

    def given(self, spec: Tokenizer) -> Reading:
        """How the policy reads them."""
        tokenizer = self._load()
        pad = str((tokenizer.padding or {}).get("direction", "right")).lower()
        cut = str((tokenizer.truncation or {}).get("direction", "right")).lower()
        return Reading(max_length=spec.max_length, padding=spec.padding, cut=cut, pad=pad)

    def ids(self, how: Reading) -> list[Array]:
        """(T,) of each text, by itself."""
        tokenizer = self._load()
        padding = tokenizer.padding or {}
        strategy = (tokenizer.truncation or {}).get("strategy", "longest_first")
        tokenizer.enable_truncation(how.max_length, strategy=strategy, direction=how.cut)
        tokenizer.no_padding()
        if how.padding == "max_length":
            known = {name: padding[name] for name in ("pad_id", "pad_token") if name in padding}
            tokenizer.enable_padding(direction=how.pad, length=how.max_length, **known)
        return [np.array(self._encoded(tokenizer, text, how)) for text in self._texts]

    def _encoded(self, tokenizer: Any, text: Text, how: Reading) -> list[int]:
        sides = [text] if isinstance(text, str) else [*text]
        sides = [side.lower() for side in sides] if how.lower else sides
        return list(tokenizer.encode(*sides, add_special_tokens=how.special).ids)
