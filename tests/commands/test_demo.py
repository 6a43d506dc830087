"""The demo: the real stage, as a new user meets it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gate.cli import exit_code_of
from gate.commands import demo


def shown_it_all(folder: Path, out: str, err: str) -> None:
    """Every outcome with its exit code, the history, and what to do next."""
    shown = [line for line in out.splitlines() if line.startswith("exit code")]
    assert shown == [f"exit code {code}" for code in (0, 1, 3, 4, 0)]
    assert "PASS  digits-cnn" in out
    assert "FAIL  digits-cnn" in out
    assert "INCONCLUSIVE  digits-cnn" in out
    assert "nothing can be quantized" in err
    assert "gate run my-policy.yaml --candidate my-model.onnx" in out
    assert (folder / "mlflow.db").is_file()
    assert len(list((folder / ".gate" / "digits-cnn").iterdir())) == 3


@pytest.fixture
def in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the demo run in this process: each of its own loads MLflow again."""

    def run(command: list[str], *, cwd: Path, check: bool) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "gate"]
        assert not check
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            return subprocess.CompletedProcess(command, exit_code_of(command[3:]))

    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run))


@pytest.mark.usefixtures("in_here")
def test_the_demo_shows_every_outcome_and_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert exit_code_of(["demo", "--out", "demo"]) == 0
    shown_it_all(tmp_path / "demo", *capsys.readouterr())


def test_its_commands_are_processes_in_its_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text("version: 7\n")
    assert demo._command(["check", "policy.yaml"], tmp_path) == 2
    out, err = capfd.readouterr()
    assert out.startswith("$ gate check policy.yaml\n")
    assert "policy.yaml" in err
    assert "exit code 2" in out


@pytest.mark.slow
def test_a_new_user_sees_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gate", "demo", "--out", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown_it_all(tmp_path / "demo", done.stdout, done.stderr)


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    assert exit_code_of(["demo", "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
