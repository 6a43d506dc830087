"""A policy with the `judge` of a revision: a change can mend its build, not loosen its own gate."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath

from gate import artifact, waivers
from gate.commands._base_data import data_notes
from gate.commands._base_git import Entry, Repository, repository
from gate.commands._changed import expanded, removed
from gate.commands._policy_effects import build_changes, differences, moved
from gate.errors import Mark, PolicyError, UsageError
from gate.policy import JudgedFrom
from gate.policy_file import LoadedPolicy, digest, load_policy
from gate.strict_yaml import MAX_BYTES, Document, Node, load, parse
from gate.wording import few, plain

_YAML = (".yaml", ".yml")
_SAME = {
    "version": "the language of a policy changes by itself, not along with a release",
    "model": "a renamed model would have no history to be held against: keep the name, or add the "
    "renamed model as a new policy beside this one",
    "task": "another task measures something else: merge that by itself first",
}


@dataclass(frozen=True, slots=True)
class HeldToBase(LoadedPolicy):
    """A change's policy, with the `judge` of a revision."""

    own: LoadedPolicy | None = None
    """As the change wrote all of it."""

    @property
    def lines(self) -> dict[str, int]:
        """The change's line of each budget that it still has, else the revision's."""
        # without arguments it does not know the class that `slots` made anew
        base = super(HeldToBase, self).lines
        assert self.own is not None
        return {name: self.own.lines.get(name, line) for name, line in base.items()}

    @property
    def budgets_file(self) -> Path:
        """The change's own, so that annotations stand in what is under review."""
        assert self.own is not None
        return self.own.budgets_file


@contextmanager
def held_to_base(file: Path, rev: str, named: Path | None) -> Iterator[tuple[LoadedPolicy, Path]]:
    """A policy as `from_base`, and a file with the revision's waivers, until the block ends.

    `named` is the file of `--waivers`.

    Raises:
        UsageError, PolicyError: as `from_base`; or the waivers are wrong.
    """
    loaded = from_base(file, rev)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        copy = Path(scratch) / waivers.FILE
        copy.write_text(waivers_of(loaded, named, datetime.now(UTC).date()), encoding="utf-8")
        yield loaded, copy


def from_base(file: Path, rev: str) -> LoadedPolicy:
    """A policy as a change is held to it: `build` from the working tree, `judge` from a revision.

    Where the revision has no such policy it is the change's own, in `mode: observe`.

    Raises:
        UsageError: the revision cannot be read, the change is about another model or task, or
            it brings other held-out data; says what to do.
        PolicyError: either of the two is wrong.
    """
    clone = repository(file)
    commit = clone.commit(rev)
    own, place = load_policy(file), _demand_place(clone, file)
    former = _former(clone, commit, place, own.policy.model)
    if former is None:
        return _observed(own, rev, commit)
    base = load_at(clone, commit, former, rev)
    _demand_same_subject(own, base, rev)
    held = _held(own, base)
    notes = [*_renamed(place, former), *_modes(own, base), *data_notes(clone, commit, held, rev)]
    found = differences(base, own)
    told = JudgedFrom(
        rev=rev,
        commit=commit,
        policy=str(former),
        looser=tuple(one.sentence for one in found if one.is_looser),
        changes=tuple(one.sentence for one in found if not one.is_looser),
        build_changes=build_changes(base, own),
        notes=tuple(notes),
    )
    return replace(held, judged_from=told)


def _held(own: LoadedPolicy, base: LoadedPolicy) -> HeldToBase:
    policy = own.policy.model_copy(
        update={"judge": moved(base.policy.judge, base.base, own.base)},
    )
    roots = own.written.root.value, base.written.root.value
    assert isinstance(roots[0], dict)
    assert isinstance(roots[1], dict)
    entries: dict[str, Node] = roots[0] | {"judge": roots[1]["judge"]}
    written = replace(own.written, root=replace(own.written.root, value=entries))
    return HeldToBase(policy=policy, file=own.file, sha256=digest(policy), written=written, own=own)


def _observed(own: LoadedPolicy, rev: str, commit: str) -> LoadedPolicy:
    judge = own.policy.judge.model_copy(update={"mode": "observe"})
    policy = own.policy.model_copy(update={"judge": judge})
    note = (
        f"{own.file} is not at {rev}: a new policy is its own judge, so this run only observes; "
        "merging it makes it count"
    )
    told = JudgedFrom(rev=rev, commit=commit, policy="", notes=(note,))
    return replace(own, policy=policy, sha256=digest(policy), judged_from=told)


