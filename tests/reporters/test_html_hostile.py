"""The HTML report of records that mean harm, and of very large ones."""

import re
import unicodedata
from typing import Any

import pytest
from support import reports
from support.reports import Element, parsed

from gate import reporters
from gate.policy import Budget
from gate.records import GateRecord

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
TYPICAL, LARGE = 500_000, 2_000_000


def rendered(record: GateRecord) -> str:
    return reporters.get("html").render(record)


def shape(root: Element) -> list[str]:
    """The elements and the names of their attributes, without what they say."""
    found = []
    for child in root.children:
        if isinstance(child, Element):
            found.append(f"{child.tag} {sorted(child.attributes)}")
            found += shape(child)
    return found


@pytest.mark.parametrize("kind", ["pass", "fail"])
@pytest.mark.parametrize("name", reports.HOSTILE)
def test_hostile_text_is_only_text(make_record: Any, name: str, kind: str) -> None:
    text = reports.HOSTILE[name]
    page = rendered(reports.hostile(make_record, text, kind))
    assert shape(parsed(page)) == shape(
        parsed(rendered(reports.hostile(make_record, "x" * len(text), kind)))
    )
    assert not any(unicodedata.category(c) in HIDDEN for c in page if c != "\n")
    assert page.count("<script") == 0


@pytest.mark.parametrize("name", ["script", "quotes", "emoji", "entities", "shell"])
def test_a_reader_sees_the_name_as_it_is(make_record: Any, name: str) -> None:
    text = reports.HOSTILE[name]
    root = parsed(rendered(make_record("pass", model=text)))
    shown = text.replace("##[", "## [")
    assert root.all("h1")[0].text == f"PASS: {shown}"
    assert root.all("title")[0].text == f"PASS: {shown}"


def test_what_is_invisible_is_spelled_out(make_record: Any) -> None:
    for name, spelled in (("bidi", r"abc\u202egpj.exe\u2066"), ("controls", r"a\x00b\x1b[31mc\x7f"),
                          ("newlines", r"a\x0d\x0ab\x0a: :error: :c\u2028d")):  # fmt: skip
        root = parsed(rendered(reports.hostile(make_record, reports.HOSTILE[name])))
        assert spelled in root.all("h1")[0].text
        assert spelled in root.all("main")[0].text


@pytest.mark.parametrize("lacking", ["flips", "plots", "past", "parts", "diagnosis", "process"])
def test_any_exhibit_may_be_missing(make_record: Any, lacking: str) -> None:
    whole = reports.rich(make_record)
    empty = GateRecord.model_fields[lacking].get_default(call_default_factory=True)
    page = rendered(whole.model_copy(update={lacking: empty}))
    assert len(page) < len(rendered(whole))
    parsed(page)


@pytest.mark.parametrize("series", [[], [{"name": "a", "points": []}],
                                    [{"name": "a", "points": [(0.5, 0.5)]}]])  # fmt: skip
def test_a_plot_of_little(make_record: Any, series: Any) -> None:
    page = rendered(make_record(plots=[reports.plot() | {"series": series}]))
    assert page.count("<circle") == sum(len(line["points"]) for line in series)


def test_a_usual_report_is_under_half_a_megabyte(make_record: Any) -> None:
    for kind in ("pass", "fail", "inconclusive"):
        assert len(rendered(reports.rich(make_record, kind, slices=50)).encode()) < TYPICAL


@pytest.mark.parametrize("text", ["target", "模型" * 100, '\u202e"<' * 40])
def test_a_thousand_slices_are_under_two_megabytes_and_counted(make_record: Any, text: str) -> None:
    record = reports.rich(make_record, "fail", slices=1000)
    fields = record.model_dump(mode="json")
    for index, finding in enumerate(fields["verdict"]["findings"][1:1001]):
        finding |= {"slice": f"{index}{text}", "reason": f"{finding['reason']} {text}"}
    page = rendered(GateRecord.model_validate(fields))
    assert len(page.encode()) < LARGE
    root = parsed(page)
    slices = next(s for s in root.all("section") if s["aria-labelledby"] == "slices")
    shown = len(slices.all("tr", data_budget="accuracy.max_drop[each target]"))
    left = re.search(r"and ([\d,]+) more, in record.json", slices.text)
    assert shown + (int(left[1].replace(",", "")) if left else 0) == 1000
    if text == "target":
        assert shown == 1000
    assert "692 more, in record.json" in root.all("main")[0].text  # 8 drawn, 300 folded


def test_many_of_everything_is_counted(make_record: Any) -> None:
    budgets = [{"metric": f"m{index}", "max_drop": 0.01} for index in range(200)]
    first = make_record("fail").verdict.findings[0]
    findings = [
        first.model_copy(update={"budget": Budget.model_validate(budget).id}) for budget in budgets
    ]
    record = reports.rich(
        make_record, "fail", judge={"budgets": budgets},
        verdict={"outcome": "fail", "findings": findings}, plots=[reports.plot()] * 30,
        parts=[reports.part(count=3000)], flips=reports.flips(200), past=reports.past(300),
    )  # fmt: skip
    page = rendered(record)
    assert len(page.encode()) < LARGE
    text = parsed(page).text
    assert "and 190 more budgets, below" in text
    assert "and 140 more, in record.json" in text  # 60 of 200 drawn
    assert "and 22 more, in record.json" in text  # 8 of 30 plots
    assert "and 241 more, in record.json" in text  # 60 of 301 runs


def test_many_lines_and_reasons_are_counted(make_record: Any) -> None:
    line = {"name": "a", "points": [(0.5, 0.5)]}
    found = reports.diagnosis() | {"problems": ["x"] * 37}
    found["slices"] *= 39
    found["layers"] *= 30
    record = make_record("fail", plots=[reports.plot() | {"series": [line] * 17}], diagnosis=found)
    text = parsed(rendered(record)).text
    for left in ("and 5 more", "and 7 more", "and 9 more", "and 52 more layers"):
        assert left in text


def test_a_verdict_without_findings(make_record: Any) -> None:
    root = parsed(rendered(make_record("pass", verdict={"outcome": "pass", "findings": ()})))
    assert root.all("h1")[0].text == "PASS: digits-cnn"
