import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pictures import encoded, pixels

from gate.errors import DataError
from gate.formats.jsonl import FORMAT


def write(folder, *lines):
    path = folder / "split.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def read(path):
    return FORMAT.read(path, path.parent / "scratch")


def test_kinds(tmp_path):
    path = write(
        tmp_path,
        {"ids": [1, 2], "score": 1, "ok": True, "text": "süd", "m": [[1.5], [2]]},
        {"ok": False, "ids": [3, 4], "score": 0.5, "text": "", "m": [[1], [2]]},
    )
    columns = read(path)
    assert {name: (c.dtype.str, c.shape) for name, c in columns.items()} == {
        "ids": ("<i8", (2, 2)),
        "score": ("<f8", (2,)),
        "ok": ("|b1", (2,)),
        "text": ("<U3", (2,)),
        "m": ("<f8", (2, 2, 1)),
    }
    assert columns["ok"].tolist() == [True, False]
    assert columns["text"].tolist() == ["süd", ""]
    with pytest.raises(ValueError, match="read-only"):
        columns["ids"][0] = 1


def test_a_missing_last_newline_and_windows_line_ends(tmp_path):
    path = tmp_path / "split.jsonl"
    path.write_bytes(b'{"x": 1}\r\n{"x": 2}')
    assert read(path)["x"].tolist() == [1, 2]


def test_images_are_named_by_path_which_is_their_id(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    data = [encoded(pixels(4, 4, seed=seed)) for seed in range(2)]
    for place, content in enumerate(data):
        (images / f"{place}.png").write_bytes(content)
    lines = [{"image_path": f"images/{place}.png", "target": place} for place in range(2)]
    path = write(tmp_path, *lines)
    columns = read(path)
    assert {name: c.shape for name, c in columns.items()} == dict(FORMAT.columns(path))
    assert columns["image"][:].tolist() == data
    assert columns["id"][:].tolist() == ["images/0.png", "images/1.png"]
    write(tmp_path, *({"image_path": f"{place}.png", "id": place} for place in range(2)))
    columns = FORMAT.read_with(path, tmp_path / "scratch", images)
    assert columns["image"][:].tolist() == data
    assert columns["id"].tolist() == [0, 1]


FINE = {"x": [1, 2], "t": "a", "f": 1.5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"cannot be read \(.+\): a line is one JSON object"),
        ("[1]", "a line is one JSON object"),
        ("", "the line is empty"),
        ('{"x": NaN}', "NaN is no number of JSON"),
        ('{"x": 1, "x": 2}', "a key occurs twice"),
        ({"x": [1, 2], "t": "a"}, "'f' not in this line and the first one alike"),
        (FINE | {"g": 1}, "'g' not in this line"),
        (FINE | {"x": [1]}, "'x': a list of 1 where the first line has a list of 2"),
        (FINE | {"x": 1}, "'x': no list where the first line has a list of 2"),
        (FINE | {"x": [1, [2]]}, "'x': a list where the first line has one value"),
        (FINE | {"t": ["a"]}, "'t': a list where the first line has one value"),
        (FINE | {"t": None}, r"'t': a value is missing \(null\)"),
        (FINE | {"t": {}}, "'t': a value is a dict"),
        (FINE | {"t": 1}, "'t': a number where the first line has a text"),
        (FINE | {"x": [1, True]}, "'x': a boolean where the first line has a number"),
        (FINE | {"x": [1, 2**63]}, "'x': 9223372036854775808 is beyond 64 bits"),
        (FINE | {"t": "a\0"}, "'t': the text has a NUL character"),
        ('{"x": [1, 2], "t": "a", "f": 1e999}', "'f': a number is too large"),
    ],
)
def test_lines_are_named(tmp_path, line, message):
    path = write(tmp_path, FINE, FINE, line, FINE)
    for use in (read, FORMAT.columns):
        with pytest.raises(DataError, match=rf"split\.jsonl:3.*{message}"):
            use(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"x": []}, "'x' is an empty list"),
        ({"x": None}, "a value is missing"),
        ({"x": [[[[[[[[[1]]]]]]]]]}, "'x' has lists in lists, 9 deep, and 8 are read"),
        ({"image_path": ["a.png"]}, "has to be the path of one image"),
        ({"image_path": 1}, "has to be the path of one image"),
        ({"image_path": "a.png", "image": 1}, "has both 'image' and 'image_path'"),
        ({"image_path": "../a.png"}, "is no plain path"),
        ({"image_path": ""}, "is no plain path"),
        ({"image_path": "gone.png"}, r"image 'gone\.png' is not in .*`images:`"),
    ],
)
def test_first_lines_are_named(tmp_path, line, message):
    with pytest.raises(DataError, match=rf"split\.jsonl:1.*{message}"):
        read(write(tmp_path, line))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "x": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
                "f": st.floats(allow_nan=False, allow_infinity=False),
                "t": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
                "b": st.booleans(),
            }
        ),
        min_size=1,
    )
)
def test_what_is_written_comes_back(tmp_path, rows):
    columns = read(write(tmp_path, *rows))
    for name, column in columns.items():
        assert column.tolist() == [row[name] for row in rows]
    assert np.array_equal(columns["x"].dtype, np.int64)
