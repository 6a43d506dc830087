import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.pictures import encoded, pixels

from gate import data, door, formats, hashes, identity, pictures
from gate.errors import DataError
from gate.sources import DataSource, Preprocess
from gate.table import Table
from gate.values import TensorSpec

X = TensorSpec("x", "float32", (None, 3))
PICTURE = TensorSpec("x", "float32", (None, 1, 4, 4))
TOKENS = TensorSpec("input_ids", "int64", (None, None))
GREY = Preprocess(color="L")
WORDS = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
MODEL = {"type": "WordLevel", "vocab": {"[PAD]": 0, "the": 1}, "unk_token": "[PAD]"}


class Split:
    """A policy's split, opened again and again; tells what was read of it."""

    def __init__(self, patch, folder, path, inputs, preprocess=None, **source):
        self.patch, self.folder = patch, folder
        self.path, self.inputs, self.preprocess = path, inputs, preprocess
        self.source = {"path": path} | source

    def open(self, *, paranoid=False, **more):
        self.rows, self.files = [], []
        blocks, read = Table.blocks, pictures._read
        with self.patch.context() as patch:
            patch.setattr(Table, "blocks", lambda t, r: self.rows.append(len(r)) or blocks(t, r))
            patch.setattr(
                pictures, "_read", lambda path: self.files.append(Path(path).name) or read(path)
            )
            return data.open_split(
                "held_out", DataSource(**self.source | more), base=self.folder,
                inputs=(self.inputs,), preprocess=self.preprocess, seed=0,
                scratch=self.folder / "scratch", needs_target=True, paranoid=paranoid,
            )  # fmt: skip


def told(split):
    """Everything that a record or a proof rests on."""
    arrays = [split.ids, split.content, split.order, split.targets, *split.slices.values()]
    parts = [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]
    return parts, data.info(split).model_dump_json(), split.missing, split.population


def save(file, *, first=0.0):
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    x[0, 0] = first
    np.savez(file, x=x, target=np.arange(6), site=np.array(list("ababab")))


def exchange(split):
    """One example of the split, for another of the same size; the file keeps its old time."""
    file = split.folder / ("held_out.npz" if split.preprocess is None else "photos/a/2.bmp")
    before = file.stat()
    if split.preprocess is None:
        save(file, first=1.5)
    else:
        file.write_bytes(encoded(pixels(4, 4, seed=77), "BMP"))
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return file


def entries():
    return sorted(hashes.FOLDER.rglob("*.hashes"))


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A folder of its own, in which no file counts as changed just now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hashes, "_JUST_NOW", -(10**15))
    return tmp_path


@pytest.fixture
def arrays(settled, monkeypatch):
    save(settled / "held_out.npz")
    return Split(monkeypatch, settled, "held_out.npz", X)


@pytest.fixture
def photos(settled, monkeypatch):
    for place in range(5):
        file = settled / "photos" / "ab"[place % 2] / f"{place}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(pixels(4, 4, seed=place), "BMP"))
    return Split(monkeypatch, settled, "photos", PICTURE, GREY)


