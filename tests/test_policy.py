import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gate import policy_faults, recipes
from gate.errors import PolicyError
from gate.policy import Budget, Build, ExpectFp32, Policy, scalar_text
from gate.policy_file import LoadedPolicy, digest, load_policy

GOOD = """\
version: 1
model: digits-cnn
task: classification
build:
  recipe: static
  calibration: {path: digits/calibration.npz, limit: 256}
judge:
  held_out: {path: digits/held_out.npz}
  expect_fp32: {accuracy: 0.96, within: 0.02}
  budgets:
    - {metric: accuracy, max_drop: 0.01}
    - {metric: accuracy, max_drop: 0.03, each: target}
"""
EXPECT = "  expect_fp32: {accuracy: 0.96, within: 0.02}\n"
BUDGETS = GOOD[GOOD.index("  budgets:") :]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write files into an empty working folder; the first one's relative path."""
    monkeypatch.chdir(tmp_path)

    def write(files: Mapping[str, str] | str) -> Path:
        named = {"p.yaml": files} if isinstance(files, str) else files
        for name, text in named.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        return Path(next(iter(named)))

    return write


def changed(*replacements: tuple[str, str]) -> str:
    text = GOOD
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def findings(path: Path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    return str(caught.value).splitlines()


# ── what is loaded ────────────────────────────────────────────────────────────────────────


def test_a_good_policy(write: Write) -> None:
    loaded = load_policy(write(GOOD))
    policy = loaded.policy
    assert (policy.model, policy.task, policy.version) == ("digits-cnn", "classification", 1)
    assert policy.build.recipe == recipes.RECIPES["static"]
    assert policy.judge.expect_fp32.metrics == {"accuracy": 0.96}  # type: ignore[union-attr]
    assert [budget.require for budget in policy.judge.budgets] == ["proof", "no_proven_harm"]
    assert loaded.base == Path()
    assert loaded.resolve("digits/held_out.npz") == Path("digits/held_out.npz")
    assert loaded.resolve("/data/x.npz") == Path("/data/x.npz")
    assert loaded.lines == {"accuracy.max_drop": 11, "accuracy.max_drop[each target]": 12}
    assert loaded.budgets_file == loaded.file == Path("p.yaml")


def test_places(write: Write) -> None:
    loaded = load_policy(write(GOOD))
    assert str(loaded.mark("judge", "budgets", 1, "metric")) == "p.yaml:12:16"
    assert str(loaded.key_mark("judge", "held_out")) == "p.yaml:8:3"
    assert str(loaded.mark("judge", "budgets", 1, "slice", "site")) == "p.yaml:12:7"


def test_expect_fp32_may_be_unknown_when_it_is_written_out(write: Write) -> None:
    loaded = load_policy(write(changed((EXPECT, "  expect_fp32: unknown\n"))))
    assert loaded.policy.judge.expect_fp32 == "unknown"


@pytest.mark.parametrize(
    "decode", ["probabilities", "{as: probabilities}", "{as: probabilities, output: null}"]
)
def test_decode_is_a_name_or_a_mapping(write: Write, decode: str) -> None:
    text = changed(("recipe: static", f"recipe: static\n  decode: {decode}"))
    assert load_policy(write(text)).policy.build.decode.name == "probabilities"


def test_a_recipe_may_be_refined(write: Write) -> None:
    refined = "{base: static, activation_type: int8, exclude_op_types: [Softmax]}"
    recipe = load_policy(
        write(changed(("recipe: static", f"recipe: {refined}")))
    ).policy.build.recipe
    assert (recipe.name, recipe.activation_type) == ("static", "int8")
    assert recipe.exclude_op_types == ("Softmax",)


def test_a_record_holds_the_policy_as_it_was_resolved(write: Write) -> None:
    policy = load_policy(write(GOOD)).policy
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert Policy.model_validate(policy.model_dump()) == policy


def test_what_is_not_written_is_the_strict_default(write: Write) -> None:
    judge = load_policy(write(GOOD)).policy.judge
    assert judge.model_dump(exclude={"held_out", "expect_fp32", "budgets"}) == {
        "confidence": 0.95, "decision": "confidence", "stopping": "full", "batch_size": None,
        "anchor": None, "on_inconclusive": "block", "mode": "enforce", "seed": 0,
    }  # fmt: skip
    assert judge.budgets[0].model_dump(exclude_none=True) == {
        "metric": "accuracy", "max_drop": 0.01, "against": "fp32", "require": "proof",
        "min_examples": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "written", "expected"),
    [("static", "null", None), ("dynamic", "null", 1), ("static", "8", 8), ("dynamic", "8", 8)],
)
def test_a_dynamic_recipe_is_judged_one_by_one_unless_told_otherwise(
    write: Write, recipe: str, written: str, expected: int | None
) -> None:
    text = changed(
        ("recipe: static", f"recipe: {recipe}"), ("judge:\n", f"judge:\n  batch_size: {written}\n")
    )
    assert load_policy(write(text)).policy.batch_size == expected


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [("confidence", 0.500001, 0.999999), ("seed", 0, 4294967295), ("batch_size", 1, None)],
)
def test_numbers_reach_to_their_ends(
    write: Write, key: str, least: float, most: float | None
) -> None:
    for value in (least, most):
        if value is not None:
            text = changed(("judge:\n", f"judge:\n  {key}: {value}\n"))
            assert getattr(load_policy(write(text)).policy.judge, key) == value


