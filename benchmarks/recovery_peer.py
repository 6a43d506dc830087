"""What NNCF's accuracy control costs and keeps, for the same model and data as the gate's.

It runs alone, in an environment of its own with nncf, onnx and onnxruntime, and needs nothing of
this project:

    python recovery_peer.py MODEL.onnx DATA.npz --max-drop 0.005 --threads 2 --out OUT.onnx

DATA.npz holds `calibration/<input>`, `tuning/<input>` and `tuning/target`; the model gives scores
(N, classes). The last line that is printed is JSON; everything else goes to stderr.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

Columns = dict[str, np.ndarray]
WEIGHTED = ("Conv", "Gemm", "MatMul")
BATCH = 32


def columns(data: Mapping[str, np.ndarray], part: str) -> Columns:
    """Those of one part, by their own names."""
    prefix = f"{part}/"
    return {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether any node of it quantizes or computes with integers."""
    return any("Linear" in node.op_type or "Integer" in node.op_type for node in model.graph.node)


# ── what is run, counted ──────────────────────────────────────────────────────────────────


@dataclass
class Count:
    """Sessions and examples, by what they ran: `fp32`, `int8`, or a `_part` of such a model."""

    threads: int
    inputs: frozenset[str]
    outputs: frozenset[str]
    """Of the whole model: a session without these runs a part of it."""
    examples: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)

    def kind(self, model: onnx.ModelProto, session: Any) -> str:
        """Which of the four."""
        inputs = frozenset(one.name for one in session.get_inputs())
        outputs = frozenset(one.name for one in session.get_outputs())
        part = "" if inputs == self.inputs and outputs >= self.outputs else "_part"
        return ("int8" if is_quantized(model) else "fp32") + part

    def sessions(self) -> type[Any]:
        """A session that has the given threads, and adds to these counts."""
        count = self

        class Counted(ort.InferenceSession):  # type: ignore[misc]
            """What NNCF and the validation open instead."""

            def __init__(self, model: bytes, options: Any = None, **rest: Any) -> None:
                super().__init__(model, options_for(count.threads, options), **rest)
                self.counted_as = count.kind(onnx.load_model_from_string(model), self)
                count.opened[self.counted_as] += 1

            def run(self, names: Any, feeds: Any, *rest: Any) -> Any:
                """As ONNX Runtime does."""
                rows = max((len(value) for value in feeds.values() if np.ndim(value)), default=1)
                count.examples[self.counted_as] += rows
                return super().run(names, feeds, *rest)

        return Counted


def options_for(threads: int, options: Any = None) -> Any:
    """A session's, with so many threads."""
    options = ort.SessionOptions() if options is None else options
    options.intra_op_num_threads = threads
    return options


@dataclass
class Validation:
    """The metric, as NNCF asks for it: accuracy, of a model over items of one example each."""

    first: float | None = None
    """Of the INT8 model that NNCF began with."""

    def __call__(self, model: onnx.ModelProto, items: Iterable[Any]) -> tuple[float, list[float]]:
        """The metric, and each item's, which NNCF ranks operators by; in ONNX it has no other."""
        session = ort.InferenceSession(model.SerializeToString())
        right: list[float] = []
        for group in pieces(items):
            feeds = {name: np.concatenate([one[name] for one, _ in group]) for name in group[0][0]}
            scores = session.run(None, feeds)[0].argmax(axis=1)
            right += (scores == [target for _, target in group]).astype(float).tolist()
        metric = float(np.mean(right))
        if self.first is None and is_quantized(model):
            self.first = metric
        return metric, right


def pieces(items: Iterable[Any]) -> Iterator[list[Any]]:
    """As they come, some at a time."""
    piece = []
    for item in items:
        piece.append(item)
        if len(piece) == BATCH:
            yield piece
            piece = []
    if piece:
        yield piece


# ── NNCF ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class Restored:
    """What NNCF says of its own work; nothing where the first INT8 model was good enough."""

    total: int | None = None
    reverted: list[str] = field(default_factory=list)
    iterations: int = 0

    def listen(self) -> None:
        """NNCF tells its log and nobody else."""
        algorithm = importlib.import_module(
            "nncf.quantization.algorithms.accuracy_control.algorithm"
        )
        restorer = algorithm.QuantizationAccuracyRestorer
        tell = restorer._print_report

        def told(report: Any, most: int) -> None:
            self.total = report.num_quantized_operations
            self.reverted = sorted({node.node_name for node in report.reverted_operations})
            self.iterations = report.num_iterations + 1
            tell(report, most)

        restorer._print_report = staticmethod(told)


