"""What the HTML report says: outcome, reasons, every number, what to do, and how it is built."""

import base64
import hashlib
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest
import yaml
from support import reports
from support.reports import Element, parsed

from gate import facts, reporters, story, wording
from gate.policy import Budget
from gate.records import GateRecord

KINDS = ("pass", "fail", "inconclusive", "undefined")
HEADINGS = ("h1", "h2", "h3", "h4")


def page(record: GateRecord) -> Element:
    return parsed(reporters.get("html").render(record))


def headings(root: Element) -> list[Element]:
    return [e for tag in HEADINGS for e in root.all(tag)]


def section(root: Element, key: str) -> Element:
    return next(s for s in root.all("section") if s["aria-labelledby"] == key)


def cells(row: Element) -> list[str]:
    return [c.text for c in row.children if isinstance(c, Element)]


def rows_of(root: Element, budget: str) -> dict[str | None, list[str]]:
    """Cells of a budget's findings by slice, from the tables."""
    found = root.all("tr", data_budget=budget)
    return {row.attributes.get("data-slice"): cells(row) for row in found}


def waived(make_record: Any) -> GateRecord:
    record: GateRecord = reports.rich(make_record, "fail")
    findings = [
        f.model_copy(update={"outcome": "waived", "blocking": False}) if f.blocking else f
        for f in record.verdict.findings
    ]
    return record.model_copy(
        update={
            "verdict": record.verdict.model_copy(update={"outcome": "waived", "findings": findings})
        }
    )


# ── the first screen ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_opens_with_the_outcome_and_why(make_record: Any, kind: str) -> None:
    record = make_record(kind)
    root = page(record)
    (banner,) = root.all("header")
    (title,) = root.all("h1")
    assert title.text == f"{record.verdict.outcome.upper()}: digits-cnn"
    expected = story.summary(record) if kind == "pass" else story.blockers(record)[0]
    (because,) = banner.all("p", class_="because")
    assert because.text == expected
    assert story.exit_text(record) in banner.text
    assert record.verdict.outcome in banner["class"].split()


def test_says_what_changed_since_the_last_pass(make_record: Any) -> None:
    record = make_record("fail")
    assert story.since(record) in section(page(record), "since").text
    assert "First release on record" in section(page(make_record(previous=None)), "since").text


def test_lists_what_blocks_where_it_is_more_than_the_banner_says(make_record: Any) -> None:
    record = make_record("fail")
    told = [item.text for item in section(page(record), "blocked").all("li")]
    assert told == list(story.blockers(record))
    root = page(make_record("fail", judge={"mode": "observe"}))
    assert section(root, "blocked").all("h2")[0].text == "Would be blocked by"


def test_shows_every_notice(make_record: Any) -> None:
    record = make_record("inconclusive", judge={"on_inconclusive": "warn", "mode": "observe"},
                         stage="release")  # fmt: skip
    told = [p.text for p in section(page(record), "notices").all("p", class_="notice")]
    assert told == list(facts.notices(record))
    assert len(told) >= 3


def test_the_yaml_to_paste_is_the_advice(make_record: Any) -> None:
    nodes = ["/a::b/##[c]", 'quo"te', "Ünï", "a\u202eb"]
    found = reports.diagnosis()
    found["advice"]["recipe"]["exclude_nodes"] = nodes
    record = reports.rich(make_record, "fail", diagnosis=found)
    first = section(page(record), "to-do").all("code")[0].text
    assert yaml.safe_load(first) == {"build": {"recipe": found["advice"]["recipe"]}}


def test_what_to_do_fits_the_outcome(make_record: Any) -> None:
    def told(record: GateRecord) -> str:
        return section(page(record), "to-do").text

    assert "gate recover policies/digits.yaml --candidate models:/digits-cnn/4" in told(
        make_record("fail")
    )
    assert "150 here, about 1,031 would decide" in told(make_record("inconclusive"))
    assert "may be merged" in told(make_record("pass"))
    release = make_record("pass", stage="release", ledger="tracker")
    assert "gate promote RECORD --alias production" in told(release)
    assert "cannot be promoted" in told(make_record("pass", stage="release"))
    assert "no PASS" in told(waived(make_record))


# ── numbers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_every_findings_numbers_are_there(make_record: Any, kind: str) -> None:
    record = make_record(kind, slices=25)
    root = page(record)
    for case in story.cases(record):
        found = rows_of(root, case.finding.budget)[case.finding.slice]
        comparison = case.finding.comparison
        assert comparison is not None
        expected = [
            wording.whole(comparison.n),
            *wording.both_values(comparison),
            wording.measured_text(comparison, case.quantity, case.unit),
        ]
        assert found[1:5] == expected
        counts = comparison.counts
        assert found[5] == (f"{counts.lost} / {counts.gained}" if counts else "–")
        assert case.outcome in found[7]
        assert case.finding.reason in found[8]


