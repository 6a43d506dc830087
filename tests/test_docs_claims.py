"""docs/security.md and docs/comparison.md: each claim has its test, each figure its page."""

import re
from pathlib import Path

import pytest
from support.markdown import ROOT

DOCS = ROOT / "docs"
SECURITY = (DOCS / "security.md").read_text(encoding="utf-8")
COMPARISON = (DOCS / "comparison.md").read_text(encoding="utf-8")
TEST = r"`tests/[\w/]+\.py::test_\w+`"
FIGURE = r"\d[\d,]*(?:\.\d+)?(?= (?:s|×|MB|%|pp)\b| ×| %|;)"


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, heads first, without the line below them."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
         if not re.fullmatch(r"[|\s-]+", line)]
        for table in found
    ]  # fmt: skip


def test_every_claim_of_the_security_model_names_its_test() -> None:
    shown = [table for table in tables(SECURITY) if table[0][-1] == "shown by"]
    rows = [row for table in shown for row in table[1:]]
    assert len(shown) >= 6
    assert len(rows) > 40
    for claim, proof in rows:
        names = re.findall(TEST, proof)
        assert names, f"nothing shows: {claim}"
        assert re.sub(TEST, "", proof).strip(" ,") == ""


def measured() -> list[tuple[list[str], Path]]:
    """Rows of measurements, each with the page that they come from."""
    (table,) = (one for one in tables(COMPARISON) if one[0][-1] == "from")
    found: list[tuple[list[str], Path]] = []
    for row in table[1:]:
        link = re.search(r"\]\(([\w.-]+\.md)", row[-1])
        found.append((row[:-1], DOCS / link[1] if link else found[-1][1]))
    return found


@pytest.mark.parametrize(("row", "page"), measured(), ids=lambda one: str(one)[:40])
def test_every_figure_stands_on_the_page_that_is_named(row: list[str], page: Path) -> None:
    figures = re.findall(FIGURE, " ; ".join(row) + " ;")
    assert figures, row
    text = page.read_text(encoding="utf-8")
    for figure in figures:
        assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d])", text), f"{figure} of {row}"


def test_the_error_rates_are_those_of_the_simulation() -> None:
    rows = {
        tuple(row[:2]): row[2:]
        for table in tables((DOCS / "verdict.md").read_text(encoding="utf-8"))
        for row in table
    }
    worse, better = rows["1,000", "1.3 pp"], rows["1,000", "0.7 pp"]
    said = " ".join(COMPARISON.split())
    assert f"truly loses 1.3 pp {worse[0]} of the time" in said
    assert f"one that loses 0.7 pp {better[1]} of the time" in said
    assert f"The gate releases the first {worse[2]} of the time" in said
    assert better[3] == worse[2]  # "blocks the second as a FAIL as rarely"
    assert {inconclusive.split(".")[0] for inconclusive in (worse[4], better[4])} == {"85"}


def test_drift_is_that_of_the_simulation() -> None:
    history = (DOCS / "history.md").read_text(encoding="utf-8")
    rows = [row[:2] for table in tables(history) for row in table]
    place, step = next((i, row[1]) for i, row in enumerate(rows) if "under a step" in row[0])
    name, ours = rows[place + 1]
    assert name == "and under ours"
    assert f"| a budget a step: {step} | a budget against the anchor: {ours} |" in COMPARISON
