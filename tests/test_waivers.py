"""Waivers: what they let through, for how long, and that nothing else follows from them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.project import CNN, SUBGRAPH, WIDE_RANGE, Project

import gate
from gate.cli import exit_code_of
from gate.commands.judge import judge
from gate.errors import PolicyError, RecordError
from gate.exhibits import Waiver
from gate.policy_file import load_policy
from gate.records import Comparison, Finding, GateRecord, Verdict
from gate.waivers import InForce, load_waivers, waive

TODAY = datetime.now(UTC).date()
SOON = TODAY + timedelta(days=30)
ACCURACY = "accuracy.max_drop"


def waiver(**fields: Any) -> dict[str, Any]:
    told = {"model": "digits-cnn", "budget": ACCURACY, "reason": "the camera goes", "who": "ann"}
    return told | {"expires": str(SOON)} | fields


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def written(project: Project, *waivers: dict[str, Any]) -> Path:
    file = project.folder / "waivers.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "waivers": list(waivers)}))
    return file


def judged(project: Project, candidate: Path = WIDE_RANGE, **options: Any) -> GateRecord:
    return gate.run_gate(project.policy, candidate, tracker="none", threads=1, **options).record


def test_a_named_file_is_there(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--candidate", str(CNN), "--tracker", "none", "--waivers", "typo.yaml"]
    assert exit_code_of(["run", str(project.policy), *options]) == 2
    assert "--waivers typo.yaml is no file" in capsys.readouterr().err


# ── what they let through ─────────────────────────────────────────────────────────────────


def test_a_waived_failure_is_waived_and_never_a_pass(project: Project) -> None:
    written(project, waiver())
    record = judged(project, out=project.folder / "out")
    (finding,) = record.verdict.findings
    assert (record.verdict.outcome, record.exit_code) == ("waived", 0)
    assert (finding.outcome, finding.blocking) == ("waived", False)
    assert "without that FAIL" in finding.reason
    assert "by ann (the camera goes)" in finding.reason
    assert record.waivers == (Waiver.model_validate(waiver()),)
    assert judge(project.folder / "out").verdict == record.verdict
    for name in ("report.md",):
        said = (project.folder / "out" / name).read_text()
        assert "WAIVED" in said
        assert "ann" in said


def test_what_else_blocks_still_blocks(project: Project) -> None:
    project.spec["judge"]["budgets"] += [{"metric": "prediction_flips", "at_most": 0.03}]
    project.write()
    written(project, waiver())
    record = judged(project)
    assert (record.verdict.outcome, record.exit_code) == ("fail", 1)
    assert [one.outcome for one in record.verdict.findings] == ["waived", "fail"]


def test_too_little_evidence_can_be_waived_and_what_is_left_of_it_shows(project: Project) -> None:
    project.spec["judge"]["held_out"]["limit"] = 150
    project.spec["judge"]["budgets"] += [{"metric": "prediction_flips", "at_most": 0.02}]
    project.write()
    written(project, waiver())
    record = judged(project, CNN)
    assert record.verdict.findings[0].outcome == "waived"
    assert (record.verdict.outcome, record.exit_code) == ("inconclusive", 3)


def test_one_slice_can_be_waived_alone(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.03, each="target")
    worst = [one.slice for one in judged(project).verdict.findings if one.blocking]
    assert len(worst) > 1
    written(project, waiver(budget="accuracy.max_drop[each target]", slice=worst[0]))
    found = {one.slice: one.outcome for one in judged(project).verdict.findings}
    assert found[worst[0]] == "waived"
    assert found[worst[1]] == "fail"


def test_a_release_that_passes_stays_a_pass(project: Project) -> None:
    written(project, waiver())
    assert judged(project, CNN).verdict.outcome == "pass"


def test_an_expired_waiver_fails_and_says_so(project: Project) -> None:
    yesterday = TODAY - timedelta(days=1)
    written(project, waiver(expires=str(yesterday)))
    record = judged(project)
    assert (record.verdict.outcome, record.exit_code) == ("fail", 1)
    assert f"The waiver of ann expired on {yesterday}" in record.verdict.findings[0].reason
    assert record.waivers == ()


def test_it_holds_on_its_last_day(project: Project) -> None:
    file = written(project, waiver(expires=str(TODAY)))
    loaded = load_policy(project.policy).policy
    assert len(load_waivers(file, loaded, TODAY).waivers) == 1
    assert len(load_waivers(file, loaded, TODAY + timedelta(days=1)).expired) == 1


def test_that_of_another_model_is_none_of_its_business(project: Project) -> None:
    written(project, waiver(model="other", budget="whatever"))
    assert judged(project).verdict.outcome == "fail"


def test_nothing_waives_what_could_not_run(project: Project) -> None:
    written(project, waiver())
    arguments = ["run", str(project.policy), "--tracker", "none", "--candidate"]
    assert exit_code_of([*arguments, str(SUBGRAPH)]) == 4


def test_nothing_waives_a_metric_without_a_value(project: Project) -> None:
    project.budget(metric="accuracy", max_drop=0.05, slice={"ink": "invisible"})
    written(project, waiver(budget="accuracy.max_drop[ink=invisible]"))
    record = judged(project, CNN)
    assert (record.verdict.outcome, record.exit_code) == ("fail", 1)


def test_a_file_elsewhere_is_named(project: Project) -> None:
    file = written(project, waiver())
    elsewhere = file.rename(project.folder / "held.yaml")
    assert judged(project).verdict.outcome == "fail"
    assert judged(project, waivers=elsewhere).verdict.outcome == "waived"


def test_a_record_whose_waiver_was_taken_out_is_found(project: Project) -> None:
    written(project, waiver())
    judged(project, out=project.folder / "out")
    file = project.folder / "out" / "record.json"
    fields = json.loads(file.read_text())
    fields["waivers"] = []
    file.write_text(json.dumps(fields))
    with pytest.raises(RecordError, match="is not what its own numbers give"):
        judge(project.folder / "out")


def test_another_policy_brings_its_own_waivers(project: Project) -> None:
    judged(project, out=project.folder / "out")
    written(project, waiver())
    assert judge(project.folder / "out").verdict.outcome == "fail"
    assert judge(project.folder / "out", str(project.policy)).verdict.outcome == "waived"


# ── what is wrong with a file ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "waivers.yaml:1:1: waivers are a mapping"),
        ("version: 2\nwaivers: []\n", "waivers.yaml:1:10: version: "),
        (
            "version: 1\nwaiver: []\n",
            "waivers.yaml:2:1: unknown key 'waiver'; did you mean 'waivers'",
        ),
        ("version: 1\nwaivers: [{}]\n", "waivers.yaml:2:11: waivers[0].model is missing; a waiver"),
        ("a: &x 1\n", "anchor 'x' is refused"),
    ],
)
def test_a_file_is_read_strictly(project: Project, text: str, said: str) -> None:
    (project.folder / "waivers.yaml").write_text(text)
    with pytest.raises(PolicyError) as raised:
        judged(project)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget": "acuracy.max_drop"}, "unknown budget 'acuracy.max_drop'; did you mean"),
        ({"reason": ""}, "waivers[0].reason is empty"),
        ({"who": ""}, "waivers[0].who is empty"),
        ({"reason": " \t"}, "waivers[0].reason is empty"),
        ({"who": " "}, "waivers[0].who is empty"),
        ({"expires": 20261231}, "write a date as 2026-12-31, not 20261231"),
        ({"expires": "soon"}, "waivers[0].expires: "),
        ({"expires": str(TODAY + timedelta(days=91))}, "90 days at the most"),
        ({"until": "2026-12-01"}, "unknown key 'until'"),
        ({"slice": 3}, "waivers[0].slice: "),
    ],
)
def test_a_waiver_says_all_there_is_to_say(
    project: Project, fields: dict[str, Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    written(project, waiver(**fields))
    assert exit_code_of(["check", str(project.policy)]) == 2
    told = capfd.readouterr().err
    assert said in told
    assert told.startswith(str(project.folder / "waivers.yaml"))


def test_check_counts_them(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    old = waiver(expires=str(TODAY - timedelta(days=9)))
    written(project, waiver(), old)
    assert exit_code_of(["check", str(project.policy)]) == 0
    assert "1 waived, 1 expired in waivers.yaml" in capfd.readouterr().out


# ── the rule ──────────────────────────────────────────────────────────────────────────────

OUTCOMES = st.sampled_from(["pass", "fail", "inconclusive"])


def finding(budget: str, outcome: str, *, has_value: bool) -> Finding:
    found = Comparison(
        metric="accuracy", n=10, reference=0.9, int8=0.8 if has_value else None,
        degradation=0.1 if has_value else None, method="exact" if has_value else "undefined",
    )  # fmt: skip
    blocks = outcome != "pass"
    return Finding.model_validate(
        {"budget": budget, "comparison": found, "outcome": outcome, "reason": "r",
         "blocking": blocks}
    )  # fmt: skip


@given(st.lists(st.tuples(OUTCOMES, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_a_waiver_never_makes_a_pass(cases: list[tuple[str, bool, bool]]) -> None:
    findings = tuple(
        finding(f"b{i}", "fail" if not has_value else outcome, has_value=has_value)
        for i, (outcome, has_value, _) in enumerate(cases)
    )
    outcome = "pass"
    if any(one.blocking for one in findings):
        outcome = "fail" if any(one.outcome == "fail" for one in findings) else "inconclusive"
    before = Verdict.model_validate({"outcome": outcome, "findings": findings})
    held = [
        Waiver.model_validate(waiver(budget=f"b{i}")) for i, case in enumerate(cases) if case[2]
    ]
    after = waive(before, held)
    if outcome == "pass":
        assert after == before
    else:
        assert after.outcome != "pass"
    for i, one in enumerate(findings):
        if one.comparison is not None and one.comparison.int8 is None:
            assert after.findings[i] == one
    if after.outcome == "waived":
        assert not any(one.blocking for one in after.findings)


def test_without_waivers_nothing_changes() -> None:
    verdict = Verdict(outcome="fail", findings=(finding("b", "fail", has_value=True),))
    assert waive(verdict, ()) is verdict
    assert InForce().waivers == ()
