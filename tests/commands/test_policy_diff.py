"""`gate policy diff`: what lets more through, budget by budget and key by key."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.clone import Clone

from gate.cli import exit_code_of
from gate.commands import _policy_effects as effects
from gate.commands.policy_diff import Difference, policy_diff
from gate.errors import PolicyError, UsageError
from gate.policy import Budget, Judge
from gate.sources import DataSource

SPEC: dict[str, Any] = {
    "version": 1,
    "model": "m",
    "task": "classification",
    "build": {"recipe": "dynamic"},
    "judge": {
        "held_out": {"path": "held_out.npz"},
        "expect_fp32": {"accuracy": 0.96, "within": 0.02},
        "budgets": [
            {"metric": "accuracy", "max_drop": 0.01},
            {"metric": "accuracy", "max_drop": 0.03, "each": "site", "min_examples": 50},
            {"metric": "accuracy", "at_least": 0.9, "slice": {"night": True}},
            {"metric": "size", "max_ratio": 0.5},
        ],
    },
}
HARM = "accuracy.max_drop[each site]"
NIGHT = "accuracy.at_least[night=true]"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, spec: dict[str, Any]) -> str:
    Path(name).write_text(yaml.safe_dump(spec))
    return name


def diff(before: dict[str, Any], after: dict[str, Any]) -> Difference:
    return policy_diff(write("a.yaml", before), write("b.yaml", after))


def judged(**keys: Any) -> dict[str, Any]:
    """The policy with other keys of `judge`; None takes one away."""
    spec = copy.deepcopy(SPEC)
    spec["judge"] |= keys
    spec["judge"] = {key: value for key, value in spec["judge"].items() if value is not None}
    return spec


def budget(index: int, **keys: Any) -> dict[str, Any]:
    """The policy with another budget; None takes a key away."""
    spec = copy.deepcopy(SPEC)
    merged = spec["judge"]["budgets"][index] | keys
    spec["judge"]["budgets"][index] = {k: v for k, v in merged.items() if v is not None}
    return spec


def only(found: Difference) -> tuple[str, str]:
    (change,) = found.changes
    return change.what, change.effect


def test_the_same_is_the_same() -> None:
    found = diff(SPEC, copy.deepcopy(SPEC))
    assert (found.changes, found.build, found.exit_code) == ((), (), 0)


# ── budgets ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("index", "stricter", "looser", "what"),
    [
        (0, {"max_drop": 0.005}, {"max_drop": 0.011}, "accuracy.max_drop max_drop"),
        (1, {"max_drop": 0.02}, {"max_drop": 0.04}, f"{HARM} max_drop"),
        (1, {"min_examples": 10}, {"min_examples": 500}, f"{HARM} min_examples"),
        (2, {"at_least": 0.95}, {"at_least": 0.5}, f"{NIGHT} at_least"),
        (3, {"max_ratio": 0.3}, {"max_ratio": 0.9}, "size.max_ratio max_ratio"),
    ],
)
def test_a_limit_is_stricter_one_way_and_looser_the_other(
    index: int, stricter: dict[str, Any], looser: dict[str, Any], what: str
) -> None:
    for keys, effect, code in ((stricter, "stricter", 0), (looser, "looser", 1)):
        found = diff(SPEC, budget(index, **keys))
        assert only(found) == (what, effect)
        assert found.exit_code == code
        assert only(diff(budget(index, **keys), SPEC))[1] != effect


def test_proof_is_stricter_than_no_proven_harm() -> None:
    assert only(diff(SPEC, budget(1, require="proof"))) == (f"{HARM} require", "stricter")
    found = diff(SPEC, budget(0, require="no_proven_harm"))
    assert only(found) == ("accuracy.max_drop require", "looser")


@pytest.mark.parametrize(
    ("threshold", "better", "worse"),
    [("max_relative_drop", 0.01, 0.2), ("at_most", 0.01, 0.2), ("max_drop", 0.0, 0.2)],
)
def test_every_kind_of_limit_has_its_direction(threshold: str, better: float, worse: float) -> None:
    one = judged(budgets=[{"metric": "prediction_flips", threshold: 0.05}])
    for limit, effect in ((better, "stricter"), (worse, "looser")):
        other = judged(budgets=[{"metric": "prediction_flips", threshold: limit}])
        assert only(diff(one, other))[1] == effect


@pytest.mark.parametrize(
    "keys",
    [{"metric": "f1"}, {"slice": {"site": "north"}}, {"each": "site2"}, {"against": "production"},
     {"max_drop": None, "max_relative_drop": 0.0001}],
)  # fmt: skip
def test_another_budget_in_its_place_is_one_removed(keys: dict[str, Any]) -> None:
    found = diff(SPEC, budget(0, **keys))
    assert sorted(change.effect for change in found.changes) == ["added", "removed"]
    assert found.changes[0].effect == "removed"
    assert found.exit_code == 1


def test_one_more_budget_is_stricter_and_one_less_looser() -> None:
    less = judged(budgets=SPEC["judge"]["budgets"][:-1])
    assert only(diff(SPEC, less)) == ("size.max_ratio", "removed")
    assert only(diff(less, SPEC)) == ("size.max_ratio", "added")
    assert (diff(SPEC, less).exit_code, diff(less, SPEC).exit_code) == (1, 0)


def test_the_order_of_budgets_is_nothing() -> None:
    assert diff(SPEC, judged(budgets=SPEC["judge"]["budgets"][::-1])).changes == ()


# ── keys ──────────────────────────────────────────────────────────────────────────────────

PROOF = [{"metric": "accuracy", "max_drop": 0.01}]
PIN = {"path": "held_out.npz", "sha256": "0" * 64}
OTHER_PIN = {"path": "other.npz", "sha256": "1" * 64}


@pytest.mark.parametrize(
    ("before", "after", "what", "effect"),
    [
        ({"mode": "observe"}, {}, "mode", "stricter"),
        ({}, {"mode": "observe"}, "mode", "looser"),
        ({}, {"on_inconclusive": "warn"}, "on_inconclusive", "looser"),
        ({"on_inconclusive": "warn"}, {}, "on_inconclusive", "stricter"),
        ({}, {"seed": 1}, "seed", "looser"),
        ({}, {"batch_size": 64}, "batch_size", "looser"),
        ({}, {"stopping": "early"}, "stopping", "looser"),
        ({"stopping": "early"}, {}, "stopping", "stricter"),
        ({}, {"decision": "point"}, "decision", "looser"),
        ({"decision": "point"}, {}, "decision", "looser"),
        ({}, {"confidence": 0.9}, "confidence", "looser"),
        ({}, {"confidence": 0.99}, "confidence", "looser"),
        ({}, {"anchor": "models:/m-int8/1"}, "anchor", "neutral"),
        ({"anchor": "models:/m-int8/1"}, {"anchor": "models:/m-int8/2"}, "anchor", "looser"),
        ({"anchor": "models:/m-int8/1"}, {}, "anchor", "looser"),
        ({"expect_fp32": "unknown"}, {}, "expect_fp32", "stricter"),
        ({}, {"expect_fp32": "unknown"}, "expect_fp32", "looser"),
        ({}, {"expect_fp32": {"accuracy": 0.96, "within": 0.5}}, "expect_fp32.within", "looser"),
        ({}, {"expect_fp32": {"accuracy": 0.96, "within": 0.01}}, "expect_fp32.within", "stricter"),
        ({}, {"expect_fp32": {"accuracy": 0.5, "within": 0.02}}, "expect_fp32.accuracy", "looser"),
        ({}, {"expect_fp32": {"accuracy": 0.96, "f1": 0.9, "within": 0.02}}, "expect_fp32.f1",
         "added"),
        ({"expect_fp32": {"accuracy": 0.96, "f1": 0.9, "within": 0.02}}, {}, "expect_fp32.f1",
         "removed"),
        ({}, {"held_out": PIN}, "held_out.sha256", "stricter"),
        ({"held_out": PIN}, {}, "held_out.sha256", "looser"),
        ({"held_out": PIN}, {"held_out": PIN | {"path": "moved.npz"}}, "held_out.path", "neutral"),
        ({}, {"held_out": {"path": "easy.npz"}}, "held_out.path", "looser"),
        ({}, {"held_out": {"path": "held_out.npz", "limit": 10}}, "held_out.limit", "looser"),
        ({"held_out": {"path": "held_out.npz", "limit": 10}}, {}, "held_out.limit", "stricter"),
        ({"held_out": {"path": "held_out.npz", "limit": 10}},
         {"held_out": {"path": "held_out.npz", "limit": 20}}, "held_out.limit", "stricter"),
        ({}, {"held_out": {"path": "held_out.npz", "may_miss": 3}}, "held_out.may_miss", "looser"),
        ({"held_out": {"path": "held_out.npz", "may_miss": 3}}, {}, "held_out.may_miss",
         "stricter"),
        ({}, {"held_out": {"path": "held_out.npz", "format": "npz"}}, "held_out.format", "looser"),
    ],
)  # fmt: skip
def test_every_key_has_its_effect(
    before: dict[str, Any], after: dict[str, Any], what: str, effect: str
) -> None:
    found = diff(judged(**before), judged(**after))
    assert only(found) == (f"judge.{what}", effect)
    assert found.exit_code == (1 if effect in ("looser", "removed") else 0)


def test_other_pinned_data_are_looser() -> None:
    found = diff(judged(held_out=PIN), judged(held_out=OTHER_PIN))
    assert [change.effect for change in found.changes] == ["looser", "looser"]


@pytest.mark.parametrize(("key", "now"), [("confidence", 0.99), ("decision", "confidence")])
def test_more_doubt_is_stricter_where_everything_needs_proof(key: str, now: object) -> None:
    before = judged(budgets=PROOF, **({"decision": "point"} if key == "decision" else {}))
    found = diff(before, judged(budgets=PROOF, **{key: now}))
    assert only(found) == (f"judge.{key}", "stricter")


@pytest.mark.parametrize("key", ["model", "task"])
def test_another_subject_is_looser(key: str) -> None:
    spec = SPEC | {key: "other"}
    assert only(diff(SPEC, spec)) == (key, "looser")


def test_no_word_of_judge_is_without_its_effect() -> None:
    here = {"budgets", "held_out", "expect_fp32"}
    assert effects._OF_KEY.keys() | here == set(Judge.model_fields)
    of_id = {"metric", "each", "against"}
    assert effects._OF_BUDGET.keys() | of_id == set(Budget.model_fields)
    assert effects._OF_SOURCE.keys() == set(DataSource.model_fields)


def test_what_nobody_knows_counts_as_looser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "_OF_KEY", {})
    monkeypatch.setattr(effects, "_OF_BUDGET", {})
    monkeypatch.setattr(effects, "_OF_SOURCE", {})
    assert only(diff(judged(mode="observe"), SPEC))[1] == "looser"
    assert only(diff(SPEC, budget(0, max_drop=0.001)))[1] == "looser"
    assert only(diff(SPEC, judged(held_out=PIN)))[1] == "looser"


def test_paths_are_the_same_place_from_another_folder() -> None:
    Path("sub").mkdir()
    spec = judged(held_out={"path": "../held_out.npz"})
    found = policy_diff(write("a.yaml", SPEC), write("sub/b.yaml", spec))
    assert found.changes == ()
    assert diff(SPEC, judged(held_out={"path": "./sub/../held_out.npz"})).changes == ()


def test_the_build_is_told_and_does_not_count() -> None:
    spec = copy.deepcopy(SPEC)
    spec["build"] |= {"decode": "probabilities"}
    found = diff(SPEC, spec)
    assert found.build == ("decode.as: logits → probabilities",)
    assert (found.changes, found.exit_code) == ((), 0)


# ── the command ───────────────────────────────────────────────────────────────────────────


def command(*arguments: str) -> int:
    return exit_code_of(["policy", "diff", *arguments])


def test_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    after = budget(0, max_drop=0.05)
    after["judge"]["mode"] = "observe"
    after["judge"]["budgets"][3]["max_ratio"] = 0.4
    names = write("a.yaml", SPEC), write("b.yaml", after)
    assert command(*names) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "b.yaml against a.yaml: it lets more through (2 looser, 1 stricter)."
    assert lines[1].split()[:3] == ["LOOSER", "accuracy.max_drop", "max_drop:"]
    assert lines[3].split()[0] == "stricter"
    assert command(*names, "--format", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["looser"] is True
    assert {change["what"] for change in told["changes"] if change["looser"]} == {
        "accuracy.max_drop max_drop",
        "judge.mode",
    }
    assert command(names[0], names[0]) == 0
    assert "asks for the same" in capsys.readouterr().out


def test_hostile_words_are_shown_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = "::error::$(touch pwned)</script>✓" + "x" * 300
    command(write("a.yaml", SPEC), write("b.yaml", judged(held_out={"path": path})))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 2
    assert "::error::" not in shown


@pytest.mark.parametrize("names", [("gone.yaml", "a.yaml"), ("a.yaml", "gone.yaml")])
def test_a_policy_that_is_not_there_is_bad_usage(names: tuple[str, str]) -> None:
    write("a.yaml", SPEC)
    assert command(*names) == 2
    assert command("a.yaml") == 2


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_a_revision_is_read_with_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    Path("policies").mkdir()
    write("policies/m.yaml", SPEC)
    clone.branch()
    write("policies/m.yaml", budget(0, max_drop=0.5))
    assert only(policy_diff("main:policies/m.yaml", "policies/m.yaml"))[1] == "looser"
    assert only(policy_diff("policies/m.yaml", "main:policies/m.yaml"))[1] == "stricter"
    clone.commit()
    assert policy_diff("main:policies/m.yaml", "HEAD:policies/m.yaml").exit_code == 1
    monkeypatch.chdir(clone.folder / "policies")
    assert policy_diff("main:./m.yaml", "main:policies/m.yaml").changes == ()


@needs_git
def test_no_file_stands_in_for_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    write("m.yaml", SPEC)
    clone.branch()
    looser = budget(0, max_drop=0.5)
    write("m.yaml", looser)
    write("main:m.yaml", looser)
    assert policy_diff("main:m.yaml", "m.yaml").exit_code == 1
    assert policy_diff("./main:m.yaml", "m.yaml").exit_code == 0


@needs_git
@pytest.mark.parametrize(
    "name", ["nowhere:m.yaml", "--upload-pack=x:m.yaml", ":m.yaml", "main:", "main:/etc/passwd"]
)
def test_no_such_revision_is_bad_usage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = Clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    write("m.yaml", SPEC)
    clone.branch()
    with pytest.raises(UsageError):
        policy_diff(name, "m.yaml")
    with pytest.raises(PolicyError, match=r"main has no file gone\.yaml"):
        policy_diff("main:gone.yaml", "m.yaml")
    assert command("--", name, "m.yaml") == 2


# ── against a base ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """`policies/a.yaml` and `b.yaml` on `main`, and a branch to change them on."""
    made = Clone(tmp_path / "clone")
    (made.folder / "policies").mkdir()
    for name in ("a", "b"):
        write(str(made.folder / "policies" / f"{name}.yaml"), SPEC | {"model": name})
    made.branch()
    return made


def at_base(clone: Clone, *arguments: str) -> int:
    pattern = str(clone.folder / "policies" / "*.yaml")
    return exit_code_of(["policy", "diff", *arguments, "--base", "main", "--", pattern])


def test_every_policy_is_held_against_the_base(
    clone: Clone, capfd: pytest.CaptureFixture[str]
) -> None:
    assert at_base(clone) == 0
    assert capfd.readouterr().out.count("asks for the same") == 2
    write(str(clone.folder / "policies" / "b.yaml"), budget(0, max_drop=0.05) | {"model": "b"})
    assert at_base(clone) == 1
    assert capfd.readouterr().out.count("LOOSER") == 1
    assert at_base(clone, "--format", "json") == 1
    told = json.loads(capfd.readouterr().out)
    assert [one["looser"] for one in told] == [False, True]


def test_a_new_policy_is_told_and_one_that_is_gone_is_looser(
    clone: Clone, capfd: pytest.CaptureFixture[str]
) -> None:
    write(str(clone.folder / "policies" / "c.yaml"), SPEC | {"model": "c"})
    assert at_base(clone) == 0
    assert "only observes until it is merged" in capfd.readouterr().out
    (clone.folder / "policies" / "a.yaml").unlink()
    assert at_base(clone) == 1
    assert "nothing gates its model any more" in capfd.readouterr().out


def test_a_renamed_policy_is_held_against_what_it_was(
    clone: Clone, capfd: pytest.CaptureFixture[str]
) -> None:
    (clone.folder / "policies" / "a.yaml").rename(clone.folder / "policies" / "z.yaml")
    assert at_base(clone) == 0
    assert "main:policies/a.yaml" in capfd.readouterr().out


@pytest.mark.parametrize("policies", [["a.yaml"], ["a.yaml", "b.yaml", "c.yaml"]])
def test_without_a_base_there_are_two(
    policies: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["policy", "diff", *policies]) == 2
    assert "name two policies" in capfd.readouterr().err
