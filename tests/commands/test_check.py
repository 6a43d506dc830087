import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from gate.commands.check import check
from gate.commands.schema import schema
from gate.errors import PolicyError
from gate.policy_file import load_policy

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "policies").glob("*.yaml"))
GOOD = """\
version: 1
model: digits-cnn
task: classification
build: {recipe: dynamic}
judge:
  held_out: {path: held_out.npz}
  expect_fp32: {accuracy: 0.96, within: 0.02}
  budgets:
    - {metric: accuracy, max_drop: 0.01}
    - {metric: size, max_ratio: 0.5}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("held_out.npz", x=np.zeros((3, 2), np.float32), target=np.arange(3))
    Path("good.yaml").write_text(GOOD)


# ── check ─────────────────────────────────────────────────────────────────────────────────


def test_a_good_policy_is_one_line() -> None:
    lines, code = check([Path("good.yaml")])
    digest = load_policy("good.yaml").sha256[:12]
    assert lines == [(f"good.yaml: ok (2 budgets, recipe dynamic, sha256 {digest})", False)]
    assert code == 0


def test_one_budget_is_not_two() -> None:
    Path("one.yaml").write_text(GOOD.replace("    - {metric: size, max_ratio: 0.5}\n", ""))
    assert "ok (1 budget, recipe dynamic" in check([Path("one.yaml")])[0][0].text


def test_every_policy_is_checked_and_the_worst_code_wins() -> None:
    Path("bad.yaml").write_text(GOOD.replace("accuracy", "acuracy").replace("version: 1", "v: 1"))
    Path("names.yaml").write_text(GOOD.replace("metric: accuracy", "metric: acuracy"))
    lines, code = check([Path("bad.yaml"), Path("good.yaml"), Path("names.yaml"), Path("no.yaml")])
    assert [(line.text.split(": ")[0], line.bad) for line in lines] == [
        ("bad.yaml:1:1", True),
        ("bad.yaml:1:1", True),
        ("good.yaml", False),
        ("names.yaml:9:16", True),
        ("no.yaml:1:1", True),
    ]
    assert code == 2


def test_a_damaged_data_file_is_exit_4() -> None:
    Path("held_out.npz").write_bytes(b"PK\x03\x04")
    lines, code = check([Path("good.yaml")])
    assert lines[0].text.startswith("good.yaml: ")
    assert lines[0].bad
    assert code == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_bundled_policies_are_good(example: Path) -> None:
    lines, code = check([example])
    assert [line.text for line in lines if line.bad] == []
    assert code == 0


def test_no_heavy_library_is_imported() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gate.commands.check import check\n"
        "from gate.commands.schema import schema\n"
        "assert schema() and check([Path('good.yaml')])[1] == 0\n"
        "heavy = {'onnx', 'onnxruntime', 'mlflow', 'torch', 'scipy', 'sklearn', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
    )
    assert done.stdout == "[]\n"


# ── schema ────────────────────────────────────────────────────────────────────────────────


def conforms(document: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(document))


def test_the_schema_is_one_and_the_same() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.dumps(schema()) == json.dumps(schema())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_bundled_policies_conform(example: Path) -> None:
    assert conforms(yaml.safe_load(example.read_text()))


VARIANTS = {
    "recipe": {"base": "static", "activation_type": "int8", "exclude_op_types": ["Softmax"]},
    "decode": {"as": "probabilities", "output": "y"},
    "calibration": {"path": "c.npz", "limit": 256, "sha256": "0" * 64},
    "preprocess": {"mean": [0.5], "std": [2], "to_channels_first": True},
    "classes": ["cat", "dog"],
    "candidate": None,
}


@pytest.mark.parametrize("key", VARIANTS)
def test_what_the_loader_takes_conforms(key: str) -> None:
    document = yaml.safe_load(GOOD)
    document["build"][key] = VARIANTS[key]
    if key == "recipe":
        document["build"]["calibration"] = VARIANTS["calibration"]
    Path("p.yaml").write_text(json.dumps(document))
    assert load_policy("p.yaml")
    assert conforms(document)


BAD: list[tuple[str, Any]] = [
    ("version", 2),
    ("modle", "x"),
    ("model", "-x"),
    ("build.recipe", "statc"),
    ("build.recipe", {"per_channel": True}),
    ("build.recipe", {"base": "static", "scheme": "dynamic"}),
    ("build.recipe", {"base": "static", "per_channel": "no"}),
    ("build.decode", {"name": "logits"}),
    ("build.calibration", "c.npz"),
    ("build.calibration", {"path": "c.npz", "limit": 0}),
    ("judge.expect_fp32", "unkown"),
    ("judge.expect_fp32", {"accuracy": 0.96}),
    ("judge.expect_fp32", {"within": 0.02}),
    ("judge.expect_fp32", {"metrics": {"accuracy": 0.96}, "within": 0.02}),
    ("judge.confidence", "95%"),
    ("judge.budgets", []),
    ("judge.budgets", [{"metric": "accuracy"}]),
    ("judge.budgets", [{"metric": "accuracy", "max_drop": "1%"}]),
    ("judge.budgets", [{"metric": "accuracy", "max_drop": 0.1, "at_least": 0.9}]),
    ("judge.budgets", [{"metric": "accuracy", "max_drop": 0.1, "slice": {"a": 1}, "each": "b"}]),
    ("judge.budgets", [{"metric": "accuracy", "max_drop": 0.1, "slice": {"a": [1]}}]),
    ("judge.budgets", [{"metric": "accuracy", "max_dorp": 0.1}]),
    ("judge.mode", "observed"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_what_the_loader_refuses_does_not_conform(key: str, value: Any) -> None:
    document = yaml.safe_load(GOOD)
    *around, last = key.split(".")
    (document[around[0]] if around else document)[last] = value
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PolicyError):
        load_policy("p.yaml")
    assert not conforms(document)


@pytest.mark.parametrize(
    "key", ["version", "model", "build", "judge", "judge.held_out", "judge.expect_fp32"]
)
def test_only_a_file_that_extends_may_leave_out_required_keys(key: str) -> None:
    document = yaml.safe_load(GOOD)
    *around, last = key.split(".")
    del (document[around[0]] if around else document)[last]
    assert not conforms(document)
    assert conforms(document | {"extends": "base.yaml"})


def test_a_file_that_extends_is_held_to_the_rest() -> None:
    assert conforms({"extends": "b.yaml", "judge": {"held_out": {"sha256": "0" * 64}}})
    assert conforms({"extends": "b.yaml", "build": {"recipe": {"per_channel": False}}})
    assert not conforms({"extends": "b.yaml", "judge": {"held_in": {}}})
    assert not conforms({"extends": "b.yaml", "judge": {"budgets": [{"max_drop": 0.1}]}})
    assert not conforms({"extends": ["b.yaml"]})


def objects(part: Any) -> list[dict[str, Any]]:
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    found = [item for child in inner for item in objects(child)]
    return [*found, part] if isinstance(part, dict) and "properties" in part else found


def test_nothing_unknown_is_allowed_anywhere() -> None:
    described = objects(schema())
    assert len(described) > 10
    for item in described:
        numbers = "within" in item["properties"]
        assert item["additionalProperties"] == ({"type": "number"} if numbers else False)


def test_keys_are_described_as_in_the_code() -> None:
    definitions = schema()["$defs"]
    keys = [(n, k, v) for n, d in definitions.items() for k, v in d.get("properties", {}).items()]
    budget = definitions["Budget"]["properties"]
    assert budget["max_ratio"]["description"] == "Ceiling on INT8 / FP32."
    assert [(n, k) for n, k, v in keys if "description" not in v and "$ref" not in v] == []
    recipe = definitions["Recipe"]["anyOf"][1]["properties"]
    assert recipe["per_channel"]["description"].startswith("One scale per output channel")


# ── limits without a meaning ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("{metric: auroc, at_least: 0}", "met by every model at 0"),
        ("{metric: int8_share, at_least: 0}", "met by every model at 0"),
        ("{metric: ece, at_most: 1}", "met by every model at 1"),
        ("{metric: log_loss, at_most: -1}", "never below 0"),
        ("{metric: latency_p50, max_ratio: 0.5, min_examples: 9}", "no metric of examples"),
        ("{metric: latency_p50, max_drop: 0.5}", "or `max_ratio`"),
    ],
)
def test_limits_without_a_meaning_are_told(budget: str, said: str) -> None:
    Path("bad.yaml").write_text(GOOD.replace("{metric: size, max_ratio: 0.5}", budget))
    (line, *_), code = check([Path("bad.yaml")])
    assert code == 2
    assert line.text.startswith("bad.yaml:10:")
    assert said in line.text


def test_a_part_does_not_show_whether_f1_is_as_expected() -> None:
    early = GOOD.replace("{accuracy: 0.96", "{f1_macro: 0.96") + "  stopping: early\n"
    Path("bad.yaml").write_text(early)
    (line, *_), code = check([Path("bad.yaml")])
    assert code == 2
    assert "f1_macro is no proportion of examples, so a part" in line.text
