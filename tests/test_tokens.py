"""Text to token ids: what the `tokenizers` library gives, by the model's input names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gate import tokens
from gate.errors import DataError, UsageError
from gate.sources import Tokenizer as Spec
from gate.values import TensorSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat"]


def inputs(*names: str, length: int | None = None, dtype: str = "int64") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, (None, length)) for name in names)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def spec(**changes: Any) -> Spec:
    return Spec.model_validate({"file": "tokenizer.json", "max_length": 6} | changes)


def fed(file: Path, texts: dict[str, list[str]], wanted: Any, **changes: Any) -> dict[str, Any]:
    raw = {name: np.array(column) for name, column in texts.items()}
    prepare = tokens.fit("held_out", raw, wanted, spec(**changes), file)
    return {name: values.tolist() for name, values in prepare(raw).items()}


def test_ids_and_mask_are_padded_to_the_length(file: Path) -> None:
    found = fed(
        file, {"text": ["the cat", "sat on the mat"]}, inputs("input_ids", "attention_mask")
    )
    assert found == {
        "input_ids": [[2, 4, 5, 3, 0, 0], [2, 6, 7, 4, 8, 3]],
        "attention_mask": [[1, 1, 1, 1, 0, 0], [1] * 6],
    }


@pytest.mark.parametrize(("columns", "special"), [(["a"], 2), (["a", "b"], 3)])
def test_a_length_that_special_tokens_fill_is_refused(
    file: Path, columns: list[str], special: int
) -> None:
    texts = {name: ["the cat sat"] for name in columns}
    for length in range(1, special + 1):
        with pytest.raises(UsageError, match=f"no token for text beside {special} special ones"):
            fed(file, texts, inputs("input_ids"), columns=columns, max_length=length)
    found = fed(file, texts, inputs("input_ids"), columns=columns, max_length=special + 1)
    assert len(found["input_ids"][0]) == special + 1


def truncating(file: Path, **how: str) -> Path:
    made = Tokenizer.from_file(str(file))
    made.enable_truncation(3, **how)
    made.save(str(file))
    return file


def test_the_side_that_is_cut_is_the_files(file: Path) -> None:
    found = fed(
        truncating(file, direction="left"), {"text": ["the cat sat on mat"]}, inputs("input_ids")
    )
    assert found["input_ids"] == [[2, 5, 6, 7, 8, 3]]


def test_which_text_of_a_pair_is_cut_is_the_files(file: Path) -> None:
    truncating(file, strategy="only_second")
    texts = {"a": ["the cat"], "b": ["sat on mat"]}
    found = fed(file, texts, inputs("input_ids"), columns=["a", "b"])
    assert found["input_ids"] == [[2, 4, 5, 3, 6, 3]]
    with pytest.raises(UsageError, match="cannot bring every text to `max_length: 6`"):
        fed(file, {"text": ["the cat sat on the mat"]}, inputs("input_ids"))


def test_longer_texts_are_cut_off_and_counted(file: Path) -> None:
    texts = ["the cat", "the cat sat on the mat"]
    found = fed(file, {"text": texts}, inputs("input_ids"))
    assert found["input_ids"][1] == [2, 4, 5, 6, 7, 3]
    cut = tokens.truncated(spec(), file, {"text": np.array(texts)})
    assert cut.tolist() == [False, True]


def test_pairs_have_types(file: Path) -> None:
    texts = {"premise": ["cat"], "claim": ["mat"]}
    names = inputs("input_ids", "token_type_ids", dtype="int32")
    found = fed(file, texts, names, columns=["premise", "claim"])
    assert found == {"input_ids": [[2, 5, 3, 8, 3, 0]], "token_type_ids": [[0, 0, 0, 1, 1, 0]]}


def test_a_batch_may_be_as_long_as_its_longest(file: Path) -> None:
    found = fed(file, {"text": ["cat", "the mat"]}, inputs("ids", "mask"), padding="longest")
    assert found == {"ids": [[2, 5, 3, 0], [2, 4, 8, 3]], "mask": [[1, 1, 1, 0], [1, 1, 1, 1]]}


def test_inputs_that_are_no_tokens_are_columns_of_their_own() -> None:
    assert tokens.columns(spec(), inputs("input_ids", "attention_mask", "age")) == ("text", "age")


@pytest.mark.parametrize(
    ("texts", "wanted", "changes", "message"),
    [
        (["a"], inputs("x"), {}, "feeds inputs named input_ids.*the model has x"),
        (["a"], inputs("input_ids", length=9), {}, "fixed to 9 tokens"),
        (["a"], inputs("input_ids", dtype="float32"), {}, "wants float32"),
        (["a"], inputs("input_ids"), {"sha256": "0" * 64}, "pinned 0000.*found"),
    ],
)
def test_what_does_not_fit_is_told(
    file: Path, texts: list[str], wanted: Any, changes: Any, message: str
) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        fed(file, {"text": texts}, wanted, **changes)


def test_empty_texts_are_found_in_every_column() -> None:
    raw = {"a": np.array(["x", " ", "y"]), "b": np.array(["x", "z", ""])}
    assert tokens.empty(spec(columns=["a", "b"]), raw).tolist() == [False, True, True]
    assert not tokens.empty(spec(columns=["a", "b"], allow_empty=True), raw).any()


def test_empty_texts_may_be_allowed(file: Path) -> None:
    found = fed(file, {"text": [""]}, inputs("ids"), allow_empty=True, padding="longest")
    assert found == {"ids": [[2, 3]]}


def test_numbers_are_no_text(file: Path) -> None:
    raw = {"text": np.arange(3)}
    with pytest.raises(DataError, match=r"column 'text' is int64 \(3,\)"):
        tokens.fit("held_out", raw, inputs("input_ids"), spec(), file)


def test_a_file_that_is_missing_or_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for name, message in (
        ("nowhere.json", "no tokenizer at"),
        ("tokenizer.json", "no tokenizer that"),
    ):
        with pytest.raises(UsageError, match=message):
            fed(tmp_path / name, {"text": ["a"]}, inputs("input_ids"))
