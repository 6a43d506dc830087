"""The producer of quantization-aware training: a torch module and a training loop in, INT8 out.

    from gate.training import quantization_aware

    def fit(module):                       # your own loop, over your own data
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        for epoch in range(3):
            module.train()
            for image, target in loader:
                loss = cross_entropy(module(image), target)
                optimizer.zero_grad(); loss.backward(); optimizer.step()

    quantization_aware(module, fit, {"image": images[:2]}, "model.int8.onnx")

What comes out is QDQ ONNX with int8 weights, and the proof has been given that the runtime computes
its layers with integers. `gate run --int8 model.int8.onnx` judges it as it judges any other.

Start from trained weights and train on for a few epochs, at a tenth of the learning rate or less.
`module.train()` and `module.eval()` work as always; in `eval()` ranges and batch statistics stand
still, so the last epochs may train in it.
"""

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gate import artifact, backends, graph, trainable
from gate.errors import CandidateError, QuantizationError, UsageError
from gate.rounding import is_seen, roundings
from gate.values import Kernel
from gate.wording import few

BACKEND = "onnxruntime"
SHARE = 0.8
"""Of the multiply–accumulate work, what integer kernels have to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A module with INT8's rounding in it: train `module`, then `export` it."""

    module: Any
    """The `torch.nn.Module` to train, in training mode; the original is untouched.

    It takes and gives what the original does, and is copied, moved and saved (`state_dict`) as any.
    """
    examples: Mapping[str, Any]
    """The example inputs by name, (B, …) each."""
    outputs: tuple[str, ...]
    """Names of the outputs in ONNX."""
    dynamic_batch: bool
    """Whether ONNX takes any number of examples."""

    def export(self, path: str | PathLike[str], *, at_least: float = SHARE) -> Path:
        """Write what has been trained as QDQ ONNX; `module` stays as it is and can train on.

        Equal weights and ranges give equal bytes.

        Args:
            path: the `.onnx` file to write; weights above 1.5 GB go to `<path>.data`.
            at_least: the share of multiply–accumulate work that integer kernels must do.

        Raises:
            UsageError: `path` is no `.onnx` file, or its folder cannot be written.
            CandidateError: torch cannot export it.
            QuantizationError: the loop left NaN, or nothing trained, or too little of the model
                runs as integers. Nothing is written then.
        """
        path = Path(path)
        if path.suffix != ".onnx":
            raise UsageError(f"{path}: the trained model is written as ONNX; name it *.onnx")
        _demand_trained(self.module)
        model = _onnx(self)
        with _beside(path) as draft:
            graph.write(model, draft)
            _prove(draft, {name: value.numpy() for name, value in self.examples.items()}, at_least)
            artifact.weights_of(path).unlink(missing_ok=True)
            for file in artifact.files(draft):
                file.replace(path.with_name(file.name))
        return path


