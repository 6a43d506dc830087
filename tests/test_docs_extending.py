"""docs/extending.md: every example is run as the page says, by `--plugin` or by entry point."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.markdown import ROOT, blocks
from support.project import CNN, Project

from gate import backends, reporters, trackers
from gate.cli import exit_code_of
from gate.records import GateRecord

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "docs" / "examples"
FILES = sorted(EXAMPLES.glob("extend_*"))
LONGEST = 40
Install = Callable[[str], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(folder)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A package with an example and the entry point that the page writes for it."""

    def installed(name: str) -> None:
        site = tmp_path / "site"
        info = site / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        shutil.copyfile(EXAMPLES / f"{name}.py", site / f"{name}.py")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(entry_point(name))
        monkeypatch.syspath_prepend(site)

    return installed


def entry_point(name: str) -> str:
    """As the page's pyproject.toml has it, in the words of an installed package."""
    for block in blocks(PAGE, "toml"):
        group, key, target = re.findall(r'"([\w.]+)"\]\n(\w+) = "([\w.:]+)"', block)[0]
        if target.startswith(f"{name}:"):
            return f"[{group}]\n{key} = {target}\n"
    raise AssertionError(f"the page has no entry point for {name}")


def run(project: Project, *arguments: str) -> int:
    every = ("run", str(project.policy), "--candidate", str(CNN), "--out", "out", *arguments)
    return exit_code_of([*every] if "--tracker" in arguments else [*every, "--tracker", "none"])


def record() -> GateRecord:
    return GateRecord.model_validate_json(Path("out", "record.json").read_text(encoding="utf-8"))


# ── what the page shows ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_page_shows_the_file_as_it_is(file: Path) -> None:
    language = "yaml" if file.suffix == ".yaml" else "python"
    assert file.read_text(encoding="utf-8") in list(blocks(PAGE, language)), file.name
    assert f"(examples/{file.name})" in PAGE


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_is_short(file: Path) -> None:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= LONGEST


# ── by plugin ─────────────────────────────────────────────────────────────────────────────


def test_a_task_of_ones_own(project: Project) -> None:
    project.spec["task"] = "graded"
    project.budget(metric="near", max_drop=0.02)
    plugin = ("--plugin", str(EXAMPLES / "extend_task.py"))
    assert run(project, *plugin) == 0
    (finding,) = record().verdict.findings
    assert finding.comparison is not None
    assert finding.comparison.reference == pytest.approx(0.968)  # accuracy is 0.961
    assert "exact" in finding.comparison.method
    assert exit_code_of(["judge", "out", *plugin]) == 0


def test_a_format_of_ones_own(project: Project) -> None:
    folder = project.folder / "held_out"
    folder.mkdir()
    for name, column in project.data("held_out").items():
        np.save(folder / f"{name}.npy", column)
    project.spec["judge"]["held_out"] = {"path": "held_out", "format": "npy_folder"}
    project.write()
    plugin = ("--plugin", str(EXAMPLES / "extend_format.py"))
    assert run(project, *plugin) == 0
    assert record().splits.held_out.examples == 1000


def test_a_format_never_unpickles(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project.folder / "held_out"
    folder.mkdir()
    np.save(folder / "image.npy", np.array([{}], dtype=object), allow_pickle=True)
    project.spec["judge"]["held_out"] = {"path": "held_out", "format": "npy_folder"}
    project.write()
    assert run(project, "--plugin", str(EXAMPLES / "extend_format.py")) != 0
    assert "Python objects" in capsys.readouterr().err


# ── by entry point ────────────────────────────────────────────────────────────────────────


def test_a_reporter_of_ones_own(
    project: Project, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("extend_reporter")
    assert "csv" in reporters.names()
    assert run(project) == 0
    capsys.readouterr()
    assert exit_code_of(["report", "out", "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("digits-cnn,accuracy.max_drop,,pass,False,")
    written = Path("out", "findings.csv").read_text(encoding="utf-8")
    assert written.splitlines() == printed.splitlines()


def test_a_tracker_of_ones_own(
    project: Project,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("extend_tracker")
    monkeypatch.setenv("GATE_LINES", str(project.folder / "runs.jsonl"))
    assert run(project, "--tracker", "lines") == 0
    lines = (project.folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    outcomes = [json.loads(line)["outcome"] for line in lines]
    assert outcomes == ["pass"]
    trackers.get("lines").log(record(), Path("out"))
    assert (project.folder / "runs.jsonl").read_text(encoding="utf-8").splitlines() == lines
    monkeypatch.setenv("GATE_LINES", str(project.folder / "nowhere" / "runs.jsonl"))
    shutil.rmtree("out")
    assert run(project, "--tracker", "lines") == 4
    assert "is no folder" in capsys.readouterr().err


def test_a_backend_of_ones_own(project: Project, install: Install) -> None:
    install("extend_backend")
    feeds: dict[str, Any] = {"image": project.data("held_out")["image"][:4]}
    mine = backends.get("oracle").open(CNN, threads=1)
    theirs = backends.get("onnxruntime").open(CNN, threads=1)
    assert mine.inputs == theirs.inputs
    outputs = theirs.run(feeds)
    assert outputs.keys() == mine.run(feeds).keys()
    for name, values in mine.run(feeds).items():
        np.testing.assert_allclose(values, outputs[name], atol=1e-4)
    assert backends.get("oracle").versions() == backends.get("onnxruntime").versions()


# ── by data ───────────────────────────────────────────────────────────────────────────────


def test_a_recipe_of_ones_own(project: Project) -> None:
    shutil.copyfile(EXAMPLES / "extend_recipe.yaml", project.folder / "extend_recipe.yaml")
    del project.spec["build"]["recipe"]
    project.spec = {"extends": "extend_recipe.yaml", **project.spec}
    project.write()
    assert run(project) == 0
    recipe = record().policy.build.recipe
    assert (recipe.name, recipe.target, recipe.reduce_range) == ("static-percentile", "x86", True)
    assert recipe.percentile == 99.9