def test_a_finding_without_numbers_is_shown(make_record: Any) -> None:
    first = make_record("fail").verdict.findings[0]
    bare = first.model_copy(update={"comparison": None, "reason": "nothing to compare"})
    record = make_record("fail", verdict={"outcome": "fail", "findings": [bare]})
    (found,) = rows_of(page(record), first.budget).values()
    assert found[1:7] == ["–"] * 6
    assert found[8] == "nothing to compare"
    strange = bare.model_copy(update={"budget": "of.no.policy"})
    record = make_record("fail", verdict={"outcome": "fail", "findings": [strange]})
    assert "of.no.policy" in section(page(record), "budgets").text


def test_facts_others_hashes_and_seconds_are_there(make_record: Any) -> None:
    record = make_record("pass")
    root = page(record)
    made = section(root, "made")
    for label, text in facts.facts(record):
        assert [label, text] in [cells(row) for row in made.all("tr")]
    for digest in (record.candidate.sha256, record.int8.sha256, record.splits.held_out.sha256):
        assert digest in made.text
    assert ["evaluate", "0.400 s"] in [cells(row) for row in made.all("tr")]
    told = [tuple(cells(row)) for row in section(root, "others").all("tr")]
    assert set(story.others(record)) <= set(told)


def test_flips_are_listed_by_id_and_kind(make_record: Any) -> None:
    record = reports.rich(make_record)
    root = section(page(record), "flips")
    listed = {
        (row["data-change"], *cells(row))
        for row in root.all("tr")
        if "data-change" in row.attributes
    }
    assert listed == {(f.change, f.id, f.target, f.fp32, f.int8) for f in record.flips.shown}
    assert "55 lost, 30 gained, 30 other" in root.text
    assert "and 25 more that the record does not list" in root.text


def test_flips_without_answers_are_ids_alone(make_record: Any) -> None:
    bare = [{"id": "a", "change": "lost"}, {"id": "b", "change": "lost"}]
    found = {"metric": "accuracy", "lost": 2, "gained": 0, "other": 0, "shown": bare}
    rows = section(page(make_record(flips=found)), "flips").all("tr")
    assert [cells(row) for row in rows] == [["Example"], ["a"], ["b"]]
    found["shown"] = [bare[0], bare[1] | {"int8": "7"}]
    rows = section(page(make_record(flips=found)), "flips").all("tr")
    assert [cells(row) for row in rows][1:] == [["a", "", "", ""], ["b", "", "", "7"]]


def test_no_flips_is_said(make_record: Any) -> None:
    none = {"metric": "accuracy", "lost": 0, "gained": 0, "other": 0, "shown": ()}
    assert "None, by accuracy." in section(page(make_record(flips=none)), "flips").text


def test_parts_and_diagnosis_are_whole(make_record: Any) -> None:
    record = reports.rich(make_record)
    root = page(record)
    told = [tuple(cells(row)) for row in section(root, "part-0").all("tr")]
    assert [row for row in told if row in record.parts[0].rows] == list(record.parts[0].rows)
    why = section(root, "why")
    for layer in record.diagnosis.layers:
        assert any(cells(row)[0] == layer.node for row in why.all("tr"))
    assert "target=8 loses 30.00 pp of accuracy" in why.text
    assert "and 2 more layers that lose less" in why.text


def test_what_a_record_lacks_is_no_empty_section(make_record: Any) -> None:
    root = page(make_record("pass", durations={}))
    keys = {s["aria-labelledby"] for s in root.all("section")}
    assert keys.isdisjoint({"flips", "plots", "time", "history", "why", "blocked", "notices"})
    for link in root.all("nav")[0].all("a"):
        assert link["href"][1:] in keys


