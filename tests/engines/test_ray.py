"""Shards on a cluster: what it takes to be used, and what becomes of workers that do not do it."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import CNN, WIDE_RANGE, Project
from support.shards import Work, bits, scored, told
from trackers.stores import bucket_in, s3

import gate
from gate import artifact
from gate.cli import exit_code_of
from gate.commands.recover import recover
from gate.engines import Job
from gate.engines import _ray_crew as crews
from gate.engines._ray_worker import Bundle, Message, Worker
from gate.engines.local import Local, Threads
from gate.engines.ray import ENGINE
from gate.errors import EngineError, GateError, PluginError, UsageError
from gate.sources import Decode
from gate.trials import Trial

pytestmark = pytest.mark.xdist_group("ray")


# ── before anything else ──────────────────────────────────────────────────────────────────


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As in a process that is on no cluster."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("it would wait without an end"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return monkeypatch


def test_without_ray_what_to_install_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_with(Project(tmp_path), "--engine", "ray") == 2
    err = capsys.readouterr().err
    assert "--engine ray needs Ray, which is not installed: pip install 'int8-gate[ray]'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["somewhere", "ray://head:10001", "head:", ":6379", "a:b"])
def test_an_address_that_is_none_is_bad_usage(
    unconnected: pytest.MonkeyPatch, address: str
) -> None:
    unconnected.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=r"write `auto`, or the head's host:port .* `ray job sub"):
        ENGINE.demand()


def test_a_head_that_does_not_answer_is_an_error(unconnected: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"[::1]:{port}"):
        unconnected.setenv("RAY_ADDRESS", address)
        with pytest.raises(EngineError, match=r"no Ray cluster answers at .* start its head"):
            ENGINE.demand()


def test_auto_without_a_cluster_is_an_error(unconnected: pytest.MonkeyPatch) -> None:
    unconnected.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(EngineError, match="no Ray cluster runs here"):
        ENGINE.demand()


@pytest.mark.parametrize("address", ["", "local"])
def test_no_address_means_one_of_its_own(unconnected: pytest.MonkeyPatch, address: str) -> None:
    unconnected.setenv("RAY_ADDRESS", address)
    ENGINE.demand()


def test_what_ray_refuses_is_told(unconnected: pytest.MonkeyPatch, work: Work) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n Ray: 2.9.0")

    import ray

    unconnected.setenv("RAY_ADDRESS", "local")
    unconnected.setattr(ray, "init", refuse)
    with pytest.raises(EngineError, match=r"at local cannot be used: Version mismatch.*same Ray"):
        list(scored(ENGINE, work.job, work.parts, 1))


def test_outputs_that_were_made_elsewhere_are_refused(work: Work) -> None:
    with pytest.raises(UsageError, match="judged that were made elsewhere: leave it out"):
        list(scored(ENGINE, replace(work.job, elsewhere=None), work.parts, 1))


# ── a worker, without a cluster ───────────────────────────────────────────────────────────


Begin = Callable[[Job[Any]], tuple[Worker, GateError | None]]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """A worker in this process, and what stands against it."""
    monkeypatch.setattr(
        "gate.engines._ray_worker._fetched",
        lambda bundles, folder: [one.unpack(folder) for one in bundles],
    )

    made: list[Worker] = []

    def begin(job: Job[Any]) -> tuple[Worker, GateError | None]:
        assert job.elsewhere is not None
        models = {
            role: [Bundle.of(file) for file in artifact.files(model)]
            for role, model in job.elsewhere.models.items()
        }
        brought = [Bundle.of(file) for file in job.elsewhere.plugins]
        made.append(Worker())
        return made[-1], made[-1].open(job.elsewhere, models, brought, ())

    yield begin
    for worker in made:
        worker._context.run(worker._plugged.close)


def folders() -> set[Path]:
    import tempfile

    return set(Path(tempfile.gettempdir()).glob("gate-worker-*"))


def test_a_worker_makes_the_same_and_leaves_nothing(begun: Begin, work: Work) -> None:
    """It is killed in the end, and could not tidy up then."""
    before = folders()
    worker, problem = begun(work.job)
    assert problem is None
    assert folders() == before
    message = pickle.loads(pickle.dumps(Message.of(work.parts[1])))
    assert bits(worker.score(message)) == bits(work.job.work(work.parts[1]))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"versions": {"onnxruntime": "1.0"}}, r"versions .* instead of .*'onnxruntime': '1\.0'"),
        ({"features": ["x86_64", "amx"]}, r"features .* instead of .*amx"),
        ({"code": "0" * 64}, r"code [0-9a-f]{64} instead of 0{64}"),
    ],
)
def test_a_worker_that_would_compute_something_else_says_what_differs(
    begun: Begin, work: Work, other: dict[str, Any], named: str
) -> None:
    assert work.job.elsewhere is not None
    before = folders()
    _, problem = begun(work.changed(environment={**work.job.elsewhere.environment, **other}))
    assert isinstance(problem, EngineError)
    with pytest.raises(EngineError, match=rf"the worker on .* \(pid \d+\): .*{named}"):
        raise problem
    assert folders() == before


def test_a_worker_without_the_data_says_so(begun: Begin, work: Work, tmp_path: Path) -> None:
    _, problem = begun(work.changed(base=tmp_path))
    assert isinstance(problem, EngineError)
    assert f"there is no {tmp_path / 'held_out.npz'}" in str(problem)


def test_a_worker_that_reads_other_data_names_them(
    begun: Begin, work: Work, tmp_path: Path
) -> None:
    other = Project(tmp_path)

    def change(columns: dict[str, Any]) -> None:
        columns["image"][130:132] += 1

    other.change("held_out", change)
    worker, problem = begun(work.changed(base=tmp_path))
    assert problem is None
    assert not isinstance(worker.score(Message.of(work.parts[0])), GateError)
    found = worker.score(Message.of(work.parts[1]))
    ids = ", ".join(work.parts[1].split.ids[2:4])
    assert isinstance(found, EngineError)
    assert f"2 examples of shard 1 differ (first ids: {ids})" in str(found)


def test_a_worker_that_reads_fewer_data_says_so(begun: Begin, work: Work, tmp_path: Path) -> None:
    Project(tmp_path).change("held_out", lambda c: c.update({k: v[:200] for k, v in c.items()}))
    worker, _ = begun(work.changed(base=tmp_path))
    found = worker.score(Message.of(work.parts[2]))
    assert isinstance(found, EngineError)
    assert "finds 200 examples" in str(found)


def test_a_model_that_arrives_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    bundle = replace(Bundle.of(tmp_path / "model.onnx"), sha256="0" * 64)
    with pytest.raises(EngineError, match=r"reached the worker on .* damaged"):
        bundle.unpack(tmp_path)


# ── poison ────────────────────────────────────────────────────────────────────────────────


_PLUGIN = """
import os
import sys
import time
from pathlib import Path

