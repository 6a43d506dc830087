"""Which policies a change concerns: whose words, data, models or code are not as they were."""

import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from gate import artifact, data, remote
from gate.commands._base_git import Repository, repository
from gate.errors import GateError, Mark, UsageError
from gate.pictures import Files
from gate.policy import MODEL_URIS
from gate.policy_file import LoadedPolicy, load_policy
from gate.sources import DataSource
from gate.strict_yaml import Document, load
from gate.waivers import FILE as WAIVERS
from gate.waivers import beside
from gate.wording import plain

_NAME_PICTURES = ("coco", "json", "jsonl")
"""Formats, and endings of their files, that hold pictures by their names."""
_POINTER = ".dvc"
"""Beside data that another program fetches: its change is the data's."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at for one policy."""

    policy: str
    """As it was named."""
    because: tuple[str, ...]
    """What has changed; empty where nothing has."""
    files: tuple[str, ...]
    """What was looked at, from the repository's root."""
    unseen: tuple[str, ...] = ()
    """What no revision shows a change of."""


@dataclass(slots=True)
class _Watched:
    """Files and folders of one policy, while they are collected."""

    clone: Repository
    places: dict[PurePosixPath, None] = field(default_factory=dict)
    globs: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def add(self, path: Path, what: str) -> None:
        """A file or folder, and where a link leads."""
        place = self.clone.place(path)
        real = _real_place(self.clone, path)
        found = [one for one in (place, real) if one is not None]
        if not found:
            self.unseen.append(f"{what} ({path}) is outside the repository")
        for one in found:
            self.places[one] = None
            if one.name:
                self.places[one.with_name(one.name + _POINTER)] = None


def expanded(patterns: Sequence[str]) -> list[str]:
    """Policies by name or by glob; the shell may have left a glob in quotes as it is.

    A name that exists is that file, whatever is in it; where it reads as a glob, too, it is both,
    so that no file called `*.yaml` hides the others. Twice the same name stays twice; a glob adds
    only what is not there yet, sorted, and never `waivers.yaml`.

    Raises:
        UsageError: a glob fits no file.
    """
    found: list[str] = []
    for pattern in patterns:
        literal = os.path.lexists(pattern)
        if literal or not glob.has_magic(pattern):
            found.append(pattern)
        if not glob.has_magic(pattern):
            continue
        every = map(Path, glob.glob(pattern, recursive=True))
        fitting = sorted(str(one) for one in every if one.is_file() and one.name != WAIVERS)
        if not fitting and not literal:
            raise UsageError(
                f"no file fits {plain(pattern)}: correct the pattern, or name policies"
            )
        found += [name for name in fitting if name not in found]
    return found


def changed(policies: Sequence[str | os.PathLike[str]], rev: str) -> list[str]:
    """The policies that a change since `rev` concerns, as they were named and in their order.

    A change is what the working tree, staged and new files included, has since HEAD and `rev`
    parted. It concerns a policy by its file, those that it extends, the local data, models, graphs
    and tokenizers that it names, and files that `build.code` fits. A policy that cannot be read
    counts as changed: the gate then says why. Globs are expanded; with no policy concerned the
    list is empty.

    Raises:
        UsageError: a glob fits nothing, a policy is in no clone, or `rev` is not there.
    """
    return [looked.policy for looked in looked_at(policies, rev) if looked.because]


def looked_at(
    policies: Sequence[str | os.PathLike[str]],
    rev: str,
    *,
    besides: Sequence[Path] = (),
) -> list[Looked]:
    """As `changed`, for every policy what was looked at and what has changed.

    Args:
        policies: files or globs.
        rev: a revision.
        besides: files that every policy depends on: plugins, a candidate, waivers.
    """
    changes: dict[Path, set[PurePosixPath]] = {}
    found = []
    for name in expanded([os.fspath(policy) for policy in policies]):
        clone = repository(Path(name))
        if clone.root not in changes:
            changes[clone.root] = clone.changes(clone.fork(clone.commit(rev)))
        found.append(_looked(name, clone, changes[clone.root], besides))
    return found


def removed(patterns: Sequence[str], rev: str) -> list[str]:
    """Files that fit a glob of policies at `rev`, and are not in the working tree any more.

    Those that were renamed are among them: `from_base` tells which.

    Raises:
        UsageError: as `changed`.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if not glob.has_magic(pattern):
            continue
        clone = repository(_fixed_part(pattern) / "policy")
        wanted = clone.place(Path(pattern))
        for place in clone.gone(clone.commit(rev)):
            if wanted is not None and _fits(place, str(wanted)) and place.name != WAIVERS:
                found[str(place)] = None
    return list(found)


def _fixed_part(pattern: str) -> Path:
    """The folder above the first part that has a wildcard."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


