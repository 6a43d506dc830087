"""What `gate watch` writes into the tags of a source version: whose work it is, and its outcome."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

from gate.errors import GateError
from gate.registered import Version
from gate.wording import plain

LIFE = timedelta(hours=1)
"""For how long a claim counts since it was made or renewed, by the clock of who reads it."""
ERROR = "error"
"""The outcome of a version that could not be judged."""
_NONE = "none"
_LONGEST = 500
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_CLAIM = re.compile(
    r"(?P<state>held|released|done) (?P<when>\S+Z) (?P<id>[0-9a-f]{32})"
    r"(?: after (?P<deaths>[1-9][0-9]{0,3}) that died)? by (?P<who>.*)"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who works on a version, or did."""

    state: Literal["held", "released", "done"]
    when: datetime
    """UTC, whole seconds: when it was made, or renewed last."""
    id: str
    """32 hex digits; of one attempt of one watcher."""
    who: str
    deaths: int = 0
    """Watchers that died at this version before."""

    @classmethod
    def new(cls, who: str, now: datetime, deaths: int = 0) -> "Claim":
        """Nobody else's."""
        return cls("held", now, uuid4().hex, who, deaths)

    @classmethod
    def parse(cls, text: str) -> "Claim | None":
        """As `str` wrote it; None where it did not."""
        found = _CLAIM.fullmatch(text)
        if found is None:
            return None
        try:
            when = datetime.strptime(found["when"], _TIME).replace(tzinfo=UTC)
        except ValueError:
            return None
        states: dict[str, Literal["held", "released", "done"]]
        states = {"held": "held", "released": "released", "done": "done"}
        deaths = int(found["deaths"] or 0)
        return cls(states[found["state"]], when, found["id"], found["who"], deaths)

    def __str__(self) -> str:
        """One line, for the tag."""
        died = f" after {self.deaths} that died" if self.deaths else ""
        return f"{self.state} {utc(self.when)} {self.id}{died} by {self.who}"

    @property
    def until(self) -> datetime:
        """When it counts no more."""
        return self.when + LIFE

    def holds(self, now: datetime) -> bool:
        """Whether somebody may be at work; one from the future counts, as clocks differ."""
        return self.state == "held" and now < self.until

    def released(self) -> "Claim":
        """Given back, with nothing decided."""
        return replace(self, state="released")

    def done(self) -> "Claim":
        """After the outcome."""
        return replace(self, state="done")

    def renewed(self, now: datetime) -> "Claim":
        """Still at work."""
        return replace(self, when=now)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a version came to."""

    outcome: str
    """As a verdict's, or `error`."""
    policy: str
    """sha256 of the policy, as it is written: before a candidate's own classes are filled in."""
    stage: str
    why: str
    """The verdict's first words, or what is wrong."""
    record: str = ""
    """Its id; empty where it is an error."""
    run: str = ""
    """The tracker's id; empty where it is an error."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Names of the tags, which are those of one policy's model.

    A source model may be watched for several policies, so each has its own. The tracker puts its
    prefix in front: `gate.digits-cnn.outcome`.
    """

    model: str
    """The policy's."""

    def key(self, name: str) -> str:
        """Without the prefix."""
        return f"{self.model}.{name}"

    def outcome(self, version: Version) -> Outcome | None:
        """None where the version came to none yet, or its tags are not whole."""
        if not self._text(version, "outcome") or self._text(version, "policy") in ("", _NONE):
            return None
        return Outcome(**{name: self._text(version, name) for name in Outcome.__dataclass_fields__})

    def claim(self, version: Version) -> Claim | None:
        """None where there is none, or none that can be read: then nobody is at work."""
        return Claim.parse(self._text(version, "claim"))

    def claimed(self, claim: Claim) -> Mapping[str, str]:
        """The tags of a claim."""
        return {self.key("claim"): str(claim)}

    def told(self, found: Outcome, claim: Claim) -> Mapping[str, str]:
        """The tags of an outcome, in the order in which they are set.

        The policy comes after all others: without it an outcome is not whole. Last is the claim.
        """
        names = ("record", "run", "stage", "why", "outcome", "policy")
        texts = {self.key(name): getattr(found, name) or _NONE for name in names}
        return {**texts, **self.claimed(claim.done())}

    def void(self) -> Mapping[str, str]:
        """Set before the tags of an outcome are set over those of an earlier one."""
        return {self.key("policy"): _NONE}

    def _text(self, version: Version, name: str) -> str:
        return version.tags.get(self.key(name), "")


def failed(error: Exception, *, policy: str, stage: str) -> Outcome:
    """The outcome of a version that could not be judged."""
    told = f"{error}"
    if not isinstance(error, GateError):
        told = f"a defect of the gate: {type(error).__name__}: {error}"
    return Outcome(ERROR, policy, stage, plain(" ".join(told.split()), _LONGEST))


def utc(when: datetime) -> str:
    """`2026-11-21T19:33:45Z`."""
    return when.astimezone(UTC).strftime(_TIME)
