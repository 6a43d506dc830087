"""Drawings of the HTML report: each coordinate leads back to a number of the record."""

import re
from typing import Any

import pytest
from support import reports
from support.reports import Element, parsed

from gate import reporters, story, wording
from gate.records import GateRecord
from gate.reporters import _html_tags
from gate.reporters._html_plots import Frame, span

NEAR = 0.011
"""Of a pixel: coordinates have two decimals."""
LIMIT_X = 530.0


def page(record: GateRecord) -> Element:
    return parsed(reporters.get("html").render(record))


def chart(root: Element, key: str) -> Element:
    return next(s for s in root.all("svg") if s["aria-labelledby"] == f"{key}-title")


def blocks(root: Element) -> list[Element]:
    return [g for g in root.all("g") if "data-per-unit" in g.attributes]


def back(block: Element, x: str) -> float:
    """From a place in the forest to a number."""
    return float(block["data-limit"]) + (float(x) - LIMIT_X) / (
        int(block["data-sign"]) * float(block["data-per-unit"])
    )


# ── forest ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["pass", "fail", "inconclusive"])
def test_every_place_in_the_forest_is_a_number_of_the_record(make_record: Any, kind: str) -> None:
    record = make_record(kind, slices=40)
    expected = {
        (case.finding.budget, case.finding.slice): (
            wording.measured(case.finding.comparison, case.quantity),
            wording.bounds(case.finding.comparison, case.quantity),
        )
        for case in story.cases(record)
        if case.finding.comparison
    }
    seen = set()
    for block in blocks(page(record)):
        near = NEAR / float(block["data-per-unit"])
        for row in block.all("g", class_="finding"):
            key = (block["data-budget"], row.attributes.get("data-slice"))
            number, ends = expected[key]
            assert float(row["data-value"]) == number
            (place,) = [g["data-x"] for g in row.all("g") if "data-x" in g.attributes]
            assert back(block, place) == pytest.approx(number, abs=near)
            (drawn,) = row.all("g")[0].all("path")
            assert drawn["d"].startswith(f"M{place} ")
            bars = row.all("path", class_="bar")
            assert (ends is None) == (bars == [])
            if ends is not None:
                told = (float(row["data-lower"]), float(row["data-upper"]))
                assert told == ends
                low, high = back(block, bars[0]["data-from"]), back(block, bars[0]["data-to"])
                assert sorted((low, high)) == pytest.approx(sorted(ends), abs=near)
                first = f"M{bars[0]['data-from']} "
                assert bars[0]["d"].startswith(first)
            seen.add(key)
    assert seen == set(expected)


def test_right_of_the_line_is_beyond_the_budget(make_record: Any) -> None:
    record = make_record("fail", slices=40)
    cases = {(c.finding.budget, c.finding.slice): c for c in story.cases(record)}
    for block in blocks(page(record)):
        for row in block.all("g", class_="finding"):
            case = cases[block["data-budget"], row.attributes.get("data-slice")]
            (place,) = [float(g["data-x"]) for g in row.all("g") if "data-x" in g.attributes]
            assert (place > LIMIT_X) == (case.beyond > 0)
            assert 310 <= place <= 670


def test_the_forest_is_in_the_order_of_the_story(make_record: Any) -> None:
    record = make_record("fail", slices=6)
    drawn = [
        (block["data-budget"], row.attributes.get("data-slice"))
        for block in blocks(chart(page(record), "forest"))
        for row in block.all("g", class_="finding")
    ]
    told = [(c.finding.budget, c.finding.slice) for g in story.groups(record) for c in g.cases]
    assert drawn == told


def test_each_outcome_has_a_shape_and_a_word(make_record: Any) -> None:
    record = make_record("fail")
    shapes = {}
    for row in chart(page(record), "forest").all("g", class_="finding"):
        kind = row["class"].split()[1]
        path = row.all("path", class_="mark")[0]["d"]
        shapes.setdefault(kind, re.sub(r"^M\S+ [\d.]+", "", path))
        assert row.all("text", class_="right")[0].text.lower() in {kind, "not proven"}
    assert len(set(shapes.values())) == len(shapes) == 3


