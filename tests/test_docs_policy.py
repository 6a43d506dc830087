"""docs/policy.md: printed from the models, and its examples are policies."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.markdown import ROOT

from gate import sources, strict_yaml
from gate.exhibits import Waiver
from gate.policy import WRITTEN, Budget, ExpectFp32, Judge, Policy
from gate.recipes import resolve

FILE = ROOT / "docs" / "policy.md"
JUDGE = {
    "held_out": {"path": "held_out.npz"},
    "expect_fp32": "unknown",
    "budgets": [{"metric": "accuracy", "max_drop": 0.01}],
}
BUILD = {"recipe": "static", "calibration": {"path": "calibration.npz"}}
WHOLE = {"version": 1, "model": "m", "task": "classification", "build": BUILD, "judge": JUDGE}
WAIVER = {
    "model": "m", "budget": "accuracy.max_drop", "reason": "r", "who": "w", "expires": "2027-01-31",
}  # fmt: skip
MODELS = {
    "DataSource": sources.DataSource,
    "Preprocess": sources.Preprocess,
    "Resize": sources.Resize,
    "Letterbox": sources.Letterbox,
    "Tokenizer": sources.Tokenizer,
    "Graph": sources.Graph,
    "Decode": sources.Decode,
    "ExpectFp32": ExpectFp32,
    "Budget": Budget,
}


def script() -> ModuleType:
    file = ROOT / "docs" / "examples" / "policy_reference.py"
    spec = importlib.util.spec_from_file_location("policy_reference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = script()
EXAMPLES = [
    pytest.param(name, key, text, id=f"{name}.{key}")
    for name, examples in REFERENCE.EXAMPLES.items()
    for key, text in examples.items()
]


def test_the_page_is_what_the_script_prints() -> None:
    assert FILE.read_text(encoding="utf-8") == REFERENCE.page(), (
        "python docs/examples/policy_reference.py > docs/policy.md"
    )


def test_every_key_has_one_example_and_no_other_has() -> None:
    found = REFERENCE.definitions()
    assert {name: set(one["properties"]) for name, one in found.items()} == {
        name: set(examples) for name, examples in REFERENCE.EXAMPLES.items()
    }


def test_no_mapping_of_the_schema_is_left_out() -> None:
    known = {name for name in REFERENCE.schema()["$defs"] if not name.startswith("Partial")}
    assert known | {"Waiver"} == {name for name, _, _ in REFERENCE.SECTIONS}


def test_no_cell_is_empty() -> None:
    rows = re.findall(r"^\| `.*$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 90
    assert [row for row in rows if re.search(r"\|\s*\|", row)] == []


@pytest.mark.parametrize(("name", "key", "text"), EXAMPLES)
def test_an_example_is_taken_as_it_stands(name: str, key: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(text, encoding="utf-8")
    value = strict_yaml.load(file).data
    assert key in value
    validated(name, value)


def validated(name: str, value: dict[str, Any]) -> None:
    if name == "Recipe":
        resolve(value)
    elif name == "Policy":
        Policy.model_validate(without_extends(WHOLE | value), context=WRITTEN)
    elif name == "Build":
        Policy.model_validate(WHOLE | {"build": BUILD | value}, context=WRITTEN)
    elif name == "Judge":
        Judge.model_validate(JUDGE | value, context=WRITTEN)
    elif name == "Waiver":
        Waiver.model_validate(WAIVER | value)
    else:
        MODELS[name].model_validate(value, context=WRITTEN)


def without_extends(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "extends"}
