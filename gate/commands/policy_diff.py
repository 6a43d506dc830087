"""`gate policy diff`: what another version of a policy lets through that this one does not."""

from dataclasses import dataclass

from gate.commands._base_policy import named
from gate.commands._policy_effects import Change, build_changes, differences
from gate.errors import EXIT_FAIL, EXIT_PASS


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
