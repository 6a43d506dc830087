"""Data behind URIs, by the stores that need no network."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from support.pictures import encoded, pixels
from support.project import CNN, Project

from gate import data, remote, run_gate
from gate.commands import _replay_stored as stores
from gate.commands.check import check
from gate.commands.plan import plan
from gate.errors import DataError, UsageError
from gate.policy_file import load_policy
from gate.sources import DataSource


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the cache is made in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store() -> Any:
    """An empty store in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def fetched(uri: str) -> Path:
    return remote.local(uri, Path("elsewhere"))


def cached() -> list[Path]:
    return sorted((Path(".gate") / "cache" / "data").glob("*"))


# ── what is fetched ───────────────────────────────────────────────────────────────────────


def test_a_local_path_stays_what_it_is() -> None:
    assert remote.local("a/b.npz", Path("base")) == Path("base/a/b.npz")
    assert not remote.is_uri("C:/data/x.npz")


def test_a_file_keeps_its_name_which_tells_its_format(store: Any) -> None:
    store.pipe("/bucket/deep/x.npz", b"content")
    found = fetched("memory://bucket/deep/x.npz")
    assert (found.name, found.read_bytes()) == ("x.npz", b"content")
    assert found.is_absolute()


def test_a_file_is_fetched_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/b/x.npz", b"content")
    first = fetched("memory://b/x.npz")
    monkeypatch.setattr(type(store), "get", lambda *_, **__: pytest.fail("fetched again"))
    assert fetched("memory://b/x.npz") == first
    assert len(cached()) == 1


def test_another_version_is_fetched_anew_and_the_first_one_kept(store: Any) -> None:
    store.pipe("/b/x.npz", b"old")
    old = fetched("memory://b/x.npz")
    store.pipe("/b/x.npz", b"new")  # of the same length
    assert fetched("memory://b/x.npz").read_bytes() == b"new"
    assert old.read_bytes() == b"old"


