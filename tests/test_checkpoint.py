"""Folders of `save_pretrained` as torch modules: what is read, and what never is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import language_model as lm

from gate import checkpoint
from gate.candidate import Source, fetch
from gate.errors import CandidateError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def made(architecture: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, architecture)(lm.config(**changes)).eval()


def tokens(batch: int, length: int) -> dict[str, Any]:
    """Random ids, the last quarter padded."""
    ids = np.random.default_rng(batch).integers(4, 15, (batch, length))
    mask = np.ones_like(ids)
    mask[:, length - length // 4 :] = 0
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(ids),
    }


def ran(module: Any, feeds: Mapping[str, Any]) -> list[Any]:
    with torch.no_grad():
        return [one.numpy() for one in module(*map(torch.from_numpy, feeds.values()))]


# ── what is read ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("architecture", "outputs"),
    [
        ("BertForSequenceClassification", ("logits",)),
        ("BertForTokenClassification", ("logits",)),
        ("BertForQuestionAnswering", ("start_logits", "end_logits")),
        ("BertModel", ("last_hidden_state",)),
    ],
)
def test_what_a_model_gives_is_what_transformers_says(
    tmp_path: Path, architecture: str, outputs: tuple[str, ...]
) -> None:
    model = made(architecture)
    found = checkpoint.load(lm.save(tmp_path, model), "m")
    assert found.outputs == outputs
    feeds = tokens(3, 8)
    with torch.no_grad():
        told = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    for name, value in zip(outputs, ran(found.module, feeds), strict=True):
        np.testing.assert_allclose(value, told[name].numpy(), atol=1e-5)


def test_a_folder_tells_its_inputs_labels_and_tokenizer(tmp_path: Path) -> None:
    found = checkpoint.load(lm.save(tmp_path), "m")
    assert found.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert (found.classes, found.tokenizer) == (("neg", "pos"), tmp_path / "tokenizer.json")
    assert (found.vocabulary, found.positions) == (19, 32)


def test_a_model_without_segments_takes_no_token_type_ids(tmp_path: Path) -> None:
    model = made("BertForSequenceClassification", type_vocab_size=1)
    assert checkpoint.load(lm.save(tmp_path, model), "m").inputs == ("input_ids", "attention_mask")


@pytest.mark.parametrize(
    ("architecture", "labels"),
    [
        ("BertForSequenceClassification", {0: "LABEL_0", 1: "LABEL_1"}),
        ("BertForQuestionAnswering", {0: "start", 1: "end"}),
        ("BertModel", {0: "neg", 1: "pos"}),
    ],
)
def test_labels_that_nobody_named_or_that_classify_nothing_are_none(
    tmp_path: Path, architecture: str, labels: dict[int, str]
) -> None:
    model = made(architecture, id2label=labels, label2id={v: k for k, v in labels.items()})
    assert checkpoint.load(lm.save(tmp_path, model), "m").classes == ()


def test_labels_come_in_the_order_of_outputs_beyond_ten(tmp_path: Path) -> None:
    labels = {place: f"class-{place}" for place in range(12)}
    model = made("BertForSequenceClassification", id2label=labels)
    assert checkpoint.load(lm.save(tmp_path, model), "m").classes == tuple(labels.values())


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    lm.save(tmp_path, made("BertForSequenceClassification").half())
    module = checkpoint.load(tmp_path, "m").module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_the_hash_is_of_weights_and_configuration_alone(tmp_path: Path) -> None:
    first = checkpoint.load(lm.save(tmp_path / "a"), "m").sha256
    lm.save(tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("words")
    assert checkpoint.load(tmp_path / "b", "m").sha256 == first
    told = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(told | {"hidden_act": "relu"}))
    assert checkpoint.load(tmp_path / "b", "m").sha256 != first


# ── pooling ───────────────────────────────────────────────────────────────────────────────


def pooled(folder: Path, kinds: tuple[str, ...], pooling: Mapping[str, Any]) -> Path:
    lm.save(folder, made("BertModel"))
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": paths.get(kind, kind), "type": f"library.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def mean_of_unpadded(vectors: Any, mask: Any) -> Any:
    return np.stack([v[m == 1].mean(axis=0) for v, m in zip(vectors, mask, strict=True)])


def first_token(vectors: Any, mask: Any) -> Any:
    return vectors[:, 0]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, mean_of_unpadded),
        ({"pooling_mode_cls_token": True}, first_token),
        ({"pooling_mode": "mean"}, mean_of_unpadded),
    ],
)
@pytest.mark.parametrize("normalized", [False, True])
def test_token_vectors_are_pooled_as_the_folder_says(
    tmp_path: Path,
    told: Mapping[str, Any],
    expected: Callable[[Any, Any], Any],
    normalized: bool,
) -> None:
    kinds = ("Transformer", "Pooling", *(("Normalize",) if normalized else ()))
    found = checkpoint.load(pooled(tmp_path, kinds, told), "m")
    feeds = tokens(3, 8)
    (vectors,) = ran(
        checkpoint.load(lm.save(tmp_path / "bare", made("BertModel")), "m").module, feeds
    )
    wanted = expected(vectors, feeds["attention_mask"])
    if normalized:
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert found.outputs == ("sentence_embedding",)
    np.testing.assert_allclose(ran(found.module, feeds)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("told", ["[1]", '[{"type": "x"}]', "5"])
def test_modules_that_are_no_list_are_refused(tmp_path: Path, told: str) -> None:
    folder = pooled(tmp_path, ("Transformer", "Pooling"), {"pooling_mode": "mean"})
    (folder / "modules.json").write_text(told)
    with pytest.raises(CandidateError, match=r"its modules\.json is no list of modules"):
        checkpoint.load(folder, "m")


@pytest.mark.parametrize(
    ("kinds", "told", "message"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (("Transformer", "Pooling"), {}, "pools tokens by None"),
        (("Transformer", "Pooling"), [], "of its pooling is no mapping"),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}, "lists .*Dense"),
    ],
)
def test_pooling_that_is_not_known_is_not_left_out(
    tmp_path: Path, kinds: tuple[str, ...], told: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(CandidateError, match=message):
        checkpoint.load(pooled(tmp_path, kinds, told), "m")


# ── what never is ─────────────────────────────────────────────────────────────────────────


def changed(**told: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | told))

    return change


def indexed(parts: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        told = json.dumps({"weight_map": parts})
        (folder / "model.safetensors.index.json").write_text(told)

    return change


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in held.items() if not key.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut_off(folder: Path) -> None:
    held = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(held[: len(held) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (as_pickle, r"as pytorch_model\.bin, which can run code"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no model\.safetensors"),
        (cut_off, "cannot be loaded by transformers"),
        (without_head, r"lack 2 of the weights, classifier\.bias"),
        (changed(auto_map={"AutoModel": "evil.Model"}), "asks for code of its own"),
        (changed(quantization_config={"bits": 8}), "already quantized"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter"),
        (indexed({"weight": "../elsewhere.safetensors"}), "which is not in its folder"),
        (indexed(None), "holds no `weight_map`"),
        (changed(architectures=["BertForMaskedLM"]), "has the architecture BertForMaskedLM"),
        (changed(architectures=["GPT2LMHeadModel"]), "has the architecture GPT2LMHeadModel"),
        (changed(architectures=None), "has the architecture none"),
        (changed(architectures="GPT2LMHeadModel"), "has the architecture GPT2LMHeadModel"),
        (changed(architectures={"a": 1}), "has the architecture {'a': 1}"),
        (changed(type_vocab_size="two"), "cannot be loaded by transformers"),
        (changed(model_type="no-such"), "cannot be loaded by transformers"),
        (changed(hidden_size=48), "cannot be loaded by transformers"),
        (changed(id2label={"0": "neg", "2": "pos"}), r"numbers \[0, 2\]"),
        (changed(id2label=["neg", "pos"]), "is no label map"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no mapping"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    lm.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CandidateError, match=message):
        checkpoint.load(tmp_path, "m")


# ── as ONNX ───────────────────────────────────────────────────────────────────────────────


def fetched(folder: Path, scratch: Path, max_length: int | None = None) -> Source:
    scratch.mkdir()

    def no_examples(_: tuple[str, ...]) -> Mapping[str, Any]:
        raise AssertionError("which tokens it is traced with does not matter")

    return fetch(folder, scratch=scratch, trust=False, examples=no_examples, max_length=max_length)


@pytest.mark.parametrize(
    "architecture",
    ["BertForSequenceClassification", pytest.param("BertModel", marks=pytest.mark.slow)],
)
def test_onnx_takes_any_batch_and_any_length(tmp_path: Path, architecture: str) -> None:
    from gate import backends

    lm.save(tmp_path / "m", made(architecture))
    source = fetched(tmp_path / "m", tmp_path / "scratch")
    runner = backends.get("onnxruntime").open(source.onnx, threads=1)
    assert [spec.shape for spec in runner.inputs] == [(None, None)] * 3
    assert source.reference is not None
    for batch, length in ((1, 1), (3, 8), (5, 32)):
        feeds = tokens(batch, length)
        expected, got = source.reference(feeds), runner.run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, atol=1e-4)


@pytest.mark.slow
def test_where_a_free_length_cannot_be_traced_the_policys_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate import candidate, export

    tried = export.tokens_module

    def refuses(*given: Any, free_length: bool, **more: Any) -> export.Exported:
        if free_length:
            raise CandidateError("candidate m cannot be traced: it branches on its length")
        return tried(*given, free_length=False, **more)

    monkeypatch.setattr(candidate.export, "tokens_module", refuses)
    lm.save(tmp_path / "m")
    source = fetched(tmp_path / "m", tmp_path / "a", max_length=12)
    assert source.steps == (
        "safetensors to ONNX, fixed to 12 tokens, as torch traces no free length",
    )
    with pytest.raises(CandidateError, match=r"branches on its length; with a fixed length it may"):
        fetched(tmp_path / "m", tmp_path / "b")
