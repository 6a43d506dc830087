import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate import trackers
from gate.commands.plan import plan
from gate.errors import DataError, PolicyError, UsageError
from gate.policy_file import load_policy
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun

DIGITS = str(Path(__file__).parents[2] / "policies" / "digits.yaml")
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DROP = "{metric: accuracy, max_drop: 0.01}"
EACH = "{metric: accuracy, max_drop: 0.03, each: g}"
FLIPS = "{metric: prediction_flips, at_most: 0.03}"
TEXT = """\
version: 1
model: cnn
task: classification
build: {{recipe: dynamic}}
judge:
  held_out: {{path: held_out.npz{limit}}}
  expect_fp32: {expected}
  budgets:
{budgets}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(n: int, **columns: Any) -> None:
    np.savez("held_out.npz", x=np.zeros((n, 2), np.float32), target=np.arange(n) % 3, **columns)


def planned(
    *budgets: str,
    limit: str = "",
    expected: str = "{accuracy: 0.96, within: 0.02}",
    tracker: str = "none",
    html: Path | None = None,
) -> str:
    listed = "\n".join(f"    - {budget}" for budget in budgets)
    Path("p.yaml").write_text(TEXT.format(limit=limit, expected=expected, budgets=listed))
    return plan("p.yaml", tracker=tracker, html=html)


def flat(text: str) -> str:
    return " ".join(text.split())


def rows(text: str) -> list[list[str]]:
    """The numbers of every table row."""
    return [
        re.findall(r"[\d.,]+|–", line)
        for line in text.splitlines()
        if re.match(r" +[\d.]+ %  ", line)
    ]


# ── the digits ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Text and page."""
    file = tmp_path_factory.mktemp("plan") / "plan.html"
    return plan(DIGITS, tracker="none", html=file), file.read_text(encoding="utf-8")


def test_the_golden_numbers_stand_in_the_table(digits: tuple[str, str]) -> None:
    found = {(row[0], row[1]): row[2] for row in rows(digits[0])[:8]}
    assert found["2.00", "0.25"] == "2,419"
    assert found["5.00", "0.00"] == "3,162"
    assert len(found) == 8


def test_every_budget_has_its_section(digits: tuple[str, str]) -> None:
    text = flat(digits[0])
    for title in (
        "1. accuracy, drop ≤ 1.00 pp",
        "2. accuracy, each target, drop ≤ 3.00 pp",
        "3. accuracy, each ink, drop ≤ 3.00 pp",
        "4. prediction flips ≤ 3.00 %",
        "5. size ≤ 0.50 × FP32 It needs no examples",
        "6. INT8 share ≥ 0.90 It needs no examples",
    ):
        assert title in text
    assert "10 slices of 89 to 116 examples; 4 of them have the 100" in text
    assert "with target=8 at hand (89)" in text
    assert "a FAIL has to withstand 15 tests at once" in text
    assert "α = 0.05 a budget (1 − the policy's confidence of 95 %)" in text


def test_the_advice_is_the_last_word(digits: tuple[str, str]) -> None:
    assert flat(digits[0]).endswith(
        "Your 1,000 examples prove accuracy, drop ≤ 1.00 pp with 80 % only with fewer than 1.28 % "
        "correctness flips and nothing lost on balance; 2,419 prove it with 80 % at 2.00 % "
        "correctness flips with 0.25 pp truly lost."
    )


def test_the_text_fits_a_terminal(digits: tuple[str, str]) -> None:
    assert max(map(len, digits[0].splitlines())) <= 100
    assert digits[0].endswith(".\n")
    assert "\n\n\n" not in digits[0]


def test_the_plot_rises_and_marks_what_is_at_hand(digits: tuple[str, str]) -> None:
    bars = re.findall(r"▕(.*)▏", digits[0])
    assert len(bars) == 4
    for bar in bars:
        heights = [" ▁▂▃▄▅▆▇█".index(block) for block in bar]
        assert heights == sorted(heights)
        assert (heights[0], heights[-1]) == (0, 8)
    assert "1,000 at hand ▲" in digits[0]


def test_the_same_plan_twice(digits: tuple[str, str]) -> None:
    assert plan(DIGITS, tracker="none", html=None) == digits[0]


