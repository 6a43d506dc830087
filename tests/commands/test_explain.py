"""Codes are stable, each has a page, and what gets which code."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gate import errors, facts, reporters, story
from gate.cli import exit_code_of
from gate.commands.explain import explain, known, page
from gate.policy import Budget
from gate.records import Comparison, Finding, GateRecord

ROOT = Path(__file__).parents[2]

# A code that was published once means the same for ever: lines are added here, and none changes.
ERRORS = {
    "GateError": "G100",
    "UsageError": "G101",
    "PolicyError": "G102",
    "CandidateError": "G103",
    "DataError": "G104",
    "OverlapError": "G105",
    "QuantizationError": "G106",
    "EvaluationError": "G107",
    "BaselineError": "G108",
    "PluginError": "G109",
    "ReleaseError": "G110",
    "RecordError": "G111",
    "TrackerError": "G112",
    "EngineError": "G113",
    "FetchError": "G114",
}
FINDINGS = {
    "PROVEN": "G200",
    "EXACT": "G201",
    "POINT": "G202",
    "FAILED": "G210",
    "EXACT_FAILED": "G211",
    "NO_VALUE": "G212",
    "NOTHING_THERE": "G213",
    "POINT_FAILED": "G214",
    "TOO_FEW": "G220",
    "TOO_CLOSE": "G221",
    "NOT_PROVEN": "G222",
    "SMALL": "G223",
    "FIRST": "G224",
    "WAIVED": "G230",
}
NOTES = {f"G3{number:02}" for number in range(11)}
ALL = {*ERRORS.values(), errors.INTERRUPTED, errors.DEFECT, *FINDINGS.values(), *NOTES}


def subclasses(kind: type[errors.GateError]) -> Iterator[type[errors.GateError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


# ── stable ────────────────────────────────────────────────────────────────────────────────


def test_no_code_of_an_error_ever_changes() -> None:
    found = {
        k.__name__: k.code for k in subclasses(errors.GateError) if k.__module__ == "gate.errors"
    }
    assert found == ERRORS
    assert (errors.INTERRUPTED, errors.DEFECT) == ("G190", "G199")


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [k for k in subclasses(errors.GateError) if k.__module__.startswith("gate.")]
    own = [kind for kind in kinds if "code" in vars(kind)]
    assert len({kind.code for kind in own}) == len(own)
    assert {kind for kind in kinds if kind.__module__ == "gate.errors"} <= set(own)


def test_no_code_of_a_finding_ever_changes() -> None:
    assert {name: getattr(story, name) for name in FINDINGS} == FINDINGS


def test_the_tree_that_is_drawn_has_these_codes() -> None:
    drawn = re.findall(r"(\w+Error) +\d +(G\d+)  ", errors.__doc__ or "")
    assert dict(drawn) == ERRORS


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(known()) == ALL


# ── pages ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", sorted(ALL))
def test_a_page_says_what_why_and_what_to_do(code: str) -> None:
    found = page(code)
    parts = ["**What it means.**", "**Why.**", "**What to do.**"]
    places = [found.text.index(part) for part in parts]
    assert places == sorted(places)
    assert found.title
    assert not found.title.startswith("#")
    assert found.text.endswith("\n")
    assert explain([code]) == found.whole
    assert all(len(line) <= 100 for line in found.whole.splitlines())
    assert {*re.findall(r"\bG\d{3}\b", found.text)} <= ALL


@pytest.mark.parametrize("code", sorted(FINDINGS.values()))
def test_a_finding_is_named_by_its_outcome(code: str) -> None:
    word = {"G20": "PASS", "G21": "FAIL"}.get(code[:3])
    assert word is None or page(code).title.startswith(word)


@pytest.mark.parametrize("typed", ["G210", "g210", "[G210]", " G210 "])
def test_a_code_is_found_as_it_is_copied(typed: str) -> None:
    assert page(typed).code == "G210"


@pytest.mark.parametrize("typed", ["G2100", "G21O", "", "../errors", "G210.md", "*"])
def test_an_unknown_code_exits_2(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["explain", typed]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "unknown code" in told.err
    assert "G210" in told.err


def test_a_near_code_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(["explain", "G2100"])
    assert "did you mean 'G210'?" in capsys.readouterr().err


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if re.match(r"G\d", line)} == ALL


def test_pages_for_scripts() -> None:
    import json

    told = json.loads(explain([], "json"))
    assert {one["code"] for one in told["pages"]} == ALL
    assert json.loads(explain(["G212"], "json"))["pages"][0]["title"] == page("G212").title


def test_the_document_is_what_the_pages_say() -> None:
    """`gate explain --format markdown > docs/errors.md` writes it."""
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == explain([], "markdown")


def test_the_yaml_of_pages_is_what_a_policy_may_say() -> None:
    import yaml

    from gate.policy import Judge

    for code in known():
        for block in re.findall(r"```yaml\n(.*?)```", page(code).text, re.DOTALL):
            written = yaml.safe_load(block)
            assert written.keys() <= {"build", "judge", "budgets"}, code
            for budget in written.get("budgets", ()):
                Budget.model_validate(budget)
            for key in written.get("judge", {}):
                assert key in Judge.model_fields, code


def test_the_wheel_takes_the_pages_along() -> None:
    """Hatchling packs every file of the package that git would keep."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["gate"]
    assert not wheel.keys() & {"exclude", "only-include", "artifacts"}
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *(f"gate/explanations/{code}.md" for code in ALL)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ignored.stdout == ""


