"""Keeps nothing: for runs whose record in `--out` is enough."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gate.records import GateRecord
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun, Registry
from gate.trials import Trial


class NoTracker:
    """Remembers no run, so nothing is held against an earlier one."""

    key = "none"
    registry: Registry | None = None

    def prepare(self) -> None:
        """Nothing has to be there."""

    def log(self, record: GateRecord, folder: Path) -> str:  # noqa: ARG002
        """Keep nothing; no run, no id."""
        return ""

    def log_error(self, model: str, *, stage: str, source: str, error: str) -> None:
        """Keep nothing."""

    def reserve(self, model: str, *, held_out: str, key: str, when: datetime | None = None) -> None:
        """Nothing counts attempts."""

    def log_trial(self, model: str, *, search: str, trial: Trial) -> None:
        """Keep nothing."""

    def attempts(self, model: str) -> Sequence[Attempt]:  # noqa: ARG002
        """No attempt is remembered."""
        return ()

    def past(self, model: str) -> Sequence[PastRun]:  # noqa: ARG002
        """No run is remembered."""
        return ()

    def models(self) -> Sequence[str]:
        """No model is remembered."""
        return ()

    def record(self, run: str) -> dict[str, Any] | None:  # noqa: ARG002
        """No record is kept."""
        return None

    def fetch(self, run: str, name: str, folder: Path) -> Path | None:  # noqa: ARG002
        """No file is kept."""
        return None

    def where(self) -> str:
        """Nowhere."""
        return "nowhere (--tracker none)"


TRACKER = NoTracker()
