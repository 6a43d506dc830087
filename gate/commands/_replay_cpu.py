"""A process that runs a model on given batches: on this CPU, or on one that qemu emulates.

qemu's user mode runs this very Python with the same libraries; what changes is what CPUID says and
which instructions there are, and with them the kernels that the runtime chooses. Only CPUs are
named of which qemu emulates every instruction set that INT8 kernels look at: it has no AVX-512, no
VNNI and no AMX, so a later Xeon under qemu would be a Haswell with another name.
"""

import json
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gate import backends, door, provenance
from gate.errors import EvaluationError, GateError, UsageError
from gate.values import Array

RunBatch = Callable[[Mapping[str, Array]], Mapping[str, Array]]
QEMU = "qemu-x86_64"
INSTALL = "apt-get install qemu-user"
_AVX2 = ("AVX2", "FMA3")


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU that qemu emulates faithfully, as far as INT8 kernels can tell."""

    model: str
    """As qemu calls it."""
    features: tuple[str, ...]
    """What must be there for the right kernels to be chosen, as numpy calls it."""


CPUS: Mapping[str, Cpu] = {
    "nehalem": Cpu("Nehalem", ("SSE42",)),
    "westmere": Cpu("Westmere", ("SSE42",)),
    "sandybridge": Cpu("SandyBridge", ("AVX",)),
    "ivybridge": Cpu("IvyBridge", ("AVX",)),
    "haswell": Cpu("Haswell", _AVX2),
    "broadwell": Cpu("Broadwell", _AVX2),
    "skylake": Cpu("Skylake-Client", _AVX2),
    "zen": Cpu("EPYC", _AVX2),
    "zen2": Cpu("EPYC-Rome", _AVX2),
    "zen3": Cpu("EPYC-Milan", _AVX2),
}
_WITHOUT_VNNI = "its INT8 kernels multiply as those of `--cpu haswell` do, without VNNI: use that"
_WITH_VNNI = "it would run without its VNNI, as another CPU: replay on such a machine instead"
BEYOND: Mapping[str, str] = {
    "skylake-server": _WITHOUT_VNNI,
    "cascadelake": _WITH_VNNI,
    "cooperlake": _WITH_VNNI,
    "icelake": _WITH_VNNI,
    "sapphirerapids": _WITH_VNNI,
    "zen4": _WITH_VNNI,
}
"""CPUs whose AVX-512 qemu lacks, and what to do instead."""
_FEATURES = {"AVX2": "avx2", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni"}
"""numpy's names of what `gate.provenance` records."""
_START_S, _SLOWER, _UNKNOWN_S = 120.0, 300.0, 0.1
_BYTES_A_S = 5e6
"""How fast an emulated CPU at least optimizes and packs a model."""
_HOME = str(Path(__file__).resolve().parents[2])
"""Where gate lies, for a process that is told to import nothing from the working folder."""
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import gate
del sys.path[0]
from gate.commands._replay_cpu import serve
serve(*sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs the model."""

    name: str
    """`this machine`, or `Haswell, emulated by qemu 7.2.22`."""
    command: tuple[str, ...] = ()
    """What stands before Python's own command line."""
    cpu: Cpu | None = None
    """None for this machine's own."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process gave."""

    outputs: Mapping[str, Array]
    """(N, …) by name: the examples that were asked for, in their order."""
    cpu: Mapping[str, Any]
    """As `gate.provenance.cpu` describes one."""
    seconds: float
    """Loading and running, start-up of Python not counted."""


# ── which machine ─────────────────────────────────────────────────────────────────────────


def machine(name: str | None) -> Machine:
    """This machine, or the emulated CPU behind a name.

    Raises:
        UsageError: no such CPU, or qemu cannot emulate it.
        GateError: this is no x86-64 Linux, or qemu is not installed.
    """
    if name is None:
        return Machine("this machine")
    known = _known(name)
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise GateError(
            f"--cpu {name} emulates on x86-64 Linux only, and this is {platform.system()} on "
            f"{platform.machine()}: replay there, or without --cpu for this machine's own CPU"
        )
    program = shutil.which(QEMU) or shutil.which(f"{QEMU}-static")
    if program is None:
        raise GateError(
            f"--cpu {name} needs {QEMU}, which is not installed: `{INSTALL}`, or replay without "
            "--cpu for this machine's own CPU"
        )
    named = f"{known.model}, emulated by {_version(program)}"
    return Machine(named, (program, "-cpu", known.model), known)


def _known(name: str) -> Cpu:
    key = name.lower()
    if key in BEYOND:
        raise UsageError(f"--cpu {name}: qemu does not emulate its AVX-512; {BEYOND[key]}")
    if key not in CPUS:
        raise UsageError(door.unknown("CPU", name, tuple(CPUS)))
    return CPUS[key]


def _version(program: str) -> str:
    """`qemu 7.2.22`, or `qemu` where it does not say."""
    try:
        done = subprocess.run(  # noqa: S603  a fixed program, no shell
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
        return f"qemu {done.stdout.partition('version ')[2].split()[0]}"
    except (OSError, subprocess.SubprocessError, IndexError):
        return "qemu"


# ── the process ───────────────────────────────────────────────────────────────────────────


def limit(examples: int, recorded: float | None, size: int) -> float:
    """Seconds that a process may take for so many examples and a model of `size` bytes.

    `recorded` is what one example took when the record was made, both models together; an emulated
    CPU is 20 to 100 times slower.
    """
    each = _UNKNOWN_S if recorded is None else max(recorded, 1e-3)
    return _START_S + size / _BYTES_A_S + _SLOWER * each * examples


def run(
    on: Machine,
    model: Path,
    batches: Iterable[tuple[Mapping[str, Array], Array]],
    *,
    backend: str,
    threads: int,
    scratch: Path,
    timeout: float,
) -> Ran:
    """Run `model` on each batch in a process of its own.

    Args:
        on: what runs it.
        model: the artifact.
        batches: feeds by input name, (B, …), and which of the B outputs are wanted.
        backend: key of the runtime.
        threads: of one inference.
        scratch: an empty folder.
        timeout: seconds.

    Raises:
        EvaluationError: it failed, was killed, took too long, or qemu lacks what the CPU has.
    """
    wanted = _store(scratch / "feeds.npz", batches)
    given = (_HOME, str(model.resolve()), str(scratch), backend, str(threads))
    _call(on, [*on.command, sys.executable, "-P", "-c", _CHILD, *given], scratch, timeout)
    told = _told(scratch / "told.json")
    cpu = provenance.cpu() if on.cpu is None else _emulated(on, on.cpu, told["features"])
    return Ran(_outputs(scratch / "outputs.npz", wanted), cpu, float(told["seconds"]))


def _call(on: Machine, command: Sequence[str], folder: Path, timeout: float) -> None:
    try:
        # the folder is private, so that a relative PYTHONPATH leads to nobody's modules
        done = subprocess.run(  # noqa: S603  our own interpreter and code
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EvaluationError(
            f"the replay on {on.name} did not end within {timeout:,.0f} s: replay fewer examples "
            "with --examples"
        ) from error
    except OSError as error:
        raise EvaluationError(f"the replay on {on.name} could not start: {error}") from error
    if done.returncode:
        raise EvaluationError(f"the replay on {on.name} {_death(done.returncode, done.stderr)}")


def _death(code: int, told: str) -> str:
    """How a process ended, in words; a shell's 128 + signal counts as the signal."""
    number = -code if code < 0 else code - 128
    if number in {known.value for known in signal.Signals}:
        name = signal.Signals(number).name
        why = {
            "SIGKILL": "; out of memory? Replay fewer examples with --examples",
            "SIGILL": "; the runtime was built for a CPU with more instructions than this one",
        }
        return f"was killed by {name}{why.get(name, ', and nothing was compared')}"
    lines = [line for line in told.splitlines() if line.strip() and "TCG doesn't" not in line]
    return f"failed: {lines[-1].strip() if lines else f'exit code {code}, and no message'}"


def _told(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"features": list(found["features"]), "seconds": found["seconds"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"the replay's process left no result: {error}") from error


def _emulated(on: Machine, cpu: Cpu, features: Sequence[str]) -> dict[str, Any]:
    """The CPU as the process saw it, which is what chose its kernels."""
    missing = [name for name in cpu.features if name not in features]
    if missing:
        raise EvaluationError(
            f"{on.name}: this qemu does not emulate {', '.join(missing)}, which {cpu.model} has, "
            "so other kernels ran and nothing was compared: use qemu 7.2 or newer"
        )
    has = [ours for theirs, ours in _FEATURES.items() if theirs in features]
    return {
        "model": on.name,
        "architecture": "x86_64",
        "features": has,
        "vnni": "avx512_vnni" in has,
    }


# ── what goes in and comes out ────────────────────────────────────────────────────────────


def _store(file: Path, batches: Iterable[tuple[Mapping[str, Array], Array]]) -> list[Array]:
    """Write feeds as `<batch>/<input>`, a batch in memory at a time; which outputs are wanted."""
    wanted = []
    with zipfile.ZipFile(file, "w") as archive:
        for index, (feeds, places) in enumerate(batches):
            wanted.append(places)
            for name, value in feeds.items():
                with archive.open(f"{index}/{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, _storable(value), allow_pickle=False)
    return wanted


def _outputs(file: Path, wanted: Sequence[Array]) -> dict[str, Array]:
    """The wanted examples' outputs, batches joined."""
    parts: dict[str, list[Array]] = {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                index, _, name = key.partition("/")
                parts.setdefault(name, []).append(archive[key][wanted[int(index)]])
    except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise EvaluationError(f"the replay's process left no usable outputs: {error}") from error
    return {name: np.concatenate(values) for name, values in parts.items()}


def serve(model: str, folder: str, backend: str, threads: str) -> None:
    """In the process itself: load, run every batch, and leave the outputs in `folder`."""
    scratch = Path(folder)
    start = time.perf_counter()
    runner = backends.get(backend).open(Path(model), threads=int(threads))
    with np.load(scratch / "feeds.npz") as archive:
        found = _run_all(runner.run, archive)
    seconds = time.perf_counter() - start
    np.savez(scratch / "outputs.npz", **found)
    told = {"features": _features(), "seconds": round(seconds, 3)}
    (scratch / "told.json").write_text(json.dumps(told), encoding="utf-8")


def _run_all(run_batch: RunBatch, archive: Any) -> dict[str, Any]:
    keys: dict[str, list[str]] = {}
    for key in archive.files:
        keys.setdefault(key.partition("/")[0], []).append(key)
    found: dict[str, Any] = {}
    for index, names in keys.items():
        outputs = run_batch({key.partition("/")[2]: _runnable(archive[key]) for key in names})
        found |= {f"{index}/{name}": _storable(value) for name, value in outputs.items()}
    return found


def _features() -> list[str]:
    """What CPUID says; under qemu /proc/cpuinfo still shows the machine below."""
    home = "numpy._core" if int(np.__version__.partition(".")[0]) > 1 else "numpy.core"
    told = getattr(import_module(f"{home}._multiarray_umath"), "__cpu_features__", {})
    return [name for name, there in told.items() if there]


def _storable(value: Array) -> Array:
    return value.astype(str) if value.dtype == object else value


def _runnable(value: Any) -> Array:
    return np.asarray(value.astype(object) if value.dtype.kind == "U" else value)
