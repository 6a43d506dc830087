"""Models that are anything: `gate run` ends with a verdict on a model that runs, or an error."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from support import mutation
from support.fuzzing import CrashedError, Ended, Worker, command, demand_clean, long, quick
from support.hostile_models import model_changed, model_edits
from support.project import CNN, SUBGRAPH, Project
from support.tally import Tally

from gate.errors import EXIT_ERROR

KIND = "models"
BASES = (CNN, SUBGRAPH)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("models"))
    project = Project(worker.folder)
    for name in ("calibration", "held_out"):
        project.change(name, lambda columns: columns.update(_few(columns)))
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    yield worker
    worker.stop()


def _few(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:64] for name, values in columns.items()}


def strategy() -> Any:
    which = st.integers(0, len(BASES) - 1)
    flag = st.sampled_from(("--candidate", "--candidate", "--int8", "--reference"))
    return st.one_of(
        st.tuples(which, flag, model_edits(), st.just([])),
        st.tuples(which, flag, st.just([]), mutation.byte_edits(most=3)),
    )


def arguments(folder: Path, flag: str, file: Path) -> list[str]:
    asked = ["run", str(folder / "policy.yaml"), flag, str(file), "--tracker", "none"]
    given = [] if flag == "--candidate" else ["--candidate", str(CNN)]
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    return [*asked, *given, "--threads", "1", "--out", str(out)]


def ended(worker: Worker, asked: list[str]) -> Ended:
    """How a run ends; what crashes the runtime, in a process of its own, as users run it."""
    try:
        return worker.run(command, asked)
    except CrashedError:
        shutil.rmtree(worker.folder / "out", ignore_errors=True)
        return _apart(asked)


def _apart(asked: list[str]) -> Ended:
    told = [sys.executable, "-m", "gate", *asked]
    run = subprocess.run(told, check=False, capture_output=True, text=True, timeout=60)
    if run.returncode == EXIT_ERROR:
        assert "the process that ran the models ended before there was a verdict" in run.stderr
    return Ended(run.returncode, run.stdout, run.stderr)


def case_of(worker: Worker, tally: Tally) -> Any:
    file = worker.folder / "hostile.onnx"

    def case(drawn: Any) -> None:
        which, flag, edits, byte_edits = drawn
        content = model_changed(BASES[which].read_bytes(), edits)
        file.write_bytes(mutation.bytes_changed(content, byte_edits))
        found = tally.count(ended(worker, arguments(worker.folder, flag, file)))
        demand_clean(found)
        has_record = (worker.folder / "out" / "record.json").is_file()
        assert has_record == (found.code in (0, 1, 3)), found

    return case


def test_a_model_is_judged_or_refused(worker: Worker, record_property: Any) -> None:
    tally = Tally(KIND, record_property)
    quick(case_of(worker, tally), strategy(), 25, tally)


@pytest.mark.slow
def test_a_model_is_judged_or_refused_whatever_it_is(worker: Worker, record_property: Any) -> None:
    tally = Tally(KIND, record_property)
    long(case_of(worker, tally), strategy(), tally)
