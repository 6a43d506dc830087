"""Runs the recipe, and proves that its result runs as INT8."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gate import artifact, graph
from gate.backends import Backend, Ranges
from gate.errors import CandidateError, QuantizationError
from gate.recipes import Recipe
from gate.values import Array, Candidate, FloatWeights, Int8Model, Island, Kernel
from gate.wording import few

_NAMED = 5
_LEAST = 0.01
"""Share of the work below which a model is as good as FP32."""
_NOT_FUSED = "the runtime runs it in floating point: what surrounds it is not all quantized"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a run of the INT8 model executed, in terms of the FP32 model's nodes."""

    quantized_nodes: tuple[str, ...]
    skipped_nodes: tuple[str, ...]
    int8_share: float
    kernels: Mapping[str, int]


def quantize(
    candidate: Candidate,
    recipe: Recipe,
    ranges: Ranges,
    *,
    backend: Backend,
    sample_feeds: Mapping[str, Array],
    threads: int,
    destination: Path,
) -> Int8Model:
    """Make `candidate`'s INT8 version in `destination`, and prove that integers do its work.

    `ranges` are those of the tensors that `backend.activations` names; `sample_feeds` is a small
    batch of model inputs, (B, …) each, on which both models run once to see which kernels execute.

    Raises:
        QuantizationError: the recipe does not fit the model, its quantizer failed, or no integer
            kernel executes.
        EvaluationError: the sample makes the model fail.
    """
    backend.quantize(candidate.path, recipe, ranges, destination)
    advice = "Exclude the nodes that produce them from the recipe"
    _check_outputs(candidate, backend, destination, threads, advice)
    before = backend.profile(candidate.path, sample_feeds, optimize=False)
    after = backend.profile(destination, sample_feeds)
    proof = prove(before, after)
    _check_exclusions(before, proof, recipe)
    reasons = backend.why_float(candidate.path, recipe)
    islands = _islands([k for k in before if k.node in proof.skipped_nodes], before, reasons)
    return _described(destination, proof, islands, recipe=recipe)


def adopt(
    candidate: Candidate,
    int8: Path,
    *,
    source: str,
    backend: Backend,
    sample_feeds: Mapping[str, Array],
    threads: int,
) -> Int8Model:
    """Take an INT8 artifact that was made elsewhere, and prove that integers do its work.

    Its nodes are its own: nothing says which of the candidate's they came from.

    Raises:
        QuantizationError: it does not fit the candidate, or no integer kernel executes.
        CandidateError: the runtime cannot load it.
        EvaluationError: it fails on the sample.
    """
    try:
        backend.open(int8, threads=threads)
    except CandidateError as error:
        raise CandidateError(str(error).replace(str(int8), source)) from error
    _check_inputs(candidate, backend, int8, threads)
    _check_batch(backend, int8, threads, sample_feeds)
    _check_outputs(candidate, backend, int8, threads, "Export both with the same outputs")
    before = backend.profile(candidate.path, sample_feeds, optimize=False)
    kernels = backend.profile(int8, sample_feeds)
    proof = prove_alone(before, kernels)
    islands = _islands([k for k in kernels if k.macs and not k.integer], kernels, {})
    return _described(int8, proof, islands, source=source)


def _islands(
    kernels: Sequence[Kernel], every: Sequence[Kernel], reasons: Mapping[str, str]
) -> tuple[Island, ...]:
    """What stays in floating point, most work first; `every` kernel makes up the whole."""
    total = sum(kernel.macs for kernel in every)
    found = [
        Island(
            node=kernel.node,
            op=kernel.op,
            share=kernel.macs / total,
            reason=reasons.get(kernel.node, _NOT_FUSED),
        )
        for kernel in kernels
        if kernel.macs
    ]
    return tuple(sorted(found, key=lambda island: (-island.share, island.node)))


def _float_weights(path: Path) -> FloatWeights | None:
    sizes = graph.float_weights(graph.read(path, weights=False))
    if not sizes:
        return None
    return FloatWeights(bytes=sum(sizes.values()), largest=tuple(sizes)[:_NAMED])


def _described(
    path: Path,
    proof: Proof,
    islands: tuple[Island, ...],
    *,
    recipe: Recipe | None = None,
    source: str | None = None,
) -> Int8Model:
    sha256, size = artifact.measured(artifact.files(path))
    return Int8Model(
        path=path,
        sha256=sha256,
        bytes=size,
        recipe=recipe,
        quantized_nodes=proof.quantized_nodes,
        skipped_nodes=proof.skipped_nodes,
        int8_share=proof.int8_share,
        kernels=proof.kernels,
        source=source,
        islands=islands,
        float_weights=_float_weights(path),
    )


def prove(fp32: Sequence[Kernel], int8: Sequence[Kernel]) -> Proof:
    """What executed: `fp32` as the graph is written, `int8` as production runs it.

    `int8_share` is the integer kernels' multiply–accumulate operations over all of them.

    Raises:
        QuantizationError: no multiply–accumulate work, or next to none of it by integers.
    """
    nodes = tuple(dict.fromkeys(kernel.node for kernel in fp32 if kernel.macs))
    integers = [kernel for kernel in int8 if kernel.integer and kernel.macs]
    total = sum(kernel.macs for kernel in int8)
    _demand_integers(int8)
    matched = {source_node(kernel.node, nodes) for kernel in integers}
    return Proof(
        quantized_nodes=tuple(node for node in nodes if node in matched),
        skipped_nodes=tuple(node for node in nodes if node not in matched),
        int8_share=sum(kernel.macs for kernel in integers) / total,
        kernels=dict(sorted(Counter(kernel.op for kernel in int8).items())),
    )


