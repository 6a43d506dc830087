"""In which order recipes are tried, and which of them is taken. Pure.

First a ladder of recipes that keep as much in INT8 as the policy's own, from cheap to careful. If
none meets the budgets, mixed precision on the best of them: the layers that the diagnosis blames
are left in floating point, the fewest that do by doubling and bisection; then each is put back
that can be. What is compared between trials is the divergence from FP32 at the outputs, which
needs no labels and moves far less by chance than accuracy does; the budgets are looked at by point
estimates, with room to spare, because a tuning set is too small to prove one.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from gate.advice import touching
from gate.diagnosis import LayerError
from gate.metrics import ARTIFACT_METRICS
from gate.recipes import RECIPES, Recipe, resolve, spelled
from gate.trials import Trial, named
from gate.wording import few

Attempt = Callable[[Recipe, str], Trial]
"""Tries a recipe; the text says what was changed. Raises `Exhausted` where nothing more is."""
Blame = Callable[[Recipe], Sequence[LayerError]]
"""Layers of the recipe's INT8 model, the one that costs most first."""
_ENOUGH = 0.999
"""Share of the error that is worth excluding layers for."""
_PUT_BACK = 8
"""Excluded layers that are tried in INT8 again, at the most."""
_ROOM = 0.5
"""Share of a limit that has to be left for a search to end before more careful recipes."""
_NEAR, _FAIR = 1e-3, 1e-2
"""Divergence where INT8 is as good as FP32 (30 dB), and where its losses are no accident (20)."""
_FEW = 4
"""Tensors that get another range at once."""
_GOOD_PART = 0.3
"""Share of the error from which an operator is left out as a whole."""
_WEIGHTED = frozenset({"Conv", "Gemm", "Input", "MatMul"})
_CLOSE = 0.02
"""Integer work that two recipes may differ in to be compared by divergence."""
_MATRICES = tuple(RECIPES["static-matmul"].op_types)
_MOSTLY = 0.5
"""Share of the work from which matrix products are what a model is about."""


class Exhausted(Exception):  # noqa: N818 - it is no error: it ends a search
    """Trials or time are used up, or nothing tells what to try next."""


def search(
    attempt: Attempt, blame: Blame, recipe: Recipe, work: Mapping[str, float]
) -> tuple[Trial | None, str | None]:
    """The trial with the most integer work that meets the budgets, and why it ended before its end.

    Args:
        attempt: tries a recipe.
        blame: diagnoses one.
        recipe: the policy's own, which is tried first.
        work: share of the multiply–accumulate work by operator, of all that the model has.
    """
    trials: dict[str, Trial] = {}

    def tried(changed: Recipe, move: str) -> Trial:
        name = named(changed)
        if name not in trials:
            trials[name] = attempt(changed, move)
        return trials[name]

    try:
        _search(tried, blame, recipe, work)
    except Exhausted as ended:
        return best([*trials.values()]), str(ended)
    return best([*trials.values()]), None


def best(trials: Sequence[Trial]) -> Trial | None:
    """The one that meets the budgets with the most integer work, of those the least divergence."""
    return min((t for t in trials if t.outcome == "meets"), key=lambda t: t.worth, default=None)


def _search(tried: Attempt, blame: Blame, recipe: Recipe, work: Mapping[str, float]) -> None:
    trials = [tried(recipe, "the policy's own recipe")]
    if trials[0].outcome == "meets":
        return
    for steps in (
        _of_transformers,
        _of_dynamic,
        _ranges,
        _corrected,
        _equalized,
        _corrected,
        _other_ways,
    ):
        for changed, move in steps(recipe, work, trials):
            trials.append(tried(changed, move))
            if _has_room(trials):
                return
    level = _level(trials)
    if any(trial.outcome == "meets" for trial in level):
        return
    level = [trial for trial in level if not _misses_by_its_making(trial)]
    if level:
        _mixed(tried, blame, min(level, key=_far))


def _has_room(trials: Sequence[Trial]) -> bool:
    """Whether one with as much integer work as any meets the budgets, and will elsewhere.

    Few losses among a few hundred examples may be luck where INT8 is far from FP32.
    """
    met = [trial for trial in _level(trials) if trial.outcome == "meets"]
    return any(_far(trial) <= (_FAIR if (trial.spare or 0) >= _ROOM else _NEAR) for trial in met)


