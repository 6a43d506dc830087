"""A torch module or program as ONNX, with what it computes, to hold the ONNX file against."""

import copy
import hashlib
import inspect
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import artifact
from gate.errors import CandidateError, UsageError
from gate.values import Array

Outputs = Mapping[str, Array]
_BATCH, _LENGTH = 0, 1


@dataclass(frozen=True, slots=True)
class Exported:
    """A module as an ONNX file."""

    onnx: Path
    sha256: str
    """Of what was exported."""
    reference: Callable[[Mapping[str, Array]], Outputs]
    """Runs what was exported, in the order of the ONNX outputs."""


def module(given: Any, name: str, scratch: Path, feeds: Mapping[str, Array]) -> Exported:
    """A module as ONNX with a free batch; `feeds` are examples by input name, (B, …) each.

    Raises:
        CandidateError: it cannot be traced or exported.
    """
    torch = torch_for(name)
    held = copy.deepcopy(given).eval().cpu()  # the caller may go on training it
    batch = {_BATCH: torch.export.Dim("batch")}
    program = _traced(torch, name, held, feeds, (batch,) * len(feeds))
    sha256 = _sha256_of_program(torch, program)
    return _to_onnx(program, held, name=name, sha256=sha256, scratch=scratch, inputs=tuple(feeds))


def tokens_module(
    given: Any,
    name: str,
    scratch: Path,
    *,
    sha256: str,
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    free_length: bool,
) -> Exported:
    """A language model as ONNX with a free batch and, with `free_length`, any number of tokens.

    `given` takes any number of tensors by position and gives a tuple of the `outputs`; `feeds` are
    token ids and masks by input name, (B, T) each; `sha256` is that of what it was loaded from.

    Raises:
        CandidateError: it cannot be traced, so not either with a free length, or exported.
    """
    torch = torch_for(name)
    axes = (_BATCH, _LENGTH) if free_length else (_BATCH,)
    # a model takes as many tokens as it has positions: DYNAMIC is any size up to there
    free = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    program = _traced(torch, name, given, feeds, ((free,) * len(feeds),))
    return _to_onnx(
        program,
        given,
        name=name,
        sha256=sha256,
        scratch=scratch,
        inputs=tuple(feeds),
        outputs=tuple(outputs),
    )


def program(path: Path, name: str, scratch: Path) -> Exported:
    """A `.pt2` file as ONNX; loading one runs code.

    Raises:
        CandidateError: it is none, or cannot be exported.
    """
    torch = torch_for(name)
    try:
        loaded = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CandidateError(f"candidate {name} is not a .pt2 program: {first(error)}") from error
    sha256 = artifact.sha256_of(path)
    return _to_onnx(loaded, loaded.module(), name=name, sha256=sha256, scratch=scratch)


def is_module(given: Any, name: str) -> bool:
    """Whether something is a `torch.nn.Module`."""
    return isinstance(given, torch_for(name).nn.Module)


def parameters(given: Any) -> tuple[str, ...]:
    """Names of the inputs that a module's `forward` requires."""
    told = inspect.signature(given.forward).parameters.values()
    return tuple(p.name for p in told if p.default is p.empty and p.kind is not p.VAR_KEYWORD)


def torch_for(name: str) -> Any:
    """The library torch, quiet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import torch

    except ModuleNotFoundError as error:
        raise UsageError(
            f"candidate {name} needs torch: pip install 'int8-gate[torch]', or export it to ONNX"
        ) from error
    logging.getLogger("torch").setLevel(logging.ERROR)  # it warns of torchvision at every export
    return torch


def first(error: Exception) -> str:
    """The first line of an error that is not blank."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ── tracing and writing ───────────────────────────────────────────────────────────────────


def _traced(
    torch: Any, name: str, given: Any, feeds: Mapping[str, Array], shapes: tuple[Any, ...]
) -> Any:
    """The program; `shapes` are the free axes, in the structure of the module's parameters."""
    arguments = tuple(torch.from_numpy(_at_least_two(value)) for value in feeds.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations, which users cannot mend
            return torch.export.export(given, arguments, dynamic_shapes=shapes)
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise CandidateError(f"candidate {name} cannot be traced: {first(error)}") from error


def _to_onnx(
    program: Any,
    given: Any,
    *,
    name: str,
    sha256: str,
    scratch: Path,
    inputs: tuple[str, ...] | None = None,
    outputs: tuple[str, ...] | None = None,
) -> Exported:
    import torch

    path = scratch / "exported.onnx"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in _traced
            exported = torch.onnx.export(
                program,
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                verbose=False,
                optimize=True,
            )
        exported.save(path, external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise CandidateError(f"candidate {name} cannot be exported: {first(error)}") from error
    order = tuple(value.name for value in exported.model.graph.inputs)
    names = tuple(value.name for value in exported.model.graph.outputs)

    def reference(feeds: Mapping[str, Array]) -> Outputs:
        with torch.no_grad():
            results = given(*(torch.tensor(feeds[key]) for key in order))
        tensors = results if isinstance(results, tuple | list) else (results,)
        return dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True))

    return Exported(onnx=path, sha256=sha256, reference=reference)


def _sha256_of_program(torch: Any, program: Any) -> str:
    """sha256 of what a traced module computes, and of its weights and constants, by name."""
    digest = hashlib.sha256()
    for name, part in program.graph_module.named_modules():
        digest.update(f"{name} {getattr(part, 'code', '')}".encode())
    for key, value in sorted({**program.constants, **program.state_dict}.items()):
        tensor = torch.as_tensor(value).detach().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _at_least_two(value: Array) -> Array:
    """torch specialises a batch of one: repeat it."""
    return np.concatenate([value, value]) if len(value) == 1 else np.array(value)
