"""What git holds at a revision: read, never checked out, without hooks and without submodules."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gate import artifact
from gate.errors import UsageError
from gate.wording import plain

_TIMEOUT_S = 300.0
_QUIET = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "color.ui=false", "-c", "core.warnAmbiguousRefs=true"),
)
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA1_DIGITS = 40
_LINK, _SUBMODULE, _FOLDER = "120000", "160000", "040000"
_MOST_LINKS = 20
_TEXT_BYTES = 64_000_000
_POINTER_BYTES = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:[^\n]*\n)*?oid sha256:([0-9a-f]{64})\n"
)
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder, link or submodule of a revision."""

    place: PurePosixPath
    """From the repository's root."""
    mode: str
    oid: str
    size: int
    """Bytes; 0 where it is no file."""

    @property
    def is_folder(self) -> bool:
        """Whether it holds others."""
        return self.mode == _FOLDER

    @property
    def is_file(self) -> bool:
        """Whether it has bytes of its own: no folder, link or submodule."""
        return self.mode not in (_FOLDER, _LINK, _SUBMODULE)


@dataclass(frozen=True, slots=True)
class Repository:
    """A clone on this machine; every path of it is relative to its root, as written."""

    root: Path
    """As the caller's path spells it; links above it are left alone."""

    # ── where something lies ──────────────────────────────────────────────────────────────

    def place(self, file: Path) -> PurePosixPath | None:
        """Where a path lies, links not followed; None outside the repository."""
        absolute = Path(os.path.abspath(file))
        if not absolute.is_relative_to(self.root):
            return None
        return PurePosixPath(absolute.relative_to(self.root).as_posix())

    def commit(self, rev: str) -> str:
        """The commit that a revision names.

        Raises:
            UsageError: it names none here, or several.
        """
        if not rev or rev.startswith("-") or not rev.isprintable():
            raise UsageError(
                f"{plain(rev)!r} is no revision: write a branch, a tag or a commit, e.g. "
                "origin/main"
            )
        done = _git(self.root, "rev-parse", "--verify", f"{rev}^{{commit}}")
        if b"ambiguous" in done.stderr and not done.returncode:
            raise UsageError(
                f"{plain(rev)} is the name of several: write all of it, e.g. "
                f"refs/remotes/{plain(rev)}, or the commit"
            )
        found = _line(done.stdout)
        if done.returncode or not _OID.fullmatch(found):
            raise UsageError(f"there is no revision {plain(rev)} here: {self._how_to_fetch(rev)}")
        return found

    def _how_to_fetch(self, rev: str) -> str:
        shallow = _line(_git(self.root, "rev-parse", "--is-shallow-repository").stdout) == "true"
        name = plain(rev.removeprefix("origin/"))
        if shallow:
            return (
                "this clone is shallow; set `fetch-depth: 0` at actions/checkout, or run "
                f"`git fetch origin {name}`"
            )
        return f"correct the name, or run `git fetch origin {name}`"

    # ── what a revision holds ─────────────────────────────────────────────────────────────

    def find(self, commit: str, place: PurePosixPath) -> Entry | None:
        """What lies at a place of a revision, links followed as they are there; None: nothing.

        Raises:
            UsageError: a link leaves the repository or goes in a circle, or it is in a submodule.
        """
        done: list[str] = []
        parts, links = list(place.parts), 0
        entry: Entry | None = Entry(PurePosixPath(), _FOLDER, "", 0)
        while parts:
            step = parts.pop(0)
            if step == "..":
                if not done:
                    raise _left(commit, place)
                done.pop()
                entry = Entry(PurePosixPath(*done), _FOLDER, "", 0)
                continue
            entry = self._entry(commit, PurePosixPath(*done, step))
            if entry is None:
                return None
            if entry.mode == _SUBMODULE:
                raise UsageError(
                    f"{plain(place)} is in the submodule {plain(entry.place)}, and submodules are "
                    "not followed: keep it in this repository"
                )
            if entry.mode != _LINK:
                done.append(step)
                continue
            links += 1
            target = PurePosixPath(os.fsdecode(self.blob(entry)))
            if target.is_absolute() or links > _MOST_LINKS:
                raise _left(commit, place)
            parts = [*target.parts, *parts]
        return entry

    def below(self, commit: str, folder: PurePosixPath) -> dict[PurePosixPath, Entry]:
        """Every file, link and submodule below a folder of a revision."""
        found = self._listed(commit, "-r", folder)
        return {entry.place: entry for entry in found}

    def _entry(self, commit: str, place: PurePosixPath) -> Entry | None:
        return next((one for one in self._listed(commit, "", place) if one.place == place), None)

    def _listed(self, commit: str, how: str, place: PurePosixPath) -> Iterator[Entry]:
        options = ["-z", "-l", "--full-tree", *([how] if how else [])]
        named = ["--", str(place)] if place.parts else []
        for line in _must(self.root, "ls-tree", *options, commit, *named).split(b"\0"):
            if not line:
                continue
            told, _, name = line.partition(b"\t")
            mode, _, oid, size = told.decode("ascii").split()
            yield Entry(
                PurePosixPath(os.fsdecode(name)), mode, oid, int(size) if size.isdigit() else 0
            )

    def blob(self, entry: Entry) -> bytes:
        """A file's bytes, or where a link points."""
        return _must(self.root, "cat-file", "blob", entry.oid)

    def sha256(self, entry: Entry) -> str:
        """Of a file's bytes; of what it stands for, where it is a pointer of git LFS."""
        return self._pointer(entry) or hashlib.sha256(self.blob(entry)).hexdigest()

    def is_same(self, entry: Entry, file: Path) -> bool:
        """Whether a file on disk has a revision's bytes; text may have other line ends.

        A pointer of git LFS stands for the file that it names.
        """
        if not entry.is_file or not file.is_file():
            return False
        if _blob_name(file, entry.oid) == entry.oid:
            return True
        pointer = self._pointer(entry)
        if pointer is not None:
            return artifact.sha256_of(file) == pointer
        if max(entry.size, file.stat().st_size) > _TEXT_BYTES:
            return False
        return _is_same_text(self.blob(entry), file.read_bytes())

    def _pointer(self, entry: Entry) -> str | None:
        if not 0 < entry.size <= _POINTER_BYTES:
            return None
        found = _POINTER.match(self.blob(entry))
        return found[1].decode() if found else None

    # ── what has changed ──────────────────────────────────────────────────────────────────

    def fork(self, commit: str) -> str:
        """The commit that HEAD and another one have in common.

        Raises:
            UsageError: there is none here.
        """
        done = _git(self.root, "merge-base", commit, "HEAD")
        found = _line(done.stdout)
        if done.returncode or not _OID.fullmatch(found):
            raise UsageError(
                f"{commit[:12]} and HEAD have no commit in common here: fetch the whole history "
                "(`fetch-depth: 0` at actions/checkout, or `git fetch --unshallow`)"
            )
        return found

    def changes(self, commit: str) -> set[PurePosixPath]:
        """What is not as a commit has it: in the working tree, staged, or new and not ignored.

        Of a submodule only that it moved to another commit.
        """
        told = ["--name-only", "-z", "--no-renames", "--no-relative", "--no-ext-diff",
                "--no-textconv", "--ignore-submodules=dirty", commit, "--"]  # fmt: skip
        found = _names(_must(self.root, "diff", *told))
        found += _names(_must(self.root, "diff", "--cached", *told))
        found += _names(_must(self.root, "ls-files", "-z", "--others", "--exclude-standard", "--"))
        return set(found)

    def gone(self, commit: str) -> list[PurePosixPath]:
        """Files of a commit that are none in the working tree.

        One that became a link to nowhere, a link to a folder, or a submodule is gone, too.
        """
        told = ["-z", "--no-renames", "--no-relative", "--no-ext-diff",
                "--ignore-submodules=dirty", commit, "--"]  # fmt: skip
        found = _names(_must(self.root, "diff", "--name-only", "--diff-filter=D", *told))
        other = _names(_must(self.root, "diff", "--name-only", "--diff-filter=T", *told))
        return found + [place for place in other if not (self.root / place).is_file()]

    def renamed_from(
        self, commit: str, place: PurePosixPath, gone: list[PurePosixPath]
    ) -> PurePosixPath | None:
        """Which of the files that are gone git takes for the former self of one that is new."""
        if not gone:
            return None
        told = ["--name-status", "-z", "--find-renames", "-l0", "--no-relative", "--no-ext-diff",
                "--diff-filter=R", commit, "--", str(place), *map(str, gone)]  # fmt: skip
        fields = _must(self.root, "diff", *told).split(b"\0")
        for index in range(0, len(fields) - 2, 3):
            before, after = (PurePosixPath(os.fsdecode(x)) for x in fields[index + 1 : index + 3])
            if after == place:
                return before
        return None

    def ignored(self, places: Iterable[PurePosixPath]) -> list[PurePosixPath]:
        """Those of which no change can be seen, as git does not hold them and is to ignore them."""
        asked = [str(place) for place in places if place.parts]
        told = ["-z", "--others", "--ignored", "--exclude-standard", "--directory"]
        return _names(_must(self.root, "ls-files", *told, "--", *asked)) if asked else []