# ── the page ──────────────────────────────────────────────────────────────────────────────


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps what they link to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [name for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(digits: tuple[str, str]) -> None:
    tags = Tags()
    tags.feed(digits[1])
    assert tags.open == []
    assert tags.links == []
    assert tags.count["svg"] == tags.count["table"] == 4
    assert "script" not in tags.count
    assert not re.search(r"https?:|url\(|@import", digits[1])


def test_the_page_says_what_the_text_says(digits: tuple[str, str]) -> None:
    text, page = digits
    for number in ("2,419", "14,167", "1.28 %", "4 of them have the 100"):
        assert number in text
        assert number in page
    assert "prefers-color-scheme:dark" in page


def test_a_drawing_is_small(digits: tuple[str, str]) -> None:
    assert max(map(len, re.findall(r"<svg.*?</svg>", digits[1], re.S))) < 10_000


def test_hostile_text_is_escaped() -> None:
    save(39, g=np.array(["<b>x\x1b[31m", "y", "y"] * 13))
    text = planned(EACH, html=Path("o.html"))
    page = Path("o.html").read_text()
    assert "\x1b" not in text + page
    assert "<b>" not in page
    assert "&lt;b&gt;x\\x1b[31m" in page


def test_a_page_that_cannot_be_written() -> None:
    save(10)
    with pytest.raises(UsageError, match=r"--html no/o\.html cannot be written"):
        planned(DROP, html=Path("no/o.html"))


# ── data ──────────────────────────────────────────────────────────────────────────────────


def test_without_data_the_need_is_still_told() -> None:
    text = flat(planned(DROP, EACH))
    assert "there is no held_out.npz yet" in text
    assert "at hand" not in text.split("flips: examples")[0]
    assert "withstand at least 2 tests" in text
    assert "Bring at least 2,419 held-out examples" in text


@pytest.mark.parametrize("n", [1, 2, 3, 40, 300, 401])
def test_small_sets_never_break_it(n: int) -> None:
    save(n, g=np.arange(n) % 2)
    relative = "{metric: accuracy, max_relative_drop: 0.01}"
    floor = "{metric: accuracy, at_least: 0.9}"
    text = planned(DROP, EACH, relative, FLIPS, floor, html=Path("o.html"))
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text + Path("o.html").read_text())
    assert max(map(len, text.splitlines())) <= 100


def test_too_few_even_without_flips() -> None:
    save(50)
    told = "Your 50 examples are too few to prove accuracy, drop ≤ 1.00 pp even if nothing flips"
    assert f"{told} (that takes 301)" in flat(planned(DROP))


def test_enough_for_all() -> None:
    save(5000)
    assert "Your 5,000 examples are enough: even accuracy, drop" in flat(planned(DROP, FLIPS))


def test_limit_is_what_counts() -> None:
    save(1000, g=np.arange(1000) % 4)
    text = flat(planned(DROP, EACH, limit=", limit: 200"))
    assert "1,000 examples, of which `limit` draws 200" in text
    assert "with 200 at hand" in text
    assert "4 slices of 50 examples" in text


def test_slices_that_can_never_fail_are_warned_of() -> None:
    save(30, g=np.arange(30))
    text = flat(planned(EACH))
    assert "30 slices of 1 example; none has the 100" in text
    assert "WARNING: 1 example can never FAIL it, at α / 30, even if all are lost" in text
    assert text.endswith(
        "only harm that is proven blocks, and g=0 has too few examples to prove any."
    )


def test_a_slice_that_does_not_occur() -> None:
    save(30, g=np.arange(30))
    text = flat(planned("{metric: accuracy, max_drop: 0.03, slice: {g: 77}}"))
    assert "WARNING: no held-out example has g=77, and that is a FAIL." in text
    assert text.endswith(
        "Bring examples for accuracy, g=77, drop ≤ 3.00 pp first: without any it is a FAIL."
    )


def test_min_examples() -> None:
    save(30, g=np.array([0] * 25 + [1] * 5))
    each = "{metric: accuracy, max_drop: 0.03, each: g, min_examples: %d}"
    assert "Not judged, below min_examples: 1 slice." in flat(planned(each % 10))
    assert "nothing is judged, as no slice has the 50" in flat(planned(each % 50))