@pytest.mark.parametrize("line", ["confidence: 0.5", "seed: -1", "batch_size: 0"])
def test_numbers_reach_no_further(write: Write, line: str) -> None:
    (told,) = findings(write(changed(("judge:\n", f"judge:\n  {line}\n"))))
    assert told.startswith(f"p.yaml:8:{5 + line.index(':')}: judge.{line.partition(':')[0]} must")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "accuracy.max_drop"),
        ({"against": "anchor"}, "accuracy.max_drop@anchor"),
        ({"each": "site"}, "accuracy.max_drop[each site]"),
        (
            {
                "slice": {"site": "n", "night": True, "floor": 3.0, "x": 0.5},
                "against": "production",
            },
            "accuracy.max_drop[floor=3,night=true,site=n,x=0.5]@production",
        ),
    ],
)
def test_a_budget_has_a_name_without_its_number(fields: dict[str, Any], name: str) -> None:
    assert Budget.model_validate({"metric": "accuracy", "max_drop": 0.1} | fields).id == name


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (3.0, "3"), (-0.5, "-0.5"), (math.inf, "inf"), ("a", "a"),
     (math.nan, "nan"), (None, "None"), (7, "7")],
)  # fmt: skip
def test_a_value_of_a_column_has_one_text(value: object, text: str) -> None:
    assert scalar_text(value) == text


@pytest.mark.parametrize(
    ("fields", "require"),
    [
        ({}, "proof"),
        ({"require": "no_proven_harm"}, "no_proven_harm"),
        ({"each": "site"}, "no_proven_harm"),
        ({"each": "site", "require": "proof"}, "proof"),
        ({"slice": {"site": "n"}}, "proof"),
    ],
)
def test_what_has_to_be_proven_is_what_is_written(fields: dict[str, Any], require: str) -> None:
    written = {"metric": "accuracy", "max_drop": 0.1} | fields
    assert Budget.model_validate(written).require == require


def test_two_policies_ask_for_the_same_whatever_it_is_shown_on(write: Write) -> None:
    asked = load_policy(write(GOOD)).policy
    shown = {"held_out": {"path": "b.npz"}, "expect_fp32": "unknown", "seed": 3,
             "batch_size": 8, "stopping": "early"}  # fmt: skip
    for key, value in {**shown, "confidence": 0.99, "mode": "observe"}.items():
        judge = asked.judge.model_dump() | {key: value}
        other = Policy.model_validate(asked.model_dump() | {"judge": judge})
        assert (other.demands == asked.demands) == (key in shown), key


def test_numbers_in_exponent_notation(write: Write) -> None:
    loaded = load_policy(write(changed(("max_drop: 0.01", "max_drop: 1e-2"))))
    assert loaded.policy.judge.budgets[0].max_drop == 0.01
    assert loaded.sha256 == load_policy(write(GOOD)).sha256


# ── the hash ──────────────────────────────────────────────────────────────────────────────


