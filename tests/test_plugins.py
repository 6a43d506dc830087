"""Plugins: what they bring is there while a command runs, and what is wrong with them is told."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import CNN, Project

from gate import door, formats, tasks, trackers
from gate.artifact import sha256_of
from gate.cli import exit_code_of
from gate.errors import DataError, PluginError, UsageError
from gate.facts import facts
from gate.pipeline import run_gate
from gate.plugins import active, plugged_in
from gate.records import GateRecord

SOFTMAX = """\
import numpy as np


def mine(outputs):
    (logits,) = outputs.values()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


DECODERS = {"mine": mine}
"""
TASK = """\
from gate import tasks

INNER = tasks.get("classification")


class Mine:
    key, unit = "mine", INNER.unit
    decoders, known = INNER.decoders, INNER.known
    traits, bind, observed = INNER.traits, INNER.bind, INNER.observed


TASKS = {"mine": Mine()}
"""
FORMAT = """\
import numpy as np


class Plain:
    key, suffixes = "plain", (".plain",)

    def read(self, path, scratch):
        with np.load(path) as archive:
            return dict(archive)

    def columns(self, path):
        return {name: column.shape for name, column in self.read(path, None).items()}


FORMATS = {"plain": Plain()}
"""


def plugin(text: str, name: str = "plug.py") -> Path:
    Path(name).write_text(text)
    return Path(name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def project(folder: None) -> Project:
    Path("project").mkdir()
    made = Project(Path("project").resolve())
    made.spec["build"]["decode"] = "mine"
    made.write()
    return made


def run(project: Project, *arguments: str) -> int:
    return exit_code_of(
        ["run", str(project.policy), "--candidate", str(CNN), "--tracker", "none", *arguments]
    )


def record(folder: str) -> GateRecord:
    return GateRecord.model_validate_json(Path(folder, "record.json").read_text())


# ── what they bring ───────────────────────────────────────────────────────────────────────


def test_what_a_plugin_brings_is_there_until_the_block_ends() -> None:
    before, known = list(sys.path), set(sys.modules)
    with plugged_in([plugin(TASK, "a.py"), plugin(FORMAT, "b.py")]):
        assert "mine" in tasks.names()
        assert formats.of(Path("x.plain"), None).key == "plain"
        assert active() == {name: sha256_of(Path(name)) for name in ("a.py", "b.py")}
        with plugged_in([Path("a.py").resolve()]):  # the same one is not loaded again
            assert len(active()) == 2
        assert "mine" in tasks.names()
    assert "mine" not in tasks.names()
    assert active() == {}
    assert sys.path == before
    assert not {name for name in set(sys.modules) - known if "plug" in name}
    assert not list(Path().rglob("*.pyc"))


def test_a_plugin_may_hold_dataclasses() -> None:
    text = "from dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: 'int' = 1\n"
    with plugged_in([plugin(text + "DECODERS = {'a': lambda outputs: A().x}")]):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "plug.py brings nothing: it has none of TASKS, FORMATS, DECODERS"),
        ("x = 1\ndef f(:\n", "plug.py:2: invalid syntax"),
        ("x = 1\n\nimport no_such_module\n", r"plug.py:3: ModuleNotFoundError: No module named"),
        ("def f():\n    raise SystemExit(0)\nf()\n", r"plug.py:2: SystemExit: 0 while it was"),
        ("DECODERS = []", "DECODERS has to be a dict of keys that are text"),
        ("DECODERS = {1: print}", "DECODERS has to be a dict of keys that are text"),
        ("DECODERS = {'a': 1}", r"DECODERS\['a'\] is a int, and a function of one argument"),
        ("DECODERS = {'a': lambda: 1}", r"is not a function of one argument, .*: too many pos"),
        ("DECODERS = {'logits': lambda o: o}", "DECODERS has 'logits', which exists already"),
        ("DECODERS = {'ctc': lambda o: o}", "DECODERS has 'ctc', which exists already: give"),
        ("TASKS = {'classification': 1}", "TASKS has 'classification', which exists already"),
        ("FORMATS = {'npz': 1}", "FORMATS has 'npz', which exists already"),
        (
            "TASKS = {'mine': 1}",
            r"has no bind, decoders, key, known, observed, traits, unit; gate.tasks",
        ),
        (TASK.replace("Mine()", "Mine"), r"is a class, and an instance is wanted: Mine\(\)"),
        (TASK.replace('"mine", I', '"other", I'), r"says of itself that it is 'other'"),
        (FORMAT.replace('".plain"', '".tar.npz"'), r"files that end in .npz, and npz reads those"),
    ],
)
def test_a_wrong_plugin_is_told_with_its_place(text: str, message: str) -> None:
    with (
        pytest.raises(UsageError, match=message) as raised,
        plugged_in([plugin(text)]),
    ):
        pass
    assert str(raised.value).startswith("--plugin ")
    assert active() == {}


def test_a_missing_file_and_two_of_one_name() -> None:
    with pytest.raises(UsageError, match=r"no-such\.py cannot be read: No such file"):
        plugged_in(["no-such.py"]).__enter__()
    Path("other").mkdir()
    both = [plugin(TASK), plugin(FORMAT, "other/plug.py")]
    with (
        pytest.raises(UsageError, match=r"two plugins are called plug.py"),
        plugged_in(both),
    ):
        pass
    with (
        pytest.raises(UsageError, match="TASKS has 'mine', which exists already"),
        plugged_in([plugin(TASK), plugin(TASK, "again.py")]),
    ):
        pass


# ── who is to blame ───────────────────────────────────────────────────────────────────────


def test_what_a_plugin_raises_is_told_with_its_line() -> None:
    text = "def f(outputs):\n    return outputs['no']\nDECODERS = {'f': f}\n"
    place = plugin(text).resolve()
    with (
        pytest.raises(PluginError, match=rf"plugin {place}:2: KeyError: 'no'\. Mend the plugin"),
        plugged_in(["plug.py"]),
    ):
        door.look_up("gate.decoders", {}, "f")({})


def test_a_plugin_that_ends_the_command_is_told_with_its_line() -> None:
    plugin("import sys\ndef f(outputs):\n    sys.exit(0)\nDECODERS = {'f': f}\n")
    with (
        pytest.raises(PluginError, match=r"plug\.py:3: SystemExit: 0\. Mend the plugin"),
        plugged_in(["plug.py"]),
    ):
        door.look_up("gate.decoders", {}, "f")({})


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), plugged_in([plugin(TASK)]):
        1 / 0  # noqa: B018
    with pytest.raises(DataError), plugged_in([Path("plug.py")]):
        raise DataError("as a plugin may")


# ── gate run ──────────────────────────────────────────────────────────────────────────────


def test_a_release_is_gated_through_a_plugins_decoder(project: Project) -> None:
    plugin(SOFTMAX)
    assert run(project, "--plugin", "plug.py", "--out", "mine") == 0
    project.spec["build"]["decode"] = "logits"
    project.write()
    assert run(project, "--out", "theirs") == 0
    mine, theirs = record("mine"), record("theirs")
    assert mine.provenance.plugins == {"plug.py": sha256_of(Path("plug.py"))}
    assert theirs.provenance.plugins == {}
    assert ("Plugins", f"plug.py (sha256 {sha256_of(Path('plug.py'))[:12]})") in facts(mine)
    assert "Plugins" not in dict(facts(theirs))
    assert mine.baseline == theirs.baseline
    exact = [c for c in mine.comparisons if c.counts is not None]
    assert exact == [c for c in theirs.comparisons if c.counts is not None]


def test_commands_on_a_policy_and_a_record_take_the_plugin(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    plugged = ["--plugin", str(plugin(SOFTMAX))]
    assert run(project, *plugged, "--out", "out") == 0
    for command in ("check", "plan"):
        assert exit_code_of([command, str(project.policy), *plugged]) == 0
    for command in ("judge", "report", "replay", "diagnose"):
        assert exit_code_of([command, "out", *plugged]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert exit_code_of(["check", str(project.policy)]) == 2
    assert "unknown decoder 'mine'" in capsys.readouterr().err
    assert exit_code_of(["replay", "out"]) == 2
    assert "unknown decoder 'mine'" in capsys.readouterr().err
    plugin(SOFTMAX + "# changed\n")
    for command in ("replay", "diagnose"):
        assert exit_code_of([command, "out", *plugged]) == 2
        assert "--plugin plug.py is not the one that the record was" in capsys.readouterr().err


def test_tasks_and_formats_of_ones_own(project: Project) -> None:
    project.spec |= {"task": "mine"}
    project.spec["build"]["decode"] = "logits"
    project.spec["judge"]["held_out"] = {"path": "held_out.plain"}
    with Path("project/held_out.plain").open("wb") as stream:
        np.savez(stream, **project.data("held_out"))
    project.write()
    both = plugin(TASK + FORMAT)
    finished = run_gate(project.policy, CNN, tracker="none", out="out", plugins=[both])
    assert finished.verdict.outcome == "pass"
    assert exit_code_of(["judge", "out", "--plugin", "plug.py"]) == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("    return outputs['no such output']", "plug.py:2: KeyError: 'no such output'"),
        ("    return 1 / 0", "plug.py:2: ZeroDivisionError: division by zero. Mend the plugin"),
        (
            "    return next(iter(outputs.values()))[1:]",
            "decoder 'mine' gives float32 (63, 10), an",
        ),
        ("    return next(iter(outputs.values()))", "so it is no probability"),
    ],
)
def test_a_plugin_that_fails_exits_4_and_says_where(
    project: Project, body: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(f"def mine(outputs):\n{body}\n\n\nDECODERS = {{'mine': mine}}\n")
    assert run(project, "--plugin", "plug.py", "--out", "out") == 4
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown
    assert not Path("out/record.json").exists()


def test_one_policys_plugin_error_does_not_keep_others_from_being_judged(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin("def mine(outputs):\n    raise ValueError('no')\n\n\nDECODERS = {'mine': mine}\n")
    other = project.folder / "other.yaml"
    other.write_text(project.policy.read_text().replace("decode: mine", "decode: logits"))
    code = exit_code_of(
        ["run", str(project.policy), str(other), "--candidate", str(CNN), "--tracker", "none",
         "--plugin", "plug.py", "--out", "out"]
    )  # fmt: skip
    assert code == 4
    assert "ValueError: no" in capsys.readouterr().err
    assert json.loads(Path("out/other/record.json").read_text())["verdict"]["outcome"] == "pass"


def test_another_plugin_is_another_attempt(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def reserve(self: Any, model: str, *, held_out: str, key: str) -> None:
        keys.append(key)

    monkeypatch.setattr(type(trackers.get("none")), "reserve", reserve)
    for text in (SOFTMAX, SOFTMAX, SOFTMAX + "# changed\n"):
        assert run(project, "--stage", "release", "--plugin", str(plugin(text))) == 0
    assert keys[0] == keys[1] != keys[2]
