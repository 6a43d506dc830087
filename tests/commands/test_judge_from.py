"""`gate run --judge-from`: a change mends its build, and is judged by what is on the base."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.clone import Clone
from support.project import CNN, Project

from gate import facts
from gate.cli import exit_code_of
from gate.commands._base_git import repository
from gate.commands._base_policy import demand_plugins, from_base, shaken_off, waivers_of
from gate.errors import DataError, PolicyError, UsageError
from gate.policy_file import LoadedPolicy, digest, load_policy

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
DROP = "accuracy.max_drop"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    for name in ("GITHUB_ACTIONS", "MLFLOW_TRACKING_URI", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    made = Clone(tmp_path / "clone")
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture
def project(clone: Clone) -> Project:
    """`policies/policy.yaml` and its data, committed as `main`."""
    folder = clone.folder / "policies"
    folder.mkdir()
    found = Project(folder)
    (clone.folder / ".gitignore").write_text(".gate/\nout/\n")
    clone.branch()
    return found


def held(project: Project, rev: str = "main") -> LoadedPolicy:
    return from_base(project.policy, rev)


def change(project: Project, edit: Callable[[dict[str, Any]], None]) -> None:
    edit(project.spec)
    project.write()


def run(project: Project, *arguments: str) -> int:
    fixed = ["--candidate", str(CNN), "--tracker", "none", "--out", "out"]
    return exit_code_of(["run", str(project.policy), *fixed, *arguments])


# ── what counts ───────────────────────────────────────────────────────────────────────────


def test_build_counts_from_the_change_and_judge_from_the_base(project: Project) -> None:
    def both(spec: dict[str, Any]) -> None:
        spec["build"]["recipe"] = "static-mse"
        spec["judge"]["budgets"][0]["max_drop"] = 0.5
        spec["judge"]["expect_fp32"] = "unknown"
        spec["judge"] |= {"confidence": 0.6, "seed": 7, "on_inconclusive": "warn"}

    base = load_policy(project.policy).policy
    change(project, both)
    found = held(project)
    assert found.policy.build.recipe.name == "static-mse"
    assert found.policy.judge == base.judge
    assert found.sha256 == digest(found.policy)
    told = found.judged_from
    assert told is not None
    assert told.policy == "policies/policy.yaml"
    looser = " ".join(told.looser)
    for word in (DROP, "confidence", "seed", "on_inconclusive", "expect_fp32"):
        assert word in looser
    assert any("static-mse" in one for one in told.build_changes)


def test_what_reads_the_outputs_is_told_where_it_changes(project: Project) -> None:
    def easier(spec: dict[str, Any]) -> None:
        spec["build"] |= {"decode": "probabilities", "classes": list("0123456789")}
        spec["build"]["preprocess"] = {"scale": 0.5}

    change(project, easier)
    told = held(project).judged_from
    assert told is not None
    words = " ".join(told.build_changes)
    for word in ("decode.as: logits → probabilities", "classes", "preprocess"):
        assert word in words


def test_nothing_changed_is_nothing_told(project: Project) -> None:
    told = held(project).judged_from
    assert told is not None
    assert (told.looser, told.changes, told.build_changes, told.notes) == ((), (), (), ())
    assert told.commit == repository(project.policy).commit("main")


def test_the_whole_chain_is_read_at_the_revision(clone: Clone, project: Project) -> None:
    common = project.folder / "common"
    common.mkdir()
    judge = project.spec.pop("judge") | {"held_out": {"path": "../held_out.npz"}}
    (common / "judge.yaml").write_text(yaml.safe_dump({"judge": judge}))
    project.spec["extends"] = "common/judge.yaml"
    project.write()
    clone.commit()
    clone.git("branch", "-f", "base")
    judge["budgets"][0]["max_drop"] = 0.9
    (common / "judge.yaml").write_text(yaml.safe_dump({"judge": judge}))
    assert held(project, "base").policy.judge.budgets[0].limit == 0.01
    shutil.rmtree(common)
    project.spec |= {"judge": {**judge, "held_out": {"path": "held_out.npz"}}}
    del project.spec["extends"]
    project.write()
    found = held(project, "base")
    assert found.policy.judge.budgets[0].limit == 0.01
    assert (found.base / found.policy.judge.held_out.path).is_file()


@pytest.mark.parametrize("key", ["model", "task"])
def test_another_subject_is_refused(project: Project, key: str) -> None:
    change(project, lambda spec: spec.update({key: "other" if key == "model" else "regression"}))
    with pytest.raises(UsageError, match=rf"policy.yaml:\d+:\d+: {key} is .* at main"):
        held(project)


def test_observe_on_the_base_stays_until_it_is_merged(clone: Clone, project: Project) -> None:
    change(project, lambda spec: spec["judge"].update(mode="observe"))
    clone.commit()
    clone.git("branch", "-f", "main")
    change(project, lambda spec: spec["judge"].update(mode="enforce"))
    found = held(project)
    assert found.policy.judge.mode == "observe"
    assert found.judged_from is not None
    assert any("makes the policy enforce" in note for note in found.judged_from.notes)


def test_a_broken_policy_on_the_base_is_told_with_its_place(clone: Clone, project: Project) -> None:
    good = project.policy.read_text()
    project.policy.write_text(good + "oops: 1\n")
    clone.commit()
    clone.git("branch", "-f", "main")
    project.policy.write_text(good)
    with pytest.raises(PolicyError, match=r"^main:policies/policy\.yaml:\d+:1: .*oops"):
        held(project)


def test_lines_are_the_changes_own_else_the_bases(clone: Clone, project: Project) -> None:
    budgets = [{"metric": "accuracy", "max_drop": 0.01}, {"metric": "size", "max_ratio": 0.5}]
    change(project, lambda spec: spec["judge"].update(budgets=budgets))
    clone.commit()
    clone.git("branch", "-f", "main")
    base = load_policy(project.policy).lines
    text = project.policy.read_text().replace("  - metric: size\n    max_ratio: 0.5\n", "")
    project.policy.write_text("# a comment\n" + text)
    found = held(project)
    assert found.lines == {DROP: base[DROP] + 1, "size.max_ratio": base["size.max_ratio"]}
    assert found.budgets_file == project.policy
    assert found.judged_from is not None
    assert any("size.max_ratio is removed" in one for one in found.judged_from.looser)


# ── new and renamed ───────────────────────────────────────────────────────────────────────


def test_a_new_policy_only_observes(project: Project) -> None:
    project.spec["model"] = "another"
    project.policy = project.folder / "new.yaml"
    project.write()
    found = held(project)
    assert found.policy.judge.mode == "observe"
    assert found.judged_from is not None
    assert found.judged_from.policy == ""
    assert "is not at main" in found.judged_from.notes[0]


@pytest.mark.parametrize("staged", [True, False])
def test_a_renamed_policy_is_held_to_its_former_self(
    clone: Clone, project: Project, staged: bool
) -> None:
    new = clone.folder / "elsewhere" / "renamed.yaml"
    new.parent.mkdir()
    project.policy.rename(new)
    project.policy = new
    for name in ("held_out", "calibration"):
        key = "judge" if name == "held_out" else "build"
        project.spec[key][name]["path"] = f"../policies/{name}.npz"
    project.budget(metric="accuracy", max_drop=0.5)
    if staged:
        clone.git("add", "-A")
    found = held(project)
    assert found.policy.judge.budgets[0].limit == 0.01
    assert found.resolve(found.policy.judge.held_out.path).is_file()
    assert found.judged_from is not None
    assert found.judged_from.policy == "policies/policy.yaml"
    assert any("is renamed" in note for note in found.judged_from.notes)
    assert not any("held_out" in one for one in found.judged_from.looser)


def test_a_policy_written_anew_elsewhere_is_the_same_gate(project: Project) -> None:
    project.policy.unlink()
    project.policy = project.folder / "fresh.yaml"
    text = yaml.safe_dump(project.spec).replace("0.01", "0.7")
    project.policy.write_text(f"# {'nothing in common ' * 500}\n{text}")
    assert held(project).policy.judge.budgets[0].limit == 0.01


def test_a_renamed_file_with_a_renamed_model_is_refused(clone: Clone, project: Project) -> None:
    project.policy.unlink()
    project.policy = project.folder / "fresh.yaml"
    change(project, lambda spec: spec.update(model="fresh"))
    clone.commit()
    with pytest.raises(UsageError, match="no history"):
        held(project)


def test_two_policies_of_one_model_that_are_gone_are_told(clone: Clone, project: Project) -> None:
    shutil.copyfile(project.policy, project.folder / "second.yaml")
    clone.commit()
    clone.git("branch", "-f", "main")
    project.policy.unlink()
    (project.folder / "second.yaml").unlink()
    project.policy = project.folder / "fresh.yaml"
    project.write()
    with pytest.raises(UsageError, match="one at a time"):
        held(project)


# ── the held-out data ─────────────────────────────────────────────────────────────────────


def swap(project: Project) -> None:
    project.change("held_out", lambda columns: columns.update(target=columns["target"] * 0))


def test_data_in_git_cannot_be_exchanged(project: Project) -> None:
    swap(project)
    with pytest.raises(UsageError, match=r"policies/held_out\.npz.*merge new data by themselves"):
        held(project)


def test_data_in_git_are_held_to_it_even_where_pinned(clone: Clone, project: Project) -> None:
    from gate.artifact import sha256_of

    pin = sha256_of(project.folder / "held_out.npz")
    change(project, lambda spec: spec["judge"]["held_out"].update(sha256=pin))
    clone.commit()
    clone.git("branch", "-f", "main")
    held(project)
    swap(project)
    with pytest.raises(UsageError, match="not what they are at main"):
        held(project)


def test_naming_other_data_changes_nothing(project: Project) -> None:
    columns = project.data("held_out")
    project.save("easy", **columns)
    change(project, lambda spec: spec["judge"]["held_out"].update(path="easy.npz"))
    found = held(project)
    assert found.policy.judge.held_out.path == "held_out.npz"
    assert found.judged_from is not None
    assert "other data" in found.judged_from.looser[0]


def test_a_link_to_other_data_is_noticed(project: Project) -> None:
    swap(project)
    (project.folder / "held_out.npz").rename(project.folder / "easy.npz")
    (project.folder / "held_out.npz").symlink_to("easy.npz")
    with pytest.raises(UsageError, match="not what they are"):
        held(project)


def test_data_that_git_does_not_hold_have_to_be_pinned(clone: Clone, project: Project) -> None:
    clone.git("rm", "-q", "--cached", "policies/held_out.npz")
    (clone.folder / ".gitignore").write_text("*.npz\n")
    clone.git("add", ".gitignore")
    clone.git("commit", "-qm", "data are fetched")
    clone.git("branch", "-f", "main")
    with pytest.raises(UsageError, match="does not pin them"):
        held(project)
    change(project, lambda spec: spec["judge"]["held_out"].update(sha256="0" * 64))
    with pytest.raises(UsageError, match="does not pin them"):
        held(project)  # the change's own pin is its own choice
    clone.commit()
    clone.git("branch", "-f", "main")
    assert held(project).policy.judge.held_out.sha256 == "0" * 64


def test_data_outside_the_repository_are_told(clone: Clone, project: Project) -> None:
    outside = clone.folder.parent / "held_out.npz"
    shutil.move(project.folder / "held_out.npz", outside)
    change(project, lambda spec: spec["judge"]["held_out"].update(path=str(outside)))
    clone.commit()
    clone.git("branch", "-f", "main")
    told = held(project).judged_from
    assert told is not None
    assert "outside the repository and not pinned" in told.notes[0]
    change(project, lambda spec: spec["judge"]["held_out"].update(path=outside.as_uri()))
    clone.commit()
    clone.git("branch", "-f", "main")
    assert held(project).judged_from.notes  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["changed", "added", "removed", "moved"])
def test_a_folder_of_images_is_held_to_every_file(clone: Clone, project: Project, how: str) -> None:
    pictures = project.folder / "pictures"
    for name in ("cat", "dog"):
        (pictures / name).mkdir(parents=True)
        for index in range(2):
            (pictures / name / f"{index}.png").write_bytes(f"{name} {index}".encode() + b"\0")
    source = {"path": "pictures", "format": "image_folder"}
    change(project, lambda spec: spec["judge"].update(held_out=source))
    clone.commit()
    clone.git("branch", "-f", "main")
    held(project)
    if how == "changed":
        (pictures / "cat" / "0.png").write_bytes(b"dog\0")
    elif how == "added":
        (pictures / "cat" / "easy.png").write_bytes(b"cat\0")
    elif how == "removed":
        (pictures / "cat" / "0.png").unlink()
    else:
        (pictures / "cat" / "0.png").rename(pictures / "dog" / "9.png")
    with pytest.raises(UsageError, match=r"pictures/(cat|dog)/\w+\.png"):
        held(project)


def test_images_that_a_file_names_are_held_to_git(clone: Clone, project: Project) -> None:
    from PIL import Image

    (project.folder / "held_out.npz").unlink()
    (project.folder / "img").mkdir()
    Image.new("RGB", (4, 4)).save(project.folder / "img" / "a.png")
    boxes = {"images": [{"id": 1, "file_name": "img/a.png", "width": 4, "height": 4}],
             "categories": [{"id": 1, "name": "x"}], "annotations": []}  # fmt: skip
    (project.folder / "boxes.json").write_text(json.dumps(boxes))
    source = {"path": "boxes.json", "format": "coco"}
    change(project, lambda spec: spec["judge"].update(held_out=source))
    clone.commit()
    clone.git("branch", "-f", "main")
    held(project)
    Image.new("RGB", (4, 4), "red").save(project.folder / "img" / "a.png")
    with pytest.raises(UsageError, match=r"img/a\.png"):
        held(project)


def test_a_pointer_of_lfs_stands_for_its_file(clone: Clone, project: Project) -> None:
    from gate.artifact import sha256_of

    data = project.folder / "held_out.npz"
    content, digest_ = data.read_bytes(), sha256_of(data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest_}\nsize 5\n"
    data.write_text(pointer)
    clone.commit()
    clone.git("branch", "-f", "main")
    data.write_bytes(content)
    held(project)
    swap(project)
    with pytest.raises(UsageError, match="not what they are"):
        held(project)


def test_line_ends_of_windows_are_no_change(clone: Clone, project: Project) -> None:
    rows = project.folder / "rows.jsonl"
    rows.write_bytes(b'{"x": [0.0], "target": 1}\n{"x": [1.0], "target": 0}\n')
    change(project, lambda spec: spec["judge"].update(held_out={"path": "rows.jsonl"}))
    clone.commit()
    clone.git("branch", "-f", "main")
    for file in (rows, project.policy):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    told = held(project).judged_from
    assert told is not None
    assert told.looser == ()
    rows.write_bytes(rows.read_bytes().replace(b"1}", b"0}"))
    with pytest.raises(UsageError, match=r"rows\.jsonl"):
        held(project)


# ── plugins and waivers ───────────────────────────────────────────────────────────────────


def test_a_changed_plugin_never_runs(
    clone: Clone, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = clone.folder / "plugin.py"
    plugin.write_text("DECODERS = {'mine': lambda outputs: outputs['logits']}\n")
    assert run(project, "--plugin", "plugin.py", "--judge-from", "main") == 2
    assert "merge the plugin first" in capsys.readouterr().err
    clone.commit()
    clone.git("branch", "-f", "main")
    demand_plugins([plugin], [str(project.policy)], "main")
    plugin.write_text(f"open({str(clone.folder / 'pwned')!r}, 'w')\n" + plugin.read_text())
    assert run(project, "--plugin", "plugin.py", "--judge-from", "main") == 2
    assert "not what it is at main" in capsys.readouterr().err
    assert not (clone.folder / "pwned").exists()


def test_a_plugin_outside_the_repository_is_the_jobs_own(clone: Clone, project: Project) -> None:
    plugin = clone.folder.parent / "plugin.py"
    plugin.write_text("DECODERS = {}\n")
    demand_plugins([plugin], [str(project.policy)], "main")
    inside = clone.folder / "linked.py"
    inside.symlink_to(plugin)
    with pytest.raises(UsageError, match="is not at main"):
        demand_plugins([inside], [str(project.policy)], "main")


def waiver(budget: str = DROP) -> str:
    one = {"model": "digits-cnn", "budget": budget, "reason": "agreed", "who": "ann",
           "expires": "2020-01-01"}  # fmt: skip
    return yaml.safe_dump({"version": 1, "waivers": [one]})


def test_a_change_does_not_waive_its_own_failure(clone: Clone, project: Project) -> None:
    from datetime import date

    today = date(2020, 1, 1)
    (project.folder / "waivers.yaml").write_text(waiver())
    assert "digits" not in waivers_of(held(project), None, today)
    clone.commit()
    clone.git("branch", "-f", "main")
    (project.folder / "waivers.yaml").unlink()
    assert "digits" in waivers_of(held(project), None, today)


def test_a_jobs_own_waivers_lie_where_no_change_reaches(
    clone: Clone, project: Project, tmp_path: Path
) -> None:
    from datetime import date

    today, outside = date(2020, 1, 1), tmp_path / "of_the_job.yaml"
    outside.write_text(waiver())
    assert "digits" in waivers_of(held(project), outside, today)
    (clone.folder / "mine.yaml").write_text(waiver())
    for way, to in (("file", clone.folder / "mine.yaml"), ("folder", clone.folder)):
        (tmp_path / way).symlink_to(to)
    for link in (tmp_path / "file", tmp_path / "folder" / "mine.yaml"):
        with pytest.raises(UsageError, match="by another way"):
            waivers_of(held(project), link, today)
    outside.write_bytes(b"\xff")
    for wrong in (outside, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(PolicyError):
            waivers_of(held(project), wrong, today)


# ── revisions and repositories ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rev",
    ["nowhere", "", "--upload-pack=touch pwned", "-h", "main..work", "main\n", "$(touch pwned)",
     "main:policies", "^main", "HEAD^{tree}"],
)  # fmt: skip
def test_what_is_no_revision_is_refused(clone: Clone, project: Project, rev: str) -> None:
    with pytest.raises(UsageError, match="revision"):
        held(project, rev)
    assert not (clone.folder / "pwned").exists()
    assert run(project, f"--judge-from={rev}") == 2


def test_a_name_of_two_revisions_is_refused(clone: Clone, project: Project) -> None:
    change(project, lambda spec: spec["judge"]["budgets"][0].update(max_drop=0.9))
    clone.commit()
    clone.git("tag", "main")
    with pytest.raises(UsageError, match="name of several"):
        held(project)
    assert held(project, "refs/heads/main").policy.judge.budgets[0].limit == 0.01


def test_a_detached_head_is_as_good(clone: Clone, project: Project) -> None:
    clone.git("checkout", "-q", "--detach")
    clone.git("branch", "-D", "work")
    held(project)


def test_a_shallow_clone_says_how_to_fetch(clone: Clone, project: Project) -> None:
    base = clone.commit("one more")
    clone.commit("and another")
    shallow = clone.folder.parent / "shallow"
    clone.git("clone", "-q", "--depth=1", clone.folder.as_uri(), str(shallow))
    with pytest.raises(UsageError, match="fetch-depth"):
        from_base(shallow / "policies" / "policy.yaml", base)
    clone.git("fetch", "-q", "--depth=1", "origin", "main", at=shallow)
    assert from_base(shallow / "policies" / "policy.yaml", "FETCH_HEAD").judged_from is not None


def test_outside_a_repository_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path)
    with pytest.raises(UsageError, match="no git repository"):
        held(project)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        held(project)


def test_a_policy_in_a_submodule_is_refused(clone: Clone, project: Project) -> None:
    other = Clone(clone.folder.parent / "other")
    Project(other.folder)
    other.commit()
    clone.git("submodule", "--quiet", "add", other.folder.as_uri(), "sub")
    clone.commit()
    with pytest.raises(UsageError, match="submodule"):
        from_base(clone.folder / "sub" / "policy.yaml", "HEAD")


def test_no_hook_and_no_filter_of_the_repository_runs(clone: Clone, project: Project) -> None:
    for hook in ("post-checkout", "fsmonitor-watchman", "reference-transaction", "pre-auto-gc"):
        script = clone.folder / ".git" / "hooks" / hook
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {clone.folder}/pwned\n")
        script.chmod(0o755)
    clone.git("config", "core.fsmonitor", str(clone.folder / ".git/hooks/fsmonitor-watchman"))
    before = {file: file.read_bytes() for file in project.folder.iterdir()}
    held(project)
    assert not (clone.folder / "pwned").exists()
    assert before == {file: file.read_bytes() for file in project.folder.iterdir()}


@pytest.mark.parametrize(
    "name",
    ["with space.yaml", "quo'te\".yaml", "$(touch pwned).yaml", "new\nline.yaml", "-rf.yaml",
     ":(glob)**.yaml", "[a].yaml", "ünï ✓.yaml", "main:x.yaml"],
)  # fmt: skip
def test_hostile_names_are_names(clone: Clone, project: Project, name: str) -> None:
    project.policy.rename(project.folder / name)
    project.policy = project.folder / name
    clone.commit()
    clone.git("branch", "-f", "main")
    project.budget(metric="accuracy", max_drop=0.9)
    found = held(project)
    assert found.policy.judge.budgets[0].limit == 0.01
    assert found.judged_from is not None
    assert found.judged_from.policy == f"policies/{name}"
    assert all("\n" not in line for line in facts.held_to(found.judged_from))
    assert not (clone.folder / "pwned").exists()


# ── links ─────────────────────────────────────────────────────────────────────────────────


def test_a_linked_policy_is_read_where_it_led_on_the_base(clone: Clone, project: Project) -> None:
    real = project.folder / "real.yaml"
    project.policy.rename(real)
    project.policy.symlink_to("real.yaml")
    clone.commit()
    clone.git("branch", "-f", "main")
    project.spec["judge"]["budgets"][0]["max_drop"] = 0.9
    project.policy.unlink()
    project.write()
    assert held(project).policy.judge.budgets[0].limit == 0.01


def test_a_folder_that_becomes_a_link_leads_nowhere_else(clone: Clone, project: Project) -> None:
    easy = clone.folder / "easy"
    shutil.copytree(project.folder, easy)
    project.spec["judge"]["budgets"][0]["max_drop"] = 0.9
    (easy / "policy.yaml").write_text(yaml.safe_dump(project.spec))
    clone.commit()
    clone.git("branch", "-f", "main")
    shutil.rmtree(project.folder)
    project.folder.symlink_to("easy")
    assert held(project).policy.judge.budgets[0].limit == 0.01


def test_a_link_to_the_root_does_not_move_it(clone: Clone, project: Project) -> None:
    change(project, lambda spec: spec["judge"]["budgets"][0].update(max_drop=0.9))
    for file in project.folder.iterdir():
        shutil.copyfile(file, clone.folder / file.name)
    clone.git("checkout", "-q", "--", "policies")
    clone.commit()
    clone.git("branch", "-f", "main")
    shutil.rmtree(project.folder)
    project.folder.symlink_to(".")
    assert held(project).policy.judge.budgets[0].limit == 0.01


def test_a_link_into_another_repository_is_refused(clone: Clone, project: Project) -> None:
    other = Clone(clone.folder.parent / "other")
    shutil.copytree(project.folder, other.folder, dirs_exist_ok=True)
    other.commit()
    shutil.rmtree(project.folder)
    project.folder.symlink_to(other.folder)
    with pytest.raises(UsageError, match="another repository"):
        held(project)


def test_a_link_out_of_the_repository_on_the_base_is_refused(
    clone: Clone, project: Project
) -> None:
    os.replace(project.policy, clone.folder.parent / "policy.yaml")
    project.policy.symlink_to("../../policy.yaml")
    clone.commit()
    clone.git("branch", "-f", "main")
    project.policy.unlink()
    project.write()
    with pytest.raises(UsageError, match="leaves the repository"):
        held(project)


# ── whole runs ────────────────────────────────────────────────────────────────────────────


def test_a_run_tells_what_it_was_held_to(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, lambda spec: spec["judge"]["budgets"][0].update(max_drop=0.9))
    code = run(project, "--judge-from", "main")
    record = json.loads(Path("out/record.json").read_text())
    assert code in (0, 1, 3)
    assert record["policy"]["judge"]["budgets"][0]["max_drop"] == 0.01
    told = record["judged_from"]
    assert told["rev"] == "main"
    assert told["looser"] == [
        f"{DROP} max_drop: 0.01 → 0.9 is looser: more is let through",
    ]
    shown = capsys.readouterr()
    assert "LOOSER in this change" in shown.err
    assert "LOOSER in this change" in shown.out
    again = exit_code_of(["judge", "out"])
    assert again == code


def test_a_new_model_is_observed_and_exits_0(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.spec["model"] = "another"
    project.policy = project.folder / "new.yaml"
    project.budget(metric="size", max_ratio=0.01)
    assert run(project, "--judge-from", "main") == 0
    record = json.loads(Path("out/record.json").read_text())
    assert record["verdict"]["outcome"] == "fail"
    assert record["policy"]["judge"]["mode"] == "observe"
    assert "only observes" in capsys.readouterr().err


def test_a_policy_that_is_gone_is_no_pass(
    clone: Clone, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {**project.spec, "model": "other"}
    (project.folder / "other.yaml").write_text(yaml.safe_dump(spec))
    clone.commit()
    clone.git("branch", "-f", "main")
    (project.folder / "other.yaml").unlink()
    options = ["--candidate", str(CNN), "--tracker", "none", "--judge-from", "main"]
    assert exit_code_of(["run", "policies/*.yaml", *options]) == 2
    assert "does not take its own gate away" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["link to nowhere", "link to a folder", "submodule"])
def test_a_policy_that_becomes_no_file_is_gone(
    clone: Clone, project: Project, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    other = project.folder / "other.yaml"
    other.write_text(yaml.safe_dump({**project.spec, "model": "other"}))
    base = clone.commit()
    clone.git("branch", "-f", "main")
    other.unlink()
    if how == "submodule":
        clone.git("update-index", "--cacheinfo", f"160000,{base},policies/other.yaml")
        other.mkdir()
        clone.git("commit", "-qm", "a submodule that nobody fetches")
    else:
        other.symlink_to("nowhere" if how == "link to nowhere" else ".")
        clone.commit()
    assert shaken_off(["policies/*.yaml"], ["policies/policy.yaml"], "main") == [
        "policies/other.yaml"
    ]
    options = ["--tracker", "none", "--judge-from", "main", "--changed-since", "main"]
    assert exit_code_of(["run", "policies/*.yaml", *options]) == 2
    assert "does not take its own gate away" in capsys.readouterr().err


def test_a_renamed_policy_is_not_gone(project: Project) -> None:
    project.policy.rename(project.folder / "renamed.yaml")
    asked, now = ["policies/*.yaml"], ["policies/renamed.yaml"]
    assert shaken_off(asked, now, "main") == []
    assert shaken_off(asked, [], "main") == ["policies/policy.yaml"]
    assert shaken_off(["policies/policy.yaml"], [], "main") == []


def test_data_that_cannot_be_read_are_no_verdict(clone: Clone, project: Project) -> None:
    (project.folder / "boxes.json").write_text("{}")
    source = {"path": "boxes.json", "format": "coco"}
    change(project, lambda spec: spec["judge"].update(held_out=source))
    clone.commit()
    clone.git("branch", "-f", "main")
    with pytest.raises(DataError):
        held(project)
