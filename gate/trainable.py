"""A torch module as a graph that trains with INT8's rounding in it, and that graph as QDQ ONNX.

The way is torch's own: `torch.export`, torchao's `prepare_qat_pt2e` and `convert_pt2e`, and
`torch.onnx.export`. BatchNorm is dealt with here, because torchao 0.18 folds it with an eps of 1e-5
and trains it with a momentum of 0.1 whatever the module says, after convolutions alone, and takes
half a minute.
"""

import ast
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gate import graph as graphs
from gate.errors import CandidateError
from gate.rounding import WEIGHTED, operator, quantizer, specs

_TRAINING = {"batch_norm": 5, "dropout": 2, "feature_dropout": 2}
"""Which argument of the operator says whether it trains."""
_ATTENTION = "scaled_dot_product_attention"
_CHANCE = 4
"""Which of its arguments is the probability of dropout, 0 in evaluation mode."""
_PARITY = 1e-4
"""Largest difference between a module and its graph, as a share of the output's largest value."""
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Traced:
    """A module as a graph, in training mode."""

    module: Any
    """A `torch.fx.GraphModule`."""
    outputs: tuple[str, ...]
    """Names of its outputs, as torch's ONNX exporter gives them."""


def trace(module: Any, arguments: Sequence[Any], *, dynamic_batch: bool) -> Traced:
    """The module's graph, which in evaluation mode computes what the module does.

    Args:
        module: a `torch.nn.Module`; it is left in training mode.
        arguments: its inputs, tensors of at least two examples, (B, …) each.
        dynamic_batch: leave B free.

    Raises:
        CandidateError: torch cannot trace it, or its modes differ in more than BatchNorm and
            Dropout.
    """
    import torch

    name = type(module).__name__
    try:
        with torch.no_grad():
            expected = module.eval()(*arguments)
        program = torch.export.export(
            module.train(), tuple(arguments), dynamic_shapes=_free(arguments, dynamic_batch)
        )
        traced = _tidied(program.module())
        switch(traced, training=False)
        with torch.no_grad():
            got = traced(*arguments)
        switch(traced, training=True)
    except Exception as error:
        hint = "; if its batch is fixed, pass dynamic_batch=False" if dynamic_batch else ""
        raise CandidateError(
            f"{name} cannot be traced by torch.export: {graphs.first_line(error)}{hint}"
        ) from error
    if not _same(expected, got):
        raise CandidateError(
            f"{name}, traced in training mode and put into evaluation mode, computes something "
            "else than in evaluation mode: it asks `self.training`, or has a layer besides "
            "BatchNorm and Dropout that does. Take that out of it"
        )
    outputs = program.graph_signature.user_outputs
    return Traced(traced, tuple(output for output in outputs if isinstance(output, str)))


def prepared(traced: Traced, *, per_channel: bool, reduce_range: bool) -> Any:
    """The graph with rounding in it, as a `torch.nn.Module` to train; `traced` is used up."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    for norm in _batch_norms(traced.module):
        layer = norm.args[0]
        if operator(layer) in WEIGHTED and len(layer.users) == 1:
            _scale_by_batch_norm(traced.module.graph, layer, norm)
    traced.module.recompile()
    chosen = specs(per_channel=per_channel, reduce_range=reduce_range)
    ready = prepare_qat_pt2e(traced.module, quantizer(chosen))
    trainable = _trainable()(ready, ready.graph)
    trainable.meta.update(ready.meta)
    return trainable.train()


def converted(module: Any, arguments: Sequence[Any]) -> Any:
    """A copy of a prepared module on the CPU that computes with int8 weights, QDQ style.

    `arguments` are inputs, (B, …) each, for the one pass in which the scales of folded weights
    settle.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    folded = copy.deepcopy(module).cpu().eval()
    for norm in _batch_norms(folded):
        if "folds" in norm.meta:
            _fold(folded.graph, norm)
        else:
            _spell_out(folded.graph, norm)
    folded.graph.eliminate_dead_code()
    folded.recompile()
    with torch.no_grad():
        folded(*arguments)
    return convert_pt2e(folded)


