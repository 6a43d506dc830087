"""A line of releases on a real store: policies against the past, and runs that make one."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.project import CNN, Project

import gate
from gate import trackers
from gate.records import GateRecord
from gate.registered import Move

MODEL = "digits-cnn"
PRODUCTION = {"metric": "accuracy", "max_drop": 0.01, "against": "production"}
ANCHOR = {"metric": "accuracy", "max_drop": 0.015, "against": "anchor"}
OWN = {"metric": "accuracy", "max_drop": 0.01}


def policy(project: Project, *budgets: dict[str, Any], **judged: Any) -> Project:
    project.spec["judge"] |= {"budgets": [OWN, *budgets], **judged}
    project.write()
    return project


def released(project: Project, candidate: Path = CNN, **options: Any) -> GateRecord:
    return gate.run_gate(project.policy, candidate, threads=1, stage="release", **options).record


def promoted(version: str, record: GateRecord, previous: str | None = None) -> None:
    registry = trackers.get("mlflow").registry
    assert registry is not None
    registry.move(
        Move(
            model=MODEL,
            alias="production",
            version=version,
            previous=previous,
            kind="promote",
            record=record.id,
            int8_sha256=record.int8.sha256,
            who="a test",
            why="it passed",
            when=datetime.now(UTC),
        )
    )


def begun(folder: Path) -> GateRecord:
    """In the working folder: a store whose version 1 passed as a first release, in production."""
    project = policy(Project(folder), PRODUCTION)
    record = released(project, bootstrap=True, out=folder / "first")
    promoted("1", record)
    return record