def test_without_a_version_nothing_is_taken_for_the_same(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/b/x.npz", b"old")
    monkeypatch.setattr(
        type(store), "info", lambda self, path, **_: {"name": path, "size": 3, "type": "file"}
    )
    fetched("memory://b/x.npz")
    store.pipe("/b/x.npz", b"new")
    assert fetched("memory://b/x.npz").read_bytes() == b"new"


def test_a_folder_comes_with_all_below_it(store: Any) -> None:
    files = {"cats/a.png": b"1", "cats/b.png": b"22", "dogs/deep/c.png": b"333"}
    for name, content in files.items():
        store.pipe(f"/b/pets/{name}", content)
    store.pipe("/b/petsmore/d.png", b"not of it")
    folder = fetched("memory://b/pets/")
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert (folder.name, found) == ("pets", files)


def test_a_file_that_joins_a_folder_makes_another_version(store: Any) -> None:
    store.pipe("/b/pets/a.png", b"1")
    first = fetched("memory://b/pets/")
    store.pipe("/b/pets/b.png", b"2")
    assert len([*fetched("memory://b/pets/").iterdir()]) == 2
    assert len([*first.iterdir()]) == 1


def test_file_uris_are_read_alike(here: Path) -> None:
    (here / "x.npz").write_bytes(b"content")
    assert fetched(f"file://{here}/x.npz").read_bytes() == b"content"
    (here / "x.npz").write_bytes(b"changed")
    assert fetched(f"file://{here}/x.npz").read_bytes() == b"changed"


# ── villains ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["../out.png", "a/../../out.png", "a//b.png", "./a.png", "a\\b.png", "a\nb.png"]
)
def test_names_that_lead_out_of_the_folder(
    name: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/b/pets/{name}"
    monkeypatch.setattr(
        type(store),
        "find",
        lambda *_, **__: {path: {"name": path, "size": 1, "type": "file", "created": 0}},
    )
    with pytest.raises(DataError, match=r"memory://b/pets/ holds .* would lead out"):
        fetched("memory://b/pets/")
    assert cached() == []


@pytest.mark.parametrize("uri", ["memory://b/none.npz", "memory://b/none/"])
def test_nothing_there(uri: str, store: Any) -> None:
    with pytest.raises(UsageError, match=f"there is nothing at {uri}"):
        fetched(uri)


def test_a_folder_written_as_a_file(store: Any) -> None:
    store.pipe("/b/pets/a.png", b"1")
    with pytest.raises(UsageError, match="is a folder; write it with `/` at its end"):
        fetched("memory://b/pets")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("ftp://h/x.npz", "of a kind that data are not read from; known are s3://"),
        ("http://h/x.npz", "of a kind that data are not read from"),
        ("s3:/x.npz", "no whole URI; write `s3://`"),
        ("memory://", "no whole URI"),
        ("file://x.npz", "no whole URI; write `file:///`"),
        ("s3://a::file:///etc/x.npz", "holds '::'"),
        ("https://h/folder/", "https has no list of files"),
        ("memory://b/..", "ends in no name"),
    ],
)
def test_uris_that_are_none(uri: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fetched(uri)


def test_a_transfer_that_breaks_names_the_uri_and_leaves_nothing(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/b/x.npz", b"content")

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(store), "get", broken)
    with pytest.raises(DataError, match=r"memory://b/x\.npz cannot be fetched \(reset by peer\)"):
        fetched("memory://b/x.npz")
    assert cached() == []


def test_half_a_file_is_no_file(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/b/x.npz", b"content")
    monkeypatch.setattr(
        type(store), "get", lambda _, __, places: [Path(p).write_bytes(b"con") for p in places]
    )
    with pytest.raises(DataError, match=r"x\.npz did not arrive whole \(7 bytes were told\)"):
        fetched("memory://b/x.npz")
    assert cached() == []


def test_a_refused_connection_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(uri: str) -> Any:
        raise FileNotFoundError(uri) from OSError("connection refused")

    monkeypatch.setattr("fsspec.core.url_to_fs", refused)
    with pytest.raises(DataError, match=r"cannot be fetched \(connection refused\)"):
        fetched("https://h/x.npz")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(uri: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(UsageError, match=r"Install s3fs.*pip install 'int8-gate\[remote\]'"):
        fetched("s3://b/x.npz")


# ── from end to end ───────────────────────────────────────────────────────────────────────


def upload(project: Project, store: Any) -> None:
    for name in ("calibration", "held_out"):
        store.pipe(f"/b/{name}.npz", (project.folder / f"{name}.npz").read_bytes())
        (project.folder / f"{name}.npz").unlink()
    project.spec["build"]["calibration"]["path"] = "memory://b/calibration.npz"
    project.spec["judge"]["held_out"]["path"] = "memory://b/held_out.npz"
    project.write()


def test_a_run_on_remote_data_is_that_on_local_ones(here: Path, store: Any) -> None:
    project = Project(here)
    local = run_gate(project.policy, CNN, tracker="none", threads=1, out=here / "local")
    upload(project, store)
    assert check([project.policy])[1] == 0
    away = run_gate(project.policy, CNN, tracker="none", threads=1, out=here / "away")
    assert away.record.splits.held_out.sha256 == local.record.splits.held_out.sha256
    assert away.record.splits.held_out.source == "memory://b/held_out.npz"
    assert away.record.verdict.outcome == local.record.verdict.outcome
    split = stores.held_out(away.record, None, here / "scratch")  # as replay and diagnose do
    assert split.sha256 == local.record.splits.held_out.sha256
    assert "1,000" in plan(str(project.policy), tracker="none", html=None)


def test_pins_hold_for_what_was_fetched(here: Path, store: Any) -> None:
    project = Project(here)
    project.spec["judge"]["held_out"]["sha256"] = "0" * 64
    upload(project, store)
    with pytest.raises(
        DataError,
        match=r"held_out \(memory://b/held_out\.npz\) is not the data that the policy pins",
    ):
        run_gate(project.policy, CNN, tracker="none", threads=1, out=here / "out")


def test_one_uri_for_two_splits_is_found_before_any_work(here: Path, store: Any) -> None:
    project = Project(here)
    upload(project, store)
    project.spec["build"]["calibration"]["path"] = "memory://b/held_out.npz"
    lines, code = check([project.write()])
    assert code == 2
    assert "is the same file as judge.held_out" in lines[0].text


def test_a_uri_with_nothing_behind_it_has_a_place_in_the_policy(here: Path, store: Any) -> None:
    project = Project(here)
    project.spec["judge"]["held_out"]["path"] = "memory://b/none.npz"
    lines, code = check([project.write()])
    assert code == 2
    assert "policy.yaml:" in lines[0].text
    assert "there is nothing at memory://b/none.npz" in lines[0].text


def test_images_of_a_file_may_lie_behind_a_uri(here: Path, store: Any) -> None:
    store.pipe("/b/imgs/a.png", encoded(pixels(4, 3)))
    (here / "x.jsonl").write_text('{"image_path": "a.png", "target": 1}\n')
    source = DataSource(path="x.jsonl", images="memory://b/imgs/")
    columns = data.read("held_out", source, here, here / "scratch")
    assert columns["image"][0:1][0][:4] == b"\x89PNG"


def test_a_folder_of_images_behind_a_uri(here: Path, store: Any) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        store.pipe(f"/b/pets/{name}", encoded(pixels(4, 3)))
    columns = data.read("held_out", DataSource(path="memory://b/pets/"), here, here / "scratch")
    assert columns["id"][:].tolist() == ["cat/a.png", "dog/b.png"]
    assert columns["target"][:].tolist() == ["cat", "dog"]


def test_paths_of_an_extended_policy_begin_at_its_folder_and_uris_stay(here: Path) -> None:
    project = Project(here)
    project.spec["judge"]["held_out"] |= {"path": "memory://b/x.jsonl", "images": "imgs"}
    (here / "base").mkdir()
    (here / "base" / "base.yaml").write_text(yaml.safe_dump(project.spec))
    (here / "top.yaml").write_text("extends: base/base.yaml\n")
    policy = load_policy(here / "top.yaml").policy
    assert policy.judge.held_out.path == "memory://b/x.jsonl"
    assert policy.judge.held_out.images == os.path.join("base", "imgs")