def shuffled(value: Any, draw: Any) -> Any:
    if isinstance(value, dict):
        names = draw(st.permutations(list(value)))
        return {name: shuffled(value[name], draw) for name in names}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_hash_knows_no_folder_order_comment_or_style(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    first, second = (tmp_path_factory.mktemp("folder") / "p.yaml" for _ in range(2))
    first.write_text(GOOD)
    again = yaml.safe_dump(
        shuffled(yaml.safe_load(GOOD), data.draw),
        sort_keys=False,
        default_flow_style=data.draw(st.booleans()),
    )
    second.write_text("# a comment\n" + again)
    assert load_policy(first).sha256 == load_policy(second).sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_drop: 0.01", "max_drop: 0.011"),
        ("recipe: static", "recipe: static-signed"),
        ("digits/held_out", "digits/held_in"),
        ("limit: 256", "limit: 255"),
        ("each: target", "each: site"),
    ],
)
def test_the_hash_knows_every_value(write: Write, old: str, new: str) -> None:
    good = load_policy(write(GOOD)).sha256
    assert load_policy(write(changed((old, new)))).sha256 != good


def test_the_hash_is_of_canonical_json(write: Write) -> None:
    policy = load_policy(write(GOOD)).policy
    reworded = policy.build.recipe.model_copy(update={"summary": "in other words"})
    other = policy.model_copy(
        update={"build": policy.build.model_copy(update={"recipe": reworded})}
    )
    assert re.fullmatch("[0-9a-f]{64}", digest(policy))
    assert digest(other) == digest(policy)


def test_defaults_may_be_written_out(write: Write) -> None:
    text = changed(("judge:\n", "judge:\n  confidence: 0.95\n  anchor: null\n  mode: enforce\n"))
    good = load_policy(write(GOOD)).sha256
    assert load_policy(write(text)).sha256 == good


# ── extends ───────────────────────────────────────────────────────────────────────────────


def test_extends_merges_key_by_key(write: Write) -> None:
    over = (
        "extends: base.yaml\nmodel: other\njudge:\n  confidence: 0.9\n  budgets:\n"
        "    - {metric: size, max_ratio: 0.5}\n"
    )
    loaded = load_policy(write({"p.yaml": over, "base.yaml": GOOD}))
    policy = loaded.policy
    assert (policy.model, policy.task, policy.judge.confidence) == ("other", "classification", 0.9)
    assert [budget.metric for budget in policy.judge.budgets] == ["size"]
    assert str(loaded.mark("model")) == "p.yaml:2:8"
    assert str(loaded.mark("task")) == "base.yaml:3:7"
    assert (loaded.lines, loaded.budgets_file) == ({"size.max_ratio": 6}, Path("p.yaml"))


def test_budgets_of_an_extended_file_keep_its_lines(write: Write) -> None:
    loaded = load_policy(write({"p.yaml": "extends: base.yaml\nmodel: m\n", "base.yaml": GOOD}))
    assert loaded.budgets_file == Path("base.yaml")
    assert loaded.lines["accuracy.max_drop"] == 11


def test_null_takes_away_what_the_base_says(write: Write) -> None:
    over = "extends: base.yaml\nbuild: {recipe: dynamic, calibration: null}\n"
    build = load_policy(write({"p.yaml": over, "base.yaml": GOOD})).policy.build
    assert (build.calibration, build.recipe.name) == (None, "dynamic")


def test_a_chain_rebases_paths_and_hashes_as_one_policy(write: Write) -> None:
    files = {
        "p.yaml": "extends: team/shared.yaml\nmodel: digits-cnn\n",
        "team/shared.yaml": "extends: deep/base.yaml\njudge: {held_out: {path: ../held_out.npz}}\n",
        "team/deep/base.yaml": changed(("limit: 256", "limit: 9")).replace(
            "recipe: static", "recipe: static\n  candidate: m.onnx\n  tuning: {path: /data/t.npz}"
        ),
    }
    loaded = load_policy(write(files))
    build, judge = loaded.policy.build, loaded.policy.judge
    assert build.calibration is not None
    assert build.tuning is not None
    assert build.calibration.path == "team/deep/digits/calibration.npz"
    assert build.tuning.path == "/data/t.npz"
    assert build.candidate == "team/deep/m.onnx"
    assert judge.held_out.path == "team/../held_out.npz"
    assert str(loaded.mark("build", "recipe")) == "team/deep/base.yaml:5:11"
    flat = yaml.safe_dump(loaded.written.data)
    assert load_policy(write({"flat.yaml": flat})).sha256 == loaded.sha256