def _misses_by_its_making(trial: Trial) -> bool:
    """Whether it misses a budget on the artifact, which floating point does not make better."""
    return any(
        one.budget.split(".")[0] in ARTIFACT_METRICS and (one.beyond is None or one.beyond > 0)
        for one in trial.estimates
    )


def _level(trials: Sequence[Trial]) -> list[Trial]:
    """Those that have about as much integer work as any."""
    ran = [trial for trial in trials if trial.outcome != "failed"]
    most = max((trial.int8_share or 0.0 for trial in ran), default=0.0)
    return [trial for trial in ran if (trial.int8_share or 0.0) >= most - _CLOSE]


def _far(trial: Trial) -> float:
    return math.inf if trial.divergence is None else trial.divergence


# ── recipes as a whole: from cheap to careful ─────────────────────────────────────────────

Step = tuple[Recipe, str]


def _ranges(recipe: Recipe, work: Mapping[str, float], _: Sequence[Trial]) -> Iterator[Step]:  # noqa: ARG001
    """Other ranges from the same calibration pass, and a scale for each channel."""
    yield from _by(recipe, "mse", "percentile")
    if recipe.needs_calibration and not recipe.per_channel:
        yield _with(recipe, per_channel=True, calibration="mse"), "a scale for each channel"


def _other_ways(recipe: Recipe, work: Mapping[str, float], _: Sequence[Trial]) -> Iterator[Step]:  # noqa: ARG001
    """Ranges that are seldom the best."""
    yield from _by(recipe, "entropy", "min-max")


def _by(recipe: Recipe, *methods: str) -> Iterator[Step]:
    for method in methods:
        if recipe.needs_calibration and method != recipe.calibration:
            yield _with(recipe, calibration=method), f"ranges by {method}"


def _equalized(
    recipe: Recipe, work: Mapping[str, float], trials: Sequence[Trial]
) -> Iterator[Step]:
    """Channels of like ranges, by the method that does best without, of those that clip."""
    if "Conv" not in work or not recipe.needs_calibration or recipe.equalize:
        return
    clipping = [trial for trial in trials if trial.recipe.calibration in ("mse", "percentile")]
    method = min(clipping, key=_far, default=trials[0]).recipe.calibration
    changed = _with(recipe, equalize=True, per_channel=True, calibration=method)
    yield changed, f"channels brought to like ranges, by {method}"


def _corrected(
    recipe: Recipe, work: Mapping[str, float], trials: Sequence[Trial]
) -> Iterator[Step]:
    """The best so far, with biases that make up for the rounding of weights."""
    nearest = min(_level(trials), key=_far, default=None)
    if nearest is None or not {"Conv", "Gemm"} & {*work} or not recipe.needs_calibration:
        return
    if not nearest.recipe.correct_bias:
        yield _with(nearest.recipe, correct_bias=True), f"trial {nearest.number}, biases corrected"


def _of_transformers(
    recipe: Recipe, work: Mapping[str, float], _: Sequence[Trial]
) -> Iterator[Step]:
    """Matrix products alone, where they are most of the work: little else bears eight bits."""
    matrices = tuple(op for op in _MATRICES if op in work)
    most = sum(work[op] for op in matrices) > _MOSTLY
    if not most or not recipe.needs_calibration or recipe.op_types:
        return
    alone: dict[str, Any] = {"op_types": matrices}
    free = tuple(op for op in matrices if op in ("Gemm", "MatMul"))
    told = "matrix products alone, their results in floating point"
    strengths = (0.8, 0.5) if recipe.smooth is None else ()
    for strength in strengths:  # what does best by far comes first: each trial is dear
        changed = _with(recipe, **alone, float_outputs=free, smooth=strength)
        yield changed, f"{told}, smoothed by {strength:g}"
    yield _with(recipe, **alone, float_outputs=free), told
    yield _with(recipe, **alone), "matrix products alone"


def _of_dynamic(recipe: Recipe, work: Mapping[str, float], _: Sequence[Trial]) -> Iterator[Step]:  # noqa: ARG001
    if recipe.needs_calibration:
        return
    if not recipe.per_channel:
        yield _with(recipe, per_channel=True), "a scale for each channel"
    if not recipe.reduce_range and recipe.target is None:
        yield _with(recipe, reduce_range=True), "weights of seven bits"


