"""The jobs of the reusable workflow, of the one that is written, and of the comment, in bash."""

import io
import json
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.actions import HOSTILE, ROOT, WORKFLOWS, Ran, Runner
from support.expressions import condition

from gate import examples
from gate.examples import digits
from gate.workflows import write
from gate.workflows.write import EMPTY

BASE = "a" * 40
PULL_REQUEST = {"github": {"event": {"pull_request": {"base": {"sha": BASE}}}}}
QUEUE = {"github": {"event": {"merge_group": {"base_sha": BASE}}}}
WRITTEN = write.compose("policies/*.yaml", [write.Gated("policies/a.yaml", "a")], "0.1.0")
FLOWS: dict[str, dict[str, Any]] = {
    "written": yaml.safe_load(WRITTEN),
    "reusable": yaml.safe_load((WORKFLOWS / "gate.yml").read_text(encoding="utf-8")),
}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture(params=FLOWS)
def flow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FLOWS[request.param]


def run(runner: Runner, flow: dict[str, Any], job: str, **contexts: Any) -> Ran:
    """A job, with the defaults of its workflow's inputs."""
    on = flow.get("on", flow.get(True))
    declared = (on.get("workflow_call") or {}).get("inputs", {})
    inputs = {name: one["default"] for name, one in declared.items()}
    given = contexts.pop("inputs", {})
    return runner.job(flow, job, {"inputs": inputs | given, **contexts})


# ── plan ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("event", "options"),
    [(PULL_REQUEST, [f"--changed-since={BASE}"]), (QUEUE, [f"--changed-since={BASE}"]), ({}, [])],
)
def test_a_change_is_planned_by_what_it_concerns(
    runner: Runner, flow: dict[str, Any], event: dict[str, Any], options: list[str]
) -> None:
    runner.command("gate", "print('{\"include\":[1]}')")
    ran = run(runner, flow, "plan", **event)
    assert ran.outputs == {"matrix": '{"include":[1]}'}
    patterns = ["--", "policies/*.yaml"]
    assert runner.calls("gate") == [["workflow", "matrix", *options, *patterns]]


@pytest.mark.parametrize("code", [2, 4, 130])
def test_a_plan_that_fails_is_red(runner: Runner, flow: dict[str, Any], code: int) -> None:
    runner.command("gate", f"print('{EMPTY}'); sys.exit({code})")
    ran = run(runner, flow, "plan")
    assert (ran.status, ran.outputs["matrix"]) == ("failure", "")


def test_policies_with_hostile_names_are_planned_as_they_are(
    runner: Runner, flow: dict[str, Any]
) -> None:
    runner.real_gate()
    folder = runner.workspace / "policies"
    folder.mkdir()
    names = {
        f"{text.replace('/', '-')[:200]}.yaml" for text in HOSTILE.values() if text != "--help"
    } | {"--help.yaml"}
    for name in names:
        (folder / name).touch()
    ran = run(runner, flow, "plan")
    jobs = json.loads(ran.outputs["matrix"])["include"]
    assert {job["policy"] for job in jobs} == {f"policies/{name}" for name in names}
    assert len({job["id"] for job in jobs}) == len(jobs)
    assert ran.outputs["matrix"].isascii()
    assert not runner.pwned


