"""Which values of a torch graph are rounded to INT8, and how they are while it trains.

What is rounded follows the kernels that ONNX Runtime has: convolutions, linear layers and matrix
products with what they feed, and what joins rounded values. Everything else stays as it is.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

WEIGHTED = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
"""Layers that the runtime computes in integers; output channels are the weights' first axis."""
_PRODUCTS = frozenset({"matmul", "bmm"})
"""Of two activations."""
_JOINS = frozenset({"add", "cat", "avg_pool2d", "adaptive_avg_pool2d", "mean"})
"""Computed in integers where all that comes in is rounded."""
_TRANSPARENT = frozenset(
    {"max_pool2d", "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze"}
) | {"dropout", "feature_dropout"}
"""What leaves rounded values on their grid."""
_CUTS = frozenset({"hardtanh", "clamp"})
"""Computed with the layer before them, as ReLU is, where they cut at 0 below."""
_SMALLEST_SCALE = 2.0**-16
"""Of weights. A bias is an int32 in units of scales: a channel of zeros must leave it room."""


@dataclass(frozen=True, slots=True)
class Specs:
    """torchao's specifications of the two kinds of rounding."""

    activation: Any
    """uint8 with a zero point, by a moving average of the range."""
    weight: Any
    """int8 without a zero point, by the range as it is."""


def specs(*, per_channel: bool, reduce_range: bool) -> Specs:
    """How activations and weights are rounded; `reduce_range` leaves weights 7 bits."""
    import torch
    from torchao.quantization.pt2e import (
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    rounding, largest = _rounding(), 64 if reduce_range else 127
    by_channel = {"ch_axis": 0, "qscheme": torch.per_channel_symmetric}
    whole = {"qscheme": torch.per_tensor_symmetric}
    observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
    return Specs(
        activation=QuantizationSpec(
            dtype=torch.uint8,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=rounding.with_args(observer=MovingAverageMinMaxObserver),
        ),
        weight=QuantizationSpec(
            dtype=torch.int8,
            quant_min=-largest,
            quant_max=largest,
            observer_or_fake_quant_ctr=rounding.with_args(
                observer=observer, averaging_constant=1.0, eps=_SMALLEST_SCALE
            ),
            **(by_channel if per_channel else whole),
        ),
    )


def quantizer(chosen: Specs) -> Any:
    """What torchao's `prepare_qat_pt2e` asks what to round."""
    from torchao.quantization.pt2e.quantizer import Quantizer

    class RuntimeQuantizer(Quantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            _annotate(model.graph, chosen)
            return model

        def validate(self, model: Any) -> None:
            pass

    return RuntimeQuantizer()


def roundings(module: Any) -> dict[str, Any]:
    """The fake quantizers in a prepared module, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, _rounding())}


def is_seen(rounding: Any) -> bool:
    """Whether any batch has passed through it in training."""
    smallest = rounding.activation_post_process.min_val
    return bool(smallest.numel()) and bool(smallest.isfinite().all())


@cache
def _rounding() -> Any:
    from torchao.quantization.pt2e import FakeQuantize

    class Rounding(FakeQuantize):  # type: ignore[misc]
        """Rounds by what it saw in training; what it meets in evaluation teaches it nothing.

        Weights are looked at each time, and activations pass unrounded until one was seen.
        """

        def forward(self, values: Any) -> Any:
            if self.training or self.is_of_weights:
                return super().forward(values)
            if not is_seen(self):
                return values
            watching = self.observer_enabled.clone()
            self.disable_observer()
            try:
                return super().forward(values)
            finally:
                self.observer_enabled.copy_(watching)

        @property
        def is_of_weights(self) -> bool:
            return bool(self.quant_min < 0)

    return Rounding


# ── what is rounded ───────────────────────────────────────────────────────────────────────


def _annotate(graph: Any, chosen: Specs) -> None:
    rounded: set[Any] = set()
    for node in graph.nodes:
        name = operator(node)
        if name in WEIGHTED and _is_float(node):
            _round_weight(node, chosen)
            _round_source(node, node.args[0], rounded, chosen)
        elif name in _PRODUCTS and _is_float(node):
            for operand in node.args:
                _round_source(node, operand, rounded, chosen)
        elif (
            name not in _JOINS or not {_source(value) for value in node.all_input_nodes} <= rounded
        ):
            continue
        end = _end(node)
        _annotation(end).output_qspec = chosen.activation
        rounded.add(end)


def _round_weight(layer: Any, chosen: Specs) -> None:
    """The weight itself, or as BatchNorm scales it: see `trainable`."""
    weight = layer.args[1]
    if "scaled" in weight.meta:
        _annotation(weight.args[0]).output_qspec = chosen.weight
    else:
        _annotation(layer).input_qspec_map[weight] = chosen.weight


def _round_source(node: Any, operand: Any, rounded: set[Any], chosen: Specs) -> None:
    """Round what `operand` comes from, where nothing rounds it yet."""
    while operator(operand) in _TRANSPARENT:
        node, operand = operand, operand.args[0]
    if operand not in rounded:
        _annotation(node).input_qspec_map[operand] = chosen.activation


def _source(node: Any) -> Any:
    """What made these values, before they were moved about."""
    while operator(node) in _TRANSPARENT:
        node = node.args[0]
    return node


def _end(node: Any) -> Any:
    """The last of the nodes that the runtime computes together with `node`."""
    users = list(node.users)
    return _end(users[0]) if len(users) == 1 and _is_swallowed(users[0]) else node


def _is_swallowed(node: Any) -> bool:
    name = operator(node)
    cuts_at_zero = name in _CUTS and node.args[1:2] in ((0,), (0.0,))
    return name == "relu" or cuts_at_zero or "folds" in node.meta


def _annotation(node: Any) -> Any:
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    fresh = QuantizationAnnotation(_annotated=True)
    return node.meta.setdefault("quantization_annotation", fresh)


def operator(node: Any) -> str:
    """`relu` of torch.ops.aten.relu_.default; empty for what is no operator."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return "" if schema is None else schema.name.removeprefix("aten::").rstrip("_")


def _is_float(node: Any) -> bool:
    return str(node.meta["val"].dtype) == "torch.float32"
