"""Whether the evidence suffices before every example is seen: an e-process for every budget.

Examples come in a seeded shuffle. After each batch every budget's e-process is looked at, on every
slice that it is about. Evaluation ends when one is proven violated, counted for all of them (a
union bound), so that a FAIL always names its budget; or when all budgets that must be proven are.
That second end waits for what a full evaluation would have caught: for each slice that only must
not be harmed until it is proven or seen whole, and for FP32 until it is clearly what was expected.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gate.judgeable import is_clustered
from gate.metrics import ArtifactMetric, Metric
from gate.policy import Budget, ExpectFp32
from gate.slices import samples
from gate.statistics import sequential
from gate.values import Evaluation, Rows

_FAR = 3.3
Key = tuple[str, str | None]
"""A budget's id, and the label of a slice."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far the bets against one budget went, on one slice."""

    log_pass: float
    """Largest ln E against "violated"."""
    log_fail: float
    """Largest ln E against "within budget"."""
    total: int
    """Examples of the slice that there were to see."""


@dataclass(frozen=True, slots=True)
class Early:
    """What looking while evaluating found."""

    looks: Mapping[Key, Look]
    stopped: bool
    """Whether examples were left unseen."""


@dataclass(slots=True)
class _Test:
    """One budget on one slice, while examples come."""

    budget: Budget
    total: int
    cells: np.ndarray = field(default_factory=lambda: np.zeros(4, dtype=np.int64))
    """Right in both, lost, gained, wrong in both; of a rate: what counts, and the rest."""
    log_pass: float = -math.inf
    log_fail: float = -math.inf

    @property
    def seen(self) -> int:
        return int(self.cells.sum())

    def is_settled(self, alpha: float) -> bool:
        """Proven; or, where that is not asked for, seen whole: harm would be known."""
        if sequential.p_value(self.log_pass) <= alpha:
            return True
        return self.budget.require != "proof" and self.seen == self.total

    def look(self) -> None:
        log_pass, log_fail = log_e(self.budget, self.cells, self.total)
        self.log_pass = max(self.log_pass, log_pass)
        self.log_fail = max(self.log_fail, log_fail)


def log_e(budget: Budget, cells: Sequence[int] | np.ndarray, total: int) -> tuple[float, float]:
    """(ln E_pass, ln E_fail) of a budget on a proportion, from its four cells."""
    both, lost, gained, _ = (int(cell) for cell in cells)
    n, limit = int(sum(cells)), budget.limit
    match budget.threshold:
        case "max_drop":
            return sequential.log_e_drop(lost, gained, n, min(limit, 1.0), total)
        case "max_relative_drop":
            return sequential.log_e_relative(both, lost, gained, n, limit, total)
        case "at_most":
            return sequential.log_e_rate(both, n, limit, total)
        case _:
            return sequential.log_e_rate(n - both, n, 1.0 - limit, total)


def unstoppable(budget: Budget, *, proportion: bool, artifact: bool) -> str | None:
    """Why evaluation cannot stop early for a budget, in a sentence; None where it can."""
    if proportion or artifact:
        return None
    return (
        f"{budget.metric} is no proportion of examples, so `stopping: early` has no bet on it: "
        "write `stopping: full`, or budget accuracy or prediction_flips instead"
    )


class _Baseline:
    """Whether FP32 is what training reported, beyond what chance could hide in a part."""

    def __init__(
        self,
        expected: ExpectFp32 | Literal["unknown"],
        metrics: Mapping[str, Metric | ArtifactMetric],
        total: int,
    ) -> None:
        self._expected = None if expected == "unknown" else expected
        named = {} if self._expected is None else self._expected.metrics
        self._metrics = {name: metrics[name] for name in named}
        self._total, self._seen = total, 0
        self._hits = dict.fromkeys(named, 0)

    def take(self, part: Evaluation) -> None:
        self._seen += len(part.ids)
        for name, metric in self._metrics.items():
            if isinstance(metric, Metric) and metric.per_example is not None:
                self._hits[name] += int(np.sum(metric.per_example(part.fp32[metric.observation])))

    @property
    def is_met(self) -> bool:
        return self._expected is None or all(map(self._holds, self._expected.metrics))

    def _holds(self, name: str) -> bool:
        metric = self._metrics[name]
        assert self._expected is not None
        if not isinstance(metric, Metric) or metric.per_example is None:
            return False
        share = self._hits[name] / max(self._seen, 1)
        room = self._expected.within - abs(share - self._expected.metrics[name])
        return chance(share, self._seen, self._total) <= room


