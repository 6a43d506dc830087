"""A folder that `save_pretrained` wrote, as a torch module: a language model's checkpoint.

Weights come from safetensors and the architecture from `config.json`, which are data: nothing that
came with the model runs, so no pickle is read and no `trust_remote_code` given. The classes that it
knows are the library's own. A folder of sentence-transformers is read with its pooling.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate import artifact
from gate.errors import CandidateError, UsageError

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_INDEX = "model.safetensors.index.json"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_HEADS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", ("logits",)),
    "ForTokenClassification": ("AutoModelForTokenClassification", ("logits",)),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "Model": ("AutoModel", ("last_hidden_state",)),
}
"""How an architecture's name ends, what loads it, and what it gives."""
_LABELLED = ("ForSequenceClassification", "ForTokenClassification")
_POOLINGS: Mapping[str, str] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
POOLED = "sentence_embedding"
_WEIGHTS = (*("*.bin", "*.pt", "*.pth", "*.ckpt"), *("*.pkl", "*.h5", "*.msgpack"))
"""Formats of weights that are not read; most are pickles."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A language model that takes token ids and masks, (B, T) of int64 each."""

    module: Any
    """A `torch.nn.Module` in float32 for evaluation; takes `inputs` by position, gives a tuple."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sha256: str
    """Of all files that say what it computes, one after another."""
    classes: tuple[str, ...]
    """Its label map, in the order of its outputs; empty where nobody named the labels."""
    tokenizer: Path | None
    """Its `tokenizer.json`."""
    vocabulary: int
    """Token ids that it knows, from 0."""
    positions: int | None
    """Most tokens that it takes; None: its configuration does not say."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says by its `config.json` which architecture it holds."""
    return (folder / CONFIG).is_file()


def load(folder: Path, name: str, tokenizer: Path | None = None) -> Checkpoint:
    """The module of a folder; `tokenizer` is the folder of its tokenizer, where that is another.

    Raises:
        CandidateError: it is damaged, incomplete, of an architecture that is not read, or holds
            weights that only a pickle, or code of its own, would load.
        UsageError: `transformers` or `torch` is not installed.
    """
    config = _config(folder, name)
    weights = _weights(folder, name)
    kind = _kind(config, name)
    pooling, extra = _pooling(folder, name) if kind == "Model" else (None, ())
    classes = _classes(config, name) if kind in _LABELLED else ()
    loader, outputs = _HEADS[kind]
    loaded = _loaded(folder, name, loader)
    segments = getattr(loaded.config, "type_vocab_size", None) or 0
    inputs = _INPUTS if "type_vocab_size" in config and segments > 1 else _INPUTS[:2]
    found = (tokenizer or folder) / TOKENIZER
    return Checkpoint(
        module=_positional(loaded, inputs, outputs, pooling),
        inputs=inputs,
        outputs=(POOLED,) if pooling else outputs,
        sha256=artifact.sha256_of(folder / CONFIG, *weights, *extra),
        classes=classes,
        tokenizer=found if found.is_file() else None,
        vocabulary=int(loaded.config.vocab_size),
        positions=getattr(loaded.config, "max_position_embeddings", None),
    )


# ── what the folder says ──────────────────────────────────────────────────────────────────


def _config(folder: Path, name: str) -> dict[str, Any]:
    config = _json(folder / CONFIG, name)
    if not isinstance(config, dict):
        raise CandidateError(f"candidate {name}: its {CONFIG} is no mapping")
    if config.get("auto_map"):
        raise CandidateError(
            f"candidate {name}: its {CONFIG} asks for code of its own (`auto_map`, that is "
            "trust_remote_code), which the gate never runs: export it to ONNX where you trust it"
        )
    if config.get("quantization_config"):
        raise CandidateError(
            f"candidate {name} is already quantized (`quantization_config` in its {CONFIG}): give "
            "the FP32 model that it was made from"
        )
    if (folder / "adapter_config.json").exists():
        raise CandidateError(
            f"candidate {name} is an adapter, and not a whole model: merge it into its base "
            "(`merge_and_unload`) and save that"
        )
    return config


def _weights(folder: Path, name: str) -> tuple[Path, ...]:
    """The safetensors files, sorted by name."""
    found = tuple(sorted(folder.glob("*.safetensors")))
    if found:
        _demand_parts(folder, {file.name for file in found}, name)
        return found
    others = sorted(file.name for kind in _WEIGHTS for file in folder.glob(kind))
    if others:
        raise CandidateError(
            f"candidate {name} holds its weights as {', '.join(others)}, which can run code when "
            "it is loaded: save it again with `save_pretrained`, which writes model.safetensors"
        )
    raise CandidateError(f"candidate {name}: there is no model.safetensors beside its {CONFIG}")


def _demand_parts(folder: Path, found: set[str], name: str) -> None:
    """The files that an index tells of lie in the folder, where they are hashed."""
    index = folder / _INDEX
    if not index.is_file():
        return
    told = _json(index, name)
    parts = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(parts, dict):
        raise CandidateError(f"candidate {name}: its {_INDEX} holds no `weight_map`")
    if missing := sorted(set(map(str, parts.values())) - found):
        raise CandidateError(
            f"candidate {name}: its {_INDEX} names {missing[0]}, which is not in its folder"
        )


