"""Gates that log at the same moment: `python crowd.py FOLDER… -- STORE…`.

A process for each folder's record logs it in one store, and then all do so in the next one. Run as
a program: it imports everything once and forks, so that all begin together. Each process has a
folder for temporary files of its own, as it would on a machine of its own: MLflow's lock around
its migrations lies there.
"""

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import alembic.command
import filelock
import mlflow.models
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
import mlflow.types

from gate.records import GateRecord
from gate.trackers.mlflow import TRACKER

IMPORTED = (alembic.command, filelock, mlflow.models, mlflow.store, mlflow.types)


def log(folder: Path, store: str, start: Barrier) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = store
    tempfile.tempdir = tempfile.mkdtemp(dir=folder)
    record = GateRecord.model_validate_json((folder / "record.json").read_bytes())
    before = dict(os.environ)
    start.wait(timeout=60)
    TRACKER.log(record, folder)
    assert dict(os.environ) == before, set(os.environ) ^ set(before)


def together(folders: list[str], store: str) -> int:
    """How many of the processes failed."""
    forked = multiprocessing.get_context("fork")
    start = forked.Barrier(len(folders))
    jobs = [forked.Process(target=log, args=(Path(name), store, start)) for name in folders]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return sum(job.exitcode != 0 for job in jobs)


if __name__ == "__main__":
    border = sys.argv.index("--")
    sys.exit(sum(together(sys.argv[1:border], store) for store in sys.argv[border + 1 :]))
