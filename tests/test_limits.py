"""Models that take all of a machine, or crash the runtime: the run ends, and says why."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.project import CNN, Project

from gate import limits
from gate.errors import EvaluationError, UsageError
from gate.limits import limit, machine_gib, out_of_memory


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.spec["judge"]["expect_fp32"] = "unknown"
    made.write()
    return made


def run(project: Project, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(model),
         "--tracker", "none", "--threads", "1", "--quiet", *options],
        cwd=project.folder, env=os.environ, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def with_extra(folder: Path, nodes: list[onnx.NodeProto], added: str) -> Path:
    """The digits' model, to whose output something is added that takes a lot to compute."""
    model = onnx.load(CNN)
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[0] = "before"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", added], [output.name])])
    path = folder / "villain.onnx"
    onnx.save(model, path)
    return path


def of_memory(folder: Path) -> Path:
    """As many terabytes as the first pixel says, of which there is one at least."""
    shape = numpy_helper.from_array(np.array([1 << 40], dtype=np.int64))
    nodes = [
        helper.make_node("ReduceMean", ["before"], ["one"], keepdims=0),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Expand", ["one", "shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
    ]
    return with_extra(folder, nodes, "most")


def of_time(folder: Path) -> Path:
    """A loop of 2^62 rounds."""
    value = [helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [])]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c_in"], ["c_out"]),
            helper.make_node("Sin", ["v_in"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            *value,
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, []),
        ],
    )
    rounds = numpy_helper.from_array(np.array(1 << 62, dtype=np.int64))
    nodes = [
        helper.make_node("ReduceMean", ["before"], ["one"], keepdims=0),
        helper.make_node("Constant", [], ["rounds"], value=rounds),
        helper.make_node("Loop", ["rounds", "", "one"], ["last"], body=body),
    ]
    return with_extra(folder, nodes, "last")


def demand_nothing(project: Project, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert "PASS" not in done.stdout
    assert not list(project.folder.rglob("record.json"))


def test_a_model_that_wants_all_memory_is_refused_it(project: Project) -> None:
    done = run(project, of_memory(project.folder), "--max-memory", "2")
    demand_nothing(project, done)


def test_a_model_that_never_ends_is_ended(project: Project) -> None:
    done = run(project, of_time(project.folder), "--max-minutes", "0.1")
    demand_nothing(project, done)
    assert "gate: --max-minutes 0.1 are over; the run is ended" in done.stderr
    assert "nothing was decided (SIGKILL)" in done.stderr


def test_a_runtime_that_crashes_is_no_verdict(project: Project) -> None:
    (project.folder / "crash.py").write_text(
        "import os\n\n\ndef crash(outputs):\n    os.abort()\n\n\nDECODERS = {'crash': crash}\n"
    )
    project.spec["build"]["decode"] = "crash"
    project.write()
    done = run(project, CNN, "--plugin", str(project.folder / "crash.py"))
    demand_nothing(project, done)
    assert "nothing was decided (SIGABRT). A model that crashes the runtime" in done.stderr


def test_enough_is_enough(project: Project) -> None:
    done = run(project, CNN, "--max-memory", "4", "--max-minutes", "5")
    assert done.returncode == 0, done.stderr


def test_what_python_is_refused_has_a_reason_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gate.cli import cli, exit_code_of

    def greedy(*_: object, **__: object) -> int:
        raise MemoryError

    monkeypatch.setattr(cli.commands["schema"], "callback", greedy)
    assert exit_code_of(["schema"]) == EvaluationError.exit_code
    err = capsys.readouterr().err
    assert str(out_of_memory()) in err
    assert "defect" not in err


@pytest.mark.parametrize("amount", ["nan", "inf"])
@pytest.mark.parametrize("flag", ["--max-memory", "--max-minutes"])
def test_what_is_no_amount_is_no_limit(
    project: Project, capsys: pytest.CaptureFixture[str], flag: str, amount: str
) -> None:
    """Rather than none at all in silence."""
    from gate.cli import exit_code_of

    assert exit_code_of(["run", str(project.policy), flag, amount]) == 2
    assert f"{flag} {amount} is no amount" in capsys.readouterr().err


def test_memory_is_not_said_to_be_held_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="held on Linux alone"):
        limit(memory_gib=1.0, minutes=None)


# ── what the machine has ──────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, None),
        ({"a/b/memory.max": "max\n"}, None),
        ({"a/b/memory.max": "1073741824\n"}, 1.0),
        ({"a/b/memory.max": "max\n", "a/memory.max": "536870912\n"}, 0.5),
        ({"a/b/memory.max": "1073741824\n", "a/memory.max": "536870912\n"}, 0.5),
        ({"memory.max": "268435456\n"}, 0.25),
    ],
)
def test_a_container_has_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: dict[str, str], expected: float | None
) -> None:
    for name, text in groups.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    told = tmp_path / "cgroup"
    told.write_text("1:cpu,memory:/of/version/1\n0::/a/b\n")
    whole = machine_gib()
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_CGROUP", told)
    assert machine_gib() == (whole if expected is None else expected)


def test_where_nothing_tells_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine_gib() is None