def test_examples_that_share_units_are_left_to_a_first_run() -> None:
    save(30, unit=np.arange(30) // 3)
    text = flat(planned(DROP))
    assert "Its `unit` column groups them" in text
    assert "Stopping early is not available: examples share units." in text
    assert "the record of a first run will tell" in text
    save(30, unit=np.arange(30))
    assert "unit" not in planned(DROP)


def test_damaged_and_empty_data() -> None:
    Path("held_out.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="cannot be read"):
        planned(DROP)
    save(0)
    with pytest.raises(DataError, match="is empty"):
        planned(DROP)


# ── budgets ───────────────────────────────────────────────────────────────────────────────


def test_a_budget_of_nothing_is_impossible() -> None:
    save(100)
    text = flat(planned("{metric: accuracy, max_drop: 0}"))
    assert "No number of examples proves it: exactly none cannot be told from very few." in text
    assert text.endswith("Change accuracy, drop ≤ 0.00 pp first: no number of examples proves it.")


def test_a_relative_drop_without_a_baseline() -> None:
    save(100)
    text = planned("{metric: accuracy, max_relative_drop: 0.01}", expected="unknown")
    assert "depends on FP32's accuracy: write it into `expect_fp32`" in flat(text)


def test_artifacts_alone_need_no_examples() -> None:
    save(100)
    assert planned("{metric: size, max_ratio: 0.5}").endswith("No budget here needs examples.\n")


def test_what_is_wrong_with_a_policy_is_said() -> None:
    with pytest.raises(PolicyError, match=r"p\.yaml:9:16: unknown metric 'acuracy'"):
        planned("{metric: acuracy, max_drop: 0.01}")
    with pytest.raises(PolicyError, match="cannot be read"):
        plan("no.yaml", tracker="none", html=None)
    save(30, g=np.arange(30))
    with pytest.raises(PolicyError, match="unknown slice column 'h'"):
        planned("{metric: accuracy, max_drop: 0.03, each: h}")


def test_an_unknown_tracker() -> None:
    save(30)
    with pytest.raises(UsageError, match="none"):
        planned(DROP, tracker="nothing")


# ── history ───────────────────────────────────────────────────────────────────────────────


class Memory:
    """A tracker that remembers what it is given, newest first."""

    key = "memory"

    def __init__(
        self,
        *records: Mapping[str, Any] | None,
        outcome: str = "pass",
        stage: str = "pr",
        tried: Sequence[Attempt] = (),
        **tags: str,
    ) -> None:
        self.records = records
        self.outcome = outcome
        self.stage, self.tags, self.tried = stage, tags, tried

    def past(self, model: str) -> Sequence[PastRun]:
        assert model == "cnn"
        whens = [START - timedelta(hours=hours) for hours in range(len(self.records))]
        return [
            PastRun(str(i), when, self.stage, self.outcome, "a" * 64, None, {}, self.tags)
            for i, when in enumerate(whens)
        ]

    def attempts(self, model: str) -> Sequence[Attempt]:
        return self.tried

    def record(self, run: str) -> Mapping[str, Any] | None:
        return self.records[int(run)]

    def where(self) -> str:
        return "memory"


def record(lost: int, gained: int, n: int = 1000, **changes: Any) -> dict[str, Any]:
    counts = {"both_right": n - lost - gained, "lost": lost, "gained": gained, "both_wrong": 0}
    accuracy = {"metric": "accuracy", "slice": None, "against": "fp32", "counts": counts}
    accuracy |= {"reference": 0.97, "int8": 0.96} | changes
    flips = {"metric": "prediction_flips", "slice": None, "against": "fp32", "int8": 0.011}
    return {"comparisons": [accuracy, flips]}


@pytest.fixture
def remember(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*records: Any, **changes: Any) -> None:
        monkeypatch.setattr(trackers, "get", lambda key: Memory(*records, **changes))

    return install


def test_flip_rates_are_those_of_the_last_three_runs(remember: Any) -> None:
    save(1000)
    remember(record(3, 1), record(5, 2), None, record(4, 0), record(90, 0))
    text = planned(DROP, FLIPS, tracker="memory")
    assert "Rates are those of the last 3 runs (2026-03-01 12:00, 2026-03-01 11:00" in text
    found = [row[0] for row in rows(text)]
    assert found == ["0.40", "0.40", "0.70", "0.70", "1.10"]
    assert "at 0.70 % correctness flips" in flat(text)


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ("", "α = 0.05 a budget"),
        ("a b c", "attempt 4 since the last"),
        ("a b c-pass", "α = 0.05 a budget"),
        ("a a b", "attempt 3 since the last"),
    ],
)
def test_the_error_in_force_is_that_of_the_next_attempt(
    remember: Any, tried: str, expected: str
) -> None:
    save(1000)
    planned(DROP)
    demands = load_policy("p.yaml").policy.demands
    attempts = [
        Attempt(word[0], "pass" if "pass" in word else None, demands) for word in tried.split()
    ]
    remember(record(3, 1), tried=attempts)
    assert expected in flat(planned(DROP, tracker="memory"))


