"""The door `trackers`, by entry point: one line of JSON a run, in the file $GATE_LINES."""

import json
import os
from pathlib import Path

from gate import trackers
from gate.errors import TrackerError


class Lines(type(trackers.get("none"))):
    """Keeps a line a run. It remembers nothing: no production, no attempts, no history."""

    key = "lines"

    def prepare(self):
        """Before any work: what cannot be written is told now."""
        if not self.file.parent.is_dir():
            raise TrackerError(f"{self.file.parent} is no folder: set GATE_LINES to a file in one")

    def log(self, record, folder):  # noqa: ARG002 - files that it could keep, too
        """The same record again is the same line."""
        line = {"id": record.id, "model": record.policy.model, "outcome": record.verdict.outcome}
        kept = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        if json.dumps(line) not in kept.splitlines():
            self.file.write_text(f"{kept}{json.dumps(line)}\n", encoding="utf-8")
        return record.id

    def where(self):
        """As reports name the store."""
        return str(self.file)

    @property
    def file(self):
        """A line a run."""
        return Path(os.environ.get("GATE_LINES", "gate-lines.jsonl"))


TRACKER = Lines()
