"""How fast both models run, and how much memory each takes: one quiet local process.

Times come in rounds of four blocks, in an order drawn by lot for each round, so that neither drift
nor a periodic neighbour favours a model; see `gate.statistics.latency`. Peak memory is taken in a
fresh process for each model, which loads and runs nothing else.
"""

import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gate import backends
from gate.backends import Runner
from gate.errors import EvaluationError, UsageError
from gate.records import Rounds
from gate.statistics import latency
from gate.values import Array

ROUNDS = 30
_WARM, _WARM_S = 10, 0.2
_TIMEOUT_S = 600.0
_REPEATS = 3
_QUANTILES = {"latency_p50": 0.5, "latency_p95": 0.95}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import gate
del sys.path[0]
from gate.timing import report_peak
report_peak(*sys.argv[2:])
"""
_HOME = str(Path(__file__).resolve().parents[1])
"""Where gate lies, for a process that is told to import nothing from the working folder."""


def time_models(
    fp32: Runner,
    int8: Runner,
    feeds: Sequence[Mapping[str, Array]],
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> tuple[Array, Array]:
    """Seconds of every inference, (R, 2 · BLOCK) for FP32 and for INT8.

    Args:
        fp32: the reference, loaded.
        int8: the INT8 model, loaded with the same options.
        feeds: batches as production feeds them; both models see the same, at the same places.
        seed: draws the order of the blocks.
        rounds: thirty decide a p95 to about 3 %.

    Raises:
        EvaluationError: a model failed.
    """
    models = (fp32, int8)
    for model in models:
        _warm_up(model, feeds)
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    for order in latency.schedule(rounds, seed):
        found: tuple[list[float], list[float]] = ([], [])
        for which in order:
            found[which].extend(_block(models[which], feeds, latency.BLOCK))
        times[0].append(found[0])
        times[1].append(found[1])
    return np.array(times[0]), np.array(times[1])


def _warm_up(model: Runner, feeds: Sequence[Mapping[str, Array]]) -> None:
    """Caches filled, threads started, the clock risen: ten inferences, and 0.2 s of them."""
    spent, count = 0.0, 0
    while spent < _WARM_S or count < _WARM:
        block = _block(model, feeds, _WARM)
        spent, count = spent + sum(block), count + len(block)


def _block(model: Runner, feeds: Sequence[Mapping[str, Array]], count: int) -> list[float]:
    """Seconds of `count` inferences, with no collection of garbage between them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        times = []
        for index in range(count):
            start = time.perf_counter_ns()
            model.run(feeds[index % len(feeds)])
            times.append((time.perf_counter_ns() - start) / 1e9)
        return times
    finally:
        if enabled:
            gc.enable()


def by_metric(fp32: Array, int8: Array, batch: int) -> dict[str, Rounds]:
    """Per-round values of every timed metric: milliseconds, and examples a second.

    `fp32` and `int8` are as `time_models` gives them; `batch` is the examples in one inference.
    """
    found = {
        name: _rounds(*(1e3 * np.quantile(times, q, axis=1) for times in (fp32, int8)))
        for name, q in _QUANTILES.items()
    }
    speed = (batch * times.shape[1] / times.sum(axis=1) for times in (fp32, int8))
    return found | {"throughput": _rounds(*speed)}


def _rounds(fp32: Array, int8: Array) -> Rounds:
    return Rounds(reference=tuple(fp32.tolist()), int8=tuple(int8.tolist()))


# ── memory ────────────────────────────────────────────────────────────────────────────────


def peak_memory(model: Path, feeds: Mapping[str, Array], *, backend: str, threads: int) -> int:
    """Bytes that loading `model` and running it on `feeds` adds to a process, at its peak.

    Raises:
        EvaluationError: it failed, or took more than ten minutes.
        UsageError: this system does not tell a process's memory.
    """
    if sys.platform == "win32":
        raise UsageError("peak_memory cannot be measured on Windows: delete that budget")
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        file = Path(folder) / "feeds.npz"
        arrays: Any = {name: _storable(value) for name, value in feeds.items()}
        np.savez(file, **arrays)
        given = (_HOME, str(model), str(file), backend, str(threads))
        command = [sys.executable, "-P", "-c", _CHILD, *given]
        try:
            done = subprocess.run(  # noqa: S603  our own interpreter and code
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
            )
            return int(json.loads(done.stdout)["peak"])
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(f"{model.name} took over ten minutes to run once") from error
        except (subprocess.CalledProcessError, ValueError, KeyError) as error:
            told = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
            raise EvaluationError(
                f"peak memory of {model.name} could not be measured: {' '.join(told)}"
            ) from error


def report_peak(model: str, feeds: str, backend: str, threads: str) -> None:
    """In a process of its own: load, run, and print the peak in bytes as JSON."""
    with np.load(feeds) as archive:
        inputs = {name: _runnable(archive[name]) for name in archive.files}
    runtime = backends.get(backend)
    runtime.prepare()  # its own code is no part of the model
    before = _resident()
    runner = runtime.open(Path(model), threads=int(threads))
    for _ in range(_REPEATS):
        runner.run(inputs)
    print(json.dumps({"peak": max(_peak() - before, 0)}))


def _resident() -> int:
    """Bytes resident now; where Linux allows, the peak starts again from here."""
    if not _STATUS.exists():
        return _peak()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")
    return _of_status("VmRSS")


def _peak() -> int:
    """The most bytes resident so far. getrusage's would be the parent's, where that was larger."""
    if _STATUS.exists():
        return _of_status("VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _of_status(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _storable(value: Array) -> Array:
    return value.astype(str) if value.dtype == object else value


def _runnable(value: Any) -> Array:
    return np.asarray(value.astype(object) if value.dtype.kind == "U" else value)
