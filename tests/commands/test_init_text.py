"""The text of a policy that `gate init` composes, and what reads it back."""

import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import strict_yaml
from gate.commands._init_text import Line, Place, Spec, compose, flow, scalar
from gate.errors import UsageError
from gate.policy_file import load_policy

TEXTS = st.text(max_size=40)
HIDDEN = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}


def read(text: str) -> object:
    return strict_yaml.parse(text, Path("policy.yaml")).data


@settings(deadline=None)
@given(TEXTS)
def test_a_text_reads_back_as_it_was_or_is_refused(text: str) -> None:
    try:
        written = scalar(text)
    except UsageError:
        assert {unicodedata.category(letter) for letter in text} & HIDDEN
        return
    for form in (f"- {written}\n", f"- {{k: {written}}}\n", f"- [{written}, 1]\n"):
        for found in (read(form), yaml.safe_load(form)):
            (value,) = found
            assert text in (value, *(value if isinstance(value, list) else ()),
                            *(value.values() if isinstance(value, dict) else ()))  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(TEXTS, TEXTS, TEXTS)
def test_no_comment_and_no_name_breaks_the_policy(path: str, comment: str, column: str) -> None:
    spec = Spec(
        name="m",
        task="classification",
        task_why=comment,
        candidate=f"a{path}b",
        recipe="dynamic",
        recipe_why=comment,
        held_out=Place(f"x{path}y", "0" * 64, comment),
        classes=(f"c{column}", "d" * 90, "e" * 50),
        classes_why=comment,
        expect_why=comment,
        budgets=(
            Line({"metric": "accuracy", "max_drop": 0.01, "each": f"k{column}"}, comment, comment),
        ),
    )
    try:
        text = compose(spec)
    except UsageError:
        return
    loaded = load_policy("p.yaml", read=lambda file, _: strict_yaml.parse(text, file)).policy
    assert loaded.build.candidate == f"a{path}b"
    assert loaded.judge.held_out.path == f"x{path}y"
    assert loaded.build.classes == spec.classes
    assert loaded.judge.budgets[0].each == f"k{column}"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, True], "b": {}}, "{a: [1, 2.5, true], b: {}}"),
        ("1e3", '"1e3"'),
        ("yes", '"yes"'),
        ("2024-01-01", '"2024-01-01"'),
        (["O", "B-PER"], "[O, B-PER]"),
        (1 / 255, "0.00392156862745098"),
    ],
)
def test_flow(value: object, written: str) -> None:
    assert flow(value) == written
    assert read(f"k: {written}\n") == {"k": value}
