"""A small BERT with a tokenizer of its own, trained for a moment, and texts for it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WORDS = {"neg": ("bad", "poor", "awful", "dull"), "pos": ("good", "fine", "great", "lively")}
NEUTRAL = ("the", "film", "was", "a", "plot", "and", "cast")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LABELS = tuple(WORDS)
LENGTH = 12


def texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Different texts, and what most of their telling words say."""
    random = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = LABELS[int(random.integers(2))]
        other = LABELS[1 - LABELS.index(label)]
        chosen = [*random.choice(WORDS[label], 3), random.choice(WORDS[other])]
        chosen += [*random.choice(NEUTRAL, 4)]
        found[" ".join(random.permutation(chosen))] = label
    return [*found], [*found.values()]


def tokenizer() -> Any:
    """Words to ids; a `transformers` tokenizer that saves `tokenizer.json`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    every = (*SPECIAL, *NEUTRAL, *WORDS["neg"], *WORDS["pos"])
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(every)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def config(**changes: Any) -> Any:
    """Of a BERT that is trained in seconds."""
    from transformers import BertConfig

    labels = dict(enumerate(LABELS))
    sizes = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "id2label": labels,
        "label2id": {label: place for place, label in labels.items()},
    }
    return BertConfig(**(sizes | changes))


@cache
def trained() -> Any:
    """A classifier of `texts`; do not change it."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(config()).train()
    found, labels = texts(400, seed=1)
    coded = tokenizer()(found, padding=True, return_tensors="pt")
    target = torch.tensor([LABELS.index(label) for label in labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(6):
        for rows in torch.randperm(len(found)).split(50):
            given = {name: values[rows] for name, values in coded.items()}
            loss = model(**given, labels=target[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def spoilt() -> Any:
    """Computes the same, with one channel of attention so large that INT8 loses the others."""
    import copy

    import torch

    model = copy.deepcopy(trained())
    attention = model.bert.encoder.layer[0].attention
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(attention.self.value, name)[::16] *= 3000.0
        attention.output.dense.weight[:, ::16] /= 3000.0
    return model


def save(folder: Path, model: Any = None) -> Path:
    """As `save_pretrained` leaves it, tokenizer included."""
    (trained() if model is None else model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def log(folder: Path, model: Any = None, **flavor: Any) -> Path:
    """As `mlflow.transformers.save_model` leaves it: model and tokenizer each in a folder."""
    (trained() if model is None else model).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "components" / "tokenizer")
    told = {
        "code": None,
        "components": ["tokenizer"],
        "instance_type": "TextClassificationPipeline",
        "model_binary": "model",
        "pipeline_model_type": "BertForSequenceClassification",
        "task": "text-classification",
        "tokenizer_type": "TokenizersBackend",
        "torch_dtype": "torch.float32",
        **flavor,
    }
    flavors = {"python_function": {"loader_module": "mlflow.transformers"}, "transformers": told}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    return folder


def project(folder: Path, **build: Any) -> Path:
    """A policy of text classification and its data; classes and tokenizer are the model's."""
    folder.mkdir(exist_ok=True)
    found, labels = texts(1000, seed=2)
    for name, rows in (("calibration", slice(100)), ("held_out", slice(100, None))):
        lines = zip(found[rows], labels[rows], strict=True)
        told = [{"id": f"{name}-{i}", "text": t, "target": y} for i, (t, y) in enumerate(lines)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in told))
    policy = {
        "version": 1,
        "model": "reviews",
        "task": "text_classification",
        "build": {
            "recipe": "static",
            "calibration": {"path": "calibration.jsonl"},
            "preprocess": {"tokenizer": {"max_length": LENGTH}},
            **build,
        },
        "judge": {
            "held_out": {"path": "held_out.jsonl"},
            "expect_fp32": {"accuracy": 0.99, "within": 0.02},
            "budgets": [{"metric": "accuracy", "max_drop": 0.02}],
        },
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))
    return folder / "policy.yaml"
