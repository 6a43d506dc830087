"""Models that somebody made to harm whoever opens them; each a way to write one into a folder.

All have the digits' input (N, 1, 8, 8) and an output (N, 10), where they have any.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.project import CNN

Villain = Callable[[Path], Path]
FLOAT = TensorProto.FLOAT


def saved(folder: Path, model: Any) -> Path:
    file = folder / "villain.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def model_of(nodes: list[Any], initializers: tuple[Any, ...] = (), **more: Any) -> Any:
    graph = helper.make_graph(
        nodes,
        "villain",
        [helper.make_tensor_value_info("image", FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", FLOAT, ["n", 10])],
        list(initializers),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        ir_version=9,
        **more,
    )


def with_extra(nodes: list[Any], added: str, initializers: tuple[Any, ...] = ()) -> Any:
    """The digits' model, to whose output something is added."""
    model = onnx.load(CNN)
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[0] = "before"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", added], [output.name])])
    model.graph.initializer.extend(initializers)
    return model


def int64(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def one(text: str) -> Any:
    return helper.make_node("ReduceMean", ["before"], [text], keepdims=0)


# ── graphs that are none, or without end ──────────────────────────────────────────────────


def circle(folder: Path) -> Path:
    """Two nodes that wait for each other."""
    nodes = [
        helper.make_node("Add", ["before", "b"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
    ]
    return saved(folder, with_extra(nodes, "a"))


def snake(folder: Path) -> Path:
    """A node that reads what it writes."""
    return saved(folder, with_extra([helper.make_node("Add", ["before", "a"], ["a"])], "a"))


def function_of_itself(folder: Path) -> Path:
    """A function whose body calls it."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Endless", ["x"], ["y"], domain="own")]
    endless = helper.make_function("own", "Endless", ["x"], ["y"], body, opset)
    nodes = [helper.make_node("Endless", ["image"], ["logits"], domain="own")]
    return saved(folder, model_of(nodes, functions=[endless]))


def functions_that_double(folder: Path) -> Path:
    """40 functions, each calling the one before twice: 2⁴⁰ nodes in a file of a few kilobytes."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def function(number: int, inner: str, domain: str) -> Any:
        body = [
            helper.make_node(inner, ["x"], ["m"], domain=domain),
            helper.make_node(inner, ["m"], ["y"], domain=domain),
        ]
        return helper.make_function("own", f"F{number}", ["x"], ["y"], body, opset)

    functions = [function(0, "Sin", "")]
    functions += [function(number, f"F{number - 1}", "own") for number in range(1, 40)]
    nodes = [
        helper.make_node("F39", ["image"], ["much"], domain="own"),
        helper.make_node("ReduceMean", ["much"], ["one"], keepdims=0),
    ]
    model = with_extra(nodes, "one")
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.extend(functions)
    return saved(folder, model)


def deep(folder: Path) -> Path:
    """A choice in a choice, deeper than protobuf writes itself."""
    node = helper.make_node("If", ["yes"], ["r"]).SerializeToString()
    for _ in range(10_000):  # NodeProto.attribute 5, AttributeProto.g 6, GraphProto.node 1
        node = field(5, field(6, field(1, node)))
    file = folder / "villain.onnx"
    file.write_bytes(CNN.read_bytes() + field(7, field(1, node)))  # ModelProto.graph 7
    return file


def field(number: int, content: bytes) -> bytes:
    """Of a message, as protobuf writes it."""
    size, digits = len(content), b""
    while size > 0x7F:
        digits += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + digits + bytes([size]) + content


def long_chain(folder: Path) -> Path:
    """30,000 nodes, one after the other."""
    names = ["before", *(f"c{number}" for number in range(30_000))]
    nodes = [helper.make_node("Sin", [left], [right]) for left, right in pairwise(names)]
    return saved(folder, with_extra(nodes, names[-1]))


# ── tensors that are too much, or not there ───────────────────────────────────────────────


def tensor(folder: Path, dims: tuple[int, ...], **fields: Any) -> Path:
    made = TensorProto(name="w", data_type=FLOAT, dims=dims, **fields)
    return saved(folder, with_extra([], "w", (made,)))


def dims_without_data(folder: Path) -> Path:
    return tensor(folder, (1 << 20, 1 << 20, 1 << 20), raw_data=b"\0" * 40)


def dims_that_overflow(folder: Path) -> Path:
    return tensor(folder, (1 << 32, 1 << 32), raw_data=b"")


def dims_below_zero(folder: Path) -> Path:
    return tensor(folder, (-1, 10), raw_data=b"\0" * 40)


def less_data_than_dims(folder: Path) -> Path:
    return tensor(folder, (1, 10), raw_data=b"\0" * 39)


def constant_of(folder: Path, *shape: int) -> Path:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
    ]
    return saved(folder, with_extra(nodes, "most", (int64("shape", *shape),)))


def constant_of_petabytes(folder: Path) -> Path:
    """Folded when the model is loaded, before any example is seen."""
    return constant_of(folder, 1 << 20, 1 << 28)


def constant_beyond_any_number(folder: Path) -> Path:
    return constant_of(folder, 1 << 40, 1 << 40)


def tile_of_petabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Tile", ["before", "repeats"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
    ]
    return saved(folder, with_extra(nodes, "most", (int64("repeats", 1 << 24, 1 << 24),)))


def pad_of_petabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Pad", ["before", "pads"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
    ]
    return saved(folder, with_extra(nodes, "most", (int64("pads", 0, 0, 1 << 24, 1 << 24),)))


