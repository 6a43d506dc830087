import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from support.releases import METRIC, bridge, move, past

from gate.commands._history_data import all_as_csv, all_as_json, as_csv, as_json
from gate.commands._history_html import all_page, page
from gate.commands._history_line import Line, Past, line_of
from gate.commands._history_series import Asked

EVIL = "<script>alert('x')</script>"


def line(*runs: object, model: str = "cnn", **known: object) -> Line:
    return line_of(Past(model, runs, **known), Asked())  # type: ignore[arg-type]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def changed() -> Line:
    runs = (
        past(4, "error", metrics={}, version=None, tags={"error": EVIL}),
        past(3, "fail", int8=0.94, tags={"held_out": "b" * 64, "blocked": "accuracy"}),
        past(2, tags={"mode": "observe"}),
        past(1),
    )
    known = bridge("a" * 64, "b" * 64, record="record1", values={"accuracy": 0.96})
    return line(*runs, production="2", bridges=(known,), moves=(move(2.5, "2", "1", why=EVIL),))


def test_json_has_every_run_oldest_first() -> None:
    document = json.loads(as_json(changed()))
    assert [run["run"] for run in document["runs"]] == ["run1", "run2", "run3", "run4"]
    assert document["anchor"] == {
        "name": "models:/cnn-int8/1", "named_by_policy": False, "record": "record1", "run": "run1",
    }  # fmt: skip
    third = document["runs"][2]
    assert third["held_out_change"]["bridge"] == "bridge-bbbb"
    assert third["drift"] == pytest.approx(0.02)
    assert (third["drift_how"], third["outcome"]) == ("computed", "fail")
    assert document["moves"][0]["previous"] == "1"
    assert {frozenset(run) for run in document["runs"]} == {frozenset(third)}


def test_json_holds_no_nan() -> None:
    run = past(1, numbers={f"{METRIC}/{key}": float("nan") for key in ("drop", "int8", "lower")})
    assert "NaN" not in as_json(line(run))


def test_json_of_all_keeps_a_model_without_runs() -> None:
    document = json.loads(all_as_json([changed(), line(model="empty")]))
    assert [(one["model"], one["runs"]) for one in document["models"]] == [("cnn", 4), ("empty", 0)]
    assert document["models"][1]["newest"] is None
    assert document["models"][0]["newest"]["outcome"] == "error"


def test_csv_is_rfc_4180() -> None:
    text = as_csv(changed())
    assert text.count("\r\n") == text.count("\n") == 5
    found = rows(text)
    assert found[1]["marks"] == "observed only"
    assert found[1]["is_production"] == "true"
    assert found[2]["held_out_change"] == "bridged"
    assert float(found[0]["left"]) == pytest.approx(0.008)
    assert found[3]["int8"] == ""


@pytest.mark.parametrize("evil", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\t=1"])
def test_csv_holds_no_formula(evil: str) -> None:
    found = rows(as_csv(line(past(1, tags={"recipe": evil}))))
    assert found[0]["recipe"] == f"'{evil}"


def test_csv_leaves_numbers_and_commas_alone() -> None:
    found = rows(as_csv(line(past(1, int8=0.97, tags={"recipe": "-1.5", "blocked": 'a, "b"'}))))
    assert found[0]["recipe"] == "-1.5"
    assert found[0]["reason"] == 'a, "b"'
    assert float(found[0]["drop"]) == pytest.approx(-0.009)


def test_csv_of_all_has_a_row_a_model() -> None:
    found = rows(all_as_csv([changed(), line(model="empty")]))
    assert [row["model"] for row in found] == ["cnn", "empty"]
    assert found[1]["outcome"] == ""


class _Tags(HTMLParser):
    """Every tag is closed, in order."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> list[str]:
    parser = _Tags()
    parser.feed(text)
    assert parser.open == []
    return parser.seen


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    text = page(line_of(changed().past, Asked()))
    seen = parsed(text)
    assert "script" not in seen
    assert "&lt;script&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text)
    assert "url(" not in text
    assert text.count("http") == 1  # the namespace of SVG
    assert "prefers-color-scheme:dark" in text


def test_a_drawing_says_what_it_shows() -> None:
    text = page(changed())
    assert 'role="img"' in text
    assert "<title>cnn: 4 releases, oldest first</title>" in text
    assert 'class="change bridged"' in text
    for kind in ("pass", "fail", "error"):
        assert f'<g class="outcome {kind}">' in text
    assert text.count('class="bar"') == 3
    assert "Drift against the anchor" in text


def test_one_page_holds_all_models() -> None:
    text = all_page([changed(), line(model=f"other{EVIL}"), line(past(1), model="third")])
    parsed(text)
    assert text.count("<svg") == 2
    assert "no run is kept" in text
    assert "<script" not in text


@pytest.mark.parametrize("count", [1, 2, 400])
def test_any_number_of_releases_can_be_drawn(count: int) -> None:
    parsed(page(line(*(past(n) for n in reversed(range(count))))))


def test_without_numbers_nothing_is_drawn() -> None:
    assert "<svg" not in page(line(past(1, "error", metrics={})))


@pytest.mark.parametrize("value", [1e11, 1e15, 0.0, 3e-9])
def test_a_panel_has_room_for_its_numbers(value: float) -> None:
    runs = (past(n, numbers={"size/int8": value, "size/fp32": value}) for n in (2, 1))
    text = page(line_of(Past("cnn", tuple(runs)), Asked("size")))
    levels = re.findall(r'text-anchor="end">([^<]*)<', text)
    assert max(map(len, levels)) <= 9
    assert levels.count("0") <= text.count('class="head"')  # no zero on top of another


def test_different_metrics_are_not_drawn_and_the_page_says_so() -> None:
    other = past(2, tags={"metric": "size"}, numbers={"size/int8": 1.0})
    text = page(line(other, past(1)))
    assert "<svg" not in text
    assert "Nothing is drawn, as runs are shown by different metrics" in text
    assert "accuracy.max_drop, size" in text


def test_a_table_can_be_scrolled_without_a_mouse() -> None:
    text = all_page([changed()])
    assert text.count('role="region" aria-label="') == text.count("<table") == 2
    assert text.count('tabindex="0"') == 2
    assert "<main>" in text
