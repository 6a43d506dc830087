import copy
import json

import numpy as np
import pytest
from support.pictures import encoded, pixels

from gate import boxes
from gate.errors import DataError
from gate.formats.coco import FORMAT

DOCUMENT = {
    "info": {"year": 2026},
    "images": [
        {"id": 4, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 2, "file_name": "sub/b.png", "width": 8, "height": 8},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 2, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 6, "iscrowd": 1},
        {"id": 2, "image_id": 4, "category_id": 1, "bbox": [0, 0, 20.5, 10.9]},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [-1, 0, 1, 1]},
    ],
}
A = encoded(pixels(20, 10))
B = encoded(pixels(8, 8))


def write(folder, document, images=None):
    path = folder / "boxes.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    for name, data in {"a.png": A, "sub/b.png": B}.items():
        file = (images or folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def changed(place, **fields):
    """The document with fields set, or removed (None), at `images.0`, …"""
    document = copy.deepcopy(DOCUMENT)
    name, index = place.split(".")
    for field, value in fields.items():
        document[name][int(index)][field] = value
        if value is None:
            del document[name][int(index)][field]
    return document


def refused(tmp_path, document, message):
    path = write(tmp_path, document)
    with pytest.raises(DataError, match=message) as caught:
        FORMAT.read(path, tmp_path)
    assert str(path) in str(caught.value)


def test_boxes_go_to_their_images(tmp_path):
    read = FORMAT.read(write(tmp_path, DOCUMENT), tmp_path)
    assert read["id"][:].tolist() == ["a.png", "sub/b.png"]
    assert read["image"][:].tolist() == [A, B]
    target = read["target"]
    assert target.shape == (2, boxes.WIDTH)
    assert target.entry(0)[0].tolist() == list(boxes.image_row(20, 10))
    np.testing.assert_allclose(target.entry(0)[1], [0, 0, 0, 20.5, 10.9, 20.5 * 10.9, 0])
    assert target.entry(1)[1].tolist() == [1, 1, 2, 4, 6, 6, 1]
    assert target.entry(1)[2].tolist() == [0, -1, 0, 0, 1, 1, 0]


def test_the_class_is_the_place_among_sorted_ids_even_of_unused_categories(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["categories"].append({"id": 5, "name": "cow"})
    target = FORMAT.read(write(tmp_path, document), tmp_path)["target"]
    assert target.values[target.values[:, boxes.CROWD] == 1, boxes.CLASS].tolist() == [2]


def test_classes_are_named_by_number(tmp_path):
    assert FORMAT.read(write(tmp_path, DOCUMENT), tmp_path)["target"].classes == ("cat", "dog")


def test_a_size_is_told_upright(tmp_path):
    document = changed("images.0", width=10, height=20) | {"annotations": []}
    path = write(tmp_path, document)
    (tmp_path / "a.png").write_bytes(encoded(pixels(20, 10), "TIFF", tiffinfo={0x0112: 6}))
    assert FORMAT.read(path, tmp_path)["target"].entry(0)[0, boxes.X2] == 10


def test_images_may_lie_elsewhere(tmp_path):
    path = write(tmp_path, DOCUMENT, tmp_path / "val2017")
    read = FORMAT.read_with(path, tmp_path, tmp_path / "val2017")
    assert read["image"][:].tolist() == [A, B]
    with pytest.raises(DataError, match=r"image 'a\.png' is not in .*say in `images:`"):
        FORMAT.read(path, tmp_path)


def test_an_image_that_does_not_decode_is_found_later(tmp_path):
    path = write(tmp_path, DOCUMENT)
    (tmp_path / "a.png").write_bytes(b"broken")
    assert FORMAT.read(path, tmp_path)["image"][:].tolist() == [b"broken", B]


@pytest.mark.parametrize(
    ("place", "fields", "message"),
    [
        ("annotations.0", {"bbox": [1, 2, 0, 4]}, r"annotations\[0\] \('sub/b.png'\).*no area"),
        ("annotations.0", {"bbox": [1, 2, 3, -4]}, "no area"),
        ("annotations.0", {"bbox": [1, 2, 3]}, r"it has to be \[x, y, width, height\]"),
        ("annotations.0", {"bbox": [1, 2, 3, "4"]}, r"it has to be \[x, y, width, height\]"),
        ("annotations.0", {"bbox": [1, 2, 3, True]}, r"it has to be \[x, y, width, height\]"),
        ("annotations.0", {"bbox": [4, 4, 5.1, 4]}, "stands out of the image of 8×8 pixels"),
        ("annotations.0", {"bbox": [-1.1, 4, 4, 4]}, "stands out of the image"),
        ("annotations.0", {"bbox": [4, 4, 4, 5.1]}, "stands out of the image"),
        ("annotations.0", {"image_id": 3}, r"annotations\[0\] is of image 3, which 'images'"),
        ("annotations.0", {"category_id": 3}, "is of category 3, which 'categories' does not"),
        ("annotations.0", {"category_id": None}, r"annotations\[0\]: 'category_id' is missing"),
        ("annotations.0", {"category_id": True}, "'category_id' is true, which it cannot be"),
        ("annotations.0", {"iscrowd": 2}, "'iscrowd' is 0 or 1"),
        ("annotations.0", {"area": -1}, "'area' a number of pixels"),
        ("annotations.0", {"area": 101}, "no more than the image has"),
        ("annotations.0", {"area": 10**400}, "'area' a number of pixels"),
        ("annotations.0", {"bbox": [1, 2, 3, 10**400]}, r"it has to be \[x, y, width, height\]"),
        ("annotations.0", {"bbox": [1] * 9999}, r"'bbox' is .{80}…; it has to be"),
        ("annotations.0", {"id": 2}, "'id' 2 occurs more than once"),
        ("images.0", {"width": 10**400}, "more than an image can have"),
        ("images.0", {"file_name": "a" * 5000}, r"image 'a{80}…' is not in"),
        ("images.0", {"width": 10}, "is 20×10 pixels upright, and its annotation says 10×10"),
        ("images.0", {"width": 0}, "has no pixels"),
        ("images.0", {"width": None}, r"images\[0\]: 'width' is missing"),
        ("images.0", {"file_name": "c.png"}, r"image 'c\.png' is not in"),
        ("images.0", {"file_name": "sub/b.png"}, "'file_name' 'sub/b.png' occurs more than once"),
        ("images.0", {"file_name": "../a.png"}, "is no plain path"),
        ("images.0", {"file_name": "/etc/passwd"}, "is no plain path"),
        ("images.0", {"file_name": "a\x00.png"}, "is no plain path"),
        ("images.0", {"id": 2}, "'id' 2 occurs more than once"),
        ("categories.0", {"id": 1}, "'id' 1 occurs more than once"),
    ],
)
def test_entries_that_are_refused(tmp_path, place, fields, message):
    refused(tmp_path, changed(place, **fields), message)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "has no list 'images'"),
        ({"images": []}, "has no list 'annotations'"),
        ({"images": [], "annotations": [], "categories": []}, "holds no images"),
        ({"images": [3], "annotations": [], "categories": []}, r"images\[0\]: 'id' is missing"),
        ('{"images": NaN}', "cannot be read .NaN is no number"),
        ('{"images": [], "images": []}', "a key occurs twice"),
    ],
)
def test_documents_that_are_refused(tmp_path, document, message):
    refused(tmp_path, document, message)
    with pytest.raises(DataError, match=message):
        FORMAT.columns(tmp_path / "boxes.json")


def test_columns_needs_no_images(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(DOCUMENT))
    assert dict(FORMAT.columns(path)) == {"image": (2,), "id": (2,), "target": (2, 7)}
