import hashlib
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.memory import an_example
from support.pictures import encoded, pixels

from gate import census, data, identity, mapped, table
from gate.errors import DataError, OverlapError, UsageError
from gate.sources import DataSource, Preprocess
from gate.values import Ragged, TensorSpec

RNG = np.random.default_rng(0)
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "the": 1}, "unk_token": "[PAD]"},
    }
)
X = TensorSpec("x", "float32", (None, 3))


def columns(n=6, **others):
    return {
        "x": RNG.random((n, 3), dtype=np.float32),
        "target": np.arange(n, dtype=np.int64) % 2,
    } | others


def write_parquet(path, arrays):
    def arrow(values):
        flat = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat

    pq.write_table(pa.table({name: arrow(values) for name, values in arrays.items()}), path)


@pytest.fixture
def opened(tmp_path):
    """Write columns and open them as a split."""

    def open_it(
        arrays,
        *,
        name="held_out",
        file=None,
        inputs=(X,),
        preprocess=None,
        seed=0,
        needs_target=True,
        save=np.savez,
        **source,
    ):
        file = file or f"{name}.npz"
        if arrays is not None:
            (write_parquet if file.endswith("parquet") else lambda p, a: save(p, **a))(
                tmp_path / file, arrays
            )
        return data.open_split(
            name,
            DataSource(path=file, **source),
            base=tmp_path,
            inputs=inputs,
            preprocess=preprocess,
            seed=seed,
            scratch=tmp_path / "scratch",
            needs_target=needs_target,
        )

    return open_it


# ── opening ───────────────────────────────────────────────────────────────────────────────


def test_every_column_has_its_role(opened):
    ids = np.array([f"img{i}" for i in range(6)])
    arrays = columns(id=ids, unit=np.array([0, 0, 1, 1, 2, 2]), site=np.array(list("aabbcc")))
    split = opened(arrays)
    assert (split.name, split.source, len(split)) == ("held_out", "held_out.npz", 6)
    assert split.ids.tolist() == ids.tolist()
    assert split.explicit_ids
    np.testing.assert_array_equal(split.targets, arrays["target"])
    np.testing.assert_array_equal(split.unit, arrays["unit"])
    assert list(split.slices) == ["site"]
    np.testing.assert_array_equal(split.slices["site"], arrays["site"])
    assert split.order.tolist() == list(range(6))
    assert split.order.dtype == np.int64
    assert (split.content.shape, split.content.dtype) == ((6, 16), np.uint8)


def test_inputs_stay_mapped_and_batches_are_plain_arrays(opened):
    arrays = columns(n=7)
    split = opened(arrays)
    assert isinstance(split.inputs["x"], np.memmap)
    batches = list(split.batches(3))
    assert [len(batch.ids) for batch in batches] == [3, 3, 1]
    for batch in batches:
        assert type(batch.feeds["x"]) is np.ndarray
        assert batch.feeds["x"].flags.c_contiguous
        assert batch.feeds["x"].flags.owndata or batch.feeds["x"].base.flags.owndata
    np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in batches]), arrays["x"])
    np.testing.assert_array_equal(np.concatenate([b.targets for b in batches]), arrays["target"])


def test_big_endian_fortran_data_enter_as_the_model_takes_them(opened):
    arrays = columns()
    odd = arrays | {"x": np.asfortranarray(arrays["x"].astype(">f4"))}
    plain, swapped = opened(arrays), opened(odd, file="odd.npz", save=np.savez_compressed)
    feed = next(swapped.batches(6)).feeds["x"]
    assert feed.dtype == np.dtype("<f4")
    assert feed.flags.c_contiguous
    np.testing.assert_array_equal(feed, arrays["x"])
    assert swapped.sha256 == plain.sha256


def test_several_inputs(opened):
    inputs = (TensorSpec("b", "int64", (None,)), TensorSpec("a", "float32", (None, None)))
    arrays = {
        "a": np.ones((4, 2), np.float32),
        "b": np.arange(4),
        "target": np.zeros((4, 2), np.int64),
    }
    split = opened(arrays, inputs=inputs)
    assert list(split.inputs) == ["b", "a"]
    assert split.targets.shape == (4, 2)
    assert data.duplicates(split) == 0


def test_preprocess_is_part_of_a_batch_and_not_of_the_digest(opened):
    arrays = columns() | {"x": RNG.integers(0, 256, (6, 3), dtype=np.uint8)}
    halved = opened(arrays, preprocess=Preprocess(scale=0.5))
    whole = opened(arrays, preprocess=Preprocess())
    np.testing.assert_array_equal(next(halved.batches(6)).feeds["x"], arrays["x"] * 0.5)
    assert halved.sha256 == whole.sha256


