"""Files that took time to make: used where they are what they say, and nowhere else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate import sealed
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


def test_what_a_killed_process_left_goes_and_what_one_is_writing_stays(tmp_path: Path) -> None:
    left, writing = tmp_path / "a.1.part", tmp_path / "b.2.part"
    for part in (left, writing):
        part.write_bytes(b"half")
    os.utime(left, (1, 1))
    Sealed(tmp_path, ".rows").prune(1000)
    assert list(tmp_path.iterdir()) == [writing]


# ── the secret ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user who has no secret yet."""
    monkeypatch.delenv(sealed.KEY, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    sealed._secret.cache_clear()
    yield tmp_path / "config" / "int8-gate"
    sealed._secret.cache_clear()


def test_what_was_sealed_with_another_secret_is_no_hit(tmp_path: Path, user: Path) -> None:
    """A change under test knows every key, and could bring a file for it."""
    files = Sealed(tmp_path / "cache", ".rows")
    files.save(KEY, b"forged")
    (user / "cache.key").write_bytes(bytes(32))
    sealed._secret.cache_clear()
    assert files.load(KEY) is None


def test_a_users_secret_is_made_once_and_readable_by_nobody_else(
    tmp_path: Path, user: Path
) -> None:
    files = Sealed(tmp_path / "cache", ".rows")
    files.save(KEY, b"payload")
    sealed._secret.cache_clear()
    assert files.load(KEY) == b"payload"
    (file,) = user.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32


def test_machines_that_share_a_cache_share_a_secret(
    tmp_path: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sealed.KEY, "of the team")
    files = Sealed(tmp_path / "cache", ".rows")
    files.save(KEY, b"payload")
    sealed._secret.cache_clear()
    assert files.load(KEY) == b"payload"
    assert not user.exists()
    monkeypatch.setenv(sealed.KEY, "of another team")
    sealed._secret.cache_clear()
    assert files.load(KEY) is None


@pytest.mark.usefixtures("user")
def test_without_a_place_for_it_the_secret_lasts_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    files = Sealed(tmp_path / "cache", ".rows")
    files.save(KEY, b"payload")
    assert files.load(KEY) == b"payload"
    sealed._secret.cache_clear()
    assert files.load(KEY) is None
