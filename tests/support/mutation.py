"""What a fuzzer does to a valid input: edits of its parsed document, and edits of its bytes.

Edits are plain values, so that a case that was found can be pinned as it was printed.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 2**31, 2**63, -(2**63) - 1, 10**400,
    1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "a" * 70_000, "\x00", "\x1b[31mred", "\u202egnp.exe", "\ud800", "\u2028",
    "é" * 300,
    "../../../etc/passwd", "/dev/null", "/dev/zero", "/proc/self/mem", "~", ".", "/", "//",
    "file:///etc/passwd", "nan", "1e999", "0x10", "<script>", "${{ github.token }}", "|| true",
    "*", "{0}", "%s", "pass", "fail", "waived", "inconclusive", "observe", "point", "early",
    "release", "target", "id", [], {}, [[]], [None], {"": None}, {"a": {"a": {}}},
)  # fmt: skip
"""Of every type, at the ends of what it holds, and words that mean something."""

CHUNKS: tuple[bytes, ...] = (
    b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b'"', b"'", b"\\", b"{",
    b"}", b"[", b"]", b":", b",", b"-", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ",
    b"---\n", b"%YAML 9.9\n", b"NaN", b"1e999", b"-", b"9" * 5000, b"[" * 20_000,
    b'{"a":' * 20_000, b"- " * 3000, b"\xe2\x80\xae", b"\xed\xa0\x80", b"\\ud800", b"\\U7fffffff",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x00" * 64,
)  # fmt: skip
"""What parsers stumble over."""

_HOWS = ("put", "put", "put", "drop", "twice", "wrap", "unwrap", "rename")
_BYTE_HOWS = ("flip", "flip", "cut", "drop", "insert", "overwrite", "repeat")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a document; where its place is gone, it changes nothing."""

    at: Place
    how: str
    what: Any = None


@dataclass(frozen=True, slots=True)
class ByteEdit:
    """One change of bytes; `at` counts around the end."""

    how: str
    at: int
    size: int = 1
    what: bytes = b""


# ── documents ─────────────────────────────────────────────────────────────────────────────


def edits(document: Any, *, most: int = 3, least: int = 1) -> st.SearchStrategy[list[Edit]]:
    """Changes of a document: what it holds put elsewhere, or what is hostile put anywhere."""
    places = list(_places(document, ()))
    found = [value for value in (_at(document, place) for place in places) if _is_scalar(value)]
    values = st.one_of(
        st.sampled_from(HOSTILE),
        st.sampled_from(found),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
    )
    edit = st.builds(Edit, st.sampled_from(places), st.sampled_from(_HOWS), values)
    return st.lists(edit, min_size=least, max_size=most)


def changed(document: Any, made: Sequence[Edit]) -> Any:
    """A copy of the document with the edits made, one after the other."""
    root = [copy.deepcopy(document)]
    for edit in made:
        _make(root, Edit((0, *edit.at), edit.how, edit.what))
    return root[0] if root else None


def _places(value: Any, at: Place) -> Iterator[Place]:
    yield at
    for key, child in _children(value):
        yield from _places(child, (*at, key))


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _make(root: list[Any], edit: Edit) -> None:
    *path, key = edit.at
    try:
        holder = _at(root, tuple(path))
        held = holder[key]
    except (KeyError, IndexError, TypeError):
        return
    if isinstance(holder, str):
        return
    if edit.how == "put":
        holder[key] = edit.what
    elif edit.how == "drop":
        del holder[key]
    elif edit.how == "wrap":
        holder[key] = {str(edit.what)[:20]: held} if isinstance(edit.what, str) else [held]
    elif edit.how == "unwrap":
        holder[key] = next((child for _, child in _children(held)), edit.what)
    else:
        _copy(holder, key, str(edit.what), keep=edit.how == "twice")


def _copy(holder: Any, key: Any, name: str, *, keep: bool) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[name] = copy.deepcopy(holder[key]) if keep else holder.pop(key)


# ── bytes ─────────────────────────────────────────────────────────────────────────────────


def byte_edits(*, most: int = 4, least: int = 1) -> st.SearchStrategy[list[ByteEdit]]:
    """Changes of bytes: bits, cuts, slices again, and what parsers stumble over."""
    edit = st.builds(
        ByteEdit,
        st.sampled_from(_BYTE_HOWS),
        st.integers(-2048, 2**20),
        st.one_of(st.integers(0, 16), st.integers(0, 4096)),
        st.one_of(st.sampled_from(CHUNKS), st.binary(max_size=8)),
    )
    return st.lists(edit, min_size=least, max_size=most)


def bytes_changed(content: bytes, made: Sequence[ByteEdit]) -> bytes:
    """The bytes with the edits made, one after the other."""
    for edit in made:
        content = _bytes_made(content, edit)
    return content


def _bytes_made(content: bytes, edit: ByteEdit) -> bytes:
    at = edit.at % (len(content) + 1)
    head, taken, tail = content[:at], content[at : at + edit.size], content[at + edit.size :]
    if edit.how == "flip":
        flipped = bytes([taken[0] ^ (1 << edit.size % 8)]) if taken else b""
        return head + flipped + content[at + 1 :] if flipped else content
    return {
        "cut": head,
        "drop": head + tail,
        "insert": head + edit.what + taken + tail,
        "overwrite": head + edit.what + content[at + len(edit.what) :],
        "repeat": head + taken * 3 + tail,
    }[edit.how]