def test_globs_are_rebased_one_by_one(write: Write) -> None:
    base = changed(("recipe: static", "recipe: static\n  code: [train/*.py, 'https://h/a.py']"))
    loaded = load_policy(write({"p.yaml": "extends: b/base.yaml\n", "b/base.yaml": base}))
    assert loaded.policy.build.code == ("b/train/*.py", "https://h/a.py")


def test_uris_are_not_rebased(write: Write) -> None:
    base = changed(("recipe: static", "recipe: static\n  candidate: models:/digits-cnn@champion"))
    loaded = load_policy(write({"p.yaml": "extends: b/base.yaml\n", "b/base.yaml": base}))
    assert loaded.policy.build.candidate == "models:/digits-cnn@champion"


def test_the_base_folder_is_that_of_the_extending_file(write: Write) -> None:
    files = {"policies/p.yaml": "extends: base.yaml\n", "policies/base.yaml": GOOD}
    loaded = load_policy(write(files))
    assert loaded.resolve("digits/x.npz") == Path("policies/digits/x.npz")
    assert str(loaded.mark("task")) == "policies/base.yaml:3:7"


def test_a_cycle_names_the_chain(write: Write) -> None:
    files = {
        "p.yaml": "extends: a.yaml\n",
        "a.yaml": "model: m\nextends: b.yaml\n",
        "b.yaml": "extends: a.yaml\n",
    }
    assert findings(write(files)) == [
        "b.yaml:1:10: `extends` goes in a circle: p.yaml → a.yaml → b.yaml → a.yaml; break it"
    ]
    assert "p.yaml → p.yaml" in findings(write("extends: ./p.yaml\n"))[0]


@pytest.mark.parametrize("name", ["../base.yaml", "a/../../base.yaml", "/etc/passwd", "s3://b/p"])
def test_extends_stays_in_its_folder(write: Write, name: str) -> None:
    (line,) = findings(write({"policies/p.yaml": f"\nextends: {name}\n", "base.yaml": GOOD}))
    assert line.startswith("policies/p.yaml:2:10: `extends: ")
    assert line.endswith(f"{name}'` leaves the folder of this file; name a file in it or below")


def test_extends_follows_no_link_out_of_its_folder(write: Write) -> None:
    path = write({"policies/p.yaml": "extends: sub/base.yaml\n", "outside/base.yaml": GOOD})
    Path("policies/sub").symlink_to("../outside")
    (line,) = findings(path)
    assert line.startswith("policies/p.yaml:1:10: `extends: 'sub/base.yaml'` is a link that leaves")


def test_a_loop_of_links_is_an_error_at_extends(write: Write) -> None:
    path = write("extends: loop.yaml\n")
    Path("loop.yaml").symlink_to("loop.yaml")
    assert findings(path)[0].startswith("p.yaml:1:10: ")


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ("none.yaml", "none.yaml cannot be read: No such file"),
        ("[base.yaml]", "`extends` is the name of one file"),
        ("3", "`extends` is the name of one file"),
        ("null", "`extends` is the name of one file"),
        ('""', "`extends` is the name of one file"),
        (".", "is not a file"),
    ],
)
def test_extends_names_one_readable_file(write: Write, value: str, fragment: str) -> None:
    (line,) = findings(write(f"model: m\nextends: {value}\n"))
    assert line.startswith("p.yaml:2:10: ")
    assert fragment in line


def test_an_error_points_at_the_file_that_wrote_it(write: Write) -> None:
    base = changed(("max_drop: 0.01", "max_drop: 1%"))
    path = write({"p.yaml": "extends: base.yaml\nmodle: m\n", "base.yaml": base})
    assert findings(path) == [
        "p.yaml:2:1: unknown key 'modle'; did you mean 'model'? "
        "Known: extends, version, model, task, build, judge",
        "base.yaml:11:36: judge.budgets[0].max_drop must be a number, not '1%'; write 0.01",
    ]