@pytest.mark.parametrize("name", ["hospital-" * 12, "模型" * 40, "\u202e" * 60])
def test_long_names_keep_what_tells_them_apart(make_record: Any, name: str) -> None:
    fields = make_record("fail").model_dump(mode="json")
    for index, finding in enumerate(fields["verdict"]["findings"][1:11]):
        finding["slice"] = f"{name}{index}"
    root = page(GateRecord.model_validate(fields))
    rows = [row for svg in root.all("svg") for row in svg.all("g", class_="finding")]
    labels = [row.all("text")[0].text for row in rows if "data-slice" in row.attributes]
    assert len(set(labels)) == 10
    assert max(map(len, labels)) <= 42


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, 1.7e308, -1.7e308])
def test_any_number_can_be_drawn(make_record: Any, value: float) -> None:
    first = make_record("fail").verdict.findings[0]
    comparison = first.comparison.model_copy(
        update={"degradation": value, "lower": value, "upper": 1.0}
    )
    findings = [first.model_copy(update={"comparison": comparison})]
    points = [(0.0, value), (value, 1.0)]
    plot = reports.plot() | {"series": [{"name": "a", "points": points}]}
    record = reports.rich(
        make_record, "fail", plots=[plot], verdict={"outcome": "fail", "findings": findings},
        past=[{**reports.past(1)[0], "drop": value, "drift": value}],
    )  # fmt: skip
    root = page(record)
    assert len(root.all("svg")) == 5
    for path in [*root.all("path"), *root.all("circle"), *root.all("text")]:
        assert not re.search(r"nan|inf", " ".join(map(str, path.attributes.values())))


# ── curves ────────────────────────────────────────────────────────────────────────────────


def places(group: Element) -> list[tuple[float, float, float, float]]:
    """Of each dot: its number across and down, and the numbers its place leads back to."""
    box = {k: float(group[f"data-{k}"]) for k in ("x0", "x1", "y0", "y1")}
    box |= {k: float(group[f"data-{k}"]) for k in ("left", "right", "top", "foot")}
    return [
        (
            float(dot["data-x"]),
            float(dot["data-y"]),
            box["x0"] + (box["x1"] - box["x0"]) * (float(dot["cx"]) - box["left"])
            / (box["right"] - box["left"]),
            box["y0"] + (box["y1"] - box["y0"]) * (box["foot"] - float(dot["cy"]))
            / (box["foot"] - box["top"]),
        )
        for dot in group.all("circle")
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["plot-0", "time-0"])
def test_every_dot_of_a_curve_is_a_point_of_the_record(make_record: Any, key: str) -> None:
    record = reports.rich(make_record)
    rounds = record.process.rounds["latency_p50"]
    timed = [[(float(i), v) for i, v in enumerate(side, 1)]
             for side in (rounds.reference, rounds.int8)]  # fmt: skip
    expected = {
        "plot-0": [list(series.points) for series in record.plots[0].series],
        "time-0": timed,
    }[key]
    (group,) = [g for g in chart(page(record), key).all("g") if "data-x0" in g.attributes]
    found = places(group)
    assert [(x, y) for x, y, _, _ in found] == [point for line in expected for point in line]
    for x, y, across, down in found:
        assert across == pytest.approx(x, abs=NEAR * 0.1)
        assert down == pytest.approx(y, abs=NEAR * 0.1)
    lines = [path["d"] for g in group.all("g") for path in g.all("path", class_="curve")
             if "data-series" in g.attributes]  # fmt: skip
    dots = [f"{dot['cx']} {dot['cy']}" for dot in group.all("circle")]
    assert [p for line in lines for p in line[1:].split("L")] == dots


def test_a_long_curve_is_thinned_and_whole_in_the_record(make_record: Any) -> None:
    root = page(make_record("pass", plots=[reports.plot(points=5000)]))
    assert 200 <= len(chart(root, "plot-0").all("circle")) <= 402
    assert "5,000 points" in chart(root, "plot-0").all("desc")[0].text


def test_layers_are_bars_of_their_share(make_record: Any) -> None:
    record = reports.rich(make_record)
    bars = chart(page(record), "layers").all("rect")
    assert [float(bar["data-share"]) for bar in bars] == [x.share for x in record.diagnosis.layers]
    for bar in bars:
        assert float(bar["width"]) == pytest.approx(420 * float(bar["data-share"]), abs=NEAR)


