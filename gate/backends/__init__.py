"""Runtimes: what executes models, and makes INT8 ones."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from gate import artifact, door
from gate.recipes import Recipe
from gate.values import Array, Kernel, TensorSpec

GROUP = "gate.backends"
BACKENDS = {"onnxruntime": "gate.backends.onnxruntime:BACKEND"}
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A layer that multiplies unsigned activations with signed weights."""

    node: str
    tensor: str
    """Its activations, by their name in the FP32 model."""
    scale: float
    zero_point: int
    weights: Array
    """(M, K) of int8, K in the order in which products are added."""


READINGS = ("signal", "whole", "own", "came", "rounding", "clipped", "far")
"""What a probe sums up at each point: squares of FP32's values, of INT8's error, of the error that
the layer adds to FP32's own inputs, of what came to it from further up, of what its quantizer alone
loses, and of that by clipping; then the share of values beyond an eighth of the quantizer's range.
Each channel counts as the layers that read it feel it, where their weights are known.
"""
_KEPT = 2
"""Sessions: FP32's and INT8's."""
_IMAGES = 4
"""Axes of a batch of images."""


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A floating-point tensor that both models have, and the layer that computes it."""

    tensor: str
    node: str
    """FP32's node; empty for a model input."""
    op: str
    sources: tuple[str, ...]
    """Tensors of the points that INT8 computes it from."""
    is_output: bool
    ends: tuple[float, float] | None
    """What its integers cover; None where it stays in floating point."""
    rank: int | None
    """Number of axes, where that is known."""
    groups: int
    """Of a convolution."""
    weights: Array | None
    """(M,) largest absolute quantized weight of each output channel; None without any."""
    scales: int
    """Of those weights: 1 for all, or one a channel; 0 without any."""

    @property
    def channel_axis(self) -> int:
        """The second of a batch of images, otherwise the last."""
        return 1 if self.rank == _IMAGES else -1 if self.rank is None else self.rank - 1


class Probe(Protocol):
    """FP32 and INT8, run side by side."""

    points: tuple[Point, ...]
    """In the order in which FP32 computes them."""

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, Mapping[int, Array]]:
        """(P, readings) of a batch, and by place the largest value of each channel, (C,).

        Raises:
            EvaluationError: as `Runner.run`.
        """


class Runner(Protocol):
    """A model, loaded."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            EvaluationError: the runtime refused the inputs or failed.
        """


class Exposed(Runner, Protocol):
    """A model whose inner tensors are outputs."""

    def views(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, without copying: read-only."""


class Backend(Protocol):
    """A runtime."""

    key: str

    def prepare(self) -> None:
        """Load the runtime itself, before anything is measured."""

    def open(self, model: Path, *, threads: int) -> Runner:
        """Load a model as production would: all graph optimizations on.

        Raises:
            CandidateError: the runtime cannot load it.
        """

    def open_exposed(self, model: Path, tensors: Sequence[str], *, threads: int) -> Exposed:
        """Load it with graph optimizations off and `tensors` added to its outputs."""

    def quantized(self, model: Path) -> tuple[str, ...]:
        """Names of nodes that only a quantized model has."""

    def optimize(self, model: Path, destination: Path) -> None:
        """Write the model with constants folded, in standard operators only."""

    def smoothable(self, model: Path, recipe: Recipe) -> Mapping[str, int]:
        """Tensors whose largest values by channel `smooth` needs, each with its channels' axis."""

    def smooth(
        self, model: Path, recipe: Recipe, maxima: Mapping[str, Array], destination: Path
    ) -> None:
        """Write the same model with outliers of activations moved into weights."""

    def corrected(self, model: Path, recipe: Recipe) -> Mapping[str, int]:
        """Tensors whose means by channel `correct` needs, each with its channels' axis."""

    def correct(
        self, model: Path, int8: Path, means: Mapping[str, Array], destination: Path
    ) -> None:
        """Write FP32 with biases for what rounding its weights, as in `int8`, shifts on average."""

    def activations(self, model: Path, recipe: Recipe) -> Mapping[str, str]:
        """Tensors whose ranges `quantize` needs, each with the one to observe in its stead."""

    def quantize(
        self,
        model: Path,
        recipe: Recipe,
        ranges: Ranges,
        destination: Path,
        *,
        like: Path | None = None,
    ) -> None:
        """Write the INT8 model; what one file cannot hold goes to `<destination>.data`.

        `like`, which may be the destination, saves work: an INT8 version of the same model, biases
        apart, by a recipe that differs in the choice of ranges alone.

        Raises:
            QuantizationError: the recipe names nodes or operators that do not exist, or the
                runtime's quantizer failed.
        """

    def probe(self, fp32: Path, int8: Path, *, threads: int) -> Probe:
        """Load both models as one that tells what is lost where.

        Raises:
            CandidateError: they have no inner tensors in common.
        """

    def products(self, model: Path) -> Iterator[Product]:
        """The INT8 model's layers of unsigned activations and signed weights."""

    def why_float(self, model: Path, recipe: Recipe) -> Mapping[str, str]:
        """Nodes that `recipe` leaves in floating point, each with the reason."""

    def profile(
        self, model: Path, feeds: Mapping[str, Array], *, optimize: bool = True
    ) -> tuple[Kernel, ...]:
        """Run once and report every kernel that executed, with its real work.

        Without `optimize` the graph runs as written, so that nodes keep their names.
        """

    def versions(self) -> dict[str, str]:
        """Libraries whose version can change results."""


class OpenOnce:
    """A backend that keeps the sessions opened last: loading a large model takes seconds."""

    def __init__(self, backend: Backend) -> None:
        """All but `open` is the backend's own."""
        self._backend = backend
        self._sessions: OrderedDict[object, Runner] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        """What the backend has."""
        return getattr(self._backend, name)

    def open(self, model: Path, *, threads: int) -> Runner:
        """As `Backend.open`; a file that was written again since is another model."""
        told = [(file, file.stat()) for file in artifact.files(model) if file.exists()]
        key = (threads, *((file, one.st_size, one.st_mtime_ns) for file, one in told))
        if key not in self._sessions:
            self._sessions[key] = self._backend.open(model, threads=threads)
        self._sessions.move_to_end(key)
        while len(self._sessions) > _KEPT:
            self._sessions.popitem(last=False)
        return self._sessions[key]


def open_once(backend: Backend) -> Backend:
    """The backend, with `OpenOnce`."""
    return cast(Backend, OpenOnce(backend))


def get(key: str) -> Backend:
    """The backend behind `key`; `UsageError` lists the known ones."""
    return cast(Backend, door.look_up(GROUP, BACKENDS, key))
