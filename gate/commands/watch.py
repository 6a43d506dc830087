"""`gate watch`: gates each version of a registered source model once, as it appears.

What has been done stands in the version's own tags, so that a watcher that is started again, or
another one beside it, knows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NoReturn

from gate import publish
from gate.commands._watch_claims import Claims, now_utc
from gate.commands._watch_events import Beating, interruptions, tell
from gate.commands._watch_found import Asked, Verdict, has_record, kept, unsent
from gate.commands._watch_state import ERROR, Claim, Outcome, Tags, failed, utc
from gate.commands.report import demand_place, is_there, show
from gate.errors import (
    EXIT_ERROR,
    EXIT_PASS,
    FetchError,
    GateError,
    RecordError,
    TrackerError,
    UsageError,
    worst,
)
from gate.judgeable import unsupported
from gate.pipeline import run_gate
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.records import Stage
from gate.registered import PINNED, Version, registered_name
from gate.trackers import PastRun, Registry, Tracker
from gate.wording import plural

EVERY_S = 60
_LONGEST_PAUSE_S = 900.0
_FETCHES = 3
"""How often a version that cannot be fetched is tried before that counts as its own fault."""
_PREFIX = "gate."
_FORMATS = ("text",)
_Runs = Callable[[], Sequence[PastRun]]


def watch(
    model: str,
    tracker: Tracker,
    *,
    policy: str | None = None,
    stage: Stage = "release",
    every: float = EVERY_S,
    once: bool = False,
    again: bool = False,
    out: Path | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> int:
    """Gate every version of a source model that has no outcome yet; go on until interrupted.

    Args:
        model: the registered model that candidates are versions of.
        tracker: with a registry, which keeps the state in tags of the versions.
        policy: a file; default `policies/MODEL.yaml`. It is read once, at the start.
        stage: as `run_gate`.
        every: seconds between two looks.
        once: look once, and return the worst exit code of what was gated.
        again: also gate what another policy judged, or another stage.
        out: each run gets a folder of its own in it; default `.gate/<the policy's model>/`.
        threads: as `run_gate`.
        trust: as `run_gate`.

    Raises:
        UsageError: the policy, the model's name or the tracker will not do.
        DataError: the policy's data cannot be read.
        TrackerError: with `once`, the store cannot be reached.
    """
    asked = _asked(model, policy, stage, out)
    if tracker.registry is None:
        raise UsageError(
            f"--tracker {tracker.key} registers no models: name one that does, such as mlflow"
        )
    watcher = Watcher(asked, tracker, tracker.registry, again=again, threads=threads, trust=trust)
    if not once:
        watcher.say(f"{model} by {asked.loaded.file}, every {every:g} s, in: {tracker.where()}")
        watcher.forever(every)
    look = watcher.look()
    codes = [*look.codes, *([EXIT_ERROR] if look.failed else [])]
    return worst(codes) if codes else EXIT_PASS


def _asked(model: str, policy: str | None, stage: Stage, out: Path | None) -> Asked:
    """What to gate by, shown to be whole before any version is touched."""
    if PINNED.fullmatch(f"models:/{model}/1") is None:
        raise UsageError(
            f"MODEL {model!r} is no registered model's name: leave version and alias out"
        )
    file = Path(policy or f"policies/{model}.yaml")
    if policy is None and not is_there(file):
        raise UsageError(f"there is no {file}: name the policy for {model} with --policy")
    loaded = load_policy(file)
    _demand_source(model, loaded)
    _preflight(loaded)
    demand_place(_FORMATS)
    folder = out or publish.RUNS / loaded.policy.model
    publish.demand_writable(folder)
    return Asked(name=model, loaded=loaded, stage=stage, out=folder)


def _demand_source(model: str, loaded: LoadedPolicy) -> None:
    if model == registered_name(loaded.policy.model):
        raise UsageError(
            f"{model} is where the gate registers INT8 releases of {loaded.policy.model}: name "
            "the registered model that its candidates are versions of"
        )


def _preflight(loaded: LoadedPolicy) -> None:
    preflight(loaded, unsupported=unsupported, needs_candidate=False)


def pause(every: float, failures: int) -> float:
    """Seconds to the next look: twice as many after each that failed, to a quarter of an hour."""
    return min(every * 2.0 ** min(failures, 20), max(every, _LONGEST_PAUSE_S))


@dataclass(frozen=True, slots=True)
class Look:
    """What came of one look at the registry."""

    codes: tuple[int, ...]
    """Exit codes of the versions that came to an outcome."""
    failed: bool
    """Whether the store kept one from its outcome."""


@dataclass(slots=True)
class Watcher:
    """One watcher of one source model."""

    asked: Asked
    tracker: Tracker
    registry: Registry
    again: bool = False
    threads: int | None = None
    trust: bool = False
    now: Callable[[], datetime] = now_utc
    """UTC, whole seconds."""
    sleep: Callable[[float], None] = time.sleep
    claims: Claims = field(init=False)
    _sought: set[str] = field(default_factory=set)
    """Ids of claims whose verdict was looked for."""
    _told: set[str] = field(default_factory=set)
    """What is told once."""
    _fetches: dict[str, int] = field(default_factory=dict)
    """How often a version could not be fetched."""

    def __post_init__(self) -> None:
        """Claim in the name of this process."""
        self.claims = Claims(self.registry, self.tags, self.say, self.now, self.sleep)

    @property
    def tags(self) -> Tags:
        """Names of the tags that hold the state."""
        return Tags(self.asked.loaded.policy.model)

    def say(self, text: str) -> None:
        """Tell an event."""
        tell(self.now(), text)

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.say(text)

    # ── looking ───────────────────────────────────────────────────────────────────────────

    def forever(self, every: float) -> NoReturn:
        """Look, wait, look again; a store that fails is given more time each time it does."""
        failures = 0
        while True:
            try:
                failing = self.look().failed
            except TrackerError as error:
                self.say(f"{error}")
                failing = True
            failures = failures + 1 if failing else 0
            self.sleep(pause(every, failures))

    def look(self) -> Look:
        """Gate what is there and has no outcome, in the order of its numbers.

        Raises:
            TrackerError: the store cannot be reached.
            PolicyError: what the policy names has gone meanwhile.
        """
        versions = self.registry.versions(self.asked.name)
        self._tell_state(versions)
        pending = [version for version in versions if self._pending(version)]
        if pending:
            _preflight(self.asked.loaded)
        runs = cache(lambda: self.tracker.past(self.asked.loaded.policy.model))
        codes, failing = [], False
        for version in pending:
            try:
                code = self._take(version, runs)
            except TrackerError as error:
                self.say(f"{version.uri}: {error}; it has no outcome yet, and is tried again")
                self.tracker.prepare()  # where the store is gone, the others need not be tried
                failing = True
            else:
                codes += [] if code is None else [code]
        return Look(tuple(codes), failing)

    def _tell_state(self, versions: Sequence[Version]) -> None:
        """What there is, whenever that changes, and what to do about it."""
        if not versions:
            self._say_once(f"{self.asked.name} has no version yet")
        found = [one for one in map(self.tags.outcome, versions) if one is not None]
        others = sum(not self._by_this(one) for one in found)
        if others and not self.again:
            self._say_once(
                f"{plural(others, 'version')} judged by another policy or at another stage: "
                "--again gates them anew"
            )
        if errors := sum(one.outcome == ERROR for one in found):
            self._say_once(f"{plural(errors, 'version')} ended in an error. {self._retry}")

    @property
    def _retry(self) -> str:
        key = f"{_PREFIX}{self.tags.key('outcome')}"
        return f"Such a version is not tried again until its tag `{key}` is deleted"

    def _by_this(self, found: Outcome) -> bool:
        return (found.policy, found.stage) == (self.asked.loaded.sha256, self.asked.stage)

    def _pending(self, version: Version) -> bool:
        """Whether there is something to do; a look at what was listed, and no request."""
        if status := version.tags.get("status"):
            self._say_once(f"{version.uri} is not ready ({status}): passed over for now")
            return False
        if "record" in version.tags:
            self._say_once(f"{version.uri} was registered by the gate itself: skipped")
            return False
        found = self.tags.outcome(version)
        return found is None or (self.again and not self._by_this(found))

    # ── one version ───────────────────────────────────────────────────────────────────────

    def _take(self, version: Version, runs: _Runs) -> int | None:
        """Its exit code; None where there was nothing to gate after all."""
        fresh = self._there(version)
        if fresh is None or not self._pending(fresh):
            return None
        claim = self.tags.claim(fresh)
        if claim is None:
            return self._gate(fresh)
        found = self._earlier(fresh, claim, runs)
        if found is not None:
            return self._finish(fresh, claim, found)
        if self.claims.elsewhere(claim):
            self._say_once(
                f"{fresh.uri} is claimed by {claim.who} since {utc(claim.when)}: left alone, "
                f"until {utc(claim.until)} at most"
            )
            return None
        deadly = self.claims.deadly(claim)
        if deadly is not None and not has_record(self.asked.folder(fresh, claim)):
            return self._refused(fresh, claim, deadly)
        return self._gate(fresh, left=claim)

    def _there(self, version: Version) -> Version | None:
        fresh = self.registry.find(version.name, version=version.version)
        if fresh is None:
            self.say(f"{version.uri} vanished: passed over")
        return fresh

    def _earlier(self, version: Version, claim: Claim, runs: _Runs) -> Verdict | None:
        """The verdict that a claim's run came to, kept, and did not write back."""
        if self.claims.elsewhere(claim) and claim.id in self._sought:
            return None  # a watcher that lives writes it back itself
        self._sought.add(claim.id)
        return kept(self.asked, version, self.tracker, runs)

    def _left(self, version: Version, left: Claim | None, claim: Claim) -> Verdict | None:
        """The verdict that an earlier claim's run left on this disk; it is sent.

        Under a claim of one's own, as two that send it at once would register it twice. Its folder
        becomes that claim's, which whoever comes next looks into.
        """
        if left is None or not has_record(self.asked.folder(version, left)):
            return None
        theirs, mine = (self.asked.folder(version, one) for one in (left, claim))
        theirs.rename(mine)
        found = None
        try:
            found = unsent(self.asked, version, claim, self.tracker)
        except RecordError as error:
            self.say(f"{version.uri}: {error}; gated anew")
        if found is None:
            mine.rename(theirs)
        return found

    def _gate(self, version: Version, left: Claim | None = None) -> int | None:
        claim, code = self.claims.new(0 if left is None else self.claims.deaths(left)), None
        with interruptions() as signals:
            try:
                if not self.claims.take(version, claim):
                    return None
                found = self._left(version, left, claim) or self._run(version, claim)
                code = self._finish(version, claim, found)
            except BaseException as error:  # whatever it is, the claim must not outlive it
                if signals or not isinstance(error, Exception):
                    self.claims.release(version, claim)
                    raise (KeyboardInterrupt if signals else error) from error
                code = self._refused(version, claim, error)
            if signals:
                raise KeyboardInterrupt
        return code

    def _run(self, version: Version, claim: Claim) -> Verdict:
        self.say(f"{version.uri} is claimed, and gated")
        folder = self.asked.folder(version, claim)
        try:
            finished = run_gate(
                self.asked.loaded,
                version.uri,
                stage=self.asked.stage,
                out=folder,
                tracker=self.tracker.key,
                threads=self.threads,
                trust=self.trust,
                progress=Beating(
                    lambda step: self.say(f"{version.uri}: {step}"),
                    lambda: self.claims.renew(version, claim),
                ),
            )
        finally:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return Verdict(finished.record, finished.run)

    # ── what it came to ───────────────────────────────────────────────────────────────────

    def _finish(self, version: Version, claim: Claim, found: Verdict) -> int:
        """Write a verdict back, and show it; its exit code."""
        told = self.asked.outcome(found)
        if self._write(version, claim, told):
            self.say(f"{version.uri}: {told.why} (run {found.run})")
            show([found.record], _FORMATS)
        return found.record.exit_code

    def _write(self, version: Version, claim: Claim, told: Outcome) -> bool:
        """Set the tags of an outcome, unless the version is gone or has one by now."""
        fresh = self._there(version)
        if fresh is None:
            return False
        before = self.tags.outcome(fresh)
        if before is not None and self._by_this(before):
            self.say(f"{version.uri} has the outcome {before.outcome} by now, which stays")
            return False
        if before is not None:
            self.registry.tag(fresh, self.tags.void())
        self.registry.tag(fresh, self.tags.told(told, claim))
        return True

    def _refused(self, version: Version, claim: Claim, error: Exception) -> int | None:
        """Write back that a version could not be judged; its exit code, None where it is gone.

        Raises:
            TrackerError: that is the store's fault, not the version's.
            Exception: it is the gate's; the version is marked, so that others get their turn.
        """
        if isinstance(error, TrackerError):
            self.claims.release(version, claim)
            raise error
        if self._there(version) is None:
            return None
        if self._may_be_fetched_yet(version, error):
            self.claims.release(version, claim)
            raise TrackerError(str(error)) from error
        policy, stage = self.asked.loaded.sha256, self.asked.stage
        if self._write(version, claim, told := failed(error, policy=policy, stage=stage)):
            notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
            self.say(f"{version.uri}: ERROR: {told.why}{notes}. {self._retry}")
        if not isinstance(error, GateError):
            raise error
        return error.exit_code

    def _may_be_fetched_yet(self, version: Version, error: Exception) -> bool:
        """Whether the files of a candidate were out of reach, and not too often."""
        if not isinstance(error, FetchError):
            return False
        self._fetches[version.version] = self._fetches.get(version.version, 0) + 1
        return self._fetches[version.version] < _FETCHES