def test_a_split_that_needs_no_target(opened):
    arrays = columns()
    without = opened({"x": arrays["x"]}, needs_target=False)
    ignored = opened(arrays, file="more.npz", needs_target=False)
    assert without.targets is None
    assert ignored.targets is None
    assert ignored.slices == {}
    assert ignored.sha256 == without.sha256 != opened(arrays).sha256


def test_one_example_is_allowed(opened):
    assert len(opened(columns(n=1))) == 1


def test_the_sources_folder_is_not_written_to(opened, tmp_path):
    opened(columns(), save=np.savez_compressed)
    assert {path.name for path in tmp_path.iterdir()} == {"held_out.npz", "scratch"}


# ── identity ──────────────────────────────────────────────────────────────────────────────

SPLITS = st.fixed_dictionaries(
    {
        "x": hnp.arrays(
            np.float32, (5, 3), elements=st.sampled_from([0.0, -0.0, 1.5]) | st.just(2.0)
        ),
        "target": hnp.arrays(np.int64, 5, elements=st.integers(0, 2)),
        "site": hnp.arrays(np.dtype("U4"), 5, elements=st.sampled_from(["", "é", "ab", "东京"])),
    }
)
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(SPLITS)
def test_npz_and_parquet_are_the_same_data(opened, arrays):
    npz, parquet = opened(arrays), opened(arrays, file="a.parquet")
    assert npz.ids.tolist() == parquet.ids.tolist()
    assert npz.sha256 == parquet.sha256
    np.testing.assert_array_equal(npz.content, parquet.content)
    np.testing.assert_array_equal(npz.inputs["x"][:], parquet.inputs["x"][:])
    np.testing.assert_array_equal(npz.slices["site"], parquet.slices["site"])


@MANY
@given(SPLITS, st.permutations(range(5)))
def test_a_permuted_file_has_the_same_ids_and_digest(opened, arrays, permutation):
    order = np.array(permutation)
    split = opened(arrays)
    permuted = opened({name: a[order] for name, a in arrays.items()}, file="permuted.npz")

    def described(it):
        rows = zip(it.ids.tolist(), it.targets.tolist(), it.slices["site"].tolist(), strict=True)
        return sorted(rows)

    assert described(split) == described(permuted)
    assert split.sha256 == permuted.sha256


def test_ids_derive_from_content(opened):
    arrays = columns(n=3)
    arrays["x"][2] = arrays["x"][0]
    arrays["target"][:] = [1, 0, 0]
    split = opened(arrays)
    assert not split.explicit_ids
    first, other, again = split.ids.tolist()
    assert first == f"{again}-2"  # ranked by target: the same in any order of the file
    assert again == "x" + split.content[2, :8].tobytes().hex()
    assert other == "x" + split.content[1, :8].tobytes().hex()


@pytest.mark.parametrize("part", ["x", "target", "id"])
def test_the_digest_covers_inputs_targets_and_ids(opened, part):
    arrays = columns(id=np.arange(6))
    changed = {name: values.copy() for name, values in arrays.items()}
    changed[part][4] += 10
    assert opened(arrays).sha256 != opened(changed, file="changed.npz").sha256


def test_integer_ids_are_text(opened):
    assert opened(columns(id=np.arange(6) * 7)).ids.tolist() == ["0", "7", "14", "21", "28", "35"]


def test_duplicates_and_info(opened):
    arrays = columns(unit=np.array(list("aabbbb")), id=np.arange(6))
    arrays["x"][[3, 5]] = arrays["x"][0]
    split = opened(arrays)
    assert data.duplicates(split) == 2
    info = data.info(split)
    assert (info.examples, info.duplicates, info.units) == (6, 2, 2)
    assert (info.source, info.sha256) == ("held_out.npz", split.sha256)
    assert data.info(opened(columns())).units is None


# ── limit ─────────────────────────────────────────────────────────────────────────────────


def test_a_limit_is_a_seeded_sample_in_the_files_order(opened):
    arrays = columns(n=200, id=np.arange(200))
    split = opened(arrays, limit=20)
    rows = split.order.tolist()
    assert len(split) == 20
    assert rows == sorted(set(rows)) != list(range(20))
    assert split.ids.tolist() == [str(row) for row in rows]
    np.testing.assert_array_equal(split.targets, arrays["target"][rows])
    np.testing.assert_array_equal(next(split.batches(20)).feeds["x"], arrays["x"][rows])
    assert opened(None, limit=20).order.tolist() == rows
    assert opened(None, limit=20, seed=1).order.tolist() != rows
    assert opened(arrays, name="tuning", limit=20).order.tolist() != rows
    assert split.sha256 != opened(None).sha256


def test_every_row_can_be_drawn(opened):
    arrays = columns(n=8)
    opened(arrays)
    drawn = {row for seed in range(40) for row in opened(None, limit=2, seed=seed).order.tolist()}
    assert drawn == set(range(8))