def quantized_operations(model: onnx.ModelProto) -> int:
    """As NNCF counts them."""
    graph = importlib.import_module("nncf.common.factory").build_graph(model)
    count = importlib.import_module("nncf.common.graph.utils").get_number_of_quantized_ops
    name = "nncf.quantization.algorithms.accuracy_control.onnx_backend"
    backend = importlib.import_module(name).ONNXAccuracyControlAlgoBackend
    found: int = count(
        graph, backend.get_quantizer_metatypes(), backend.get_quantizable_metatypes()
    )
    return found


def rows(part: Columns) -> list[Columns]:
    """A feed per example."""
    return [
        {name: column[at : at + 1] for name, column in part.items()}
        for at in range(len(next(iter(part.values()))))
    ]


def peer(given: argparse.Namespace, model: onnx.ModelProto, data: Columns) -> dict[str, Any]:
    """Quantize, save, and tell what it took."""
    nncf = importlib.import_module("nncf")
    for handler in importlib.import_module("nncf.common.logging").nncf_logger.handlers:
        handler.setStream(sys.stderr)
    tuning = columns(data, "tuning")
    targets = tuning.pop("target")
    given_in, given_out = (
        frozenset(one.name for one in side) for side in (model.graph.input, model.graph.output)
    )
    count, restored = Count(given.threads, given_in, given_out), Restored()
    restored.listen()
    validation = Validation()
    plain, ort.InferenceSession = ort.InferenceSession, count.sessions()
    transformer = nncf.ModelType.TRANSFORMER if given.family == "transformer" else None
    began = time.perf_counter()
    try:
        made = nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(rows(columns(data, "calibration"))),
            nncf.Dataset(list(zip(rows(tuning), targets, strict=True)), lambda item: item[0]),
            validation,
            max_drop=given.max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            model_type=transformer,
        )
    finally:
        seconds, peak = time.perf_counter() - began, _peak()
        ort.InferenceSession = plain
    onnx.save_model(made, given.out)
    before, after = (score(one, tuning, targets, given.threads) for one in (model, made))
    about = {"seconds": round(seconds, 2), "peak_rss": peak}
    metric = {"fp32": before, "unrestored": validation.first, "tuning": after}
    metric["reached"] = before - after <= given.max_drop + 1e-9
    return about | metric | costs(count, restored) | kept(model, made, restored)


def costs(count: Count, restored: Restored) -> dict[str, Any]:
    """Examples and passes."""
    validations = 1 + restored.iterations
    return {
        "examples_run_through_int8": count.examples["int8"],
        "examples_run_through_fp32": count.examples["fp32"],
        "examples_run_through_parts": count.examples["int8_part"] + count.examples["fp32_part"],
        "validations": validations,
        "rankings": count.opened["int8"] - validations,
    }


def kept(model: onnx.ModelProto, made: onnx.ModelProto, restored: Restored) -> dict[str, Any]:
    """Operators that stayed INT8, by NNCF's own count and by the file's."""
    total = quantized_operations(made) if restored.total is None else restored.total
    return {
        "ops_total": total,
        "ops_in_int8": total - len(restored.reverted),
        "weighted_total": sum(node.op_type in WEIGHTED for node in model.graph.node),
        "weighted_in_int8": weighted_in_int8(made),
        "reverted": restored.reverted,
    }


MOVES = (
    *("Concat", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that integers pass unchanged."""


def weighted_in_int8(model: onnx.ModelProto) -> int:
    """Convolutions and products whose operands both come dequantized."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def dequantized(name: str) -> bool:
        while (maker := makers.get(name)) is not None and maker.op_type in MOVES:
            name = maker.input[0]
        return maker is not None and maker.op_type == "DequantizeLinear"

    weighted = (node for node in model.graph.node if node.op_type in WEIGHTED)
    return sum(all(map(dequantized, node.input[:2])) for node in weighted)


def score(model: onnx.ModelProto, part: Columns, targets: np.ndarray, threads: int) -> float:
    """Accuracy."""
    session = ort.InferenceSession(model.SerializeToString(), options_for(threads))
    feeds = (
        {name: column[at : at + BATCH] for name, column in part.items()}
        for at in range(0, len(targets), BATCH)
    )
    scores = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    return float(np.mean(scores.argmax(axis=1) == targets))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--max-drop", type=float, default=0.01, help="absolute")
    parser.add_argument("--threads", type=int, default=2, help="of every session")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=("cnn", "transformer"), default="cnn")
    given = parser.parse_args()
    os.environ.setdefault("NNCF_CI", "1")  # else it reports to its makers
    with redirect_stdout(sys.stderr):
        with np.load(given.data) as file:
            data = dict(file)
        found = peer(given, onnx.load_model(given.model), data)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
