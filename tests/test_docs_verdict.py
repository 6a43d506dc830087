"""docs/verdict-explained.md and its picture: every number is computed by `gate.statistics`."""

import importlib.util
import re
import sys
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from support.markdown import ROOT

from gate.statistics import ledger, power

PAGE = (ROOT / "docs" / "verdict-explained.md").read_text(encoding="utf-8")
SVG = ROOT / "docs" / "verdict.svg"
SPACE = "{http://www.w3.org/2000/svg}"


def script() -> ModuleType:
    file = ROOT / "docs" / "examples" / "verdict_picture.py"
    spec = importlib.util.spec_from_file_location("verdict_picture", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


PICTURE = script()
cases = pytest.mark.parametrize("case", PICTURE.CASES, ids=lambda case: case.name)


def test_the_picture_is_what_the_script_draws() -> None:
    assert SVG.read_text(encoding="utf-8") == PICTURE.svg(), (
        "python docs/examples/verdict_picture.py > docs/verdict.svg"
    )


def test_the_releases_show_every_answer() -> None:
    assert [case.outcome for case in PICTURE.CASES] == ["pass", "inconclusive", "pass", "fail"]


@cases
def test_the_table_says_what_the_statistics_do(case) -> None:
    low, high = map(PICTURE.points, case.interval)
    counted = f"| {case.name} | {case.n:,} | {case.lost} | {case.gained} |"
    assert f"{counted} {PICTURE.points(case.drop)} pp | {low} to {high} | {case.outcome} |" in PAGE
    assert len(re.findall(r"^\| [A-Z] \|", PAGE, re.MULTILINE)) == len(PICTURE.CASES)


@cases
def test_a_bar_lies_where_its_verdict_says(case) -> None:
    low, high = case.interval
    side = {"pass": high < PICTURE.LIMIT, "fail": low > PICTURE.LIMIT}
    assert side.get(case.outcome, low < PICTURE.LIMIT < high)


@cases
def test_what_is_drawn_are_the_numbers(case) -> None:
    root = ET.fromstring(SVG.read_text(encoding="utf-8"))
    bars = [line for line in root.iter(f"{SPACE}line") if line.get("class", "").startswith("bar")]
    bar = bars[PICTURE.CASES.index(case)]

    def points_at(x: str | None) -> float:
        return (float(x or "nan") - PICTURE.LEFT) / PICTURE.PX_PER_POINT - PICTURE.ZERO

    drawn = points_at(bar.get("x1")), points_at(bar.get("x2"))
    assert drawn == pytest.approx([100 * end for end in case.interval], abs=0.01)
    assert bar.get("class") == f"bar {case.outcome}"


def test_the_picture_loads_nothing_and_has_words() -> None:
    text = SVG.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.find(f"{SPACE}title") is not None
    assert root.find(f"{SPACE}desc") is not None
    assert not re.search(r"<script|<image|href|url\(|@import", text)


def test_how_many_examples_it_takes() -> None:
    one, three = (power.without_flips(limit, alpha=0.05) for limit in (0.01, 0.03))
    assert f"1.00 pp takes {one} examples, one of\n3.00 pp takes {three}." in PAGE
    some = power.examples_needed(0.02, 0.0025, 0.01, alpha=0.05)
    assert f"a true drop of 0.25 pp, {some:,} examples\nprove" in PAGE


def test_most_tools_would_release_b() -> None:
    b = PICTURE.CASES[1]
    assert b.drop < PICTURE.LIMIT
    assert f"The bar reaches {PICTURE.points(b.interval[1])}, so" in PAGE
    c = PICTURE.CASES[2]
    assert (c.drop, c.n) == (b.drop, 5 * b.n)


def test_tries_cost() -> None:
    """The figure is that of docs/verdict.md's simulation; the ledger makes each try stricter."""
    simulated = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert ".05 / .12 / .24 / .39 of the time after 1 / 3 / 10 / 30" in simulated
    assert "30 tries pass falsely 39 times in 100" in PAGE
    assert ledger.alpha_of_attempt(0.05, 2) < ledger.alpha_of_attempt(0.05, 1)