def _demand_same_subject(own: LoadedPolicy, base: LoadedPolicy, rev: str) -> None:
    for key, why in _SAME.items():
        mine, theirs = getattr(own.policy, key), getattr(base.policy, key)
        if mine != theirs:
            raise UsageError(
                f"{own.mark(key)}: {key} is {plain(mine)}, and {plain(theirs)} at {plain(rev)}: "
                f"{why}"
            )


def _renamed(place: PurePosixPath, former: PurePosixPath) -> Iterator[str]:
    if place != former:
        yield f"the policy was {former} and is renamed: it is held to that file"


def _modes(own: LoadedPolicy, base: LoadedPolicy) -> Iterator[str]:
    modes = base.policy.judge.mode, own.policy.judge.mode
    if modes == ("observe", "enforce"):
        yield "this run only observes, as before: merging the change makes the policy enforce"


# ── the file at a revision ────────────────────────────────────────────────────────────────


def load_at(clone: Repository, commit: str, place: PurePosixPath, rev: str) -> LoadedPolicy:
    """A policy, with all that it extends, as a revision has it.

    Its `file` is where it lies, or lay, in the working tree; marks begin with `REV:`.

    Raises:
        PolicyError: it is not there, or wrong.
    """

    def read(file: Path, asked: Mark | None) -> Document:
        inside = _demand_place(clone, file)
        entry = clone.find(commit, inside)
        shown = Path(f"{rev}:{inside}")
        if entry is None or not entry.is_file:
            raise PolicyError(f"{plain(rev)} has no file {plain(inside)}", asked)
        return replace(parse(_text(clone, entry, shown), shown), file=file)

    def sha256(file: Path) -> str:
        inside = clone.place(file)
        entry = None if inside is None else clone.find(commit, inside)
        return artifact.sha256_of(file) if entry is None else clone.sha256(entry)

    return load_policy(clone.root / place, read=read, sha256=sha256)


def _text(clone: Repository, entry: Entry, shown: Path) -> str:
    if entry.size > MAX_BYTES:
        raise PolicyError(f"over {MAX_BYTES:,} bytes, and no policy is", Mark(shown, 1, 1))
    try:
        return clone.blob(entry).removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError("it is not UTF-8; save it as UTF-8", Mark(shown, 1, 1)) from error


def _demand_place(clone: Repository, file: Path) -> PurePosixPath:
    place = clone.place(file)
    if place is None:
        raise UsageError(
            f"{plain(file)} is outside the repository {plain(clone.root)}, so no revision of it is "
            "known: keep the policy in the repository"
        )
    return place


def _former(
    clone: Repository, commit: str, place: PurePosixPath, model: str
) -> PurePosixPath | None:
    """Where a policy was at a revision; None where it is new.

    A file that is gone counts as its former self where git takes it for that, or where it is of
    the same model: a gate is not shaken off by writing it anew elsewhere.

    Raises:
        UsageError: several files of that model are gone.
    """
    entry = clone.find(commit, place)
    if entry is not None and entry.is_file:
        return place
    gone = [one for one in clone.gone(commit) if one.suffix in _YAML or one.suffix == place.suffix]
    same = [one for one in gone if _model_of(clone, commit, one) == model]
    if len(same) > 1:
        raise UsageError(
            f"{plain(place)} is new, and several policies of {plain(model)} are gone "
            f"({few([plain(one) for one in same])}): rename one at a time"
        )
    return same[0] if same else clone.renamed_from(commit, place, gone)


def _model_of(clone: Repository, commit: str, place: PurePosixPath) -> object:
    """What a file says of `model`; None where it is no policy."""
    try:
        return load_at(clone, commit, place, commit).policy.model
    except UsageError:
        return None


def shaken_off(patterns: Sequence[str], policies: Sequence[str], rev: str) -> list[str]:
    """Policies that globs fitted at a revision, and that none here is the same as or held to.

    Args:
        patterns: as they were asked for; without a glob nothing can be missing.
        policies: the files that there are now.
        rev: a revision.

    Raises:
        UsageError: as `from_base`.
    """
    gone = removed(patterns, rev)
    formers = {former_of(Path(policy), rev) for policy in policies} if gone else set()
    return [one for one in gone if PurePosixPath(one) not in formers]


