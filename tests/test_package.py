"""What is shipped, and what it is made with: the wheel, the locks, the pins of actions."""

import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / ".github" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
METADATA = f"int8_gate-{PROJECT['version']}.dist-info"
FORGE = sorted(path for end in ("yml", "yaml") for path in (ROOT / ".github").rglob(f"*.{end}"))
DATA = {
    "gate": {".typed"},
    "gate/examples/digits": {".onnx"},
    "gate/examples/languages": {".onnx"},
    "gate/examples/scenes": {".onnx"},
    "gate/examples/policies": {".yaml"},
    "gate/examples/policies/digits": {".npz"},
    "gate/examples/policies/languages": {".json", ".jsonl"},
    "gate/examples/policies/library": {".yaml"},
    "gate/examples/policies/scenes": {".npz"},
    "gate/explanations": {".md"},
}
"""Where the wheel holds what is no Python, and of which kinds."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = out.iterdir()
    with zipfile.ZipFile(file) as opened:
        yield opened


# ── the wheel ─────────────────────────────────────────────────────────────────────────────


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"gate", METADATA}


def test_every_module_and_every_policy_is_in_it(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gate").rglob("*.py")}
    policies = {
        f"gate/examples/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "policies").rglob("*.yaml")
    }
    assert modules | policies <= set(wheel.namelist())


def test_what_is_no_python_is_data_that_is_known(wheel: zipfile.ZipFile) -> None:
    found: dict[str, set[str]] = {}
    for name in map(PurePosixPath, wheel.namelist()):
        if name.parts[0] == "gate" and name.suffix != ".py":
            found.setdefault(str(name.parent), set()).add(name.suffix)
    assert found == DATA


def test_no_file_in_it_is_like_a_key(wheel: zipfile.ZipFile) -> None:
    """Keys in PEM, and tokens of GitHub, PyPI, AWS and Hugging Face by their beginnings."""
    secret = re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]"
        rb"|\b(?:ghp_|github_pat_|pypi-AgE|AKIA|hf_)[A-Za-z0-9_-]{16}"
    )
    assert [name for name in wheel.namelist() if secret.search(wheel.read(name))] == []


def test_the_command_is_an_entry_point(wheel: zipfile.ZipFile) -> None:
    points = ConfigParser()
    points.read_string(wheel.read(f"{METADATA}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == PROJECT["scripts"]


def test_the_metadata_are_what_a_pinned_uploader_reads(wheel: zipfile.ZipFile) -> None:
    told = HeaderParser().parsestr(wheel.read(f"{METADATA}/METADATA").decode())
    assert (told["Metadata-Version"], told["Name"]) == ("2.4", PROJECT["name"])
    needed = {one for one in told.get_all("Requires-Dist") or [] if "extra ==" not in one}
    assert {one.replace(" ", "") for one in needed} == set(PROJECT["dependencies"])


# ── the locks ─────────────────────────────────────────────────────────────────────────────


def pinned(file: Path) -> dict[str, str]:
    lines = file.read_text("utf-8").splitlines()
    pins = (line.partition("==") for line in lines if re.match(r"[A-Za-z]", line))
    return {re.sub(r"[-_.]+", "-", name).lower(): version.split()[0] for name, _, version in pins}


def hashes(lock: str) -> dict[str, set[str]]:
    """Those of each package of a lock, by name."""
    entries = re.split(r"\n(?=\S)", (LOCKS / lock).read_text("utf-8"))
    return {
        entry.partition("==")[0]: set(re.findall(r"--hash=sha256:([0-9a-f]{64})(?!\S)", entry))
        for entry in entries
        if "==" in entry
    }


def test_the_lock_of_ci_is_what_is_pinned() -> None:
    assert pinned(LOCKS / "ci.txt") == pinned(ROOT / "constraints.txt")


def test_the_wheels_lock_is_of_the_same_versions() -> None:
    locked = pinned(LOCKS / "wheel.txt")
    assert locked.items() <= pinned(ROOT / "constraints.txt").items()
    asked = {re.split(r"[^A-Za-z0-9-]", one)[0] for one in PROJECT["dependencies"]}
    assert asked <= locked.keys()


def test_the_tools_are_locked() -> None:
    asked = (LOCKS / "tools.in").read_text("utf-8").splitlines()
    locked = pinned(LOCKS / "tools.txt")
    assert {line for line in asked if not line.startswith("#")} <= locked.keys()
    both = locked.keys() & pinned(ROOT / "constraints.txt").keys()
    assert all(locked[name] == pinned(ROOT / "constraints.txt")[name] for name in both)


@pytest.mark.parametrize("lock", ["ci.txt", "wheel.txt", "tools.txt"])
def test_everything_locked_has_a_hash(lock: str) -> None:
    found = hashes(lock)
    assert len(found) == len(pinned(LOCKS / lock)) > 50
    assert [name for name, known in found.items() if not known] == []
    told = (LOCKS / lock).read_text("utf-8").count("--hash=")
    assert told == sum(map(len, found.values())), "some are no sha256"


def test_torch_is_locked_to_its_cpu_builds() -> None:
    lines = (LOCKS / "torch-cpu.sha256").read_text("utf-8").splitlines()
    builds = dict(reversed(line.split()) for line in lines)
    version = pinned(ROOT / "constraints.txt")["torch"]
    assert set(builds) == {
        f"torch-{version}+cpu-{cpython}-{cpython}-manylinux_2_28_x86_64.whl"
        for cpython in ("cp311", "cp312")
    }
    assert hashes("ci.txt")["torch"] == set(builds.values())


# ── the forge ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", FORGE, ids=lambda file: file.name)
def test_every_action_is_pinned_by_a_commit(file: Path) -> None:
    """`$/` is this repository, at the same commit."""
    used = re.findall(r"^\s*(?:- )?uses:\s*(\S+)", file.read_text("utf-8"), re.MULTILINE)
    loose = [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}|\$/[\w./-]+", one)]
    assert loose == []


def test_a_release_has_its_identity_in_one_job_that_runs_nothing_of_the_repository() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert (release["permissions"], build["permissions"]) == ({}, {"contents": "read"})
    assert release["jobs"].keys() == {"build", "publish"}
    assert (publish["needs"], publish["environment"]) == ("build", "pypi")
    assert publish["permissions"] == dict.fromkeys(
        ("actions", "attestations", "id-token"), "read"
    ) | {"attestations": "write", "id-token": "write"}
    used = [step["uses"].partition("@")[0] for step in publish["steps"] if "uses" in step]
    assert used == ["actions/attest", "actions/attest", "pypa/gh-action-pypi-publish"]
    assert "secrets." not in str(release)


def test_ci_installs_by_hash_before_it_tests() -> None:
    check = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text("utf-8"))
    ran = [step["run"] for step in check["jobs"]["check"]["steps"] if "run" in step]
    assert ran == ["make locked PYTHON=python", ".ci/run"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"^LOCKED := .* --no-deps --require-hashes$", makefile, re.MULTILINE)
