"""Spans of IOB2 labels, as seqeval counts them by default.

A span begins at B-x, or at I-x after O or another type, and goes on with every I-x of its type;
that is conlleval's reading (E. Tjong Kim Sang, S. Buchholz, 2000, CoNLL), which takes a label
sequence as it comes and calls none of them wrong.
"""

from dataclasses import dataclass

import numpy as np

from gate.errors import UsageError
from gate.values import Array

_OUTSIDE = "O"
_BEGIN, _INSIDE = "B-", "I-"


@dataclass(frozen=True, slots=True)
class Labels:
    """What each label says: (C,) each."""

    types: Array
    """The type's number from 1; 0 outside."""
    begins: Array
    """Of bool: whether it begins a span whatever stands before it."""

    @classmethod
    def of(cls, names: tuple[str, ...]) -> "Labels":
        """Of O, B-x and I-x.

        Raises:
            UsageError: a name is none of these.
        """
        for name in names:
            if name != _OUTSIDE and (name[:2] not in (_BEGIN, _INSIDE) or not name[2:]):
                raise UsageError(
                    f"`build.classes` of token_classification are IOB2 labels: O, B-PER, I-PER, …; "
                    f"{name!r} is none"
                )
        types = {name[2:]: None for name in names if name != _OUTSIDE}
        numbers = {kind: place for place, kind in enumerate(types, start=1)}
        return cls(
            np.array([0 if name == _OUTSIDE else numbers[name[2:]] for name in names]),
            np.array([name.startswith(_BEGIN) for name in names]),
        )


def count(labels: Labels, predicted: Array, actual: Array, counted: Array) -> Array:
    """(B, 3) spans: in both, predicted, actual; of label numbers (B, T) where `counted`.

    Tokens that do not count are left out, and those beside them become neighbours.
    """
    owners = np.nonzero(counted)[0]
    sides = [_spans(labels, side[counted], owners) for side in (predicted, actual)]
    same = np.isin(sides[0].keys, sides[1].keys)
    found = (sides[0].owners[same], sides[0].owners, sides[1].owners)
    return np.stack([np.bincount(side, minlength=len(counted)) for side in found], axis=1)


@dataclass(frozen=True, slots=True)
class _Spans:
    keys: Array
    """(S,) of int64, equal where type, first and last token are."""
    owners: Array
    """(S,) the example of each."""


def _spans(labels: Labels, tokens: Array, owners: Array) -> _Spans:
    """Spans in label numbers (M,) of examples one after another."""
    types, begins = labels.types[tokens], labels.begins[tokens]
    changes = (np.diff(types, prepend=0) != 0) | (np.diff(owners, prepend=-1) != 0)
    opens = (types > 0) & (begins | changes)
    # a span ends before the next token that opens one, is outside, or is another example's
    stops = np.append(opens | changes, True)[1:]
    first, last = np.flatnonzero(opens), np.flatnonzero((types > 0) & stops)
    size = len(tokens) + 1
    return _Spans((types[first] * size + first) * size + last, owners[first])
