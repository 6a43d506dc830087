"""How numbers, names and budgets are written for people."""

import json
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate import tasks, wording
from gate.policy import Budget
from gate.records import Comparison
from gate.wording import json_text


def budget(**fields) -> Budget:
    return Budget.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"metric": "accuracy", "max_drop": 0.01}, "accuracy, drop ≤ 1.00 pp"),
        ({"metric": "accuracy", "max_drop": 0.00125}, "accuracy, drop ≤ 0.125 pp"),
        ({"metric": "accuracy", "max_drop": 0.0}, "accuracy, drop ≤ 0.00 pp"),
        (
            {"metric": "accuracy", "max_drop": 0.03, "each": "target"},
            "accuracy, each target, drop ≤ 3.00 pp",
        ),
        (
            {"metric": "accuracy", "max_drop": 0.03, "slice": {"site": "north", "night": True}},
            "accuracy, night=true,site=north, drop ≤ 3.00 pp",
        ),
        (
            {"metric": "accuracy", "max_drop": 0.02, "against": "anchor"},
            "accuracy, drop ≤ 2.00 pp against the anchor",
        ),
        (
            {"metric": "top5_accuracy", "max_relative_drop": 0.01},
            "top-5 accuracy, relative drop ≤ 1.00 %",
        ),
        ({"metric": "prediction_flips", "at_most": 0.05}, "prediction flips ≤ 5.00 %"),
        (
            {"metric": "prediction_flips", "at_most": 0.05, "each": "site"},
            "prediction flips, each site, ≤ 5.00 %",
        ),
        ({"metric": "accuracy", "at_least": 0.95}, "accuracy ≥ 95.00 %"),
        ({"metric": "size", "max_ratio": 0.5}, "size ≤ 0.50 × FP32"),
        ({"metric": "size", "at_most": 250_000}, "size ≤ 250 kB"),
        ({"metric": "int8_share", "at_least": 0.8}, "INT8 share ≥ 0.80"),
        ({"metric": "f1_macro", "max_drop": 0.015}, "F1 macro, drop ≤ 0.015"),
        ({"metric": "log_loss", "max_drop": 0.05}, "log loss, rise ≤ 0.05"),
        ({"metric": "auroc", "at_least": 0.9}, "AUROC ≥ 0.90"),
    ],
)
def test_budget_names(fields, name):
    assert wording.budget_name(budget(**fields)) == name


def test_a_slice_takes_the_place_of_each():
    each = budget(metric="accuracy", max_drop=0.03, each="target")
    assert wording.budget_name(each, where="target=8") == "accuracy, target=8, drop ≤ 3.00 pp"


def test_a_slice_value_with_brackets_is_whole():
    sliced = budget(metric="accuracy", max_drop=0.03, slice={"site": "a[b]c"})
    assert wording.budget_name(sliced) == "accuracy, site=a[b]c, drop ≤ 3.00 pp"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (840, "840 B"), (27_440, "27.4 kB"), (999_999, "1,000 kB"), (1_034_120, "1.03 MB"),
     (2.5e9, "2.50 GB"), (3e12, "3,000 GB"), (-2000, "−2.00 kB")],
)  # fmt: skip
def test_size(number, text):
    assert wording.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0.00"), (-0.0, "0.00"), (1.005, "1.00"), (-2.344, "−2.34"), (0.0012, "0.001"),
     (1e-17, "0.00"), (1234.5, "1,234.50")],
)  # fmt: skip
def test_decimal(number, text):
    assert wording.decimal(number) == text


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_decimal_keeps_the_sign_and_never_hides_a_difference(number):
    text = wording.decimal(number)
    assert text.startswith("−") == (number < 0 and abs(number) >= 1e-9)
    if abs(number) >= 1e-9:
        assert float(text.replace(",", "").replace("−", "-")) != 0


@given(st.integers(min_value=1, max_value=10**6))
def test_limits_are_written_exactly(millionths):
    limit = millionths / 10**6
    name = wording.limit_name(budget(metric="int8_share", at_least=limit), "number")
    assert float(name.removeprefix("≥ ").replace(",", "")) == limit


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_has_no_value_is_a_dash(value):
    assert wording.metric_value(value, "rate") == "–"


def test_a_paired_table_shows_a_proportion():
    counts = {"both_right": 9, "lost": 1, "gained": 0, "both_wrong": 0}
    fields = {"metric": "own", "n": 10, "reference": 1.0, "int8": 0.9, "degradation": 0.1}
    compared = Comparison(**fields, method="tango", counts=counts, lower=-0.01, upper=0.2)
    assert wording.unit_of("own", compared) == "rate"
    assert wording.unit_of("own") == "number"
    assert wording.measured_text(compared, "drop", "rate") == "10.00 pp [−1.00, 20.00]"
    assert wording.measured_text(compared, "relative_drop", "rate") == "–"


def test_a_ratio_needs_a_reference():
    fields = {"metric": "size", "n": 1, "int8": 5.0, "degradation": None, "method": "exact number"}
    assert wording.measured(Comparison(**fields, reference=0.0), "ratio") is None
    assert wording.measured(Comparison(**fields, reference=None), "ratio") is None
    assert wording.measured(Comparison(**fields, reference=10.0), "ratio") == 0.5


@given(st.text(max_size=300), st.integers(min_value=8, max_value=120))
def test_plain_text_is_one_visible_line(text, limit):
    shown = wording.plain(text, limit)
    hidden = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
    assert not [char for char in shown if unicodedata.category(char) in hidden]
    assert "::" not in shown
    assert "##[" not in shown


@given(st.text(alphabet=st.characters(whitelist_categories=["L", "N", "P"]), max_size=300))
def test_plain_text_is_at_most_as_long_as_asked(text):
    shown = wording.plain(text.replace(":", "").replace("#", ""), 50)
    assert len(shown) <= 50
    assert len(text) > 50 or shown == text.replace(":", "").replace("#", "")


def test_listing_counts_what_it_leaves_out():
    assert wording.listing("abc", 3) == "a, b, c"
    assert wording.listing("abcd", 2) == "a, b and 2 more"


def test_flips_are_about_int8_alone():
    fields = {"metric": "prediction_flips", "n": 10, "reference": 0.0, "int8": 0.1}
    compared = Comparison(**fields, degradation=0.1, method="Clopper-Pearson", quantity="value")
    assert wording.both_values(compared) == ("–", "10.00 %")


@pytest.mark.parametrize("key", tasks.names())
def test_every_metric_is_told_by_its_direction_and_by_what_it_is_about(key: str) -> None:
    for name, traits in tasks.get(key).known.items():
        rises = wording.limit_noun(Budget(metric=name, max_drop=0.1)) == "rise "
        assert rises is not traits.higher_is_better, name
        comparison = Comparison(
            metric=name, n=9, reference=0.5, int8=0.25, degradation=0.1, method="some"
        )
        alone = wording.both_values(comparison)[0] == wording.NOTHING
        assert alone is traits.relative, name


HIDDEN = '\x1b[31m \x7f \x9b31m \u202e \u2028 \ufeff \u00ad \U000e0001 \\ " \n é 日本 👍'


def test_json_hides_nothing_and_steers_nothing() -> None:
    """It is the same document, and letters stay letters."""
    text = json_text({"a": HIDDEN, "é": [1.5, None, True]})
    assert json.loads(text) == {"a": HIDDEN, "é": [1.5, None, True]}
    assert "é 日本 👍" in text
    shown = text.replace("\n", "")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
    assert text.endswith("}\n")


def test_json_has_no_numbers_that_are_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([float("nan")])
