"""How a record is shown."""

from typing import Protocol, cast

from gate import door
from gate.records import GateRecord

GROUP = "gate.reporters"
REPORTERS = {
    "text": "gate.reporters.text:REPORTER",
    "json": "gate.reporters.json:REPORTER",
    "markdown": "gate.reporters.markdown:REPORTER",
    "github": "gate.reporters.github:REPORTER",
    "html": "gate.reporters.html:REPORTER",
    "junit": "gate.reporters.junit:REPORTER",
}


class Reporter(Protocol):
    """Renders a record. Pure: it reads the record and nothing else."""

    key: str
    filename: str | None
    """Its file in `--out`; None where it only speaks to a terminal or a CI system."""

    def render(self, record: GateRecord) -> str:
        """The whole report."""


def get(key: str) -> Reporter:
    """The reporter behind `key`; `UsageError` lists the known ones."""
    return cast(Reporter, door.look_up(GROUP, REPORTERS, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, REPORTERS)
