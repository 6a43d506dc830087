"""The composite action, its steps run as a runner runs them."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.actions import ACTION, HOSTILE, ROOT, WORKFLOWS, Runner

from gate import examples
from gate.examples import digits
from gate.workflows import read, safety, write

PRETENDING = """
out = next((pathlib.Path(one[6:]) for one in sys.argv if one.startswith("--out=")), None)
if {records} and out is not None:
    for name in {records}:
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in ("record.json", "report.md"):
            (out / name / file).write_text("{{}}")
sys.exit({code})
"""
VALUES = ("policy", "candidate", "stage", "judge-from", "changed-since", "arguments")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path)
    pretend(made, 0)
    return made


def pretend(runner: Runner, code: int, *records: str) -> None:
    """A `gate` that leaves these records in its folder, and exits with `code`."""
    found = records or (() if code in (2, 4, 130) else ("",))
    runner.command("gate", PRETENDING.format(records=found, code=code))


# ── what reaches the gate ─────────────────────────────────────────────────────────────────


def test_every_input_becomes_arguments(runner: Runner) -> None:
    ran = runner.action(
        {
            "policy": "policies/a.yaml\n\npolicies/*.yaml\n",
            "candidate": "m.onnx",
            "stage": "release",
            "judge-from": "abc",
            "changed-since": "def",
            "arguments": "--threads=4\n--plugin\nmy plugin.py\n",
            "out": "o",
        }
    )
    assert ran.status == "success"
    (arguments,) = runner.calls("gate")
    assert arguments == [
        "run",
        "--stage=release",
        f"--out={runner.workspace}/o",
        "--candidate=m.onnx",
        "--judge-from=abc",
        "--changed-since=def",
        "--threads=4",
        "--plugin",
        "my plugin.py",
        "--",
        "policies/a.yaml",
        "policies/*.yaml",
    ]


def test_what_is_left_out_is_no_argument(runner: Runner) -> None:
    runner.action({"policy": "p.yaml"})
    (arguments,) = runner.calls("gate")
    assert arguments[:2] == ["run", "--stage=pr"]
    assert arguments[2].startswith(f"--out={runner.temp}/gate.")
    assert arguments[3:] == ["--", "p.yaml"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs_are_text(runner: Runner, name: str) -> None:
    text = HOSTILE[name]
    lines = [line for line in text.split("\n") if line]
    ran = runner.action(dict.fromkeys(VALUES, text))
    assert not runner.pwned
    assert "::set-output" not in ran.log
    (arguments,) = runner.calls("gate")
    options = (f"--{slot}={text}" for slot in ("candidate", "judge-from", "changed-since"))
    assert arguments[:2] == ["run", f"--stage={text}"]
    assert arguments[3:] == [*options, *lines, "--", *lines]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_folder_or_refused(runner: Runner, name: str) -> None:
    ran = runner.action({"policy": "p.yaml", "out": HOSTILE[name]})
    assert not runner.pwned
    if name in ("newline", "heredoc", "glob"):
        assert (ran.exit_codes[-1], ran.outputs["outcome"]) == (2, "error")
        assert runner.calls("gate") == []
    else:
        assert runner.calls("gate")[0][2] == f"--out={runner.workspace}/{HOSTILE[name]}"


@pytest.mark.parametrize("policy", ["", "\n\n"])
def test_no_policy_is_bad_usage(runner: Runner, policy: str) -> None:
    ran = runner.action({"policy": policy})
    assert ran.exit_codes[-1] == 2
    assert ran.outputs == {"outcome": "error", "exit-code": "2", "record": "", "report": ""}
    assert runner.calls("gate") == []


# ── what comes of it ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_the_exit_code_is_the_gates(runner: Runner, code: int) -> None:
    pretend(runner, code)
    ran = runner.action({"policy": "p.yaml"})
    assert ran.exit_codes[-1] == code
    assert ran.status == ("success" if code == 0 else "failure")
    assert ran.outputs["exit-code"] == str(code)
    uses, given = ran.used[-1]
    assert uses.startswith("actions/upload-artifact@")
    assert given["path"] == runner.calls("gate")[0][2].removeprefix("--out=")


def test_no_artifact_where_none_is_wanted(runner: Runner) -> None:
    ran = runner.action({"policy": "p.yaml", "artifact": ""})
    assert [uses.partition("@")[0] for uses, _ in ran.used] == ["actions/setup-python"]


def test_several_policies_have_a_path_each(runner: Runner) -> None:
    pretend(runner, 1, "b", "a model", "c")
    ran = runner.action({"policy": "*.yaml", "out": "my out"})
    out = runner.workspace / "my out"
    names = ("a model", "b", "c")
    assert ran.outputs["record"].split("\n") == [f"{out}/{name}/record.json" for name in names]
    assert ran.outputs["report"].split("\n") == [f"{out}/{name}/report.md" for name in names]


def test_a_report_in_html_comes_first(runner: Runner) -> None:
    runner.command(
        "gate",
        "out = pathlib.Path(sys.argv[3][6:])\n"
        "[(out / n).write_text('') for n in ('record.json', 'report.md', 'report.html')]",
    )
    assert runner.action({"policy": "p.yaml"}).outputs["report"].endswith("/report.html")


def test_a_pass_without_a_record_is_none(runner: Runner) -> None:
    runner.command("gate", "sys.exit(0)")
    ran = runner.action({"policy": "p.yaml"})
    assert ran.exit_codes[-1] == 4
    assert ran.outputs["outcome"] == "error"


def test_nothing_changed_is_told_apart_from_a_pass(runner: Runner) -> None:
    runner.command("gate", "sys.exit(0)")
    ran = runner.action({"policy": "p.yaml", "changed-since": "main"})
    assert (ran.status, ran.outputs["outcome"], ran.outputs["exit-code"]) == (
        "success",
        "none",
        "0",
    )


def test_a_gate_that_is_not_there_is_an_error(runner: Runner) -> None:
    (runner.bin / "gate").write_text("#!/nowhere/python\n")
    ran = runner.action({"policy": "p.yaml"})
    assert ran.status == "failure"
    assert ran.outputs["outcome"] == "error"


# ── what is installed ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inputs", "package"),
    [
        ({}, f"{ACTION}/../../.."),
        ({"version": "."}, "."),
        ({"version": "0.1.0"}, "int8-gate==0.1.0"),
        ({"version": "0.1.0", "extras": "torch,remote"}, "int8-gate[torch,remote]==0.1.0"),
        ({"extras": "torch"}, f"{ACTION}/../../..[torch]"),
    ],
)
def test_what_is_installed(runner: Runner, inputs: dict[str, str], package: str) -> None:
    runner.action({"policy": "p.yaml", **inputs})
    installed = [call for call in runner.calls("python") if call[:2] == ["-m", "pip"]]
    assert [call[-1] for call in installed] == [package]
    assert (ACTION / ".." / ".." / ".." / "pyproject.toml").is_file()


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"long"}))
@pytest.mark.parametrize("slot", ["version", "extras"])
def test_only_a_version_is_installed(runner: Runner, slot: str, name: str) -> None:
    ran = runner.action({"policy": "p.yaml", slot: HOSTILE[name]})
    assert not runner.pwned
    assert runner.calls("python") == runner.calls("gate") == []
    assert ran.exit_codes == [2]
    assert ran.outputs["outcome"] == ""


# ── the gate itself ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("candidate", "code", "outcome"), [("cnn.onnx", 0, "pass"), ("wide-range.onnx", 1, "fail")]
)
def test_a_model_is_gated(
    runner: Runner, candidate: str, code: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.real_gate()
    name = "my 'digits' $(touch pwned) 🚀"
    shutil.copytree(examples.policies() / "digits", runner.workspace / "policies" / "digits")
    policy = runner.workspace / "policies" / f"{name}.yaml"
    shutil.copyfile(examples.policies() / "digits.yaml", policy)
    ran = runner.action(
        {
            "policy": "policies/*.yaml",
            "candidate": str(digits.FOLDER / candidate),
            "arguments": "--tracker=none",
        }
    )
    assert (ran.exit_codes[-1], ran.outputs["outcome"]) == (code, outcome), ran.log
    record = json.loads(Path(ran.outputs["record"]).read_text())
    assert record["verdict"]["outcome"] == outcome
    assert Path(ran.outputs["report"]).is_file()
    assert outcome.upper() in runner.summary
    kind = "notice" if code == 0 else "error"
    assert f"::{kind} file=policies/my 'digits' $(touch pwned) 🚀.yaml" in ran.log
    assert not runner.pwned


# ── how it is written ─────────────────────────────────────────────────────────────────────

FILES = [ACTION / "action.yml", *sorted(WORKFLOWS.glob("*.yml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_is_as_safe_as_what_users_are_told(file: Path) -> None:
    assert list(safety.unsafe(read.load(file))) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_is_one_of_the_known_pins(file: Path) -> None:
    known = {f"{name}@{commit} # {version}" for name, (commit, version) in write.PINS.items()}
    lines = file.read_text(encoding="utf-8").splitlines()
    used = [line.partition("uses: ")[2] for line in lines if "uses: " in line]
    assert {one for one in used if not one.startswith("$/")} <= known


def test_hooks_for_pre_commit_name_commands_that_are_there() -> None:
    import yaml

    from gate.cli import cli

    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert [hook["id"] for hook in hooks] == ["gate-check", "gate-workflow-check"]
    for hook in hooks:
        gate, *words = hook["entry"].split()
        command = cli
        for word in words:
            command = command.commands[word]
        assert gate == "gate"
        assert command.callback is not None
    assert os.access(ROOT / ".pre-commit-hooks.yaml", os.R_OK)