@pytest.mark.parametrize("limit", [6, 7, 10**12])
def test_a_limit_above_n_takes_all(opened, limit):
    assert opened(columns(), limit=limit).sha256 == opened(None).sha256


def test_a_limit_is_the_same_data_as_a_file_of_those_rows(opened):
    arrays = columns(n=50)
    split = opened(arrays, limit=9)
    only = opened({name: a[split.order] for name, a in arrays.items()}, file="only.npz")
    assert split.sha256 == only.sha256
    assert split.ids.tolist() == only.ids.tolist()


@pytest.mark.parametrize("with_ids", [True, False])
def test_the_order_of_the_file_does_not_choose_the_sample(opened, with_ids):
    arrays = columns(n=60) | ({"id": np.arange(60)} if with_ids else {})
    arrays["x"][7] = arrays["x"][8]
    drawn = opened(arrays, limit=12)
    order = np.random.default_rng(3).permutation(60)
    again = opened({name: a[order] for name, a in arrays.items()}, limit=12)
    assert again.sha256 == drawn.sha256
    assert sorted(again.ids.tolist()) == sorted(drawn.ids.tolist())


# ── pins ──────────────────────────────────────────────────────────────────────────────────


def test_a_pin_is_the_files_sha256_or_the_content(opened, tmp_path):
    arrays = columns(n=30)
    split = opened(arrays)
    of_file = hashlib.sha256((tmp_path / "held_out.npz").read_bytes()).hexdigest()
    for pin in (of_file, split.sha256):
        assert opened(None, sha256=pin).sha256 == split.sha256
        assert len(opened(None, sha256=pin, limit=4)) == 4
    assert opened(arrays, file="same.parquet", sha256=split.sha256).sha256 == split.sha256


def test_a_wrong_pin_shows_all_three(opened, tmp_path):
    arrays = columns(n=30)
    split = opened(arrays)
    of_file = hashlib.sha256((tmp_path / "held_out.npz").read_bytes()).hexdigest()
    for limit in (None, 4):
        with pytest.raises(DataError) as caught:
            opened(None, sha256="0" * 64, limit=limit)
        text = str(caught.value)
        assert f"pinned {'0' * 64}, file {of_file}, content {split.sha256}" in text
        assert f"write `sha256: {of_file}` into the policy" in text


def test_the_digest_of_a_sample_is_no_pin(opened):
    sampled = opened(columns(n=30), limit=4).sha256
    with pytest.raises(DataError, match="is not the data that the policy pins"):
        opened(None, limit=4, sha256=sampled)


# ── overlap ───────────────────────────────────────────────────────────────────────────────


def test_one_image_as_bytes_and_as_floats_is_one_image(opened):
    bytes_ = np.random.default_rng(0).integers(0, 255, (6, 3)).astype(np.uint8)
    halves = Preprocess(scale=0.5)
    held_out = opened(columns(x=bytes_), preprocess=halves)
    floats = {"x": bytes_[:1].astype(np.float32), "target": np.zeros(1, np.int64)}
    calibration = opened(floats, name="calibration", file="other.npz", preprocess=halves)
    assert held_out.sha256 != calibration.sha256
    with pytest.raises(OverlapError, match="share 1 examples"):
        data.prove_disjoint((calibration, held_out))


def test_minus_zero_is_zero(opened):
    zero, minus = np.zeros((1, 3), np.float32), -np.zeros((1, 3), np.float32)
    label = np.zeros(1, np.int64)
    first = opened({"x": zero, "target": label})
    second = opened({"x": minus, "target": label}, name="tuning", file="other.npz")
    with pytest.raises(OverlapError):
        data.prove_disjoint((first, second))


def test_disjoint_splits(opened):
    a, b, c = (opened(columns(), name=name) for name in ("calibration", "tuning", "held_out"))
    data.prove_disjoint([a, b, c])
    data.prove_disjoint([a])
    data.prove_disjoint([])


def test_overlap_by_content_under_different_ids(opened):
    arrays = columns(n=9, id=np.array([f"a{i}" for i in range(9)]))
    other = columns(n=9, id=np.array([f"b{i}" for i in range(9)]))
    other["x"][1:8] = arrays["x"][:7]
    calibration = opened(arrays, name="calibration", needs_target=False)
    fine = opened(columns(), name="tuning")
    held_out = opened(other)
    with pytest.raises(OverlapError) as caught:
        data.prove_disjoint([calibration, fine, held_out])
    assert str(caught.value) == (
        "calibration (calibration.npz) and held_out (held_out.npz) share 7 examples (7 by "
        "content, 0 by id): 'b1', 'b2', 'b3', 'b4', 'b5', …; a model must not be judged on what "
        "built it: take them out of calibration"
    )


def test_overlap_by_id_under_different_content(opened):
    first = opened(columns(id=np.arange(6)), name="tuning", needs_target=False)
    second = opened(columns(id=np.arange(6) + 4))
    with pytest.raises(OverlapError, match=r"2 examples \(0 by content, 2 by id\): '4', '5';"):
        data.prove_disjoint([first, second])


