"""A table of the classes that lose most, for the reports of tasks that average over classes."""

import math
from collections.abc import Callable, Iterator, Sequence

from gate.records import Part
from gate.values import Evaluation, Rows

_MOST = 50
Figures = Callable[[Rows], Sequence[float]]
"""Rows to a value for each class, NaN where it has none; better high."""


def by_class(
    what: str, observation: str, names: Sequence[str], figures: Figures, evaluation: Evaluation
) -> Iterator[Part]:
    """Classes of which INT8's value is below FP32's, the largest loss first; none, no part."""
    sides = [rows.get(observation) for rows in (evaluation.fp32, evaluation.int8)]
    if any(side is None for side in sides) or evaluation.problems:
        return
    before, after = (figures(side) for side in sides if side is not None)
    found = [
        (fp32 - int8, name, fp32, int8)
        for name, fp32, int8 in zip(names, before, after, strict=True)
        if math.isfinite(fp32) and math.isfinite(int8) and fp32 > int8
    ]
    found.sort(key=lambda row: (-row[0], row[1]))
    if found:
        shown = f", the {_MOST} worst of {len(found)}" if len(found) > _MOST else ""
        yield Part(
            title=f"Classes that lose {what}{shown}",
            columns=("class", "FP32", "INT8", "drop"),
            rows=tuple(
                (name, f"{fp32:.4f}", f"{int8:.4f}", f"{drop:.4f}")
                for drop, name, fp32, int8 in found[:_MOST]
            ),
        )
