"""A record as one page: opens from disk and in MLflow, loads nothing, runs no script."""

import base64
import hashlib
from collections.abc import Iterator, Mapping

from gate.exhibits import Seen
from gate.records import GateRecord
from gate.reporters import (
    _html_first,
    _html_flips,
    _html_forest,
    _html_history,
    _html_made,
    _html_plots,
    _html_tables,
    _html_why,
)
from gate.reporters._html_style import STYLE
from gate.reporters._html_tags import Html, section, tag

_NAV = {
    "budgets": "Budgets",
    "slices": "Slices",
    "flips": "Answers that changed",
    "why": "Why",
    "plots": "Calibration",
    "time": "Latency",
    "history": "History",
    "made": "What it rests on",
}


class HtmlReporter:
    """The verdict, why and what to do; then every number, as drawings and as tables."""

    key = "html"
    filename: str | None = "report.html"

    def render(self, record: GateRecord) -> str:
        """The whole page, under 2 MB with a thousand slices; what is left out is counted."""
        return self.render_with(record, {})

    def render_with(self, record: GateRecord, examples: Mapping[str, Seen]) -> str:
        """The page with what changed examples look like, by id: pictures or text of the data."""
        parts = [part for part in _sections(record, examples) if part]
        body = (
            tag("a", "Skip to the verdict", href="#main", class_="skip"),
            _html_first.banner(record),
            _nav(parts),
            tag("main", *(Html(f"\n{part}") for part in parts), id="main"),
            tag("footer", tag("p", f"Record {record.id}; record.json beside this page has it all.",
                              class_="faint")),
        )  # fmt: skip
        page = tag(
            "html",
            _head(record, with_images=bool(examples)),
            tag("body", *(Html(f"\n{part}") for part in body)),
            lang="en",
        )
        return f"<!doctype html>\n{page}\n"


REPORTER = HtmlReporter()


def _sections(record: GateRecord, examples: Mapping[str, Seen]) -> Iterator[Html]:
    yield _html_first.first(record)
    yield section("budgets", "Budgets", _html_forest.forest(record), _html_tables.budgets(record))
    yield _html_tables.slices(record)
    yield _html_flips.flips(record, examples)
    yield from _html_tables.parts(record)
    yield _html_why.why(record)
    yield _html_plots.plots(record)
    yield _html_plots.times(record)
    yield _html_history.history(record)
    yield _html_tables.others(record)
    yield _html_made.made(record)


def _nav(parts: list[Html]) -> Html:
    """To the parts that this record has."""
    there = [key for key in _NAV if any(f'<h2 id="{key}">' in part for part in parts)]
    links = (tag("li", tag("a", _NAV[key], href=f"#{key}")) for key in there)
    return tag("nav", tag("ul", *links), aria_label="Parts of this report")


def _head(record: GateRecord, *, with_images: bool) -> Html:
    """A page that may load nothing and run nothing; only its own style and images count."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    allowed = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        + ("; img-src data:" if with_images else "")
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=allowed),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{record.verdict.outcome.upper()}: {record.model}"),
        tag("style", Html(STYLE)),
    )