def prove_alone(fp32: Sequence[Kernel], int8: Sequence[Kernel]) -> Proof:
    """What executed, in terms of the INT8 model's own nodes; as `prove`.

    `int8_share` is at most the share of FP32's work that floating point does not do: integers at
    work on what leads nowhere, beside the whole model in floating point, make no INT8 model.

    Raises:
        QuantizationError: as `prove`.
    """
    worked = [kernel for kernel in int8 if kernel.macs]
    integers = [kernel for kernel in worked if kernel.integer]
    _demand_integers(int8)
    floats = sum(kernel.macs for kernel in worked if not kernel.integer)
    needed = max(1, sum(kernel.macs for kernel in fp32))
    share = min(sum(k.macs for k in integers) / sum(k.macs for k in worked), 1 - floats / needed)
    if share < _LEAST:
        raise QuantizationError(
            "as much of the INT8 model's work runs in floating point as the FP32 model has in all, "
            "and what integers do comes on top of it. That is no INT8 model: quantize the FP32 "
            "model's own layers"
        )
    return Proof(
        quantized_nodes=tuple(dict.fromkeys(kernel.node for kernel in integers)),
        skipped_nodes=tuple(dict.fromkeys(k.node for k in worked if not k.integer)),
        int8_share=share,
        kernels=dict(sorted(Counter(kernel.op for kernel in int8).items())),
    )


def source_node(kernel: str, nodes: Collection[str]) -> str | None:
    """The FP32 node that `kernel` came from: runtimes append, `conv1` -> `conv1_token_1`.

    The longest name wins, so that `conv_1_quant` is of `conv_1`, never of `conv`.
    """
    ends = [index for index, letter in enumerate(kernel) if letter in "_/"]
    heads = (kernel[:end] for end in (len(kernel), *reversed(ends)))
    return next((head for head in heads if head in nodes), None)


def _check_inputs(candidate: Candidate, backend: Backend, int8: Path, threads: int) -> None:
    """Names and types; a shape may be freer or tighter, and a run shows whether it fits."""
    expected = {spec.name: spec.dtype for spec in candidate.inputs}
    found = {spec.name: spec.dtype for spec in backend.open(int8, threads=threads).inputs}
    if found != expected:
        raise QuantizationError(
            f"the INT8 model's inputs are {found} and the FP32 model's {expected}; they cannot be "
            "fed the same examples. Export both with the same inputs"
        )


def _check_batch(backend: Backend, int8: Path, threads: int, feeds: Mapping[str, Array]) -> None:
    for spec in backend.open(int8, threads=threads).inputs:
        fixed = spec.shape[0] if spec.shape else None
        if fixed not in (None, len(feeds[spec.name])):
            raise QuantizationError(
                f"the INT8 model's input {spec.name!r} is fixed to batches of {fixed}, and it is "
                f"given {len(feeds[spec.name])} examples: write `judge: {{batch_size: {fixed}}}`, "
                "or export it with a free batch dimension"
            )


def _check_outputs(
    candidate: Candidate, backend: Backend, int8: Path, threads: int, advice: str
) -> None:
    """Names in order, and types but for the width of floats."""
    expected, found = (
        {spec.name: "float" if spec.dtype.startswith("float") else spec.dtype for spec in outputs}
        for outputs in (candidate.outputs, backend.open(int8, threads=threads).outputs)
    )
    if [*found.items()] != [*expected.items()]:
        raise QuantizationError(
            f"the INT8 model's outputs are {found} and the FP32 model's {expected}; "
            f"they cannot be compared. {advice}"
        )


def _check_exclusions(fp32: Sequence[Kernel], proof: Proof, recipe: Recipe) -> None:
    """An excluded product of two activations is still fused where its neighbours are INT8."""
    excluded = {
        kernel.node
        for kernel in fp32
        if kernel.node in recipe.exclude_nodes or kernel.op in recipe.exclude_op_types
    }
    broken = [node for node in proof.quantized_nodes if node in excluded]
    if broken:
        raise QuantizationError(
            f"the recipe excludes {few(broken)}, and the runtime runs it as integers all the "
            "same, because the nodes around it are quantized: exclude those that feed it, too"
        )


def _demand_integers(kernels: Sequence[Kernel]) -> None:
    """A model that all but runs in floating point is none that INT8 was judged on."""
    total = sum(kernel.macs for kernel in kernels)
    integer = sum(kernel.macs for kernel in kernels if kernel.integer)
    if not integer:
        raise QuantizationError(_nothing_ran(kernels))
    if integer < _LEAST * total:
        floats = [f"{k.node} ({k.op})" for k in kernels if k.macs and not k.integer]
        raise QuantizationError(
            f"only {100 * integer / total:.2g} % of the model's work runs as integers: "
            f"{few(floats)} run in floating point. That is no INT8 model: try another recipe, "
            "such as static, or release it as FP32"
        )


def _nothing_ran(kernels: Sequence[Kernel]) -> str:
    floats = [f"{kernel.node} ({kernel.op})" for kernel in kernels if kernel.macs]
    if not floats:
        return (
            "the INT8 model executes no multiply–accumulate work at all, so there is nothing that "
            "INT8 could speed up; release the model as FP32"
        )
    return (
        f"the INT8 model loads, and runs no integer kernel: {few(floats)} ran in floating point. "
        "Their weights are not constants, their types are unknown to the quantizer, or what "
        "surrounds them is not quantized; "
        "export the model with constants folded, or try another recipe"
    )
