"""What is changed to see whether a test notices, and that noticing is told from missing."""

import ast
from pathlib import Path

import pytest
from mutants.judging import KILLED, SURVIVED, TIMEOUT, UNTESTED, judge
from mutants.operators import applied, mutants


def changes(source: str) -> set[str]:
    return {one.now for one in mutants(ast.parse(source))}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a == b", {"a != b"}),
        ("a is not None", {"a is None"}),
        ("a <= b < c", {"a < b < c", "a > b < c", "a <= b <= c", "a <= b >= c"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("a + b", {"a - b"}),
        ("a / b", {"a * b"}),
        ("a + 2", {"a - 2", "3", "1"}),
        ("a[0]", {"1"}),
        ("x = 1e300", set()),
        ("f(True)", {"False", "pass"}),
        ("f(min(a))", {"max", "pass"}),
        ("x = 'drop'", {"'drop!'"}),
        ("x = 'words of a message'", set()),
        ("x = f'{a} pp'", set()),
        ("x = a if b else c", {"True", "False"}),
        ("x = [a for a in b if a]", {"True"}),
        ("def f():\n    return a", {"return None"}),
        ("raise ValueError('no' + a)", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("for a in b:\n    continue", {"break"}),
        ("while a:\n    b", {"False"}),
    ],
)
def test_what_is_changed(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "'a docstring'",
        "__all__ = ['a']",
        "x: dict[str, int | None]",
        "def f(a: int | str) -> 'F': ...",
        "assert a < b",
        "Kind = int | str",
        "T = TypeVar('T', float, int)",
        "Threshold = Literal['max_drop', 'at_most']",
        "@dataclass(frozen=True)\nclass A: ...",
    ],
)
def test_what_is_not(source: str) -> None:
    assert changes(source) == set()


def test_a_change_is_undone() -> None:
    tree = ast.parse("x = a < 1")
    for one in mutants(tree):
        with applied(one):
            assert ast.unparse(tree) != "x = a < 1"
        assert ast.unparse(tree) == "x = a < 1"


TOY = """\
LEAST = 3

def enough(n):
    total = 0
    while total < n:
        total += 1
    return total >= LEAST

def other(n):
    return n
"""
TESTS = """\
from toy import enough

def test_few():
    assert not enough(1)

def test_many():
    assert enough(7)
"""


@pytest.mark.slow
def test_what_no_test_notices_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are enough, and nobody asks for three."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow:\n  real:\npythonpath = .\n")
    monkeypatch.chdir(tmp_path)
    outcomes = {}
    every = {"toy.py": list(range(len(mutants(ast.parse(TOY)))))}
    faults = judge(
        tmp_path, every, ["test_toy.py"],
        lambda _, mutant, outcome: outcomes.__setitem__((mutant.line, mutant.now), outcome),
    )  # fmt: skip
    assert [*faults] == []
    assert outcomes[7, "total > LEAST"] == SURVIVED
    assert outcomes[7, "total < LEAST"] == KILLED
    assert outcomes[6, "total -= 1"] == TIMEOUT
    assert outcomes[10, "return None"] == UNTESTED
    assert outcomes[1, "4"] == SURVIVED
    assert outcomes[5, "False"] == KILLED
