"""Held-out data in a change: those that the revision has, or that its policy pins."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gate import data, remote
from gate.commands._base_git import Entry, Repository
from gate.errors import UsageError
from gate.pictures import Files
from gate.policy_file import LoadedPolicy
from gate.wording import few, plain

_FILE_URI = "file://"


def data_notes(clone: Repository, commit: str, held: LoadedPolicy, rev: str) -> Iterator[str]:
    """Prove that the held-out data are what they were; what of that cannot be proven is told.

    What git holds at the revision has to have the bytes that it has there, whether pinned or not:
    a pin of the content does not cover slice columns. What git does not hold has to be pinned,
    unless it lies outside the repository, where no change reaches it.

    Raises:
        UsageError: the change brings other data, or nothing tells that it does not.
        DataError: they cannot be read.
    """
    source = held.policy.judge.held_out
    pinned = source.sha256 is not None
    for name, text in (("path", source.path), ("images", source.images)):
        if text is None:
            continue
        place = _place(clone, held, text)
        if place is None:
            if not pinned:
                yield (
                    f"held_out.{name} ({text}) is outside the repository and not pinned: what is "
                    "there now counts; `sha256:` under `held_out` pins it"
                )
            continue
        entry = _entry(clone, commit, place, pinned=pinned)
        if entry is not None:
            _demand_same(clone, commit, entry, clone.root / place, rev)
        elif not pinned:
            raise _unpinned(place, rev)
    if not pinned and not remote.is_uri(source.path) and held.resolve(source.path).is_file():
        _demand_same_images(clone, commit, held, rev)


def _entry(clone: Repository, commit: str, place: PurePosixPath, *, pinned: bool) -> Entry | None:
    """What git holds; of a submodule nothing, which a pin makes up for."""
    try:
        return clone.find(commit, place)
    except UsageError:
        if pinned:
            return None
        raise


def _place(clone: Repository, held: LoadedPolicy, text: str) -> PurePosixPath | None:
    """Where data lie in the repository; None where they do not."""
    if text.startswith(_FILE_URI):
        text = text.removeprefix(_FILE_URI)
    elif remote.is_uri(text):
        return None
    return clone.place(held.resolve(text))


def _unpinned(place: PurePosixPath, rev: str) -> UsageError:
    return UsageError(
        f"the held-out data {plain(place)} are not in git at {plain(rev)}, and the policy there "
        "does not pin them, so a change could exchange them: merge `sha256:` under `held_out` "
        "first, or leave the data where they were"
    )


def _demand_same(clone: Repository, commit: str, entry: Entry, path: Path, rev: str) -> None:
    if not entry.is_folder:
        if not clone.is_same(entry, path):
            raise _changed([str(entry.place)], rev)
        return
    before = clone.below(commit, entry.place)
    now = {PurePosixPath(file.relative_to(path).as_posix()) for file in _files(path)}
    was = {place.relative_to(entry.place): found for place, found in before.items()}
    differing = [str(entry.place / one) for one in sorted(now ^ set(was))]
    differing += [
        str(entry.place / one)
        for one in sorted(now & set(was))
        if not clone.is_same(was[one], path / one)
    ]
    if differing:
        raise _changed(differing, rev)


def _files(folder: Path) -> Iterator[Path]:
    for above, folders, files in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(above, name))]
        yield from (Path(above, name) for name in (*files, *linked))


def _demand_same_images(clone: Repository, commit: str, held: LoadedPolicy, rev: str) -> None:
    """Images that the data name are data, too, wherever they lie."""
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        columns = data.read("held_out", held.policy.judge.held_out, held.base, Path(scratch))
        files = [one for one in columns.values() if isinstance(one, Files)]
        paths = [Path(path) for one in files for path in one.paths()]
    known: dict[PurePosixPath, dict[PurePosixPath, Entry]] = {}
    for path in paths:
        place = clone.place(path)
        if place is None:
            continue
        if place.parent not in known:
            known[place.parent] = _in_folder(clone, commit, place.parent)
        entry = known[place.parent].get(PurePosixPath(place.name))
        if entry is None:
            raise _unpinned(place, rev)
        if not clone.is_same(entry, path):
            raise _changed([str(place)], rev)


def _in_folder(clone: Repository, commit: str, place: PurePosixPath) -> dict[PurePosixPath, Entry]:
    """Files by their name in a folder of a revision; nothing where there is no such folder."""
    folder = clone.find(commit, place)
    if folder is None or not folder.is_folder:
        return {}
    found = clone.below(commit, folder.place)
    return {name.relative_to(folder.place): entry for name, entry in found.items()}


def _changed(names: list[str], rev: str) -> UsageError:
    return UsageError(
        f"the held-out data are not what they are at {plain(rev)} "
        f"({few([plain(name) for name in names])}): a change does not choose what it is judged on; "
        "restore them, or merge new data by themselves first"
    )
