"""Trying a recipe on tuning data: quantize, run beside FP32's stored outputs, hold to the budgets.

The held-out set is never opened here. FP32 runs once, and so does calibration for all recipes that
start from the same FP32; a trial costs a quantization, a session, and INT8 on the tuning data.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from gate import artifact, data, diagnose, graph
from gate.diagnosis import LayerError
from gate.drafts import Drafts
from gate.errors import EngineError, EvaluationError, GateError, QuantizationError, UsageError
from gate.metrics import ARTIFACT_METRICS, MODEL_METRICS, PROCESS_METRICS, ArtifactMetric, Metric
from gate.policy import Budget
from gate.quantize import Proof, prove
from gate.recipes import Recipe
from gate.run import Run
from gate.scoring import Gives
from gate.search import Exhausted, of_nodes
from gate.tasks import BoundTask
from gate.trials import Estimate, Journal, Trial, divergence
from gate.values import Array, Candidate, Kernel, Rows, Split, Values, finite, joined
from gate.why import some
from gate.wording import excess, few

MARGIN = 0.8
"""Share of a limit that an estimate may use up: a tuning set is small."""
_BLAMED = 64
"""Calibration examples that layers are compared on."""
_ENOUGH = 64
"""Examples after which a trial may be given up."""
_SURE = 3.0
"""Standard errors beyond a limit at which it is."""


@dataclass(slots=True)
class Tuning:
    """What trials have in common."""

    run: Run
    candidate: Candidate
    drafts: Drafts
    tuning: Split
    batch_size: int
    journal: Journal
    left: Callable[[], str | None]
    """Why no other trial counts, not even one that is known; None while one does."""
    late: Callable[[], str | None]
    """Why no trial may begin, and the one at hand has to end; None while it may go on."""
    task: BoundTask
    targets: Values
    fp32: Sequence[Mapping[str, Array]]
    """Outputs by batch."""
    gives: Gives
    """What a model gives on the tuning data."""
    keep: Callable[[Trial], None]
    """Keeps a trial for good, as it ends, if it is not kept yet."""
    sample: Mapping[str, Array]
    """A few examples, to see which kernels execute."""
    kernels: tuple[Kernel, ...]
    """FP32's work on them."""
    tried: list[Trial] = field(default_factory=list)

    def attempt(self, recipe: Recipe, move: str) -> Trial:
        """Try a recipe, or find its trial in the journal.

        Raises:
            Exhausted: trials or time are used up.
        """
        known = self.journal.known(recipe)
        if known is not None and known.outcome == "failed":  # what broke may have been mended
            known = None
        if why := self.left() or (self.late() if known is None else None):
            raise Exhausted(why)
        number = {"number": len(self.tried) + 1}
        trial = (known or self._tried(recipe, move)).model_copy(update=number)
        self.tried.append(trial)
        if known is None:
            self.journal.add(trial)
        self.keep(trial)
        return trial

    @property
    def work(self) -> dict[str, float]:
        """Share of FP32's multiply–accumulate work, by operator."""
        total = max(1, sum(kernel.macs for kernel in self.kernels))
        found: Counter[str] = Counter()
        for kernel in self.kernels:
            found[kernel.op] += kernel.macs
        return {op: macs / total for op, macs in found.items()}

    def blame(self, recipe: Recipe) -> Sequence[LayerError]:
        """Layers of the recipe's INT8 model, the one that costs most first.

        Raises:
            Exhausted: they cannot be told apart.
        """
        fixed = data.fixed_batch(self.candidate)
        split = self.drafts.calibration or self.tuning
        batches = some(split, _BLAMED, fixed=fixed, recipe=recipe)
        try:
            base, int8 = self.drafts.base(recipe), self.drafts.int8(recipe)
            probe = self.run.backend.probe(base.path, int8, threads=self.run.threads)
            layers = diagnose.layers(diagnose.observe(probe, batches))
        except GateError as error:
            raise Exhausted(f"the layers cannot be told apart: {error}") from error
        nodes = {node.name for node in graph.read(self.candidate.path, weights=False).graph.node}
        return [of_nodes(nodes, layer) for layer in layers]

    def demand_reachable(self) -> None:
        """FP32 itself is within what INT8 has to reach.

        Raises:
            EvaluationError: FP32 gives NaN.
            UsageError: it is not, so no INT8 version of it will be; or no budget can be looked at.
        """
        if all(budget.metric in PROCESS_METRICS for budget in self._budgets()):
            raise UsageError(
                "every budget is on time, memory or an earlier release, which trials do not measure"
            )
        scores = self._scores(self.fp32)
        broken = self.tuning.ids[~finite(scores)]
        if len(broken):
            raise EvaluationError(
                f"the FP32 model gives NaN or Inf on {len(broken)} tuning examples "
                f"({few(broken.tolist())}): it is no baseline. Mend the model, or these examples"
            )
        for budget in self._sampled():
            if budget.threshold != "at_least":
                continue
            value = self._value(self.task.metric(budget.metric), scores, scores)
            if value is not None and value < budget.limit:
                raise UsageError(
                    f"FP32 itself has {budget.metric} {value:.4f} on the tuning data, and the "
                    f"policy asks for at least {budget.limit:g} of INT8: no recipe will reach it; "
                    "mend the model or the budget"
                )

    # ── one trial ─────────────────────────────────────────────────────────────────────────

    def _tried(self, recipe: Recipe, move: str) -> Trial:
        start = time.perf_counter()
        blank = Trial(number=1, recipe=recipe, move=move, outcome="failed")
        self.run.progress.step(f"trial {len(self.tried) + 1}", len(self.tuning))
        try:
            found = self._measured(recipe, blank)
        except (Exhausted, EngineError):  # neither tells anything of a recipe
            raise
        except Exception as error:  # noqa: BLE001 - kept and never taken; the gate judges what is
            kind = "" if isinstance(error, GateError) else f"{type(error).__name__}: "
            found = blank.model_copy(update={"error": f"{kind}{error}"})
        return found.model_copy(update={"seconds": round(time.perf_counter() - start, 3)})

    def _measured(self, recipe: Recipe, blank: Trial) -> Trial:
        int8 = self.drafts.int8(recipe)
        proof = prove(self.kernels, self.run.backend.profile(int8, self.sample))
        _demand_excluded(recipe, self.kernels, proof)
        outputs, milliseconds = self._outputs(int8)
        fp32 = self.fp32[: len(outputs)]
        fp32_scores, int8_scores = self._scores(fp32), self._scores(outputs)
        made = _Made(artifact.measured(artifact.files(int8))[1], proof.int8_share)
        estimates = self._estimates(fp32_scores, int8_scores, made)
        return blank.model_copy(
            update={
                "outcome": "meets" if meet(estimates, self.run.policy.judge.budgets) else "misses",
                "divergence": divergence(fp32, outputs),
                "flips": self._flips(fp32_scores, int8_scores),
                "int8_share": proof.int8_share,
                "bytes": made.bytes,
                "estimates": estimates,
                "spare": spare(estimates, self.run.policy.judge.budgets),
                "examples": len(int8_scores),
                "milliseconds": round(milliseconds, 4),
            }
        )

    def _outputs(self, int8: Path) -> tuple[list[Mapping[str, Array]], float]:
        """By batch, and the median batch's milliseconds an example.

        Raises:
            Exhausted: time is up.
        """
        outputs: list[Mapping[str, Array]] = []
        took: list[float] = []
        done, look = 0, _ENOUGH
        with closing(self.gives(int8)) as shards:
            for ran in chain.from_iterable(shards):
                outputs.append(ran.outputs)
                took.append(1000 * ran.seconds / ran.examples)
                self.run.progress.advance(ran.examples)
                if why := self.late():
                    raise Exhausted(why)
                done += ran.examples
                if done >= look:
                    if self._is_hopeless(outputs):
                        break
                    look = 2 * done
        return outputs, statistics.median(took)

    def _is_hopeless(self, outputs: Sequence[Mapping[str, Array]]) -> bool:
        """Whether what was seen is beyond a limit by more than chance would have it.

        Then the rest of the tuning data is not worth running.
        """
        fp32, int8 = (self._scores(side[: len(outputs)]) for side in (self.fp32, outputs))
        return any(
            self._is_beyond_doubt(budget, fp32, int8)
            for budget in self._sampled()
            if budget.threshold in ("max_drop", "at_most")
        )

    def _is_beyond_doubt(self, budget: Budget, fp32: Values, int8: Values) -> bool:
        metric = self.task.metric(budget.metric)
        if metric.per_example is None:  # nothing tells how far chance moves it
            return False
        before, after = self._shares(metric, fp32, int8)
        found = metric.worse(before, after) if budget.threshold == "max_drop" else after
        doubt = _SURE * math.sqrt(np.square(found).mean() / len(found))
        return bool(found.mean() - budget.limit > doubt)

    def _shares(self, metric: Metric, fp32: Values, int8: Values) -> tuple[Array, Array]:
        """(N,) each: examples that count under FP32, and under INT8 without what it gained."""
        assert metric.per_example is not None
        before, after = (
            np.asarray(metric.per_example(self._rows(metric, side, fp32)), dtype=float)
            for side in (fp32, int8)
        )
        if metric.relative:
            return before, after
        return before, (np.minimum if metric.higher_is_better else np.maximum)(before, after)

    def _budgets(self) -> Iterator[Budget]:
        """Those against FP32: no earlier release was run on tuning data."""
        yield from (b for b in self.run.policy.judge.budgets if b.against == "fp32")

    def _sampled(self) -> Iterator[Budget]:
        """Budgets on examples; those on slices, too: what misses over all misses there."""
        for budget in self._budgets():
            if budget.metric not in MODEL_METRICS:
                yield budget

    def _scores(self, outputs: Sequence[Mapping[str, Array]]) -> Values:
        return joined([self.task.decode(given) for given in outputs])

    def _estimates(self, fp32: Values, int8: Values, made: "_Made") -> tuple[Estimate, ...]:
        """Every budget on the whole set that needs no quiet process, on what was seen of it."""
        found = []
        for budget in self._budgets():
            if budget.metric in PROCESS_METRICS:
                continue
            if budget.metric in ARTIFACT_METRICS:
                kind = ARTIFACT_METRICS[budget.metric]
                value = _limited(budget, kind, *kind.measure(self.candidate, made))
            else:
                metric = self.task.metric(budget.metric)
                before, after = (self._value(metric, side, fp32) for side in (fp32, int8))
                if after is not None and "drop" in budget.threshold and metric.is_proportion:
                    after = float(self._shares(metric, fp32, int8)[1].mean())
                value = _limited(budget, metric, before, after)
            beyond = None if value is None else excess(budget, value)
            found.append(Estimate(budget=budget.id, value=value, beyond=beyond))
        return tuple(found)

    def _value(self, metric: Metric, scores: Values, fp32: Values) -> float | None:
        value = float(metric.summarize(self._rows(metric, scores, fp32)))
        return value if math.isfinite(value) else None

    def _rows(self, metric: Metric, scores: Values, fp32: Values) -> Rows:
        return Rows(metric.observe(scores, self.targets[: len(scores)], fp32))

    def _flips(self, fp32: Values, int8: Values) -> float | None:
        metric = self.task.metrics.get("prediction_flips")
        return None if metric is None else self._value(metric, int8, fp32)