_LADDER = (
    *(_of_transformers, _of_dynamic, _ranges, _corrected),
    *(_equalized, _corrected, _other_ways),
)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe, refined, as a policy would write it."""
    said = spelled(recipe)
    return resolve(({"base": said} if isinstance(said, str) else said) | changes)


# ── mixed precision ───────────────────────────────────────────────────────────────────────


def _mixed(tried: Attempt, blame: Blame, base: Trial) -> None:
    """Leave the layers that cost most in floating point: as few as will do."""
    layers = _worth_excluding(blame(base.recipe))
    if not layers:
        return
    for changes, move in (*_other_ranges(layers, base.recipe), *_other_ops(layers, base.recipe)):
        if tried(_with(base.recipe, **changes), move).outcome == "meets":
            return

    def excluding(chosen: Sequence[LayerError], move: str) -> Trial:
        nodes = dict.fromkeys(node for layer in chosen for node in touching(layer))
        kept = (*base.recipe.exclude_nodes, *nodes)
        return tried(_with(base.recipe, exclude_nodes=tuple(dict.fromkeys(kept))), move)

    def first(count: int) -> Trial:
        told = "layer that costs" if count == 1 else f"{count} layers that cost"
        return excluding(layers[:count], f"the {told} most in floating point")

    enough = _fewest(first, len(layers))
    if enough is not None:
        _put_back(excluding, layers[:enough])


def _other_ranges(
    layers: Sequence[LayerError], recipe: Recipe
) -> Iterator[tuple[dict[str, Any], str]]:
    """Another range for the tensors whose rounding costs most, and for them alone."""
    if not recipe.needs_calibration:
        return
    method = "mse" if recipe.calibration == "min-max" else "min-max"
    worst = [one.tensor for one in layers if one.loses == "activations"][:_FEW]
    if worst:
        told = f"ranges of {few(worst)} by {method}"
        yield {"overrides": recipe.overrides | dict.fromkeys(worst, method)}, told


def _other_ops(
    layers: Sequence[LayerError], recipe: Recipe
) -> Iterator[tuple[dict[str, Any], str]]:
    """Operators without weights that together cost a good part, all of them left out."""
    costs: dict[str, float] = {}
    for layer in layers:
        if layer.loses == "activations" and layer.op not in _WEIGHTED:
            costs[layer.op] = costs.get(layer.op, 0.0) + layer.share
    for op, share in sorted(costs.items(), key=lambda item: -item[1])[:1]:
        if share >= _GOOD_PART:
            yield {"exclude_op_types": (*recipe.exclude_op_types, op)}, f"every {op} left out"


def of_nodes(nodes: Collection[str], layer: LayerError) -> LayerError:
    """In terms of these nodes, FP32's own: what smoothing put among them no recipe can name."""
    readers = tuple(node for node in layer.readers if node in nodes)
    op = layer.op if layer.node in nodes else "Input"
    return layer.model_copy(update={"readers": readers, "op": op})


def _worth_excluding(layers: Sequence[LayerError]) -> list[LayerError]:
    found: list[LayerError] = []
    for layer in layers:
        if sum(one.share for one in found) >= _ENOUGH:
            break
        if touching(layer):
            found.append(layer)
    return found


def _fewest(first: Callable[[int], Trial], most: int) -> int | None:
    """The least number of layers with which the budgets are met, by doubling and bisection.

    Where the last doubling fails, as it leaves nothing to quantize, fewer may still do.
    """
    missed, count, found = 0, 1, None
    while (outcome := first(count).outcome) != "meets" and count < most:
        missed, count = count, min(2 * count, most)
    if outcome == "misses":
        return None
    if outcome == "meets":
        found = count
    while count - missed > 1:
        middle = (count + missed) // 2
        outcome = first(middle).outcome
        if outcome == "meets":
            found = count = middle
        elif outcome == "failed" and found is None:
            count = middle
        else:
            missed = middle
    return found


def _put_back(
    excluding: Callable[[Sequence[LayerError], str], Trial], chosen: Sequence[LayerError]
) -> None:
    """Try each of the excluded layers in INT8 again, the one that costs least first."""
    kept = list(chosen)
    for layer in [*reversed(chosen)][:_PUT_BACK]:
        without = [one for one in kept if one is not layer]
        if without and excluding(without, f"{layer.node} back in INT8").outcome == "meets":
            kept = without