def test_a_model_without_runs_is_assumed_about(remember: Any) -> None:
    save(1000)
    remember()
    assert "no judged run of the model is known (looked in: memory)" in flat(planned(DROP))
    remember(record(3, 1), outcome="error")
    assert "no judged run of the model is known" in flat(planned(DROP))


def test_runs_that_measured_something_else(remember: Any) -> None:
    save(1000)
    remember({"comparisons": [{"metric": "other"}, 7]}, {"comparisons": "damaged"})
    text = planned(DROP)
    assert "Rates are assumed: the last runs (2026-03-01 12:00 UTC) did not measure" in flat(text)
    assert len(rows(text)) == 8


def test_the_slices_own_history_goes_before_the_sets(remember: Any) -> None:
    save(1000, g=np.arange(1000) % 2)
    both = record(3, 1)["comparisons"] + record(1, 1, n=100, slice="g=1")["comparisons"]
    remember({"comparisons": both})
    one = "{metric: accuracy, max_drop: 0.01, slice: {g: %d}}"
    assert rows(planned(one % 1))[0][0] == "2.00"
    assert rows(planned(one % 0))[0][0] == "0.40"


def jackknifed(**changes: Any) -> dict[str, Any]:
    """F1 on 1000 examples with a standard error of .004: each end is 1.96 of them away."""
    return {
        "metric": "f1_macro", "slice": None, "against": "fp32", "n": 1000, "reference": 0.95,
        "int8": 0.948, "degradation": 0.002, "quantity": "drop", "lower": 0.002 - 0.00784,
        "upper": 0.002 + 0.00784, "p_pass": 0.2, "p_fail": 1.0, "method": "delete-group jackknife",
    } | changes  # fmt: skip


def test_the_last_run_tells_how_noisy_a_jackknifed_metric_is(remember: Any) -> None:
    save(2000)
    remember({"comparisons": [jackknifed()], "alpha": 0.05})
    text = flat(planned("{metric: f1_macro, max_drop: 0.01}", tracker="memory"))
    # (1.960 + .8416)² · .004² · 1000 / .01² = 1,256
    assert "if nothing is truly lost: 1,256 / 1,682 / 2,940 examples for PASS" in text
    assert "2,000 pass with 94 %" in text
    assert "if 0.0025 is truly lost: 2,233 /" in text
    assert "Bring at least 2,233 held-out examples" in text
    remember({"comparisons": [jackknifed(int8=0.93)], "alpha": 0.05})
    text = flat(planned("{metric: f1_macro, at_least: 0.94}", tracker="memory"))
    assert "the record of a first run will tell" in text  # a drop says nothing of a value
    value = jackknifed(quantity="value", int8=0.93, lower=0.92, upper=0.94)
    remember({"comparisons": [value], "alpha": 0.05})
    text = flat(planned("{metric: f1_macro, at_least: 0.94}", tracker="memory"))
    assert "The last run had 0.93, which is not within the limit" in text
    text = flat(planned("{metric: f1_macro, at_least: 0.91}", tracker="memory"))
    assert "if it truly is 0.93: " in text


@pytest.mark.parametrize(
    "changes", [{"method": "worst case"}, {"n": 0}, {"upper": None}, {"p_x": 1}]
)
def test_what_is_no_jackknife_tells_no_noise(remember: Any, changes: dict[str, Any]) -> None:
    save(2000)
    remember({"comparisons": [jackknifed(**changes)]})
    text = flat(planned("{metric: f1_macro, max_drop: 0.01}", tracker="memory"))
    assert "the record of a first run will tell" in text


def test_a_rate_that_was_beyond_its_limit(remember: Any) -> None:
    save(1000)
    remember(record(3, 1))
    text = planned("{metric: prediction_flips, at_most: 0.01}")
    assert "Earlier runs had 1.10 %, which is not within the limit" in flat(text)


def test_the_last_run_tells_fp32s_value_where_the_policy_does_not(remember: Any) -> None:
    save(1000)
    remember(record(3, 1))
    text = planned("{metric: accuracy, max_relative_drop: 0.01}", expected="unknown")
    assert len(rows(text)) == 2


@pytest.mark.parametrize(
    "counts", [None, 3, {"lost": 1}, {"both_right": 0, "lost": 0, "gained": 0, "both_wrong": 0}]
)
def test_counts_that_tell_nothing(remember: Any, counts: Any) -> None:
    save(1000)
    remember(record(3, 1, counts=counts))
    assert len(rows(planned(DROP))) == 8
