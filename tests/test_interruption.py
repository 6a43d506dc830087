"""A signal to end interrupts where that is safe, and no library makes it disappear."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gate import interruption
from gate.cli import exit_code_of
from gate.commands import progress
from gate.errors import EXIT_INTERRUPTED

_MODULE = """
import os, signal, time
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
print("imported", flush=True)
"""
_SCRIPT = """
import sys, time
from gate import interruption
interruption._PATIENCE_S = float(sys.argv[1])
interruption.heed()
try:
    import halfway
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
interruption.settle()
sys.exit(130)
"""


@pytest.mark.parametrize(
    ("patience", "told"), [("5", ["imported", "interrupted"]), ("0", ["interrupted"])]
)
def test_an_import_is_let_end_first_unless_it_takes_too_long(
    tmp_path: Path, patience: str, told: list[str]
) -> None:
    """Native modules that are set up halfway crash, or drop the interruption."""
    (tmp_path / "halfway.py").write_text(_MODULE)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, patience],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (told, "", 130)


_AS_STRING = """
from gate import interruption
interruption.heed()
try:
    exec("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
except KeyboardInterrupt:
    interruption.settle()
    raise SystemExit(130) from None
"""


def test_interrupted_code_of_a_string_keeps_the_exit_code(tmp_path: Path) -> None:
    """`python -m` would end itself by SIGINT."""
    (tmp_path / "as_string.py").write_text(_AS_STRING)
    done = subprocess.run([sys.executable, "-m", "as_string"], cwd=tmp_path, check=False)
    assert done.returncode == 130


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal came, and a library made its interruption disappear."""
    monkeypatch.setattr(interruption, "_came", [signal.SIGTERM])


@pytest.mark.usefixtures("swallowed")
def test_no_step_follows_a_swallowed_interruption() -> None:
    with progress.progress("digits") as told:
        with pytest.raises(KeyboardInterrupt):
            told.step("evaluate", 10)
        with pytest.raises(KeyboardInterrupt):
            told.advance(1)


@pytest.mark.usefixtures("swallowed")
def test_what_was_interrupted_never_exits_with_a_verdict(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(["explain"]) == EXIT_INTERRUPTED
    assert "interrupted at its end; what was recorded stands" in capfd.readouterr().err
