"""`gate init`: what it writes passes `gate check` and `gate run`, or nothing is written."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx.helper import make_node
from support.onnx_models import model as onnx_model
from support.onnx_models import multi_input, save, weights

from gate import examples
from gate.cli import exit_code_of
from gate.commands import _init_cli
from gate.examples import digits, languages, scenes

OUT = Path("policies/model.yaml")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def init(*words: str) -> int:
    return exit_code_of(["init", "--yes", *words])


def policy(path: Path = OUT) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def gated(path: Path = OUT) -> int:
    """`gate check`, and `gate run` as it is."""
    assert exit_code_of(["check", str(path)]) == 0
    return exit_code_of(["run", str(path), "--tracker", "none", "--out", "out"])


def project(family: Any, key: str, name: str) -> None:
    """A model and two files of data, as somebody has them."""
    shutil.copyfile(family.FOLDER / name, "model.onnx")
    shutil.copytree(examples.policies() / key, "data")


@pytest.fixture
def digit() -> None:
    project(digits, "digits", "cnn.onnx")


def arrays(name: str = "held_out") -> dict[str, Any]:
    with np.load(Path("data", f"{name}.npz")) as archive:
        return dict(archive)


def nothing_written() -> None:
    assert not Path("policies").exists()


# ── what it writes is gated ───────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("digit")
def test_classification(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--expect", "accuracy=0.961") == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "policies/model.yaml: 6 budgets for model, classification",
        "next:",
        "  gate check policies/model.yaml",
        "  gate run policies/model.yaml",
    ]
    assert "task: classification, it seems: output 'logits' (N, 10)" in told.err
    text = OUT.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=policy.schema.json\nversion: 1\n")
    assert max(map(len, text.splitlines())) <= 100
    written = policy()
    assert list(written) == ["version", "model", "task", "build", "judge"]
    assert written["build"]["recipe"] == "static"
    digest = hashlib.sha256(Path("data/held_out.npz").read_bytes()).hexdigest()
    assert written["judge"]["held_out"] == {"path": "../data/held_out.npz", "sha256": digest}
    assert written["judge"]["expect_fp32"] == {"accuracy": 0.961, "within": 0.02}
    assert written["judge"]["budgets"] == [
        {"metric": "accuracy", "max_drop": 0.01},
        {"metric": "accuracy", "max_drop": 0.03, "each": "target"},
        {"metric": "accuracy", "max_drop": 0.03, "each": "ink"},
        {"metric": "prediction_flips", "at_most": 0.03},
        {"metric": "size", "max_ratio": 0.4},
        {"metric": "int8_share", "at_least": 0.9},
    ]
    assert "1,000 examples prove it with 88 % where 1 % of the answers flip" in text
    assert "A drop of 13.8 pp on the smallest of 10 (89 examples) would FAIL with 80 %" in text
    schema = json.loads(Path("policies/policy.schema.json").read_text(encoding="utf-8"))
    assert schema["title"] == "gate policy"
    assert gated() == 0


def test_detection() -> None:
    project(scenes, "scenes", "detector.onnx")
    columns = arrays()
    rows, ends = columns.pop("target"), columns.pop("target/offsets")[:61]
    part = {name: values[:60] for name, values in columns.items()}
    np.savez("data/held_out.npz", **part, **{"target": rows[: ends[-1]], "target/offsets": ends})
    assert init() == 0
    written = policy()
    assert written["task"] == "detection"
    assert written["build"]["decode"] == {"as": "centernet", "strides": [4]}
    assert written["build"]["preprocess"] == {"scale": 1 / 255}
    assert [b["metric"] for b in written["judge"]["budgets"]][:2] == ["map", "box_flips"]
    assert exit_code_of(["check", str(OUT)]) == 0


@pytest.mark.slow
def test_detection_on_all_images() -> None:
    project(scenes, "scenes", "detector.onnx")
    assert init("--expect", "map=0.754") == 0
    assert policy()["judge"]["budgets"][0] == {"metric": "map", "max_drop": 0.02}
    assert gated() == 0


def test_text_classification(capsys: pytest.CaptureFixture[str]) -> None:
    project(languages, "languages", "transformer.onnx")
    lines = Path("data/held_out.jsonl").read_text(encoding="utf-8").splitlines()[:600]
    Path("data/held_out.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert init() == 0
    written = policy()
    assert written["task"] == "text_classification"
    assert written["build"]["recipe"] == "static-matmul"
    assert written["build"]["classes"][:3] == ["cs", "da", "de"]
    tokenizer = {"file": "../data/tokenizer.json", "max_length": 40}
    assert written["build"]["preprocess"] == {"tokenizer": tokenizer}
    assert written["judge"]["budgets"][0] == {"metric": "accuracy", "max_drop": 0.015}
    assert "examples would do for one point" in " ".join(
        OUT.read_text(encoding="utf-8").replace("#", "").split()
    )
    assert gated() in (0, 3)  # what it takes is not known before it has run


def regressor() -> None:
    """A network of one number, and data that it fits but for noise."""
    nodes = [
        make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        make_node("Relu", ["a"], ["h"]),
        make_node("Gemm", ["h", "w2", "b2"], ["y"]),
    ]
    constants = {
        "w1": weights(8, 32), "b1": weights(32, seed=1),
        "w2": weights(32, 1, seed=2), "b2": weights(1, seed=3),
    }  # fmt: skip
    made = onnx_model(nodes, {"x": ["N", 8]}, {"y": ["N", 1]}, constants)
    save(made, Path("model.onnx"))
    rng = np.random.default_rng(0)
    Path("data").mkdir()
    for name, count in (("held_out", 2000), ("calibration", 300)):
        x = rng.normal(size=(count, 8)).astype(np.float32)
        h = np.maximum(x @ constants["w1"] + constants["b1"], 0)
        y = (h @ constants["w2"] + constants["b2"])[:, 0]
        site = np.array(["north", "south"])[rng.integers(0, 2, count)]
        np.savez(f"data/{name}.npz", x=x, target=y + rng.normal(size=count), site=site)


def test_regression() -> None:
    regressor()
    assert init("--expect", "rmse=1.0") == 0
    written = policy()
    assert written["task"] == "regression"
    assert written["build"]["decode"] == "values"
    first, second = written["judge"]["budgets"][:2]
    assert first == {"metric": "rmse", "max_relative_drop": 0.02}
    assert second == {"metric": "rmse", "max_relative_drop": 0.06, "each": "site"}
    assert gated() == 0


def test_probabilities_and_an_output_among_others() -> None:
    nodes = [
        make_node("Gemm", ["x", "w", "b"], ["logits"]),
        make_node("Softmax", ["logits"], ["shares"], axis=1),
        make_node("Gemm", ["x", "v", "c"], ["features"]),
    ]
    constants = {
        "w": weights(16, 4, scale=3), "b": weights(4, seed=1),
        "v": weights(16, 6, seed=2), "c": weights(6, seed=3),
    }  # fmt: skip
    outputs = {"shares": ["N", 4], "features": ["N", 6]}
    save(onnx_model(nodes, {"x": ["N", 16]}, outputs, constants), Path("model.onnx"))
    x = np.random.default_rng(1).normal(size=(1500, 16)).astype(np.float32)
    target = (x @ constants["w"] + constants["b"]).argmax(axis=1)
    np.savez("held_out.npz", x=x[200:], target=target[200:])
    np.savez("calibration.npz", x=x[:200])
    assert init() == 2  # both outputs could be meant
    assert init("--task", "classification", "--decode", "{as: probabilities, output: shares}") == 0
    assert policy()["build"]["decode"] == {"as": "probabilities", "output": "shares"}
    assert gated() in (0, 3)


# ── what nobody says ──────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("digit")
def test_a_number_measured_here_is_never_what_training_reported() -> None:
    assert init() == 0
    assert policy()["judge"]["expect_fp32"] == "unknown"
    text = OUT.read_text(encoding="utf-8")
    assert "measured here: {accuracy: 0.961, within: 0.02}; confirm it with what training" in text


@pytest.mark.usefixtures("digit")
def test_what_training_did_not_report_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--expect", "accuracy=0.99") == 4
    assert "FP32 accuracy is 0.9610 on the held-out data" in capsys.readouterr().err
    nothing_written()


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--data", "data/held_out.npz"], "--model"),
        (["--model", "model.onnx"], "--data"),
        (["--model", "gone.onnx", "--data", "data/held_out.npz"], "--model gone.onnx"),
        (["--model", "model.onnx", "--data", "data/held_out.npz", "--name", "a b"], "--name"),
        (["--model", "model.onnx", "--data", "data/held_out.npz"], "--calibration"),
        (["--model", "model.onnx", "--data", "data/held_out.npz", "--expect", "x"], "--expect"),
        (["--model", "model.onnx", "--data", "data/held_out.npz", "--task", "clas"], "'clas'"),
        (["--model", "model.onnx", "--data", "data/held_out.npz", "--decode", "{a"], "--decode"),
        (["--model", "model.onnx", "--data", "data/held_out.npz", "--out", "x.txt"], "--out"),
    ],
)
@pytest.mark.usefixtures("digit")
def test_what_cannot_be_guessed_is_a_flag(
    words: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("elsewhere").mkdir()
    for name in ("model.onnx", "data"):
        shutil.move(name, "elsewhere")
    Path("elsewhere/data/calibration.npz").unlink()
    found = [str(Path("elsewhere", w)) if Path("elsewhere", w).is_file() else w for w in words]
    assert init(*found) == 2
    assert flag in capsys.readouterr().err
    nothing_written()


@pytest.mark.usefixtures("digit")
def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code_of(["init"]) == 0
    assert policy()["judge"]["expect_fp32"] == "unknown"


@pytest.mark.usefixtures("digit")
def test_on_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []
    answers = {"(--name)": "digits", "(--expect)": "0.96"}

    def prompt(question: str, *, default: str | None, err: bool) -> str:
        assert err
        asked.append((question, default))
        key = next((key for key in answers if key in question), "")
        return answers.get(key, default or "")

    monkeypatch.setattr(_init_cli, "on_a_terminal", lambda: True)
    monkeypatch.setattr("click.prompt", prompt)
    assert exit_code_of(["init"]) == 0
    flags = [question.rsplit("(", 1)[1].rstrip(")") for question, _ in asked]
    assert flags == ["--model", "--data", "--name", "--task", "--calibration", "--expect"]
    defaults = [default for _, default in asked]
    assert defaults == [
        *("model.onnx", "data/held_out.npz", "model", "classification"),
        *("data/calibration.npz", "unknown"),
    ]
    written = policy(Path("policies/digits.yaml"))
    assert written["judge"]["expect_fp32"] == {"accuracy": 0.96, "within": 0.02}


def test_without_labels_int8_is_held_to_fp32() -> None:
    project(digits, "digits", "cnn.onnx")
    columns = arrays()
    del columns["target"]
    np.savez("data/held_out.npz", **columns)
    assert init("--expect", "accuracy=0.9") == 2
    assert init() == 0
    metrics = [budget["metric"] for budget in policy()["judge"]["budgets"]]
    assert metrics == ["prediction_flips", "size", "int8_share"]
    assert gated() == 0


@pytest.mark.usefixtures("digit")
def test_few_examples_are_told_what_they_can_prove(capsys: pytest.CaptureFixture[str]) -> None:
    columns = arrays()
    np.savez("data/held_out.npz", **{name: values[:150] for name, values in columns.items()})
    assert init() == 0
    assert policy()["judge"]["budgets"][0] == {"metric": "accuracy", "max_drop": 0.04}
    np.savez("data/held_out.npz", **{name: values[:20] for name, values in columns.items()})
    shutil.rmtree("policies")
    assert init() == 4
    told = capsys.readouterr().err
    assert "too few to prove that accuracy drops by no more than 10.00 pp" in told
    nothing_written()


@pytest.mark.usefixtures("digit")
def test_overlapping_data_are_refused() -> None:
    columns = arrays()
    np.savez("data/calibration.npz", image=columns["image"][:50])
    assert init() == 4
    nothing_written()


def test_two_inputs_and_what_no_recipe_suits() -> None:
    save(multi_input(), Path("model.onnx"))
    np.savez("held_out.npz", other=np.zeros((4, 3), dtype=np.float32))
    assert init() in (2, 4)
    nothing_written()


# ── files ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("digit")
def test_nothing_is_replaced_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    OUT.parent.mkdir()
    OUT.write_text("mine")
    Path("policies/policy.schema.json").write_text("{}")
    assert init() == 2
    assert "--force" in capsys.readouterr().err
    assert OUT.read_text() == "mine"
    OUT.unlink()
    assert init() == 0
    assert Path("policies/policy.schema.json").read_text() == "{}"
    assert "another version's and stays" in capsys.readouterr().err
    assert init("--force") == 0
    assert "gate policy" in Path("policies/policy.schema.json").read_text()
    assert {path.name for path in OUT.parent.iterdir()} == {"model.yaml", "policy.schema.json"}


@pytest.mark.usefixtures("digit")
def test_a_dangling_link_is_not_written_through() -> None:
    OUT.parent.mkdir()
    OUT.symlink_to("nowhere.yaml")
    assert init() == 2
    assert not Path("policies/nowhere.yaml").exists()


@pytest.mark.usefixtures("digit")
def test_the_workflow_gates_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--workflow") == 0
    assert "gates model. Commit it" in capsys.readouterr().out
    assert exit_code_of(["workflow", "check"]) == 0
    shutil.rmtree("policies")
    assert init("--workflow") == 2
    nothing_written()


# ── one file of data ──────────────────────────────────────────────────────────────────────


def single(unit: bool) -> Mapping[str, Any]:
    """All digits in one file: every tenth twice, three examples a unit."""
    project(digits, "digits", "cnn.onnx")
    columns = arrays()
    del columns["id"]
    columns = {k: np.concatenate([v, v[::10]]) for k, v in columns.items()}
    if unit:
        columns["unit"] = np.concatenate([np.arange(1000), np.arange(1000)[::10]]) // 3
    shutil.rmtree("data")
    return columns


def content(path: str) -> set[bytes]:
    with np.load(path) as archive:
        return {image.tobytes() for image in archive["image"]}


@pytest.mark.parametrize("unit", [False, True])
def test_it_is_taken_apart_by_content_and_unit(
    unit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = single(unit)
    np.savez("all.npz", **columns)
    assert init("--data", "all.npz") == 2
    assert "let --split 0 (a seed) take some" in capsys.readouterr().err
    nothing_written()
    assert init("--data", "all.npz", "--split", "0") == 0
    halves = [f"policies/model/{name}.npz" for name in ("calibration", "held_out")]
    with np.load(halves[0]) as one, np.load(halves[1]) as other:
        assert set(one) == set(other) == set(columns)
        assert len(one["image"]) + len(other["image"]) == 1100
        assert 220 <= len(one["image"]) <= 226
        assert other["ink"].dtype == columns["ink"].dtype
        if unit:
            assert not set(one["unit"].tolist()) & set(other["unit"].tolist())
    assert not content(halves[0]) & content(halves[1])
    written = policy()
    assert written["judge"]["held_out"]["path"] == "model/held_out.npz"
    assert "repeat an earlier one" in OUT.read_text(encoding="utf-8")
    assert gated() in (0, 3) if unit else gated() == 0


def test_parquet_is_taken_apart() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = single(unit=False)
    images = columns.pop("image").reshape(1100, 64)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 64)
    tensor = pa.fixed_shape_tensor(pa.float32(), (1, 8, 8))
    table = pa.table(
        {"image": pa.ExtensionArray.from_storage(tensor, lists)}
        | {name: pa.array(values.tolist()) for name, values in columns.items()}
    )
    pq.write_table(table, "all.parquet")
    assert init("--data", "all.parquet", "--split", "7") == 0
    parts = [pq.read_table(f"policies/model/{n}.parquet") for n in ("calibration", "held_out")]
    assert [part.schema for part in parts] == [table.schema] * 2
    assert sum(part.num_rows for part in parts) == 1100
    assert gated() == 0


def test_a_split_that_comes_to_nothing_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("all.npz", **single(unit=False))
    assert init("--data", "all.npz", "--split", "0", "--expect", "accuracy=0.5") == 4
    nothing_written()


def test_one_unit_cannot_be_taken_apart() -> None:
    columns = dict(single(unit=False))
    np.savez("all.npz", **columns, unit=np.zeros(1100, dtype=np.int64))
    assert init("--data", "all.npz", "--split", "0") == 4
    nothing_written()


# ── hostile names ─────────────────────────────────────────────────────────────────────────

HOSTILE = [
    "a b",
    "it's",
    '"quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "emoji 😀",
    "# comment",
    "key: value, {x: [y]}",
    "back\\slash",
    "*anchor & tag!",
    "x" * 120,
]


@pytest.mark.parametrize("turn", range(4))
def test_hostile_names_are_quoted(turn: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Folder, model, data and column each have another one in turn."""
    folder, named, stem, column = (HOSTILE * 2)[3 * turn : 3 * turn + 4]
    project(digits, "digits", "cnn.onnx")
    columns = arrays()
    columns[f"{column} column"] = columns.pop("ink")
    Path(folder).mkdir()
    np.savez(f"{folder}/{stem}.npz", **columns)
    shutil.move("model.onnx", f"{folder}/{named}.onnx")
    out = f"{folder}/p.yaml"
    words = ["--model", f"{folder}/{named}.onnx", "--data", f"{folder}/{stem}.npz", "--out", out]
    assert init(*words, "--name", "m") == 0
    told = capsys.readouterr().out.splitlines()
    assert shlex.split(told[-1]) == ["gate", "run", out]
    written = policy(Path(out))
    assert written["build"]["candidate"] == f"{named}.onnx"
    assert written["judge"]["held_out"]["path"] == f"{stem}.npz"
    assert f"{column} column" in [budget.get("each") for budget in written["judge"]["budgets"]]
    assert gated(Path(out)) == 0
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["new\nline", "bell\x07", "zero\u200bwidth", "rtl\u202e"])
def test_what_no_policy_may_hold_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    project(digits, "digits", "cnn.onnx")
    shutil.move("model.onnx", f"{name}.onnx")
    assert init("--model", f"{name}.onnx", "--name", "m") == 2
    told = capsys.readouterr().err
    assert "rename it" in told
    assert name not in told
    nothing_written()
    shutil.move(f"{name}.onnx", "model.onnx")
    np.savez("data/held_out.npz", **arrays(), **{name: np.arange(1000) % 2})
    assert init() in (2, 4)
    nothing_written()


@pytest.mark.usefixtures("digit")
def test_a_folder_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("policies").write_text("a file")
    assert init() == 2
    assert "see --out" in capsys.readouterr().err


@pytest.mark.usefixtures("digit")
def test_quiet_tells_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--quiet") == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith("policies/model.yaml: 6 budgets")
    assert init("--quiet") == 2
    assert "is there" in capsys.readouterr().err
