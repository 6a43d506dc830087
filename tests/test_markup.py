"""Text as text, in every language of markup."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.markup import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a*b*", r"a\*b\*"),
        ("<b>", "&lt;b>"),
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("# head", r"\# head"),
        ("1. one", "1&#8203;. one"),
        ("@me", "@&#8203;me"),
        ("x|y", r"x\|y"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_shows_it_as_it_is(text: str, shown: str) -> None:
    assert markdown(text) == shown


@given(st.text())
def test_no_tag_and_no_cell_survives(text: str) -> None:
    shown = markdown(text)
    assert "<" not in shown
    assert "|" not in shown.replace(r"\|", "")