def to_onnx(
    module: Any, examples: Mapping[str, Any], *, outputs: Sequence[str], dynamic_batch: bool
) -> Any:
    """What `converted` gives as a ModelProto, without a trace of the machine that made it.

    Its layers bear the names of the modules that they come from.

    Args:
        module: the graph.
        examples: tensors by input name, (B, …) each, in the graph's order.
        outputs: their names, in the graph's order.
        dynamic_batch: leave B free, as `batch`.
    """
    import torch

    arguments = tuple(examples.values())
    free = _free(arguments, dynamic_batch)
    program = torch.onnx.export(module, arguments, dynamo=True, dynamic_shapes=free, verbose=False)
    model = program.model_proto
    for node in model.graph.node:
        node.name = _layer(node) or node.name
    graphs.name_nodes(model)
    _rename(model, model.graph.input, tuple(examples))
    _rename(model, model.graph.output, outputs)
    graphs.strip(model)
    return model


# ── modes ─────────────────────────────────────────────────────────────────────────────────


def switch(module: Any, *, training: bool) -> None:
    """A graph's BatchNorm and Dropout into training or evaluation mode, and nothing else.

    torchao's `move_exported_model_to_eval` would also reset eps and momentum.
    """
    for node in module.graph.nodes:
        name = operator(node)
        if name in _TRAINING and (name != "batch_norm" or _keeps_statistics(node)):
            node.update_arg(_TRAINING[name], training)
        elif name == _ATTENTION and len(node.args) > _CHANCE:
            chance = node.meta.setdefault("chance", node.args[_CHANCE])
            node.update_arg(_CHANCE, chance if training else 0.0)
    module.recompile()


@cache
def _trainable() -> Any:
    import torch

    class Trainable(torch.fx.GraphModule):  # type: ignore[misc]
        """A graph whose `train()` and `eval()` reach BatchNorm and Dropout; copies keep that."""

        def train(self, mode: bool = True) -> Any:
            switch(self, training=mode)
            return super().train(mode)

    return Trainable


def _tidied(module: Any) -> Any:
    """Without guards on shapes and without BatchNorm's count of batches."""
    for node in list(module.graph.nodes):
        counts = operator(node) == "add" and "num_batches_tracked" in str(node.args[0])
        if counts or str(node.target) == "_guards_fn":
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _same(expected: Any, got: Any) -> bool:
    import torch
    from torch.utils._pytree import tree_leaves

    pairs = zip(tree_leaves(expected), tree_leaves(got), strict=True)
    return all(
        torch.allclose(a, b, rtol=_PARITY, atol=_PARITY * float(a.abs().max()), equal_nan=True)
        for a, b in pairs
        if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel()
    )


def _free(arguments: Sequence[Any], dynamic_batch: bool) -> Any:
    import torch

    return tuple({0: torch.export.Dim("batch")} for _ in arguments) if dynamic_batch else None


# ── BatchNorm ─────────────────────────────────────────────────────────────────────────────


def _batch_norms(module: Any) -> list[Any]:
    nodes = (node for node in module.graph.nodes if operator(node) == "batch_norm")
    return [node for node in nodes if _keeps_statistics(node)]


def _keeps_statistics(norm: Any) -> bool:
    """Without them BatchNorm goes by each batch in either mode."""
    return norm.args[3] is not None


def _scale_by_batch_norm(graph: Any, layer: Any, norm: Any) -> None:
    """Round the weights as BatchNorm will scale them: W -> round(W · f) / f, f = γ / σ.

    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.2, with σ of the running variance. Where γ = 0
    any f will do, and it is 1. The alias hides the pair from torchao.
    """
    import torch

    aten = torch.ops.aten
    weight = layer.args[1]
    shape = [-1] + [1] * (weight.meta["val"].dim() - 1)
    with graph.inserting_before(layer):
        factor = _factor(graph, norm)
        zero = graph.call_function(aten.eq.Scalar, (factor, 0))
        safe = graph.call_function(aten.where.ScalarSelf, (zero, 1.0, factor))
        factors = graph.call_function(aten.reshape.default, (safe, shape))
        scaled = graph.call_function(aten.mul.Tensor, (weight, factors))
        back = graph.call_function(aten.div.Tensor, (scaled, factors))
    layer.update_arg(1, back)
    with graph.inserting_before(norm):
        alias = graph.call_function(aten.alias.default, (layer,))
    norm.update_arg(0, alias)
    scaled.meta["val"] = weight.meta["val"]  # torchao rounds what it knows to be a tensor
    back.meta["scaled"] = alias.meta["folds"] = norm.meta["folds"] = True