# ── history ───────────────────────────────────────────────────────────────────────────────


def test_history_ends_with_this_run_and_shows_what_is_left(make_record: Any) -> None:
    record = reports.rich(make_record)
    root = page(record)
    drops = [point.drop for point in record.past] + [
        record.verdict.findings[0].comparison.degradation
    ]
    panel, drift = [g for g in chart(root, "history-chart").all("g") if "data-x0" in g.attributes]
    marks = [g for g in panel.all("g") if "data-value" in g.attributes]
    assert [float(g["data-value"]) for g in marks] == drops
    y0, y1, top, foot = (float(panel[f"data-{k}"]) for k in ("y0", "y1", "top", "foot"))
    for g in marks:
        value = y0 + (y1 - y0) * (foot - float(g["data-y"])) / (foot - top)
        assert value == pytest.approx(float(g["data-value"]), abs=1e-4)
    limits = [float(path["data-limit"]) for path in panel.all("path", class_="limit")]
    assert limits == [0.01] * 8
    shown = [float(g["data-value"]) for g in drift.all("g") if "data-value" in g.attributes]
    assert shown == [point.drift for point in record.past if point.drift is not None]
    rows = [
        [c.text for c in row.children] for row in root.all("tr") if "data-drop" in row.attributes
    ]
    assert [row[7] for row in rows][:2] == ["0.90 pp", "0.82 pp"]
    assert rows[-1][7] == "−4.50 pp"
    assert rows[-1][0].endswith("(this run)")


def test_another_held_out_set_is_marked(make_record: Any) -> None:
    assert (
        len(chart(page(reports.rich(make_record)), "history-chart").all("path", class_="none")) == 1
    )


@pytest.mark.parametrize("threshold", ["at_least", "at_most", "max_ratio"])
def test_what_is_left_is_of_the_budgets_own_kind(make_record: Any, threshold: str) -> None:
    asked = {"metric": "accuracy", threshold: 0.9}
    made = make_record().comparisons[0]
    finding = {"budget": f"accuracy.{threshold}", "comparison": made, "outcome": "pass",
               "reason": "", "blocking": False}  # fmt: skip
    past = [{**reports.past(1, limit=0.9)[0], "int8": 0.95, "drop": -0.25}]
    record = make_record("pass", judge={"budgets": [asked]}, past=past,
                         verdict={"outcome": "pass", "findings": [finding]})  # fmt: skip
    row = next(row for row in page(record).all("tr") if "data-drop" in row.attributes)
    left = [c.text for c in row.children][7]
    assert (
        left
        == {"at_least": "5.00 pp", "at_most": "−5.00 pp", "max_ratio": "0.15 × FP32"}[threshold]
    )


def test_a_past_without_numbers_is_a_table_alone(make_record: Any) -> None:
    bare = {"limit": None, "drift": None, "drop": None, "int8": None, "reference": None}
    findings = [make_record().verdict.findings[0].model_copy(update={"comparison": None})]
    record = make_record("fail", past=[{**p, **bare} for p in reports.past(2)],
                         verdict={"outcome": "fail", "findings": findings})  # fmt: skip
    root = page(record)
    assert len([row for row in root.all("section") if row["aria-labelledby"] == "history"]) == 1
    assert all(s["aria-labelledby"] != "history-chart-title" for s in root.all("svg"))


# ── axes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 38, [0, 10, 20, 30]), (0.98, 1.0, 5)],
)
def test_ticks_are_round(low: float, high: float, expected: Any) -> None:
    found = _html_tags.ticks(low, high)
    if isinstance(expected, int):
        assert len(found) == expected
    else:
        assert found == pytest.approx(expected)


def test_a_frame_holds_what_it_was_made_for() -> None:
    for values in ([0.0], [5.0, 5.0], [-2.0, 3.0], [1e308, -1e308], [0.0, 5e-324]):
        low, high = span(values)
        frame = Frame((low, high), (low, high))
        assert low < high
        assert frame.left <= frame.x(min(values)) <= frame.x(max(values)) <= frame.right
        assert _html_tags.ticks(low, high)
