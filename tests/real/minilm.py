"""The MiniLM sentence encoder as ONNX, from its weights alone: neither torch nor transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
FLOAT = np.float32


def weights(file: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file: 8 bytes of length, a JSON header, the bytes."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "I64": np.int64}
    return {
        name.removeprefix("bert."): np.frombuffer(
            raw[8 + size + about["data_offsets"][0] : 8 + size + about["data_offsets"][1]],
            kinds[about["dtype"]],
        ).reshape(about["shape"])
        for name, about in header.items()
    }


class _Graph:
    """Nodes and initializers as they come."""

    def __init__(self, found: dict[str, np.ndarray]) -> None:
        self.found = found
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self.found[name]
        return self.constant(name, np.ascontiguousarray(value.T) if transposed else value)

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x: str, of: str) -> str:
        product = self.add(
            "MatMul", x, self.weight(f"{of}.weight", transposed=True), name=f"{of}/MatMul"
        )
        return self.add("Add", product, self.weight(f"{of}.bias"), name=f"{of}/Add")

    def norm(self, x: str, of: str) -> str:
        scale, shift = self.weight(f"{of}.weight"), self.weight(f"{of}.bias")
        return self.add(
            "LayerNormalization", x, scale, shift, name=f"{of}/Norm", axis=-1, epsilon=EPSILON
        )


def _embeddings(g: _Graph, length: int) -> str:
    words = g.add("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids", name="word")
    places = g.found["embeddings.position_embeddings.weight"][:length]
    kinds = g.found["embeddings.token_type_embeddings.weight"][0]
    placed = g.add("Add", words, g.constant("places", (places + kinds).astype(FLOAT)), name="x0")
    return g.norm(placed, "embeddings.LayerNorm")


def _mask(g: _Graph) -> str:
    """(N, 1, 1, S): 0 where there is a word, and far below where there is none."""
    words = g.add("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    wide = g.add("Unsqueeze", words, g.constant("axes", np.array([1, 2])), name="mask_wide")
    none = g.add("Sub", g.constant("one", FLOAT(1)), wide, name="mask_none")
    return g.add("Mul", none, g.constant("far", FLOAT(-10_000)), name="mask_bias")


def _gelu(g: _Graph, x: str, at: str) -> str:
    inner = g.add("Div", x, g.constant("root_two", FLOAT(2**0.5)), name=f"{at}/gelu_div")
    erf = g.add("Erf", inner, name=f"{at}/gelu_erf")
    shifted = g.add("Add", erf, "one", name=f"{at}/gelu_add")
    whole = g.add("Mul", x, shifted, name=f"{at}/gelu_mul")
    return g.add("Mul", whole, g.constant("half", FLOAT(0.5)), name=f"{at}/gelu")


def _layer(g: _Graph, x: str, at: str) -> str:
    split = g.constant("split", np.array([0, 0, HEADS, WIDTH // HEADS]))
    parts = {}
    for part, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        flat = g.linear(x, f"{at}.attention.self.{part}")
        heads = g.add("Reshape", flat, split, name=f"{at}/{part}_heads")
        parts[part] = g.add("Transpose", heads, name=f"{at}/{part}", perm=order)
    product = g.add("MatMul", parts["query"], parts["key"], name=f"{at}/scores")
    root = g.constant("root", FLOAT((WIDTH // HEADS) ** 0.5))
    scaled = g.add("Div", product, root, name=f"{at}/scaled")
    masked = g.add("Add", scaled, "mask_bias", name=f"{at}/masked")
    shares = g.add("Softmax", masked, name=f"{at}/softmax", axis=-1)
    mixed = g.add("MatMul", shares, parts["value"], name=f"{at}/context")
    turned = g.add("Transpose", mixed, name=f"{at}/context_t", perm=(0, 2, 1, 3))
    joined = g.add("Reshape", turned, g.constant("join", np.array([0, 0, WIDTH])), name=f"{at}/z")
    out = g.linear(joined, f"{at}.attention.output.dense")
    seen = g.norm(g.add("Add", out, x, name=f"{at}/attended"), f"{at}.attention.output.LayerNorm")
    wide = _gelu(g, g.linear(seen, f"{at}.intermediate.dense"), at)
    narrow = g.linear(wide, f"{at}.output.dense")
    return g.norm(g.add("Add", narrow, seen, name=f"{at}/added"), f"{at}.output.LayerNorm")


def _pooled(g: _Graph, x: str) -> str:
    """(N, 384) mean over the words, of length 1."""
    one = g.constant("last", np.array([-1]))
    column = g.add("Unsqueeze", "mask", one, name="mask_column")
    kept = g.add("Mul", x, column, name="kept")
    middle = g.constant("middle", np.array([1]))
    total = g.add("ReduceSum", kept, middle, name="total", keepdims=0)
    count = g.add("ReduceSum", "mask", middle, name="count", keepdims=1)
    mean = g.add("Div", total, count, name="mean")
    length = g.add("ReduceL2", mean, name="length", axes=[-1], keepdims=1)
    return g.add("Div", mean, length, name="embedding")


def build(
    found: dict[str, np.ndarray], length: int, head: tuple[np.ndarray, np.ndarray] | None = None
) -> onnx.ModelProto:
    """`input_ids` and `attention_mask` (N, length) of int64 to `embedding` (N, 384), or `logits`.

    `head` is a linear classifier's weights (classes, 384) and intercepts (classes,).
    """
    g = _Graph(found)
    x = _embeddings(g, length)
    _mask(g)
    for layer in range(LAYERS):
        x = _layer(g, x, f"encoder.layer.{layer}")
    output, width = _pooled(g, x), WIDTH
    if head is not None:
        coefficients, intercepts = head
        transposed = g.constant("head.weight", coefficients.T.astype(FLOAT))
        product = g.add("MatMul", output, transposed, name="head/MatMul")
        bias = g.constant("head.bias", intercepts.astype(FLOAT))
        output, width = g.add("Add", product, bias, name="logits"), len(intercepts)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", length])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])]
    constants = [numpy_helper.from_array(value, name) for name, value in g.constants.items()]
    graph = helper.make_graph(g.nodes, "minilm", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tokens(file: Path, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` (N, length) of int64, cut and padded."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([one.ids for one in found], np.int64),
        "attention_mask": np.array([one.attention_mask for one in found], np.int64),
    }
