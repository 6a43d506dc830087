"""ONNX Runtime on the CPU: runs models, quantizes them, and proves what ran."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gate import graph as graphs
from gate.backends import Point, Product, Ranges
from gate.backends import _onnxruntime_bias as biases
from gate.backends import _onnxruntime_equalize as equalizing
from gate.backends import _onnxruntime_plan as plans
from gate.backends import _onnxruntime_probe as probes
from gate.backends import _onnxruntime_products as products
from gate.backends import _onnxruntime_profile as profiles
from gate.backends import _onnxruntime_quantizer as quantizer
from gate.backends import _onnxruntime_refused as refused
from gate.backends import _onnxruntime_smooth as smoothing
from gate.errors import CandidateError, EvaluationError
from gate.recipes import Recipe
from gate.values import Array, Kernel, TensorSpec

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported, which is later
_version = cache(version)  # of what is loaded: it stays, and its metadata are long to parse
_SILENT = 4
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "object"}
"""Where ONNX Runtime and numpy call a type differently."""


class OnnxRuntime:
    """The backend; it holds no state."""

    key = "onnxruntime"

    def prepare(self) -> None:
        """Import ONNX Runtime and what it needs."""
        _options(1)

    def open(self, model: Path, *, threads: int) -> "Session":
        """Load `model` with all graph optimizations and deterministic kernels.

        Raises:
            CandidateError: ONNX Runtime cannot load it.
        """
        return Session(_load(str(model), _options(threads), name=model))

    def open_exposed(self, model: Path, tensors: Sequence[str], *, threads: int) -> "Session":
        """Load `model` with graph optimizations off and `tensors` added to its outputs.

        Nothing is written: the graph is edited in memory, external weights are read in place.

        Raises:
            CandidateError: ONNX Runtime cannot load it, or it has no such tensor.
        """
        options = _options(threads, optimize=False)
        beside = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(beside, str(model.parent.resolve()))
        proto = _exposed(graphs.read(model, weights=False), tensors)
        return Session(_load(proto.SerializeToString(), options, name=model))

    def quantized(self, model: Path) -> tuple[str, ...]:
        """Names of nodes that only a quantized model has."""
        return plans.quantized(graphs.read(model, weights=False))

    def optimize(self, model: Path, destination: Path) -> None:
        """Write `model` with constants folded and BatchNorm merged, in standard operators.

        Nodes without a name get one. The same input gives the same bytes.

        Raises:
            CandidateError: ONNX Runtime cannot load it.
        """
        import onnxruntime as ort

        options = _options(1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        with TemporaryDirectory(prefix=".gate-", dir=destination.parent) as folder:
            written = Path(folder) / "model.onnx"
            options.optimized_model_filepath = str(written)
            if graphs.needs_data_file(model):
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_file_name", "model.data"
                )
            with refused.told_of_disk(written.parent, model):
                _load(str(model), options, name=model)
            optimized = graphs.read(written)
        _check_standard(model, optimized)
        graphs.name_nodes(optimized)
        graphs.keep_used_domains(optimized)
        graphs.write(optimized, destination)

    def smoothable(self, model: Path, recipe: Recipe) -> dict[str, int]:
        """Tensors whose largest values by channel `smooth` needs, each with its channels' axis."""
        fitted = plans.plan(graphs.read(model), recipe)
        found = equalizing.tensors(fitted) if recipe.equalize else {}
        return found if recipe.smooth is None else found | smoothing.tensors(fitted)

    def smooth(
        self, model: Path, recipe: Recipe, maxima: Mapping[str, Array], destination: Path
    ) -> None:
        """Write the same model with outliers of activations moved into weights.

        `maxima` are (K,) by tensor, as `smoothable` names them.

        Raises:
            QuantizationError: as `quantize`.
        """
        fitted = plans.plan(graphs.read(model), recipe)
        if recipe.equalize:
            equalizing.equalize(fitted, maxima, per_channel=recipe.per_channel)
        if recipe.smooth is not None:
            smoothing.smoothed(fitted, maxima, recipe.smooth)
        graphs.write(fitted.model, destination)

    def corrected(self, model: Path, recipe: Recipe) -> dict[str, int]:
        """Tensors whose means by channel `correct` needs, each with its channels' axis."""
        fitted = plans.plan(graphs.read(model), recipe)
        return biases.tensors(fitted.model, fitted.selected)

    def correct(
        self, model: Path, int8: Path, means: Mapping[str, Array], destination: Path
    ) -> None:
        """Write FP32 with biases for what rounding its weights, as in `int8`, shifts on average.

        `means` are (C,) by tensor, as `corrected` names them.
        """
        proto = graphs.read(model)
        graphs.name_nodes(proto)
        graphs.write(biases.corrected(proto, graphs.read(int8), means), destination)

    def activations(self, model: Path, recipe: Recipe) -> dict[str, str]:
        """Tensors whose ranges `quantize` needs: inputs and outputs of the nodes to quantize.

        Each comes with the tensor to observe in its stead; empty for a dynamic recipe.

        Raises:
            QuantizationError: as `quantize`.
        """
        fitted = plans.plan(graphs.read(model), recipe)
        found = plans.activations(fitted, recipe) if recipe.needs_calibration else {}
        plans.check_overrides(found, recipe)
        return found

    def quantize(
        self,
        model: Path,
        recipe: Recipe,
        ranges: Ranges,
        destination: Path,
        *,
        like: Path | None = None,
    ) -> None:
        """Write the INT8 model: the same inputs give the same bytes, anywhere, at any time.

        `like`, which may be the destination, saves work: an INT8 version of the same model, biases
        apart, by a recipe that differs in the choice of ranges alone.

        Nothing is written but `destination` (and `<destination>.data` above 1.5 GB).

        Raises:
            QuantizationError: the recipe names nodes or operators that do not exist, nothing
                can be quantized, or ONNX Runtime's quantizer failed.
        """
        fitted = plans.plan(graphs.read(model), recipe)
        if recipe.scheme == "static":
            before = None if like is None else graphs.read(like)
            graphs.write(quantizer.static(fitted, recipe, ranges, before), destination)
        else:
            graphs.write(quantizer.dynamic(fitted, recipe), destination)

    def probe(self, fp32: Path, int8: Path, *, threads: int) -> "Probe":
        """Load both models as one that tells what is lost where.

        Raises:
            CandidateError: they have no inner tensors in common, or other operator sets.
        """
        proto, points = probes.build(graphs.read(fp32), graphs.read(int8))
        with TemporaryDirectory(prefix="gate-") as folder:  # large weights need a file beside
            whole = Path(folder) / "probe.onnx"
            graphs.write(proto, whole)
            return Probe(
                Session(_load(str(whole), _options(threads, optimize=False), name=int8)), points
            )

    def products(self, model: Path) -> Iterator[Product]:
        """The INT8 model's layers of unsigned activations and signed weights."""
        return products.of(graphs.read(model))

    def why_float(self, model: Path, recipe: Recipe) -> dict[str, str]:
        """Nodes that `recipe` leaves in floating point, each with the reason."""
        proto = graphs.read(model, weights=False)
        graphs.name_nodes(proto)
        return plans.why_float(proto, recipe)

    def profile(
        self, model: Path, feeds: Mapping[str, Array], *, optimize: bool = True
    ) -> tuple[Kernel, ...]:
        """Run once and report every kernel that executed, with its real work.

        Without `optimize` the graph runs as written, so that nodes keep their names.

        Raises:
            CandidateError: ONNX Runtime cannot load the model.
            EvaluationError: it failed on `feeds`.
        """
        with TemporaryDirectory(prefix="gate-") as folder:
            options = _options(1, optimize=optimize)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            # Prepacked weights vanish from a kernel's inputs, and with them their shapes.
            options.add_session_config_entry("session.disable_prepacking", "1")
            session = Session(_load(str(model), options, name=model))
            return profiles.parse(session.profiled(feeds), _equations(model))

    def versions(self) -> dict[str, str]:
        """Libraries whose version can change results."""
        return {name: _version(name) for name in ("onnx", "onnxruntime")}


