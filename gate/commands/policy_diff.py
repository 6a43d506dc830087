"""`gate policy diff`: what another version of a policy lets through that this one does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gate.commands._base_git import repository
from gate.commands._base_policy import former_of, load_at, named, shaken_off
from gate.commands._changed import expanded
from gate.commands._policy_effects import Change, build_changes, differences
from gate.errors import EXIT_FAIL, EXIT_PASS
from gate.policy_file import load_policy

_GONE = Change("the policy", "removed", "nothing gates its model any more", before="there")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions of a policy, held against each other."""

    before: str
    """As it was named."""
    after: str
    changes: tuple[Change, ...]
    """Of `judge`, `model` and `task`; what is looser first."""
    build: tuple[str, ...]
    """What of `build` is not as it was, for reading: it counts from the change anyway."""
    is_new: bool = False
    """Whether there was none before."""

    @property
    def looser(self) -> tuple[Change, ...]:
        """What lets more through."""
        return tuple(change for change in self.changes if change.is_looser)

    @property
    def exit_code(self) -> int:
        """0 where nothing is looser, else 1."""
        return EXIT_FAIL if self.looser else EXIT_PASS


def policy_diff(before: str, after: str) -> Difference:
    """Hold policy `after` against `before`: each a file, or `REV:path`.

    Raises:
        UsageError: a revision, or a clone to read it in, is not there.
        PolicyError: one of them is not there, or wrong.
    """
    one, other = named(before), named(after)
    return Difference(before, after, differences(one, other), build_changes(one, other))


def since(patterns: Sequence[str], rev: str) -> tuple[Difference, ...]:
    """Hold policies of the working tree against those at `rev`, each by itself.

    A policy that was renamed is held against what it was; one that is new has nothing to be looser
    than, as it only observes until it is merged; one that is gone gates nothing any more.

    Args:
        patterns: files or globs.
        rev: the base's revision.

    Raises:
        UsageError: a glob fits nothing, a revision or a clone to read it in is not there.
        PolicyError: a policy is wrong, here or at `rev`.
    """
    files = expanded(patterns)
    found = [_since(Path(file), rev) for file in files]
    gone = shaken_off(patterns, files, rev)
    return (*found, *(Difference(f"{rev}:{name}", name, (_GONE,), ()) for name in gone))


def _since(file: Path, rev: str) -> Difference:
    clone = repository(file)
    commit = clone.commit(rev)
    own, former = load_policy(file), former_of(file, rev)
    if former is None:
        return Difference(rev, str(file), (), (), is_new=True)
    base = load_at(clone, commit, former, rev)
    return Difference(
        f"{rev}:{former}", str(file), differences(base, own), build_changes(base, own)
    )