def test_a_yaml_error_in_an_extended_file_is_at_its_place(write: Write) -> None:
    path = write({"p.yaml": "extends: b.yaml\n", "b.yaml": "model: m\nmodel: n\n"})
    assert findings(path) == ["b.yaml:2:1: duplicate key 'model', first on line 1; keep one"]


# ── what is wrong, and where ──────────────────────────────────────────────────────────────

STATIC, DROP, EACH = "recipe: static", "max_drop: 0.01", "max_drop: 0.03"

ONE_FINDING = [
    ("build:", "bulid:", "4:1: unknown key 'bulid'; did you mean 'build'? Known: extends, version"),
    ("version: 1", "version: 2", "1:10: version must be 1, not 2"),
    ("version: 1", "version: true", "1:10: version must be 1, not True"),
    ("version: 1", 'version: "1"', "1:10: version must be 1, not '1'"),
    ("version: 1\n", "", "1:1: version is missing; add e.g. `version: 1`"),
    ("digits-cnn", "-x", "2:8: model must be letters, digits, `.`, `_` and `-`"),
    ("digits-cnn", "a" * 101, "2:8: model must be at most 100 characters"),
    ("digits-cnn", "12", '2:8: model must be text, not 12; write "12", in quotes'),
    (
        STATIC,
        "recipe: statc",
        "5:11: unknown recipe 'statc'; did you mean 'static'? Known: dynamic",
    ),
    (STATIC, "recipe: zzz", "5:11: unknown recipe 'zzz'. Known: dynamic, smoothquant, static"),
    (STATIC, "recipe: {base: statc}", "5:18: unknown recipe 'statc'; did you mean 'static'?"),
    (STATIC, "recipe: {base: 3}", "5:18: unknown recipe 3. Known: dynamic"),
    (STATIC, "recipe: {}", "5:11: a recipe mapping needs `base`"),
    (
        STATIC,
        "recipe: {base: static, per_chanel: false}",
        "5:26: unknown recipe key 'per_chanel'; did you mean 'per_channel'? Known: activation_type",
    ),
    (
        STATIC,
        "recipe: {base: static, per_channel: 'no'}",
        "5:39: build.recipe.per_channel must be true or false, not 'no'",
    ),
    (
        STATIC,
        "recipe: {base: static, exclude_nodes: a}",
        "5:41: build.recipe.exclude_nodes must be a list",
    ),
    (STATIC, "recipe: {base: static, scheme: dynamic}", "5:26: unknown recipe key 'scheme'"),
    (STATIC, "recipe: {name: static, scheme: static}", "5:11: a recipe mapping needs `base`"),
    (STATIC, "recipe: 3", "5:11: build.recipe must be a recipe's name, or a mapping with `base`"),
    (STATIC, "recipe: static\n  decode: 3", "6:11: build.decode must be a decoder's name"),
    (STATIC, "recipe: static\n  decode: {}", "6:11: build.decode.as is missing; add e.g. `as: lo"),
    (STATIC, "recipe: static\n  decode: {name: x}", "6:12: unknown key 'name'. Known: as, output"),
    (STATIC, "recipe: static\n  classes: [a, 1]", "6:16: build.classes[1] must be text, not 1; w"),
    (STATIC, "recipe: static\n  code: ['']", "6:10: build.code[0]: String should have at least 1 "),
    (
        STATIC,
        "recipe: static\n  preprocess: {resize: {sise: 3}}",
        "6:25: build.preprocess.resize: unknown key 'sise'; did you mean 'size'? Known: interpol",
    ),
    (
        STATIC,
        "recipe: static\n  preprocess: {letterbox: {size: [8, 8], fil: 0}}",
        "6:42: build.preprocess.letterbox: unknown key 'fil'; did you mean 'fill'? Known: inter",
    ),
    (STATIC, "recipe: static\n  preprocess: {std: 0}", "6:21: build.preprocess.std must be a list"),
    (
        STATIC,
        "recipe: static\n  preprocess: {std: [1, 0.0]}",
        "6:25: build.preprocess.std[1] must be more than 0, not 0.0",
    ),
    (
        "  calibration: {path: digits/calibration.npz, limit: 256}\n",
        "",
        "5:3: recipe 'static' takes activation ranges from data: add `calibration: {path: …}`",
    ),
    ("limit: 256", "limit: 0", "6:54: build.calibration.limit must be more than 0, not 0"),
    ("limit: 256", "limit: 2.5", "6:54: build.calibration.limit must be a whole number, not 2.5"),
    ("limit: 256", "limit: true", "6:54: build.calibration.limit must be a whole number, not true"),
    (
        "limit: 256",
        "limit: '9'",
        "6:54: build.calibration.limit must be a whole number, not '9'; write 9, without quotes",
    ),
    ("limit: 256", "sha256: ABC", "6:55: build.calibration.sha256 must be 64 hexadecimal digits"),
    ("path: digits/held_out.npz", "limit: 1", "8:13: judge.held_out.path is missing; add e.g. `pa"),
    ("{path: digits/held_out.npz}", "x.npz", "8:13: judge.held_out must be a mapping, {path: dig"),
    ("{path: digits/held_out.npz}", "null", "8:13: judge.held_out must be a mapping, {path: digi"),
    ("digits/held_out.npz", "ftp://b/x.npz", "8:20: 'ftp://b/x.npz' is a URI of a kind that data"),
    ("digits/held_out.npz", "file://x.npz", "8:20: 'file://x.npz' is no whole URI; write `file://"),
    ("digits/held_out.npz", "https://h/a/", "8:20: 'https://h/a/' is a folder, and https has no l"),
    ("digits/held_out.npz", "s3://a::b", "8:20: 's3://a::b' holds '::', which no path of data doe"),
    ("digits/held_out.npz", "''", "8:20: judge.held_out.path is empty; write a file's path"),
    (
        STATIC,
        "recipe: static\n  candidate: s3://m",
        "6:14: 's3://m' is a URI of a kind that is not",
    ),
    (STATIC, "recipe: static\n  candidate: ''", "6:14: build.candidate is empty; write a path or"),
    (EXPECT, "  expect_fp32: unkown\n", "9:16: judge.expect_fp32 must be a mapping such as {accu"),
    (EXPECT, "  expect_fp32: null\n", "9:16: judge.expect_fp32 must be a mapping such as {accura"),
    (EXPECT, "  expect_fp32: {within: 1}\n", "9:16: name at least one metric with its FP32 value"),
    ("0.96, within: 0.02", "0.96", "9:16: judge.expect_fp32.within is missing; add e.g. `within:"),
    ("0.96,", "96%,", "9:27: judge.expect_fp32.accuracy must be a number, not '96%'; write 0.96"),
    ("within: 0.02", "within: -1", "9:41: judge.expect_fp32.within must be 0 or more, not -1"),
    (
        "{accuracy: 0.96,",
        "{metrics: {accuracy: 0.96},",
        "9:26: judge.expect_fp32.metrics must be a number, not a mapping",
    ),
    (BUDGETS, "  budgets: []\n", "10:12: judge.budgets must be a list of at least one budget"),
    (BUDGETS, "  budgets: {a: 1}\n", "10:12: judge.budgets must be a list, [a, b], not a mapping"),
    (BUDGETS, "  budgets: [x]\n", "10:13: judge.budgets[0] must be a mapping, {key: value}, not"),
    (
        DROP,
        "max_drop: 1%",
        "11:36: judge.budgets[0].max_drop must be a number, not '1%'; write 0.01",
    ),
    (DROP, "max_drop: 0.5 %", "11:36: judge.budgets[0].max_drop must be a number, not '0.5 %'; w"),
    (DROP, "max_drop: '0.01'", "11:36: judge.budgets[0].max_drop must be a number, not '0.01'; w"),
    (DROP, "max_drop: -0.1", "11:36: judge.budgets[0].max_drop must be 0 or more, not -0.1"),
    (DROP, "max_relative_drop: 1.5", "11:45: judge.budgets[0].max_relative_drop must be less tha"),
    (DROP, "max_relative_drop: 0", "11:45: judge.budgets[0].max_relative_drop must be more than 0"),
    (DROP, "max_ratio: 0", "11:37: judge.budgets[0].max_ratio must be more than 0, not 0"),
    (DROP, "max_dropp: 0.01", "11:26: judge.budgets[0]: unknown key 'max_dropp'; did you mean 'm"),
    (DROP, "max_drop: 0.01, at_least: 0.9", "11:7: give exactly one of max_drop, max_relative_dr"),
    (DROP, "slice: {a: b}", "11:7: give exactly one of max_drop, max_relative_drop, at_least"),
    (DROP, "max_drop: 0.01, slice: {}", "11:7: `slice` names no column; write e.g. {column: val"),
    (EACH, "max_drop: 0.03, slice: {a: b}", "12:7: give `slice` or `each`, not both"),
    (DROP, "max_drop: 0.01, slice: {a: [1]}", "11:53: judge.budgets[0].slice.a must be text, a "),
    (DROP, "max_drop: 0.01, slice: x", "11:49: judge.budgets[0].slice must be a mapping"),
    (DROP, "max_drop: 0.01, each: target", "12:7: two budgets are 'accuracy.max_drop[each targe"),
    (DROP, "max_drop: 0.01, require: prof", "11:51: judge.budgets[0].require must be 'proof' or "),
    (DROP, "max_drop: 0.01, min_examples: 0", "11:56: judge.budgets[0].min_examples must be 1 or"),
    ("metric: accuracy, max_drop: 0.01", DROP, "11:7: judge.budgets[0].metric is missing; add e."),
    ("judge:\n", "judge:\n  confidence: 95%\n", "8:15: judge.confidence must be a number, not '95"),
    (
        "judge:\n",
        "judge:\n  confidence: 1\n",
        "8:15: judge.confidence must be 0.999999 or less, not 1",
    ),
    ("judge:\n", "judge:\n  mode: observ\n", "8:9: judge.mode must be 'enforce' or 'observe', not"),
    ("judge:\n", "judge:\n  seed: 4294967296\n", "8:9: judge.seed must be less than"),
    (
        "judge:\n",
        'judge:\n  ? "a\\nb"\n  : 1\n',
        "8:5: judge: unknown key 'a\\nb'. Known: held_out",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), ONE_FINDING)