def test_no_policy_is_an_empty_plan_that_says_so(runner: Runner, flow: dict[str, Any]) -> None:
    runner.real_gate()
    ran = run(runner, flow, "plan")
    assert (ran.status, ran.outputs["matrix"]) == ("success", EMPTY)
    assert "::warning title=gate::no policy fits policies/*.yaml" in ran.log
    gate = flow["jobs"]["gate"]
    for matrix, runs in ((EMPTY, False), ('{"include":[{}]}', True)):
        needs = {"needs": {"plan": {"outputs": {"matrix": matrix}}}}
        assert condition(gate["if"], needs, "success") is runs


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs_of_a_call_are_text(runner: Runner, name: str) -> None:
    runner.command("gate", "print('{}')")
    text = HOSTILE[name]
    lines = [line for line in text.split("\n") if line]
    inputs = dict.fromkeys(("policies", "candidate", "stage", "arguments"), text)
    inputs |= {"version": "."}
    run(runner, FLOWS["reusable"], "plan", inputs=inputs)
    ran = run(
        runner, FLOWS["reusable"], "gate", inputs=inputs, matrix={"policy": text}, **PULL_REQUEST
    )
    assert not runner.pwned
    assert ran.status == "success"
    planned, gated = runner.calls("gate")
    assert planned == ["workflow", "matrix", "--", *lines]
    assert gated == [
        "run",
        f"--stage={text}",
        f"--out={runner.temp}/gate",
        f"--candidate={text}",
        f"--judge-from={BASE}",
        *lines,
        "--",
        text,
    ]


# ── gate ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_a_job_ends_as_its_gate_does_and_keeps_what_there_is(
    runner: Runner, flow: dict[str, Any], code: int
) -> None:
    runner.command("gate", f"sys.exit({code})")
    matrix = {"policy": "policies/a b.yaml", "id": "a-b-1"}
    ran = run(runner, flow, "gate", matrix=matrix, **PULL_REQUEST)
    assert (ran.status == "success") is (code == 0)
    assert f"--judge-from={BASE}" in runner.calls("gate")[0]
    assert runner.calls("gate")[0][-2:] == ["--", "policies/a b.yaml"]
    kept = {given["name"]: given["path"] for uses, given in ran.used if "upload" in uses}
    assert kept == {
        "gate-run-a-b-1": f"{runner.temp}/gate",
        "gate-record-a-b-1": f"{runner.temp}/gate/record.json",
    }


def test_without_a_base_the_policy_is_the_working_trees(
    runner: Runner, flow: dict[str, Any]
) -> None:
    runner.command("gate", "")
    run(runner, flow, "gate", matrix={"policy": "p.yaml"})
    assert "--judge-from" not in str(runner.calls("gate"))


def test_the_reusable_workflow_installs_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    inputs = FLOWS["reusable"][True]["workflow_call"]["inputs"]
    assert inputs["version"]["default"] == project["version"]


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"long"}))
def test_only_a_version_is_installed(runner: Runner, name: str) -> None:
    runner.command("gate", "")
    ran = run(runner, FLOWS["reusable"], "plan", inputs={"version": HOSTILE[name]})
    assert ran.exit_codes == [2]
    assert runner.calls("python") == []
    assert not runner.pwned


# ── verdict ───────────────────────────────────────────────────────────────────────────────

RESULTS = ("success", "failure", "cancelled", "skipped")


@pytest.mark.parametrize("plan", RESULTS)
@pytest.mark.parametrize("gate", RESULTS)
@pytest.mark.parametrize("matrix", [EMPTY, '{"include":[{}]}', ""])
def test_the_verdict_is_green_only_where_all_is(
    runner: Runner, plan: str, gate: str, matrix: str
) -> None:
    needs = {"plan": {"result": plan, "outputs": {"matrix": matrix}}, "gate": {"result": gate}}
    ran = run(runner, FLOWS["reusable"], "verdict", needs=needs)
    nothing = (plan, gate, matrix) == ("success", "skipped", EMPTY)
    assert (ran.status == "success") is (plan == gate == "success" or nothing)
    assert ("nothing to gate" in ran.log) is nothing
    assert ("nothing to gate" in runner.summary) is nothing


def test_the_verdict_is_the_same_in_both() -> None:
    written, reusable = (flow["jobs"]["verdict"] for flow in FLOWS.values())
    assert written == reusable


