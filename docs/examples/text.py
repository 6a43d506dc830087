"""A text classifier: trained with transformers, logged to MLflow's registry, gated from there.

    python docs/examples/text.py OUTDIR

A small BERT learns which language names of the world are in (CLDR's, as Babel ships them). It is
logged with MLflow's transformers flavour; the gate takes safetensors, configuration, tokenizer and
label map from the registry. OUTDIR keeps the policy, the data and the registry.

Needs `pip install 'int8-gate[torch,text]' babel`, and half a minute.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import mlflow
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TextClassificationPipeline,
)

from gate import run_gate
from gate.examples.languages.train import LANGUAGES, LENGTH, splits, tokenizer

TEXTS, EPOCHS = 6_000, 4
NAME = "language-of-names"
POLICY = """\
version: 1
model: language-of-names
task: text_classification
build:
  recipe: static-matmul
  calibration: {{path: calibration.jsonl}}
  preprocess:
    tokenizer: {{max_length: {length}}}      # the model's own; its label map names the classes
judge:
  held_out: {{path: held_out.jsonl}}
  expect_fp32: {{accuracy: {accuracy:.4f}, within: 0.005}}
  budgets:
    - {{metric: accuracy, max_drop: 0.01}}
    - {{metric: accuracy, max_drop: 0.05, each: target}}     # no language proven worse by five
    - {{metric: prediction_flips, at_most: 0.03}}
    - {{metric: int8_share, at_least: 0.9}}
"""


def own_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-pair pieces of the training texts, as transformers keeps them."""
    pieces = tokenizer(texts)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


def bert(vocabulary: int) -> BertForSequenceClassification:
    """Two layers, and a label map: what the gate will read the classes from."""
    labels = dict(enumerate(LANGUAGES))
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        id2label=labels,
        label2id={label: place for place, label in labels.items()},
    )
    return BertForSequenceClassification(config)


def coded(tokens: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    """Ids and mask (N, T)."""
    told = tokens(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return {name: told[name] for name in ("input_ids", "attention_mask")}


def fit(model: BertForSequenceClassification, given: dict[str, torch.Tensor], target: Any) -> None:
    """An ordinary training loop."""
    steps = EPOCHS * -(-len(target) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(target)).split(128):
            batch = {name: values[rows] for name, values in given.items()}
            loss = torch.nn.functional.cross_entropy(model(**batch).logits, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(
    model: BertForSequenceClassification, given: dict[str, torch.Tensor], target: Any
) -> float:
    """The share of right answers."""
    with torch.no_grad():
        answers = [
            model(**{name: values[rows] for name, values in given.items()}).logits.argmax(1)
            for rows in torch.arange(len(target)).split(256)
        ]
    return float((torch.cat(answers) == target).float().mean())


def log(model: BertForSequenceClassification, tokens: PreTrainedTokenizerFast) -> str:
    """Registers the model with its tokenizer; the version's URI."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    pipeline = TextClassificationPipeline(model=model, tokenizer=tokens)
    mlflow.set_experiment("training")
    with mlflow.start_run():
        told = mlflow.transformers.log_model(
            pipeline,
            name="model",
            task="text-classification",
            registered_model_name=NAME,
            pip_requirements=["transformers", "torch"],
        )
    return f"models:/{NAME}/{told.registered_model_version}"


def main(folder: Path) -> int:
    """The gate's exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # the registry, as the gate finds it: mlflow.db
    os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = splits()
    texts = {name: columns["text"].tolist() for name, columns in data.items()}
    target = {
        name: torch.tensor([LANGUAGES.index(one) for one in columns["target"]])
        for name, columns in data.items()
    }
    texts["train"], target["train"] = texts["train"][:TEXTS], target["train"][:TEXTS]
    tokens = own_tokenizer(texts["train"])
    model = bert(len(tokens))
    fit(model, coded(tokens, texts["train"]), target["train"])
    reached = accuracy(model, coded(tokens, texts["held_out"]), target["held_out"])
    for name in ("calibration", "held_out"):
        columns = {key: data[name][key].tolist() for key in ("id", "text", "target")}
        lines = (
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        )
        told = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        Path(f"{name}.jsonl").write_text(told, encoding="utf-8")
    Path("policy.yaml").write_text(POLICY.format(length=LENGTH, accuracy=reached))
    candidate = log(model, tokens)
    run = run_gate("policy.yaml", candidate, out="run")
    found = next(one for one in run.record.comparisons if one.metric == "accuracy")
    told = f"accuracy FP32 {found.reference:.3f}, INT8 {found.int8:.3f}"
    print(f"{candidate}  {run.verdict.outcome.upper()}  {told}, exit code {run.exit_code}")
    return run.exit_code


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of libraries that are only used here
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else "usage: python text.py OUTDIR")
