"""`gate run --changed-since`: which policies a change concerns."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.clone import Clone
from support.project import CNN, Project

from gate.cli import exit_code_of
from gate.commands._changed import changed, expanded, looked_at, removed
from gate.commands.schema import schema
from gate.errors import UsageError
from gate.policy_file import load_policy

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
OPTIONS = ["--candidate", str(CNN), "--tracker", "none", "--out", "out"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    for name in ("GITHUB_ACTIONS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    made = Clone(tmp_path / "clone")
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture
def project(clone: Clone) -> Project:
    """Two policies: `one/policy.yaml` names all that a policy can, `two/policy.yaml` little."""
    for name in ("one", "two"):
        (clone.folder / name).mkdir()
        Project(clone.folder / name)
    one = Project(clone.folder / "one")
    for name in ("before.onnx", "after.onnx", "tuning.npz", "plugin.py", "train.py"):
        (one.folder / name).write_bytes(name.encode())
    shutil.copyfile(CNN, one.folder / "model.onnx")
    (one.folder / "src").mkdir()
    (one.folder / "src" / "deep").mkdir()
    (one.folder / "src" / "deep" / "net.py").write_text("1\n")
    one.spec["build"] |= {
        "candidate": "model.onnx",
        "tuning": {"path": "tuning.npz"},
        "preprocess": {"graph": "before.onnx"},
        "decode": {"as": "logits", "graph": "after.onnx"},
        "code": ["train.py", "src/**/*.py"],
    }
    (one.folder / "base.yaml").write_text(yaml.safe_dump({"judge": one.spec.pop("judge")}))
    one.spec["extends"] = "base.yaml"
    one.write()
    (clone.folder / ".gitignore").write_text(".gate/\nout/\n")
    clone.branch()
    return one


BOTH = ["one/policy.yaml", "two/policy.yaml"]
ALL = "*/policy.yaml"


def touch(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\n#\n")


def test_nothing_changed_concerns_nothing(project: Project) -> None:
    assert changed(BOTH, "main") == []


@pytest.mark.parametrize(
    "name",
    ["policy.yaml", "base.yaml", "held_out.npz", "calibration.npz", "tuning.npz", "model.onnx",
     "before.onnx", "after.onnx", "train.py", "src/deep/net.py"],
)  # fmt: skip
def test_what_a_policy_names_concerns_it_alone(project: Project, name: str) -> None:
    touch(project.folder / name)
    assert changed([ALL], "main") == ["one/policy.yaml"]


@pytest.mark.parametrize("how", ["staged", "committed"])
def test_staged_and_committed_changes_count(clone: Clone, project: Project, how: str) -> None:
    touch(project.folder / "held_out.npz")
    clone.git("add", "-A")
    if how == "committed":
        clone.commit()
    assert changed([ALL], "main") == ["one/policy.yaml"]


@pytest.mark.parametrize(
    "name", ["model.onnx.data", "waivers.yaml", "src/new.py", "held_out.npz.dvc"]
)
def test_a_new_file_counts(project: Project, name: str) -> None:
    touch(project.folder / name)
    assert changed(BOTH, "main") == ["one/policy.yaml"]


@pytest.mark.parametrize("name", ["README.md", "train.py.bak", "src/notes.txt", "plugin.py"])
def test_other_files_concern_nobody(project: Project, name: str) -> None:
    touch(project.folder / name)
    assert changed(BOTH, "main") == []


def test_a_file_that_is_gone_concerns_who_names_it(project: Project) -> None:
    (project.folder / "train.py").unlink()
    assert changed(BOTH, "main") == ["one/policy.yaml"]


def test_a_staged_change_counts_though_the_file_is_as_it_was(
    clone: Clone, project: Project
) -> None:
    before = project.policy.read_bytes()
    touch(project.policy)
    clone.git("add", "-A")
    project.policy.write_bytes(before)
    assert changed(BOTH, "main") == ["one/policy.yaml"]


def test_what_changed_on_the_base_meanwhile_is_not_this_change(
    clone: Clone, project: Project
) -> None:
    clone.git("checkout", "-q", "main")
    touch(project.policy)
    clone.commit()
    clone.git("checkout", "-q", "work")
    assert changed(BOTH, "main") == []


def test_a_folder_of_data_counts_with_all_below_it(clone: Clone, project: Project) -> None:
    two = Project(clone.folder / "two")
    (two.folder / "pictures" / "cat").mkdir(parents=True)
    (two.folder / "pictures" / "cat" / "0.png").write_bytes(b"0")
    source = {"path": "pictures", "format": "image_folder"}
    two.spec["judge"]["held_out"] = source
    two.write()
    clone.commit()
    clone.git("branch", "-f", "main")
    touch(two.folder / "pictures" / "cat" / "1.png")
    assert changed(BOTH, "main") == ["two/policy.yaml"]


def test_pictures_that_a_file_names_count(clone: Clone, project: Project) -> None:
    from PIL import Image

    (project.folder / "img").mkdir()
    Image.new("RGB", (4, 4)).save(project.folder / "img" / "a.png")
    boxes = {"images": [{"id": 1, "file_name": "img/a.png", "width": 4, "height": 4}],
             "categories": [{"id": 1, "name": "x"}], "annotations": []}  # fmt: skip
    (project.folder / "boxes.json").write_text(json.dumps(boxes))
    base = yaml.safe_load((project.folder / "base.yaml").read_text())
    base["judge"]["held_out"] = {"path": "boxes.json", "format": "coco"}
    (project.folder / "base.yaml").write_text(yaml.safe_dump(base))
    clone.commit()
    clone.git("branch", "-f", "main")
    assert changed([project.policy], "main") == []
    Image.new("RGB", (4, 4), "red").save(project.folder / "img" / "a.png")
    assert changed([project.policy], "main") == [str(project.policy)]
    clone.git("checkout", "--", ".")
    (project.folder / "boxes.json").write_text("{")
    assert changed([project.policy], "main") == [str(project.policy)]


def test_a_linked_file_counts_where_it_leads(clone: Clone, project: Project) -> None:
    (clone.folder / "shared.npz").write_bytes((project.folder / "held_out.npz").read_bytes())
    (project.folder / "held_out.npz").unlink()
    (project.folder / "held_out.npz").symlink_to("../shared.npz")
    clone.commit()
    clone.git("branch", "-f", "main")
    touch(clone.folder / "shared.npz")
    assert changed(BOTH, "main") == ["one/policy.yaml"]


def test_a_policy_that_cannot_be_read_counts(project: Project) -> None:
    project.policy.write_text("version: [")
    (found, _) = looked_at(BOTH, "main")
    assert "cannot be read" in found.because[0]
    assert changed(BOTH, "main") == ["one/policy.yaml"]


def test_what_no_revision_shows_is_told(clone: Clone, project: Project) -> None:
    two = Project(clone.folder / "two")
    two.spec["judge"]["held_out"]["path"] = "s3://bucket/held_out.npz"
    two.spec["build"]["calibration"]["path"] = str(clone.folder.parent / "calibration.npz")
    two.spec["build"]["candidate"] = "models:/digits/1"
    two.spec["build"]["tuning"] = {"path": "fetched.npz"}
    (clone.folder / ".gitignore").write_text("fetched.npz\n")
    (two.folder / "fetched.npz").write_bytes(b"fetched")
    two.write()
    clone.commit()
    (found,) = looked_at(["two/policy.yaml"], "HEAD")
    assert found.because == ()
    words = "; ".join(found.unseen)
    for word in ("by its pin alone", "outside the repository", "in a registry", "ignored by git"):
        assert word in words


def test_a_submodule_counts_as_a_whole_and_is_not_entered(clone: Clone, project: Project) -> None:
    other = Clone(clone.folder.parent / "other")
    shutil.copyfile(project.folder / "held_out.npz", other.folder / "held_out.npz")
    other.commit()
    clone.git("submodule", "--quiet", "add", other.folder.as_uri(), "sub")
    two = Project(clone.folder / "two")
    two.spec["judge"]["held_out"]["path"] = "../sub/held_out.npz"
    two.write()
    clone.commit()
    clone.git("branch", "-f", "main")
    assert changed(BOTH, "main") == []
    touch(clone.folder / "sub" / "held_out.npz")
    assert changed(BOTH, "main") == []  # nothing that this repository would hold
    clone.git("add", "-A", at=clone.folder / "sub")
    clone.git("commit", "-qm", "other data", at=clone.folder / "sub")
    assert changed(BOTH, "main") == ["two/policy.yaml"]


@pytest.mark.parametrize(
    "name",
    ["with space", "quo'te\"", "$(touch pwned)", "new\nline", "-rf", ":(glob)**", "[a]", "ünï ✓"],
)
def test_hostile_names_are_names(clone: Clone, project: Project, name: str) -> None:
    folder = clone.folder / name
    shutil.copytree(clone.folder / "two", folder)
    clone.commit()
    clone.git("branch", "-f", "main")
    policy = f"{name}/policy.yaml"
    assert changed([policy], "main") == []
    touch(folder / "held_out.npz")
    assert changed([policy, "two/policy.yaml"], "main") == [policy]
    assert not (clone.folder / "pwned").exists()


def test_a_shallow_clone_says_how_to_fetch(clone: Clone, project: Project) -> None:
    touch(project.policy)
    clone.commit()
    shallow = clone.folder.parent / "shallow"
    clone.git("clone", "-q", "--depth=1", clone.folder.as_uri(), str(shallow))
    with pytest.raises(UsageError, match="fetch-depth"):
        changed([str(shallow / "two" / "policy.yaml")], "origin/main")
    clone.git("fetch", "-q", "--depth=1", "origin", "main:main", at=shallow)
    with pytest.raises(UsageError, match="fetch-depth"):
        changed([str(shallow / "two" / "policy.yaml")], "main")


# ── globs ─────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_called_like_a_glob_hides_no_policy(project: Project) -> None:
    (project.folder / "*.yaml").write_text("version: 1\n")
    assert expanded(["one/*.yaml"]) == ["one/*.yaml", "one/base.yaml", "one/policy.yaml"]


def test_globs_are_expanded_and_sorted(project: Project) -> None:
    assert expanded([ALL]) == BOTH
    assert expanded(["two/policy.yaml", ALL]) == ["two/policy.yaml", "one/policy.yaml"]
    assert expanded(["a.yaml", "a.yaml"]) == ["a.yaml", "a.yaml"]
    touch(project.folder / "waivers.yaml")
    assert expanded(["one/*.yaml"]) == ["one/base.yaml", "one/policy.yaml"]


def test_a_glob_that_fits_nothing_is_wrong(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["run", "none/*.yaml", *OPTIONS]) == 2
    assert "no file fits none/*.yaml" in capsys.readouterr().err


def test_a_file_with_wildcards_in_its_name_is_that_file(project: Project) -> None:
    shutil.copyfile(project.folder / "base.yaml", project.folder / "[b]ase.yaml")
    assert expanded(["one/[b]ase.yaml"]) == ["one/[b]ase.yaml", "one/base.yaml"]


def test_what_a_glob_fitted_and_is_gone_is_known(clone: Clone, project: Project) -> None:
    (clone.folder / "two" / "policy.yaml").unlink()
    assert removed([ALL], "main") == ["two/policy.yaml"]
    assert removed(["*/other.yaml"], "main") == []
    assert removed(["two/policy.yaml"], "main") == []


# ── the key `code` ────────────────────────────────────────────────────────────────────────


def test_code_changes_no_hash_and_is_in_the_schema(project: Project) -> None:
    before = load_policy(project.policy).sha256
    assert load_policy(project.policy).policy.build.code == ("train.py", "src/**/*.py")
    jsonschema.validate(project.spec, schema())
    del project.spec["build"]["code"]
    project.write()
    assert load_policy(project.policy).sha256 == before


def test_code_that_an_extended_file_names_is_relative_to_that(project: Project) -> None:
    folder = project.folder / "sub"
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump({"build": {"code": ["*.py"]}}))
    del project.spec["build"]["code"]
    project.spec["extends"] = "sub/base.yaml"
    project.spec["judge"] = yaml.safe_load((project.folder / "base.yaml").read_text())["judge"]
    project.write()
    assert load_policy(project.policy).policy.build.code == ("sub/*.py",)


# ── whole runs ────────────────────────────────────────────────────────────────────────────


def test_nothing_to_gate_exits_0_and_says_what_was_looked_at(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["run", ALL, *OPTIONS, "--changed-since", "main"]) == 0
    shown = capsys.readouterr().err
    assert "nothing to gate since main" in shown
    assert "one/held_out.npz" in shown
    assert "two/policy.yaml" in shown
    assert not Path("out").exists()


def test_only_what_is_concerned_is_run(
    clone: Clone, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(clone.folder / "two" / "policy.yaml")
    assert exit_code_of(["run", ALL, *OPTIONS, "--changed-since", "main"]) == 0
    assert "changed since main: two/policy.yaml" in capsys.readouterr().err
    (record,) = Path("out").glob("*/record.json")
    assert json.loads(record.read_text())["policy_source"]["file"] == "two/policy.yaml"


def test_files_of_the_command_line_concern_every_policy(project: Project) -> None:
    besides = [project.folder / "plugin.py"]
    assert [bool(one.because) for one in looked_at(BOTH, "main", besides=besides)] == [False] * 2
    touch(besides[0])
    assert [bool(one.because) for one in looked_at(BOTH, "main", besides=besides)] == [True] * 2


def test_a_bad_revision_is_bad_usage(project: Project) -> None:
    for rev in ("nowhere", "", "--upload-pack=x"):
        assert exit_code_of(["run", ALL, *OPTIONS, f"--changed-since={rev}"]) == 2


def test_a_plugin_that_changed_runs_all(
    clone: Clone, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate.commands import run

    (clone.folder / "mine.py").write_text("DECODERS = {'mine': lambda outputs: outputs}\n")
    asked: list[str] = []

    def keep(policy: str, *_: object, **__: object) -> None:
        asked.append(policy)
        raise UsageError("seen")

    monkeypatch.setattr(run, "_run", keep)
    options = [*OPTIONS, "--changed-since", "main"]
    assert exit_code_of(["run", ALL, *options, "--plugin", "mine.py"]) == 2
    assert asked == BOTH
