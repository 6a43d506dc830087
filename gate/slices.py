"""From a budget's `slice` or `each` to the examples it is about.

Values are matched as text, the way a policy writes them: `true`, `3`, `north`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gate import mapped
from gate.errors import EvaluationError
from gate.policy import Budget, Scalar, scalar_text, slice_label
from gate.values import Array, Evaluation

_LISTED = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """The examples that one budget is about, or why there are none."""

    label: str | None = None
    """`column=value`, or None for the whole set."""
    index: Array | None = None
    """Positions of its examples, (n,); None for all."""
    missing: str | None = None


def samples(budget: Budget, evaluation: Evaluation) -> Iterator[Sample]:
    """The whole set, the one slice, or every value of the column in natural order.

    Raises:
        EvaluationError: the data have no such column; the message lists those they have.
    """
    if budget.each is not None:
        yield from _each(budget.each, evaluation)
    elif budget.slice is not None:
        yield _one_slice(budget.slice, evaluation)
    else:
        yield Sample()


def _each(column: str, evaluation: Evaluation) -> Iterator[Sample]:
    numbers, which = _coded(column, evaluation)
    order, sizes = np.argsort(which, kind="stable"), np.bincount(which, minlength=len(numbers))
    groups = dict(zip(numbers, np.split(order, np.cumsum(sizes)[:-1]), strict=True))
    for value in sorted(groups, key=_natural):
        yield Sample(slice_label({column: value}), groups[value])


def _one_slice(wanted: Mapping[str, Scalar], evaluation: Evaluation) -> Sample:
    label = slice_label(wanted)
    chosen = np.ones(len(evaluation.ids), dtype=bool)
    for column, value in wanted.items():
        numbers, which = _coded(column, evaluation)
        number = numbers.get(scalar_text(value))
        if number is None:
            return Sample(label, missing=_absent(column, value, numbers))
        chosen &= which == number
    if not chosen.any():
        return Sample(label, missing=f"no held-out example has {label}")
    return Sample(label, np.nonzero(chosen)[0])


def _coded(column: str, evaluation: Evaluation) -> tuple[dict[str, int], Array]:
    """The column's values as a policy writes them, with a number each, and (N,) those numbers."""
    if column not in evaluation.slices:
        known = ", ".join(sorted(evaluation.slices)) or "none"
        raise EvaluationError(
            f"the held-out data have no slice column {column!r}; their columns: {known}"
        )
    values, numbers = evaluation.slices[column], dict[str, int]()
    which = np.empty(len(values), dtype=np.int64)
    for part in mapped.windows(values):
        texts = map(scalar_text, values[part].tolist())
        which[part] = [numbers.setdefault(text, len(numbers)) for text in texts]
    return numbers, which


def _absent(column: str, value: object, texts: Iterable[str]) -> str:
    values = sorted(texts, key=_natural)
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return (
        f"no held-out example has {column}={scalar_text(value)}; "
        f"{column} is {', '.join(values[:_LISTED])}{more}"
    )


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers by value and first, then the rest by letter."""
    try:
        number = float(text)
    except ValueError:
        return True, 0.0, text
    return (True, 0.0, text) if number != number else (False, number, text)  # noqa: PLR0124
