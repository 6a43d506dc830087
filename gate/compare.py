"""Rows to paired degradation, with the p-values and bounds that `decide` decides on.

Pure: it runs no model and reads no file. Degradation is positive where INT8 is worse, always.
What this version has no statistics for, `unsupported` names, so that a policy is refused before
any work by the very rule that refuses it here.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np

from gate import identity
from gate.judgeable import demand_judgeable, is_clustered
from gate.methods import judged, shown, timed
from gate.metrics import ArtifactMetric, Metric
from gate.pairs import POINT_ESTIMATE, UNDEFINED, Draft, Fields, Pairs
from gate.policy import Budget, slice_label
from gate.records import Comparison, Measured, Rounds
from gate.slices import Sample, samples
from gate.stopping import Early
from gate.values import Array, Evaluation, Rows

__all__ = ["EXACT_NUMBER", "POINT_ESTIMATE", "UNDEFINED", "compare_budgets", "describe"]

EXACT_NUMBER = "exact number"
FIRST_RELEASE = "not judged: a first release has none before it to be held against (--bootstrap)"
FP32 = "fp32"
_Metrics = Mapping[str, Metric | ArtifactMetric]
_Artifacts = Mapping[str, tuple[float | None, float]]
_Releases = Mapping[str, Mapping[str, float]]


# ── the two entrances ─────────────────────────────────────────────────────────────────────


def compare_budgets(
    budgets: Sequence[Budget],
    evaluation: Evaluation,
    metrics: _Metrics,
    artifacts: _Artifacts,
    alpha: float,
    *,
    fail_alpha: float | None = None,
    early: Early | None = None,
    rounds: Mapping[str, Rounds] | None = None,
    releases: _Releases = MappingProxyType({}),
    bootstrap: bool = False,
) -> tuple[Measured, ...]:
    """Measure every budget, `each` once for every value of its column, in the policy's order.

    Args:
        budgets: the policy's.
        evaluation: both models' rows on the same N examples.
        metrics: by name; a budget whose metric is absent is measured as missing, never skipped.
        artifacts: artifact metrics by name: (FP32, INT8), None where FP32 has no value.
        alpha: one-sided error of each budget, between 0 and 0.5.
        fail_alpha: that of a FAIL, where a ledger has made the one of a PASS smaller.
        rounds: timed metrics by name, one value a round.
        early: what looking while evaluating found, where the policy allowed to stop early.
        releases: `production` and `anchor` to that release's own artifact metrics, by name.
        bootstrap: whether there is no earlier release yet, so that none can be held against.

    Raises:
        EvaluationError: a budget that this version cannot judge, a column that is not there, or
            examples that are not independent.
        ValueError: alpha is out of its range.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    drafts: list[tuple[Budget, Sample, Draft | str]] = []
    evidence = _Evidence(evaluation, artifacts, early, rounds or {}, releases)
    for budget in budgets:
        metric = metrics.get(budget.metric)
        if metric is not None:
            demand_judgeable(budget, metric)
        for sample in evidence.samples(budget):
            found = sample.missing or _draft(budget, sample, metric, evidence)
            excused = bootstrap and budget.against not in evidence.known
            drafts.append((budget, sample, FIRST_RELEASE if excused else found))
    tested = sum(not isinstance(draft, str) and draft.is_tested for _, _, draft in drafts)
    alpha_fail = (fail_alpha or alpha) / max(tested, 1)
    return tuple(
        Measured(budget, sample.label, None, reason=draft, excused=draft is FIRST_RELEASE)
        if isinstance(draft, str)
        else Measured(budget, sample.label, _comparison(draft, alpha, alpha_fail))
        for budget, sample, draft in drafts
    )


