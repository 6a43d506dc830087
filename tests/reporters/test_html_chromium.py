"""The HTML report in a real browser: it renders, asks for nothing, and everybody can read it."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import browser, reports
from support.browser import Reader

from gate import reporters, story, wording
from gate.records import GateRecord

pytestmark = [
    pytest.mark.skipif(browser.program() is None, reason=browser.ABSENT),
    pytest.mark.xdist_group("chromium"),
]
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"
PLACES = """
[...document.querySelectorAll('svg g.finding')].map(row => {
  const centre = e => { const b = e.getBoundingClientRect(); return b.left + b.width / 2 };
  const block = row.closest('[data-per-unit]');
  if (!block || !row.dataset.value) return null;
  const unit = row.ownerSVGElement.getBoundingClientRect().width / 980;
  return {
    budget: block.dataset.budget, slice: row.dataset.slice ?? null,
    value: +block.dataset.limit + (centre(row.querySelector('.mark'))
      - centre(block.querySelector('.limit'))) / unit / block.dataset.sign / block.dataset.perUnit,
    near: 0.5 / block.dataset.perUnit,
  };
}).filter(each => each)
"""
"""Numbers, from where the browser has painted them: half a pixel near."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.started() as started:
        yield started


@pytest.fixture
def read(chromium: Any) -> Iterator[Callable[..., Reader]]:
    """Opens a page, or a record's report, in a context of its own that is closed at the end."""
    opened: list[Reader] = []

    def read(what: GateRecord | str, **options: Any) -> Reader:
        text = what if isinstance(what, str) else reporters.get("html").render(what)
        opened.append(Reader(chromium, text, **options))
        return opened[-1]

    yield read
    for reader in opened:
        reader.context.close()


@pytest.mark.parametrize(
    ("kind", "scheme"), [("fail", "light"), ("fail", "dark"), ("pass", "light")]
)
def test_renders_silently_and_accessibly(
    read: Any, make_record: Any, kind: str, scheme: str
) -> None:
    reader = read(
        reports.rich(make_record, kind, slices=4, flips=reports.flips(3)), color_scheme=scheme
    )
    assert reader.page.title() == f"{kind.upper()}: digits-cnn"
    assert reader.page.locator("svg").first.is_visible()
    reader.page.evaluate(OPEN_ALL)
    assert reader.serious() == []
    assert reader.asked == [browser.PLACE]
    assert reader.said == []


def test_axe_would_find_what_is_wrong(read: Any) -> None:
    reader = read("<!doctype html><title>x</title><p style='color:#ccc;background:#fff'>faint")
    assert any(found.startswith("color-contrast") for found in reader.serious())


def test_dark_is_dark_and_paper_is_white(read: Any, make_record: Any) -> None:
    reader = read(make_record("fail"), color_scheme="dark")
    paint = "getComputedStyle(document.body).backgroundColor"
    assert reader.page.evaluate(paint) == "rgb(21, 24, 28)"
    reader.page.emulate_media(media="print", color_scheme="dark")
    assert reader.page.evaluate(paint) == "rgb(255, 255, 255)"
    assert not reader.page.locator("nav").is_visible()


def test_prints(read: Any, make_record: Any) -> None:
    reader = read(reports.rich(make_record))
    paper = reader.page.pdf(format="A4")
    assert paper.startswith(b"%PDF-")
    assert paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") >= 2


@pytest.mark.parametrize("kind", ["fail", "inconclusive"])
def test_what_is_painted_is_what_was_measured(read: Any, make_record: Any, kind: str) -> None:
    record = make_record(kind, slices=30)
    reader = read(record, viewport={"width": 1280, "height": 900})
    reader.page.evaluate(OPEN_ALL)
    found = reader.page.evaluate(PLACES)
    expected = {
        (case.finding.budget, case.finding.slice): wording.measured(
            case.finding.comparison, case.quantity
        )
        for case in story.cases(record)
        if case.finding.comparison
    }
    assert {(each["budget"], each["slice"]) for each in found} == set(expected)
    for each in found:
        number = expected[each["budget"], each["slice"]]
        assert each["value"] == pytest.approx(number, abs=each["near"])


def test_the_page_is_as_wide_as_its_reader(read: Any, make_record: Any) -> None:
    record = reports.rich(make_record, model="n" * 300)
    reader = read(record)
    reader.page.evaluate(OPEN_ALL)
    for width in (360, 800, 1600):
        reader.page.set_viewport_size({"width": width, "height": 800})
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_keyboard_is_enough(read: Any, make_record: Any) -> None:
    reader = read(reports.rich(make_record))
    reader.page.keyboard.press("Tab")
    assert reader.page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    fold = reader.page.locator("summary").first
    fold.focus()
    reader.page.keyboard.press("Enter")
    assert fold.evaluate("each => each.parentElement.open")


@pytest.mark.parametrize("sandbox", ["", "allow-scripts"])
def test_works_in_a_sandboxed_frame(read: Any, make_record: Any, sandbox: str) -> None:
    """As MLflow shows an artifact."""
    text = reporters.get("html").render(reports.rich(make_record))
    reader = read("<!doctype html><title>viewer</title>")
    frame = "([text, sandbox]) => { const frame = document.createElement('iframe'); "
    frame += "frame.sandbox = sandbox; frame.srcdoc = text; frame.width = 900; "
    reader.page.evaluate(frame + "document.body.append(frame) }", [text, sandbox])
    inside = reader.page.frame_locator("iframe")
    assert inside.locator("h1").inner_text() == "FAIL: digits-cnn"
    marker = inside.locator("svg .mark.fail").first
    assert marker.evaluate("e => getComputedStyle(e).fill") == "rgb(179, 22, 27)"
    assert reader.asked == [browser.PLACE]
    assert [said for said in reader.said if "script" not in said.lower()] == []


def test_opens_from_disk(chromium: Any, make_record: Any, tmp_path: Any) -> None:
    file = tmp_path / "report.html"
    file.write_text(reporters.get("html").render(make_record("fail")), encoding="utf-8")
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    assert page.locator("h1").inner_text() == "FAIL: digits-cnn"
    assert said == []
    page.close()


@pytest.mark.parametrize("name", ["script", "quotes", "entities"])
def test_hostile_text_runs_nothing(read: Any, make_record: Any, name: str) -> None:
    reader = read(reports.hostile(make_record, reports.HOSTILE[name]))
    assert reader.page.locator("script, img, iframe, object").count() == 0
    assert reader.asked == [browser.PLACE]
    assert reader.said == []


def test_shapes_and_colours_reach_the_screen(read: Any, make_record: Any) -> None:
    from PIL import Image

    reader = read(make_record("fail"), color_scheme="light")
    chart = Image.open(io.BytesIO(reader.page.locator("svg").first.screenshot())).convert("RGB")
    pixels = np.asarray(chart).reshape(-1, 3)
    for colour in ((179, 22, 27), (17, 99, 41), (125, 78, 0)):  # fail, pass, not proven
        assert (pixels == colour).all(axis=1).sum() > 50