def test_one_finding(write: Write, old: str, new: str, expected: str) -> None:
    (line,) = findings(write(changed((old, new))))
    assert line.startswith(f"p.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("limit: 256", "limit: 0", "6:54: build.calibration.limit must be more than 0, not 0"),
        (
            "limit: 256",
            "limit: few",
            "6:54: build.calibration.limit must be a whole number, not 'few'",
        ),
        (
            "limit: 256",
            "limit: '2'",
            "6:54: build.calibration.limit must be a whole number, not '2'; "
            "write 2, without quotes",
        ),
        (
            DROP,
            "max_drop: [1]",
            "11:36: judge.budgets[0].max_drop must be a number, not a list",
        ),
        (
            DROP,
            "max_drop: 0.01, slice: {a: [1]}",
            "11:53: judge.budgets[0].slice.a must be text, a number, true or false, not a list",
        ),
    ],
)
def test_a_finding_ends_where_there_is_no_more_to_say(
    write: Write, old: str, new: str, line: str
) -> None:
    assert findings(write(changed((old, new)))) == [f"p.yaml:{line}"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1}, "a mapping"),
        ([1], "a list"),
        ((1,), "a list"),
        ([], "an empty list"),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        ("x", "'x'"),
        ("x" * 58, f"'{'x' * 58}'"),
        ("x" * 59, f"'{'x' * 58}…"),
        ("x" * 900, f"'{'x' * 58}…"),
    ],
)
def test_a_value_is_shown_as_it_was_written_and_fits_a_line(value: object, text: str) -> None:
    assert policy_faults.shown(value) == text
    assert len(text) <= 60


