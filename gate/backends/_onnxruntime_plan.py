"""A recipe fitted to one model: which nodes it quantizes, which ranges that takes, or why not."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from threading import Lock
from typing import Any

from gate import graph as graphs
from gate.backends._onnxruntime_profile import INTEGER_OPERAND
from gate.errors import QuantizationError
from gate.recipes import RECIPES, Recipe
from gate.wording import few

_IMPORT = Lock()
"""ONNX Runtime's quantizer imports itself in a circle, in which two threads that begin at once are
caught."""
_WORKING_OPS = frozenset(
    (
        *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum"),
        *("LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"),
    )
)
"""Operators that multiply and accumulate."""
_FLOAT_ON_CPU = frozenset({"ConvTranspose"})
"""Those that a recipe may quantize and that run in floating point all the same."""
_INTEGER_OPS = frozenset(INTEGER_OPERAND) | {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
}
"""Operators that only a quantized model has."""


_MATRIX = 2
"""Axes of a matrix."""
_BIAS = 2
"""Its place among a layer's inputs."""
_CUTTING = frozenset({"Relu", "Clip"})
_MOVING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe fitted to one model."""

    model: Any
    """ModelProto, its nodes named, its tensors typed."""
    op_types: tuple[str, ...]
    """Operators of which some are quantized."""
    selected: tuple[str, ...]
    """Names of the nodes to quantize."""
    excluded: tuple[str, ...]
    """Names of the others."""


def plan(model: Any, recipe: Recipe) -> Plan:
    """Fit `recipe` to `model`, which is used up.

    Raises:
        QuantizationError: the recipe names what does not exist, or nothing would be quantized.
    """
    graphs.name_nodes(model)
    graphs.drop_weight_inputs(model)
    _refuse_quantized(model)
    _check_types(recipe)
    _check_opset(model, recipe)
    _check_names(model, recipe)
    chosen, unscalable = _chosen_op_types(recipe), _unscalable(model, recipe)
    selected = [
        node
        for node in model.graph.node
        if _is_selected(node, recipe, chosen) and node.name not in unscalable
    ]
    if not any(node.op_type in _WORKING_OPS for node in selected):
        raise QuantizationError(_why_nothing(model, recipe))
    names = {node.name for node in selected}
    return Plan(
        model=graphs.typed(model),
        op_types=tuple(sorted({node.op_type for node in selected})),
        selected=tuple(node.name for node in selected),
        excluded=tuple(node.name for node in model.graph.node if node.name not in names),
    )


def check_overrides(sources: Collection[str], recipe: Recipe) -> None:
    """Every tensor whose range the recipe overrides has one.

    Raises:
        QuantizationError: it has not.
    """
    _require("overrides", recipe.overrides, sources)


def activations(fitted: Plan, recipe: Recipe) -> dict[str, str]:
    """Float tensors that are no weights and that a node to be quantized reads or rounds.

    Each comes with the tensor whose range is as good as its own, or better:

    - What only a Relu or Clip reads need not be told apart where that cuts it off.
    - What only moves or reshapes values has the range of what it moves.
    """
    graph = fitted.model.graph
    weights = {tensor.name for tensor in graph.initializer}
    types, floats = graphs.tensor_types(fitted.model), float_types()
    names = {*fitted.selected}
    nodes = (node for node in graph.node if node.name in names)
    touched = dict.fromkeys(name for node in nodes for name in _rounded(node, recipe))
    needed = [name for name in touched if name not in weights and types.get(name) in floats]
    cut, moved = _cut_off(graph), _moved(graph)

    def source(name: str) -> str:
        while name in cut or name in moved:
            name = cut.get(name) or moved[name]
        return name

    return {name: source(name) for name in needed}


def _rounded(node: Any, recipe: Recipe) -> tuple[str, ...]:
    if node.op_type in recipe.float_outputs:
        return tuple(node.input)
    return (*node.input, *node.output)


def _cut_off(graph: Any) -> dict[str, str]:
    """Tensors that a Relu or Clip alone reads, with its output."""
    kept = {value.name for value in graph.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in dict.fromkeys((*node.input, *graphs.read_inside(node))):
            readers.setdefault(name, []).append(node)
    return {
        name: found[0].output[0]
        for name, found in readers.items()
        if len(found) == 1
        and found[0].op_type in _CUTTING
        and found[0].input[0] == name
        and name not in kept
    }


def _moved(graph: Any) -> dict[str, str]:
    weights = {tensor.name for tensor in graph.initializer}
    return {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in _MOVING and node.input[0] not in weights
    }


# ── what the recipe asks for ──────────────────────────────────────────────────────────────


def quantization() -> Any:
    """ONNX Runtime's quantizer, imported whole before any thread goes on."""
    with _IMPORT:
        import onnxruntime.quantization.qdq_quantizer
    return onnxruntime.quantization


