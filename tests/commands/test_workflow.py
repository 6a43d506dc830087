"""`gate workflow`: written, checked, planned."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gate import examples
from gate.cli import exit_code_of
from gate.examples import digits

OUT = Path(".github/workflows/gate.yml")
BIN = Path(sys.executable).parent


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's, with one policy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    shutil.copytree(examples.policies() / "digits", Path("policies/digits"))
    shutil.copyfile(digits.FOLDER / "cnn.onnx", "policies/digits/cnn.onnx")
    policy("digits")
    return tmp_path


def policy(name: str, candidate: str | None = "digits/cnn.onnx", suffix: str = ".yaml") -> Path:
    """Another policy of it."""
    spec = yaml.safe_load((examples.policies() / "digits.yaml").read_text(encoding="utf-8"))
    spec["model"] = re.sub(r"[^a-z]", "", name)[:50] or "model"
    if candidate is not None:
        spec["build"]["candidate"] = candidate
    path = Path("policies", name + suffix)
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def run(*words: str) -> int:
    return exit_code_of(["workflow", *words])


# ── init ──────────────────────────────────────────────────────────────────────────────────


def test_it_is_written_checked_and_clean(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init") == 0
    assert "gates digits. Commit it, and require the check `verdict`" in capsys.readouterr().out
    assert run("check") == 0
    assert capsys.readouterr().out == f"{OUT}: ok\n"
    text = OUT.read_text(encoding="utf-8")
    assert "#   policies/digits.yaml gates digits\n" in text
    assert list(yaml.safe_load(text)) == [
        *("name", True, "permissions", "concurrency", "defaults", "jobs")
    ]
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    "linter",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ["actionlint", "-shellcheck=", "-pyflakes="],
        ["zizmor", "--offline", "--no-progress"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("candidate", ["digits/cnn.onnx", "models:/digits/3", "digits/m.pt2"])
def test_linters_find_nothing(repository: Path, linter: list[str], candidate: str) -> None:
    policy("digits", candidate)
    policy("it's $(x) # 模型")
    assert run("init") == 0
    program = BIN / linter[0]
    if not program.exists():
        pytest.skip(f"{linter[0]} is not installed")
    done = subprocess.run([program, *linter[1:], OUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_installs_what_the_policies_need(repository: Path) -> None:
    policy("digits", "digits/m.pt2")
    policy("b", "models:/b/3")
    assert run("init") == 0
    text = OUT.read_text(encoding="utf-8")
    assert "PACKAGE: int8-gate[torch]==" in text
    assert "--stage pr --trust" in text
    assert "download.pytorch.org/whl/cpu" in text
    assert "MLFLOW_TRACKING_URI: ${{ vars.MLFLOW_TRACKING_URI }}" in text


def test_an_existing_file_is_kept(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OUT.parent.mkdir(parents=True)
    OUT.write_text("mine")
    assert run("init") == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert OUT.read_text() == "mine"
    assert run("init", "--force") == 0
    assert OUT.read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policies", "nothing/*.yaml"), "finds no policy"),
        (("--policies", "nothing.yaml"), "does not exist"),
        (("--policies", "policies/digits.yaml"), "policies/other.yml is gated nowhere"),
        (("--out", "policies"), "replace it with --force"),
        (("--out", "policies/digits.yaml/x.yml"), "cannot be written"),
    ],
)
def test_what_would_gate_nothing_is_not_written(
    repository: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    if "gated nowhere" in message:
        policy("other", suffix=".yml")
    assert run("init", *words) == 2
    assert message in capsys.readouterr().err
    assert not OUT.exists()


def test_a_policy_without_a_candidate_cannot_be_gated(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy("digits", None)
    assert run("init") == 2
    assert "digits.yaml:1:1: no `candidate` here, and in CI nobody names one" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("pattern", ["policies/${{ x }}[.]yaml", "policies/a\n*.yaml"])
def test_a_pattern_is_text_or_refused(
    repository: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    policy(pattern.removeprefix("policies/").replace("[.]yaml", "").replace("*.yaml", "x"))
    assert run("init", "--policies", pattern) == 2
    assert "by a plain glob" in capsys.readouterr().err


def test_hostile_file_names_stay_in_the_comment(repository: Path) -> None:
    policy("x\non: pull_request_target\n#" + "n" * 180)
    assert run("init") == 0
    assert list(yaml.safe_load(OUT.read_text())[True]) == [
        *("pull_request", "merge_group", "workflow_dispatch")
    ]
    assert run("check") == 0


# ── check ─────────────────────────────────────────────────────────────────────────────────


def test_findings_have_a_place_and_exit_with_2(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init") == 0
    OUT.write_text(OUT.read_text().replace("if: always()\n    needs", "needs"))
    Path(".github/workflows/broken.yaml").write_text("a: [")
    assert run("check") == 2
    told = capsys.readouterr()
    assert ": ok" not in told.out
    lines = told.err.splitlines()
    assert any(line.startswith(f"{OUT}:") and "no job can be required" in line for line in lines)
    assert any(line.startswith(".github/workflows/broken.yaml:") for line in lines)


def test_a_new_policy_has_to_be_gated(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init") == 0
    policy("other", suffix=".yml")
    assert run("check") == 2
    assert "policies/other.yml is gated nowhere; write it here" in capsys.readouterr().err


def test_a_named_file_is_held_to_everything(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path("other.yml")
    other.write_text("on: push\njobs: {a: {runs-on: x, steps: [{uses: a/b@v1}]}}\n")
    assert run("check", str(other)) == 2
    told = capsys.readouterr().err
    assert "other.yml:2:39: 'a/b@v1' is not pinned" in told
    assert "no `permissions:`" in told


def test_no_workflow_at_all(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check") == 2
    assert "write one with `gate workflow init`" in capsys.readouterr().err


def test_this_repositorys_own_are_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2]
    if not (root / ".github").is_dir():
        pytest.skip("the package is installed without its sources")
    monkeypatch.chdir(root)
    assert run("check") == 0, capsys.readouterr().err


DOCS = Path(__file__).parents[2] / "docs" / "ci.md"


@pytest.mark.skipif(not DOCS.is_file(), reason="the package is installed without its sources")
def test_the_examples_of_the_documentation_are_in_order(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```yaml\n(name: .*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        file = Path(f"{number}.yml")
        file.write_text(block, encoding="utf-8")
        code = run("check", str(file))
        told = capsys.readouterr().err
        # a release on a tag gates no pull request, and is not what does
        assert code == 0 or told.endswith("write `pull_request:` under `on:`\n"), told
        assert (code == 0) is ("tags:" not in block)


# ── matrix ────────────────────────────────────────────────────────────────────────────────


def planned(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    (line,) = capsys.readouterr().out.splitlines()
    return list(json.loads(line)["include"])


def test_each_policy_is_one_job(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy("a b")
    Path("policies/waivers.yaml").touch()  # lies beside them, and is none
    assert run("matrix", "policies/*.yaml", "policies/digits.yaml") == 0
    jobs = planned(capsys)
    assert [job["policy"] for job in jobs] == ["policies/a b.yaml", "policies/digits.yaml"]
    assert jobs[0]["id"].startswith("a-b-")


def test_two_hundred_policies(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(200):
        Path(f"policies/m{number:03}.yaml").touch()
    assert run("matrix", "policies/m*.yaml") == 0
    assert len({job["id"] for job in planned(capsys)}) == 200
    for number in range(200, 257):
        Path(f"policies/m{number:03}.yaml").touch()
    assert run("matrix", "policies/m*.yaml") == 2
    assert "GitHub runs at most 256 jobs of a matrix" in capsys.readouterr().err


def test_a_file_named_like_the_glob_hides_no_policy(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("policies/*.yaml").touch()
    assert run("matrix", "policies/*.yaml") == 0
    assert [job["policy"] for job in planned(capsys)] == ["policies/*.yaml", "policies/digits.yaml"]


def test_a_name_that_is_not_there_is_no_empty_matrix(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("matrix", "policies/digit.yaml") == 2
    assert "policies/digit.yaml does not exist" in capsys.readouterr().err


def git(*words: str) -> None:
    name = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], check=True, capture_output=True)


def test_only_what_a_change_concerns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy("other")
    policy("gone")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("checkout", "-qb", "change")
    assert run("matrix", "policies/*.yaml", "--changed-since", "main") == 0
    assert planned(capsys) == []
    with Path("policies/other.yaml").open("a") as stream:
        stream.write("# a comment\n")
    Path("policies/gone.yaml").unlink()
    assert run("matrix", "policies/*.yaml", "--changed-since", "main") == 0
    told = capsys.readouterr()
    assert [job["name"] for job in json.loads(told.out)["include"]] == ["other"]
    assert "policies/gone.yaml was there at main and is not any more" in told.err
    assert run("matrix", "policies/*.yaml", "--changed-since", "nowhere") == 2


# ── unpack ────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_holds_something_is_left_alone(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("unpack", "--out", "policies", "a.zip") == 2
    assert "is not empty" in capsys.readouterr().err
    assert run("unpack", "--out", "new", "a.zip") == 4
    assert "a.zip cannot be unpacked" in capsys.readouterr().err
