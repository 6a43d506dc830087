"""One cluster for all, and the work of one real run."""

import logging
import os
from collections.abc import Iterator

import pytest
from support.project import Project
from support.shards import Work, work_of

from gate.engines.ray import _imported, _own_signals


@pytest.fixture(scope="package")
def cluster() -> Iterator[str]:
    """Two CPUs of this process's own; its address.

    It ends with this folder's tests: Ray's daemons work without an end, and its threads with them.
    """
    before = os.environ.pop("RAY_ADDRESS", None)
    ray = _imported()
    with _own_signals():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=200 << 20,
        )
    yield ray.get_runtime_context().gcs_address
    with _own_signals():
        ray.shutdown()
    if before is not None:
        os.environ["RAY_ADDRESS"] = before


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Eight shards of digits, 1000 examples."""
    folder = tmp_path_factory.mktemp("work")
    return work_of(Project(folder), folder / "out")
