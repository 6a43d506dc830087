"""ONNX graphs as data: read, walked, named, typed and written."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from gate import artifact
from gate.errors import CandidateError

INLINE_LIMIT = 1_500_000_000
"""Bytes above which weights go to a file beside the model; protobuf ends at 2 GB."""
_SMALL = 1024
"""Values of a constant that may say what shape something has."""


def read(path: Path, *, weights: bool = True) -> Any:
    """The ModelProto in `path`; without `weights`, external data stay on disk.

    Raises:
        CandidateError: it is not a readable ONNX model.
    """
    import onnx

    try:
        return onnx.load(str(path), load_external_data=weights)
    except Exception as error:
        raise CandidateError(
            f"cannot read {path} as ONNX: {first_line(error)}. Export the model again."
        ) from error


def write(model: Any, destination: Path) -> None:
    """Write the model; large ones keep their weights in `<name>.data` beside it."""
    import onnx

    beside = artifact.weights_of(destination)
    beside.unlink(missing_ok=True)
    if not is_large(model):
        onnx.save_model(model, str(destination))
        return
    onnx.save_model(model, str(destination), save_as_external_data=True, location=beside.name)


def needs_data_file(path: Path) -> bool:
    """Whether the model's weights lie beside it, or are too much for one file."""
    beside = any(tensor.external_data for tensor in tensors(read(path, weights=False)))
    return beside or path.stat().st_size > INLINE_LIMIT


def is_large(model: Any) -> bool:
    """Whether it is too much for one file; protobuf cannot size 2 GB, of a tensor even."""
    sizes = (len(tensor.raw_data) or tensor.ByteSize() for tensor in tensors(model))
    return int(sum(sizes)) > INLINE_LIMIT


def tensors(model: Any) -> Iterator[Any]:
    """Every constant: initializers and attributes, those of subgraphs and functions included."""
    yield from model.graph.initializer
    for node, _ in walk(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from graph.initializer


def constants(model: Any) -> set[str]:
    """Names of the main graph's tensors that are known before it runs."""
    graph = model.graph
    given = {tensor.name for tensor in graph.initializer}
    given |= {tensor.values.name for tensor in graph.sparse_initializer}
    return given | {node.output[0] for node in graph.node if node.op_type == "Constant"}


def float_weights(model: Any) -> dict[str, int]:
    """Bytes of every constant of a floating-point type, by name, the largest first."""
    from onnx import TensorProto, helper

    sizes: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
            width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            sizes[tensor.name] = sizes.get(tensor.name, 0) + width * math.prod(tensor.dims)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def walk(model: Any) -> Iterator[tuple[Any, str]]:
    """Every node with the path of the subgraph or function that holds it, `""` at the top."""
    yield from _walk(model.graph.node, "")
    for function in model.functions:
        yield from _walk(function.node, f"{function.name}/")


def _walk(nodes: Any, where: str) -> Iterator[tuple[Any, str]]:
    for node in nodes:
        yield node, where
        for graph in subgraphs(node):
            yield from _walk(graph.node, f"{where}{node.name or node.op_type}/")


def subgraphs(node: Any) -> Iterator[Any]:
    """The bodies of an If, a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def read_inside(node: Any) -> Iterator[str]:
    """Tensors that the bodies of an If, a Loop or a Scan read or give, of whichever graph."""
    for body in subgraphs(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from inner.input
            yield from read_inside(inner)


def name_nodes(model: Any) -> int:
    """Give every node of the main graph a name of its own; how many needed one.

    A nameless one is named as the runtime does, `Conv_3`, so that it can be spoken of.
    """
    taken: set[str] = set()
    renamed = 0
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = free(f"{node.name or node.op_type}_{index}", taken)
            renamed += 1
        taken.add(node.name)
    return renamed


def free(name: str, taken: Collection[str]) -> str:
    """`name`, with underscores where it is taken."""
    while name in taken:
        name += "_"
    return name


def drop_weight_inputs(model: Any) -> int:
    """Take initializers off the inputs, where IR versions below 4 list them; how many."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    dropped = len(model.graph.input) - len(kept)
    if dropped:
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, 4)
    return dropped


def casts_of_weights(model: Any) -> list[Any]:
    """Nodes that turn a constant into one of another type, each time anew.

    ONNX Runtime writes them for float16, of which its CPU has few kernels.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = {value.name for value in model.graph.output}
    return [
        node
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in weights and node.output[0] not in kept
    ]


def fold_casts(model: Any) -> int:
    """Put what `casts_of_weights` give in their place; how many."""
    from onnx import helper, numpy_helper

    graph, casts = model.graph, casts_of_weights(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for cast in casts:
        kind = helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(cast, "to"))
        values = numpy_helper.to_array(weights[cast.input[0]]).astype(kind)
        graph.initializer.append(numpy_helper.from_array(values, cast.output[0]))
        graph.node.remove(cast)
    read = {name for node, _ in walk(model) for name in (*node.input, *read_inside(node))}
    read |= {value.name for value in graph.output}
    for name in {cast.input[0] for cast in casts} - read:
        graph.initializer.remove(weights[name])
    return len(casts)


def typed(model: Any) -> Any:
    """The model with the types and shapes of its tensors inferred, as far as they can be.

    `model` itself is used up: of a large one weights are held once. What it says of its weights is
    dropped: a quantizer that transposes one would contradict it.
    """
    from onnx import shape_inference

    weights = {tensor.name for tensor in model.graph.initializer}
    stated = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(stated)
    if not is_large(model):
        return shape_inference.infer_shapes(model)
    inferred = shape_inference.infer_shapes(_without_weights(model)).graph
    for field in ("node", "output", "value_info"):
        theirs = getattr(inferred, field)
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(theirs)
    return model


def _without_weights(model: Any) -> Any:
    """The same with no values in large initializers, whose types and shapes are enough."""
    from onnx import ModelProto, TensorProto

    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            bare.graph.initializer.append(tensor)
        else:
            elsewhere = TensorProto.EXTERNAL
            bare.graph.initializer.add(
                name=tensor.name,
                dims=tensor.dims,
                data_type=tensor.data_type,
                data_location=elsewhere,
            )
    return bare


def tensor_types(model: Any) -> dict[str, int]:
    """Element type by tensor name, of inputs, outputs and what `typed` inferred."""
    graph = model.graph
    values = [*graph.value_info, *graph.output, *graph.input]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def ranks(model: Any) -> dict[str, int]:
    """Number of axes by tensor name, where that is known; as `tensor_types`."""
    graph = model.graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }


def opset(model: Any) -> int:
    """Version of the standard operators."""
    return max((entry.version for entry in model.opset_import if not entry.domain), default=0)


def depends_on_batch(model: Any) -> bool:
    """Whether it quantizes activations as they come, over a whole batch: mates change outputs."""
    return any(node.op_type.startswith("DynamicQuantize") for node, _ in walk(model))


def keep_used_domains(model: Any) -> None:
    """Drop operator sets that no node uses; the runtime lists all it knows."""
    used = {node.domain for node, _ in walk(model)} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def strip(model: Any) -> None:
    """Exporters leave paths and stack traces of their machine: the hash must not see them."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip_graph(model.graph)
    for tensor in tensors(model):
        tensor.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def _strip_graph(graph: Any) -> None:
    graph.doc_string = ""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    for node in graph.node:
        for body in subgraphs(node):
            _strip_graph(body)
