"""Where runs are kept for good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from gate import door, outside
from gate.records import GateRecord
from gate.registered import Bridge, Move, Version
from gate.statistics.ledger import Attempt
from gate.trials import Trial

GROUP = "gate.trackers"
TRACKERS = {
    "mlflow": "gate.trackers.mlflow:TRACKER",
    "none": "gate.trackers.none:TRACKER",
}


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run of the gate that a tracker remembers."""

    run: str
    """The tracker's id."""
    when: datetime
    stage: str
    outcome: str
    """pass, fail, inconclusive, waived; error where the gate could not judge; incomplete where
    logging was cut short."""
    candidate: str
    """sha256, or the source's name where it could not be read."""
    version: str | None
    """Of the registered INT8 model, where one was registered."""
    metrics: dict[str, float]
    """`<name>[/<slice>]/<quantity>`: the name is `metric` or `metric.limit`, with `@reference`
    where that is not fp32; a slice is `column=value`; quantities are fp32 (or the reference's
    name), int8, drop, lower, upper."""
    tags: dict[str, str]
    """Everything else it knows."""
    limits: dict[str, float] = field(default_factory=dict)
    """Each budget's, by its id."""


class Registry(Protocol):
    """Where releases are versions of a registered model, and aliases say which one serves.

    Every method raises `TrackerError` where the store refuses or cannot be reached.
    """

    def versions(self, name: str) -> Sequence[Version]:
        """Of a registered model, oldest first; none where there is no such model."""

    def find(
        self, name: str, *, version: str | None = None, alias: str | None = None
    ) -> Version | None:
        """The version of that number, or that the alias names; None where there is none."""

    def fetch(self, version: Version, folder: Path) -> Path:
        """Copy a version's INT8 ONNX file, and its external data, into an empty folder.

        Returns the ONNX file. Whether it is what was judged is for the caller to prove.
        """

    def move(self, move: Move) -> None:
        """Point `move.alias` at `move.version`, and write down that it was done, and by whom.

        The intention is kept first, then the alias moves, then the entry is completed; the same
        move again completes what was cut short. Raises `TrackerError`, with the alias where it
        was, where it does not name `move.previous` any more.
        """

    def moves(self, model: str) -> Sequence[Move]:
        """Every move of an alias of a policy's model that was written down, oldest first."""

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set the gate's own tags of a version, given without their prefix."""

    def keep_bridge(self, bridge: Bridge, folder: Path) -> str:
        """Keep a bridge with the row files that it names, which lie in `folder`; its run's id.

        The same bridge again returns the same run.
        """

    def bridges(self, model: str) -> Sequence[tuple[str, Bridge]]:
        """A policy's model's bridges with the ids of their runs, newest first."""


class Tracker(Protocol):
    """Keeps records."""

    key: str
    registry: Registry | None
    """None where nothing registers releases."""

    def prepare(self) -> None:
        """Reach the store, before any work; fail within seconds where it is not there.

        Raises:
            TrackerError: it cannot be reached or refused.
        """

    def log(self, record: GateRecord, folder: Path) -> str:
        """Keep a finished run: the record, and the files beside it in `folder`.

        Returns the run's id. Logging the same record again returns the same run.
        """

    def log_error(self, model: str, *, stage: str, source: str, error: str) -> None:
        """Keep the trace of a run that could not judge."""

    def reserve(
        self, model: str, *, held_out: str, key: str, when: datetime | None = None
    ) -> Sequence[Attempt] | None:
        """Count a release about to be judged on the held-out set with that digest.

        Returns all attempts on it, oldest first, this one among them; None where nothing durable
        counts. `key` is that of `gate.statistics.ledger`. With `when` it was begun then, which a
        store that is made again has forgotten, and those that began later are left out.
        """

    def log_trial(self, model: str, *, search: str, trial: Trial) -> None:
        """Keep a trial of the search of that name, as it ends; one that is kept stays as it is."""

    def attempts(self, model: str) -> Sequence[Attempt]:
        """Attempts at releases on the held-out set that the newest one was on, oldest first."""

    def past(self, model: str) -> Sequence[PastRun]:
        """Runs of a model, newest first."""

    def models(self) -> Sequence[str]:
        """Every model that has runs, sorted."""

    def record(self, run: str) -> dict[str, Any] | None:
        """The stored record.json of a run, parsed; None where it is gone.

        Raises RecordError where it is damaged."""

    def fetch(self, run: str, name: str, folder: Path) -> Path | None:
        """Copy a file that was kept with a run into `folder`; None where run or file is gone."""

    def where(self) -> str:
        """The store, as a person would open it."""


def get(key: str) -> Tracker:
    """The tracker behind `key`; `UsageError` lists the known ones."""
    if outside.linked():
        from gate.trackers import _outside

        return _outside.asked(key)
    return cast(Tracker, door.look_up(GROUP, TRACKERS, key))
