"""Programs that `speed.py` starts and times: runs of the gate, and a cluster to run on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRIES = 5
_TOLD = Path(__file__).with_name("speed_told.py")
_PORT = 6399
_BARE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""What is installed has been compiled before."""


@dataclass(frozen=True)
class Ran:
    """A run of the gate."""

    seconds: float
    """Of the whole process."""
    peak: float
    """Bytes."""
    parts: Mapping[str, float]
    """Seconds of what it did, in its order."""
    folder: Path
    """Of the record."""

    @property
    def record(self) -> dict[str, Any]:
        """What it decided, and on what."""
        found: dict[str, Any] = json.loads((self.folder / "record.json").read_text("utf-8"))
        return found


def best(program: Sequence[str], folder: Path) -> float:
    """Seconds of a Python program, the best of a few."""
    return min(_timed([sys.executable, *program], folder) for _ in range(TRIES))


def _timed(program: Sequence[str], folder: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(program, cwd=folder, env=_BARE, capture_output=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(program)} failed:\n{done.stderr.decode()[-2000:]}")
    return took


def gate_run(
    policy: Path,
    *options: str,
    home: Path | None = None,
    at: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
    **environment: str,
) -> Ran:
    """`gate run` in the folder `home`, which keeps what a run leaves for the next; else a new one.

    `at` is told of the process when it has begun.
    """
    home = home or Path(tempfile.mkdtemp(dir=policy.parent))
    out = Path(tempfile.mkdtemp(dir=policy.parent))
    told = out.with_suffix(".json")
    program = [sys.executable, str(_TOLD), str(told), str(time.time())]
    program += ["run", str(policy), "--quiet", "--out", str(out), *options]
    start = time.perf_counter()
    with (home / "told.txt").open("wb") as stream:
        running = subprocess.Popen(
            program, cwd=home, env=_BARE | environment, stdout=stream, stderr=stream
        )
        at(running)
        code = running.wait()
    took = time.perf_counter() - start
    if code:
        raise SystemExit(f"gate run gave {code}:\n{(home / 'told.txt').read_text()[-3000:]}")
    found = json.loads(told.read_text())
    return Ran(took, found["peak"], _parts(found["marks"], out, took), out)


def _parts(marks: Mapping[str, float], out: Path, took: float) -> dict[str, float]:
    steps = json.loads((out / "record.json").read_text("utf-8"))["durations"]
    parts = {"interpreter and imports": marks["imports"], "MLflow, opened": marks["reach"]}
    parts |= steps | {"record and reports": marks["write"], "MLflow, logged": marks["send"]}
    return parts | {"what is left": took - sum(parts.values())}


# ── a cluster ─────────────────────────────────────────────────────────────────────────────


@dataclass
class Cluster:
    """Ray on this machine, with two places."""

    address: str
    head: subprocess.Popen[bytes]

    def kill_one(self, after: float) -> None:
        """Kill a worker, when so many seconds are over."""
        time.sleep(after)
        workers = [pid for pid in _below(self.head.pid) if _named(pid).startswith("ray::Worker")]
        busy = [pid for pid in workers if "IDLE" not in _named(pid)]
        if not busy:
            raise SystemExit("no worker of the cluster is at work")
        os.kill(busy[0], signal.SIGKILL)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Ray's head in a process of its own; it has begun when the block does, and ends with it."""
    port, ray = _PORT, Path(sys.executable).with_name("ray")
    program = [str(ray), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    program += ["--include-dashboard=false", "--disable-usage-stats"]
    with (folder / "ray.txt").open("wb") as told:
        head = subprocess.Popen(program, stdout=told, stderr=told)
        try:
            _wait_for(head)
            yield Cluster("auto", head)
        finally:
            below = _below(head.pid)
            head.terminate()
            head.wait()
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _wait_for(head: subprocess.Popen[bytes]) -> None:
    program = [sys.executable, "-c", "import ray; ray.init('auto')"]
    for _ in range(10):
        if head.poll() is not None:
            break
        if not subprocess.run(program, capture_output=True, check=False).returncode:
            return
    raise SystemExit("Ray's head does not begin")


def _below(pid: int) -> list[int]:
    """Every process that it started, or that those did."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _named(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
