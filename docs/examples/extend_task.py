"""The door `tasks`, by plugin: classification with a metric of one's own, `near`."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from gate import tasks
from gate.metrics import Metric, Traits

INNER = tasks.get("classification")


def observe(scores, targets, reference):  # noqa: ARG001 - what FP32 gave
    """(B, 1): 1 where the answer is at most one class off, NaN where the output is broken."""
    near = abs(scores.argmax(axis=1) - targets) <= 1
    return np.where(np.isfinite(scores).all(axis=1), near, np.nan)[:, np.newaxis]


NEAR = Metric(
    name="near",
    observation="near",
    observe=observe,
    summarize=lambda rows: float(rows.flat.mean()) if len(rows) else float("nan"),
    higher_is_better=True,
    per_example=lambda rows: rows.flat[:, 0] > 0,  # a proportion: its drops are judged exactly
)


class Graded:
    """Everything else is classification's."""

    key, unit, decoders = "graded", INNER.unit, INNER.decoders
    known = MappingProxyType({**INNER.known, "near": Traits(proportion=True)})

    def traits(self, metric):
        """What is known of a metric by its name."""
        return self.known.get(metric) or INNER.traits(metric)

    def bind(self, build, outputs, targets, first):
        """Fit to a model and its targets."""
        bound = INNER.bind(build, outputs, targets, first)
        metrics = {**bound.metrics, "near": NEAR}
        return replace(bound, metrics=metrics, metric=_or_near(bound.metric))

    def observed(self, targets, rows):
        """The same for rows of an earlier run: `gate judge` asks for them."""
        return _or_near(INNER.observed(targets, rows))


def _or_near(metric):
    return lambda name: NEAR if name == "near" else metric(name)


TASKS = {"graded": Graded()}