def test_overlap_across_formats(opened):
    arrays = columns()
    first = opened(arrays, name="calibration", needs_target=False)
    second = opened(arrays, file="held_out.parquet")
    with pytest.raises(OverlapError, match="share 6 examples"):
        data.prove_disjoint([first, second])


def test_a_text_is_the_same_whatever_it_is_padded_with(opened, tmp_path):
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    how = {"file": "tokenizer.json", "max_length": 8, "padding": "longest"}
    more = {
        "inputs": (TensorSpec("input_ids", "int64", (None, None)),),
        "preprocess": Preprocess(tokenizer=how),
        "needs_target": False,
    }
    first = opened({"text": np.array(["the cat", "the the the the"])}, name="calibration", **more)
    second = opened({"text": np.array(["the  cat", "the the"])}, **more)
    with pytest.raises(OverlapError, match=r"share 1 examples \(1 by content"):
        data.prove_disjoint((first, second))


# ── villains ──────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_is_named_as_resolved(opened, tmp_path):
    with pytest.raises(UsageError, match=f"held_out: there is no {tmp_path.resolve()}/no.npz"):
        opened(None, file="sub/../no.npz")


def test_an_unknown_format(opened):
    with pytest.raises(UsageError, match="did you mean 'parquet'"):
        opened(columns(), format="parqet")


def test_a_misspelt_input(opened):
    arrays = columns()
    inputs = (TensorSpec("pixel_values", "float32", (None, 3)),)
    with pytest.raises(DataError) as caught:
        opened({"pixel_value": arrays["x"], "target": arrays["target"]}, inputs=inputs)
    text = str(caught.value)
    assert (
        "has no column 'pixel_values'. The model's inputs are pixel_values float32 (N, 3)" in text
    )
    assert "the file has pixel_value (6, 3), target (6,): rename 'pixel_value' to 'pixel_v" in text


def test_a_missing_input_without_a_likely_name(opened):
    with pytest.raises(DataError, match="save each input under its own name"):
        opened({"target": np.arange(3)})


def test_a_column_that_is_neither_input_nor_slice(opened):
    arrays = columns(extra=np.zeros((6, 2)))
    with pytest.raises(
        DataError, match=r"column 'extra' \(6, 2\) is no input of the model, which are x float32"
    ):
        opened(arrays)
    inputs = (X, TensorSpec("mask_b", "float32", (None, 2)))
    arrays = columns(mask_b=np.zeros((6, 2), np.float32), mask_a=np.zeros((6, 2), np.float32))
    with pytest.raises(DataError, match=r"did you mean 'mask_b'\? Rename it, or leave it out"):
        opened(arrays, inputs=inputs)


@pytest.mark.parametrize("name", ["site\0b", "site\x1b[31m", "a\nb", "\u200b"])
def test_a_name_that_cannot_be_printed(opened, name):
    from gate.table import by_role

    held = {"x": np.zeros((2, 3), np.float32), "target": np.zeros(2), name: np.zeros(2)}
    with pytest.raises(DataError, match=r"held_out: the column name '.*\\.*' holds what cannot"):
        by_role("held_out", held, ("x",), (X,), needs_target=True)


def test_a_missing_target(opened):
    with pytest.raises(DataError, match=r"no column 'target'.*it has x \(6, 3\): add the true"):
        opened({"x": columns()["x"]})


@pytest.mark.parametrize(
    ("name", "shape", "allowed"),
    [
        ("target", (6, 2, 2, 2), r"\(N,\), \(N, L\) or \(N, H"),
        ("id", (6, 2), r"\(N,\)"),
        ("unit", (6, 1), ""),
    ],
)
def test_special_columns_have_their_rank(opened, name, shape, allowed):
    with pytest.raises(DataError, match=rf"column '{name}' is .*; it has to be {allowed}"):
        opened(columns(**{name: np.zeros(shape, np.int64)}))


@pytest.mark.parametrize("file", ["held_out.npz", "held_out.parquet"])
def test_an_empty_split(opened, file):
    with pytest.raises(DataError, match="is empty; it needs at least one example"):
        opened(columns(n=0), file=file)


def test_repeated_ids(opened):
    with pytest.raises(DataError, match="2 ids occur more than once: 'a', 'b'; every example"):
        opened(columns(id=np.array(list("aabbbc"))))


