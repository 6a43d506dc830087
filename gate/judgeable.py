"""Which budgets this version can judge: one rule, for the policy check and for `compare`."""

import numpy as np

from gate.errors import EvaluationError
from gate.metrics import ArtifactMetric, Metric
from gate.policy import Budget
from gate.values import Array


def unsupported(
    budget: Budget,
    *,
    proportion: bool,
    relative: bool,
    artifact: bool,
    higher_is_better: bool,
) -> str | None:
    """Why this version cannot judge a budget, in a sentence; None where it can.

    Args:
        budget: the budget.
        proportion: whether its metric is a 0/1 per example.
        relative: whether its metric compares INT8 with FP32 in itself.
        artifact: whether its metric measures the artifacts instead of examples.
        higher_is_better: the metric's direction.
    """
    if budget.against != "fp32":
        why = _unsupported_release(budget, relative=relative, artifact=artifact)
        if why is not None:
            return why
    if artifact:
        return _unsupported_artifact(budget) or _wrong_way(budget, higher_is_better)
    if relative and budget.threshold not in ("at_least", "at_most"):
        return (
            f"{budget.metric} compares INT8 with FP32 in itself, so `{budget.threshold}` of it "
            "means nothing; write `at_most`"
        )
    share = _unsupported_share(budget, higher_is_better) if proportion else None
    return share or _wrong_way(budget, higher_is_better)


def _unsupported_release(budget: Budget, *, relative: bool, artifact: bool) -> str | None:
    """Of a release of the past there are rows, the size, and nothing that was timed here."""
    against = f"`against: {budget.against}`"
    if budget.threshold in ("at_least", "at_most"):
        return (
            f"`{budget.threshold}` is about the INT8 model's own {budget.metric}, whatever it is "
            f"held against: delete {against}"
        )
    if relative:
        return f"{budget.metric} compares INT8 with its own FP32: delete {against}"
    if artifact and budget.metric != "size":
        return (
            f"{budget.metric} is measured on both models side by side, and the release of the "
            f"past is not run for it: delete {against}"
        )
    return None


def _unsupported_artifact(budget: Budget) -> str | None:
    if budget.threshold in ("max_drop", "max_relative_drop"):
        return (
            f"`{budget.threshold}` of {budget.metric} means nothing: it is one number of the whole "
            "model; write `at_least`, `at_most` or `max_ratio`"
        )
    return None


def _unsupported_share(budget: Budget, higher_is_better: bool) -> str | None:
    what = f"`{budget.threshold}` of {budget.metric}"
    if budget.threshold == "max_ratio":
        return f"{what}, a proportion, has no test; write `max_relative_drop` or `max_drop`"
    if budget.threshold == "max_relative_drop" and not higher_is_better:
        return f"{what}, which is better low, has no test; write `max_drop` or `at_most`"
    if (budget.threshold, budget.limit) in (("at_least", 0.0), ("at_most", 1.0)):
        return f"`{budget.threshold}: {budget.limit:g}` of {budget.metric} is met by every model"
    return None


def _wrong_way(budget: Budget, higher_is_better: bool) -> str | None:
    """A limit that the worse model meets is almost certainly a mistake."""
    wrong = ("at_most", "max_ratio") if higher_is_better else ("at_least",)
    if budget.threshold not in wrong:
        return None
    better = "high" if higher_is_better else "low"
    instead = "at_least" if higher_is_better else "at_most"
    return (
        f"{budget.metric} is better {better}, so the worse the model, the surer "
        f"`{budget.threshold}` passes; write `{instead}`"
    )


def is_clustered(unit: Array | None) -> bool:
    """Whether examples share units, (N,), so that they are not independent of each other."""
    if unit is None:
        return False
    ordered = np.sort(unit)
    return bool((ordered[1:] == ordered[:-1]).any())


def demand_judgeable(budget: Budget, metric: Metric | ArtifactMetric) -> None:
    """Refuse what `unsupported` refuses, and what only the number itself shows.

    Raises:
        EvaluationError: the budget cannot be judged; the message says why.
    """
    artifact = isinstance(metric, ArtifactMetric)
    why = unsupported(
        budget,
        proportion=isinstance(metric, Metric) and metric.per_example is not None,
        relative=isinstance(metric, Metric) and metric.relative,
        artifact=artifact,
        higher_is_better=metric.higher_is_better,
    )
    if artifact and why is None and (budget.slice or budget.each):
        why = f"{budget.metric} is one number of the whole model, it has no slices"
    if isinstance(metric, Metric) and metric.per_example is not None and why is None:
        why = _out_of_range(budget)
    if why is not None:
        raise EvaluationError(f"budget {budget.id} cannot be judged: {why}")


def _out_of_range(budget: Budget) -> str | None:
    if budget.threshold in ("at_least", "at_most") and not 0 <= budget.limit <= 1:
        return f"a share lies between 0 and 1, and {budget.threshold} is {budget.limit:g}"
    return None
