"""Everything that may stand against a promotion, each check by itself, all of them made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gate import plugins
from gate.commands._promote_backing import (
    ROLLED_BACK,
    Reason,
    artifact_faults,
    kept_faults,
    outcome_reasons,
    run_of,
    sent_faults,
    stage_reasons,
    tag_faults,
)
from gate.commands._promote_policy import held_out_reasons, in_force
from gate.commands.judge import demand_untouched, rejudge
from gate.errors import EXIT_PASS, EXIT_USAGE, GateError, worst
from gate.records import GateRecord
from gate.registered import PRODUCTION, Version, registered_name
from gate.story import moment
from gate.trackers import PastRun, Registry, Tracker

CLOCK_SKEW = timedelta(minutes=5)
"""How far two machines' clocks may be apart."""
_JUDGED = ("fail", "inconclusive", "waived")
_ROWS = "rows.npz"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold before an alias moves."""

    what: str
    """As a person would ask for it."""
    reasons: tuple[Reason, ...]
    """Why it does not hold; empty where it does."""


def reasons_of(checks: Iterable[Check]) -> tuple[Reason, ...]:
    """All that stands against it."""
    return tuple(reason for check in checks for reason in check.reasons)


def exit_code_of(checks: Iterable[Check]) -> int:
    """That of the worst reason; 0 where there is none."""
    reasons = reasons_of(checks)
    return worst(reason.code for reason in reasons) if reasons else EXIT_PASS


@dataclass(frozen=True, slots=True)
class Case:
    """A record, and what the tracker knows about it, read once."""

    record: GateRecord
    folder: Path
    tracker: Tracker
    registry: Registry
    runs: Sequence[PastRun]
    """All of the model's, newest first."""
    run: PastRun | None
    """The one that keeps the record."""
    version: Version | None
    """The one that run registered."""
    alias: str
    current: Version | None
    """What the alias names."""
    now: datetime
    waived: bool = False
    """Whether a verdict that somebody waived counts, too."""

    @classmethod
    def of(
        cls,
        record: GateRecord,
        folder: Path,
        tracker: Tracker,
        *,
        alias: str,
        now: datetime,
        waived: bool = False,
    ) -> "Case":
        """Look everything up.

        Raises:
            TrackerError: the tracker cannot be reached.
        """
        registry = tracker.registry
        assert registry is not None
        name, runs = registered_name(record.model), tracker.past(record.model)
        run = run_of(runs, record.id)
        number = None if run is None else run.version
        return cls(
            record=record,
            folder=folder,
            tracker=tracker,
            registry=registry,
            runs=runs,
            run=run,
            version=registry.find(name, version=number) if number else None,
            alias=alias,
            current=registry.find(name, alias=alias),
            now=now,
            waived=waived,
        )

    @property
    def is_there(self) -> bool:
        """Whether the alias names the record's version already."""
        return self.current is not None and self.is_version(self.current)

    def is_version(self, other: Version) -> bool:
        """Whether another version is the record's own."""
        mine = self.version
        return mine is not None and (mine.name, mine.version) == (other.name, other.version)


def backed(case: Case) -> Iterator[Check]:
    """Whether the record is a release's PASS, and its version what was judged."""
    checks: Mapping[str, Callable[[Case], Iterable[Reason]]] = {
        "record as it was written": _untouched,
        "record as the tracker keeps it": _kept,
        "verdict PASS": lambda one: outcome_reasons(one.record, waived=one.waived),
        "a release, enforced and counted": lambda one: stage_reasons(one.record),
        "registered artifact as it was judged": _registered,
        "never rolled back": _rolled_back,
    }
    for what, reasons in checks.items():
        yield Check(what, tuple(reasons(case)))


def current(case: Case, policy: str | None, max_age: timedelta) -> Iterator[Check]:
    """Whether the verdict still counts today.

    Args:
        case: the record's.
        policy: file of the policy in force, where the record's is not that.
        max_age: of the record.
    """
    loaded, reasons = in_force(case.record, policy)
    yield Check("policy in force", reasons)
    held_out = tuple(held_out_reasons(loaded, case.record, case.folder))
    yield Check("held-out data as they were judged on", held_out)
    yield Check(f"not older than {_days(max_age)}", tuple(_age(case, max_age)))
    if case.record.verdict.outcome == "waived":
        yield Check("waivers that still hold", tuple(_waivers(case)))
    yield Check("no newer version, no later verdict", tuple(_order(case)))
    yield Check("production as it was compared with", tuple(_production(case)))


# ── the record ────────────────────────────────────────────────────────────────────────────


def _untouched(case: Case) -> Iterator[Reason]:
    record, rows = case.record, case.folder / _ROWS
    if not rows.is_file():
        yield Reason(f"{rows} is not there: fetch the whole folder of record {record.id}")
        return
    try:
        plugins.demand_same(record.provenance.plugins)
        demand_untouched(record, rows)
        rejudge(record)
    except GateError as error:
        yield Reason(str(error), error.exit_code)


def _kept(case: Case) -> Iterator[Reason]:
    """Whether the tracker keeps the same record, field for field, in a complete run."""
    record, run = case.record, case.run
    if run is None:
        yield Reason(
            f"no run in {case.tracker.where()} keeps record {record.id}: send it with "
            f"`gate report --track {case.folder}`, or look at MLFLOW_TRACKING_URI"
        )
        return
    if run.outcome == "incomplete":
        yield Reason(
            f"run {run.run} is incomplete: complete it with `gate report --track {case.folder}`"
        )
    elif run.outcome != record.verdict.outcome:
        yield Reason(
            f"run {run.run} says {run.outcome}, and the record {record.verdict.outcome}: one was "
            "changed; gate it again"
        )
    for text in (*kept_faults(case.tracker, run, record), *sent_faults(case.tracker, run)):
        yield Reason(text)