def repository(file: Path) -> Repository:
    """The clone that a file lies in.

    Raises:
        UsageError: it lies in none, in a submodule, or git is missing; says what to do.
    """
    folder = Path(os.path.abspath(file)).parent
    if os.path.exists(file) and not os.path.samefile(file, os.path.abspath(file)):
        raise UsageError(f"{plain(file)} goes up from a link: write its path without `..`")
    done = _git(folder, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise UsageError(
            f"{plain(file)} is in no git repository ({_why(done)}), so there is no revision to "
            "read it at: run this in a clone"
        )
    top = os.fsdecode(done.stdout.removesuffix(b"\n"))
    if _git(folder, "rev-parse", "--show-superproject-working-tree").stdout.strip():
        raise UsageError(
            f"{plain(file)} is in a submodule, and a change may point that anywhere: keep policies "
            "in the repository itself"
        )
    # the outermost: a link within the repository may point at its root again
    named = [*reversed(folder.parents), folder]
    root = next((path for path in named if os.path.samefile(path, top)), None)
    if root is None or (root.is_symlink() and _is_inside_another(root)):
        raise UsageError(f"{plain(file)} lies behind a link into another repository: name it there")
    return Repository(root)


def _is_inside_another(root: Path) -> bool:
    return _git(root.parent, "rev-parse", "--show-toplevel").returncode == 0


def _left(commit: str, place: PurePosixPath) -> UsageError:
    return UsageError(
        f"{plain(place)} is a link at {commit[:12]} that leaves the repository or goes in a "
        "circle: keep the file itself in the repository"
    )


# ── bytes ─────────────────────────────────────────────────────────────────────────────────


def _blob_name(file: Path, like: str) -> str:
    """What git calls a file's bytes, by the hash that `like` is of."""
    sha1 = len(like) == _SHA1_DIGITS
    digest = hashlib.sha1(usedforsecurity=False) if sha1 else hashlib.sha256()
    digest.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_same_text(one: bytes, other: bytes) -> bool:
    """Equal but for `\\r\\n` where the other has `\\n`, as git writes text on Windows."""
    if b"\0" in one or b"\0" in other:
        return False
    return one.replace(b"\r\n", b"\n") == other.replace(b"\r\n", b"\n")


# ── git ───────────────────────────────────────────────────────────────────────────────────


def _must(folder: Path, command: str, *arguments: str) -> bytes:
    done = _git(folder, command, *arguments)
    if done.returncode:
        raise UsageError(f"git {command} failed in {plain(folder)}: {_why(done)}")
    return done.stdout


def _git(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("git")
    if program is None:
        raise UsageError("git is not installed here, and a revision is read with it: install git")
    # a git hook's variables would name another repository than the folder's
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    ours = {
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    try:
        return subprocess.run(  # noqa: S603  a fixed program, no shell
            [program, "-C", str(folder), "--no-pager", *_QUIET, command, *arguments],
            capture_output=True,
            check=False,
            env={**own, **ours},
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UsageError(f"git {command} failed in {plain(folder)}: {plain(error)}") from error


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    """Git's first line."""
    told = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
    return plain(told or f"git exited {done.returncode}", 300)


def _line(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()


def _names(output: bytes) -> list[PurePosixPath]:
    return [PurePosixPath(os.fsdecode(name)) for name in output.split(b"\0") if name]