def describe(
    evaluation: Evaluation,
    metrics: Sequence[Metric | ArtifactMetric],
    artifacts: _Artifacts,
    alpha: float,
    *,
    against: str = FP32,
) -> tuple[Comparison, ...]:
    """Compare metrics that no budget is about, on the whole set, for reading: no p-values.

    `against` is fp32, or a release of `evaluation.releases`.

    Proportions get Tango's interval and rates Clopper and Pearson's. All others, and all where
    examples share a unit, are point estimates. Artifact metrics that were not measured are left
    out.
    """
    drafts = []
    evidence = _Evidence(evaluation, artifacts)
    for metric in metrics:
        if isinstance(metric, Metric):
            drafts.append(_held(shown(evidence.whole(metric, against)), against))
        elif metric.name in artifacts:
            drafts.append(Draft(_exact_number(metric, *artifacts[metric.name])))
    return tuple(_comparison(draft, alpha, alpha) for draft in drafts)


def describe_others(
    judged: Sequence[Comparison],
    evaluation: Evaluation,
    metrics: _Metrics,
    artifacts: _Artifacts,
    alpha: float,
) -> tuple[Comparison, ...]:
    """What `judged` does not tell of the whole set: against FP32, and against earlier releases."""
    known = {(found.metric, found.against) for found in judged if found.slice is None}

    def rest(against: str) -> list[Metric | ArtifactMetric]:
        return [metric for name, metric in metrics.items() if (name, against) not in known]

    shown = [*describe(evaluation, rest(FP32), artifacts, alpha)]
    for against, rows in evaluation.releases.items():
        kept = [m for m in rest(against) if isinstance(m, Metric) and m.observation in rows]
        held = [metric for metric in kept if not metric.relative]
        shown += describe(evaluation, held, {}, alpha, against=against)
    return tuple(shown)


def _comparison(draft: Draft, alpha: float, alpha_fail: float) -> Comparison:
    fields = dict(draft.fields)
    if draft.method is not None:
        fields["method"] = draft.method.name
        ends = draft.method.interval(1 - 2 * alpha)
        fields["lower"], fields["upper"] = (end if math.isfinite(end) else None for end in ends)
        if draft.method.p_values is not None:
            fields["p_pass"], fields["p_fail"] = draft.method.p_values(alpha, alpha_fail)
    return Comparison.model_validate(fields)


# ── one budget, or one metric ─────────────────────────────────────────────────────────────


def _draft(
    budget: Budget, sample: Sample, metric: Metric | ArtifactMetric | None, evidence: "_Evidence"
) -> Draft | str:
    """What there is to compare, or why there is nothing."""
    # what gives NaN is no model, however small or fast it is
    broken = next(iter(evidence.evaluation.problems.values()), None)
    if isinstance(metric, ArtifactMetric) and metric.name in evidence.rounds:
        return broken or timed(budget, metric, evidence.rounds[metric.name])
    if budget.against not in evidence.known:
        return f"there is no {budget.against} to hold {budget.metric} against"
    if isinstance(metric, ArtifactMetric) and metric.name in evidence.artifacts:
        before, after = evidence.artifacts[metric.name]
        if budget.against != FP32:
            before = evidence.releases.get(budget.against, {}).get(metric.name)
        return broken or _held(_artifact(budget, metric, before, after), budget.against)
    if not isinstance(metric, Metric) or not evidence.observed(metric, budget.against):
        return f"{budget.metric} was not measured"
    looks = evidence.early.looks if evidence.early else {}
    draft = judged(
        budget,
        evidence.pairs(metric, sample, budget.against),
        looks.get((budget.id, sample.label)),
        stopped=evidence.early is not None and evidence.early.stopped,
    )
    draft = _held(Draft(draft.fields | {"slice": sample.label}, draft.method), budget.against)
    if draft.method is None or draft.fields["n"] >= budget.min_examples:
        return draft
    return draft.untested(
        f"fewer examples than the {budget.min_examples} of min_examples: not judged"
    )


def _held(draft: Draft, against: str) -> Draft:
    return Draft(draft.fields | {"against": against}, draft.method)


