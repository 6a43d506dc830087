"""What the runtime executed: profiler events -> kernels with their real work.

Shapes are those of the run, so the work is what was executed: a convolution in the blocked NCHWc
layout counts the channels that the layout pads.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from gate.errors import EvaluationError
from gate.values import Kernel

Shape = tuple[int, ...]
_SUFFIX = "_kernel_time"
_MATRIX = 2
"""Axes of a matrix."""

_UNCOUNTED = frozenset(
    {
        "CausalConvWithState",
        "DFT",
        "FlexAttention",
        "LinearAttention",
        "LinearClassifier",
        "LinearRegressor",
        "MelWeightMatrix",
        "STFT",
        "SVMClassifier",
        "SVMRegressor",
    }
)
"""Standard operators whose work is not counted yet."""
_FUSED = frozenset(
    {
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "DynamicTimeWarping",
        "EmbedLayerNormalization",
        "ExpandDims",
        "FastGelu",
        "FusedGelu",
        "GroupNorm",
        "IsAllFinite",
        "MemcpyFromHost",
        "MemcpyToHost",
        "MurmurHash3",
        "NhwcFusedMaxPool",
        "NhwcMaxPool",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuickGelu",
        "ReorderInput",
        "ReorderOutput",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Tokenizer",
    }
)
"""Operators of ONNX Runtime's own that move, scale or add, but do not multiply matrices."""
INTEGER_OPERAND = {
    "QLinearConv": 3,
    "QLinearConvTranspose": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "ConvInteger": 1,
    "QAttention": 1,
    "DynamicQuantizeLSTM": 1,
}
"""Kernels that multiply integers, and the operand whose type proves it."""


@dataclass(frozen=True, slots=True)
class _Event:
    node: str
    op: str
    index: str
    types: tuple[str, ...]
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