# ── every kind of record ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("budget", "numbers"),
    [
        ({"max_relative_drop": 0.01},
         {"quantity": "relative_drop", "degradation": 0.02, "lower": 0.01, "upper": 0.03}),
        ({"max_ratio": 1.1}, {"quantity": "ratio", "degradation": 0.2, "lower": 1.1, "upper": 1.3}),
        ({"at_least": 0.9}, {"quantity": "value", "lower": 0.85, "upper": 0.95}),
        ({"at_most": 0.1}, {"quantity": "value", "lower": 0.85, "upper": 0.95}),
        ({"max_drop": 0.0}, {"lower": 0.0, "upper": 0.1}),
        ({"max_drop": 0.01, "against": "anchor"},
         {"against": "anchor", "lower": 0.0, "upper": 0.1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_every_kind_of_budget(make_record: Any, budget: Any, numbers: Any, outcome: str) -> None:
    asked = {"metric": "macro_f1", **budget}
    made = make_record().comparisons[0].model_copy(
        update={"metric": "macro_f1", "reference": 0.97, "int8": 0.9, "counts": None,
                "method": "jackknife", **numbers}
    )  # fmt: skip
    finding = {"budget": Budget.model_validate(asked).id, "comparison": made, "outcome": outcome,
               "reason": "because", "blocking": outcome != "pass"}  # fmt: skip
    record = reports.rich(make_record, "pass", judge={"budgets": [asked]}, comparisons=[made],
                          verdict={"outcome": outcome, "findings": [finding]})  # fmt: skip
    root = page(record)
    (case,) = story.cases(record)
    (found,) = rows_of(root, case.finding.budget).values()
    assert found[4] == wording.measured_text(made, case.quantity, case.unit)
    (drawn,) = [g for g in root.all("g", class_="finding") if "data-value" in g.attributes]
    assert float(drawn["data-value"]) == wording.measured(made, case.quantity)


def test_a_first_release_says_so(make_record: Any) -> None:
    record = make_record("pass", bootstrap=True, previous=None)
    root = page(record)
    assert "First release on record" in root.text
    assert "--bootstrap" in section(root, "made").all("code")[0].text


def test_attested_outputs_are_judged_again_by_their_files(make_record: Any) -> None:
    attested = [
        {"source": f"{side} out.npz", "outputs_sha256": "ab" * 32, "artifact_sha256": "cd" * 32,
         "runtime": "TensorRT", "device": "T4"}
        for side in ("fp32", "int8")
    ]  # fmt: skip
    root = page(make_record("fail", attested=attested))
    command = shlex.split(section(root, "made").all("code")[0].text)
    assert command[3:7] == ["--fp32-outputs", "fp32 out.npz", "--int8-outputs", "int8 out.npz"]
    assert "ATTESTED" in root.text
    assert "mend it there" in section(root, "to-do").text


def test_an_early_end_is_told(make_record: Any) -> None:
    record = make_record("fail", examples_evaluated=400, stopped="no look could pass any more")
    assert "stopped early after 400 of 1,000" in page(record).text


def test_one_command_reproduces_it(make_record: Any) -> None:
    record = make_record("pass", stage="release")
    command = shlex.split(section(page(record), "made").all("code")[0].text)
    assert command == ["gate", "run", "policies/digits.yaml", "--candidate", "models:/digits-cnn/4",
                       "--stage", "release", "--threads", "2"]  # fmt: skip
    from gate.cli import cli

    options = {name for option in cli.commands["run"].params for name in option.opts}
    plugins = record.provenance.model_copy(update={"plugins": {"a b.py": "ab" * 32}})
    odd = record.model_copy(update={"provenance": plugins, "reference": record.candidate,
                                    "bootstrap": True})  # fmt: skip
    command = shlex.split(section(page(odd), "made").all("code")[0].text)
    assert {word for word in command if word.startswith("--")} <= options
    assert command[command.index("--plugin") + 1] == "a b.py"


# ── how it is built ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_the_outline_has_no_gaps_and_no_twins(make_record: Any, kind: str) -> None:
    root = page(reports.rich(make_record, kind))
    levels = [int(tag[1]) for tag in re.findall(r"<(h\d)\b", reporters.get("html").render(
        reports.rich(make_record, kind)))]  # fmt: skip
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [e["id"] for e in everything(root) if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in everything(root):
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((element.attributes.get(name) or "").split()) <= set(ids)
    for landmark in ("header", "nav", "main", "footer"):
        assert len(root.all(landmark)) == 1


def everything(root: Element) -> list[Element]:
    found = []
    for child in root.children:
        if isinstance(child, Element):
            found += [child, *everything(child)]
    return found


def test_tables_and_drawings_speak(make_record: Any) -> None:
    root = page(reports.rich(make_record))
    for table in root.all("table"):
        assert table.all("caption")[0].text
        assert all(
            th.attributes.get("scope") in ("col", "row", "rowgroup") for th in table.all("th")
        )
        columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            spanned = sum(int(c.attributes.get("colspan") or 1) for c in row.children
                          if isinstance(c, Element))  # fmt: skip
            assert spanned == columns
    drawings = root.all("svg")
    assert len(drawings) == 6
    for svg in drawings:
        assert svg["role"] == "img"
        assert svg.all("title")[0].text
        assert svg.all("desc")[0].text


def test_asks_nothing_and_runs_nothing(make_record: Any) -> None:
    text = reporters.get("html").render(reports.rich(make_record))
    root = parsed(text)
    (policy,) = [m["content"] for m in root.all("meta")
                 if m.attributes.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    (style,) = root.all("style")
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"url\(|@import|https?:|//", text.split("</style>")[0])
    for element in everything(root):
        assert element.tag not in {"script", "link", "img", "iframe", "object", "base", "form"}
        assert not any(
            name.startswith("on") or name in {"src", "style"} for name in element.attributes
        )
        assert (element.attributes.get("href") or "#").startswith("#")


def test_the_same_record_gives_the_same_page(make_record: Any) -> None:
    record = reports.rich(make_record)
    again = GateRecord.model_validate_json(record.model_dump_json())
    assert reporters.get("html").render(record) == reporters.get("html").render(again)