def test_ids_that_are_no_ids(opened):
    with pytest.raises(DataError, match="column 'id' is float64; ids are text or integers"):
        opened(columns(id=np.arange(6.0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "target", "site", "unit"])
def test_nan_and_inf_are_named_by_example(opened, bad, name):
    arrays = columns(id=np.array([f"img{i}" for i in range(6)]), site=np.zeros(6), unit=np.zeros(6))
    arrays["target"] = arrays["target"].astype(np.float64)
    arrays[name][4] = bad
    with pytest.raises(
        DataError, match=rf"column '{name}' of example 'img4' \(row 4, .*\) is NaN or infinite"
    ):
        opened(arrays)


def test_nan_in_an_example_without_an_id(opened):
    arrays = columns()
    arrays["x"][4, 1] = np.nan
    with pytest.raises(DataError, match=r"of example 'x[0-9a-f]{16}' \(row 4"):
        opened(arrays)


def test_nan_in_a_later_block_of_a_sample(opened, monkeypatch):
    monkeypatch.setattr(table, "_BLOCK_BYTES", 64)
    arrays = columns(n=100, id=np.arange(100))
    sample = opened(arrays, limit=30).order
    arrays["x"][sample[25]] = np.nan
    with pytest.raises(DataError, match=rf"example '{sample[25]}' \(row {sample[25]},"):
        opened(arrays, limit=30)


@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF])
@pytest.mark.parametrize("name", ["id", "site", "target"])
def test_text_that_is_not_unicode(opened, code, name):
    text = np.array([f"t{i}" for i in range(6)])
    text.view(np.uint32)[7] = code
    with pytest.raises(DataError, match=rf"column '{name}'.*\(row 3, .*is not Unicode text"):
        opened(columns(**{name: text}))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.int64])
def test_there_is_no_silent_cast(opened, dtype):
    arrays = columns()
    with pytest.raises(DataError, match=r"column 'x' is .*wants float32: save it as float32"):
        opened(arrays | {"x": arrays["x"].astype(dtype)})


def test_a_shape_that_is_not_the_models(opened):
    with pytest.raises(DataError, match=r"enters the model as \(N, 3\).*wants \(N, 4\)"):
        opened(columns(), inputs=(TensorSpec("x", "float32", (None, 4)),))


def test_a_fit_is_checked_before_data_are_read(opened, monkeypatch):
    monkeypatch.setattr(census, "identify", lambda *_: pytest.fail("data were read"))
    with pytest.raises(DataError, match="wants int64"):
        opened(columns(), inputs=(TensorSpec("x", "int64", (None, 3)),))


def test_a_model_without_inputs(opened):
    with pytest.raises(DataError, match="the model has no inputs"):
        opened(columns(), inputs=())


# ── images ────────────────────────────────────────────────────────────────────────────────

IMAGE = (TensorSpec("input", "float32", (None, 3, None, None)),)


@pytest.fixture
def folder(tmp_path):
    """Six images in two classes."""
    for place in range(6):
        path = tmp_path / "images" / ("even" if place % 2 == 0 else "odd") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels(6, 5, seed=place)))
    return tmp_path / "images"


@pytest.fixture
def pictured(opened, folder):
    def open_it(**more):
        settled = {"inputs": IMAGE, "preprocess": Preprocess(), "file": "images"} | more
        return opened(None, **settled)

    return open_it