def prepare(
    module: Any,
    example_inputs: Any,
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
    dynamic_batch: bool = True,
    output_names: Sequence[str] | None = None,
) -> Prepared:
    """Trace a module and put the rounding of INT8 into it, for a loop of the caller's to train.

    Weights are rounded to int8 without zero point, activations to uint8 by a moving average of
    their ranges. BatchNorm after a layer becomes part of its weights.

    Args:
        module: a trained `torch.nn.Module` of float32; it is copied.
        example_inputs: arrays or tensors by the inputs' names, or a tuple in the order of
            `forward`, whose parameters then name them, or one alone; (B, …) each. Their values are
            only used to trace.
        per_channel: one scale per output channel of a weight, instead of one per tensor.
        reduce_range: 7-bit weights, exact on x86 without VNNI.
        dynamic_batch: let ONNX take any number of examples.
        output_names: default: those that `gate.run_gate(policy, module)` gives the FP32 model.

    Raises:
        UsageError: torch is not installed, or an argument is of the wrong kind.
        CandidateError: `torch.export` cannot take the module, or it branches on `self.training`.
        QuantizationError: it has no layer that could be rounded.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"expected a torch.nn.Module to train, not {_kind(module)}")
    examples = _examples(torch, module, example_inputs)
    original = _copied(module)
    arguments = tuple(examples.values())
    if dynamic_batch:
        arguments = tuple(_at_least_two(value) for value in arguments)
    there = [value.to(_device(original)) for value in arguments]
    with _quiet():
        traced = trainable.trace(original, there, dynamic_batch=dynamic_batch)
        ready = trainable.prepared(traced, per_channel=per_channel, reduce_range=reduce_range)
    if not any(part.is_of_weights for part in roundings(ready).values()):
        raise QuantizationError(
            f"{_kind(module)} has no convolution and no linear layer of float32, so there is "
            "nothing to train for INT8; release it as FP32"
        )
    return Prepared(
        module=ready,
        examples=dict(zip(examples, arguments, strict=True)),
        outputs=_output_names(traced.outputs, output_names),
        dynamic_batch=dynamic_batch,
    )


def quantization_aware(
    module: Any,
    fit: Callable[[Any], object],
    example_inputs: Any,
    path: str | PathLike[str],
    *,
    at_least: float = SHARE,
    **options: Any,
) -> Path:
    """`prepare` the module, let `fit` train what came of it, and `export` that.

    `fit` trains the module that it is given, in place; what it returns is ignored, and what it
    raises passes through. `options` are those of `prepare`.

    Raises:
        GateError: as `prepare` and `Prepared.export`.
    """
    if not callable(fit):
        raise UsageError(f"`fit` must be a function that trains a module, not {_kind(fit)}")
    ready = prepare(module, example_inputs, **options)
    try:
        fit(ready.module)
    except AssertionError:  # what torchao makes of ranges that are NaN
        _demand_no_nan(ready.module)
        raise
    return ready.export(path, at_least=at_least)


# ── what comes in ─────────────────────────────────────────────────────────────────────────


def _examples(torch: Any, module: Any, given: Any) -> dict[str, Any]:
    """Tensors by input name, in the order of `forward`'s parameters."""
    known = _parameters(module)
    if not isinstance(given, Mapping):
        several = given if isinstance(given, tuple | list) else (given,)
        given = dict(zip(known, several, strict=False)) if len(several) <= len(known) else several
    if len(given) > len(known):
        raise UsageError(
            f"{len(given)} example inputs were given, and {_kind(module)}.forward takes "
            f"{len(known)}: {', '.join(known)}"
        )
    if set(given) == set(known[: len(given)]):
        given = {name: given[name] for name in known[: len(given)]}
    if not given:
        raise UsageError("no example inputs were given: pass {name: array} with two examples each")
    return {str(name): _tensor(torch, str(name), value) for name, value in given.items()}


def _tensor(torch: Any, name: str, value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value.copy())
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"example input {name!r} must be a torch tensor or a numpy array of numbers, "
            f"not {_kind(value)}"
        )
    if not value.dim() or not value.numel():
        raise UsageError(
            f"example input {name!r} has shape {tuple(value.shape)}: its first axis must be that "
            "of the examples, with at least one"
        )
    return value.detach().cpu()


def _parameters(module: Any) -> tuple[str, ...]:
    found = inspect.signature(module.forward).parameters.values()
    return tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _at_least_two(value: Any) -> Any:
    """torch specialises a batch of one: repeat it."""
    return value.repeat(2, *[1] * (value.dim() - 1)) if len(value) == 1 else value


def _copied(module: Any) -> Any:
    others = {str(p.dtype) for p in module.parameters()} - {"torch.float32"}
    if others:
        raise UsageError(
            f"{_kind(module)} has parameters of {', '.join(sorted(others))}; INT8 is trained from "
            "float32: pass module.float()"
        )
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise CandidateError(
            f"{_kind(module)} cannot be copied: {graph.first_line(error)}. Make what computes its "
            "weights permanent first: torch.nn.utils.prune.remove, remove_parametrizations"
        ) from error


