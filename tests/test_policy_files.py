"""Files that a policy names under `build`: found, pinned when it is read, and told apart."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gate.artifact import sha256_of
from gate.commands.schema import schema
from gate.errors import PolicyError
from gate.policy import Policy
from gate.policy_file import load_policy

GOOD = """\
version: 1
model: m
task: classification
build:
  recipe: dynamic
  preprocess:
    tokenizer: {file: tokenizer.json, max_length: 8}
    graph: before.onnx
  decode: {as: logits, graph: {file: after.onnx}}
judge:
  held_out: {path: held_out.npz}
  expect_fp32: unknown
  budgets: [{metric: accuracy, max_drop: 0.01}]
"""
PLACES = {"tokenizer.json": "7:23", "before.onnx": "8:12", "after.onnx": "9:38"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(GOOD)
    for name in PLACES:
        Path(name).write_text(f"this is {name}")


def pins(policy: Policy) -> dict[str, str | None]:
    before, decode = policy.build.preprocess, policy.build.decode
    assert before is not None
    named = [before.tokenizer, before.graph, decode.graph]
    return {one.file: one.sha256 for one in named if one is not None and one.file is not None}


def test_what_is_not_pinned_is_pinned_as_it_is() -> None:
    assert pins(load_policy("p.yaml").policy) == {name: sha256_of(Path(name)) for name in PLACES}


@pytest.mark.parametrize("name", PLACES)
def test_another_content_is_another_policy(name: str) -> None:
    before = load_policy("p.yaml")
    Path(name).write_text("other")
    after = load_policy("p.yaml")
    assert before.sha256 != after.sha256
    assert pins(after.policy)[name] == sha256_of(Path(name))


def test_a_pin_that_is_written_is_kept_and_needs_no_file() -> None:
    Path("after.onnx").unlink()
    Path("p.yaml").write_text(GOOD.replace("after.onnx}", f"after.onnx, sha256: {'a' * 64}}}"))
    assert pins(load_policy("p.yaml").policy)["after.onnx"] == "a" * 64


def test_what_a_record_holds_is_read_again() -> None:
    policy = load_policy("p.yaml").policy
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_a_missing_file_is_told_at_its_word(name: str, place: str) -> None:
    Path(name).unlink()
    with pytest.raises(PolicyError) as raised:
        load_policy("p.yaml")
    assert str(raised.value).startswith(f"p.yaml:{place}: cannot read {name}: No such file")


def test_all_missing_files_are_told_at_once() -> None:
    for name in PLACES:
        Path(name).unlink()
    with pytest.raises(PolicyError) as raised:
        load_policy("p.yaml")
    assert [line.split()[0] for line in str(raised.value).splitlines()] == [
        f"p.yaml:{place}:" for place in PLACES.values()
    ]


def test_paths_of_an_extended_file_are_relative_to_that() -> None:
    Path("team").mkdir()
    Path("p.yaml").rename("team/base.yaml")
    for name in PLACES:
        Path(name).rename(f"team/{name}")
    Path("p.yaml").write_text("extends: team/base.yaml\n")
    found = pins(load_policy("p.yaml").policy)
    assert found == {f"team/{name}": sha256_of(Path("team", name)) for name in PLACES}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph: before.onnx", "graph: 3", "p.yaml:8:12: build.preprocess.graph must be an ONNX f"),
        (
            "graph: before.onnx",
            "graph: {fil: b}",
            "p.yaml:8:13: build.preprocess.graph: unknown key 'fil'; did",
        ),
        ("graph: {file: after.onnx}", "graph: {}", "p.yaml:9:31: build.decode.graph.file is missi"),
    ],
)
def test_what_is_no_graph(old: str, new: str, message: str) -> None:
    Path("p.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(PolicyError) as raised:
        load_policy("p.yaml")
    assert message in str(raised.value)


def test_the_schema_knows_both_forms() -> None:
    written = yaml.safe_load(GOOD)
    jsonschema.validate(written, schema())
    json.dumps(schema())
    written["build"]["preprocess"]["graph"] = {"name": "x"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema())
