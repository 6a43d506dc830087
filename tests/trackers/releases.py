"""Releases of the model that the records of these tests are about."""

from datetime import UTC, datetime
from typing import Any

from gate.records import GateRecord
from gate.registered import Move

NAME = "digits-cnn-int8"


def a_move(record: GateRecord, version: str, previous: str | None, **changes: Any) -> Move:
    """Production moves to the version that a record released."""
    told = {"model": record.model, "alias": "production", "version": version, "kind": "promote"}
    told |= {"previous": previous, "record": record.id, "int8_sha256": record.int8.sha256}
    told |= {"who": "ada", "why": "it passed — ü", "when": datetime.now(UTC)}
    return Move(**told | changes)
