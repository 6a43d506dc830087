"""Both models' rows on the same examples, and what a comparison of them is made of."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gate import mapped
from gate.metrics import Metric
from gate.records import Counts
from gate.statistics import jackknife
from gate.values import Array, Rows, finite
from gate.wording import side_name

POINT_ESTIMATE = "point estimate"
UNDEFINED = "undefined"
ASYMPTOTIC = "asymptotic"
Fields = dict[str, Any]
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Method:
    """A statistic, bound to what was counted."""

    name: str
    interval: Callable[[float], Pair]
    """Confidence level to lower and upper."""
    p_values: Callable[[float, float], Pair] | None = None
    """(α for PASS, α for FAIL) to (p_pass, p_fail); None where nothing is judged."""
    bets: Callable[[int, float], Pair] | None = None
    """(examples there were to see, error of each end) to the interval that holds whenever one
    stops; None where nothing can be bet on."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A comparison before its interval and p-values: these need the number of all budgets."""

    fields: Fields
    """Of `Comparison`; its method is `undefined` where there is no value."""
    method: Method | None = None
    """None where there is no sampling error, no statistic, or no value."""

    @property
    def is_tested(self) -> bool:
        """Whether its p-values come from a sample."""
        return self.method is not None and self.method.p_values is not None

    def untested(self, note: str) -> "Draft":
        """The same, with its interval alone."""
        assert self.method is not None
        return Draft(self.fields | {"note": note}, replace(self.method, p_values=None))


@dataclass(frozen=True)
class Pairs:
    """One metric's rows of both models, on the examples of one slice.

    They are cut out of all rows whenever they are asked for: kept, those of many metrics and slices
    would add up to more than the data.
    """

    metric: Metric
    sides: tuple[Rows, Rows]
    """FP32's and INT8's of all N examples."""
    index: Array
    """(n,) places of the slice's examples, in the order of their ids."""
    every_unit: Array
    """(N,) the independent unit of each example."""
    clustered: bool
    """Whether examples share units."""
    problem: str | None
    """Why the INT8 rows are not finite."""
    against: str = "fp32"
    """Whose rows stand in the place of FP32's: `fp32`, `production`, `anchor`."""

    @property
    def reference(self) -> str:
        """What INT8 is held against, in a sentence."""
        return side_name(self.against)

    @property
    def fp32(self) -> Rows:
        """(n, k), in the order of ids."""
        return self.sides[0].take(self.index)

    @property
    def int8(self) -> Rows:
        """The same of INT8."""
        return self.sides[1].take(self.index)

    @property
    def n(self) -> int:
        """Examples."""
        return len(self.index)

    @property
    def units(self) -> Array:
        """(n,) the independent unit of each example."""
        return mapped.take(self.every_unit, self.index)

    @cached_property
    def values(self) -> tuple[float | None, float | None]:
        """(FP32, INT8) on all examples; None where there is none."""
        # NaN on any example disqualifies the model, also on the slices that it spares
        fp32, int8 = self.sides
        return self._value(fp32), self._value(int8) if self.problem is None else None

    @cached_property
    def table(self) -> Counts:
        """FP32 by INT8; "right" is what does not count where a metric is better low."""
        assert self.metric.per_example is not None
        good = self.metric.higher_is_better
        old = self.metric.per_example(self.fp32) == good
        new = self.metric.per_example(self.int8) == good
        return Counts(
            both_right=int(np.sum(old & new)),
            lost=int(np.sum(old & ~new)),
            gained=int(np.sum(~old & new)),
            both_wrong=int(np.sum(~old & ~new)),
        )

    @cached_property
    def unit_of(self) -> Array:
        """(n,) the number 0..U−1 of each example's unit."""
        if not self.clustered:  # an example is its own, and they come in the order of their ids
            return np.arange(self.n)
        return np.unique(self.units, return_inverse=True)[1]

    @cached_property
    def replicates(self) -> tuple[Array, Array]:
        """(G,) each: FP32 and INT8 without each group of units."""
        groups = jackknife.deal(self.units)

        def without(rows: Rows) -> Array:
            return jackknife.replicates(lambda kept: self._number(rows.take(kept)), groups)

        return without(self.fp32), without(self.int8)

    def fields(self) -> Fields:
        """The point estimates as fields of `Comparison`: a drop, until something else is asked."""
        reference, int8 = self.values
        fields: Fields = {
            "metric": self.metric.name,
            "n": self.n,
            "reference": reference,
            "int8": int8,
            "method": POINT_ESTIMATE,
            "degradation": None,
        }
        if reference is None or int8 is None:
            return fields | {"method": UNDEFINED, "note": self._why()}
        if self.metric.is_proportion:
            table = self.table
            return fields | {"counts": table, "degradation": (table.lost - table.gained) / table.n}
        return fields | {"degradation": float(self.metric.worse(reference, int8))}

    def _value(self, side: Rows) -> float | None:
        wide = self.metric.by_column is not None
        value = self._by_column(side) if wide else self._number(side.take(self.index))
        return value if math.isfinite(value) else None

    def _by_column(self, side: Rows) -> float:
        """As `_number` of these examples' rows, of which one column at a time is in memory."""
        assert self.metric.by_column is not None
        values, places = side.flat, np.sort(self.index)
        parts = mapped.scattered(values, places)
        if self.n == 0 or not all(np.isfinite(rows).all() for _, rows in parts):
            return math.nan
        return self.metric.by_column(lambda column: mapped.take(values[:, column], places))

    def _number(self, rows: Rows) -> float:
        if len(rows) == 0 or not finite(rows.values).all():
            return math.nan
        return float(self.metric.summarize(rows))

    def _why(self) -> str:
        """Why there is no value."""
        if not finite(self.fp32.values).all():
            return f"{self.metric.name} has no value: {self.reference} gives NaN or Inf"
        if self.problem is not None or not finite(self.int8.values).all():
            problem = self.problem or "the INT8 model gives NaN or Inf"
            return f"{self.metric.name} has no value: {problem}"
        which = "this 1 example" if self.n == 1 else f"these {self.n:,} examples"
        return f"{self.metric.name} is undefined on {which}"
