"""Any ONNX file to the FP32 ONNX that the gate works on, and the proof that it is the same model.

The candidate's own folder is never written to. What comes out has opset ≥ 17, uniquely named
nodes, no initializers among its inputs, folded constants, inferred shapes, and no metadata, so
that its hash depends on the model alone.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate.backends import Backend, Runner
from gate.errors import CandidateError
from gate.records import Array, Candidate

MIN_OPSET = 17
MIN_IR = 8
PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of weights; protobuf refuses messages of 2 GiB, and even to count their bytes."""
PARITY = 1e-3
"""Largest difference between two forms of one model, as a share of the output's largest value."""


def normalize(
    onnx_file: Path, *, name: str, sha256: str | None, backend: Backend, threads: int, scratch: Path
) -> Candidate:
    """Write the normalised FP32 model into `scratch`, and describe it.

    `sha256` is that of what the file was exported from; None: the file itself is the candidate.

    Raises:
        CandidateError: it cannot be converted; says which step failed and what to do.
    """
    sha256 = sha256 or sha256_of_onnx(onnx_file)
    model = _load(onnx_file)
    big = sum(tensor.ByteSize() for tensor in _tensors(model.graph)) > PROTOBUF_LIMIT
    steps = [step for step in (_clean(model), _name_nodes(model)) if step]
    opset = opset_of(model, name)
    if opset < MIN_OPSET:
        model = _raise_opset(model, name, opset, big=big)
        steps.append(f"opset {opset} -> {MIN_OPSET}")
    model.ir_version = max(model.ir_version, MIN_IR)
    cleaned, destination = scratch / "cleaned.onnx", scratch / "model.fp32.onnx"
    _save(model, cleaned, big=big)
    backend.optimize(cleaned, destination)
    _infer_shapes(destination, name)
    return _describe(destination, name, sha256, backend.open(destination, threads=threads), steps)


def prove_parity(
    reference: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    normalised: Runner,
    feeds: Mapping[str, Array],
    name: str,
) -> float:
    """Largest relative difference of the outputs of `reference` and `normalised` on `feeds`.

    Raises:
        CandidateError: outputs are missing, of another shape, or differ by more than `PARITY`.
    """
    expected, got = reference(feeds), normalised.run(feeds)
    if set(expected) != set(got):
        raise CandidateError(
            f"candidate {name}: its outputs {sorted(expected)} became {sorted(got)} in conversion"
        )
    differences = [_difference(expected[key], got[key], key, name) for key in expected]
    worst = math.nan if any(map(math.isnan, differences)) else max(differences)
    if not worst <= PARITY:
        raise CandidateError(
            f"candidate {name}: converted to ONNX opset ≥ {MIN_OPSET} it no longer computes the "
            f"same: outputs differ by {worst:.3g} of their largest value, {PARITY} is allowed. "
            "Export it again with a newer opset"
        )
    return worst


def _difference(expected: Array, got: Array, key: str, name: str) -> float:
    if expected.shape != got.shape:
        raise CandidateError(
            f"candidate {name}: output {key!r} has shape {got.shape} after conversion, "
            f"and {expected.shape} before"
        )
    if expected.dtype.kind not in "fiub" or not expected.size:
        return 0.0 if np.array_equal(expected, got) else float("inf")
    left, right = expected.astype(np.float64), got.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if same.all():
        return 0.0
    scale = max(float(np.abs(left[np.isfinite(left)]).max(initial=0.0)), 1e-6)
    return float(np.abs(np.where(same, 0.0, left - right)).max() / scale)


