"""Where a candidate comes from: a path, an MLflow URI or a torch module, as an ONNX file.

Nothing here runs code that came with a model unless the caller trusts it: ONNX is data; what
MLflow stores is downloaded and its `MLmodel` parsed, never loaded through pyfunc; formats that
execute code on load (`.pt2`, MLflow's pytorch flavour) need `trust`.
"""

import copy
import hashlib
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gate import artifact
from gate.errors import CandidateError, UsageError
from gate.policy import MODEL_URIS
from gate.values import Array

Outputs = Mapping[str, Array]
Examples = Callable[[tuple[str, ...]], Mapping[str, Array]]
"""Given a module's parameter names, a few examples by input name, (B, …) each."""


@dataclass(frozen=True, slots=True)
class Source:
    """A candidate as ONNX, and what it was before."""

    onnx: Path
    """The file, possibly with external data beside it; never written to."""
    name: str
    """As a person would name it: path, `models:/name/3`, `module:Net`."""
    sha256: str | None = None
    """Of what was exported (torch); None for ONNX, whose own bytes count."""
    reference: Callable[[Mapping[str, Array]], Outputs] | None = None
    """Runs what was exported (torch), in the order of the ONNX outputs; None for ONNX."""


def fetch(candidate: Any, *, scratch: Path, trust: bool, examples: Examples) -> Source:
    """Bring a candidate to this machine as ONNX.

    Args:
        candidate: a path (`.onnx`, `.pt2`, or a folder that MLflow wrote), an MLflow URI, or a
            `torch.nn.Module`.
        scratch: the run's private folder.
        trust: allow formats that can run code on load.
        examples: asked for inputs when a module has to be traced.

    Raises:
        UsageError: it does not exist, or needs `trust`.
        CandidateError: it cannot be downloaded, read or exported.
    """
    if not isinstance(candidate, str | os.PathLike):
        return _module(candidate, f"module:{type(candidate).__name__}", scratch, examples)
    name = os.fspath(candidate)
    if name.startswith(MODEL_URIS):
        name, path = _download(name, scratch / "download")
        return _local(path, name, scratch=scratch, trust=trust, examples=examples)
    path = Path(name)
    if not path.exists():
        raise UsageError(f"candidate {name} does not exist (looked in {Path.cwd()})")
    return _local(path, name, scratch=scratch, trust=trust, examples=examples)


def _local(path: Path, name: str, *, scratch: Path, trust: bool, examples: Examples) -> Source:
    if path.is_dir():
        return _mlflow_model(path, name, scratch=scratch, trust=trust, examples=examples)
    if path.suffix == ".pt2":
        _demand_trust(trust, name, "a .pt2 file runs code when it is loaded")
        return _exported_program(path, name, scratch)
    if path.suffix in (".pt", ".pth", ".pkl", ".ckpt"):
        raise UsageError(
            f"candidate {name}: a pickled torch file holds code or bare weights, not a model that "
            "can be judged; export it to .onnx or .pt2, or pass the module to gate.run_gate()"
        )
    return Source(onnx=path, name=name)


def _demand_trust(trust: bool, name: str, why: str) -> None:
    if not trust:
        raise UsageError(
            f"candidate {name}: {why}; pass --trust if you trust whoever made it, "
            "or export it to ONNX, which is only data"
        )


# ── MLflow ────────────────────────────────────────────────────────────────────────────────