def former_of(file: Path, rev: str) -> PurePosixPath | None:
    clone = repository(file)
    try:
        model = load_policy(file).policy.model
    except PolicyError:  # which is told where it is run; it takes no other's place
        return None
    return _former(clone, clone.commit(rev), _demand_place(clone, file), model)


# ── what else a gate rests on ─────────────────────────────────────────────────────────────


def waivers_of(loaded: LoadedPolicy, named: Path | None, today: date) -> str:
    """The text of the waivers that the revision has for a policy; none: an empty file of them.

    A file of `named` outside the repository is the CI job's own, and counts as it is.

    Raises:
        PolicyError: they are wrong.
    """
    told = loaded.judged_from
    assert told is not None
    clone = repository(loaded.file)
    former = clone.root / told.policy if told.policy else loaded.file
    if named is not None and clone.place(named) is None:
        return _of_the_job(clone, named)
    place = _demand_place(clone, waivers.beside(former, named))
    entry = clone.find(told.commit, place)
    if entry is None or not entry.is_file:
        return "version: 1\n"
    shown = Path(f"{told.rev}:{place}")
    text = _text(clone, entry, shown)
    waivers.of_document(parse(text, shown), loaded.policy, today)
    return text


def _of_the_job(clone: Repository, named: Path) -> str:
    """The text of a file of waivers that no change reaches."""
    if Path(os.path.realpath(named)).is_relative_to(os.path.realpath(clone.root)):
        raise UsageError(
            f"--waivers {plain(named)} leads into the repository {plain(clone.root)} by another "
            "way, and a change could exchange it: name the file as it lies in the repository"
        )
    load(named)  # tells what is wrong with its bytes
    return named.read_text(encoding="utf-8")


def demand_plugins(files: Sequence[Path], policies: Sequence[str], rev: str) -> None:
    """Prove that plugins are those of a revision, before any of their code runs.

    A file outside the policies' repositories is the CI job's own, and no change reaches it.

    Raises:
        UsageError: one was changed, or is new.
    """
    named = expanded(policies) if files else []
    roots = {os.path.realpath(repository(Path(policy)).root) for policy in named}
    for file in files:
        if not file.is_file():
            raise UsageError(f"--plugin {plain(file)} is no file")
        spelled = Path(os.path.realpath(file)), _lexical(file), Path(os.path.abspath(file))
        inside = any(one.is_relative_to(root) for one in spelled for root in roots)
        clone = repository(file) if inside else None
        if clone is None or os.path.realpath(clone.root) not in roots:
            continue
        _demand_same_plugin(clone, file, rev)


def _lexical(file: Path) -> Path:
    """Where a file is said to lie: its folder's links followed, its own not."""
    absolute = Path(os.path.abspath(file))
    return Path(os.path.realpath(absolute.parent), absolute.name)


def _demand_same_plugin(clone: Repository, file: Path, rev: str) -> None:
    entry = clone.find(clone.commit(rev), _demand_place(clone, file))
    if entry is None:
        raise UsageError(
            f"--plugin {plain(file)} is not at {plain(rev)}: a change does not bring the code "
            "that judges it; merge the plugin first"
        )
    if not clone.is_same(entry, file):
        raise UsageError(
            f"--plugin {plain(file)} is not what it is at {plain(rev)}: a change does not "
            "change the code that judges it; merge the plugin by itself first"
        )


# ── REV:path ──────────────────────────────────────────────────────────────────────────────


def named(text: str) -> LoadedPolicy:
    """A policy by its file, or by `REV:path` from the repository's root.

    What holds a colon is a revision's, unless it begins with `./`, `../` or `/`: no file that a
    change brings can stand in for a revision.

    Raises:
        UsageError: there is no such revision or clone.
        PolicyError: it is not there, or wrong.
    """
    rev, colon, path = text.partition(":")
    if not colon or text.startswith(("./", "../", "/")):
        return load_policy(Path(text))
    if not path or Path(path).is_absolute():
        raise UsageError(f"{plain(text)}: write REV:path, e.g. origin/main:policies/model.yaml")
    clone = repository(Path("here"))
    inside = path if not path.startswith(("./", "../")) else _from_here(clone, path)
    return load_at(clone, clone.commit(rev), PurePosixPath(os.path.normpath(inside)), rev)


def _from_here(clone: Repository, path: str) -> str:
    place = clone.place(Path(path))
    if place is None:
        raise UsageError(f"{plain(path)} is outside the repository {plain(clone.root)}")
    return str(place)
