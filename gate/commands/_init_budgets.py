"""Budgets that the data can decide, and the numbers behind them.

Nothing of INT8's answers is known here, nor may it be: a limit is chosen by what `gate.planning`
says that so many examples prove, if as much flips as flips in ordinary releases.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from gate.commands._init_data import slice_columns
from gate.commands._init_fit import Fitted
from gate.commands._init_text import Line
from gate.errors import DataError
from gate.judgeable import is_clustered
from gate.metrics import Metric
from gate.planning import Kind, Plan, Question, Spread, plan_budgets
from gate.policy import Budget
from gate.statistics import jackknife
from gate.values import Array, Int8Model
from gate.wording import exact, metric_name, plural, whole

ALPHA = 0.05
"""1 − the confidence that is written."""
FLIPS = (0.01, 0.02)
"""Shares of answers that ordinary releases change from right to wrong, or back."""
LIMITS = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1)
REDRAWN = 0.05
"""Share of examples that INT8 answers as if they were others, where nothing is known of it: what
an average (mAP, F1, RMSE) then varies by is √(2 · share) of what it varies by itself."""
_LIKELY = 0.8
_EACH = 3
"""Times the limit on all examples: a slice is smaller, so it varies more."""
_LEAST_EACH = 0.03
_MOST_CLASSES = 100
_OF_CLASSES = ("classification", "text_classification")
_GROUPS = 20
_PREFERRED = {
    "detection": ("map",),
    "embedding": ("spearman", "recall1"),
    "question_answering": ("f1",),
    "ranking": ("ndcg",),
    "regression": ("rmse",),
    "segmentation": ("miou",),
    "text_recognition": ("exact_match",),
    "token_classification": ("span_f1",),
}
_FIRST = ("accuracy",)
_AVERAGE_LEAST = 0.02
_AGREEMENT = (
    ("box_flips", "at_most", 0.1, "boxes lost or gained, of FP32's"),
    ("token_flips", "at_most", 0.05, "labels of tokens that changed"),
    ("pixel_flips", "at_most", 0.03, "pixels of another class"),
    ("prediction_flips", "at_most", 0.03, "answers that changed, right or wrong"),
)
_UNLABELLED = (("sqnr", "at_least", 20, "dB: what FP32 gives is 100 times what changed"),)
"""Where nothing else is known; its few largest errors decide it."""
_SIZES = (0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9)
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
_SPARE = 1.05


@dataclass(frozen=True, slots=True)
class Budgets:
    """What is proposed."""

    lines: tuple[Line, ...]
    main: str | None
    """The metric that everything is about; None without labels."""
    notes: tuple[str, ...]
    """What somebody should hear."""


def propose(fitted: Fitted, int8: Int8Model, fp32_bytes: int, task: str) -> Budgets:
    """Budgets for a task fitted to its data.

    Args:
        fitted: the task, and FP32's rows.
        int8: only its size and its share of integer work count.
        fp32_bytes: of the FP32 model.
        task: its key.

    Raises:
        DataError: so few examples prove no budget worth writing.
    """
    main = _main(fitted, task)
    notes: list[str] = []
    lines: list[Line] = []
    if main is not None:
        first = _whole_set(fitted, main)
        lines += [first, *_each(fitted, main, first, task, notes)]
    lines += [*_agreement(fitted), *_artifact(int8, fp32_bytes, notes)]
    return Budgets(tuple(lines), main, tuple(notes))


def _main(fitted: Fitted, task: str) -> str | None:
    wanted = (*_PREFERRED.get(task, ()), *_FIRST, *fitted.metrics)
    return next((name for name in wanted if name in fitted.metrics), None)


# ── drops ─────────────────────────────────────────────────────────────────────────────────


def _whole_set(fitted: Fitted, name: str) -> Line:
    metric, count = fitted.metrics[name], len(fitted.split)
    if metric.is_proportion and not is_clustered(fitted.split.unit):
        return _proportion(name, count)
    return _average(fitted, metric)


def _proportion(name: str, count: int) -> Line:
    plans = _plans(name, "max_drop", "drop", count, LIMITS)
    chances = [_chance(plan, FLIPS[0]) for plan in plans]
    place = next((at for at, chance in enumerate(chances) if chance >= _LIKELY), None)
    needed = whole(_needed(plans[0]))
    if place is None:
        raise DataError(
            f"held_out has {plural(count, 'example')}, too few to prove that {metric_name(name)} "
            f"drops by no more than {_points(LIMITS[-1])}: one point takes about {needed}. "
            "Collect more, or write a policy by hand"
        )
    limit = LIMITS[place]
    budget = {"metric": name, "max_drop": limit}
    if place == 0:
        above = (
            f"{plural(count, 'example')} prove it with {_share(chances[0])} where 1 % of the "
            "answers flip and nothing is lost on balance, with "
            f"{_share(_chance(plans[0], FLIPS[1]))} where 2 % do: `gate plan` tells more."
        )
        return Line(budget, "one percentage point, proven", above)
    above = (
        f"One point is what is usual; {plural(count, 'example')} prove that with "
        f"{_share(chances[0])} only where 1 % of the answers flip, {_points(limit)} with "
        f"{_share(chances[place])}. About {needed} examples would do for one point."
    )
    return Line(budget, "the tightest that these examples can prove", above)


def _average(fitted: Fitted, metric: Metric) -> Line:
    """Of a metric that is no share of examples, or of examples that share units."""
    value = fitted.value(metric.name)
    noise = _noise(fitted, metric) * math.sqrt(2 * REDRAWN)
    absolute = metric.higher_is_better and 0 <= value <= 1
    threshold = "max_drop" if absolute else "max_relative_drop"
    scale = 1.0 if absolute else abs(value)
    limits = [limit for limit in LIMITS if limit >= _AVERAGE_LEAST or metric.is_proportion]
    known = math.isfinite(noise) and scale > 0
    count, limit, chance = _units(fitted), limits[-1], math.nan
    if known:
        spread = Spread(noise=noise / scale, value=0.0)
        plans = _plans(metric.name, threshold, "spread", count, limits, spread=spread)
        chances = [plan.budgets[0].forecasts[0].passes or 0.0 for plan in plans]
        if metric.is_proportion and count * FLIPS[1] < jackknife.FEW:
            chances = list(map(min, chances, _worst_cases(metric.name, count, limits)))
        place = next((at for at, c in enumerate(chances) if c >= _LIKELY), len(limits) - 1)
        limit, chance = limits[place], chances[place]
    told = f"{_share(chance)} of the time" if known else "no number can be told beforehand"
    above = (
        f"FP32 has {metric_name(metric.name)} {value:.4g} here. How much INT8 varies beside it "
        f"only a run shows; if it answers {REDRAWN * 100:.0f} % of {whole(count)} examples as if "
        f"they were others, they prove this limit {told}. `gate plan` knows more after a run."
    )
    return Line({"metric": metric.name, threshold: limit}, _meant(metric, threshold), above)


def _worst_cases(name: str, units: int, limits: Sequence[float]) -> list[float]:
    """Chances where so few units flip that the jackknife is not trusted, and all may be losses."""
    plans = _plans(name, "at_most", "rate", units, limits)
    return [_chance(plan, FLIPS[1]) for plan in plans]


def _meant(metric: Metric, threshold: str) -> str:
    name = metric_name(metric.name)
    return f"of {name} itself" if threshold == "max_drop" else f"as a share of FP32's {name}"


def _noise(fitted: Fitted, metric: Metric) -> float:
    """What FP32's own value varies by: the jackknife's standard error times √units."""
    split, rows = fitted.split, fitted.rows[metric.observation]
    groups = jackknife.deal(split.ids if split.unit is None else split.unit, groups=_GROUPS)
    without = jackknife.replicates(lambda kept: metric.summarize(rows.take(kept)), groups)
    return jackknife.Estimate(metric.summarize(rows), without).se * math.sqrt(_units(fitted))


def _units(fitted: Fitted) -> int:
    unit = fitted.split.unit
    return len(fitted.split) if unit is None else len(np.unique(unit))


# ── slices ────────────────────────────────────────────────────────────────────────────────


def _each(fitted: Fitted, name: str, first: Line, task: str, notes: list[str]) -> Iterator[Line]:
    ((threshold, limit),) = [(k, v) for k, v in first.budget.items() if k != "metric"]
    allowed = max(_LEAST_EACH, _EACH * cast(float, limit))
    for column, values in _columns(fitted, task):
        kinds, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        parts = [np.flatnonzero(place == number) for number in range(len(kinds))]
        if not all(math.isfinite(fitted.value(name, part)) for part in parts):
            notes.append(f"{name} has no value on every {column!r}, so nothing is asked of each")
            continue
        budget = {"metric": name, threshold: round(allowed, 4), "each": column}
        above = _shown_by(fitted, name, budget, int(counts.min()), len(kinds))
        yield Line(budget, f"none of {len(kinds)} proven worse", above)


def _columns(fitted: Fitted, task: str) -> Iterator[tuple[str, Array]]:
    targets = fitted.split.targets
    flat = targets if isinstance(targets, np.ndarray) and targets.ndim == 1 else None
    if task in _OF_CLASSES and flat is not None and 1 < len(np.unique(flat)) <= _MOST_CLASSES:
        yield "target", flat
    for column in slice_columns(fitted.split):
        yield column, fitted.split.slices[column]


def _shown_by(fitted: Fitted, name: str, budget: dict[str, Any], smallest: int, kinds: int) -> str:
    """What harm the smallest slice would show; empty where that cannot be told."""
    if not fitted.metrics[name].is_proportion or is_clustered(fitted.split.unit):
        return ""
    question = Question(
        budget=Budget.model_validate(budget),
        kind="drop",
        slices=((None, smallest),) * kinds,
        seen=FLIPS,
    )
    (planned,) = plan_budgets([question], alpha=ALPHA).budgets
    caught = planned.scenarios[0].at_hand
    what = f"the smallest of {kinds} ({plural(smallest, 'example')})"
    if caught is None or caught.caught is None:
        return f"No drop can be proven on {what}."
    return f"A drop of {_points(caught.caught)} on {what} would FAIL with 80 %."


# ── agreement and artifact ────────────────────────────────────────────────────────────────


def _agreement(fitted: Fitted) -> Iterator[Line]:
    """The first that the task has: how much INT8 answers otherwise, right or wrong."""
    for name, threshold, limit, meant in (*_AGREEMENT, *([] if fitted.rows else _UNLABELLED)):
        if name not in fitted.task.metrics:
            continue
        proportion = fitted.task.metrics[name].per_example is not None
        if proportion:
            rate = FLIPS[1] if is_clustered(fitted.split.unit) else FLIPS[0]
            limit = _provable_rate(name, _units(fitted), limit, rate)  # noqa: PLW2901
        yield Line({"metric": name, threshold: limit}, meant)
        return


def _provable_rate(name: str, count: int, limit: float, rate: float) -> float:
    """The limit, or the tightest above it that is proven where so much flips."""
    limits = [limit, *(other for other in LIMITS if other > limit)]
    plans = _plans(name, "at_most", "rate", count, limits)
    passed = [at for at, plan in enumerate(plans) if _chance(plan, rate) >= _LIKELY]
    if not passed:
        raise DataError(
            f"held_out has {plural(count, 'example')}, too few to prove that no more than "
            f"{LIMITS[-1] * 100:g} % of the answers change: that takes {whole(_needed(plans[-1]))}"
        )
    return limits[passed[0]]


def _artifact(int8: Int8Model, fp32_bytes: int, notes: list[str]) -> Iterator[Line]:
    ratio, share = int8.bytes / fp32_bytes, int8.int8_share
    allowed = next((size for size in _SIZES if size >= ratio * _SPARE), None)
    if allowed is None:
        notes.append(
            f"the INT8 file is {ratio:.2f} of FP32's, so no budget of its size is written: "
            "`gate recipes` lists what shrinks more"
        )
    else:
        told = f"of the FP32 file; this recipe makes {ratio:.2f} of it"
        yield Line({"metric": "size", "max_ratio": allowed}, told)
    least = next((one for one in _SHARES if one <= share), math.floor(share * 95) / 100)
    if least < _SHARES[-1]:
        notes.append(
            f"only {share * 100:.0f} % of the arithmetic runs as integers by this recipe: "
            "`gate recipes` lists others"
        )
    told = f"of the arithmetic, as it executed: {exact(math.floor(share * 1000) / 1000)} here"
    yield Line({"metric": "int8_share", "at_least": least}, told)


# ── plans ─────────────────────────────────────────────────────────────────────────────────


def _plans(
    name: str,
    threshold: str,
    kind: Kind,
    count: int,
    limits: Sequence[float],
    *,
    spread: Spread | None = None,
) -> list[Plan]:
    """One for each limit, each alone: how many there are does not change a proof."""
    return [
        plan_budgets(
            [
                Question(
                    budget=Budget.model_validate({"metric": name, threshold: limit}),
                    kind=kind,
                    slices=((None, count),),
                    seen=FLIPS,
                    spread=spread,
                )
            ],
            alpha=ALPHA,
        )
        for limit in limits
    ]


def _chance(plan: Plan, rate: float) -> float:
    """Of PASS where so much flips, and nothing is lost on balance."""
    for scenario in plan.budgets[0].scenarios:
        if scenario.rate == rate and not scenario.drop and scenario.at_hand is not None:
            return scenario.at_hand.passes
    return 0.0


def _needed(plan: Plan) -> int:
    """Examples for a PASS with 80 % where 1 % flips."""
    return plan.budgets[0].scenarios[0].needed[0]


def _points(share: float) -> str:
    return f"{exact(share * 100)} pp" if share in LIMITS else f"{share * 100:.1f} pp"


def _share(chance: float) -> str:
    percent = chance * 100
    return "over 99 %" if percent > 99 else f"{percent:.0f} %"  # noqa: PLR2004
