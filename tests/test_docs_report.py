"""What docs/report.md promises: its commands, its list of parts, and the picture's script."""

import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from support import browser, reports
from support.reports import parsed

from gate import reporters
from gate.cli import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def script() -> ModuleType:
    file = DOCS / "examples" / "report_picture.py"
    spec = importlib.util.spec_from_file_location("report_picture", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(make_record: Any, tmp_path: Path) -> Path:
    record = reports.rich(make_record)
    (tmp_path / "record.json").write_text(reporters.get("json").render(record), encoding="utf-8")
    return tmp_path


def test_the_command_renders_the_page_from_the_record_alone(folder: Path, make_record: Any) -> None:
    done = CliRunner().invoke(cli, ["report", str(folder), "--format", "html"])
    assert done.exit_code == 0
    assert done.stdout == reporters.get("html").render(reports.rich(make_record))


def test_the_parts_are_listed_in_their_order(make_record: Any) -> None:
    listed = re.findall(r"^\| ([A-Z][^|]*) \|", (DOCS / "report.md").read_text(), re.MULTILINE)
    named = [name for cell in listed for name in cell.split(", ")]
    fields = {"judge": {"mode": "observe"}}
    root = parsed(reporters.get("html").render(reports.rich(make_record, **fields)))
    titles = [h.text for h in root.all("h2")]
    places = [
        next(i for i, title in enumerate(titles)
             if name.lower().split(" by")[0] in title.lower() or
             (name == "Blocked by" and title == "Would be blocked by"))
        for name in named
    ]  # fmt: skip
    assert places == sorted(places)
    assert len(places) == len(titles) - 1  # the task's own tables bring their own titles


def test_the_picture_is_shown_and_small() -> None:
    assert "](docs/report.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](report.png)" in (DOCS / "report.md").read_text(encoding="utf-8")
    assert (DOCS / "report.png").stat().st_size <= script().LARGEST
    with Image.open(DOCS / "report.png") as picture:
        assert picture.size == (script().WIDE, script().HIGH)


@pytest.mark.skipif(browser.program() is None, reason=browser.ABSENT)
@pytest.mark.xdist_group("chromium")
def test_the_script_takes_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder / "report.png"
    monkeypatch.setattr("sys.argv", ["report_picture.py", str(folder), str(made), "--dark"])
    module = script()
    assert module.main() == 0
    assert made.stat().st_size <= module.LARGEST
    with Image.open(io.BytesIO(made.read_bytes())) as picture:
        assert picture.size == (module.WIDE, module.HIGH)
        shown = picture.convert("RGB")
        assert sum(shown.getpixel((700, 1450))) < 120  # dark ground
        assert len(shown.getcolors(100_000) or ()) > 8