@pytest.mark.parametrize("result", RESULTS)
def test_this_repositorys_own_verdict(runner: Runner, result: str) -> None:
    flow = yaml.safe_load((WORKFLOWS / "policies.yml").read_text(encoding="utf-8"))
    ran = runner.job(flow, "gated", {"needs": {"gate": {"result": result}}})
    assert (ran.status == "success") is (result == "success")


def test_this_repository_gates_each_of_its_policies() -> None:
    flow = yaml.safe_load((WORKFLOWS / "policies.yml").read_text(encoding="utf-8"))
    jobs = flow["jobs"]["gate"]["strategy"]["matrix"]["include"]
    policies = {path.relative_to(ROOT).as_posix() for path in (ROOT / "policies").glob("*.yaml")}
    assert {job["policy"] for job in jobs} == policies
    assert all((ROOT / job["candidate"]).is_file() for job in jobs)


# ── all of it ─────────────────────────────────────────────────────────────────────────────


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_change_cannot_loosen_its_own_gate(runner: Runner) -> None:
    """A model that INT8 breaks, and the budgets that would let it in, in one pull request."""
    runner.real_gate()
    folder = runner.workspace
    shutil.copytree(examples.policies() / "digits", folder / "policies" / "digits")
    policy = folder / "policies" / "digits.yaml"
    spec = yaml.safe_load((examples.policies() / "digits.yaml").read_text(encoding="utf-8"))
    spec["build"]["candidate"] = "digits/cnn.onnx"
    policy.write_text(yaml.safe_dump(spec), encoding="utf-8")
    shutil.copyfile(digits.FOLDER / "cnn.onnx", folder / "policies" / "digits" / "cnn.onnx")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "base")
    base = git(folder, "rev-parse", "HEAD")
    event = {"github": {"event": {"pull_request": {"base": {"sha": base}}}}}
    assert run(runner, FLOWS["written"], "plan", **event).outputs == {"matrix": EMPTY}

    shutil.copyfile(digits.FOLDER / "wide-range.onnx", folder / "policies" / "digits" / "cnn.onnx")
    spec["judge"]["budgets"] = [{"metric": "accuracy", "max_drop": 0.9}]
    policy.write_text(yaml.safe_dump(spec), encoding="utf-8")
    git(folder, "commit", "-qam", "change")
    flow, inputs = FLOWS["reusable"], {"version": ".", "arguments": "--tracker=none"}
    planned = run(runner, flow, "plan", inputs=inputs, **event)
    (job,) = json.loads(planned.outputs["matrix"])["include"]
    ran = run(runner, flow, "gate", inputs=inputs, matrix=job, **event)
    assert ran.exit_codes[-1] == 1, ran.log
    assert "FAIL" in runner.summary
    assert "max_drop" in ran.log or "looser" in ran.log


# ── comment ───────────────────────────────────────────────────────────────────────────────

GH = """
words = sys.argv[1:]
text = " ".join(words)
answers = pathlib.Path(os.environ["HARNESS_LOG"]).with_name("answers")
if "/zip" in text:
    sys.stdout.buffer.write((answers / "zip").read_bytes())
elif "/pulls" in text:
    print((answers / "pulls").read_text(), end="")
elif "/artifacts" in text:
    print((answers / "artifacts").read_text(), end="")
elif "--method" not in words:
    print((answers / "comments").read_text(), end="")
"""
EVENT = {
    "head_repository": {"owner": {"login": "stranger"}},
    "head_branch": "x; touch pwned; $(touch pwned) 'q' \"r\"",
    "head_sha": "b" * 40,
    "id": 7,
}