import numpy as np

from gate.errors import GateError


class Odd(GateError):
    def __init__(self, one, two):
        super().__init__(one + " and " + two)


class Stubborn(Exception):
    def __reduce__(self):
        raise TypeError("not over the wire")


def poisoned(outputs):
    (logits,) = outputs.values()
    if os.getpid() != {driver} and (logits[:, 0] == np.float32({value!r})).any():
        {act}
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


DECODERS = {{"poisoned": poisoned}}
"""
_ONCE = """if not Path({marker!r}).exists():
            Path({marker!r}).write_text("")
            os._exit(9)"""


@dataclass(frozen=True)
class Poison:
    """A decoder that acts in a worker, on one example."""

    work: Work
    folder: Path

    def job(self, act: str, part: int = 2, driver: int | None = None, **changes: Any) -> Job[Any]:
        """A job in which it does so on the first example of a shard."""
        batch = self.work.parts[part].split.batch(0, 1)
        (logits,) = self.work.job.work.models.fp32(batch).values()
        value = float(logits[0, 0])
        file = self.folder / "poison.py"
        spared = os.getpid() if driver is None else driver
        file.write_text(_PLUGIN.format(driver=spared, value=value, act=act))
        assert self.work.job.elsewhere is not None
        policy = self.work.job.elsewhere.policy
        decode = Decode(name="poisoned")
        build = policy.build.model_copy(update={"decode": decode})
        plugins = {file: sha256(file.read_bytes()).hexdigest()}
        job = self.work.changed(policy=policy.model_copy(update={"build": build}), plugins=plugins)
        return replace(job, **changes)

    def expected(self) -> list[Any]:
        """What INT8 answers, by the decoder that it mimics."""
        return [bits(self.work.job.work(part).int8["label"]) for part in self.work.parts[1:4]]


@pytest.fixture
def poison(cluster: str, work: Work, tmp_path: Path) -> Poison:
    return Poison(work, tmp_path)


def test_a_worker_that_dies_is_replaced_and_nothing_differs(poison: Poison) -> None:
    marker = str(poison.folder / "died")
    job = poison.job(_ONCE.format(marker=marker))
    found = list(scored(ENGINE, job, poison.work.parts[1:4], 1))
    assert Path(marker).exists()
    ids = [one.ids.tolist() for one in found]
    assert ids == [part.split.ids.tolist() for part in poison.work.parts[1:4]]
    assert [bits(one.int8["label"]) for one in found] == poison.expected()


def test_a_shard_that_workers_die_of_is_named(poison: Poison) -> None:
    job = poison.job("os._exit(9)")
    running = scored(ENGINE, job, poison.work.parts[1:4], 1)
    assert next(running).ids[0] == poison.work.parts[1].split.ids[0]
    ids = poison.work.parts[2].split.ids
    with pytest.raises(EngineError, match=rf"shard 2 \(examples {ids[0]} to {ids[-1]}\) was given "
                       "up: 3 workers died of it"):  # fmt: skip
        next(running)
    assert (EngineError.exit_code, EngineError.code) == (4, "G113")


def test_a_shard_that_hangs_is_named(poison: Poison) -> None:
    job = poison.job("time.sleep(600)", timeout_s=2.0)
    running = scored(ENGINE, job, poison.work.parts[1:4], 1)
    next(running)
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"shard 2 \(.*\) has not come back for \d+ s: .*-timeou"):
        next(running)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("raise ValueError('sour')", (PluginError, r"plugin .*poison\.py:\d+: ValueError: sour")),
        ("raise MemoryError", (PluginError, r"plugin .*poison\.py:\d+: MemoryError")),
        ("raise Stubborn('no')", (PluginError, r"plugin .*poison\.py:\d+: Stubborn: no")),
        ("raise Odd('this', 'that')", (EngineError, r"the worker on .*: this and that")),
        ("sys.exit(0)", (PluginError, r"plugin .*poison\.py:\d+: SystemExit: 0")),
    ],
)
def test_what_a_plugin_raises_is_told_as_here(
    begun: Begin, work: Work, tmp_path: Path, act: str, error: tuple[type[GateError], str]
) -> None:
    worker, problem = begun(Poison(work, tmp_path).job(act, driver=0))
    assert problem is None
    found = worker.score(Message.of(work.parts[2]))
    kind, match = error
    assert isinstance(found, kind)
    with pytest.raises(kind, match=match):
        raise pickle.loads(pickle.dumps(found))


def test_more_workers_than_there_is_room_for_are_not_waited_for_long(
    cluster: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "_ANOTHER_S", 0.5)
    begun = time.monotonic()
    found = list(scored(ENGINE, work.job, work.parts, 9))
    assert len(found) == len(work.parts)
    assert time.monotonic() - begun < 60


# ── whole runs ────────────────────────────────────────────────────────────────────────────


def run_with(project: Project, *arguments: str) -> int:
    out = str(project.folder / "out")
    common = ["--candidate", str(CNN), "--tracker", "none", "--threads", "1", "--out", out]
    return exit_code_of(["run", str(project.policy), *common, *arguments])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(folder)


@pytest.mark.parametrize("stopping", ["full", "early"])
def test_the_record_is_the_same_whatever_ran_it(
    cluster: str, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopping: str
) -> None:
    project.spec["judge"] |= {"stopping": stopping, "batch_size": 10}
    project.budget(metric="accuracy", max_drop=0.08)
    records = []
    for k, (name, workers) in enumerate([("local", 1), ("local", 3), ("ray", 2)]):
        monkeypatch.chdir(tmp_path / "project")
        elsewhere = tmp_path / str(k)
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)  # nothing is kept of another's run
        policy = os.path.relpath(project.policy)
        records.append(
            gate.run_gate(
                policy, CNN, tracker="none", threads=1, engine=name, workers=workers
            ).record
        )
    assert told(records[0]) == told(records[1]) == told(records[2])
    assert records[0].verdict.outcome == "pass"
    assert (records[0].examples_evaluated < 1000) == (stopping == "early")
    assert records[0].rows_sha256 == records[2].rows_sha256


def test_recovery_comes_to_the_same_whatever_ran_its_trials(
    cluster: str, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.spec["build"]["tuning"] = {"path": "tuning.npz"}
    columns = project.data("held_out")
    project.save("tuning", **{name: values[:150] for name, values in columns.items()})
    project.save("held_out", **{name: values[150:] for name, values in columns.items()})
    project.write()
    found = {}
    for name in ("local", "ray"):
        elsewhere = tmp_path / name
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        found[name] = recover(
            project.policy, WIDE_RANGE, tracker="none", threads=1, engine=name, workers=2
        )
    assert len(found["ray"].trials) > 1
    one, other = ([_timeless(trial) for trial in found[name].trials] for name in found)
    assert one == other
    assert (found["ray"].exit_code, found["local"].exit_code) == (0, 0)


def _timeless(trial: Trial) -> dict[str, Any]:
    return trial.model_dump(exclude={"seconds", "milliseconds"})


def test_a_cluster_that_is_lost_is_no_failed_trial(
    monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    given: list[Job[Any]] = []

    class Lost(Threads):
        def score(self, job: Job[Any], parts: Iterator[Any]) -> Any:
            given.append(job)
            if len(given) > 1:
                raise EngineError("the cluster is gone")
            return super().score(job, parts)

    monkeypatch.setattr(Local, "crew", lambda *_, **__: nullcontext(Lost(1)))
    with pytest.raises(EngineError, match="the cluster is gone"):
        recover(project.policy, WIDE_RANGE, tracker="none", threads=1)
    assert not list(project.folder.rglob("trials.jsonl"))


def test_outputs_made_elsewhere_are_refused_on_the_command_line(
    cluster: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {k: v for k, v in project.data("held_out").items() if k != "id"}
    ids = np.array([f"e{i}" for i in range(len(columns["target"]))])
    project.save("held_out", **columns, id=ids)
    outputs = 9 * np.eye(10, dtype=np.float32)[columns["target"]]
    for side in ("fp32", "int8"):
        where = {"artifact_sha256": side[0] * 64, "runtime": "r", "device": "d"}
        told_by = {k: np.full(len(ids), v.replace("i", "a")) for k, v in where.items()}
        np.savez(project.folder / f"{side}.npz", id=ids, logits=outputs, **told_by)
    project.spec["judge"]["expect_fp32"] = "unknown"
    project.write()
    asked = ["--fp32-outputs", "fp32.npz", "--int8-outputs", "int8.npz", "--engine", "ray"]
    code = exit_code_of(["run", str(project.policy), "--tracker", "none", *asked])
    assert "judged that were made elsewhere" in capsys.readouterr().err
    assert code == 2


@pytest.mark.slow
def test_a_run_that_is_cancelled_leaves_nothing(cluster: str, project: Project) -> None:
    """SIGTERM, as a runner sends it."""
    temporary = project.folder / "tmp"
    temporary.mkdir()
    before = folders()
    script = (
        "import sys, time\n"
        "import gate.engines._ray_crew as crews\n"
        "was = crews._AtWork._land\n"
        "def land(self, ref):\n"
        "    was(self, ref)\n"
        "    print('landed', flush=True)\n"
        "    time.sleep(0.5)\n"
        "crews._AtWork._land = land\n"
        "from gate.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["run", str(project.policy), "--candidate", str(CNN), "--tracker", "none"]
    running = subprocess.Popen(
        [sys.executable, "-c", script, *command, "--threads", "1", "--engine", "ray"],
        env=os.environ | {"RAY_ADDRESS": cluster, "TMPDIR": str(temporary)},
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    first = running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert (first, running.returncode) == ("landed\n", 130), err
    assert "gate: interrupted; nothing was decided" in err
    assert not list(project.folder.rglob("record.json"))
    assert not list(temporary.glob("gate-*"))
    assert folders() <= before
    demand_idle()


def demand_idle() -> None:
    """No worker holds a CPU of the cluster any more."""
    import ray

    for _ in range(50):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return
        time.sleep(0.1)
    pytest.fail(f"still at work: {ray.available_resources()}")


@pytest.mark.slow
def test_without_an_address_a_run_starts_a_cluster_and_ends_it(project: Project) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN),
         "--tracker", "none", "--engine", "ray", "--threads", "1"],
        env=environment, cwd=project.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.slow
def test_workers_read_object_storage_themselves(project: Project, tmp_path: Path) -> None:
    with s3() as reach:
        bucket_in(reach).upload_file(str(project.folder / "held_out.npz"), "gate", "held_out.npz")
        (project.folder / "held_out.npz").unlink()
        project.spec["judge"]["held_out"] = {"path": "s3://gate/held_out.npz"}
        project.write()
        reached = reach | {"AWS_ENDPOINT_URL": reach["MLFLOW_S3_ENDPOINT_URL"]}
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | reached
        rows = []
        for name in ("local", "ray"):
            done = subprocess.run(
                [sys.executable, "-m", "gate", "run", str(project.policy), "--candidate", str(CNN),
                 "--tracker", "none", "--threads", "1", "--engine", name, "--out", name],
                env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
            record = json.loads((tmp_path / name / "record.json").read_text("utf-8"))
            rows.append((record["rows_sha256"], record["outputs_sha256"]))
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_two_nodes_do_as_one(project: Project, tmp_path: Path) -> None:
    """Two daemons, each with a store of objects and workers of its own, beside a head without."""
    script = (
        "import sys\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})\n"
        "nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]\n"
        "cluster.wait_for_nodes()\n"
        "import os\n"
        "os.environ['RAY_ADDRESS'] = cluster.address\n"
        "import gate, gate.engines._ray_crew as crews, ray\n"
        "was, seen = crews.RayCrew.dismiss, set()\n"
        "def dismiss(self):\n"
        "    import ray._private.state as state\n"
        "    for one in state.actors().values():\n"
        "        seen.add(one['Address']['NodeID'])\n"
        "    was(self)\n"
        "crews.RayCrew.dismiss = dismiss\n"
        "found = gate.run_gate(sys.argv[1], sys.argv[2], tracker='none', threads=1, engine='ray',\n"
        "                      workers=2)\n"
        "print(len(seen), found.record.rows_sha256)\n"
        "ray.shutdown()\n"
        "cluster.shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(project.policy), str(CNN)],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    nodes, rows = done.stdout.splitlines()[-1].split()
    here = gate.run_gate(project.policy, CNN, tracker="none", threads=1).record
    assert (int(nodes), rows) == (2, here.rows_sha256)


@pytest.mark.slow
def test_a_daemon_that_dies_is_an_error_and_no_verdict(project: Project) -> None:
    """Ray then ends the process that is connected to it, with exit code 1."""
    script = (
        "import os, signal, subprocess, sys\n"
        "import gate.engines._ray_crew as crews\n"
        "was = crews._AtWork._land\n"
        "def land(self, ref):\n"
        "    was(self, ref)\n"
        "    listed = ['pgrep', '-P', str(os.getpid()), 'raylet']\n"
        "    for pid in subprocess.run(listed, capture_output=True).stdout.split():\n"
        "        os.kill(int(pid), signal.SIGKILL)\n"
        "    while True:\n"
        "        self._ray.put(bytes(1 << 20))\n"
        "crews._AtWork._land = land\n"
        "from gate.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["run", str(project.policy), "--candidate", str(CNN), "--tracker", "none"]
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--threads", "1", "--engine", "ray"],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        cwd=project.folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "nothing was decided (exit code 1): a library ended it. Ray does so" in done.stderr
    assert not list(project.folder.rglob("record.json"))


def test_what_ray_itself_raises_is_no_defect_of_the_gate(
    monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    import ray

    def full(*_: Any) -> None:
        raise ray.exceptions.OutOfDiskError("no room")

    monkeypatch.setattr("gate.engines.ray._connected", lambda: ray)
    monkeypatch.setattr("gate.engines.ray.RayCrew", full)
    with pytest.raises(EngineError, match="Ray cannot go on: "):
        gate.run_gate(project.policy, CNN, tracker="none", engine="ray", threads=1)