# ── what gets which ───────────────────────────────────────────────────────────────────────

DROP = Budget.model_validate({"metric": "accuracy", "max_drop": 0.01})
SAMPLED: dict[str, Any] = {
    "metric": "accuracy", "n": 1000, "reference": 0.97, "int8": 0.965, "degradation": 0.005,
    "lower": 0.0, "upper": 0.02, "p_pass": 0.2, "p_fail": 0.9, "method": "Tango interval",
}  # fmt: skip


def finding(outcome: str, blocking: bool, **changes: Any) -> Finding:
    comparison = Comparison(**(SAMPLED | changes))
    return Finding(
        budget=DROP.id, comparison=comparison, outcome=outcome, reason="so", blocking=blocking
    )


UNDEFINED = {"int8": None, "degradation": None, "p_pass": None, "p_fail": None}
CASES = [
    (finding("pass", False), False, "PROVEN"),
    (finding("pass", False, method="exact number"), False, "EXACT"),
    (finding("pass", False, method="exact number"), True, "EXACT"),
    (finding("pass", False), True, "POINT"),
    (finding("fail", True), False, "FAILED"),
    (finding("fail", True, method="exact number"), False, "EXACT_FAILED"),
    (finding("fail", True, method="undefined", **UNDEFINED), False, "NO_VALUE"),
    (finding("fail", True, method="undefined", **UNDEFINED), True, "NO_VALUE"),
    (finding("fail", True, **UNDEFINED), False, "NO_VALUE"),
    (finding("fail", True, p_pass=None), False, "NO_VALUE"),
    (finding("fail", True, method="exact number", **UNDEFINED), False, "NO_VALUE"),
    (finding("fail", True), True, "POINT_FAILED"),
    (finding("inconclusive", True), False, "TOO_FEW"),
    (finding("inconclusive", True, degradation=0.01), False, "TOO_CLOSE"),
    (finding("inconclusive", True, degradation=0.02), False, "TOO_CLOSE"),
    (finding("inconclusive", False, degradation=0.02), False, "NOT_PROVEN"),
    (finding("inconclusive", False, n=4), False, "SMALL"),
    (finding("inconclusive", True, n=4), False, "SMALL"),
    (finding("waived", False), False, "WAIVED"),
    (finding("waived", False), True, "WAIVED"),
]


@pytest.mark.parametrize(("found", "point", "name"), CASES)
def test_a_finding_gets_its_code(found: Finding, point: bool, name: str) -> None:
    budget = DROP.model_copy(update={"min_examples": 5})
    assert story.code_of(found, budget, point=point) == FINDINGS[name]