def _fold(graph: Any, norm: Any) -> None:
    """BatchNorm into the layer before it: weights round(W · f), bias (b - μ) · f + β."""
    layer = norm.args[0].args[0]
    values, back, bias, *others = (*layer.args, None)[: max(3, len(layer.args))]
    rounded, factors = back.args
    safe = factors.args[0]
    factor = safe.args[2]
    safe.replace_all_uses_with(factor)
    with graph.inserting_before(layer):
        shift = _shift(graph, norm, factor, bias)
    layer.args = (values, rounded, shift, *others)
    norm.replace_all_uses_with(layer)
    graph.erase_node(norm)


def _spell_out(graph: Any, norm: Any) -> None:
    """BatchNorm by itself as x · f + (β - μ · f): torchao is slow where it meets one."""
    import torch

    aten = torch.ops.aten
    shape = [1, -1] + [1] * (norm.meta["val"].dim() - 2)
    with graph.inserting_before(norm):
        factor = _factor(graph, norm)
        shift = _shift(graph, norm, factor, None)
        factor, shift = (
            graph.call_function(aten.reshape.default, (part, shape)) for part in (factor, shift)
        )
        scaled = graph.call_function(aten.mul.Tensor, (norm.args[0], factor))
        result = graph.call_function(aten.add.Tensor, (scaled, shift))
    norm.replace_all_uses_with(result)
    graph.erase_node(norm)


def _factor(graph: Any, norm: Any) -> Any:
    """f = γ / σ, or 1 / σ: (C,)."""
    import torch

    aten = torch.ops.aten
    gamma, variance, eps = norm.args[1], norm.args[4], norm.args[7]
    shifted = graph.call_function(aten.add.Tensor, (variance, eps))
    sigma = graph.call_function(aten.sqrt.default, (shifted,))
    if gamma is None:
        return graph.call_function(aten.reciprocal.default, (sigma,))
    return graph.call_function(aten.div.Tensor, (gamma, sigma))


def _shift(graph: Any, norm: Any, factor: Any, bias: Any) -> Any:
    """(b - μ) · f + β: (C,)."""
    import torch

    aten = torch.ops.aten
    beta, mean = norm.args[2:4]
    if bias is None:
        centred = graph.call_function(aten.neg.default, (mean,))
    else:
        centred = graph.call_function(aten.sub.Tensor, (bias, mean))
    shift = graph.call_function(aten.mul.Tensor, (centred, factor))
    return shift if beta is None else graph.call_function(aten.add.Tensor, (shift, beta))


# ── ONNX ──────────────────────────────────────────────────────────────────────────────────


def _layer(node: Any) -> str:
    """The module that a product comes from, `features.0`; empty where there is none."""
    if node.op_type not in _PRODUCTS:
        return ""
    scopes = {entry.key: entry.value for entry in node.metadata_props}
    found = ast.literal_eval(scopes.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(found[-2]) if len(found) > 1 else ""


def _rename(model: Any, values: Any, names: Sequence[str]) -> None:
    """Give inputs or outputs these names; whatever bore one of them gets another."""
    new = dict(zip((value.name for value in values), names, strict=True))
    new = {name: f"{name}_inner" for name in names if name not in new} | new
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    parts = (model.graph.input, model.graph.output, model.graph.initializer, model.graph.value_info)
    for part in (entry for entries in parts for entry in entries):
        part.name = new.get(part.name, part.name)
