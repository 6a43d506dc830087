import math
import re
from pathlib import Path
from unittest import mock

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gate import strict_yaml
from gate.errors import Mark, PolicyError
from gate.strict_yaml import MAX_BYTES, MAX_DEPTH, Document, load, merge, parse

FILE = Path("policies/p.yaml")


def data(text: str) -> object:
    return parse(text, FILE).data


def refused(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse(text, FILE)
    assert re.match(r"policies/p\.yaml:\d+:\d+: \S", str(caught.value))
    return caught.value


# ── values ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1e3),
        ("1e+3", 1e3),
        ("-1.5e-2", -0.015),
        (".5", 0.5),
        ("5.", 5.0),
        ("+.5E1", 5.0),
        ("0.0", 0.0),
        ("0e5", 0.0),
        ("01.5", 1.5),
        ("0", 0),
        ("-7", -7),
        ("+1", 1),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ("null", None),
        ("Null", None),
        ("NULL", None),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:30:00", "2024-01-01 10:30:00"),
        ("1%", "1%"),
        ("y", "y"),
        ("n", "n"),
        ("tRUE", "tRUE"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("e5", "e5"),
        ("1e", "1e"),
        (".", "."),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("digits/held_out.npz", "digits/held_out.npz"),
        ('"no"', "no"),
        ("'010'", "010"),
        ('"1e-3"', "1e-3"),
        ('"null"', "null"),
        ('""', ""),
        ('"a\\tb\\n"', "a\tb\n"),
        ("|\n  1\n", "1\n"),
        ("[]", []),
        ("{}", {}),
        ("[1, [2, {b: 3}]]", [1, [2, {"b": 3}]]),
    ],
)
def test_means_one_thing(text: str, value: object) -> None:
    read = data(f"a: {text}")
    assert read == {"a": value}
    assert isinstance(read, dict)
    assert type(read["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("010", "octal to some parsers and decimal to others; write a plain decimal number"),
        ("-007", "octal to some"),
        ("0o10", "is octal"),
        ("0x1F", "is hexadecimal"),
        ("0b11", "is binary"),
        ("1_000", "a number to some parsers only"),
        ("1_0.5", "a number to some parsers only"),
        ("1:30", "base 60"),
        ("12:30:45.5", "base 60"),
        (".inf", "not a finite number"),
        ("-.INF", "not a finite number"),
        (".nan", "not a finite number"),
        (".NaN", "not a finite number"),
        ("1e999", "too large or too small"),
        ("1e-999", "too large or too small"),
        ("9223372036854775808", "does not fit 64 bits"),
        ("9" * 10_000, "does not fit 64 bits"),
        ("yes", 'write true, or "yes" in quotes'),
        ("On", 'write true, or "On" in quotes'),
        ("NO", 'write false, or "NO" in quotes'),
        ("off", 'write false, or "off" in quotes'),
    ],
)
def test_what_could_mean_two_things_is_refused_where_it_stands(text: str, fragment: str) -> None:
    error = refused(f"a:\n  b: {text}")
    assert error.mark == Mark(FILE, 2, 6)
    assert fragment in error.message
    assert len(error.message) < 250


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "2024-01-01", "1%", '"1"'])
def test_keys_are_text(word: str) -> None:
    assert data(f"{word}: 1") == {word.strip('"'): 1}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("1: a", "a key has to be text, not '1'; write it in quotes"),
        ("true: a", "not 'true'; write it in quotes"),
        ("~: a", "not '~'"),
        ("010: a", "not '010'"),
        ("[a]: 1", "a key has to be text, not a mapping or a list"),
        ("? {a: 1}\n: 2", "a key has to be text, not a mapping or a list"),
        ("? \n: a", "a key is missing here; write it"),
    ],
)
def test_other_keys_are_refused(text: str, fragment: str) -> None:
    assert fragment in refused(text).message


def test_a_value_that_is_left_out_is_refused() -> None:
    assert str(refused("a: 1\nb:\nc: 2")).startswith("policies/p.yaml:2:3: a value is missing")
    assert "a value is missing" in refused("a: {b, c: 1}").message
    assert "a value is missing" in refused("- 1\n-\n").message
    assert "a value is missing" in refused("---\n").message


def finite() -> st.SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False)


@given(finite())
def test_a_float_as_python_prints_it_is_that_float(number: float) -> None:
    assert data(f"a: {number!r}") == {"a": number}


@given(finite(), st.sampled_from("eE"), st.integers(0, 20))
def test_a_float_in_exponent_notation_is_that_float(number: float, e: str, digits: int) -> None:
    text = f"{number:.{digits}e}".replace("e", e)
    if math.isfinite(float(text)):
        assert data(f"a: {text}") == {"a": float(text)}


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_an_integer_is_that_integer(number: int) -> None:
    assert data(f"[{number}, {number:+d}]") == [number, number]