@pytest.mark.parametrize(
    ("outcome", "name"), [("fail", "NOTHING_THERE"), ("inconclusive", "FIRST")]
)
def test_nothing_to_compare_has_codes(outcome: Any, name: str) -> None:
    for blocking in (True, False):
        found = Finding(
            budget=DROP.id, comparison=None, outcome=outcome, reason="so", blocking=blocking
        )
        assert story.code_of(found, DROP) == FINDINGS[name]


def test_every_code_of_a_finding_can_come() -> None:
    assert {name for _, _, name in CASES} | {"NOTHING_THERE", "FIRST"} == FINDINGS.keys()


def test_what_decide_says_and_the_code_agree(make_record: Any) -> None:
    """The reasons are for people, the codes for scripts: both about the same thing."""
    from gate.decide import decide, measured_of

    for kind, codes in {
        "pass": {"G200", "G201", "G222"},
        "fail": {"G200", "G201", "G210", "G222"},
        "inconclusive": {"G200", "G201", "G220", "G222"},
        "undefined": {"G200", "G201", "G212", "G222"},
    }.items():
        record = make_record(kind)
        again = record.model_copy(update={"verdict": decide(measured_of(record), record.alpha)})
        assert {case.code for case in story.cases(again)} == codes, kind
        for case in story.cases(again):
            reason = case.finding.reason
            assert (case.code == "G200") == ("proven within" in reason), reason
            assert (case.code == "G212") == ("no value" in reason), reason
            assert (case.code == "G222") == reason.startswith("not proven"), reason


def test_a_record_that_decides_by_points_says_so(make_record: Any) -> None:
    record = make_record("pass", judge={"decision": "point"})
    assert "G202" in {case.code for case in story.cases(record)}
    assert facts.codes(record) == ("G301",)


@pytest.mark.parametrize(
    ("judge", "changes", "code"),
    [
        ({}, {"stopped": "the evidence sufficed"}, "G300"),
        ({"decision": "point"}, {}, "G301"),
        ({"mode": "observe"}, {}, "G302"),
        ({"expect_fp32": "unknown"}, {}, "G304"),
        ({}, {"bootstrap": True}, "G305"),
        ({}, {"attempt": 2}, "G306"),
        ({}, {"consulted": 1}, "G307"),
        ({}, {"stage": "release"}, "G308"),
    ],
)
def test_what_else_to_know_has_codes(
    make_record: Any, judge: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    assert facts.codes(make_record("pass")) == ()
    record = make_record("pass", judge=judge).model_copy(update=changes)
    assert facts.codes(record) == (code,)


def test_an_inconclusive_record_that_only_warns_has_a_code(make_record: Any) -> None:
    warned = make_record("inconclusive", judge={"on_inconclusive": "warn"})
    assert facts.codes(warned) == ("G303",)


# ── where they are shown ──────────────────────────────────────────────────────────────────


def test_record_json_tells_each_code_and_reads_back(make_record: Any) -> None:
    import json

    record = make_record("fail")
    text = reporters.get("json").render(record)
    told = [one["code"] for one in json.loads(text)["verdict"]["findings"]]
    assert told == [case.code for case in story.cases(record)]
    assert GateRecord.model_validate_json(text) == record


def test_a_code_that_was_changed_in_the_file_changes_nothing(make_record: Any) -> None:
    record = make_record("fail")
    text = reporters.get("json").render(record)
    forged = text.replace('"code": "G210"', '"code": "G200"')
    assert forged != text
    assert reporters.get("json").render(GateRecord.model_validate_json(forged)) == text


def test_a_record_without_codes_is_read(make_record: Any) -> None:
    record = make_record("fail")
    assert GateRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("key", ["text", "markdown", "junit"])
def test_reports_show_the_codes_of_what_did_not_pass(make_record: Any, key: str) -> None:
    shown = reporters.get(key).render(make_record("fail"))
    assert "G210" in shown
    assert "G200" not in shown
    assert "G210" not in reporters.get(key).render(make_record("pass"))


@pytest.mark.parametrize("key", ["text", "markdown"])
def test_reports_say_how_to_read_on(make_record: Any, key: str) -> None:
    shown = reporters.get(key).render(make_record("fail", judge={"mode": "observe"}))
    assert "gate explain G210 G222 G302" in shown
