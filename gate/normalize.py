"""Any ONNX file to the FP32 ONNX that the gate works on, and the proof that it is the same model.

The candidate's own folder is never written to. What comes out has opset ≥ 17, uniquely named
nodes, no initializers among its inputs, folded constants, inferred shapes, and no metadata, so
that its hash depends on the model alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate import artifact
from gate import graph as graphs
from gate.backends import Backend, Runner
from gate.errors import CandidateError
from gate.values import Array, Candidate
from gate.wording import few

MIN_OPSET = 17
MIN_IR = 8
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
    of_file = sha256_of_onnx(onnx_file)
    model = _load(onnx_file)
    if sha256_of_onnx(onnx_file) != of_file:
        raise CandidateError(f"candidate {name} was changed while it was read: run the gate again")
    _refuse_sparse(model, name)
    steps = [*_clean(model)]
    opset = opset_of(model, name)
    if opset < MIN_OPSET:
        model = _raise_opset(model, name, opset)
        steps.append(f"opset {opset} -> {MIN_OPSET}")
    model.ir_version = max(model.ir_version, MIN_IR)
    cleaned, destination = scratch / "cleaned.onnx", scratch / "model.fp32.onnx"
    before = _operators(model)
    graphs.write(model, cleaned)
    del model  # or its weights would be held beside those that are read next
    if found := backend.quantized(cleaned):
        raise CandidateError(
            f"candidate {name} is already quantized ({few(found)}): give the FP32 model that it "
            "was made from; INT8 that was made elsewhere goes to --int8"
        )
    _optimize(backend, cleaned, destination, name)
    steps += _folded(before, _operators(graphs.read(destination, weights=False)))
    steps += _cast(destination)
    _infer_shapes(destination, name)
    return _describe(
        destination, name, sha256 or of_file, backend.open(destination, threads=threads), steps
    )


def _optimize(backend: Backend, cleaned: Path, destination: Path, name: str) -> None:
    try:
        backend.optimize(cleaned, destination)
    except CandidateError as error:
        raise CandidateError(str(error).replace(str(cleaned), f"candidate {name}")) from error


def _operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node, _ in graphs.walk(model))


def _folded(before: Counter[str], after: Counter[str]) -> Iterator[str]:
    """What the runtime's own optimizer merged or computed once: `3 BatchNormalization folded`."""
    gone = (before - after).items()
    yield from (f"{count} {op} folded" for op, count in sorted(gone, key=lambda item: -item[1]))


def prove_parity(
    reference: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    normalised: Runner,
    batches: Iterable[Mapping[str, Array]],
    name: str,
) -> float:
    """Largest relative difference of the outputs of `reference` and `normalised` on any batch.

    Raises:
        CandidateError: outputs are missing, of another shape, or differ by more than `PARITY`.
    """
    found = [_apart(reference(feeds), normalised.run(feeds), name) for feeds in batches]
    worst = math.nan if any(map(math.isnan, found)) else max(found)
    if not worst <= PARITY:
        raise CandidateError(
            f"candidate {name}: converted to ONNX opset ≥ {MIN_OPSET} it no longer computes the "
            f"same: outputs differ by {worst:.3g} of their largest value, {PARITY} is allowed. "
            "Export it again with a newer opset"
        )
    return worst


def _apart(expected: Mapping[str, Array], got: Mapping[str, Array], name: str) -> float:
    """Largest relative difference of any output; NaN where one is NaN in one form alone."""
    if set(expected) != set(got):
        raise CandidateError(
            f"candidate {name}: its outputs {sorted(expected)} became {sorted(got)} in conversion"
        )
    differences = [_difference(expected[key], got[key], key, name) for key in expected]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


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


def _refuse_sparse(model: Any, name: str) -> None:
    found = [tensor.values.name or "nameless" for tensor in model.graph.sparse_initializer]
    for node, _ in graphs.walk(model):
        if any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
            found.append(node.output[0])
    if found:
        raise CandidateError(
            f"candidate {name} has sparse constants ({few(found)}), which quantizers do not take: "
            "export them dense"
        )


def _clean(model: Any) -> Iterator[str]:
    """Metadata gone, initializers off the inputs, every node named; what was done."""
    graphs.strip(model)
    if dropped := graphs.drop_weight_inputs(model):
        yield f"{dropped} initializers taken off the inputs"
    if renamed := graphs.name_nodes(model):
        yield f"{renamed} nodes named"


def _raise_opset(model: Any, name: str, opset: int) -> Any:
    from onnx import version_converter

    refused = (RuntimeError, ValueError, version_converter.ConvertError)

    if graphs.is_large(model):
        raise CandidateError(
            f"candidate {name} has opset {opset} and over 2 GB, which ONNX's converter cannot "
            f"take; export it again with opset ≥ {MIN_OPSET}"
        )
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except refused as error:
        raise CandidateError(
            f"candidate {name} has opset {opset}, and ONNX cannot raise it to {MIN_OPSET}: "
            f"{graphs.first_line(error)}. Export it again with opset ≥ {MIN_OPSET}"
        ) from error


def _cast(path: Path) -> Iterator[str]:
    """Weights that are cast whenever the model runs are no constants to a quantizer."""
    if graphs.casts_of_weights(graphs.read(path, weights=False)):
        model = graphs.read(path)
        yield f"{graphs.fold_casts(model)} weights cast once and for all"
        graphs.write(model, path)


def _infer_shapes(path: Path, name: str) -> None:
    import onnx

    try:
        onnx.shape_inference.infer_shapes_path(path, path, data_prop=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise CandidateError(
            f"candidate {name}: shape inference failed: {graphs.first_line(error)}"
        ) from error


def _describe(path: Path, name: str, sha256: str, runner: Runner, steps: list[str]) -> Candidate:
    import onnx

    fp32_sha256, size = artifact.measured(artifact.files(path))
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
    return artifact.measured((path, *external_files(path)))[0]


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
    from google.protobuf.message import DecodeError

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
    for tensor in graphs.tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            found |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    return found
