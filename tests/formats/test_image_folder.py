import os

import numpy as np
import pytest
from support.pictures import encoded, pixels

from gate.errors import DataError
from gate.formats.image_folder import FORMAT


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels(4, 4)))


def read(folder):
    return FORMAT.read(folder, folder / "unused")


def test_a_class_may_have_folders_of_its_own(tmp_path):
    write(tmp_path, "b/z.png", "a/2026/y.JPG", "a/x.webp")
    columns = read(tmp_path)
    assert columns["id"][:].tolist() == ["a/2026/y.JPG", "a/x.webp", "b/z.png"]
    assert columns["target"][:].tolist() == ["a", "a", "b"]


def test_a_flat_folder_has_no_target(tmp_path):
    write(tmp_path, "b.png", "a.png")
    assert {*read(tmp_path)} == {"image", "id"}
    assert dict(FORMAT.columns(tmp_path)) == {"image": (2,), "id": (2,)}


def test_hidden_names_are_passed_over(tmp_path):
    write(tmp_path, "a/x.png", "a/.y.png", ".git/z.png", "a/.cache/w.png")
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert read(tmp_path)["id"][:].tolist() == ["a/x.png"]


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    write(tmp_path, "a/x.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"")
    images = read(tmp_path)["image"]
    assert images[np.array([0])].tolist() == [b""]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.png", "a/notes.txt", "b/thumbs.db"], r"2 files that are no images.*'a/notes\.txt'"),
        (["a/x.png", "y.png"], r"'y\.png' lies beside the folders of the classes"),
        (["a/x\n.png"], "control characters"),
        ([], r"holds no images \(\.bmp"),
    ],
)
def test_names_that_are_refused(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_links_that_lead_back_are_refused(tmp_path):
    write(tmp_path, "a/x.png", "b/y.png")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    assert read(tmp_path)["id"].shape == (3,)
    (tmp_path / "b" / "back").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"'a/other/back' is a link to a folder that it lies in"):
        read(tmp_path)


@pytest.mark.parametrize("target", ["/dev/zero", "../pipe", "/no/such"])
def test_what_is_no_file_is_not_waited_for(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "a", "1.png")
    (tmp_path / "a" / "2.png").symlink_to(target)
    with pytest.raises(DataError, match=r"'2\.png' is no file but a device, a pipe or a link to"):
        read(tmp_path / "a")


def test_an_empty_class(tmp_path):
    write(tmp_path, "a/x.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="folder 'b' is empty"):
        read(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path, "x.png")
    with pytest.raises(DataError, match=r"x\.png cannot be read: `image_folder` is a folder"):
        read(tmp_path / "x.png")
