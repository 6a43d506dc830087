"""The command line: every way in which it can end has its exit code."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from support.project import CNN, WIDE_RANGE, Project

from gate import pipeline
from gate.cli import cli, exit_code_of
from gate.errors import TrackerError
from gate.records import GateRecord


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def store(project: Project, tmp_path: Path, empty_store: Path) -> None:
    """A tracker's store in the working folder, without runs."""
    shutil.copy(empty_store, tmp_path)


def run(project: Project, *arguments: str, candidate: Path = CNN) -> int:
    return exit_code_of(["run", str(project.policy), "--candidate", str(candidate), *arguments])


def test_the_commands_of_the_table_exist() -> None:
    assert set(cli.commands) == {
        "audit", "check", "comment", "compare", "data", "demo", "diagnose", "evidence",
        "explain", "history", "init", "judge", "plan", "policy", "promote", "rebase", "recipes",
        "recover", "replay", "report", "reproduce", "rollback", "run", "schema", "sign",
        "tasks", "verify", "watch", "workflow",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_and_version_exit_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(arguments) == 0
    assert capsys.readouterr().out


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(["--help"])
    assert "3 inconclusive" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run"],
        ["run", "x.yaml", "--stage", "production"],
        ["run", "x.yaml", "--threads", "0"],
        ["run", "no-such-policy.yaml", "--candidate", "m.onnx", "--tracker", "none"],
        ["check", "no-such-policy.yaml"],
        ["report", "no-such-record"],
        ["judge", "no-such-record"],
        ["history", "no-such-model", "--tracker", "none"],
    ],
)
def test_bad_usage_exits_2(
    project: Project, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err
    assert "Traceback" not in shown.err


def test_unknown_names_are_told_before_any_work(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, "--tracker", "mlfow") == 2
    assert "did you mean 'mlflow'" in capsys.readouterr().err
    assert run(project, "--tracker", "none", "--format", "txt") == 2
    assert "did you mean 'text'" in capsys.readouterr().err
    assert not Path(".gate").exists()


def test_one_candidate_is_judged_by_several_policies_of_one_name(project: Project) -> None:
    policies = [str(project.policy), str(project.policy)]
    options = ["--candidate", str(CNN), "--tracker", "none", "--out", "out"]
    assert exit_code_of(["run", *policies, *options]) == 0
    stem = project.policy.stem
    assert {file.parent.name for file in Path("out").glob("*/record.json")} == {stem, f"{stem}-2"}


def test_an_error_ends_with_the_place_of_its_page(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.change("held_out", lambda columns: columns.update(target=columns["target"] + 90))
    assert run(project, "--tracker", "none") == 4
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("gate: more:") for line in lines) == 1
    assert lines[-1] == "gate: more: gate explain G104"
    assert lines[-2].startswith("gate: ")
    assert exit_code_of(["run", "no-such.yaml", "--tracker", "none"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "gate: more: gate explain G102"
    assert exit_code_of(["report", "no-such-record"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "gate: more: gate explain G101"
    assert exit_code_of(["run", "x.yaml", "--stage", "production"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "gate: more: gate explain G101"


def test_a_defect_has_a_page_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "main", broken)
    assert exit_code_of(["recipes"]) == 4
    assert capsys.readouterr().err.splitlines()[-1] == "gate: more: gate explain G199"


def test_notes_of_an_error_are_told_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        error = TrackerError("the server went away")
        error.add_note("it had been there at noon")
        raise error

    monkeypatch.setattr(cli, "main", refused)
    assert exit_code_of(["recipes"]) == 4
    assert capsys.readouterr().err.splitlines() == [
        "gate: the server went away",
        "it had been there at noon",
        "gate: more: gate explain G112",
    ]


# ── --quiet ───────────────────────────────────────────────────────────────────────────────


def every_command(group: click.Group = cli, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from every_command(command, *above, name)


@pytest.mark.parametrize("command", [(), *every_command()], ids=" ".join)
def test_every_command_can_be_quiet(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of([*command, "--help"]) == 0
    assert "-q, --quiet" in capsys.readouterr().out


@pytest.mark.parametrize("before", [True, False])
def test_quiet_leaves_the_report_and_the_exit_code(
    project: Project, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    options = [str(project.policy), "--candidate", str(CNN), "--tracker", "none"]
    command = ["-q", "run", *options] if before else ["run", *options, "--quiet"]
    assert exit_code_of(command) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("PASS  digits-cnn")
    assert exit_code_of(["run", *options]) == 0  # and is forgotten with the command
    assert "gate: record in" in capsys.readouterr().err


def test_quiet_never_hides_an_error(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.policy.write_text("version: 2")
    for command in (["run", str(project.policy), "-q"], ["check", str(project.policy), "-q"]):
        assert exit_code_of(command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert any("policy.yaml:1:" in line for line in lines)
        assert lines[-1] == "gate: more: gate explain G102"


# ── --format json ─────────────────────────────────────────────────────────────────────────


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert exit_code_of(arguments) == code
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def test_check_tells_scripts(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    bad = project.folder / "bad.yaml"
    bad.write_text("version: 2\nmodle: x\n")
    check = ["check", str(project.policy), str(bad), "--format", "json"]
    told = printed_json(capsys, *check, code=2)
    good, wrong = told["policies"]
    assert told["exit_code"] == 2
    assert good["ok"]
    assert (good["model"], good["budgets"]) == ("digits-cnn", ["accuracy.max_drop"])
    assert (wrong["ok"], wrong["code"], wrong["exit_code"]) == (False, "G102", 2)
    assert len(wrong["problems"]) > 1
    assert all(problem.startswith(str(bad)) for problem in wrong["problems"])


def test_plan_tells_scripts(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", str(project.policy), "--tracker", "none", "--format", "json"]
    told = printed_json(capsys, *plan)
    assert (told["model"], told["alpha"], told["held_out"]["total"]) == ("digits-cnn", 0.05, 1000)
    (budget,) = told["budgets"]
    assert (budget["budget"], budget["limit"], budget["kind"]) == (
        "accuracy.max_drop",
        0.01,
        "drop",
    )
    for scenario in budget["scenarios"]:
        assert list(scenario["needed"]) in ([], ["0.8", "0.9", "0.99"])
        assert 0 <= scenario["at_hand"]["passes"] <= 1
    assert any(scenario["needed"] for scenario in budget["scenarios"])


def test_what_there_is_is_told_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = printed_json(capsys, "recipes", "--format", "json")
    assert {one["name"] for one in recipes["recipes"]} >= {"static", "dynamic"}
    assert {one["name"] for one in recipes["targets"]} >= {"x86", "arm64"}
    (dynamic,) = printed_json(capsys, "recipes", "dynamic", "--format", "json")["recipes"]
    assert dynamic["scheme"] == "dynamic"
    every = printed_json(capsys, "tasks", "--format", "json")["tasks"]
    one = printed_json(capsys, "tasks", "classification", "--format", "json")
    assert one in every
    assert one["metrics"]["accuracy"]["higher_is_better"] is True


@pytest.mark.usefixtures("store")
def test_promote_tells_scripts(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(project, "--stage", "release", "--out", "out") == 0
    capsys.readouterr()
    asked = ["promote", "out", "--format", "json"]
    told = printed_json(capsys, *asked, "--dry-run", "--by", "ann")
    assert (told["outcome"], told["move"]["who"], told["exit_code"]) == ("would move", "ann", 0)
    assert all(check["reasons"] == [] for check in told["checks"])
    assert printed_json(capsys, *asked)["outcome"] == "moved"
    assert run(project, "--out", "pr", "--tracker", "none") == 0
    capsys.readouterr()
    refused = printed_json(capsys, "promote", "pr", "--format", "json", code=4)
    assert (refused["outcome"], refused["exit_code"], refused["move"]) == ("refused", 4, None)
    assert any(check["reasons"] for check in refused["checks"])


def test_a_recipe_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["recipes", "dynamic"]) == 0
    assert '  scheme: "dynamic"\n' in capsys.readouterr().out
    assert exit_code_of(["recipes", "dynamik"]) == 2
    assert "did you mean 'dynamic'" in capsys.readouterr().err


# ── a terminal that wants no colours ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(
    record: Path, setting: dict[str, str], coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gate", "report", str(record)]
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_COLOR")}
    environment = kept | {"TERM": "xterm-256color"} | setting
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end, where a terminal has gone
            while part := os.read(ours, 10_000):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    assert b"PASS" in shown
    assert (b"\x1b[1;32mPASS" in shown) == coloured  # bold and green
    assert (b"\x1b" in shown) == (setting.get("TERM") != "dumb")


# ── completion ────────────────────────────────────────────────────────────────────────────


def completed(line: str, **setting: str) -> list[str]:
    """What bash is offered for the last word of `line`."""
    words = line.split(" ")
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "gate"],
        env=os.environ | environment | {"_GATE_COMPLETE": "bash_complete"} | setting,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gate expl", ["plain,explain"]),
        ("gate recipes dyn", ["plain,dynamic"]),
        ("gate tasks text_c", ["plain,text_classification"]),
        (
            "gate explain G11",
            ["plain,G110", "plain,G111", "plain,G112", "plain,G113", "plain,G114"],
        ),
        ("gate run p", ["plain,project/policy.yaml"]),
        ("gate judge out --policy ./", ["plain,./project/policy.yaml"]),
        ("gate run project/policy.yaml --format j", ["plain,json", "plain,junit"]),
        ("gate history d", ["plain,digits-cnn"]),
        ("gate run --candidate cnn", ["file,cnn"]),
        ("gate run --stage r", ["plain,release"]),
    ],
)
def test_a_shell_can_complete_words(project: Project, line: str, offered: list[str]) -> None:
    assert completed(line, MLFLOW_TRACKING_URI="http://127.0.0.1:9") == offered


def test_a_shell_gets_a_script_that_bash_accepts(project: Project) -> None:
    done = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m gate)" && complete -p gate'],
        env=os.environ | {"_GATE_COMPLETE": "bash_source"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "gate" in done.stdout


def test_completion_is_no_way_around_a_command(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_GATE_COMPLETE", "bash_source")
    assert run(project, "--tracker", "none") == 4


# ── how runs end ──────────────────────────────────────────────────────────────────────────


def test_ctrl_c_exits_130(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "evaluate", interrupted)
    assert run(project, "--tracker", "none", "--out", "out") == 130
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize("kind", [ZeroDivisionError, RecursionError])
def test_a_defect_exits_4(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise kind("unexpected")

    monkeypatch.setattr(pipeline, "decide", broken)
    assert run(project, "--tracker", "none", "--out", "out") == 4
    shown = capsys.readouterr()
    assert "nothing was decided" in shown.err
    assert shown.out == ""
    assert not Path("out/record.json").exists()


def test_a_command_that_says_nothing_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", lambda *args, **kwargs: None)
    assert exit_code_of(["recipes"]) == 4


def test_only_the_report_is_on_stdout(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(project, "--tracker", "none", "--format", "json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"]["outcome"] == "pass"


def test_the_first_line_is_the_verdict(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, "--tracker", "none", candidate=WIDE_RANGE) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  digits-cnn")
    assert lines[1].startswith("- accuracy, drop ≤ 1.00 pp: drop 8.30 pp")


def test_github_actions_get_annotations_summary_and_outputs(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    monkeypatch.setenv("GITHUB_OUTPUT", "output.txt")
    assert run(project, "--tracker", "none", candidate=WIDE_RANGE) == 1
    line = next(
        index
        for index, text in enumerate(project.policy.read_text().splitlines(), 1)
        if "metric: accuracy" in text
    )
    assert f"policy.yaml,line={line}" in capsys.readouterr().out
    assert "FAIL" in Path("summary.md").read_text()
    assert Path("output.txt").read_text().splitlines()[:2][-1] == "fail"


def test_actions_without_a_summary_file_is_told_before_any_work(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert run(project, "--tracker", "none", "--out", "out") == 2
    assert not Path("out").exists()


def test_a_closed_pipe_is_no_verdict(project: Project) -> None:
    command = [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN)]
    with subprocess.Popen(
        [*command, "--tracker", "none"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 4


def test_a_cancelled_job_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    """The signal comes once the run has begun to speak, long before it can end."""
    private = tmp_path / "private"
    private.mkdir()
    command = [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN)]
    with subprocess.Popen(
        [*command, "--tracker", "none", "--out", "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(private)},
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "candidate" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
    assert process.returncode == 130
    assert "nothing was decided" in told
    assert list(private.iterdir()) == []
    assert list(Path("out").iterdir()) == []


# ── the tracker, end to end ───────────────────────────────────────────────────────────────


def attempts(out: str) -> tuple[int | None, float, str]:
    record = GateRecord.model_validate_json((Path(out) / "record.json").read_text())
    return record.attempt, record.alpha, record.ledger


@pytest.mark.usefixtures("store")
def test_the_ledger_counts_attempts_at_a_release(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = ["--stage", "release", "--out"]
    assert run(project, *release, "one", candidate=WIDE_RANGE) == 1
    assert attempts("one") == (1, pytest.approx(0.05), "tracker")

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate", interrupted)
        project.spec["build"]["recipe"] = "static-per-tensor"
        project.write()
        assert run(project, *release, "two") == 130
    project.spec["build"]["recipe"] = "static"
    project.write()
    run(project, *release, "three")  # the interrupted one was counted
    assert attempts("three") == (3, pytest.approx(0.05 / 9), "tracker")
    run(project, *release, "again", candidate=WIDE_RANGE)  # judged before: not new
    assert attempts("again")[0] == 1
    assert exit_code_of(["judge", "three"]) in (0, 1, 3)


@pytest.mark.usefixtures("store")
def test_a_pull_request_costs_nothing_and_says_how_often_the_set_was_used(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, "--out", "one", candidate=WIDE_RANGE)
    run(project, "--out", "two")
    assert attempts("two") == (None, pytest.approx(0.05), "none")
    assert "has judged 2 candidates since the last" in capsys.readouterr().out


def test_without_a_tracker_nothing_counts(project: Project) -> None:
    assert run(project, "--stage", "release", "--tracker", "none", "--out", "one") == 0
    assert attempts("one") == (None, pytest.approx(0.05), "none")


def test_a_release_is_registered_and_remembered(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, "--stage", "release") == 0
    assert run(project, "--stage", "release", candidate=WIDE_RANGE) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "Since the last PASS" in told
    assert "weights:" in told
    assert "INT8 accuracy 0.96 -> 0.878" in told
    assert exit_code_of(["history", "digits-cnn"]) == 0
    shown = capsys.readouterr().out
    assert "pass" in shown
    assert "fail" in shown
    assert Path("mlflow.db").is_file()


def test_a_version_of_the_registry_is_judged_like_its_file(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_store: Path
) -> None:
    import mlflow

    shutil.copyfile(empty_store, tmp_path / "registry.db")
    uri = f"sqlite:///{tmp_path}/registry.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("digits-cnn")
    live = tmp_path / "live"
    live.mkdir()
    (live / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}")
    (live / "model.onnx").write_bytes(CNN.read_bytes())
    client.create_model_version("digits-cnn", live.as_uri())
    client.set_registered_model_alias("digits-cnn", "candidate", "1")
    code = exit_code_of(
        ["run", str(project.policy), "--candidate", "models:/digits-cnn@candidate",
         "--stage", "release", "--out", "out"]
    )  # fmt: skip
    assert code == 0
    record = json.loads(Path("out/record.json").read_text())
    assert record["candidate"]["source"] == "models:/digits-cnn/1"
    version = client.get_model_version("digits-cnn-int8", "1")
    assert version.tags["gate.outcome"] == "pass"
    assert version.tags["gate.source"] == "models:/digits-cnn/1"


def test_a_dead_tracker_exits_4_with_a_complete_record(
    project: Project,
    store: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run(project, "--out", "out") == 4
    assert "gate report --track out/record.json" in capsys.readouterr().err
    assert json.loads(Path("out/record.json").read_text())["verdict"]["outcome"] == "pass"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert exit_code_of(["report", "--track", "out/record.json"]) == 0
    assert exit_code_of(["history", "digits-cnn"]) == 0


@pytest.mark.usefixtures("store")
def test_a_tracker_that_dies_in_the_middle_exits_4(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gate.trackers import mlflow as tracker

    def dies(self: Any, record: Any, folder: Any) -> str:
        raise TrackerError("the server went away")

    monkeypatch.setattr(type(tracker.TRACKER), "log", dies)
    assert run(project, "--out", "out") == 4
    assert "the server went away" in capsys.readouterr().err
    assert Path("out/record.json").is_file()


@pytest.mark.usefixtures("store")
def test_an_error_leaves_a_trace_in_the_tracker(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.change("held_out", lambda columns: columns.update(target=columns["target"] + 90))
    assert run(project) == 4
    capsys.readouterr()
    assert exit_code_of(["history", "digits-cnn"]) == 0
    assert "error" in capsys.readouterr().out


# ── judge ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project of `project` and its record in `out`; tests take a copy."""
    home = tmp_path_factory.mktemp("judged")
    (home / "project").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("GITHUB_ACTIONS", raising=False)
        assert run(Project(home / "project"), "--tracker", "none", "--out", "out") == 0
    return home


@pytest.fixture
def record(project: Project, judged: Path) -> Path:
    return Path(shutil.copytree(judged / "out", "out"))


def test_judge_needs_the_record_alone(
    project: Project, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in record.iterdir():
        if file.name != "record.json":
            file.unlink()
    assert exit_code_of(["judge", str(record / "record.json")]) == 0
    assert "PASS  digits-cnn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("budget", "code"),
    [
        ({"metric": "accuracy", "max_drop": 0.01}, 0),
        ({"metric": "accuracy", "max_drop": 0.002}, 3),
        ({"metric": "accuracy", "at_least": 0.99}, 1),
        ({"metric": "accuracy", "max_relative_drop": 0.02}, 0),
        ({"metric": "prediction_flips", "at_most": 0.01}, 0),
        ({"metric": "size", "max_ratio": 0.1}, 1),
        ({"metric": "accuracy", "max_drop": 0.9, "slice": {"ink": "invisible"}}, 1),
        ({"metric": "top3_accuracy", "max_drop": 0.01}, 2),
    ],
)
def test_judge_by_another_policy(
    project: Project, record: Path, budget: dict[str, Any], code: int
) -> None:
    project.budget(**budget)
    for name in ("held_out", "calibration"):
        (project.folder / f"{name}.npz").unlink()
    assert exit_code_of(["judge", str(record), "--policy", str(project.policy)]) == code


@pytest.mark.slow
def test_judge_by_another_policy_knows_the_times(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.spec["judge"]["budgets"] += [
        {"metric": "latency_p50", "max_ratio": 1000.0},
        {"metric": "peak_memory", "max_ratio": 1000.0},
    ]
    project.write()
    assert run(project, "--tracker", "none", "--out", "out") == 0
    again = ["judge", "out", "--policy", str(project.policy)]
    assert exit_code_of(again) == 0
    for metric, limit in (("latency_p95", "max_ratio"), ("peak_memory", "at_most")):
        project.budget(**{"metric": metric, limit: 1e-6})
        assert exit_code_of(again) == 1, metric


def test_judge_says_which_times_the_record_lacks(
    project: Project, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.budget(metric="latency_p50", max_ratio=0.9)
    assert exit_code_of(["judge", str(record), "--policy", str(project.policy)]) == 2
    assert "did not measure: run the gate with this policy" in capsys.readouterr().err


def test_judge_by_the_same_policy_gives_the_same_record(project: Project, record: Path) -> None:
    from gate.commands.judge import judge
    from gate.commands.report import load_record

    before, after = load_record(record), judge(record, str(project.policy))
    assert after.verdict == before.verdict
    assert after.provenance == before.provenance


@pytest.mark.parametrize("alpha", [0.4, 0.9, 0, -1])
def test_judge_refuses_an_alpha_that_the_policy_does_not_allow(
    project: Project, record: Path, alpha: float
) -> None:
    fields = json.loads((record / "record.json").read_text())
    (record / "record.json").write_text(json.dumps(fields | {"alpha": alpha}))
    assert exit_code_of(["judge", str(record)]) == 4


def test_judge_refuses_a_policy_on_other_data(project: Project, record: Path) -> None:
    project.spec["judge"]["held_out"] = {"path": "nowhere/secret.npz"}
    project.write()
    assert exit_code_of(["judge", str(record), "--policy", str(project.policy)]) == 2


def test_an_end_of_file_is_no_interruption(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_short(*_: Any, **__: Any) -> None:
        raise EOFError

    monkeypatch.setattr(pipeline, "evaluate", cut_short)
    assert (
        exit_code_of(["run", str(project.policy), "--candidate", str(CNN), "--tracker", "none"])
        == 4
    )
    assert "defect of the gate" in capsys.readouterr().err


def test_judge_refuses_rows_that_were_changed(project: Project, record: Path) -> None:
    rows = record / "rows.npz"
    import numpy as np

    with np.load(rows) as archive:
        columns = dict(archive)
    columns["int8/label"] = columns["fp32/label"]
    np.savez(rows, **columns)
    assert exit_code_of(["judge", str(record), "--policy", str(project.policy)]) == 4


@pytest.mark.parametrize("what", ["model", "task", "pin"])
def test_judge_refuses_a_policy_about_something_else(
    project: Project, record: Path, what: str
) -> None:
    if what == "pin":
        project.spec["judge"]["held_out"]["sha256"] = "0" * 64
    else:
        project.spec[what] = "something-else"
    project.write()
    assert exit_code_of(["judge", str(record), "--policy", str(project.policy)]) == 2


# ── as a process ──────────────────────────────────────────────────────────────────────────


def test_a_letter_that_the_terminal_lacks_is_no_defect() -> None:
    program = (
        "from gate import cli\nimport click\n"
        "cli.exit_code_of = lambda _: click.echo('in production: ★ é') or 0\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("latin-1") == "in production: \\u2605 é\n"


def test_the_module_runs_as_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gate", "recipes"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("static ")
    assert done.stderr == ""