def sha256_of(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a normalised model, its external data file included."""
    return _digest(file for file in (path, path.with_name(path.name + ".data")) if file.is_file())


def opset_of(model: Any, name: str) -> int:
    """The opset of the standard operators.

    Raises:
        CandidateError: the model imports none.
    """
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise CandidateError(
        f"candidate {name} imports no standard ONNX operators: {model.opset_import}"
    )


def _load(path: Path) -> Any:
    import onnx

    try:
        return onnx.load_model(path, load_external_data=True)
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise CandidateError(f"candidate {path}: its weights cannot be read: {error}") from error


def _clean(model: Any) -> str | None:
    """Drop metadata, and initializers listed among the inputs."""
    _strip(model)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    dropped = len(model.graph.input) - len(inputs)
    if not dropped:
        return None
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return f"{dropped} initializers taken off the inputs"


def _strip(model: Any) -> None:
    """Exporters leave paths and stack traces of their machine: the hash must not see them."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip_graph(model.graph)
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
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip_graph(body)


def _name_nodes(model: Any) -> str | None:
    """Every node of the main graph gets a name of its own."""
    taken: set[str] = set()
    renamed = 0
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = _free(f"{node.name or node.op_type}_{index}", taken)
            renamed += 1
        taken.add(node.name)
    return f"{renamed} nodes named" if renamed else None


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _raise_opset(model: Any, name: str, opset: int, *, big: bool) -> Any:
    from onnx import version_converter

    if big:
        raise CandidateError(
            f"candidate {name} has opset {opset} and over 2 GB, which ONNX's converter cannot "
            f"take; export it again with opset ≥ {MIN_OPSET}"
        )
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CandidateError(
            f"candidate {name} has opset {opset}, and ONNX cannot raise it to {MIN_OPSET}: "
            f"{first}. Export it again with opset ≥ {MIN_OPSET}"
        ) from error


def _save(model: Any, path: Path, *, big: bool) -> None:
    import onnx

    onnx.save_model(
        model,
        path,
        save_as_external_data=big,
        all_tensors_to_one_file=True,
        location=path.name + ".data",
        size_threshold=1024,
    )


def _infer_shapes(path: Path, name: str) -> None:
    import onnx

    try:
        onnx.shape_inference.infer_shapes_path(path, path, data_prop=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        first = str(error).splitlines()[0]
        raise CandidateError(f"candidate {name}: shape inference failed: {first}") from error


def _describe(path: Path, name: str, sha256: str, runner: Runner, steps: list[str]) -> Candidate:
    import onnx

    fp32_sha256, size = sha256_of(path)
    return Candidate(
        path=path,
        sha256=sha256,
        fp32_sha256=fp32_sha256,
        bytes=size,
        inputs=runner.inputs,
        outputs=runner.outputs,
        opset=opset_of(onnx.load_model(path, load_external_data=False), name),
        source=name,
        steps=tuple(steps),
    )


# ── the bytes as they came ──────────────────────────────────────────────────────────────────


def sha256_of_onnx(path: Path) -> str:
    """sha256 of the file's bytes, followed by those of each external data file by name.

    Without external data it is what `sha256sum` prints.

    Raises:
        CandidateError: the file is not ONNX, or its external data lies outside its folder.
    """
    return _digest((path, *external_files(path)))[0]


def external_files(path: Path) -> tuple[Path, ...]:
    """The external data files of an ONNX file, sorted by name.

    Raises:
        CandidateError: the file is not ONNX, or a location is absolute, leaves the folder, is a
            link, or is missing.
    """
    return tuple(_external(path, location) for location in sorted(_locations(_parse(path))))


def _external(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    file = folder / location
    inside = not Path(location).is_absolute() and file.resolve().is_relative_to(folder)
    if not inside or file.is_symlink():
        raise CandidateError(
            f"candidate {path}: its external data {location!r} lies outside its folder; "
            "save the model again with its data beside it"
        )
    if not file.is_file():
        raise CandidateError(
            f"candidate {path}: its external data file {location!r} is missing beside it"
        )
    return file


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise CandidateError(
            f"candidate {path} is not an ONNX file, or is cut off: {error}"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise CandidateError(
            f"candidate {path} is not an ONNX model, or is cut off: it holds no operators"
        )
    return model


def _locations(model: Any) -> set[str]:
    from onnx import TensorProto

    found = set()
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            found |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    return found


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph: initializers and attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(body)


def _digest(files: Iterable[Path]) -> tuple[str, int]:
    """sha256 and number of the bytes of all files, one after the other."""
    digest, size = hashlib.sha256(), 0
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    return digest.hexdigest(), size
