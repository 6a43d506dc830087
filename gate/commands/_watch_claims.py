"""Claims of `gate watch`, on a store without compare-and-set."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gate.commands._promote_signed import who
from gate.commands._watch_state import Claim, Tags, utc
from gate.errors import EvaluationError, TrackerError
from gate.registered import Version
from gate.trackers import Registry

SETTLE_S = 2.0
"""Between writing a claim and reading it again. Two watchers both get a version only where one
took longer than this from reading that nobody has it to writing that it does."""

DEATHS = 3
"""Of watchers at one version, after which it is not tried again."""


def now_utc() -> datetime:
    """Whole seconds, as tags hold them."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(slots=True)
class Claims:
    """One watcher's."""

    registry: Registry
    tags: Tags
    say: Callable[[str], None]
    now: Callable[[], datetime] = now_utc
    sleep: Callable[[float], None] = time.sleep
    mine: set[str] = field(default_factory=set)
    """Ids of those that it made."""

    def new(self, deaths: int = 0) -> Claim:
        """One that nobody else has; `deaths` of watchers came before it."""
        claim = Claim.new(who(None), self.now(), deaths)
        self.mine.add(claim.id)
        return claim

    def elsewhere(self, claim: Claim) -> bool:
        """Whether another watcher may be at work."""
        return claim.holds(self.now()) and claim.id not in self.mine

    def deaths(self, claim: Claim) -> int:
        """Watchers that died at a version whose last claim this is: it was not given back."""
        return claim.deaths + (claim.state == "held" and claim.id not in self.mine)

    def deadly(self, claim: Claim) -> EvaluationError | None:
        """Why a version is not tried again: its model may be what ends watchers."""
        deaths = self.deaths(claim)
        if deaths < DEATHS:
            return None
        return EvaluationError(
            f"{deaths} watchers died while they gated it: its model may crash the runtime, or want "
            "all memory. `gate run --candidate` tells which"
        )

    def take(self, version: Version, claim: Claim) -> bool:
        """Write a claim, wait, read it again: of several that were written the last one holds.

        Raises:
            TrackerError: the store refused or cannot be reached.
        """
        self.registry.tag(version, self.tags.claimed(claim))
        self.sleep(SETTLE_S)
        fresh, found = self._read(version)
        if fresh is None:
            self.say(f"{version.uri} vanished: passed over")
        elif found is None or found.id != claim.id:
            by = "nobody" if found is None else found.who
            self.say(f"{version.uri} was claimed by {by} at the same time: left alone")
        return found is not None and found.id == claim.id

    def renew(self, version: Version, claim: Claim) -> None:
        """Show that a claim's run lives; where the store fails, the claim lasts a while."""
        try:
            self._replace(version, claim, claim.renewed(self.now()))
        except TrackerError as error:
            self.say(f"{version.uri}: its claim could not be renewed: {error}")

    def release(self, version: Version, claim: Claim) -> None:
        """Give a claim back, where it still holds; where the store fails, that is told."""
        try:
            if self._replace(version, claim, claim.released()):
                self.say(f"{version.uri}: the claim is released")
        except TrackerError as error:
            self.say(
                f"{version.uri}: its claim could not be released, and counts until "
                f"{utc(claim.until)}: {error}"
            )

    def _replace(self, version: Version, claim: Claim, new: Claim) -> bool:
        fresh, found = self._read(version)
        held = found is not None and (found.id, found.state) == (claim.id, "held")
        if fresh is not None and held:
            self.registry.tag(fresh, self.tags.claimed(new))
        return held

    def _read(self, version: Version) -> tuple[Version | None, Claim | None]:
        fresh = self.registry.find(version.name, version=version.version)
        return fresh, self.tags.claim(fresh) if fresh is not None else None
