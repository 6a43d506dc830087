"""The demo: the real stage, as a new user meets it."""

import subprocess
import sys
from pathlib import Path

from gate.cli import exit_code_of


def test_the_demo_shows_every_outcome_and_the_history(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gate", "demo", "--out", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert shown == [f"exit code {code}" for code in (0, 1, 3, 4, 0)]
    assert "PASS  digits-cnn" in done.stdout
    assert "FAIL  digits-cnn" in done.stdout
    assert "INCONCLUSIVE  digits-cnn" in done.stdout
    assert "nothing can be quantized" in done.stderr
    assert "gate run my-policy.yaml --candidate my-model.onnx" in done.stdout
    assert (tmp_path / "demo" / "mlflow.db").is_file()
    assert len(list((tmp_path / "demo" / ".gate" / "digits-cnn").iterdir())) == 3


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    assert exit_code_of(["demo", "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
