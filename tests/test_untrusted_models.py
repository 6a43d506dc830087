"""Models made to harm: refused with a reason, or contained; nothing is decided, and it is told."""

import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from support import villains
from support.fuzzing import CrashedError, Ended, Worker, command, demand_clean
from support.project import CNN, WIDE_RANGE, Project
from support.villains import Villain


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("villains"))
    project = Project(worker.folder)
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    yield worker
    worker.stop()


def asked(worker: Worker, model: Path, flag: str) -> list[str]:
    given = [] if flag == "--candidate" else ["--candidate", str(CNN)]
    return ["run", str(worker.folder / "policy.yaml"), *given, flag, str(model), "--tracker",
            "none", "--threads", "1", "--out", str(model.parent / "out")]  # fmt: skip


def ended(worker: Worker, arguments: list[str]) -> Ended:
    """In a process that is there already; what crashes it, as a user runs it."""
    try:
        return worker.run(command, arguments)
    except CrashedError:
        return as_users_do(arguments)


def as_users_do(arguments: list[str], *limits: str) -> Ended:
    run = subprocess.run(
        [sys.executable, "-m", "gate", *arguments, *limits],
        check=False, capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    return Ended(run.returncode, run.stdout, run.stderr)


def demand_nothing(found: Ended, folder: Path) -> None:
    demand_clean(found)
    assert found.code in (2, 4), found
    assert not list(folder.rglob("record.json"))
    assert "PASS" not in found.out


@pytest.mark.parametrize("flag", ["--candidate", "--int8"])
@pytest.mark.parametrize("villain", villains.REFUSED, ids=lambda made: made.__name__)
def test_it_is_refused(worker: Worker, villain: Villain, flag: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    found = ended(worker, asked(worker, villain(folder), flag))
    demand_nothing(found, folder)
    assert "villain" in found.err or "ONNX Runtime failed" in found.err


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--candidate", "--int8"])
@pytest.mark.parametrize("villain", villains.REFUSED, ids=lambda made: made.__name__)
def test_it_is_refused_as_users_run_it(
    worker: Worker, villain: Villain, flag: str, tmp_path: Path
) -> None:
    """Without any limit that somebody thought of setting."""
    folder = tmp_path / "model"
    folder.mkdir()
    demand_nothing(as_users_do(asked(worker, villain(folder), flag)), folder)


@pytest.mark.parametrize("flag", ["--candidate", pytest.param("--int8", marks=pytest.mark.slow)])
def test_what_multiplies_is_contained(worker: Worker, flag: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    arguments = asked(worker, villains.functions_that_double(folder), flag)
    found = as_users_do(arguments, "--max-memory", "2", "--max-minutes", "0.1")
    demand_nothing(found, folder)
    assert "--max-minutes 0.1 are over" in found.err


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--candidate", "--int8"])
def test_thousands_of_nodes_are_a_model(worker: Worker, flag: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    found = as_users_do(asked(worker, villains.long_chain(folder), flag))
    demand_clean(found)
    assert found.code == (0 if flag == "--candidate" else 4)  # no integer kernel runs in the latter


@pytest.mark.parametrize("endless", ["/dev/zero", "pipe"])
@pytest.mark.parametrize("name", ["calibration", "held_out"])
def test_data_without_end_are_refused_at_their_line(
    worker: Worker, name: str, endless: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    project = Project(tmp_path)
    (tmp_path / f"{name}.npz").unlink()
    (tmp_path / f"{name}.npz").symlink_to(tmp_path / endless)
    for command_ in ("check", "run"):
        found = ended(worker, [command_, str(project.policy)])
        assert found.code == 2
        assert f"{name}.npz is a device or a pipe; name a file" in found.err + found.out


# ── words ─────────────────────────────────────────────────────────────────────────────────


def demand_text(text: str) -> None:
    """Nothing in it steers a terminal, or is a line that a model has begun."""
    assert not [mark for mark in text if unicodedata.category(mark) == "Cc" and mark != "\n"]
    assert not [mark for mark in text if mark in BIDI]
    assert not [line for line in text.splitlines() if line.startswith(("::error::inj", "PASSn"))]


BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("source", [CNN, WIDE_RANGE], ids=lambda path: path.stem)
def test_names_are_words_wherever_they_are_told(
    worker: Worker, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = asked(worker, villains.renamed(source, tmp_path), "--candidate")
    told = [part for name in ("text", "markdown", "github") for part in ("--format", name)]
    found = ended(worker, [*arguments, *told])
    assert found.code == (0 if source == CNN else 1), found
    for text in (found.out, found.err):
        demand_text(text)
    for name in ("report.txt", "report.md", "report.html", "junit.xml", "record.json"):
        text = (out / name).read_text("utf-8")
        demand_text(text)
        assert "<script>alert" not in text or name in ("report.txt", "record.json")
    diagnosed = ended(worker, ["diagnose", str(out)])
    assert diagnosed.code == 0
    demand_text(diagnosed.out)


def test_names_stay_what_they_are_in_the_model(worker: Worker, tmp_path: Path) -> None:
    """What is told is escaped; what is released is the candidate's own."""
    assert ended(worker, asked(worker, villains.renamed(CNN, tmp_path), "--candidate")).code == 0
    model = onnx.load(tmp_path / "out" / "model.fp32.onnx")
    assert any(villains.EVIL[0] in node.name for node in model.graph.node)
