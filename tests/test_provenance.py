"""What else a verdict depends on is recorded, and what cannot be told reads as unknown."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate import provenance as room

VNNI = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512bw avx512_vnni avx_vnni amx_tile amx_int8
bugs\t\t: spectre_v1

processor\t: 1
model name\t: another core
flags\t\t: fpu
"""
HASWELL = """\
processor\t: 0
model name\t: Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz
flags\t\t: fpu sse4_2 avx avx2 fma
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""
APPLE_ARM = """\
machdep.cpu.brand_string: Apple M2 Pro
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.floatingpoint: 1
"""
APPLE_M1 = """\
machdep.cpu.brand_string: Apple M1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
"""
APPLE_INTEL = """\
machdep.cpu.brand_string: Intel(R) Core(TM) i7-1068NG7 CPU @ 2.30GHz
machdep.cpu.features: FPU SSE4.2 AVX1.0
machdep.cpu.leaf7_features: AVX2 AVX512F AVX512VNNI
"""


# ── CPU ───────────────────────────────────────────────────────────────────────────────────


def test_x86_with_vnni_names_every_feature_that_int8_kernels_use() -> None:
    assert room.from_cpuinfo(VNNI, "x86_64") == {
        "model": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "architecture": "x86_64",
        "features": ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"],
        "vnni": True,
    }


def test_x86_without_vnni_says_so() -> None:
    cpu = room.from_cpuinfo(HASWELL, "x86_64")
    assert cpu["features"] == ["avx2"]
    assert cpu["vnni"] is False


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_either_vnni_is_vnni(flag: str) -> None:
    assert room.from_cpuinfo(f"flags : avx2 {flag}", "x86_64")["vnni"] is True


@pytest.mark.parametrize("flags", ["avx512_vnni_", "xavx_vnni", "avx512_vnni2", ""])
def test_a_flag_that_only_resembles_vnni_is_not_vnni(flags: str) -> None:
    assert room.from_cpuinfo(f"flags : {flags}", "x86_64")["vnni"] is False


def test_arm_has_its_own_features_and_is_named_by_implementer_and_part() -> None:
    assert room.from_cpuinfo(GRAVITON, "aarch64") == {
        "model": "implementer 0x41 part 0xd40",
        "architecture": "aarch64",
        "features": ["asimddp", "i8mm"],
        "vnni": False,
    }


@pytest.mark.parametrize("text", ["", "\n\n", "no colons here", ":::\n: :", "flags", "\x00\ufffd"])
def test_garbage_leaves_the_architecture_alone(text: str) -> None:
    unknown = {"model": "", "architecture": "riscv64", "features": [], "vnni": False}
    assert room.from_cpuinfo(text, "riscv64") == unknown
    assert room.from_sysctl(text, "riscv64") == unknown


@given(st.text())
def test_no_text_makes_it_raise_or_invent_a_feature(text: str) -> None:
    known = {*room.X86_FEATURES, *room.ARM_FEATURES}
    for parse in (room.from_cpuinfo, room.from_sysctl):
        cpu = parse(text, "x86_64")
        assert set(cpu["features"]) <= known
        assert cpu["vnni"] == bool({"avx512_vnni", "avx_vnni"} & set(cpu["features"]))


@pytest.mark.parametrize(
    ("text", "features", "vnni"),
    [
        (APPLE_ARM, ["asimddp", "i8mm"], False),
        (APPLE_M1, ["asimddp"], False),
        (APPLE_INTEL, ["avx2", "avx512f", "avx512_vnni"], True),
    ],
)
def test_macos_speaks_through_sysctl(text: str, features: list[str], vnni: bool) -> None:
    cpu = room.from_sysctl(text, "any")
    assert (cpu["features"], cpu["vnni"]) == (features, vnni)
    assert cpu["model"] == text.splitlines()[0].partition(": ")[2]


def test_linux_reads_proc_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(VNNI)
    monkeypatch.setattr(room, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert room.cpu() == room.from_cpuinfo(VNNI, "x86_64")


def test_macos_asks_sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "sysctl", f"cat <<'END'\n{APPLE_ARM}END")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert room.cpu() == room.from_sysctl(APPLE_ARM, "arm64")


def test_a_system_that_tells_nothing_is_unknown_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    monkeypatch.setattr(platform, "machine", lambda: "mips")
    assert room.cpu() == {"model": "", "architecture": "mips", "features": [], "vnni": False}


# ── git ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet")
    return folder


def _commit(repository: Path) -> str:
    (repository / "policy.yaml").write_text("version: 1\n")
    _git(repository, "add", ".")
    person = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    _git(repository, *person, "commit", "--quiet", "-m", "first")
    return _git(repository, "rev-parse", "HEAD")


def test_a_clean_folder_is_its_commit(repository: Path) -> None:
    commit = _commit(repository)
    assert len(commit) == 40
    assert room.git_commit(repository) == commit


def test_a_folder_inside_the_repository_has_its_commit(repository: Path) -> None:
    commit = _commit(repository)
    (repository / "inside").mkdir()
    assert room.git_commit(repository / "inside") == commit


def test_a_changed_file_is_dirty(repository: Path) -> None:
    commit = _commit(repository)
    (repository / "policy.yaml").write_text("version: 2\n")
    assert room.git_commit(repository) == f"{commit}-dirty"


def test_a_staged_change_is_dirty(repository: Path) -> None:
    commit = _commit(repository)
    (repository / "model.onnx").write_text("new")
    _git(repository, "add", ".")
    assert room.git_commit(repository) == f"{commit}-dirty"


def test_files_that_a_run_leaves_behind_are_not_dirt(repository: Path) -> None:
    commit = _commit(repository)
    (repository / "mlflow.db").write_text("")
    assert room.git_commit(repository) == commit


def test_what_cannot_be_compared_counts_as_dirty(repository: Path) -> None:
    commit = _commit(repository)
    (repository / ".git" / "index").write_bytes(b"not an index")
    assert room.git_commit(repository) == f"{commit}-dirty"


def test_before_the_first_commit_there_is_none(repository: Path) -> None:
    assert room.git_commit(repository) is None


def test_outside_git_and_in_a_missing_folder_there_is_none(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = repository.parent
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(outside.parent))
    assert room.git_commit(outside) is None
    assert room.git_commit(outside / "missing") is None


def test_a_hook_of_another_repository_does_not_lend_its_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _commit(repository)
    outside = repository.parent
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(outside.parent))
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert room.git_commit(outside) is None


def test_without_git_there_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _commit(repository)
    monkeypatch.setenv("PATH", str(repository))
    assert room.git_commit(repository) is None


def test_a_git_that_hangs_is_given_up(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(repository.parent / "git", "exec sleep 60")
    monkeypatch.setenv("PATH", str(repository.parent), prepend=os.pathsep)
    monkeypatch.setattr(room, "_TIMEOUT_S", 0.05)
    assert room.git_commit(repository) is None


def test_a_program_named_by_the_repository_does_not_run(repository: Path) -> None:
    _commit(repository)
    trace = repository.parent / "ran"
    _program(repository.parent / "monitor", f"touch '{trace}'")
    _git(repository, "config", "core.fsmonitor", str(repository.parent / "monitor"))
    room.git_commit(repository)
    assert not trace.exists()


# ── the whole ─────────────────────────────────────────────────────────────────────────────


def _provenance(versions: dict[str, str], folder: Path) -> room.Provenance:
    return room.provenance(
        folder, versions=versions, seed=7, policy_sha256="ab" * 32, threads=2, batch_size=64
    )


def test_it_holds_what_it_was_given_and_what_it_found(tmp_path: Path) -> None:
    made = _provenance({"onnxruntime": "1.31.1", "onnx": "1.23.2"}, tmp_path)
    assert (made.seed, made.policy_sha256, made.threads, made.batch_size) == (7, "ab" * 32, 2, 64)
    assert list(made.versions) == ["gate", "numpy", "onnx", "onnxruntime", "python"]
    assert made.versions["numpy"] == np.__version__
    assert made.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert made.versions["onnxruntime"] == "1.31.1"
    assert made.cpu == room.cpu()


def test_a_backend_cannot_speak_for_the_gate(tmp_path: Path) -> None:
    assert _provenance({"numpy": "0.0"}, tmp_path).versions["numpy"] == np.__version__


def test_a_distribution_that_is_not_installed_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise room.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(room.metadata, "version", missing)
    monkeypatch.setattr(room, "_installed", room._installed.__wrapped__)  # nothing remembered
    assert _provenance({}, Path()).versions["gate"] == "not installed"


def test_it_survives_json(tmp_path: Path) -> None:
    made = _provenance({}, tmp_path)
    assert room.Provenance.model_validate_json(made.model_dump_json()) == made


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