@dataclass(frozen=True, slots=True)
class _Made:
    """What an artifact metric measures of an INT8 model."""

    bytes: int
    int8_share: float


def _demand_excluded(recipe: Recipe, fp32: Sequence[Kernel], proof: Proof) -> None:
    """The gate refuses a model in which the runtime fuses what was excluded all the same."""
    excluded = {k.node for k in fp32 if k.op in recipe.exclude_op_types} | {*recipe.exclude_nodes}
    if broken := excluded & {*proof.quantized_nodes}:
        raise QuantizationError(f"{few(sorted(broken))} runs as integers, though it is excluded")


# ── numbers ───────────────────────────────────────────────────────────────────────────────


def _limited(
    budget: Budget, metric: Metric | ArtifactMetric, before: float | None, after: float | None
) -> float | None:
    """The number that a budget limits."""
    if after is None or budget.threshold in ("at_least", "at_most"):
        return after
    if before is not None and budget.threshold == "max_drop":
        return float(metric.worse(before, after))
    if not before:
        return None
    whole = float(metric.worse(before, after)) if budget.threshold == "max_relative_drop" else after
    return whole / before


def meet(estimates: Sequence[Estimate], budgets: Sequence[Budget]) -> bool:
    """Whether every estimate is within its limit, a sampled one with room to spare."""
    limits = {budget.id: budget for budget in budgets}
    return all(_meets(one, limits[one.budget]) for one in estimates)


def spare(estimates: Sequence[Estimate], budgets: Sequence[Budget]) -> float | None:
    """Share of the tightest limit on a sampled drop or rate that is left; None without any."""
    limits = {b.id: b.limit for b in budgets if b.metric not in MODEL_METRICS and b.limit > 0}
    upper = {b.id for b in budgets if b.threshold in ("max_drop", "max_relative_drop", "at_most")}
    left = [
        -1.0 if one.beyond is None else -one.beyond / limits[one.budget]
        for one in estimates
        if one.budget in upper and one.budget in limits
    ]
    return min(left, default=None)


def _meets(found: Estimate, budget: Budget) -> bool:
    exact = budget.metric in ARTIFACT_METRICS or budget.threshold == "at_least"
    spared = 0.0 if exact else (1 - MARGIN) * budget.limit
    return found.beyond is not None and found.beyond <= -spared