def test_a_folder_of_images(pictured, folder):
    split = pictured()
    assert split.ids.tolist() == [f"even/{i}.png" for i in (0, 2, 4)] + [
        f"odd/{i}.png" for i in (1, 3, 5)
    ]
    assert split.targets.tolist() == ["even"] * 3 + ["odd"] * 3
    assert split.missing == ()
    feeds = split.batch(2, 2).feeds
    assert [*feeds] == ["input"]
    expected = np.stack([pixels(6, 5, seed=seed) for seed in (4, 1)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(feeds["input"], expected)


def test_another_image_size_is_the_same_data(pictured):
    small = pictured(preprocess=Preprocess(resize={"size": (2, 2)}))
    whole = pictured()
    assert small.sha256 == whole.sha256
    assert (small.content != whole.content).any()


def test_one_picture_in_two_files_is_a_duplicate(pictured, folder):
    image = pixels(6, 5, seed=0)
    (folder / "odd" / "again.bmp").write_bytes(encoded(image, "BMP"))
    assert data.duplicates(pictured()) == 1


def test_a_pin_covers_a_folder(pictured, folder):
    digest = pictured().sha256
    assert pictured(sha256=digest).sha256 == digest
    with pytest.raises(DataError, match=rf"content {digest}.*write `sha256: {digest}` into") as e:
        pictured(sha256="0" * 64, limit=3)
    assert "file " not in str(e.value).partition("pinned")[2].partition("content")[0]
    (folder / "odd" / "1.png").write_bytes(encoded(pixels(6, 5, seed=9)))
    with pytest.raises(DataError, match="is not the data that the policy pins"):
        pictured(sha256=digest)


def break_images(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"broken")


def test_images_that_do_not_decode_are_named(pictured, folder):
    break_images(folder, "even/2.png", "odd/3.png")
    message = (
        r"2 of 6 images do not decode, and `may_miss` allows 1: 'even/2\.png' \(it is no image"
    )
    with pytest.raises(DataError, match=message):
        pictured(may_miss=1)


def test_as_many_as_allowed_are_left_out_and_told(pictured, folder):
    whole = pictured()
    break_images(folder, "even/2.png", "odd/3.png")
    split = pictured(may_miss=2)
    assert split.missing == ("even/2.png", "odd/3.png")
    assert data.info(split).missing == 2
    kept = np.isin(whole.ids, split.missing, invert=True)
    assert split.ids.tolist() == whole.ids[kept].tolist()
    assert split.targets.tolist() == whole.targets[kept].tolist()
    np.testing.assert_array_equal(split.content, whole.content[kept])
    for before, after in zip((0, 2, 3, 5), range(4), strict=True):
        np.testing.assert_array_equal(
            split.batch(after, 1).feeds["input"], whole.batch(before, 1).feeds["input"]
        )


def test_a_pin_holds_with_images_that_are_missing(pictured, folder):
    break_images(folder, "even/2.png")
    with pytest.raises(DataError) as caught:
        pictured(may_miss=1, sha256="0" * 64)
    digest = str(caught.value).partition("content ")[2][:64]
    split = pictured(may_miss=1, sha256=digest)
    assert len(split) == 5
    sampled = pictured(may_miss=1, sha256=digest, limit=3)
    assert sampled.population == split.population


def test_all_cannot_be_missing(pictured, folder):
    break_images(folder, *(path.relative_to(folder) for path in folder.rglob("*.png")))
    with pytest.raises(DataError, match=r"6 of 6 images do not decode"):
        pictured(may_miss=9)


def test_a_small_image_is_named_and_cannot_be_missed(pictured, folder):
    (folder / "odd" / "3.png").write_bytes(encoded(pixels(3, 3)))
    break_images(folder, "odd/1.png")
    with pytest.raises(DataError, match=r"example 'odd/3\.png': 3×3 pixels"):
        pictured(may_miss=9, preprocess=Preprocess(crop=(5, 6)))


def test_an_image_of_another_size_is_named(pictured, folder):
    (folder / "odd" / "3.png").write_bytes(encoded(pixels(3, 3)))
    with pytest.raises(DataError, match=r"example 'odd/3\.png': it comes out as 3×3 pixels"):
        pictured(may_miss=9)


def test_without_a_model_images_are_told_apart_by_their_bytes(pictured, folder):
    split = pictured(inputs=None)
    assert [*split.inputs] == ["image"]
    assert split.sha256 == pictured().sha256


def test_images_that_nothing_is_fed_from(opened, folder, tmp_path):
    arrays = {"input": [[0.0]], "photo": [b"a"], "target": [0]}
    pq.write_table(pa.table(arrays), tmp_path / "a.parquet")
    inputs = (TensorSpec("input", "float32", (None, 1)),)
    with pytest.raises(DataError, match="column 'photo' holds encoded images, and no input is fed"):
        opened(None, file="a.parquet", inputs=inputs, preprocess=Preprocess())


def boxed(tmp_path, boxes):
    """Annotations of `a.png` beside it, as COCO has them."""
    (tmp_path / "a.png").write_bytes(encoded(pixels(9, 9)))
    (tmp_path / "b.png").write_bytes(encoded(pixels(9, 9, seed=1)))
    document = {
        "images": [{"id": n, "file_name": n, "width": 9, "height": 9} for n in ("a.png", "b.png")],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"image_id": "a.png", "category_id": 1, "bbox": box} for box in boxes],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))


def test_boxes_are_part_of_the_digest(opened, tmp_path):
    digests = []
    for boxes in ([[0, 0, 4, 4], [1, 1, 4, 4]], [[0, 0, 4, 4]], []):
        boxed(tmp_path, boxes)
        split = opened(None, file="boxes.json", inputs=IMAGE, preprocess=Preprocess())
        assert isinstance(split.targets, Ragged)
        assert split.targets.sizes.tolist() == [1 + len(boxes), 1]
        assert split.batch(1, 1).targets.sizes.tolist() == [1]
        digests.append(split.sha256)
    assert len(set(digests)) == 3


def test_the_hash_of_annotations_is_no_pin_of_their_images(opened, tmp_path):
    boxed(tmp_path, [])
    settled = {"file": "boxes.json", "inputs": IMAGE, "preprocess": Preprocess()}
    of_file = hashlib.sha256((tmp_path / "boxes.json").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"pinned {of_file}, content"):
        opened(None, sha256=of_file, **settled)
    assert opened(None, sha256=opened(None, **settled).sha256, **settled).ids.tolist() == [
        "a.png",
        "b.png",
    ]