@pytest.fixture
def texts(settled, monkeypatch):
    words = ["the", "the the the the the", "cat", "the cat sat"]
    rows = [{"text": text, "target": 0} for text in words]
    (settled / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (settled / "tokenizer.json").write_text(json.dumps(WORDS | {"model": MODEL}))
    how = {"file": "tokenizer.json", "max_length": 3, "padding": "longest"}
    return Split(monkeypatch, settled, "texts.jsonl", TOKENS, Preprocess(tokenizer=how))


# ── the same, without reading ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("kind", ["arrays", "photos", "texts"])
def test_what_is_remembered_changes_nothing(kind, limit, request):
    split = request.getfixturevalue(kind)
    first = told(split.open(limit=limit))
    assert sum(split.rows) > 0
    second = told(split.open(limit=limit))
    assert second == first
    assert sum(split.rows) == (4 if kind == "texts" else 0)  # that none is empty is seen each time
    assert split.files == []


def test_a_sample_of_another_seed_reads_nothing_more(arrays):
    arrays.open(limit=3)
    np.testing.assert_array_equal(arrays.open(limit=6).order, np.arange(6))
    assert sum(arrays.rows) == 3  # of the others only the hash was known, not that they are sound


def test_images_that_do_not_decode_are_remembered_with_their_reason(photos):
    broken = photos.folder / "photos" / "a" / "2.bmp"
    broken.write_bytes(broken.read_bytes()[:40])
    first = photos.open(may_miss=1)
    assert first.missing == ("a/2.bmp",)
    assert told(photos.open(may_miss=1)) == told(first)
    assert photos.files == []
    with pytest.raises(DataError, match=r"1 of 5 images do not decode.*'a/2\.bmp' \(\w+"):
        photos.open()


def test_one_changed_image_is_one_that_is_read(photos):
    photos.open()
    changed = photos.folder / "photos" / "b" / "3.bmp"
    changed.write_bytes(encoded(pixels(4, 4, seed=99), "BMP"))
    (photos.folder / "photos" / "a" / "0.bmp").unlink()
    (photos.folder / "photos" / "a" / "9.bmp").write_bytes(encoded(pixels(4, 4, seed=9), "BMP"))
    found = told(photos.open())
    assert photos.files == ["9.bmp", "3.bmp"]
    for entry in entries():
        entry.unlink()
    assert told(photos.open()) == found


def test_images_of_any_size_are_prepared_each_time(photos):
    """Those of a batch have to agree in size, which one by itself does not tell."""
    photos.inputs = TensorSpec("x", "float32", (None, 1, None, None))
    first = told(photos.open())
    assert told(photos.open()) == first
    assert len(photos.files) == 5


# ── when it does not hold ─────────────────────────────────────────────────────────────────


def test_a_file_that_was_changed_just_now_is_not_trusted(arrays, monkeypatch):
    monkeypatch.setattr(hashes, "_JUST_NOW", 2_000_000_000)
    arrays.open()
    assert entries() == []
    monkeypatch.setattr(hashes, "_JUST_NOW", -(10**15))
    arrays.open()
    assert len(entries()) == 1
    monkeypatch.setattr(hashes, "_JUST_NOW", 2_000_000_000)
    arrays.open()
    assert sum(arrays.rows) == 6


@pytest.mark.parametrize("kind", ["arrays", "photos"])
def test_an_exchanged_file_with_its_old_time_is_read_again(kind, request):
    split = request.getfixturevalue(kind)
    before = split.open()
    exchange(split)
    assert split.open().sha256 != before.sha256


def test_an_entry_made_on_another_copy_is_not_used(arrays, photos):
    arrays.open()
    photos.open()
    for name in ("held_out.npz", "photos/a/2.bmp"):
        shutil.copy2(photos.folder / name, photos.folder / "copy")
        os.replace(photos.folder / "copy", photos.folder / name)
    arrays.open()
    photos.open()
    assert sum(arrays.rows) == 6
    assert photos.files == ["2.bmp"]


def test_a_file_that_changes_while_it_is_hashed_is_not_kept(arrays, monkeypatch):
    whole, hash_rows = arrays.folder / "held_out.npz", identity.hash_rows
    with monkeypatch.context() as patch:
        patch.setattr(identity, "hash_rows", lambda c: os.utime(whole, ns=(1, 1)) or hash_rows(c))
        arrays.open()
    assert entries() == []


def test_other_preprocessing_input_tokenizer_or_code_are_other_entries(texts, photos, monkeypatch):
    photos.open()
    photos.preprocess = Preprocess(color="L", scale=0.5)
    photos.open()
    assert len(photos.files) == 5
    texts.open()
    (texts.folder / "tokenizer.json").write_text(json.dumps(WORDS | {"model": MODEL}, indent=1))
    texts.open()
    assert sum(texts.rows) > 4
    monkeypatch.setattr(hashes, "_code", lambda: "other")
    photos.open()
    assert len(photos.files) == 5
    assert len(entries()) == 5


def test_code_that_cannot_be_told_is_not_trusted(arrays, monkeypatch):
    monkeypatch.setattr(hashes, "_code", lambda: None)
    arrays.open()
    assert entries() == []


def test_a_format_of_a_plugin_may_read_whatever_it_likes(arrays):
    class Mine(formats.npz.Npz):
        key = "mine"

    with door.bringing({formats.GROUP: {"mine": Mine()}}):
        arrays.open(format="mine")
        arrays.open(format="mine")
    assert sum(arrays.rows) == 6
    assert entries() == []


def test_what_is_not_sound_is_not_kept(arrays):
    x = np.ones((6, 3), dtype=np.float32)
    x[5, 1] = np.nan
    np.savez(arrays.folder / "held_out.npz", x=x, target=np.arange(6))
    for _ in range(2):
        with pytest.raises(DataError, match=r"row 5, counting from 0\) is NaN"):
            arrays.open()
    assert entries() == []


# ── the folder ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("harm", ["damaged", "cut", "foreign", "empty"])
def test_a_bad_entry_is_made_anew(photos, arrays, harm):
    first = told(photos.open())
    (file,) = entries()
    whole = file.read_bytes()
    arrays.open()
    (other,) = {*entries()} - {file}
    turned = bytearray(whole)
    turned[200] ^= 1
    bad = {"damaged": turned, "cut": whole[:-1], "foreign": other.read_bytes(), "empty": b""}
    file.write_bytes(bad[harm])
    assert told(photos.open()) == first
    assert len(photos.files) == 5
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_time_alone(arrays):
    Path(".gate").write_text("in the way")
    first = told(arrays.open())
    assert told(arrays.open()) == first
    assert sum(arrays.rows) == 6


def test_what_was_used_longest_ago_goes_first(photos, arrays, monkeypatch):
    photos.open()
    arrays.open()
    for age, file in enumerate(sorted(entries(), key=lambda file: file.stat().st_size)):
        os.utime(file, ns=(10**9 * age, 10**9 * age))
    photos.open()  # the larger one; reading it makes it the younger
    monkeypatch.setattr(hashes, "_MOST", max(file.stat().st_size for file in entries()) + 200)
    photos.open(paranoid=True)
    assert len(entries()) == 1
    photos.open()
    assert photos.files == []


# ── paranoid ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["arrays", "photos"])
def test_paranoid_names_what_is_other_under_the_same_size_and_time(kind, request):
    split = request.getfixturevalue(kind)
    before = told(split.open())
    assert told(split.open(paranoid=True)) == before
    assert sum(split.rows) > 0
    file = exchange(split)
    first = "'x[0-9a-f]{16}'" if kind == "arrays" else r"'a/2\.bmp'"
    with pytest.raises(DataError, match=rf"{file.name} has the size .* 1 examples .*: {first}"):
        split.open(paranoid=True)
    found = told(split.open())
    assert sum(split.rows) == 0
    assert found == told(split.open(paranoid=True)) != before


# ── pins ──────────────────────────────────────────────────────────────────────────────────


def test_a_pin_is_held_against_the_bytes_and_not_against_what_is_remembered(arrays, monkeypatch):
    file = arrays.folder / "held_out.npz"
    pin = data.artifact.sha256_of(file)
    first = told(arrays.open(sha256=pin))
    assert told(arrays.open(sha256=pin)) == first
    assert sum(arrays.rows) == 0
    monkeypatch.setattr(hashes, "stamp_of", lambda path: (1, 1, 1))  # a clock that tells nothing
    arrays.open()
    exchange(arrays)
    arrays.open()
    assert sum(arrays.rows) == 0
    with pytest.raises(DataError, match="not the data that the policy pins"):
        arrays.open(sha256=pin)


def test_pinned_content_is_read_each_time(photos):
    pin = photos.open().sha256
    for _ in range(2):
        photos.open(sha256=pin)
        assert len(photos.files) == 5
        photos.open(sha256=pin, limit=2)
        assert len(photos.files) >= 5
