import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gate import identity, mapped
from gate.values import Ragged

CELLS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 2))


def test_a_hash_is_the_documented_sha256():
    x = np.array([[1, 2], [3, 4]], np.float32)
    text = np.array(["é", "bc"])
    rows = identity.hash_rows({"x": x, "a": text})
    meaning = b'[["a", "text", []], ["x", "float32", [2]]]'
    for row in range(2):
        letters = str(text[row]).encode("utf-32-le").rstrip(b"\0")
        content = len(letters).to_bytes(8, "little") + letters + x[row].astype("<f4").tobytes()
        assert rows[row].tobytes() == hashlib.sha256(meaning + content).digest()


def test_names_types_and_shapes_count():
    x = np.zeros((1, 4), np.float32)
    variants = [{"x": x}, {"y": x}, {"x": x.view(np.int32)}, {"x": x.reshape(1, 2, 2)}]
    assert len({identity.hash_rows(columns).tobytes() for columns in variants}) == 4


def test_byte_order_memory_order_and_padding_do_not_count():
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    reference = identity.hash_rows({"x": x, "t": np.array(["a", "b"])})
    same = {"t": np.array(["a", "b"], "U9"), "x": np.asfortranarray(x.astype(">f4"))}
    np.testing.assert_array_equal(identity.hash_rows(same), reference)


def test_neighbouring_texts_do_not_trade_letters():
    rows = identity.hash_rows({"t": np.array([["ab", "c"], ["a", "bc"]])})
    assert rows[0].tobytes() != rows[1].tobytes()


@given(CELLS)
def test_rows_are_equal_where_their_hashes_are(x):
    hashes = identity.keys(identity.hash_rows({"x": x}))
    same = (x[:, None] == x[None]).all(axis=2)
    np.testing.assert_array_equal(hashes[:, None] == hashes[None], same)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1), st.randoms())
def test_keys_sort_as_bytes_do(rows, random):
    rows += [row[:20] + bytes(12) for row in rows]
    hashes = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)
    assert np.sort(identity.keys(hashes)).tobytes() == b"".join(sorted(rows))


@given(CELLS, st.data())
def test_ids_and_digest_do_not_depend_on_order(x, data):
    permutation = np.array(data.draw(st.permutations(range(len(x)))))
    target = x[:, 0].astype(np.int64) + np.arange(len(x)) % 2

    def identified(rows):
        hashes = identity.hash_rows({"x": x[rows]})
        ids = identity.derived(hashes, [target[rows]])
        pairs = zip(ids.tolist(), target[rows].tolist(), strict=True)
        return sorted(pairs), identity.digest(ids, hashes, target[rows])

    there, back = identified(np.arange(len(x))), identified(permutation)
    assert there == back
    assert len({name for name, _ in there[0]}) == len(x)


def test_heads_and_their_suffixes():
    hashes = np.zeros((4, 32), np.uint8)
    hashes[3, 7] = 255
    ids = identity.derived(hashes, [np.array([2, 0, 1, 0])])
    zeros = "x" + "0" * 16
    assert ids.tolist() == [f"{zeros}-3", zeros, f"{zeros}-2", zeros[:-2] + "ff"]


def test_a_digest_tells_targets_from_none():
    hashes = identity.hash_rows({"x": np.arange(3)})
    ids = identity.heads(hashes)
    digests = {identity.digest(ids, hashes, t) for t in (None, np.arange(3), np.arange(3) + 1)}
    assert len(digests) == 3


def test_encoded_images_are_their_length_and_bytes():
    column = np.empty(2, dtype=object)
    column[:] = [b"abc", b""]
    rows = identity.hash_rows({"image": column})
    for row, content in enumerate([b"abc", b""]):
        told = b'[["image", "bytes", []]]' + len(content).to_bytes(8, "little") + content
        assert rows[row].tobytes() == hashlib.sha256(told).digest()


def test_entries_of_rows_count_whatever_stands_around_them():
    entries = [np.array([[1.0, -0.0]]), np.zeros((0, 2)), np.array([[1.0, 0.0]]), np.ones((2, 2))]
    rows = identity.hash_rows({"target": Ragged.of(entries, 2)})
    alone = [identity.hash_rows({"target": Ragged.of([entry], 2)})[0] for entry in entries]
    np.testing.assert_array_equal(rows, alone)
    assert rows[0].tobytes() == rows[2].tobytes()
    assert len({row.tobytes() for row in rows}) == 3
    told = b'[["target", "rows of float64", [2]]]' + (1).to_bytes(8, "little")
    assert rows[0].tobytes() == hashlib.sha256(told + np.array([1.0, 0.0]).tobytes()).digest()


# ── many examples ─────────────────────────────────────────────────────────────────────────

FEW = hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 2))


def _in_windows(monkeypatch, size=40):
    """A few rows at once, so that these are many."""
    monkeypatch.setattr(mapped, "WINDOW", size)
    monkeypatch.setattr(identity, "_AT_ONCE", 3)


def test_hashes_and_digests_do_not_depend_on_windows(monkeypatch):
    columns = {
        "text": np.array(["a", "", "ü", "bcd"] * 9),
        "x": np.random.default_rng(0).normal(size=(36, 3)),
        "label": np.arange(36),
        "boxes": Ragged.of([np.ones((n % 3, 2)) for n in range(36)], 2),
    }
    hashes = identity.hash_rows(columns)
    told = identity.digest(columns["text"], hashes, columns["label"])
    _in_windows(monkeypatch)
    np.testing.assert_array_equal(identity.hash_rows(columns), hashes)
    assert identity.digest(columns["text"], hashes, columns["label"]) == told


@pytest.mark.parametrize("repeats", [False, True])
def test_derived_ids_do_not_depend_on_windows(monkeypatch, repeats):
    hashes = identity.hash_rows({"x": np.arange(50) // (2 if repeats else 1)})
    columns = [np.arange(50) % 3, Ragged.of([np.ones((n % 2, 1)) for n in range(50)], 1)]
    ids = identity.derived(hashes, columns)
    _in_windows(monkeypatch)
    found = identity.derived(hashes, columns)
    assert found.dtype == ids.dtype == ("U32" if repeats else "U17")
    assert found.tolist() == ids.tolist()
    assert len(set(found.tolist())) == 50


@given(FEW, FEW)
def test_shared_contents_are_those_that_numpy_finds(first, second):
    expected = np.isin(identity.keys(second), identity.keys(first))
    with pytest.MonkeyPatch.context() as patch:
        _in_windows(patch, 6)
        assert identity.shared(first, second).tolist() == expected.tolist()


@given(FEW)
def test_what_repeats_and_how_many_there_are(rows):
    keys = identity.keys(rows)
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    with pytest.MonkeyPatch.context() as patch:
        _in_windows(patch)
        assert identity.repeated(keys).tolist() == (counts[inverse] > 1).tolist()
        assert identity.count_distinct(keys) == len(counts)


@given(st.lists(st.text(alphabet="a\0bÿĀ😀", max_size=4), max_size=20))
def test_names_are_ordered_by_code_points(names):
    labels = np.array(names, dtype="U4")
    with pytest.MonkeyPatch.context() as patch:
        _in_windows(patch)
        found = identity.by_name(labels).tolist()
    assert found == np.argsort(labels, kind="stable").tolist()
    assert identity.by_name(np.array([3, 1, 2])).tolist() == [1, 2, 0]
    assert identity.by_name(labels.astype(labels.dtype.newbyteorder())).tolist() == found