def models(annotation: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All the models that a type holds, and the keys that lead to them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield at, annotation
        for name, field in annotation.model_fields.items():
            yield from models(field.annotation, (*at, name))
    for inner in get_args(annotation):
        yield from models(inner, at)


def test_the_keys_of_every_mapping_are_known() -> None:
    """But for those that are no keys of a policy: a recipe has its own, and metrics have names."""
    expected = dict(models(Policy))
    assert expected.pop(("build", "recipe")) is recipes.Recipe
    assert expected.pop(("judge", "expect_fp32")) is ExpectFp32
    assert expected == policy_faults._MODELS


def test_expect_fp32_missing_says_why_it_is_required(write: Write) -> None:
    (line,) = findings(write(changed((EXPECT, ""))))
    assert line.startswith(
        "p.yaml:8:3: judge.expect_fp32 is missing: two models that are fed wrong"
    )
    assert "wrong preprocessing passes any drop budget" in line
    assert "`expect_fp32: {accuracy: 0.96, within: 0.02}`" in line
    assert "or write `expect_fp32: unknown`" in line


def test_all_findings_come_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = changed(
        ("version: 1", "version: 2"),
        ("limit: 256", "limit: none, foo: 1"),
        (EXPECT, ""),
        ("max_drop: 0.01", "max_drop: 1%"),
        ("each: target", "each: 3"),
    )
    places = [line.split(": ")[0] for line in findings(write(text))]
    assert places == [
        "p.yaml:1:10", "p.yaml:6:54", "p.yaml:6:60", "p.yaml:8:3", "p.yaml:10:36", "p.yaml:11:48",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["- 1\n", "hello\n", "3\n", "null\n"])
def test_a_policy_is_a_mapping(write: Write, text: str) -> None:
    assert findings(write(text)) == [
        "p.yaml:1:1: a policy is `key: value` pairs, and this is not; begin with `version: 1`"
    ]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (GOOD + "model: other\n", "p.yaml:13:1: duplicate key 'model', first on line 2"),
        (GOOD.replace("  recipe", "\trecipe"), "p.yaml:5:1: a tab"),
        (GOOD + "x: &a [1]\n", "p.yaml:13:4: anchor 'a' is refused"),
        (GOOD + "#" * 10_000_000, "p.yaml:1:1: p.yaml is over 1,000,000 bytes"),
        ("", "p.yaml:1:1: the file is empty"),
    ],
)
def test_yaml_that_is_not_strict(write: Write, text: str, fragment: str) -> None:
    assert findings(write(text))[0].startswith(fragment)


