"""What docs/quickstart.md promises: its commands, what they print, and the policy that it shows."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gate import examples
from gate.cli import exit_code_of
from gate.examples import digits

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_command_does_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    shutil.copytree(examples.policies() / "digits", "data")
    Path("models").mkdir()
    shutil.copyfile(digits.FOLDER / "cnn.onnx", "models/digits.onnx")
    ran, shown = 0, ""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            words = shlex.split(command)
            assert words[0] == "gate"
            assert exit_code_of(words[1:]) == 0, command
            assert output in capsys.readouterr().out
            ran += 1
        shown = shown or Path("policies/digits.yaml").read_text(encoding="utf-8")
    assert ran == 6
    (policy,) = blocks("yaml")
    for part in policy.split("…\n"):
        assert part in shown