class _Evidence:
    """What was measured; it is summed up by metric and slice once, however many budgets ask."""

    def __init__(
        self,
        evaluation: Evaluation,
        artifacts: _Artifacts,
        early: Early | None = None,
        rounds: Mapping[str, Rounds] = MappingProxyType({}),
        releases: _Releases = MappingProxyType({}),
    ) -> None:
        self.rounds = rounds
        self.releases = releases
        self.known = {FP32, *evaluation.releases, *releases}
        self.early = early
        self.evaluation = evaluation
        self.artifacts = artifacts
        # by id, so that no digit of a float sum depends on the order of the file
        self._order = identity.by_name(evaluation.ids)
        self._clustered = is_clustered(evaluation.unit)
        self._samples: dict[tuple[str | None, str], tuple[Sample, ...]] = {}
        self._places: dict[str | None, Array] = {None: self._order}
        self._cut: dict[tuple[str, str | None, str], Pairs] = {}

    def samples(self, budget: Budget) -> tuple[Sample, ...]:
        """As `slices.samples`, cut once for all budgets on the same slices."""
        key = budget.each, slice_label(budget.slice or {})
        if key not in self._samples:
            self._samples[key] = tuple(samples(budget, self.evaluation))
        return self._samples[key]

    def observed(self, metric: Metric, against: str) -> bool:
        """Whether there are rows of both models for a metric."""
        sides = self._reference(against), self.evaluation.int8
        return all(metric.observation in rows for rows in sides)

    def pairs(self, metric: Metric, sample: Sample, against: str) -> Pairs:
        """One metric's rows on the examples of `sample`, INT8's and those it is held against."""
        key = metric.name, sample.label, against
        if key not in self._cut:
            self._cut[key] = self._pairs(metric, self._in_order(sample), against)
        return self._cut[key]

    def whole(self, metric: Metric, against: str) -> Pairs:
        """As `pairs` of all examples, for one look."""
        return self._pairs(metric, self._order, against)

    @cached_property
    def _rank(self) -> Array:
        """(N,) where each example stands in the order of ids."""
        rank = np.empty_like(self._order)
        rank[self._order] = np.arange(len(rank))
        return rank

    def _in_order(self, sample: Sample) -> Array:
        """(n,) the examples of a slice, in the order of their ids."""
        if sample.label not in self._places:
            assert sample.index is not None
            self._places[sample.label] = sample.index[np.argsort(self._rank[sample.index])]
        return self._places[sample.label]

    def _reference(self, against: str) -> Mapping[str, Rows]:
        found = self.evaluation
        return found.fp32 if against == FP32 else found.releases.get(against, {})

    def _pairs(self, metric: Metric, index: Array, against: str) -> Pairs:
        found = self.evaluation
        return Pairs(
            metric=metric,
            sides=(
                self._reference(against)[metric.observation],
                found.int8[metric.observation],
            ),
            index=index,
            every_unit=found.unit if self._clustered and found.unit is not None else found.ids,
            clustered=self._clustered,
            problem=found.problems.get(metric.observation),
            against=against,
        )


# ── artifacts ─────────────────────────────────────────────────────────────────────────────


def _artifact(
    budget: Budget, metric: ArtifactMetric, reference: float | None, int8: float
) -> Draft:
    """An exact number meets its limit or does not: its p-values are 0 and 1."""
    fields = _exact_number(metric, reference, int8)
    number = fields["int8"]
    if budget.threshold == "max_ratio":
        before = fields["reference"]
        number = number / before if before and number is not None else None
        fields |= {"quantity": "ratio", "degradation": None if number is None else number - 1}
    if number is None:
        note = f"FP32 has no {metric.name} to hold INT8's against"
        return Draft({"note": note} | fields | {"method": UNDEFINED})
    met = number >= budget.limit if budget.threshold == "at_least" else number <= budget.limit
    return Draft(fields | {"p_pass": float(not met), "p_fail": float(met)})


def _exact_number(metric: ArtifactMetric, reference: float | None, int8: float) -> Fields:
    before = reference if reference is not None and math.isfinite(reference) else None
    fields: Fields = {
        "metric": metric.name,
        "n": 0,
        "reference": before,
        "int8": int8,
        "degradation": None if before is None else metric.worse(before, int8),
        "quantity": "value",
        "method": EXACT_NUMBER,
    }
    if math.isfinite(int8):
        return fields
    note = f"{metric.name} of the INT8 model is not a finite number"
    return fields | {"int8": None, "degradation": None, "method": UNDEFINED, "note": note}