# ── one policy ────────────────────────────────────────────────────────────────────────────


def _looked(
    name: str, clone: Repository, changes: set[PurePosixPath], besides: Sequence[Path]
) -> Looked:
    watched = _Watched(clone)
    watched.add(Path(name), "the policy")
    try:
        loaded = load_policy(Path(name), read=_Reader(watched))
        _add_named(loaded, watched)
    except GateError as error:
        why = (f"it cannot be read: {str(error).partition(chr(10))[0]}",)
        return Looked(name, why, tuple(map(str, watched.places)))
    for path in besides:
        watched.add(path, "a file of the command line")
    because = [str(change) for change in sorted(changes) if _concerns(change, watched)]
    watched.unseen += [f"{place} is ignored by git" for place in clone.ignored(watched.places)]
    files = [str(place) for place in watched.places if place.suffix != _POINTER]
    return Looked(name, tuple(because), (*files, *watched.globs), tuple(watched.unseen))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a policy's files, and keeps which they are."""

    watched: _Watched

    def __call__(self, file: Path, asked: Mark | None) -> Document:
        self.watched.add(file, "a policy")
        return load(file, asked)


def _add_named(loaded: LoadedPolicy, watched: _Watched) -> None:
    """Data, candidate, graphs, tokenizer and code, as far as they are files here."""
    build = loaded.policy.build
    sources = {
        "held_out": loaded.policy.judge.held_out,
        "calibration": build.calibration,
        "tuning": build.tuning,
    }
    for name, source in sources.items():
        for text in (source.path, source.images) if source else ():
            _add(loaded, watched, text, name)
        if source is not None and source.images is None:
            _add_pictures(loaded, watched, name, source)
    if build.candidate is not None and not build.candidate.startswith(MODEL_URIS):
        _add(loaded, watched, build.candidate, "candidate")
        _add(loaded, watched, str(artifact.weights_of(Path(build.candidate))), "weights")
    elif build.candidate is not None:
        watched.unseen.append(f"candidate ({build.candidate}) is in a registry")
    for text in _files_of(loaded):
        _add(loaded, watched, text, "a file of build")
    watched.add(beside(loaded.file), "waivers")
    home = watched.clone.place(loaded.base)
    watched.globs += [os.path.normpath(f"{home}/{pattern}") for pattern in build.code]


def _add(loaded: LoadedPolicy, watched: _Watched, text: str | None, what: str) -> None:
    if text is None:
        return
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if remote.is_uri(text):
        watched.unseen.append(f"{what} ({text}) is behind a URI: a change shows by its pin alone")
        return
    watched.add(loaded.resolve(text), what)


def _add_pictures(loaded: LoadedPolicy, watched: _Watched, name: str, source: DataSource) -> None:
    """The folders of the pictures that a file names, which are data, too."""
    kind = source.format or Path(source.path).suffix.removeprefix(".")
    named = kind in _NAME_PICTURES and not remote.is_uri(source.path)
    if not named or not loaded.resolve(source.path).is_file():
        return
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        columns = data.read(name, source, loaded.base, Path(scratch)).values()
    files = (one for one in columns if isinstance(one, Files))
    folders = {Path(path).parent for one in files for path in one.paths()}
    for folder in sorted(folders):
        watched.add(folder, f"pictures of {name}")


def _files_of(loaded: LoadedPolicy) -> Iterator[str]:
    preprocess, decode = loaded.policy.build.preprocess, loaded.policy.build.decode
    if preprocess is not None and preprocess.tokenizer is not None and preprocess.tokenizer.file:
        yield preprocess.tokenizer.file
    if preprocess is not None and preprocess.graph is not None:
        yield preprocess.graph.file
    if decode.graph is not None:
        yield decode.graph.file


# ── whether a change concerns it ──────────────────────────────────────────────────────────


def _concerns(change: PurePosixPath, watched: _Watched) -> bool:
    """A file itself, one below a folder, or the submodule that holds it."""
    for place in watched.places:
        if change == place or place in change.parents or change in place.parents:
            return True
    return any(_fits(change, pattern) for pattern in watched.globs)


def _fits(place: PurePosixPath, pattern: str) -> bool:
    """Whether a path fits a glob: `*` stays within a folder, `**` does not."""
    return _fit(list(place.parts), list(PurePosixPath(pattern).parts))


def _fit(parts: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_fit(parts[skip:], wanted[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and _is_one(parts[0], wanted[0]) and _fit(parts[1:], wanted[1:])


def _is_one(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern)


def _real_place(clone: Repository, path: Path) -> PurePosixPath | None:
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(clone.root))
    return PurePosixPath(real.relative_to(root).as_posix()) if real.is_relative_to(root) else None
