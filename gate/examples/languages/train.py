"""Trains the language classifier and writes the splits: the origin of every bundled file.

Data: the Unicode CLDR names of territories, languages and currencies in eighteen languages of
Latin script, as Babel ships them (BSD; the data under the Unicode licence). An example is three
names in one language. What is split is the *things named*: no currency, territory or language
that a held-out text names was seen in training, in any language, so that knowing words by heart
helps little.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gate.examples import policies
from gate.examples.export import exported
from gate.examples.languages import FOLDER, MODEL

LANGUAGES = (
    *("cs", "da", "de", "en", "es", "et", "fi", "fr", "hr"),
    *("hu", "it", "lt", "nl", "pl", "pt", "ro", "sv", "tr"),
)
KINDS = ("territories", "languages", "currencies")
SIZES = {"train": 24_000, "calibration": 400, "held_out": 3_000}
SHARES = {"train": 0.6, "calibration": 0.1, "held_out": 0.3}
SEED = 7
VOCABULARY = 2_000
NAMES = 3
LENGTH = 40
WIDTH, HEADS, LAYERS = 96, 4, 2
EPOCHS = 6
PAD = "[PAD]"
HIDDEN = 0.15
"""Share of pieces that training hides."""


# ── data ──────────────────────────────────────────────────────────────────────────────────


def splits() -> dict[str, dict[str, Any]]:
    """train, calibration and held_out: text, target, id and kind, (N,) each."""
    parts = dict(_parts())
    return {name: _examples(name, parts[name], SIZES[name]) for name in SHARES}


def _parts() -> Iterator[tuple[str, dict[tuple[str, str], list[str]]]]:
    """Names by language and kind, for each split the things that are its own."""
    random = np.random.default_rng(SEED)
    named = {language: _names(language) for language in LANGUAGES}
    bounds = np.cumsum([0.0, *SHARES.values()])
    found: dict[str, dict[tuple[str, str], list[str]]] = {name: {} for name in SHARES}
    for kind in KINDS:
        things = sorted(set.intersection(*({*named[one][kind]} for one in LANGUAGES)))
        order = random.permutation(len(things))
        for name, low, high in zip(SHARES, bounds, bounds[1:], strict=False):
            mine = [things[i] for i in order[round(low * len(things)) : round(high * len(things))]]
            for language in LANGUAGES:
                found[name][language, kind] = [named[language][kind][thing] for thing in mine]
    yield from found.items()


def _names(language: str) -> dict[str, dict[str, str]]:
    """Names by kind and by what they name, each said otherwise than by its code."""
    from babel import Locale

    locale = Locale(language)
    return {
        kind: {code: name for code, name in getattr(locale, kind).items() if name != code}
        for kind in KINDS
    }


def _examples(
    split: str, names: Mapping[tuple[str, str], Sequence[str]], count: int
) -> dict[str, Any]:
    """Different names in a row, each text once, all languages alike."""
    random = np.random.default_rng([SEED, *split.encode()])
    keys = sorted(names)
    found: dict[str, tuple[str, str]] = {}
    while len(found) < count:
        language, kind = keys[random.integers(len(keys))]
        several = names[language, kind]
        chosen = random.choice(len(several), size=NAMES, replace=False)
        found.setdefault(", ".join(several[place] for place in chosen), (language, kind))
    return {
        "text": np.array([*found]),
        "target": np.array([language for language, _ in found.values()]),
        "id": np.array([f"{split}-{place:05d}" for place in range(count)]),
        "kind": np.array([kind for _, kind in found.values()]),
    }


def baseline(train: Mapping[str, Any], held_out: Mapping[str, Any]) -> float:
    """Accuracy of a bag of words, the usual first try: TF-IDF and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    bag = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=2000))
    bag.fit(train["text"].tolist(), train["target"])
    return float(bag.score(held_out["text"].tolist(), held_out["target"]))


# ── model ─────────────────────────────────────────────────────────────────────────────────


