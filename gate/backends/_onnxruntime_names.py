"""Names that ONNX Runtime's quantizers make, kept apart from those that a model has.

A tensor `x` gets a scale `x_scale`, whatever is called so already: one of the two is then read as
the other, and where types and shapes agree nothing fails.
"""

from collections.abc import Iterable
from typing import Any

from gate import graph as graphs
from gate.errors import QuantizationError
from gate.wording import few

_ENDINGS = (
    *("_quantized", "_scale", "_zero_point", "_quantized_scale", "_quantized_zero_point"),
    *("_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output"),
)


def keep_apart(model: Any, selected: Iterable[str]) -> None:
    """Rename constants, in place, that are called as what quantizing the nodes `selected` makes.

    Raises:
        QuantizationError: a tensor that is computed is called so, or one that callers know.
    """
    nodes, names = model.graph.node, frozenset(selected)
    touched = {
        name for node in nodes if node.name in names for name in (*node.input, *node.output) if name
    }
    made = {name + ending for name in touched for ending in _ENDINGS}
    constants = {tensor.name for tensor in model.graph.initializer}
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    computed = {name for node, _ in graphs.walk(model) for name in node.output}
    _refuse(sorted(made & (computed | known)))
    taken = constants | computed | known | made
    _rename(model, {name: graphs.free(name + "_", taken) for name in sorted(made & constants)})


def _refuse(clashing: list[str]) -> None:
    if clashing:
        raise QuantizationError(
            f"the model has tensors that are called as what ONNX Runtime's quantizer makes beside "
            f"another: {few(clashing)}. Rename them, and export the model again"
        )


def _rename(model: Any, names: dict[str, str]) -> None:
    for tensor in (*model.graph.initializer, *model.graph.value_info):
        tensor.name = names.get(tensor.name, tensor.name)
    if names:
        for node, _ in graphs.walk(model):
            node.input[:] = [names.get(name, name) for name in node.input]