# ── the version ───────────────────────────────────────────────────────────────────────────


def _registered(case: Case) -> Iterator[Reason]:
    """Whether the registered version is the record's, and its bytes are those that were judged."""
    run, version, name = case.run, case.version, registered_name(case.record.model)
    if run is None:
        yield Reason(f"without its run, nothing tells which version of {name} it is")
        return
    if version is None:
        missing = f"version {run.version} of {name} is gone" if run.version else "it has no version"
        yield Reason(
            f"{missing}: it was deleted, or lies in another registry (MLFLOW_REGISTRY_URI); "
            "register a new one with `gate run --stage release`"
        )
        return
    for text in tag_faults(version, run, case.record):
        yield Reason(text)
    for text in artifact_faults(case.registry, version, case.record.int8.sha256):
        yield Reason(text)


def _rolled_back(case: Case) -> Iterator[Reason]:
    told = None if case.version is None else case.version.tags.get(ROLLED_BACK)
    if told is not None and case.version is not None:
        yield Reason(
            f"version {case.version.version} was rolled back ({told}): register a new release "
            "with `gate run --stage release`",
            EXIT_USAGE,
        )


# ── time ──────────────────────────────────────────────────────────────────────────────────


def _age(case: Case, max_age: timedelta) -> Iterator[Reason]:
    created, now = case.record.created, case.now
    if created.tzinfo is None:
        yield Reason("its time has no zone, so nobody can tell how old it is: gate it again")
        return
    if created > now + CLOCK_SKEW:
        yield Reason(
            f"it was made in the future: {moment(created)} by the clock of the machine that made "
            f"it, and it is {moment(now)} by this one's; set the wrong clock, and gate it again "
            "where that was the other machine's",
            EXIT_USAGE,
        )
    if now - created > max_age:
        yield Reason(
            f"it is of {moment(created)}, {(now - created).days} days ago, and a verdict counts "
            f"for {_days(max_age)}: gate it again, or allow more with --max-age",
            EXIT_USAGE,
        )


def _waivers(case: Case) -> Iterator[Reason]:
    """Whether what was let through is still let through today."""
    today = case.now.astimezone(UTC).date()
    for one in case.record.verdict.findings:
        held = [w for w in case.record.waivers if w.holds_for(one.budget, one.slice)]
        if one.outcome == "waived" and not any(today <= waiver.expires for waiver in held):
            where = f" at {one.slice}" if one.slice else ""
            yield Reason(
                f"the waiver of {one.budget}{where} has expired: gate it again, under a waiver "
                "that holds where somebody still answers for it",
                EXIT_USAGE,
            )


def _days(age: timedelta) -> str:
    days = age / timedelta(days=1)
    return f"{days:g} day" if days == 1 else f"{days:g} days"


def _order(case: Case) -> Iterator[Reason]:
    """What happened after the verdict."""
    now, mine = case.current, case.version
    if now is not None and mine is not None and now.number > mine.number:
        yield Reason(
            f"{case.alias} names version {now.version} already, which is newer than "
            f"{mine.version}: to go back, use `gate rollback {case.record.model} "
            f"--alias {case.alias}`",
            EXIT_USAGE,
        )
    for run in case.runs:
        if _contradicts(run, case):
            yield Reason(
                f"the same artifact was judged again later, by record {run.tags.get('record')} of "
                f"{moment(run.when)}, and came to {run.outcome.upper()}: find out why, and gate it "
                "again",
                EXIT_USAGE,
            )


def _contradicts(run: PastRun, case: Case) -> bool:
    """Whether a run is a later release of the same artifact that did not pass."""
    later = case.run is None or (run.run != case.run.run and _follows(run, case.run))
    same = run.tags.get("int8_sha256") == case.record.int8.sha256
    return later and same and run.stage == "release" and run.outcome in _JUDGED


def _follows(run: PastRun, other: PastRun) -> bool:
    """Whether a run is the later one by its time, or by its version: clocks may differ."""
    numbers = (run.version or "", other.version or "")
    registered = all(map(str.isdecimal, numbers)) and int(numbers[0]) > int(numbers[1])
    return registered or run.when >= other.when


def _production(case: Case) -> Iterator[Reason]:
    """Whether production is still the version that it was judged against, or still none."""
    yield from _first(case)
    for release in case.record.releases:
        if release.against != PRODUCTION:
            continue
        named = case.registry.find(release.name, alias=PRODUCTION)
        now = "no version" if named is None else f"version {named.version}"
        if named is None or not (named.version == release.version or case.is_version(named)):
            yield Reason(
                f"it was judged against production while that was version {release.version} of "
                f"{release.name}, and it is {now} by now: gate it against that",
                EXIT_USAGE,
            )


def _first(case: Case) -> Iterator[Reason]:
    """Whether a first release, which was held against none before it, still has none."""
    asked = any(one.against == PRODUCTION for one in case.record.policy.judge.budgets)
    if not asked or not case.record.lacks(PRODUCTION):
        return
    named = case.registry.find(registered_name(case.record.model), alias=PRODUCTION)
    if named is not None and not case.is_version(named):
        yield Reason(
            f"it was judged as a first release (`--bootstrap`), and production is version "
            f"{named.version} of {named.name} by now: gate it against that",
            EXIT_USAGE,
        )
