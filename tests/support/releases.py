"""Runs, bridges and moves as a tracker would remember them, and a tracker that does."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gate.registered import Bridge, Bridged, Move, Version
from gate.trackers import PastRun

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
METRIC = "accuracy.max_drop"


def past(
    number: int = 0,
    outcome: str = "pass",
    *,
    int8: float = 0.959,
    tags: dict[str, str] | None = None,
    numbers: dict[str, float] | None = None,
    **changes: Any,
) -> PastRun:
    """The n-th release: FP32 0.961, a budget of one point, one held-out set."""
    values = {"fp32": 0.961, "int8": int8, "drop": round(0.961 - int8, 6)}
    values |= {"lower": values["drop"] - 0.003, "upper": values["drop"] + 0.003}
    metrics = {f"{name}/{q}": v for name in (METRIC, "accuracy") for q, v in values.items()}
    known = {"model": "cnn", "metric": METRIC, "quantity": "drop", "recipe": "static"}
    known |= {"held_out": "a" * 64, "record": f"record{number}"}
    fields = {
        "run": f"run{number}",
        "when": START + timedelta(hours=number),
        "stage": "release",
        "outcome": outcome,
        "candidate": f"{number % 10}" * 64,
        "version": str(number),
        "metrics": metrics | (numbers or {}),
        "tags": known | (tags or {}),
        "limits": {METRIC: 0.01},
    }
    return PastRun(**fields | changes)


def bridge(before: str, after: str, *, record: str, values: dict[str, float]) -> Bridge:
    """The release of `record` on the set `after`, where it has these values of INT8."""
    release = Bridged(
        version="1",
        record=record,
        int8_sha256="0" * 64,
        roles=("anchor",),
        before={"accuracy": 0.96},
        after=values,
        rows="rows.npz",
        rows_sha256="0" * 64,
    )
    return Bridge(
        id=f"bridge-{after[:4]}",
        created=START,
        model="cnn",
        before=before,
        after=after,
        releases=(release,),
    )


def move(hour: float, version: str, previous: str | None = None, **changes: Any) -> Move:
    """Of `production`, that many hours after the start."""
    fields = {
        "model": "cnn",
        "alias": "production",
        "version": version,
        "previous": previous,
        "kind": "promote",
        "record": "record",
        "int8_sha256": "0" * 64,
        "who": "ann",
        "why": "it passed",
        "when": START + timedelta(hours=hour),
    }
    return Move(**fields | changes)


class Releases:
    """A registry that remembers what it is given."""

    def __init__(
        self,
        production: str | None = None,
        moves: Sequence[Move] = (),
        bridges: Sequence[Bridge] = (),
    ) -> None:
        self._production, self._moves, self._bridges = production, moves, bridges

    def find(
        self, name: str, *, version: str | None = None, alias: str | None = None
    ) -> Version | None:
        if alias != "production" or self._production is None:
            return None
        return Version(name, self._production, START, "run", "", aliases=("production",))

    def moves(self, model: str) -> Sequence[Move]:
        return self._moves

    def bridges(self, model: str) -> Sequence[tuple[str, Bridge]]:
        return [("run", one) for one in self._bridges]


class Memory:
    """A tracker that remembers what it is given: runs newest first, by model."""

    key = "memory"

    def __init__(self, registry: Releases | None = None, **runs: Sequence[PastRun]) -> None:
        self.registry, self.runs = registry, runs

    def past(self, model: str) -> Sequence[PastRun]:
        return self.runs.get(model, ())

    def models(self) -> Sequence[str]:
        return sorted(self.runs)

    def where(self) -> str:
        return "memory"

    def prepare(self) -> None:
        """It is there."""

    def log(self, record: Any, folder: Path) -> str:
        raise NotImplementedError