class Session:
    """A model, loaded."""

    def __init__(self, session: Any) -> None:
        """Describe what the session takes and gives."""
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            EvaluationError: ONNX Runtime refused the inputs or failed.
        """
        names = [output.name for output in self.outputs]
        try:
            values = self._session.run(names, dict(feeds), _run_options())
        except Exception as error:
            raise self._failed(error, feeds) from error
        return dict(zip(names, values, strict=True))

    def views(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, without copying: read-only, in the session's own memory, which it reuses.

        Fresh memory for the outputs of every run costs more than many a run itself.

        Raises:
            EvaluationError: as `run`.
        """
        import onnxruntime as ort

        if any(value.dtype == object for value in feeds.values()):  # no view of strings
            return self.run(feeds)
        names = [output.name for output in self.outputs]
        try:
            given = {name: ort.OrtValue.ortvalue_from_numpy(x) for name, x in feeds.items()}
            values = self._session.run_with_ort_values(names, given, _run_options())
        except Exception as error:
            raise self._failed(error, feeds) from error
        # what is no tensor, such as a classifier's map of labels, has no range
        tensors = (pair for pair in zip(names, values, strict=True) if pair[1].is_tensor())
        return {name: _view(value) for name, value in tensors}

    def _failed(self, error: Exception, feeds: Mapping[str, Array]) -> EvaluationError:
        return EvaluationError(
            f"ONNX Runtime failed: {graphs.first_line(error)}. It was given "
            f"{_described(feeds)}; the model takes {_wanted(self.inputs)}"
        )

    def profiled(self, feeds: Mapping[str, Array]) -> Path:
        """Run once and close the profile; the file it wrote."""
        try:
            self.run(feeds)
        finally:
            file = Path(self._session.end_profiling())
        return file


