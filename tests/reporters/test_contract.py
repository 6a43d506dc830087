"""What every reporter promises, whatever it is given to show."""

import json
import re
import unicodedata

import pytest

from gate import reporters
from gate.records import GateRecord

KINDS = ["pass", "fail", "inconclusive", "undefined"]
LARGEST = {"html": 200_000}
HOSTILE = {
    "control": "a\x00b\x07\x1b[31mred\x1b]0;title\x07",
    "newlines": "a\r\n::error::injected\n## heading\n| a | b |\u2028\u2029",
    "rich": "[red]not red[/red] [link=https://example.org]x[/link] :warning:",
    "table": "a | b || c \\| d",
    "html": "<script>alert(1)</script><img src=x onerror=y></details><!-- ",
    "markdown": "`code` **b** [text](javascript:x) ![i](x) ~~s~~ $x$ @everyone #1 www.example.org",
    "bidi": "abc\u202efed\u2066\u200b\ufeff",
    "commands": "::stop-commands::x ##[error]y %0A::warning::z",
    "percent": "100% %s {0} {name} %(x)s",
    "long": "n" * 10_000,
    "ats": "@" * 10_000,
    "wide": "模型" * 200,
}


@pytest.fixture(params=reporters.names())
def reporter(request):
    return reporters.get(request.param)


def hostile(make_record, text: str, kind: str = "fail") -> GateRecord:
    """A record with `text` wherever text from outside can get."""
    fields = make_record(kind).model_dump(mode="json")
    fields["id"] = text
    fields["candidate"]["source"] = text
    fields["splits"]["held_out"]["source"] = text
    fields["policy_source"] = {"file": text, "lines": {text: 1}}
    fields["int8"] |= {"skipped_nodes": [text], "kernels": {text: 3}}
    fields["previous"] |= {"run": text, "changes": [text] * 30}
    fields["provenance"] |= {"git": text, "versions": {"onnxruntime": text}, "cpu": {"model": text}}
    fields["comparisons"] = [{**item, "metric": text} for item in fields["comparisons"]]
    for index, finding in enumerate(fields["verdict"]["findings"]):
        finding |= {"reason": text, "slice": f"{text}={index}"}
    fields["verdict"]["findings"] += [
        {**fields["verdict"]["findings"][0], "budget": f"{text}{index}", "comparison": comparison}
        for index, comparison in enumerate((None, fields["comparisons"][-1]))
    ]
    return GateRecord.model_validate(fields)


def test_every_reporter_is_reachable_by_its_key():
    assert {reporters.get(name).key for name in reporters.names()} == set(reporters.names())


def test_files_have_distinct_names():
    files = [name for key in reporters.names() if (name := reporters.get(key).filename)]
    assert len(files) == len(set(files))
    assert "record.json" in files


@pytest.mark.parametrize("kind", KINDS)
def test_renders_the_same_text_twice_and_leaves_the_record_alone(reporter, make_record, kind):
    record = make_record(kind)
    before = record.model_dump_json()
    first = reporter.render(record)
    assert first == reporter.render(GateRecord.model_validate_json(before))
    assert record.model_dump_json() == before


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_not_empty_and_ends_with_one_newline(reporter, make_record, kind):
    text = reporter.render(make_record(kind))
    assert text.strip()
    assert text.endswith("\n")
    assert not re.search(r"\b(nan|inf|None)\b", text)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["pass", "fail"])
def test_hostile_names_do_no_harm(reporter, make_record, name, kind):
    text = reporter.render(hostile(make_record, HOSTILE[name], kind))
    shown = [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}]
    if reporter.key != "json":  # JSON keeps every character; its control characters are escaped
        assert shown == []
        assert "x1b" in text or name != "control"
        assert "##[" not in text
        assert len(text) < LARGEST.get(reporter.key, 62_000)
    assert "\x1b" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_no_line_is_a_workflow_command_but_our_own(reporter, make_record, name):
    text = reporter.render(hostile(make_record, HOSTILE[name]))
    commands = [line for line in text.splitlines() if line.lstrip().startswith("::")]
    if reporter.key != "github":
        assert commands == []
    else:
        assert len(commands) == len(text.splitlines())
        assert {line.split()[0] for line in commands} <= {"::error", "::warning", "::notice"}


def test_environment_changes_nothing(reporter, make_record, monkeypatch):
    record = make_record("fail")
    plain = reporter.render(record)
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "40", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    assert reporter.render(record) == plain


def test_a_thousand_slices_stay_short(reporter, make_record):
    short = len(reporter.render(make_record("fail")).splitlines())
    text = reporter.render(make_record("fail", slices=1000))
    if reporter.key == "json":
        assert len(json.loads(text)["verdict"]["findings"]) == 1004
        return
    if reporter.key == "junit":  # a test case for each of them
        assert text.count("<testcase ") == 1004
        return
    assert len(text.splitlines()) == short
    assert "1,000 slices: 1 FAIL, 334 not proven (not blocking), 665 pass" in text