def chance(share: float, seen: int, total: int | None) -> float:
    """What a share of the first `seen` of `total` examples may be off: 3.3 standard errors."""
    if total is None or seen >= total or not 0 <= share <= 1:
        return 0.0
    return _FAR * math.sqrt(max(share * (1 - share), 1 / seen) / seen * (1 - seen / total))


class Watch:
    """Looks at the evidence after each batch."""

    def __init__(
        self,
        budgets: Sequence[Budget],
        metrics: Mapping[str, Metric | ArtifactMetric],
        whole: Evaluation,
        *,
        alpha: float,
        fail_alpha: float,
        expected: ExpectFp32 | Literal["unknown"] = "unknown",
    ) -> None:
        """Lay down the tests of all budgets; `whole` has every example's slices and no rows."""
        self._baseline = _Baseline(expected, metrics, len(whole.ids))
        self._metrics = metrics
        self._alphas = alpha, fail_alpha
        self._tests: dict[Key, _Test] = {}
        self._can_pass = not is_clustered(whole.unit)
        self._budgets = [b for b in budgets if isinstance(metrics.get(b.metric), Metric)]
        for budget in self._budgets:
            for sample in samples(budget, whole):
                total = len(whole.ids) if sample.index is None else len(sample.index)
                if sample.missing is None and total >= budget.min_examples:
                    self._tests[budget.id, sample.label] = _Test(budget, total)
                elif budget.require == "proof":
                    self._can_pass = False

    def __call__(self, part: Evaluation) -> str | None:
        """Take in a batch; why evaluation may end here, or None."""
        self._baseline.take(part)
        for budget in self._budgets:
            metric = self._metrics[budget.metric]
            assert isinstance(metric, Metric)
            for sample in samples(budget, part):
                test = self._tests.get((budget.id, sample.label))
                if test is not None and sample.missing is None:
                    test.cells += _cells(budget, metric, part, sample.index)
                    test.look()
        return self._reason()

    def early(self, evaluated: int, total: int) -> Early:
        """What was found after `evaluated` of `total` examples."""
        looks = {
            key: Look(test.log_pass, test.log_fail, test.total) for key, test in self._tests.items()
        }
        return Early(looks, stopped=evaluated < total)

    def _reason(self) -> str | None:
        tests = list(self._tests.values())
        if not tests or any(test.seen < test.budget.min_examples for test in tests):
            return None
        alpha, fail_alpha = self._alphas
        worst = max(tests, key=lambda test: test.log_fail)
        if len(tests) * sequential.p_value(worst.log_fail) <= fail_alpha:
            return f"budget {worst.budget.id} was proven violated"
        must = any(test.budget.require == "proof" for test in tests)
        held_back = any(not test.is_settled(alpha) for test in tests)
        if self._can_pass and must and not held_back and self._baseline.is_met:
            return "every budget that needs proof was proven"
        return None


def _cells(
    budget: Budget, metric: Metric, part: Evaluation, index: np.ndarray | None
) -> np.ndarray:
    """Four counts of a batch."""
    sides = part.fp32[metric.observation], part.int8[metric.observation]
    fp32, int8 = sides if index is None else (side.take(index) for side in sides)
    count: Callable[[Rows], np.ndarray] | None = metric.per_example
    assert count is not None
    if budget.threshold in ("at_least", "at_most"):
        hits = int(np.sum(count(int8)))
        return np.array([hits, 0, 0, len(int8) - hits])
    old, new = (count(rows) == metric.higher_is_better for rows in (fp32, int8))
    return np.bincount(2 * ~old + ~new, minlength=4)