class Probe:
    """FP32 and INT8 as one model, loaded."""

    def __init__(self, session: Session, points: tuple[Point, ...]) -> None:
        """`session` is of what `probes.build` made."""
        self._session = session
        self.points = points

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, dict[int, Array]]:
        """(P, readings) of a batch, and by place the largest value of each channel, (C,).

        Raises:
            EvaluationError: as `Session.run`.
        """
        given = self._session.run(feeds)
        numbers = given.pop(probes.NUMBERS).astype(np.float64).reshape(len(self.points), -1)
        return numbers, {int(n.removeprefix(probes.PEAKS)): peak for n, peak in given.items()}


def _options(threads: int, *, optimize: bool = True) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = _SILENT  # what fails is raised, not printed
    return options


def _run_options() -> Any:
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = _SILENT
    return options


def _load(source: str | bytes, options: Any, *, name: Path) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        refused.demand_memory(error)
        raise CandidateError(
            f"ONNX Runtime cannot load {name}: {graphs.first_line(error)}. "
            "Check the file with onnx.checker, or export the model again."
        ) from error


def _view(value: Any) -> Array:
    text = value.data_type() == "tensor(string)"
    if text or not hasattr(value, "__dlpack__"):  # ONNX Runtime built without it
        return np.asarray(value.numpy())
    return np.from_dlpack(value)


def _spec(value: Any) -> TensorSpec:
    """`tensor(float)` is float32; what is no tensor keeps ONNX Runtime's word for it."""
    kind = value.type
    if kind.startswith("tensor("):
        inner = kind[len("tensor(") : -1]
        kind = _NUMPY_NAMES.get(inner, inner)
    shape = tuple(size if isinstance(size, int) else None for size in value.shape or ())
    return TensorSpec(name=value.name, dtype=kind, shape=shape)


def _described(feeds: Mapping[str, Array]) -> str:
    parts = [f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items()]
    return ", ".join(parts) or "nothing"


def _wanted(inputs: Sequence[TensorSpec]) -> str:
    parts = []
    for spec in inputs:
        sizes = ", ".join("?" if size is None else str(size) for size in spec.shape)
        parts.append(f"{spec.name} {spec.dtype}[{sizes}]")
    return ", ".join(parts) or "nothing"


def _exposed(proto: Any, tensors: Sequence[str]) -> Any:
    import onnx

    taken = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    extra = [name for name in dict.fromkeys(tensors) if name not in taken]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    return proto


def _check_standard(model: Path, optimized: Any) -> None:
    before = {node.domain for node, _ in graphs.walk(graphs.read(model, weights=False))}
    added = {node.domain for node, _ in graphs.walk(optimized)} - before - {"", "ai.onnx"}
    if added:
        raise CandidateError(
            f"folding {model} introduced operators of {', '.join(sorted(added))}, which other "
            "runtimes do not have; report the model to the authors of gate"
        )


def _equations(model: Path) -> dict[str, str]:
    """The equations of the Einsum nodes, whose work their shapes alone do not tell."""
    proto = graphs.read(model, weights=False)
    graphs.name_nodes(proto)
    return {
        node.name: attribute.s.decode()
        for node, _ in graphs.walk(proto)
        if node.op_type == "Einsum"
        for attribute in node.attribute
        if attribute.name == "equation"
    }


BACKEND = OnnxRuntime()