def test_images_in_a_folder_of_their_own(opened, tmp_path, folder):
    boxed(tmp_path, [])
    (tmp_path / "labels").mkdir()
    (tmp_path / "boxes.json").rename(tmp_path / "labels" / "boxes.json")
    settled = {"file": "labels/boxes.json", "inputs": IMAGE, "preprocess": Preprocess()}
    assert len(opened(None, images=".", **settled)) == 2
    with pytest.raises(DataError, match=r"image 'a\.png' is not in"):
        opened(None, **settled)
    with pytest.raises(UsageError, match=r"there is no folder .*gone; `images: gone` is relative"):
        opened(None, images="gone", **settled)


def test_examples_that_differ_in_their_boxes_alone_have_ids_of_their_own(opened, tmp_path):
    values = np.array([[0.0], [1.0], [0.0]])
    offsets = {"target": values, "target/offsets": np.array([0, 2, 2, 3])}
    arrays = {"x": np.zeros((3, 3), np.float32), **offsets}
    there = opened(arrays)
    arrays["target"], arrays["target/offsets"] = values[[2, 0, 1]], np.array([0, 1, 3, 3])
    back = opened(arrays)
    assert there.sha256 == back.sha256
    assert there.ids.tolist() == back.ids[[1, 2, 0]].tolist()
    assert len({*there.ids}) == 3


def test_rows_that_are_not_finite_are_named(opened):
    target = {"target": np.array([[0.0], [np.nan]]), "target/offsets": np.array([0, 1, 1, 2])}
    with pytest.raises(DataError, match=r"column 'target' of example .* \(row 2, .*NaN"):
        opened({"x": np.eye(3, dtype=np.float32), **target})


# ── memory ────────────────────────────────────────────────────────────────────────────────


def test_memory_is_flat(opened):
    spec = TensorSpec("x", "float32", (None, 1 << 16))
    arrays = {
        "x": np.zeros((256, 1 << 16), np.float32),
        "target": np.zeros(256, np.int64),
    }  # 64 MiB
    opened(arrays, inputs=(spec,), save=np.savez_compressed)
    del arrays
    tracemalloc.start()
    split = opened(None, inputs=(spec,))
    total = sum(float(batch.feeds["x"].sum()) for batch in split.batches(16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 0
    assert peak < 16 << 20


# ── a part of a split ─────────────────────────────────────────────────────────────────────


def of_many(opened, n, **others):
    return opened(columns(n, id=np.array([f"e{i}" for i in range(n)]), **others))


@given(n=st.integers(2, 60), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_carving_parts_a_split_in_two(opened, n, share, seed):
    split = of_many(opened, n, site=np.arange(n), unit=np.arange(n) // 2)
    count = round(share * n)
    if not 0 < count < n:
        with pytest.raises(DataError, match=rf"{n} examples, too few to set some apart"):
            data.carved(split, share, seed=seed)
        return
    rest, part = data.carved(split, share, seed=seed)
    assert (len(rest), len(part)) == (n - count, count)
    assert {*rest.ids, *part.ids} == {*split.ids}
    data.prove_disjoint((rest, part))
    assert len({split.sha256, rest.sha256, part.sha256}) == 3
    for one in (rest, part):
        rows = [int(key[1:]) for key in one.ids]
        assert rows == sorted(rows) == one.slices["site"].tolist() == one.order.tolist()
        assert one.targets.tolist() == [row % 2 for row in rows]
        assert one.unit.tolist() == [row // 2 for row in rows]
        (batch,) = one.batches(n)
        np.testing.assert_array_equal(batch.feeds["x"], split.batch(0, n).feeds["x"][rows])


def test_carving_is_by_lot_and_the_same_for_the_same_seed(opened):
    split = of_many(opened, 40)
    first, again, other = (data.carved(split, 0.5, seed=seed)[1] for seed in (0, 0, 1))
    assert first.ids.tolist() == again.ids.tolist() != other.ids.tolist()
    assert first.sha256 == again.sha256 != other.sha256
    assert first.ids.tolist() not in (split.ids[:20].tolist(), split.ids[20:].tolist())


def test_what_is_carved_can_be_carved_and_visited_in_another_order(opened):
    split = of_many(opened, 40)
    rest, part = data.carved(split, 0.5, seed=0)
    inner, outer = data.carved(rest, 0.5, seed=0)
    data.prove_disjoint((part, inner, outer))
    turned = data.shuffled(part, seed=0)
    assert {*turned.ids} == {*part.ids}
    for place, key in enumerate(turned.ids):
        assert turned.order[place] == int(key[1:])


def test_a_carved_split_without_targets(opened):
    split = opened(columns(8), needs_target=False)
    assert all(one.targets is None for one in data.carved(split, 0.25, seed=3))


@pytest.mark.parametrize("same", [False, True])
def test_file_names_tell_nothing_of_another_folder(tmp_path, same):
    image = TensorSpec("image", "float32", (None, 3, 4, 4))
    for place, split in enumerate(("calibration", "held_out")):
        (tmp_path / split / "a").mkdir(parents=True)
        drawn = pixels(4, 4, seed=0 if same else place)
        (tmp_path / split / "a" / "0001.png").write_bytes(encoded(drawn))
    found = [
        data.open_split(
            split,
            DataSource(path=split),
            base=tmp_path,
            inputs=(image,),
            preprocess=Preprocess(),
            seed=0,
            scratch=tmp_path / "scratch",
            needs_target=False,
        )
        for split in ("calibration", "held_out")
    ]
    if not same:
        data.prove_disjoint(found)
        return
    with pytest.raises(OverlapError, match="1 by content"):
        data.prove_disjoint(found)


def test_an_empty_text_is_named(opened, tmp_path):
    ids = TensorSpec("input_ids", "int64", (None, None))
    texts = np.array(["the cat", "", "a mat"])
    preprocess = Preprocess(tokenizer={"file": "tokenizer.json", "max_length": 4})
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    given = {"text": texts, "target": np.arange(3), "id": np.array(["a", "b", "c"])}
    with pytest.raises(DataError, match=r"text of example 1 \(counting from 0, id 'b'\) is empty"):
        opened(given, inputs=(ids,), preprocess=preprocess)
    kept = {name: values[[0, 2]] for name, values in given.items()}
    assert opened(kept, inputs=(ids,), preprocess=preprocess).truncated == 0
    short = Preprocess(tokenizer={"file": "tokenizer.json", "max_length": 1})
    assert opened(kept, inputs=(ids,), preprocess=short).truncated == 2


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("cat", "dog"), None),
        ((), None),
        (("Cat", "Dog"), None),
        (("dog", "cat"), "'cat' is class 0 in the data .* and class 1 in `build.classes`"),
        (("none", "cat", "dog"), "'cat' is class 0 in the data"),
    ],
)
def test_a_class_is_not_called_as_another_in_the_policy(tmp_path, classes, said):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4)))
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))

    def opened(*, needs_target):
        return data.open_split(
            "held_out",
            DataSource(path="boxes.json"),
            base=tmp_path,
            inputs=(TensorSpec("image", "float32", (None, 3, 4, 4)),),
            preprocess=Preprocess(),
            seed=0,
            scratch=tmp_path / "scratch",
            needs_target=needs_target,
            classes=classes,
        )

    if said is not None:
        with pytest.raises(DataError, match=said):
            opened(needs_target=True)
    assert len(opened(needs_target=said is None)) == 1


