"""PP-OCR's recognition, gated by exact match of whole words: CTC by the task, and by a plugin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from real import rendering
from real.files import WORDS
from real.gating import package

from gate.pipeline import Finished, run_gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

CALIBRATION, HELD_OUT, WIDTH = 64, 300, 128
JOINS_STAY_FLOAT = {"base": "static", "op_types": ["Conv", "MatMul"]}
PLUGIN = """\
from itertools import groupby
from pathlib import Path

import numpy as np

CHARACTERS = ["", *Path("characters.txt").read_text().splitlines(), " "]


def ctc(outputs):
    (scores,) = outputs.values()
    best = scores.argmax(axis=2).tolist()
    texts = ("".join(CHARACTERS[at] for at, _ in groupby(row)) for row in best)
    return np.array([text.strip() for text in texts])


DECODERS = {"ppocr": ctc}
"""

Gate = Callable[..., Finished]


def words(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = [str(rng.choice(WORDS)) for _ in range(count)]
    return {
        "x": np.stack([rendering.line(text, rng, width=WIDTH) for text in texts]),
        "target": np.array(texts),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("recognition")
    models = package("rapidocr_onnxruntime", "rapidocr-onnxruntime") / "models"
    found = onnx.load(models / "ch_PP-OCRv4_rec_infer.onnx")
    onnx.save(found, made / "model.onnx")
    entries = {entry.key: entry.value for entry in found.metadata_props}
    (made / "characters.txt").write_text(entries["character"])
    (made / "plug.py").write_text(PLUGIN)
    np.savez(made / "calibration.npz", x=words(CALIBRATION, seed=1)["x"])
    np.savez(made / "held_out.npz", **words(HELD_OUT, seed=0))
    return made


@pytest.fixture
def gate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.chdir(folder)

    def run(recipe: Any, decode: str = "ctc", **options: Any) -> Finished:
        classes = [*Path("characters.txt").read_text().splitlines(), " "]
        build = {"recipe": recipe, "calibration": {"path": "calibration.npz"}, "decode": decode}
        spec = {
            "version": 1,
            "model": "ppocr",
            "task": "text_recognition",
            "build": build | ({"classes": classes} if decode == "ctc" else {}),
            "judge": {
                "held_out": {"path": "held_out.npz"},
                "expect_fp32": {"accuracy": 0.97, "within": 0.03},
                "budgets": [{"metric": "accuracy", "max_drop": 0.03}],
            },
        }
        file = Path("policy.yaml")
        file.write_text(yaml.safe_dump(spec, sort_keys=False))
        return run_gate(file, "model.onnx", tracker="none", **options)

    return run


def values(found: Finished, metric: str) -> tuple[float | None, float | None]:
    (one,) = [c for c in found.record.comparisons if c.metric == metric and c.slice is None]
    return one.reference, one.int8


def test_whole_words_are_read_as_well_by_int8(gate: Gate) -> None:
    found = gate(JOINS_STAY_FLOAT)
    assert found.exit_code == 0, found.verdict
    assert found.record.int8.int8_share > 0.9
    assert max(filter(None, values(found, "character_error_rate"))) < 0.02


def test_one_scale_a_tensor_loses_words(gate: Gate) -> None:
    found = gate("static-per-tensor")
    assert found.exit_code == 1
    assert values(found, "accuracy")[1] == 0


def test_a_plugin_decodes_as_production_does(gate: Gate) -> None:
    """All that FP32 gets wrong is a blank before or after the word."""
    found = gate(JOINS_STAY_FLOAT, "ppocr", plugins=["plug.py"])
    assert found.exit_code == 0, found.verdict
    assert found.record.provenance.plugins.keys() == {"plug.py"}
    assert min(filter(None, values(found, "accuracy"))) > 0.98
