"""Ways in which a good FP32 model becomes a bad INT8 one while FP32 itself stays as it was."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SPREAD = 300.0


def wide_range(model: Any) -> Any:
    """Spread the channel ranges of a Conv, and undo it in the Conv that reads them.

    ReLU lets a positive factor through, so FP32 computes the same function; one scale for the
    whole activation then leaves the small channels a handful of integer steps. Training with
    BatchNorm does the same by accident (Nagel et al. 2019, "Data-Free Quantization Through
    Weight Equalization and Bias Correction", section 3).
    """
    from onnx import numpy_helper

    spoilt = _copy(model)
    weights = {tensor.name: tensor for tensor in spoilt.graph.initializer}
    first, second = [node for node in spoilt.graph.node if node.op_type == "Conv"][:2]
    channels = numpy_helper.to_array(weights[first.input[1]]).shape[0]
    factor = np.where(np.arange(channels) % 8 == 0, SPREAD, 1.0).astype(np.float32)
    _scale(weights[first.input[1]], factor[:, None, None, None])
    _scale(weights[first.input[2]], factor)
    _scale(weights[second.input[1]], 1.0 / factor[None, :, None, None])
    return spoilt


def subgraph(model: Any) -> Any:
    """Move the whole network into the branches of an If, as some exporters do.

    ONNX Runtime's quantizers look at the main graph only: they report success and quantize
    nothing.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    branches = [_branch(graph, name) for name in ("then", "else")]
    image, output = graph.input[0].name, graph.output[0].name
    main = helper.make_graph(
        [
            helper.make_node("ReduceMax", [image], ["brightest"], keepdims=0),
            helper.make_node("Greater", ["brightest", "blank"], ["has_ink"]),
            helper.make_node(
                "If", ["has_ink"], [output], then_branch=branches[0], else_branch=branches[1]
            ),
        ],
        "digits",
        graph.input,
        graph.output,
        [numpy_helper.from_array(np.array(0.5, np.float32), "blank")],
    )
    return helper.make_model(
        main, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name="gate"
    )


def _branch(graph: Any, prefix: str) -> Any:
    """The graph as a body that reads the outer graph's input, its own tensors prefixed."""
    from onnx import helper

    inner = {name for node in graph.node for name in node.output}
    body = helper.make_graph([], prefix, [], [_copy(graph.output[0])])
    body.output[0].name = f"{prefix}/{graph.output[0].name}"
    body.initializer.extend(graph.initializer)
    for node in graph.node:
        copy = _copy(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [f"{prefix}/{name}" if name in inner else name for name in node.input]
        copy.output[:] = [f"{prefix}/{name}" for name in node.output]
        body.node.append(copy)
    return body


def _scale(tensor: Any, factor: Any) -> None:
    from onnx import numpy_helper

    scaled = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _copy(proto: Any) -> Any:
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


VILLAINS: Mapping[str, Callable[[Any], Any]] = {
    "wide-range.onnx": wide_range,
    "subgraph.onnx": subgraph,
}