# ── many examples ─────────────────────────────────────────────────────────────────────────


def many(n, **others):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[1] = x[0]
    return {"x": x, "target": rng.integers(0, 10, n), **others}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("limit", [None, 300])
def test_a_split_does_not_depend_on_windows(opened, monkeypatch, named, limit):
    more = {"id": np.array([f"{i:05d}" for i in range(500)])} if named else {}
    arrays = many(500, site=np.resize(np.array(list("ab")), 500), **more)
    whole = opened(arrays, limit=limit)
    monkeypatch.setattr(mapped, "WINDOW", 64)
    found = opened(None, limit=limit)
    assert (found.sha256, found.population) == (whole.sha256, whole.population)
    shuffled = data.shuffled(found, 1), data.shuffled(whole, 1)
    for one, other in ((found, whole), shuffled):
        for name in ("ids", "content", "targets", "order"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(one.slices["site"], other.slices["site"])


@pytest.mark.parametrize("named", [False, True])
def test_a_split_holds_nothing_of_its_examples(opened, monkeypatch, named):
    """What identifying takes: 64 bytes of hashes, 32 of which nothing may be written to, and 32
    of hashes that are sorted, 25 to find ids that repeat."""
    monkeypatch.setattr(mapped, "WINDOW", 1 << 12)
    monkeypatch.setattr(table, "_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(identity, "_AT_ONCE", 100)
    few, more = 2_000, 6_000
    for n in (few, more):
        ids = {"id": np.array([f"{i:017d}" for i in range(n)])} if named else {}
        opened(many(n, **ids), name=f"n{n}")
    held = {}

    def work(n):
        return lambda: held.update({n: opened(None, name=f"n{n}")})

    assert an_example(work, few, more) < 130
    tracemalloc.start()
    try:
        work(more)()
        assert tracemalloc.get_traced_memory()[0] < 4 * more
    finally:
        tracemalloc.stop()


def test_telling_two_splits_apart_takes_no_copy_of_the_larger_one(opened, monkeypatch):
    monkeypatch.setattr(mapped, "WINDOW", 1 << 12)
    small = opened(columns(), name="calibration")
    large = {n: opened(many(n), name=f"n{n}") for n in (4_000, 12_000)}

    def work(n):
        return lambda: (data.prove_disjoint([large[n], small]), data.duplicates(large[n]))

    assert an_example(work, 4_000, 12_000) < 20