# ── structure ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "line", "column", "fragment"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "duplicate key 'a', first on line 1; keep one"),
        ("a: {b: 1, b: 1}", 1, 11, "duplicate key 'b', first on line 1"),
        ("- x: 1\n  'x': 2", 2, 3, "duplicate key 'x', first on line 1"),
        ("a:\n\tb: 1", 2, 1, "a tab"),
        ("a:\tb", 1, 3, "a tab"),
        ("a: 1\t\nb: 2", 1, 5, "a tab"),
        ("a: &x [1]\nb: 2", 1, 4, "anchor 'x' is refused; repeat the value, or use `extends`"),
        ("&x a: 1", 1, 1, "anchor 'x' is refused"),
        ("a: *x", 1, 4, "alias 'x' is refused"),
        ("a: 1\n<<: {b: 2}", 2, 1, "merge keys (`<<`) are refused"),
        ("a: !!python/object/apply:os.system ['id']", 1, 4, "python/object/apply:os.system"),
        ("a: !!str 1", 1, 4, "is refused; delete it: text goes in quotes, numbers plain"),
        ("a: ! b", 1, 4, "tag '!' is refused"),
        ("!!map a: 1", 1, 1, "tag"),
        ("a: 1\n---\nb: 2", 2, 1, "a second document begins here"),
        ("", 1, 1, "the file is empty"),
        ("# nothing\n\n", 1, 1, "the file is empty"),
        ("a: b: c", 1, 5, "put text that holds a colon in quotes"),
        ("a: 'b", 1, 6, "check quotes, brackets, indentation"),
        ("a: [1, 2", 1, 9, "expected ',' or ']'"),
        ("a: @b", 1, 4, "cannot start any token"),
        ("a:\n  - b\n c: 1", 3, 2, "expected <block end>"),
        ("a: \x00", 1, 4, "U+0000 is a control character"),
        ("a: b\x1b[2J", 1, 5, "U+001B is a control character"),
        ("a: b\x85c", 1, 5, "U+0085"),
        ("ab\u2028: c", 1, 3, "U+2028"),
        ("a: 1 # \u202e 2", 1, 8, "U+202E is a control character or invisible; delete it"),
        ("a: b\u200bc", 1, 5, "U+200B"),
        ('a: "b\\0c"', 1, 4, "U+0000"),
        ('a: "\\ud800"', 1, 4, "U+D800"),
        ('"a\\e": 1', 1, 1, "U+001B"),
        ('a: "\\UFFFFFFFF"', 1, 7, "check the escapes in double quotes"),
        ("%YAML 9.1\n---\na: 1", 1, 1, "incompatible"),
    ],
)
def test_refused_at(text: str, line: int, column: int, fragment: str) -> None:
    error = refused(text)
    assert error.mark == Mark(FILE, line, column)
    assert fragment in error.message


def test_tabs_are_fine_where_they_do_not_structure() -> None:
    assert data('a: "b\tc" # d\te') == {"a": "b\tc"}


