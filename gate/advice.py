"""What to try next: the recipe that the causes of a loss call for. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gate.diagnosis import Advice, LayerError
from gate.recipes import RECIPES, Recipe, resolve, spelled

_MOST = 0.5
"""Share of the error that the layers to blame make up."""
_FEW = 8
"""Layers to exclude at the most."""
_EQUALIZED = frozenset({"Conv", "Gemm", "MaxPool", "AveragePool", "Relu", "Clip", "LeakyRelu"})
"""Operators of which equalizing changes what they give or read."""


def advise(
    layers: Sequence[LayerError],
    recipe: Recipe,
    *,
    nodes: Collection[str] | None = None,
    working: Collection[str] = (),
) -> Advice | None:
    """What the layers that cost most call for; None where there is nothing to mend.

    Of remedies that leave every layer in INT8 the first that fits is proposed, and otherwise to
    leave those layers in floating point.

    Args:
        layers: the one that costs most first.
        recipe: what INT8 was made by.
        nodes: those of the FP32 model, where smoothing has put others beside them.
        working: those that multiply as integers; never all of them are excluded.
    """
    blamed = to_blame(layers)
    weights: Counter[str] = Counter()
    for layer in blamed:
        if layer.cause is not None:
            weights[layer.cause.name] += layer.share  # type: ignore[assignment]
    for name, _ in weights.most_common():
        ops = {layer.op for layer in blamed if layer.cause and layer.cause.name == name}
        for why, changed in _remedies(name, ops, recipe, clips="saturation" in weights):
            if changed != recipe:
                return Advice(why=why, recipe=_spelled(changed))
    return _excluding(blamed, recipe, nodes, working)


def to_blame(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """The fewest layers that make up half of the error, and no more than a few."""
    found: list[LayerError] = []
    for layer in layers:
        if sum(one.share for one in found) >= _MOST or len(found) == _FEW:
            break
        found.append(layer)
    return tuple(found)


def touching(layer: LayerError) -> tuple[str, ...]:
    """Nodes that have to stay in floating point so that nothing of a layer is rounded."""
    own = () if layer.op == "Input" else (layer.node,)
    return own if layer.loses == "weights" else (*own, *layer.readers)


def _remedies(
    cause: str, ops: set[str], recipe: Recipe, *, clips: bool
) -> Iterator[tuple[str, Recipe]]:
    """What keeps everything in INT8 and is not done yet; ranges that clip are not cut further."""
    uneven = cause in ("range outlier", "unequal channels")
    static = recipe.scheme == "static"
    if cause == "saturation" and (recipe.overrides or recipe.calibration not in (None, "min-max")):
        whole = _with(recipe, calibration="min-max", overrides={})
        yield "values are clipped off: take the whole range", whole
    if cause == "unequal channels" and not recipe.per_channel:
        yield "channels differ: give each its own scale", _with(recipe, per_channel=True)
    if uneven and static and not recipe.equalize and ops <= _EQUALIZED:
        yield (
            "channels differ: bring them to like ranges, which FP32 does not notice",
            _with(recipe, equalize=True, calibration="mse"),
        )
    if uneven and static and recipe.smooth is None and not ops & _EQUALIZED:
        yield (
            "channels differ: move what is large into the weights, which FP32 does not notice",
            _with(recipe, smooth=0.5),
        )
    if cause == "range outlier" and recipe.calibration == "min-max" and not clips:
        yield (
            "outliers stretch a range: cut it where least is lost",
            _with(recipe, calibration="mse"),
        )
    if cause == "delicate operator" and static and not recipe.op_types:
        yield "only matrix products gain enough by INT8 here", _of_matrices(recipe)


def _of_matrices(recipe: Recipe) -> Recipe:
    """The preset for transformers, with what the recipe changes of its own."""
    preset, said = RECIPES[recipe.name], ("name", "summary", "op_types")
    changes = {k: v for k, v in recipe if k not in said and v != getattr(preset, k)}
    return _with(RECIPES["static-matmul"], **changes)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update=changes)


def _spelled(recipe: Recipe) -> dict[str, Any]:
    said = spelled(recipe)
    found = {"base": said} if isinstance(said, str) else said
    resolve(found)  # raises where it is no recipe
    return found


def _excluding(
    blamed: Sequence[LayerError],
    recipe: Recipe,
    nodes: Collection[str] | None,
    working: Collection[str],
) -> Advice | None:
    asked = dict.fromkeys(node for layer in blamed for node in touching(layer))
    new = [node for node in asked if node not in recipe.exclude_nodes]
    new = [node for node in new if nodes is None or node in nodes]
    excluded = (*recipe.exclude_nodes, *new)
    if not new or (working and set(working) <= set(excluded)):
        return None
    share = sum(layer.share for layer in blamed)
    layers = "one layer costs" if len(blamed) == 1 else f"{len(blamed)} layers cost"
    return Advice(
        why=f"{layers} {100 * share:.0f} % of the error: leave what touches "
        f"{'it' if len(blamed) == 1 else 'them'} in floating point",
        recipe=_spelled(_with(recipe, exclude_nodes=excluded)),
    )
