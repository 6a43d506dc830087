"""The Markdown report is valid, short, and shows names as they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gate.policy import Budget
from gate.reporters.markdown import LIMIT, REPORTER, escape, render_within

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OWN_HTML = {"<details>", "<summary>", "</summary>", "</details>"}


def tags(text: str) -> list[str]:
    """HTML that a reader of the Markdown would let through."""
    found = []
    for token in PARSER.parse(text):
        for part in (token, *(token.children or ())):
            if part.type in ("html_block", "html_inline"):
                found += re.findall(r"<[^>]*>?", part.content)
    return found


def plain_text(text: str) -> str:
    """What a reader sees."""
    shown = []
    for token in PARSER.parse(text):
        shown += [child.content for child in token.children or ()]
    return "".join(shown).replace("\u200b", "")


def test_begins_with_the_verdict_and_the_reasons(make_record):
    lines = REPORTER.render(make_record("fail")).splitlines()
    assert lines[0] == "## FAIL: digits-cnn"
    assert lines[2] == "stage pr, exit 1"
    assert lines[4] == "Blocked by"
    assert lines[6].startswith("- **accuracy, drop ≤ 1.00 pp**: drop 5.50 pp ")
    assert lines[6].endswith("over by 4.50 pp")
    assert any(line.startswith("Since the last PASS (2026-07-23 16:40 UTC") for line in lines)


def test_observed_failure_only_would_be_blocked(make_record):
    assert "Would be blocked by" in REPORTER.render(make_record("fail", judge={"mode": "observe"}))


@pytest.mark.parametrize("kind", ["pass", "fail", "inconclusive", "undefined"])
def test_is_valid_markdown_with_three_tables(make_record, kind):
    tokens = PARSER.parse(REPORTER.render(make_record(kind)))
    assert [token.type for token in tokens].count("table_open") == 3
    assert set(tags(REPORTER.render(make_record(kind)))) == OWN_HTML


def test_every_row_has_its_cells(make_record):
    text = REPORTER.render(make_record("fail"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert widths == {7, 3, 4}


@given(st.text(max_size=60))
def test_escaped_text_is_only_text(text):
    line = " ".join(text.split())
    for document in (escape(line), f"- {escape(line)}", f"| a |\n| --- |\n| {escape(line)} |\n"):
        parts = [
            part for token in PARSER.parse(document) for part in (token, *(token.children or ()))
        ]
        kinds = {part.type for part in parts}
        for banned in ("html", "link", "image", "em_", "strong", "code", "heading", "hr", "s_"):
            assert not any(kind.startswith(banned) for kind in kinds), (document, kinds)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script>"),
        ("&lt;", "&amp;lt;"),
        ("`x`", r"\`x\`"),
        ("snake_case", "snake_case"),
        ("_em_", r"\_em\_"),
        ("[a](b)", r"\[a](b)"),
        ("@everyone", "@&#8203;everyone"),
        ("CPU @ 2.7", "CPU @ 2.7"),
        ("fixes #12", "fixes #&#8203;12"),
        ("https://x.org", "https:&#8203;//x.org"),
        ("www.x.org", "www&#8203;.x.org"),
        ("models:/m/3", "models:/m/3"),
        ("97.10 %", "97.10 %"),
        ("1. one", "1&#8203;. one"),
        ("# h", r"\# h"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


def many(make_record, count: int, reason: str):
    budgets = [{"metric": f"m{index}", "max_drop": 0.01} for index in range(count)]
    first = make_record("fail").verdict.findings[0]
    findings = [
        first.model_copy(update={"budget": Budget.model_validate(budget).id, "reason": reason})
        for budget in budgets
    ]
    verdict = {"outcome": "fail", "findings": findings}
    return make_record("fail", judge={"budgets": budgets}, verdict=verdict)


@pytest.mark.parametrize("reason", ["short", "@x" * 150])
def test_is_under_sixty_kilobytes_and_counts_what_it_leaves_out(make_record, reason):
    text = REPORTER.render(many(make_record, 1000, reason))
    assert len(text.encode()) <= LIMIT
    assert "- and 990 more budgets, below" in text
    left_out = int(re.search(r"\| (\d+) more rows, in record.json \|", text)[1])
    assert text.count("**FAIL**") == 1000 - left_out
    assert "What was compared, and how" in text


@pytest.mark.parametrize("limit", [2000, 4000, 8000])
def test_fits_any_page(make_record, limit):
    for record in (make_record("fail"), many(make_record, 200, "@x" * 150)):
        text = render_within(record, limit)
        assert len(text.encode()) <= limit
        assert text.startswith("## FAIL: digits-cnn")
        assert set(tags(text)) <= OWN_HTML
        assert text.count("<details>") == text.count("</details>")


def test_a_usual_report_fits_a_note_of_mlflow(make_record):
    for kind in ("pass", "fail", "inconclusive"):
        assert len(REPORTER.render(make_record(kind))) < 8000


def test_a_reader_sees_the_names_as_they_are(make_record):
    name = "a_b |c| <d> `e` @f #1 *g*"
    candidate = make_record().candidate.model_copy(update={"source": name})
    assert name in plain_text(REPORTER.render(make_record(candidate=candidate)))