# ── files that are others' ────────────────────────────────────────────────────────────────


def external(folder: Path, location: str, **more: str) -> Path:
    made = TensorProto(name="w", data_type=FLOAT, dims=(1, 10))
    made.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        made.external_data.add(key=key, value=value)
    return saved(folder, with_extra([], "w", (made,)))


def absolute(folder: Path) -> Path:
    return external(folder, "/etc/passwd")


def above(folder: Path) -> Path:
    (folder.parent / "secret").write_bytes(b"s" * 40)
    return external(folder, "../secret")


def behind_a_link(folder: Path) -> Path:
    (folder / "weights").symlink_to("/etc/passwd")
    return external(folder, "weights")


def in_a_linked_folder(folder: Path) -> Path:
    (folder / "inner").symlink_to("/etc")
    return external(folder, "inner/passwd")


def a_pipe(folder: Path) -> Path:
    """Whoever opens it waits for ever."""
    os.mkfifo(folder / "weights")
    return external(folder, "weights")


def a_device(folder: Path) -> Path:
    return external(folder, "/dev/zero")


def beyond_the_file(folder: Path) -> Path:
    (folder / "weights").write_bytes(b"\0" * 40)
    return external(folder, "weights", offset=str(1 << 60), length="40")


def before_the_file(folder: Path) -> Path:
    (folder / "weights").write_bytes(b"\0" * 40)
    return external(folder, "weights", offset="-8", length="40")


def longer_than_the_file(folder: Path) -> Path:
    (folder / "weights").write_bytes(b"\0" * 40)
    return external(folder, "weights", offset="0", length=str(1 << 60))


# ── code ──────────────────────────────────────────────────────────────────────────────────


def custom_operator(folder: Path) -> Path:
    """Of a library that lies beside it, and that the model's own metadata name."""
    (folder / "libown.so").write_bytes(b"\x7fELF")
    nodes = [helper.make_node("Own", ["before"], ["o"], domain="own", library="./libown.so")]
    model = with_extra(nodes, "o")
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.metadata_props.add(key="ort_config", value='{"custom_ops": "./libown.so"}')
    return saved(folder, model)


def python_operator(folder: Path) -> Path:
    nodes = [helper.make_node("PyOp", ["before"], ["o"], domain="pyopmulti", module="os")]
    model = with_extra(nodes, "o")
    model.opset_import.append(helper.make_opsetid("pyopmulti", 1))
    return saved(folder, model)


# ── the file itself ───────────────────────────────────────────────────────────────────────


def no_file_but_a_device(folder: Path) -> Path:
    (folder / "villain.onnx").symlink_to("/dev/zero")
    return folder / "villain.onnx"


def no_file_but_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "villain.onnx")
    return folder / "villain.onnx"


# ── words ─────────────────────────────────────────────────────────────────────────────────

EVIL = (
    "\x1b[31mred\x1b]0;title\x07", "\n::error::injected", "\r\nPASS", "<script>alert(1)</script>",
    "[link](javascript:alert(1)) | a |", "\u202egnp.exe\u202c", "=HYPERLINK(0)", "\x9b31m\x00",
)  # fmt: skip


def renamed(source: Path, folder: Path) -> Path:
    """The same model, in which every node and every tensor of its own has a hostile name."""
    model = onnx.load(source)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    kept.add("")

    def worded(name: str, number: int) -> str:
        return name if name in kept else f"{EVIL[number % len(EVIL)]}{name}"

    tensors = [tensor.name for tensor in model.graph.initializer]
    tensors += [name for node in model.graph.node for name in node.output]
    names = {name: worded(name, number) for number, name in enumerate(dict.fromkeys(tensors))}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"{EVIL[number % len(EVIL)]}{number}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.ClearField("value_info")
    model.producer_name = EVIL[0]
    model.graph.name = model.domain = model.doc_string = "".join(EVIL)
    return saved(folder, model)


REFUSED: tuple[Villain, ...] = (
    circle, snake, function_of_itself, deep, dims_without_data, dims_that_overflow,
    dims_below_zero, less_data_than_dims, constant_of_petabytes, constant_beyond_any_number,
    tile_of_petabytes, pad_of_petabytes, absolute, above, behind_a_link, in_a_linked_folder,
    a_pipe, a_device, beyond_the_file, before_the_file, longer_than_the_file, custom_operator,
    python_operator, no_file_but_a_device, no_file_but_a_pipe,
)  # fmt: skip
CONTAINED: tuple[Villain, ...] = (functions_that_double, long_chain)