def _output_names(found: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return tuple(found)
    if len(set(wanted)) != len(found):
        raise UsageError(
            f"output_names are {list(wanted)}, and the module has {len(found)} outputs, each of "
            "which needs a name of its own"
        )
    return tuple(wanted)


# ── what the loop left ────────────────────────────────────────────────────────────────────


def _demand_trained(module: Any) -> None:
    """No NaN, still float32, and every rounding seen and on."""
    _demand_no_nan(module)
    cast = [name for name, p in module.named_parameters() if str(p.dtype) != "torch.float32"]
    if cast:
        raise QuantizationError(f"the loop cast {few(cast)}: train in float32, or under autocast")
    parts = roundings(module).values()
    if not all(is_seen(part) for part in parts):
        raise QuantizationError(
            "no batch went through the prepared module in training mode, so the ranges of its "
            "activations are unknown: train the module that `fit` is given (`Prepared.module`), "
            "not the one that it was made from, and call `train()` before"
        )
    if not all(bool(part.fake_quant_enabled[0]) for part in parts):
        raise QuantizationError(
            "the loop left rounding switched off, so the weights were not trained for INT8: call "
            "module.apply(torchao.quantization.pt2e.enable_fake_quant) and train on"
        )


def _demand_no_nan(module: Any) -> None:
    """Ranges that nothing was seen for are infinite, and weights never."""
    spoilt = [
        name
        for name, tensor in module.state_dict().items()
        if bool(tensor.isnan().any())
        or ("activation_post_process" not in name and not bool(tensor.isfinite().all()))
    ]
    if spoilt:
        raise QuantizationError(
            f"training left NaN or infinite values in {few(spoilt)}: lower the learning rate, "
            "clip gradients, or mend examples that are NaN"
        )


# ── ONNX ──────────────────────────────────────────────────────────────────────────────────


def _onnx(ready: Prepared) -> Any:
    """QDQ ONNX in memory, without a trace of the machine that made it."""
    arguments = tuple(ready.examples.values())
    try:
        with _quiet():
            converted = trainable.converted(ready.module, arguments)
            return trainable.to_onnx(
                converted,
                ready.examples,
                outputs=ready.outputs,
                dynamic_batch=ready.dynamic_batch,
            )
    except Exception as error:
        raise CandidateError(
            f"torch cannot export what was trained: {graph.first_line(error)}"
        ) from error


def _prove(path: Path, feeds: Mapping[str, Any], at_least: float) -> None:
    """Integers do the work, by the runtime's own account.

    Raises:
        QuantizationError: they do less of it than `at_least`; names what stays in floating point.
    """
    kernels = backends.get(BACKEND).profile(path, feeds)
    total = sum(kernel.macs for kernel in kernels)
    floats = sorted((k for k in kernels if k.macs and not k.integer), key=lambda k: -k.macs)
    share = 1 - sum(kernel.macs for kernel in floats) / max(total, 1)
    if not total or share < at_least:
        raise QuantizationError(
            f"integer kernels would do {share:.1%} of the work, and {at_least:.0%} is asked for: "
            f"{few([_told(kernel, total) for kernel in floats])} stay in floating point. Use "
            "convolutions, linear layers and matrix products with constant weights, or lower "
            "`at_least`"
        )


def _told(kernel: Kernel, total: int) -> str:
    return f"{kernel.node} ({kernel.op}, {kernel.macs / total:.1%})"


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A private place on the same disk, so that `path` appears whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".gate-", dir=path.parent) as folder:
            yield Path(folder) / path.name
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


# ── torch ─────────────────────────────────────────────────────────────────────────────────


def _torch() -> Any:
    try:
        with _quiet():
            torch, *_ = (import_module(name) for name in ("torch", "torchao", "onnxscript"))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"quantization-aware training needs {error.name}: pip install 'int8-gate[torch]'"
        ) from error
    return torch


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own deprecations and notes, which a user cannot mend; errors pass."""
    loggers = [logging.getLogger(name) for name in ("torch", "torchao")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _device(module: Any) -> Any:
    return next((parameter.device for parameter in module.parameters()), "cpu")


def _kind(value: Any) -> str:
    return type(value).__name__