def supported(scheme: str) -> frozenset[str]:
    """Operators that ONNX Runtime can quantize by this scheme."""
    registry = quantization().registry
    if scheme == "dynamic":
        return frozenset(registry.IntegerOpsRegistry) | {"Gemm"}
    return frozenset(registry.QDQRegistry) | frozenset(registry.QLinearOpsRegistry)


def _chosen_op_types(recipe: Recipe) -> frozenset[str]:
    return (frozenset(recipe.op_types) or supported(recipe.scheme)) - {*recipe.exclude_op_types}


def _unscalable(model: Any, recipe: Recipe) -> dict[str, str]:
    """Nodes that cannot have a scale for each channel, each with the reason."""
    if not recipe.per_channel:
        return {}
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and any(axes.get(name, 0) > _MATRIX for name in node.input):
            found[node.name] = _DEEP
        elif recipe.scheme == "static" and _is_grouped_transpose(node):
            found[node.name] = _GROUPED
    return found


def _is_grouped_transpose(node: Any) -> bool:
    """Whether its weights have fewer channels than its bias."""
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    return node.op_type == "ConvTranspose" and len(node.input) > _BIAS and groups > 1


def _is_selected(node: Any, recipe: Recipe, op_types: Collection[str]) -> bool:
    return node.op_type in op_types and node.name not in recipe.exclude_nodes


def quantized(model: Any) -> tuple[str, ...]:
    """Names of nodes that only a quantized model has."""
    return tuple(
        node.name or node.op_type for node, _ in graphs.walk(model) if node.op_type in _INTEGER_OPS
    )


def _refuse_quantized(model: Any) -> None:
    found = quantized(model)
    if found:
        raise QuantizationError(
            f"the model is already quantized ({few(found)}): give the FP32 model that it "
            "was made from"
        )


def _check_types(recipe: Recipe) -> None:
    if recipe.scheme == "dynamic" and recipe.activation_type != "uint8":
        raise QuantizationError(
            "ONNX Runtime quantizes dynamic activations as uint8 only; remove "
            f"`activation_type: {recipe.activation_type}` or use a static recipe"
        )
    if (recipe.activation_type, recipe.weight_type) == ("int8", "uint8"):
        raise QuantizationError(
            "ONNX Runtime has no kernels for int8 activations with uint8 weights; "
            "write `weight_type: int8`"
        )


def _check_opset(model: Any, recipe: Recipe) -> None:
    need = 13 if recipe.per_channel else 11
    version = graphs.opset(model)
    if version < need:
        raise QuantizationError(
            f"recipe {recipe.name!r} needs ONNX opset {need} or later and the model has {version}; "
            "export it again with a later opset, or convert it with onnx.version_converter"
        )


def _check_names(model: Any, recipe: Recipe) -> None:
    nodes = [node for node, _ in graphs.walk(model)]
    op_types = {node.op_type for node in nodes}
    preset = RECIPES[recipe.name].op_types if recipe.name in RECIPES else ()
    asked = [name for name in recipe.op_types if name not in preset]
    _require("exclude_nodes", recipe.exclude_nodes, {node.name for node in nodes})
    _require("exclude_op_types", recipe.exclude_op_types, op_types)
    _require("op_types", asked, op_types)
    _require("float_outputs", recipe.float_outputs, op_types)
    beyond = [name for name in asked if name not in supported(recipe.scheme)]
    if beyond:
        raise QuantizationError(
            f"ONNX Runtime cannot quantize {few(beyond)} by a {recipe.scheme} recipe; it can: "
            f"{', '.join(sorted(supported(recipe.scheme)))}"
        )


