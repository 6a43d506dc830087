"""JUnit XML: what a CI system makes of it, read back by a parser."""

import unicodedata
from xml.etree import ElementTree as ET

import pytest

from gate import story
from gate.records import GateRecord
from gate.reporters.junit import REPORTER

HOSTILE = [
    "]]><script>alert('1')</script>",
    "\"quotes\" & 'more' <b>",
    "a\x00\x08\x1b[31m\ufffe\uffff\ud800 b",
    "$(touch pwned) `id`\r\nsecond line",
    "模型 🚀",
    "n" * 300,
    "",
]


def suite(record: GateRecord) -> ET.Element:
    """The one suite, after its counts were proven to be those of its cases."""
    root = ET.fromstring(REPORTER.render(record))
    assert root.tag == "testsuites"
    (found,) = root
    cases = found.findall("testcase")
    kinds = {"failures": "failure", "skipped": "skipped", "errors": "error"}
    for element in (root, found):
        assert element.get("tests") == str(len(cases))
        for name, tag in kinds.items():
            assert element.get(name) == str(sum(case.find(tag) is not None for case in cases))
    return found


def test_every_finding_is_a_case(make_record) -> None:
    record = make_record("fail")
    names = [case.get("name") for case in suite(record).findall("testcase")]
    assert names == [case.name for case in story.cases(record)]
    assert len(names) == len(record.verdict.findings)


@pytest.mark.parametrize("kind", ["fail", "inconclusive", "undefined"])
def test_what_blocks_fails_with_its_reason(make_record, kind) -> None:
    record = make_record(kind)
    cases = suite(record).findall("testcase")
    for told, xml in zip(story.cases(record), cases, strict=True):
        failure = xml.find("failure")
        assert (failure is not None) is told.finding.blocking
        if failure is not None:
            assert failure.get("message") == f"{story.sentence(told, record.alpha)} [{told.code}]"
            assert failure.get("type") == told.finding.outcome


def test_a_green_case_is_a_budget_that_was_met(make_record) -> None:
    record = make_record("pass")
    for told, xml in zip(story.cases(record), suite(record).findall("testcase"), strict=True):
        assert (len(xml) == 0) is (told.finding.outcome == "pass")
        if len(xml):
            assert xml[0].tag == "skipped"
            assert xml[0].get("message", "").startswith(("not proven: ", "not judged: "))


def test_not_judged_is_skipped(make_record) -> None:
    fields = make_record("pass").model_dump(mode="json")
    fields["verdict"]["findings"][0] |= {
        "comparison": None,
        "outcome": "inconclusive",
        "blocking": False,
        "reason": "there is no anchor yet",
    }
    first = suite(GateRecord.model_validate(fields)).find("testcase/skipped")
    assert first is not None
    why = story.sentence(story.cases(GateRecord.model_validate(fields))[0], 0.05)
    assert first.get("message") == f"not judged: {why} [G224]"


@pytest.mark.parametrize(
    ("kind", "judge", "cause"),
    [
        ("fail", {"mode": "observe"}, "exit 0 (mode: observe)"),
        ("inconclusive", {"on_inconclusive": "warn"}, "exit 0 (on_inconclusive: warn)"),
    ],
)
def test_what_exits_with_0_turns_nothing_red(make_record, kind, judge, cause) -> None:
    found = suite(make_record(kind, judge=judge))
    assert found.get("failures") == "0"
    messages = [xml.get("message", "") for xml in found.iter("skipped")]
    assert any(cause in message for message in messages)


def test_a_verdict_that_nothing_explains_is_red(make_record) -> None:
    fields = make_record("fail").model_dump(mode="json")
    fields["verdict"]["findings"] = []
    found = suite(GateRecord.model_validate(fields))
    assert [case.get("name") for case in found.findall("testcase")] == ["verdict"]
    assert found.get("failures") == "1"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(make_record, text) -> None:
    record = make_record("fail").model_copy(update={"model": text, "id": text})
    findings = tuple(
        finding.model_copy(update={"slice": f"{text}={text}", "reason": text})
        for finding in record.verdict.findings
    )
    verdict = record.verdict.model_copy(update={"findings": findings})
    rendered = REPORTER.render(record.model_copy(update={"verdict": verdict}))
    assert rendered.isascii()
    root = ET.fromstring(rendered)
    assert {element.tag for element in root.iter()} <= {
        *("testsuites", "testsuite", "properties", "property", "testcase"),
        *("failure", "skipped", "system-out"),
    }
    values = [value for element in root.iter() for value in element.attrib.values()]
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cn", "Cs"} for v in values for c in v)


def test_the_suite_says_which_run_it_was(make_record) -> None:
    record = make_record("fail")
    told = {one.get("name"): one.get("value") for one in suite(record).iter("property")}
    assert told == {
        "outcome": "fail",
        "exit code": "1",
        "stage": "pr",
        "record": record.id,
        "candidate": record.candidate.sha256,
        "policy": "policies/digits.yaml",
    }
