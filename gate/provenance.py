"""What else a verdict depends on: source commit, library versions, CPU features, seeds."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from gate.records import Provenance

X86_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM_FEATURES = ("asimddp", "i8mm")
_SYSCTL_ARM = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_OTHER_REPOSITORY = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"})
_TIMEOUT_S = 10.0
_CPUINFO = Path("/proc/cpuinfo")


def provenance(
    folder: Path,
    *,
    versions: Mapping[str, str],
    seed: int,
    policy_sha256: str,
    threads: int,
    batch_size: int,
    plugins: Mapping[str, str] | None = None,
) -> Provenance:
    """Everything that a verdict depends on and that no other field of the record holds.

    `versions` are the backend's libraries; python, gate and numpy are added here. `folder` is
    where git is asked for a commit; `plugins` are sha256 by file name. Raises nothing: what cannot
    be told reads as unknown.
    """
    own = {
        "python": platform.python_version(),
        "gate": _installed("int8-gate"),
        "numpy": _installed("numpy"),
    }
    return Provenance(
        git=git_commit(folder),
        versions=dict(sorted({**versions, **own}.items())),
        cpu=cpu(),
        seed=seed,
        policy_sha256=policy_sha256,
        threads=threads,
        batch_size=batch_size,
        plugins=dict(plugins or {}),
    )


def environment(versions: Mapping[str, str]) -> dict[str, Any]:
    """What has to be the same for the same bits: `versions`, `features` of the CPU, `code`.

    `versions` are the backend's libraries; python and numpy are added here.
    """
    own = {"python": platform.python_version(), "numpy": _installed("numpy")}
    here = cpu()
    return {
        "versions": dict(sorted({**versions, **own}.items())),
        "features": [here["architecture"], *here["features"]],
        "code": code_sha256(),
    }


@cache
def code_sha256() -> str:
    """Of the gate's own Python, every file with its name."""
    home = Path(__file__).parent
    state = sha256()
    for file in sorted(home.rglob("*.py")):
        state.update(f"{file.relative_to(home).as_posix()}\0".encode())
        state.update(sha256(file.read_bytes()).digest())
    return state.hexdigest()


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` is at, with `-dirty` where tracked files differ from it.

    None outside a repository, before its first commit, and where git is missing or refuses. A
    commit whose files cannot be compared counts as dirty: nobody has shown that it is clean.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit if changes == "" else f"{commit}-dirty"


def cpu() -> dict[str, Any]:
    """This machine's CPU: `model`, `architecture`, `features` that INT8 kernels use, `vnni`.

    `vnni` is whether u8×s8 products are accumulated without saturation on x86. Where the system
    does not tell, `model` is empty, `features` too, and `vnni` is False.
    """
    architecture = platform.machine()
    if platform.system() == "Darwin":
        return from_sysctl(_output(["sysctl", "machdep.cpu", "hw.optional"]) or "", architecture)
    return from_cpuinfo(_read(_CPUINFO), architecture)


def from_cpuinfo(text: str, architecture: str) -> dict[str, Any]:
    """The CPU that the text of Linux's `/proc/cpuinfo` describes; its first processor counts."""
    fields = _fields(text)
    flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    return _cpu(fields.get("model name") or _arm_model(fields), architecture, flags)


def from_sysctl(text: str, architecture: str) -> dict[str, Any]:
    """The CPU that macOS's `sysctl machdep.cpu hw.optional` describes."""
    fields = _fields(text)
    intel = (
        f"{fields.get('machdep.cpu.features', '')} {fields.get('machdep.cpu.leaf7_features', '')}"
    )
    spelled = {name.replace("_", "").upper(): name for name in X86_FEATURES}
    flags = [spelled[token] for token in intel.replace("_", "").upper().split() if token in spelled]
    flags += [name for key, name in _SYSCTL_ARM.items() if fields.get(key) == "1"]
    return _cpu(fields.get("machdep.cpu.brand_string", ""), architecture, flags)


def _cpu(model: str, architecture: str, flags: Sequence[str]) -> dict[str, Any]:
    features = [name for name in (*X86_FEATURES, *ARM_FEATURES) if name in flags]
    return {
        "model": model,
        "architecture": architecture,
        "features": features,
        "vnni": not _VNNI.isdisjoint(features),
    }


def _fields(text: str) -> dict[str, str]:
    """`key : value` lines; the first of each key, which is the first processor's."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _arm_model(fields: Mapping[str, str]) -> str:
    """ARM kernels give no model name, only who made the core and which it is."""
    named = {"implementer": "CPU implementer", "part": "CPU part"}
    return " ".join(f"{word} {fields[key]}" for word, key in named.items() if fields.get(key))


@cache  # what is loaded stays as it is, and its metadata are a long text to parse
def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _git(folder: Path, *arguments: str) -> str | None:
    # fsmonitor names a program to run in the repository's own configuration
    return _output(["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments])


def _output(command: Sequence[str]) -> str | None:
    """What `command` prints, stripped; None where it is missing, fails or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  a fixed program, no shell
            [program, *command[1:]],
            capture_output=True,
            check=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Without what a git hook sets: it would name another repository than the folder's."""
    kept = {key: value for key, value in os.environ.items() if key not in _OTHER_REPOSITORY}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