def _require(key: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name in known:
            continue
        near = get_close_matches(name, sorted(known), n=3, cutoff=0.4) or sorted(known)[:5]
        raise QuantizationError(
            f"the recipe's {key} names {name!r}, which the model does not have; "
            f"nearest: {', '.join(near) or 'none'}"
        )


# ── why nothing can be quantized ──────────────────────────────────────────────────────────


def _why_nothing(model: Any, recipe: Recipe) -> str:
    workers = [(node, at) for node, at in graphs.walk(model) if node.op_type in _WORKING_OPS]
    top = [node for node, where in workers if not where]
    if not workers:
        return (
            "the model has nothing to quantize: no operator in it multiplies and accumulates "
            "(Conv, Gemm, MatMul, …). Release it as FP32; INT8 gains nothing"
        )
    if not top:
        inside = [f"{where}{node.name or node.op_type}" for node, where in workers]
        return (
            "nothing can be quantized: all of the model's work is inside subgraphs, where ONNX "
            f"Runtime's quantizers do not look: {few(inside)}. Export it without control flow"
        )
    names = few([f"{node.name} ({node.op_type})" for node in top])
    unscalable = _unscalable(model, recipe)
    if all(node.name in unscalable for node in top):
        return f"nothing can be quantized, {names}: {unscalable[top[0].name]}"
    if any(node.op_type in supported(recipe.scheme) for node in top):
        return (
            f"recipe {recipe.name!r} quantizes nothing: its op_types and exclusions leave out all "
            f"that could be: {names}. Exclude less, or use another recipe"
        )
    return (
        f"nothing can be quantized: ONNX Runtime has no {recipe.scheme} INT8 kernels for what "
        f"works in this model: {names}. Try another recipe, or release it as FP32"
    )


_DEEP = (
    "its weights have more than two axes, for which ONNX Runtime has no per-channel kernel: "
    "`per_channel: false` quantizes it"
)
_GROUPED = (
    "a transposed convolution in groups, with a bias, for which ONNX Runtime's quantizer has no "
    "scales by channel: `per_channel: false` quantizes it"
)


def why_float(model: Any, recipe: Recipe) -> dict[str, str]:
    """Why the recipe does not quantize a node that multiplies and accumulates, by its name."""
    chosen, weights = _chosen_op_types(recipe), graphs.constants(model)
    unscalable = _unscalable(model, recipe)
    found = {}
    for node, where in graphs.walk(model):
        if node.op_type in _WORKING_OPS:
            reason = unscalable.get(node.name) or _why(node, where, recipe, chosen, weights)
            if reason is not None:
                found[node.name] = reason
    return found


def _why(
    node: Any, where: str, recipe: Recipe, chosen: Collection[str], weights: Collection[str]
) -> str | None:
    told = {
        f"inside a subgraph ({where.rstrip('/')}), where ONNX Runtime does not quantize": where,
        "excluded by exclude_nodes": node.name in recipe.exclude_nodes,
        "excluded by exclude_op_types": node.op_type in recipe.exclude_op_types,
        f"ONNX Runtime has no {recipe.scheme} INT8 kernel for {node.op_type}": (
            node.op_type not in supported(recipe.scheme)
        ),
        f"recipe {recipe.name!r} leaves {node.op_type} out": node.op_type not in chosen,
        f"ONNX Runtime quantizes {node.op_type} and has no integer kernel for it on the CPU": (
            node.op_type in _FLOAT_ON_CPU
        ),
        "a product of two activations, which a dynamic recipe leaves out": (
            recipe.scheme == "dynamic" and not any(name in weights for name in node.input[1:])
        ),
    }
    return next((reason for reason, holds in told.items() if holds), None)


def float_types() -> dict[int, str]:
    """Element types that can be quantized, with numpy's name."""
    from onnx import TensorProto

    return {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