def _kind(config: Mapping[str, Any], name: str) -> str:
    """A key of `_HEADS`."""
    told = config.get("architectures") or ["none"]
    told = told if isinstance(told, list) else [told]
    found = [kind for kind in _HEADS if str(told[0]).endswith(kind)]
    generates = str(told[0]).endswith(("HeadModel", "HeadsModel"))
    if len(told) != 1 or not found or generates:
        raise CandidateError(
            f"candidate {name} has the architecture {', '.join(map(str, told))}; the gate reads "
            f"those that end in {', '.join(_HEADS)}: export any other to ONNX"
        )
    return found[0]


def _classes(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The label map; the names that the library makes up (LABEL_0, …) are none."""
    told = config.get("id2label") or {}
    try:
        labels = {int(place): str(label) for place, label in told.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CandidateError(
            f"candidate {name}: `id2label` of its {CONFIG} is no label map: {error}"
        ) from error
    if sorted(labels) != [*range(len(labels))]:
        raise CandidateError(
            f"candidate {name}: `id2label` of its {CONFIG} numbers {sorted(labels)}, and not "
            f"0 to {len(labels) - 1}"
        )
    made_up = all(label == f"LABEL_{place}" for place, label in labels.items())
    return () if made_up else tuple(labels[place] for place in range(len(labels)))


def _pooling(folder: Path, name: str) -> tuple[str | None, tuple[Path, ...]]:
    """`mean`, `cls`, either with ` normalized`, or None; and the files that say so."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return None, ()
    try:
        told = [(str(one["type"]), str(one["path"])) for one in _json(listed, name)]
    except (KeyError, TypeError) as error:
        raise CandidateError(
            f"candidate {name}: its modules.json is no list of modules, each with `type` and `path`"
        ) from error
    parts = [(kind.rpartition(".")[2], path) for kind, path in told]
    kinds = [kind for kind, _ in parts]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CandidateError(
            f"candidate {name}: its modules.json lists {', '.join(kinds)}; the gate reads "
            "Transformer, Pooling and Normalize: export it to ONNX"
        )
    file = folder / parts[1][1] / CONFIG
    if not file.resolve().is_relative_to(folder.resolve()):
        raise CandidateError(f"candidate {name}: its modules.json points outside its folder")
    return _pooling_mode(_json(file, name), name) + _normalized(kinds), (listed, file)


def _pooling_mode(told: object, name: str) -> str:
    """Both ways in which sentence-transformers wrote it: flags, and later one name."""
    if not isinstance(told, dict):
        raise CandidateError(f"candidate {name}: the {CONFIG} of its pooling is no mapping")
    flags = [key for key, on in told.items() if key.startswith("pooling_mode_") and on is True]
    modes: list[str] = [_POOLINGS.get(key, key) for key in flags]
    modes = modes or [str(told.get("pooling_mode"))]
    if len(modes) != 1 or modes[0] not in _POOLINGS.values():
        raise CandidateError(
            f"candidate {name} pools tokens by {', '.join(modes)}; the gate reads "
            f"{' and '.join(_POOLINGS.values())}: export it to ONNX"
        )
    return modes[0]


def _normalized(kinds: list[str]) -> str:
    return " normalized" if "Normalize" in kinds else ""


def _json(file: Path, name: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CandidateError(f"candidate {name}: {file.name} cannot be read: {error}") from error


# ── the module ────────────────────────────────────────────────────────────────────────────


def _loaded(folder: Path, name: str, loader: str) -> Any:
    """The library's model with all of its weights, float32."""
    with _library(name) as transformers:
        import torch

        try:
            model, told = getattr(transformers, loader).from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation="eager",  # plain products, which quantizers know
            )
        except Exception as error:  # whatever the library and what it reads with raise
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise CandidateError(
                f"candidate {name} cannot be loaded by transformers "
                f"{transformers.__version__}: {type(error).__name__}: {reason}"
            ) from error
    unread = "pooler." if loader == "AutoModel" else ()  # only token vectors are
    if missing := sorted(key for key in told["missing_keys"] if not key.startswith(unread)):
        raise CandidateError(
            f"candidate {name}: its safetensors lack {len(missing)} of the weights, {missing[0]} "
            "among them, which would be made up at random: save the whole model again"
        )
    return model.eval()


@contextmanager
def _library(name: str) -> Iterator[Any]:
    """`transformers`, quiet."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it tells of CUDA libraries it lacks
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        import torch  # noqa: F401 - its absence has the same cure
        import transformers
    except ModuleNotFoundError as error:
        raise UsageError(
            f"candidate {name} needs {error.name}: pip install 'int8-gate[text,torch]', or export "
            "it to ONNX"
        ) from error
    words = transformers.utils.logging
    before, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own deprecations
            yield transformers
    finally:
        words.set_verbosity(before)
        if bars:
            words.enable_progress_bar()


def _positional(
    model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], pooling: str | None
) -> Any:
    """A module that takes tensors by position and gives a tuple of them, as exporting needs."""
    import torch

    class Positional(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            found = self.model(**dict(zip(inputs, tensors, strict=True)))
            if pooling is None:
                return tuple(found[output] for output in outputs)
            return (_pooled(found[outputs[0]], tensors[1], pooling),)

    return Positional().eval()


def _pooled(vectors: Any, mask: Any, pooling: str) -> Any:
    """(B, T, D) and (B, T) to (B, D), as sentence-transformers does."""
    import torch

    how, _, normalized = pooling.partition(" ")
    if how == "cls":
        found = vectors[:, 0]
    else:
        weights = mask.unsqueeze(-1).to(vectors.dtype)
        found = (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(found, dim=1) if normalized else found
