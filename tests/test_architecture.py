"""What the import contracts cannot say: sizes, public names, what start-up costs, the pins."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import gate

PACKAGE = Path(gate.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DOORS = ("backends", "engines", "formats", "reporters", "tasks", "trackers")
LONGEST_FUNCTION = 60
LONGEST_FILE = 400

PUBLIC = ["Finished", "GateError", "GateRecord", "Policy", "load_policy", "run_gate"]
HEAVY = ("mlflow", "onnx", "onnxruntime", "pandas", "pyarrow", "ray", "scipy", "sklearn", "torch")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ── sizes ─────────────────────────────────────────────────────────────────────────────────


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{_name(path)}: {function} has {lines} lines"
        for path in MODULES
        for function, lines in _functions(path)
        if lines > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_file_is_longer_than_its_subject() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


# ── names ─────────────────────────────────────────────────────────────────────────────────


def test_the_public_names_are_these() -> None:
    assert sorted(gate.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gate, name).__name__ == name


def test_any_other_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        gate.quantise  # noqa: B018


# ── doors ─────────────────────────────────────────────────────────────────────────────────


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _belongs_to(module: str, owner: str) -> bool:
    return module == owner or module.startswith(f"_{owner}_")


def _strangers(door: str) -> list[str]:
    """Imports inside a door from one implementation into another's modules."""
    stems = {path.stem: path for path in (PACKAGE / door).glob("*.py") if path.stem != "__init__"}
    owners = [stem for stem in stems if not stem.startswith("_")]
    found = []
    for stem, path in stems.items():
        mine = {owner for owner in owners if _belongs_to(stem, owner)}
        assert mine or stem.startswith("_"), f"{_name(path)} is behind no key"
        for other in stems.keys() - {stem}:
            # what belongs to none is shared by all that stand behind the door
            theirs = any(_belongs_to(other, owner) for owner in {*owners} - mine)
            if theirs and f"gate.{door}.{other}" in _imported(path):
                found.append(f"{_name(path)} imports gate.{door}.{other}")
    return found


@pytest.mark.parametrize("door", DOORS)
def test_implementations_behind_a_door_do_not_know_each_other(door: str) -> None:
    assert _strangers(door) == []


# ── start-up ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["gate", "gate.cli", "gate.__main__"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# ── pins ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def project() -> dict:
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        pytest.skip("the package is installed without its sources")
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {_normal(name): version for name, _, version in pins}


def test_everything_that_is_asked_for_is_pinned(project: dict) -> None:
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["torch"], *extras["dev"]]
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in asked}
    assert names - _pins().keys() == set()


def test_every_pin_is_one_exact_public_version(project: dict) -> None:
    """A local version such as 2.13.0+cpu exists on no public index."""
    exact = re.compile(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)?")
    assert {name: pin for name, pin in _pins().items() if not exact.fullmatch(pin)} == {}


def test_the_installed_version_is_the_projects(project: dict) -> None:
    try:
        installed = metadata.version("int8-gate")
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from its sources, not installed")
    assert installed == project["version"]
    assert vars(gate).get("__version__", installed) == installed