def _download(uri: str, folder: Path) -> tuple[str, Path]:
    """Copy an MLflow artifact into `folder`; the URI with its alias resolved, and the path.

    `dst_path` matters: without it a local store hands out its own live files.
    """
    folder.mkdir()
    with _mlflow_at_once():
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            uri = _pin(uri)
            local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
        except (MlflowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise CandidateError(
                f"candidate {uri} cannot be fetched from {mlflow.get_tracking_uri()}: {first}"
            ) from error
    return uri, Path(local)


def _pin(uri: str) -> str:
    """`models:/name@alias` as `models:/name/3`, so that the record names what was judged."""
    if not uri.startswith("models:/") or "@" not in uri:
        return uri
    from mlflow import MlflowClient

    name, _, alias = uri.removeprefix("models:/").partition("@")
    return f"models:/{name}/{MlflowClient().get_model_version_by_alias(name, alias).version}"


@contextmanager
def _mlflow_at_once() -> Iterator[None]:
    """MLflow that fails within seconds, not after its default four minutes, and keeps quiet."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    missing = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            os.environ.pop(key, None)


def _mlflow_model(
    folder: Path, name: str, *, scratch: Path, trust: bool, examples: Examples
) -> Source:
    """The model in a folder that MLflow wrote, by what its `MLmodel` says."""
    flavors = _flavors(folder, name)
    if "onnx" in flavors:
        path = _inside(folder, flavors["onnx"].get("data"), name)
        return Source(onnx=path, name=name)
    if "pytorch" in flavors:
        _demand_trust(trust, name, "MLflow's pytorch flavour unpickles code when it is loaded")
        import mlflow.pytorch

        module = mlflow.pytorch.load_model(str(folder), map_location="cpu")
        return _module(module, name, scratch, examples)
    raise CandidateError(
        f"candidate {name} has the flavours {', '.join(sorted(flavors))}; "
        "the gate reads MLflow's onnx flavour, and pytorch with --trust: log it with "
        "mlflow.onnx.log_model"
    )


def _flavors(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    file = folder / "MLmodel"
    if not file.is_file():
        raise CandidateError(f"candidate {name} is a folder without an MLmodel file")
    try:
        described = yaml.safe_load(file.read_text(encoding="utf-8"))
        flavors = described["flavors"]
        return {str(key): dict(value or {}) for key, value in flavors.items()}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise CandidateError(f"candidate {name}: its MLmodel file is damaged: {error}") from error


def _inside(folder: Path, data: object, name: str) -> Path:
    """The model file that an MLmodel names; it cannot lead out of its folder."""
    path = folder / str(data)
    if not isinstance(data, str) or not path.resolve().is_relative_to(folder.resolve()):
        raise CandidateError(f"candidate {name}: its MLmodel points outside its folder: {data!r}")
    if path.is_dir():
        found = sorted(path.glob("*.onnx"))
        if len(found) != 1:
            raise CandidateError(
                f"candidate {name}: {data!r} holds {len(found)} .onnx files, not 1"
            )
        return found[0]
    if not path.is_file():
        raise CandidateError(f"candidate {name}: its MLmodel names {data!r}, which is missing")
    return path


# ── torch ─────────────────────────────────────────────────────────────────────────────────


def _module(module: Any, name: str, scratch: Path, examples: Examples) -> Source:
    torch = _torch(name)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"candidate: expected a path, an MLflow URI or a torch.nn.Module, not {name}"
        )
    module = copy.deepcopy(module).eval().cpu()  # the caller may go on training it
    feeds = examples(_parameters(module))
    arguments = tuple(torch.from_numpy(_at_least_two(value)) for value in feeds.values())
    free = tuple({0: torch.export.Dim("batch")} for _ in arguments)
    exported = _traced(torch, name, module, arguments, free)
    sha256 = _sha256_of_program(torch, exported)
    return _to_onnx(
        exported, module, name=name, sha256=sha256, scratch=scratch, inputs=tuple(feeds)
    )


def _exported_program(path: Path, name: str, scratch: Path) -> Source:
    torch = _torch(name)
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CandidateError(f"candidate {name} is not a .pt2 program: {_first(error)}") from error
    sha256 = artifact.sha256_of(path)
    return _to_onnx(program, program.module(), name=name, sha256=sha256, scratch=scratch)


def _traced(torch: Any, name: str, module: Any, arguments: Any, free: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in _to_onnx
            return torch.export.export(module, arguments, dynamic_shapes=free)
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise CandidateError(f"candidate {name} cannot be traced: {_first(error)}") from error


def _to_onnx(
    program: Any,
    module: Any,
    *,
    name: str,
    sha256: str,
    scratch: Path,
    inputs: tuple[str, ...] | None = None,
) -> Source:
    import torch

    path = scratch / "exported.onnx"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations, which users cannot mend
            exported = torch.onnx.export(
                program, input_names=inputs, dynamo=True, verbose=False, optimize=True
            )
        exported.save(path, external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise CandidateError(f"candidate {name} cannot be exported: {_first(error)}") from error
    order = tuple(value.name for value in exported.model.graph.inputs)
    outputs = tuple(value.name for value in exported.model.graph.outputs)

    def reference(feeds: Mapping[str, Array]) -> Outputs:
        with torch.no_grad():
            results = module(*(torch.tensor(feeds[key]) for key in order))
        tensors = results if isinstance(results, tuple | list) else (results,)
        return dict(zip(outputs, (tensor.numpy() for tensor in tensors), strict=True))

    return Source(onnx=path, name=name, sha256=sha256, reference=reference)


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


def _parameters(module: Any) -> tuple[str, ...]:
    """Names of the inputs that `forward` requires."""
    import inspect

    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD)


def input_columns(
    parameters: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Sequence[str]:
    """Columns of the data that are a module's inputs, in the order of its parameters.

    Raises:
        UsageError: the names do not tell.
    """
    if all(name in shapes for name in parameters):
        return parameters
    arrays = [name for name, shape in shapes.items() if len(shape) > 1 and name != "target"]
    if len(parameters) == 1 and len(arrays) == 1:
        return arrays
    raise UsageError(
        f"the module's forward takes {', '.join(parameters)}, and the data hold "
        f"{', '.join(shapes)}: pass example_inputs={{name: array}} with the columns' names"
    )


def _at_least_two(value: Array) -> Array:
    """torch specialises a batch of one: repeat it."""
    import numpy as np

    return np.concatenate([value, value]) if len(value) == 1 else np.array(value)


def _torch(name: str) -> Any:
    try:
        import torch

    except ModuleNotFoundError as error:
        raise UsageError(
            f"candidate {name} needs torch: pip install 'int8-gate[torch]', or export it to ONNX"
        ) from error
    logging.getLogger("torch").setLevel(logging.ERROR)  # it warns of torchvision at every export
    return torch


def _first(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
