"""Files that took time to make: used where they are what they say, and nowhere else."""

import os
from pathlib import Path

from gate.sealed import Sealed

KEY = {"model": "m", "batch": 64}


def test_what_was_kept_comes_back_under_its_key_alone(tmp_path: Path) -> None:
    files = Sealed(tmp_path / "deep" / "folder", ".rows")
    assert files.load(KEY) is None
    assert files.save(KEY, b"payload")
    assert files.load(dict(reversed(KEY.items()))) == b"payload"
    assert files.load(KEY | {"batch": 32}) is None
    files.drop(KEY)
    files.drop(KEY)
    assert files.load(KEY) is None


def test_another_keys_file_is_no_hit(tmp_path: Path) -> None:
    files, other = Sealed(tmp_path, ".rows"), KEY | {"batch": 1}
    files.save(KEY, b"one")
    (file,) = tmp_path.iterdir()
    files.save(other, b"two")
    (second,) = set(tmp_path.iterdir()) - {file}
    file.replace(second)
    assert files.load(other) is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    files = Sealed(tmp_path, ".rows")
    keys = [{"n": n} for n in range(4)]
    for age, key in enumerate(keys):
        files.save(key, bytes(100))
        newest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    assert files.load(keys[0]) is not None  # used again, so it is the newest
    files.prune(270)
    assert [files.load(key) is not None for key in keys] == [True, False, False, True]
    files.prune(0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    files = Sealed(tmp_path / "file" / "folder", ".rows")
    assert not files.save(KEY, b"payload")
    assert files.load(KEY) is None
    files.prune(0)