def tokenizer(texts: Sequence[str]) -> Any:
    """Byte-pair pieces of the training texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106 - no password
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [PAD, "[UNK]", "[CLS]"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", made.token_to_id("[CLS]"))]
    )
    _pad(made, None)
    return made


def _pad(made: Any, length: int | None) -> None:
    made.enable_padding(pad_id=made.token_to_id(PAD), pad_token=PAD, length=length)


def module(vocabulary: int) -> Any:
    """The classifier: ids and mask (N, T) to logits (N, 18)."""
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.drop = nn.Dropout(0.15)
            self.wide, self.narrow = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

        def forward(self, x: Any, unseen: Any) -> Any:
            parts = self.mixed(self.first(x)).unflatten(2, (3, HEADS, WIDTH // HEADS))
            query, key, value = parts.permute(2, 0, 3, 1, 4)
            weights = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + unseen
            heads = weights.softmax(dim=3) @ value
            x = x + self.drop(self.out(heads.transpose(1, 2).flatten(2)))
            return x + self.drop(self.narrow(nn.functional.relu(self.wide(self.second(x)))))

    class Classifier(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.pieces = nn.Embedding(vocabulary, WIDTH)
            self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LANGUAGES))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            seen = attention_mask.to(torch.float32)
            unseen = (1 - seen)[:, None, None, :] * -1e4
            x = self.pieces(input_ids) + self.places
            for block in self.blocks:
                x = block(x, unseen)
            x = (self.last(x) * seen[:, :, None]).sum(dim=1) / seen.sum(dim=1, keepdim=True)
            return self.head(x)

    torch.manual_seed(SEED)
    return Classifier()


def encoded(made: Any, texts: Sequence[str]) -> tuple[Any, Any]:
    """(N, T) of int64 each: ids and mask."""
    made.enable_truncation(LENGTH)
    _pad(made, LENGTH)
    rows = made.encode_batch([*texts])
    ids, masks = ([getattr(row, name) for row in rows] for name in ("ids", "attention_mask"))
    return np.array(ids, dtype=np.int64), np.array(masks, dtype=np.int64)


def trained(made: Any, train: Mapping[str, Any]) -> Any:
    """The module, fitted to the training texts."""
    import torch

    ids, masks = map(torch.from_numpy, encoded(made, train["text"].tolist()))
    target = torch.from_numpy(np.searchsorted(LANGUAGES, train["target"]))
    model = module(made.get_vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=EPOCHS * -(-len(ids) // 128)
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(ids)).split(128):
            # some pieces hidden, so that no single one is learnt by heart
            hidden = masks[rows] * (torch.rand(masks[rows].shape) > HIDDEN)
            hidden[:, 0] = 1
            loss = torch.nn.functional.cross_entropy(model(ids[rows], hidden), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: Any) -> Any:
    """The module as an ONNX ModelProto with a free batch dimension."""
    import torch

    # one tensor given twice would be taken for one input
    given = tuple(torch.ones(2, LENGTH, dtype=torch.int64) for _ in range(2))
    return exported(model, given, ["input_ids", "attention_mask"], ["logits"])


# ── files ─────────────────────────────────────────────────────────────────────────────────


def write_models(folder: Path) -> None:
    """Train, and write the model."""
    write_model(folder, splits()["train"])


def write_model(folder: Path, train: Mapping[str, Any]) -> Any:
    """Train, and write the model; the tokenizer, as it is saved."""
    made = tokenizer(train["text"].tolist())
    proto = export(trained(made, train))
    (folder / MODEL).write_bytes(proto.SerializeToString(deterministic=True))
    made.no_truncation()
    _pad(made, None)
    return made


def write_data(folder: Path, parts: Mapping[str, Mapping[str, Any]], made: Any) -> None:
    """Write the splits that the policy names, and the tokenizer."""
    made.save(str(folder / "tokenizer.json"), pretty=False)
    for name in ("calibration", "held_out"):
        rows = zip(*(parts[name][key].tolist() for key in parts[name]), strict=True)
        told = (dict(zip(parts[name], row, strict=True)) for row in rows)
        lines = [json.dumps(one, ensure_ascii=False) for one in told]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    data = splits()
    write_data(policies() / "languages", data, write_model(FOLDER, data["train"]))
    print(f"bag of words: {baseline(data['train'], data['held_out']):.4f}")