def archive(name: str = "record.json", content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr(name, content)
    return stream.getvalue()


def comment(runner: Runner, make_record: Any, **answers: Any) -> Ran:
    """Run the comment's job on what GitHub answers."""
    record = make_record("fail").model_copy(update={"model": "<script> $(touch pwned) @all"})
    given = {
        "pulls": "12\n",
        "artifacts": "100 2000\n",
        "comments": "",
        "zip": archive(content=record.model_dump_json().encode()),
        **answers,
    }
    folder = runner.calls_file.with_name("answers")
    folder.mkdir()
    for name, content in given.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    runner.command("gh", GH)
    runner.real_gate()
    flow = yaml.safe_load((WORKFLOWS / "comment.yml").read_text(encoding="utf-8"))
    github = {
        "event": {"workflow_run": EVENT},
        "repository": "o/r",
        "token": "secret",
        "server_url": "https://github.com",
    }
    return runner.job(flow, "comment", {"github": github})


def posted(runner: Runner) -> list[list[str]]:
    return [call for call in runner.calls("gh") if {"POST", "PATCH"} & set(call)]


@pytest.mark.parametrize(
    ("comments", "sent"),
    [
        ("", ["POST", "repos/o/r/issues/12/comments"]),
        ("55\n66\n", ["PATCH", "repos/o/r/issues/comments/55"]),
    ],
)
def test_a_comment_is_made_once_and_then_replaced(
    runner: Runner, make_record: Any, comments: str, sent: list[str]
) -> None:
    ran = comment(runner, make_record, comments=comments)
    assert ran.status == "success", ran.log
    (call,) = posted(runner)
    assert call == ["api", "--method", *sent, "-F", "body=@comment.md"]
    text = (runner.workspace / "comment.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- int8-gate -->")
    assert "https://github.com/o/r/actions/runs/7" in text
    assert "<script>" not in text
    assert not runner.pwned


def test_the_pull_request_is_the_one_that_ran(runner: Runner, make_record: Any) -> None:
    comment(runner, make_record)
    asked = next(call for call in runner.calls("gh") if "repos/o/r/pulls" in call)
    assert f"head=stranger:{EVENT['head_branch']}" in asked
    assert ".head.sha == env.HEAD_SHA" in asked[-1]


@pytest.mark.parametrize("answers", [{"pulls": ""}, {"artifacts": ""}])
def test_nothing_to_comment_on(runner: Runner, make_record: Any, answers: dict[str, str]) -> None:
    ran = comment(runner, make_record, **answers)
    assert ran.status == "success"
    assert posted(runner) == []


@pytest.mark.parametrize(
    "answers",
    [
        {"pulls": "12; touch pwned\n"},
        {"artifacts": "100 5000001\n"},
        {"artifacts": "1 x\n"},
        {"artifacts": "1 1\n" * 201},
        {"zip": b"no zip"},
        {"zip": archive("../../pwned")},
        {"zip": archive(content=b"{}")},
        {"zip": archive(content=b"[" * 6_000_000)},
    ],
)
def test_what_strangers_send_stops_the_job(
    runner: Runner, make_record: Any, answers: dict[str, Any]
) -> None:
    ran = comment(runner, make_record, **answers)
    assert ran.status == "failure"
    assert posted(runner) == []
    assert not runner.pwned


# ── attestation ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "judge", "attested"),
    [("pass", {}, True), ("fail", {}, False), ("pass", {"mode": "observe"}, False)],
)
def test_only_an_enforced_pass_is_attested(
    runner: Runner, make_record: Any, kind: str, judge: dict[str, Any], attested: bool
) -> None:
    fetched = runner.workspace / "records" / "gate-record-a"
    fetched.mkdir(parents=True)
    record = make_record(kind, judge=judge)
    (fetched / "record.json").write_text(record.model_dump_json(), encoding="utf-8")
    runner.command("gh", "")
    flow = yaml.safe_load((WORKFLOWS / "attest.yml").read_text(encoding="utf-8"))
    github = {"repository": "o/r", "run_id": 7, "server_url": "https://github.com", "token": "x"}
    ran = runner.job(flow, "attest", {"github": github})
    assert bool(ran.used) is attested
    if attested:
        predicate = json.loads((runner.workspace / "predicate.json").read_text())
        assert predicate["result"] == "PASSED"
        assert predicate["url"] == "https://github.com/o/r/actions/runs/7"