def parse(file: Path, equations: Mapping[str, str]) -> tuple[Kernel, ...]:
    """The kernels in a profile of one run, in the order they ran; a loop's repeats are summed.

    `equations` are those of the model's Einsum nodes, by node name.

    Raises:
        EvaluationError: the profile cannot be read.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        events = [_event(record) for record in records if _is_kernel(record)]
    except (ValueError, KeyError) as error:
        raise EvaluationError(
            f"ONNX Runtime wrote a profile that cannot be read ({error}), so nothing proves what "
            "ran; rename nodes that have quotes, backslashes or control characters in their names"
        ) from error
    return _merged((event, _kernel(event, equations)) for event in events)


def _is_kernel(record: Mapping[str, Any]) -> bool:
    return record.get("cat") == "Node" and str(record["name"]).endswith(_SUFFIX)


def _event(record: Mapping[str, Any]) -> _Event:
    args = record["args"]
    return _Event(
        node=record["name"].removesuffix(_SUFFIX),
        op=args["op_name"],
        index=args["node_index"],
        types=tuple(kind for entry in args["input_type_shape"] for kind in entry),
        inputs=_shapes(args["input_type_shape"]),
        outputs=_shapes(args["output_type_shape"]),
    )


def _shapes(entries: Iterable[Mapping[str, list[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for entry in entries for shape in entry.values())


def _merged(pairs: Iterable[tuple[_Event, Kernel]]) -> tuple[Kernel, ...]:
    found: dict[tuple[str, str, str], Kernel] = {}
    for event, kernel in pairs:
        key = (event.node, event.op, event.index)
        before = found[key].macs if key in found else 0
        found[key] = replace(kernel, macs=before + kernel.macs)
    return tuple(found.values())


def _kernel(event: _Event, equations: Mapping[str, str]) -> Kernel:
    return Kernel(
        node=event.node, op=event.op, integer=_is_integer(event), macs=_macs(event, equations)
    )


def _is_integer(event: _Event) -> bool:
    operand = INTEGER_OPERAND.get(event.op)
    if operand is None or operand >= len(event.types):
        return False
    return event.types[operand] in ("int8", "uint8")


def _macs(event: _Event, equations: Mapping[str, str]) -> int:
    if event.op == "Einsum":
        return _einsum(event, equations)
    count = _WORK.get(event.op)
    if count is not None:
        return count(event)
    if event.op not in _without_work():
        raise EvaluationError(
            f"nobody told gate how much work operator {event.op!r} (node {event.node!r}) does, so "
            "the share that runs as INT8 is unknown; export the model with standard operators"
        )
    return 0


@cache
def _without_work() -> frozenset[str]:
    """Operators that multiply and accumulate nothing to speak of."""
    from onnx import defs

    standard = {schema.name for schema in defs.get_all_schemas()}
    return frozenset(standard - _UNCOUNTED | _FUSED)


def _convolution(weight: int) -> Callable[[_Event], int]:
    """Each output element sums over one filter: |y| · |w| / M, w of shape (M, C/g, …)."""

    def count(event: _Event) -> int:
        shape = event.inputs[weight]
        return prod(event.outputs[0]) * prod(shape[1:])

    return count


def _transposed_convolution(weight: int) -> Callable[[_Event], int]:
    """Each input element meets one filter: |x| · |w| / C, w of shape (C, M/g, …)."""

    def count(event: _Event) -> int:
        shape = event.inputs[weight]
        return prod(event.inputs[0]) * prod(shape[1:])

    return count


def _matmul(event: _Event) -> int:
    """|y| · K, K the last axis of the first operand."""
    return prod(event.outputs[0]) * event.inputs[0][-1]


def _maybe_transposed_matmul(event: _Event) -> int:
    """|y| · K, where A may be stored (…, K, M): K is what is left of A's last two axes by M."""
    a, y = event.inputs[0], event.outputs[0]
    if min(len(a), len(y)) < _MATRIX or y[-2] == 0:
        return _matmul(event)
    return prod(y) * (a[-1] * a[-2] // y[-2])


def _gemm(event: _Event) -> int:
    """|A| · N, which is M · K · N whether A is transposed or not."""
    return prod(event.inputs[0]) * event.outputs[0][-1]


def _recurrent(event: _Event) -> int:
    """Sequence · batch · (|W| + |R|): one product with each weight a step."""
    x, w, r = event.inputs[:3]
    return prod(x[:-1]) * (prod(w) + prod(r))


def _attention(event: _Event) -> int:
    """Q·Kᵀ and its product with V; with packed weights (H, 3·H') their projection before."""
    q, second = event.inputs[:2]
    if len(second) == _MATRIX:
        hidden = second[-1] // 3
        return prod(q) * second[-1] + 2 * prod(q[:-1]) * q[-2] * hidden
    keys, value = second[-2], event.inputs[2]
    return prod(q) * keys + prod(q[:-1]) * keys * value[-1]


def _einsum(event: _Event, equations: Mapping[str, str]) -> int:
    """The product of all index sizes, ellipses broadcast; one operand multiplies nothing."""
    if event.node not in equations:
        raise EvaluationError(
            f"cannot count the work of Einsum node {event.node!r}: give it a name of its own"
        )
    if len(event.inputs) == 1:
        return 0
    terms = equations[event.node].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, event.inputs, strict=True):
        for label, size in _labelled(term, shape):
            sizes[label] = max(size, sizes.get(label, 1))
    return prod(sizes.values())


def _labelled(term: str, shape: Shape) -> list[tuple[str, int]]:
    """`a...b` on (2, 5, 7, 3) is a=2, …2=5, …1=7, b=3; ellipses align at their right."""
    head, dots, tail = term.partition("...")
    if not dots:
        return list(zip(term, shape, strict=True))
    middle = len(shape) - len(head) - len(tail)
    labels = [*head, *(f"…{middle - axis}" for axis in range(middle)), *tail]
    return list(zip(labels, shape, strict=True))


_WORK: Mapping[str, Callable[[_Event], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger"), _convolution(1)),
    "DeformConv": _convolution(1),
    "QLinearConv": _convolution(3),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads"), _transposed_convolution(1)),
    "QLinearConvTranspose": _transposed_convolution(3),
    **dict.fromkeys(("MatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4"), _matmul),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), _maybe_transposed_matmul),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _gemm),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", "MultiHeadAttention"), _attention),
    "GroupQueryAttention": _attention,
}
