"""How a run comes by its INT8 model."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gate import artifact, calibrate, data, graph, preprocess, publish, saturation
from gate.backends import Backend, Exposed
from gate.candidate import Source
from gate.normalize import external_files
from gate.provenance import cpu
from gate.quantize import adopt, quantize
from gate.recipes import Recipe
from gate.run import SMOOTHED, Ready, Run
from gate.values import Array, Batch, Candidate, Int8Model, Saturation, Split

_NOTICED = 1e-6
"""Share of products from which an overflow is worth a word."""


def take_ready(source: Source, scratch: Path) -> Ready:
    """Copy an INT8 artifact that was made elsewhere to where the run keeps its own.

    A single file stays as it is, byte by byte; weights beside it move to `<name>.data`.

    Raises:
        CandidateError: it cannot be read.
    """
    path = scratch / "model.int8.onnx"
    if external_files(source.onnx):
        graph.write(graph.read(source.onnx), path)
    else:
        shutil.copyfile(source.onnx, path)
    alone = graph.depends_on_batch(graph.read(path, weights=False))
    return Ready(path=path, source=source.name, alone=alone)


def make_int8(
    run: Run, candidate: Candidate, calibration: Split | None, sample: Mapping[str, Array]
) -> Int8Model:
    """By the policy's recipe, or as it was handed in.

    `sample` is a small batch on which the models show what executes.

    Raises:
        QuantizationError: the recipe does not fit, or no integer kernel executes.
        EvaluationError: calibration data make the model fail, or give NaN.
    """
    if run.ready is not None:
        with run.step("quantize"):
            return adopt(
                candidate,
                run.ready.path,
                source=run.ready.source,
                backend=run.backend,
                sample_feeds=sample,
                threads=run.threads,
            )
    if run.policy.build.recipe.is_rescaled:
        with run.step("rescale"):
            candidate = _rescaled(run, candidate, calibration)
    with run.step("calibrate"):
        sources, observed = _calibrated(run, candidate, calibration)
    recipe = run.policy.build.recipe
    ranges = calibrate.ranges_of(observed, recipe, sources) if sources else {}
    if recipe.correct_bias:
        with run.step("correct"):
            candidate = _with_biases(run, candidate, calibration, ranges)
    with run.step("quantize"):
        int8 = quantize(
            candidate,
            recipe,
            ranges,
            backend=run.backend,
            sample_feeds=sample,
            threads=run.threads,
            destination=run.scratch / "model.int8.onnx",
        )
        if not recipe.needs_calibration:  # nothing tells what its activations are
            return replace(int8, saturating=() if recipe.reduce_range else None)
        return replace(int8, saturating=_saturating(run, int8, sources, observed))


def _saturating(
    run: Run, int8: Int8Model, sources: Mapping[str, str], observed: calibrate.Observed
) -> tuple[Saturation, ...]:
    """Layers that overflow on x86 without VNNI, by what calibration saw."""
    found = []
    for layer in run.backend.products(int8.path):
        seen = observed.get(sources.get(layer.tensor, ""))
        if seen is not None:
            often = saturation.levels(seen, layer.scale, layer.zero_point)
            found.append((saturation.share(layer.weights, often), layer.node))
    worst = sorted((-share, node) for share, node in found if share >= _NOTICED)
    return tuple(Saturation(node=node, share=-share) for share, node in worst)


def _calibrated(
    run: Run, candidate: Candidate, calibration: Split | None
) -> tuple[Mapping[str, str], calibrate.Observed]:
    """Which tensor stands for which, and what one pass over the calibration data saw of them.

    The pass is this run's, or an earlier one's over the same data.
    """
    recipe, backend = run.policy.build.recipe, run.backend
    sources = backend.activations(candidate.path, recipe)
    if not recipe.needs_calibration:
        return {}, {}
    assert calibration is not None
    tensors = tuple(dict.fromkeys(sources.values()))
    key = {
        "model": candidate.fp32_sha256,
        "data": calibration.sha256,
        "preprocessing": preprocess.digest(run.policy.build.preprocess),
        "tensors": tensors,
        "versions": backend.versions(),
        "cpu": cpu(),
        "threads": run.threads,
    }
    cache = calibrate.Cache(publish.RUNS / "cache" / "calibration")
    seen: calibrate.Observed | None = cache.load(key)
    if seen is None or [*seen] != [*tensors]:
        seen = observed(run, candidate, calibration, tensors)
        cache.save(key, seen)
    return sources, seen


def _with_biases(
    run: Run,
    candidate: Candidate,
    calibration: Split | None,
    ranges: Mapping[str, tuple[float, float]],
) -> Candidate:
    assert calibration is not None
    draft = run.scratch / "draft.onnx"
    run.backend.quantize(candidate.path, run.policy.build.recipe, ranges, draft)
    path = corrected(
        run.backend,
        candidate.path,
        run.policy.build.recipe,
        draft,
        calibration,
        fixed=data.fixed_batch(candidate),
        threads=run.threads,
        destination=run.scratch / "corrected.onnx",
    )
    return at(candidate, path)


def at(candidate: Candidate, path: Path) -> Candidate:
    """The same candidate, its FP32 changed for the better of INT8."""
    sha256, size = artifact.measured(artifact.files(path))
    return replace(candidate, path=path, fp32_sha256=sha256, bytes=size)


def corrected(
    backend: Backend,
    fp32: Path,
    recipe: Recipe,
    draft: Path,
    calibration: Split,
    *,
    fixed: int | None,
    threads: int,
    destination: Path,
) -> Path:
    """Write FP32 with biases that make up for what rounding the weights shifts on average.

    `draft` is its INT8 version without that.
    """
    axes = backend.corrected(fp32, recipe)
    names = tuple(axes)
    runner, batches = _exposed(backend, fp32, calibration, names, fixed=fixed, threads=threads)
    means = calibrate.mean_by_channel(runner.views, batches, axes)
    backend.correct(fp32, draft, means, destination)
    return destination


def _rescaled(run: Run, candidate: Candidate, calibration: Split | None) -> Candidate:
    """The same function, of which less is lost; what INT8 is held against stays as it was."""
    assert calibration is not None
    path = rescaled(
        run.backend,
        candidate.path,
        run.policy.build.recipe,
        calibration,
        fixed=data.fixed_batch(candidate),
        threads=run.threads,
        destination=run.scratch / SMOOTHED,
    )
    return at(candidate, path)


def rescaled(
    backend: Backend,
    fp32: Path,
    recipe: Recipe,
    calibration: Split,
    *,
    fixed: int | None,
    threads: int,
    destination: Path,
) -> Path:
    """Write FP32 with outliers moved into weights, which is what INT8 is made of."""
    axes = backend.smoothable(fp32, recipe)
    names = tuple(axes)
    runner, batches = _exposed(backend, fp32, calibration, names, fixed=fixed, threads=threads)
    maxima = calibrate.largest_by_channel(runner.views, batches, axes)
    backend.smooth(fp32, recipe, maxima, destination)
    return destination


def observed(
    run: Run, candidate: Candidate, calibration: Split, tensors: Sequence[str]
) -> calibrate.Observed:
    """What one pass over the calibration data sees of these tensors."""
    runner, batches = _exposed(
        run.backend,
        candidate.path,
        calibration,
        tensors,
        fixed=data.fixed_batch(candidate),
        threads=max(1, run.threads - 1),  # one counts, which takes long, what the others compute
    )
    return calibrate.observe(runner.views, batches, tensors)


def _exposed(
    backend: Backend,
    fp32: Path,
    calibration: Split,
    tensors: Sequence[str],
    *,
    fixed: int | None,
    threads: int,
) -> tuple[Exposed, Iterator[Batch]]:
    """The model with these tensors as outputs, and batches that it has the memory for."""
    runner = backend.open_exposed(fp32, tensors, threads=threads)
    batches = calibrate.batches(
        calibration,
        fixed=fixed,
        measure=lambda batch: sum(value.nbytes for value in runner.views(batch.feeds).values()),
    )
    return runner, batches