def test_a_missing_file(write: Write) -> None:
    assert findings(Path("none.yaml"))[0].startswith("none.yaml:1:1: none.yaml cannot be read")


def test_the_error_keeps_its_first_mark(write: Write) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(write(changed(("version: 1", "version: 2"), ("task:", "tsk:"))))
    assert str(caught.value.mark) == "p.yaml:1:10"
    assert caught.value.exit_code == 2


VALUES = st.sampled_from(
    ["1", "0.5", "-1", "x", "''", "null", "true", "[]", "[1]", "{}", "{a: 1}", "[{metric: a}]",
     "unknown", "{base: static}", "{metrics: {}}", "{path: x, format: 1}", "1%", "[[]]",
     "{name: 1}"]
)  # fmt: skip
KEYS = st.sampled_from(
    ["version", "model", "task", "build", "judge", "recipe", "held_out", "expect_fp32", "budgets",
     "decode", "classes", "preprocess", "calibration", "limit", "path", "max_drop", "slice", "each",
     "metric", "within", "confidence", "anchor", "candidate", "extends", "name", "as"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 11), KEYS, VALUES, st.booleans())
def test_any_line_put_anywhere_loads_or_is_refused_at_a_place(
    tmp_path_factory: pytest.TempPathFactory, at: int, key: str, value: str, replace: bool
) -> None:
    lines = GOOD.splitlines()
    indent = " " * (len(lines[at]) - len(lines[at].lstrip(" -")))
    lines[at : at + replace] = [f"{indent}{key}: {value}"]
    assert loads_or_says_where(tmp_path_factory.mktemp("any"), "\n".join(lines))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_loads_or_is_refused_at_a_place(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    assert loads_or_says_where(tmp_path_factory.mktemp("any"), text)


def loads_or_says_where(folder: Path, text: str) -> bool:
    file = folder / "p.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return isinstance(load_policy(file), LoadedPolicy)
    except PolicyError as error:
        place = re.escape(os.fspath(folder)) + r"[^:]*:\d+:\d+: \S"
        return all(re.match(place, line) for line in str(error).splitlines())


# ── other callers ─────────────────────────────────────────────────────────────────────────


def test_the_python_api_takes_lists_and_names() -> None:
    build = Build.model_validate(
        {"recipe": {"base": "dynamic", "exclude_nodes": ["a"]}, "decode": "probabilities"}
    )
    assert build.recipe.exclude_nodes == ("a",)
    assert json.loads(build.model_dump_json())["decode"] == {"as": "probabilities", "output": None}
