"""Where a candidate comes from: a path, an MLflow URI or a torch module, as an ONNX file.

Nothing here runs code that came with a model unless the caller trusts it: ONNX is data; what
MLflow stores is downloaded and its `MLmodel` parsed, never loaded through pyfunc; of a language
model (a folder of `save_pretrained`, MLflow's transformers flavour) only safetensors and
configuration are read; formats that execute code on load (`.pt2`, MLflow's pytorch flavour) need
`trust`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gate import artifact, checkpoint, downloads, export
from gate.errors import CandidateError, UsageError
from gate.policy import MODEL_URIS
from gate.values import Array

Examples = Callable[[tuple[str, ...]], Mapping[str, Array]]
"""Given a module's parameter names, a few examples by input name, (B, …) each."""

_MLMODEL = "MLmodel"
_TRACED = 16
"""Tokens that a language model is traced with."""


@dataclass(frozen=True, slots=True)
class Source:
    """A candidate as ONNX, and what it was before."""

    onnx: Path
    """The file, possibly with external data beside it; never written to."""
    name: str
    """As a person would name it: path, `models:/name/3`, `module:Net`."""
    sha256: str | None = None
    """Of what was exported (torch); None for ONNX, whose own bytes count."""
    reference: Callable[[Mapping[str, Array]], export.Outputs] | None = None
    """Runs what was exported (torch), in the order of the ONNX outputs; None for ONNX."""
    classes: tuple[str, ...] = ()
    """Its own label map, where it has one."""
    tokenizer: Path | None = None
    """Its own `tokenizer.json`, where it has one."""
    steps: tuple[str, ...] = ()
    """What exporting did: `transformers to ONNX, any number of tokens`."""


def fetch(
    candidate: Any,
    *,
    scratch: Path,
    trust: bool,
    examples: Examples,
    max_length: int | None = None,
) -> Source:
    """Bring a candidate to this machine as ONNX.

    Args:
        candidate: a path (`.onnx`, `.pt2`, a folder that MLflow or `save_pretrained` wrote), an
            MLflow URI, or a `torch.nn.Module`.
        scratch: the run's private folder.
        trust: allow formats that can run code on load.
        examples: asked for inputs when a module has to be traced.
        max_length: tokens a text, for language models that cannot be exported with a free length.

    Raises:
        UsageError: it does not exist, or needs `trust`.
        CandidateError: it cannot be downloaded, read or exported.
    """
    how = _How(scratch, trust, examples, max_length)
    if not isinstance(candidate, str | os.PathLike):
        return _module(candidate, f"module:{type(candidate).__name__}", how)
    name = os.fspath(candidate)
    if name.startswith(MODEL_URIS):
        name, path = downloads.download(name, scratch / "download")
        return _local(path, name, how)
    path = Path(name)
    if not path.exists():
        raise UsageError(f"candidate {name} does not exist (looked in {Path.cwd()})")
    if artifact.is_endless(path):
        raise UsageError(f"candidate {name} is a device or a pipe: name a file")
    return _local(path, name, how)


@dataclass(frozen=True, slots=True)
class _How:
    """What `fetch` was told."""

    scratch: Path
    trust: bool
    examples: Examples
    max_length: int | None


def _local(path: Path, name: str, how: _How) -> Source:
    if path.is_dir():
        return _folder(path, name, how)
    if path.suffix == ".pt2":
        return _program(path, name, how)
    if path.suffix in (".pt", ".pth", ".pkl", ".ckpt"):
        raise UsageError(
            f"candidate {name}: a pickled torch file holds code or bare weights, not a model that "
            "can be judged; export it to .onnx or .pt2, or pass the module to gate.run_gate()"
        )
    return Source(onnx=path, name=name)


def _folder(path: Path, name: str, how: _How) -> Source:
    if (path / _MLMODEL).is_file():
        return _mlflow_model(path, name, how)
    if checkpoint.is_checkpoint(path):
        return _language_model(path, name, how)
    raise CandidateError(
        f"candidate {name} is a folder without {_MLMODEL}, which MLflow writes, and without "
        f"{checkpoint.CONFIG}, which `save_pretrained` writes: name the model's file or folder"
    )


def _demand_trust(trust: bool, name: str, why: str) -> None:
    if not trust:
        raise UsageError(
            f"candidate {name}: {why}; pass --trust if you trust whoever made it, "
            "or export it to ONNX, which is only data"
        )


# ── MLflow ────────────────────────────────────────────────────────────────────────────────


def _mlflow_model(folder: Path, name: str, how: _How) -> Source:
    """The model in a folder that MLflow wrote, by what its `MLmodel` says."""
    flavors = _flavors(folder, name)
    if "onnx" in flavors:
        return Source(onnx=_model_file(folder, flavors["onnx"].get("data"), name), name=name)
    if "transformers" in flavors:
        return _transformers(folder, flavors["transformers"], name, how)
    if "pytorch" in flavors:
        return _pytorch(folder, flavors["pytorch"], name, how)
    raise CandidateError(
        f"candidate {name} has the flavours {', '.join(sorted(flavors))}; the gate reads MLflow's "
        "onnx and transformers flavours, and pytorch with --trust: log it with "
        "mlflow.onnx.log_model"
    )