def test_an_anchor_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
    )
    assert refused(bomb).mark == Mark(FILE, 1, 4)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[{a: "])
def test_deep_nesting_is_refused_at_once(opening: str) -> None:
    """What is read of it does not grow with it: the scanner looks a line's key ahead at most."""
    fetch = yaml.scanner.Scanner.fetch_more_tokens
    seen = []
    for times in (3_000, 100_000):
        with mock.patch.object(
            yaml.scanner.Scanner, "fetch_more_tokens", autospec=True, side_effect=fetch
        ) as fetched:
            assert "nested deeper than 50" in refused(opening * times).message
        seen.append(fetched.call_count)
    assert 0 < seen[0] == seen[1]


def test_fifty_levels_are_read() -> None:
    assert data("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert "nested deeper" in refused("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)).message


def test_an_error_shows_only_the_beginning_of_a_long_scalar() -> None:
    assert len(refused("a: " + "1:" * 100_000 + "1").message) < 250


def loads_or_says_where(text: str) -> bool:
    try:
        return isinstance(parse(text, FILE), Document)
    except PolicyError as error:
        return re.match(r"policies/p\.yaml:\d+:\d+: \S", str(error)) is not None


@settings(deadline=None)
@given(st.text())
@example("a: !!python/name:os.system")
@example("? ? a")
@example("[" * 2000)
@example('"\\x')
@example("%TAG ! a\n--- !b c")
@example("%YAML 1." + "9" * 5000 + "\n--- a")
@example("a: |9\n b")
@example("\ud7ff\ufffd\U0010ffff: 1")
def test_any_text_loads_or_raises_policy_error(text: str) -> None:
    assert loads_or_says_where(text)


YAML_LIKE = st.lists(
    st.sampled_from(
        [*"abk:-?[]{},&*!|>'\"%@`#~.0159eE+_ \n\r\t\\x", ": ", "- ", "\n  ", "<<", "---\n", "...\n"]
    ),
    max_size=40,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(YAML_LIKE)
def test_any_yaml_like_text_loads_or_raises_policy_error(text: str) -> None:
    assert loads_or_says_where(text)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | finite()
    | st.text("abc é", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(PLAIN, st.booleans())
def test_what_the_library_writes_is_read_back(value: object, flow: bool) -> None:
    written = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert data(written.removesuffix("...\n")) == value


# ── files ─────────────────────────────────────────────────────────────────────────────────


def loaded(tmp_path: Path, raw: bytes) -> object:
    file = tmp_path / "p.yaml"
    file.write_bytes(raw)
    return load(file).data


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    assert loaded(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: [2,\r\n 3]\r\n") == {"a": 1, "b": [2, 3]}
    with pytest.raises(PolicyError, match=r"p\.yaml:2:1: duplicate key 'a', first on line 1"):
        loaded(tmp_path, b"\xef\xbb\xbfa: 1\r\na: 2\r\n")


def test_not_utf8_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"p\.yaml:2:4: byte 0xe9 is not UTF-8"):
        loaded(tmp_path, b"a: 1\nb: \xe9\n")
    with pytest.raises(PolicyError, match=r"p\.yaml:1:1: byte 0xff is not UTF-8"):
        loaded(tmp_path, "a: 1".encode("utf-16"))


def test_ten_megabytes_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_yaml, "parse", lambda *_, **__: pytest.fail("they were parsed"))
    with pytest.raises(PolicyError, match=r"p\.yaml:1:1: .* is over 1,000,000 bytes"):
        loaded(tmp_path, b"a: [" + b"1, " * 3_500_000 + b"1]")


def test_a_megabyte_is_the_limit(tmp_path: Path) -> None:
    assert loaded(tmp_path, b"a: 1 #".ljust(MAX_BYTES, b"x")) == {"a": 1}
    with pytest.raises(PolicyError, match="is over"):
        loaded(tmp_path, b"a: 1 #".ljust(MAX_BYTES + 1, b"x"))


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.yaml:1:1: .*No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(PolicyError, match=r":1:1: .* is not a file"):
        load(tmp_path)
    with pytest.raises(PolicyError, match=r"/dev/zero:1:1: .* is not a file"):
        load(Path("/dev/zero"))
    with pytest.raises(PolicyError, match=r":1:1: .*name too long"):
        load(tmp_path / ("x" * 5000))


# ── places ────────────────────────────────────────────────────────────────────────────────

PLACES = parse("a: 1\nb:\n  - {c: 2,   d: [3]}\n  - e\n", FILE)


@pytest.mark.parametrize(
    ("loc", "line", "column"),
    [
        ((), 1, 1),
        (("a",), 1, 4),
        (("b",), 3, 3),
        (("b", 0), 3, 5),
        (("b", 0, "d"), 3, 17),
        (("b", 0, "d", 0), 3, 18),
        (("b", 0, "none"), 3, 5),
        (("b", 0, "none", "deeper"), 3, 5),
        (("b", 1), 4, 5),
        (("b", 7), 3, 3),
        (("none",), 1, 1),
        (("a", "deeper"), 1, 4),
    ],
)
def test_mark_is_the_nearest_value(loc: tuple[str | int, ...], line: int, column: int) -> None:
    assert PLACES.mark(*loc) == Mark(FILE, line, column)


def test_key_mark_is_the_keys_own_place() -> None:
    assert PLACES.key_mark("b") == Mark(FILE, 2, 1)
    assert PLACES.key_mark("b", 0, "d") == Mark(FILE, 3, 14)
    assert PLACES.key_mark("b", 1) == PLACES.mark("b", 1)


def test_value_and_exists() -> None:
    assert PLACES.value("b", 0, "d") == [3]
    assert PLACES.value("b", 9) is None
    assert PLACES.exists("b", 1)
    assert not PLACES.exists("b", 2)


def test_merge_goes_key_by_key_and_keeps_places() -> None:
    base = parse("a: {x: 1, y: 2}\nb: [1, 2]\nc: 3", Path("base.yaml"))
    over = parse("\nb: [9]\na: {y: 5}", Path("over.yaml"))
    merged = Document(over.file, merge(base.root, over.root))
    assert merged.data == {"a": {"x": 1, "y": 5}, "b": [9], "c": 3}
    assert str(merged.mark("a", "x")) == "base.yaml:1:8"
    assert str(merged.mark("a", "y")) == "over.yaml:3:8"
    assert str(merged.mark("b", 0)) == "over.yaml:2:5"
    assert str(merged.mark("c")) == "base.yaml:3:4"