def _pytorch(folder: Path, told: Mapping[str, Any], name: str, how: _How) -> Source:
    """MLflow's pytorch flavour: a traced program, or a pickled module."""
    data = told.get("model_data", "data")
    traced = _inside(folder, data, name) / "model.pt2"
    if traced.is_file():
        return _program(traced, name, how)
    code = f", and imports what lies in {told['code']}" if told.get("code") else ""
    what = f"MLflow's pytorch flavour unpickles {data}, which runs code that came with it{code}"
    _demand_trust(how.trust, name, what)
    return _module(_unpickled(folder, name), name, how)


def _unpickled(folder: Path, name: str) -> Any:
    """The module that MLflow's pytorch flavour holds; whatever code is in it has run."""
    export.torch_for(name)
    import mlflow.pytorch

    try:
        return mlflow.pytorch.load_model(str(folder), map_location="cpu")
    except Exception as error:  # code that came with the model may raise anything
        raise CandidateError(
            f"candidate {name} cannot be unpickled: {type(error).__name__}: {export.first(error)}; "
            "the gate has to find the classes and versions that it was logged with"
        ) from error


def _transformers(folder: Path, told: Mapping[str, Any], name: str, how: _How) -> Source:
    """MLflow's transformers flavour: a checkpoint, and a tokenizer in a folder of its own."""
    if told.get("peft_adaptor"):
        raise CandidateError(
            f"candidate {name} is an adapter, and not a whole model: merge it into its base "
            "(`merge_and_unload`) and log that"
        )
    if "model_binary" not in told:
        raise CandidateError(
            f"candidate {name} was logged without its weights (save_pretrained=False): "
            "mlflow.transformers.persist_pretrained_model adds them"
        )
    model = _inside(folder, told["model_binary"], name)
    if not checkpoint.is_checkpoint(model):
        raise CandidateError(
            f"candidate {name}: its MLmodel names {told['model_binary']!r}, which holds no "
            f"{checkpoint.CONFIG}"
        )
    return _language_model(model, name, how, folder / "components" / "tokenizer")


def _flavors(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    try:
        described = yaml.safe_load((folder / _MLMODEL).read_text(encoding="utf-8"))
        flavors = described["flavors"]
        return {str(key): dict(value or {}) for key, value in flavors.items()}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise CandidateError(f"candidate {name}: its MLmodel file is damaged: {error}") from error


def _inside(folder: Path, data: object, name: str) -> Path:
    """What an MLmodel names; it cannot lead out of its folder."""
    path = folder / str(data)
    if not isinstance(data, str) or not path.resolve().is_relative_to(folder.resolve()):
        raise CandidateError(f"candidate {name}: its MLmodel points outside its folder: {data!r}")
    return path


def _model_file(folder: Path, data: object, name: str) -> Path:
    path = _inside(folder, data, name)
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


# ── language models ───────────────────────────────────────────────────────────────────────


def _language_model(folder: Path, name: str, how: _How, tokenizer: Path | None = None) -> Source:
    """A checkpoint as ONNX: any number of tokens where that can be traced, else `max_length`."""
    export.torch_for(name)
    found = checkpoint.load(folder, name, tokenizer)
    try:
        made, length = _traced(found, name, how, None), "any number of tokens"
    except CandidateError as error:
        if how.max_length is None:
            raise CandidateError(
                f"{error}; with a fixed length it may: write `max_length` into "
                "`build.preprocess.tokenizer`"
            ) from error
        made = _traced(found, name, how, how.max_length)
        length = f"fixed to {how.max_length} tokens, as torch traces no free length"
    return _of(
        made,
        name,
        classes=found.classes,
        tokenizer=found.tokenizer,
        steps=(f"safetensors to ONNX, {length}",),
    )


def _traced(
    found: checkpoint.Checkpoint, name: str, how: _How, length: int | None
) -> export.Exported:
    """With a free length, or with a fixed one."""
    return export.tokens_module(
        found.module,
        name,
        how.scratch,
        sha256=found.sha256,
        feeds=_some_tokens(found, length or min(_TRACED, found.positions or _TRACED)),
        outputs=found.outputs,
        free_length=length is None,
    )


def _some_tokens(found: checkpoint.Checkpoint, length: int) -> dict[str, Array]:
    """(2, T) by input: which tokens does not matter, as only what is done to them is traced."""
    ids = np.arange(2 * length, dtype=np.int64).reshape(2, length) % found.vocabulary
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {one: values.get(one, np.zeros_like(ids)) for one in found.inputs}


# ── torch ─────────────────────────────────────────────────────────────────────────────────


def _module(module: Any, name: str, how: _How) -> Source:
    if not export.is_module(module, name):
        raise UsageError(
            f"candidate: expected a path, an MLflow URI or a torch.nn.Module, not {name}"
        )
    feeds = how.examples(export.parameters(module))
    return _of(export.module(module, name, how.scratch, feeds), name)


def _program(path: Path, name: str, how: _How) -> Source:
    _demand_trust(how.trust, name, "a .pt2 file runs code when it is loaded")
    return _of(export.program(path, name, how.scratch), name)


def _of(made: export.Exported, name: str, **more: Any) -> Source:
    return Source(onnx=made.onnx, name=name, sha256=made.sha256, reference=made.reference, **more)


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
