"""An archive that an auditor can check by himself, the same bytes each time."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support import registry as support
from support.registry import MODEL, MemoryTracker, changed

from gate import examples
from gate.cli import exit_code_of
from gate.commands._evidence_words import how_to_reproduce, resolved_yaml
from gate.commands.evidence import evidence
from gate.commands.promote import promote
from gate.commands.report import load_record
from gate.errors import RecordError, UsageError
from gate.policy_file import load_policy
from gate.records import Attestation

POLICIES = sorted(examples.policies().glob("*.yaml"))
WHOLE = {
    "HOW_TO_REPRODUCE.md", "SHA256SUMS", "environment.json", "outputs.npz",
    "junit.xml", "policy/as-it-stands/policy.yaml", "policy/history.txt", "policy/resolved.yaml",
    "record.json", "registry.json", "report.html", "report.md", "report.txt", "rows.npz",
}  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.made(tmp_path_factory.mktemp("evidence") / "project").folder


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once / "run", tmp_path / "run"))


@pytest.fixture
def tracker(run: Path) -> MemoryTracker:
    made = MemoryTracker()
    made.log(load_record(run), run)
    return made


def unpacked(file: Path) -> Path:
    folder = file.with_suffix("")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def test_it_holds_everything_and_its_sums_are_right(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    folder = unpacked(found.file)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == set(found.names) == WHOLE
    summed = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    assert summed.keys() == WHOLE - {"SHA256SUMS"}
    for name, digest in summed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (folder / "record.json").read_bytes() == (run / "record.json").read_bytes()
    assert found.sha256 == hashlib.sha256(found.file.read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_agrees(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    called = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(called, cwd=folder, check=False).returncode == 0
    (folder / "record.json").write_bytes(b"{}")
    done = subprocess.run(called, cwd=folder, check=False, capture_output=True)
    assert done.returncode != 0


def test_the_same_evidence_gives_the_same_bytes(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    promote(run, tracker)
    one, two = (evidence(run, tracker, out=tmp_path / f"{name}.zip") for name in "ab")
    assert one.file.read_bytes() == two.file.read_bytes()


def test_no_model_is_inside_and_its_hash_is(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    assert not list(folder.rglob("*.onnx*"))
    told = json.loads((folder / "registry.json").read_text())
    assert told["registered"] == "models:/digits-cnn-int8/1"
    assert told["int8_sha256"] == load_record(run).int8.sha256
    assert told["int8_sha256"] in (folder / "HOW_TO_REPRODUCE.md").read_text()


def test_the_moves_of_this_record_are_told(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    promote(run, tracker, by="ann", why="the March release")
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    (move,) = json.loads((folder / "registry.json").read_text())["moves"]
    assert (move["who"], move["why"], move["alias"]) == ("ann", "the March release", "production")


def test_the_unpacked_archive_is_judged_again(
    run: Path, tracker: MemoryTracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    assert exit_code_of(["judge", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("PASS")


def test_how_to_reproduce_names_versions_and_commands(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    record = load_record(run)
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    text = (folder / "HOW_TO_REPRODUCE.md").read_text()
    for library in ("onnx", "onnxruntime", "numpy"):
        assert f" {library}=={record.provenance.versions[library]}" in text
    base = Path(record.policy_source.file).parent
    command = (
        f"$ gate run {base / 'resolved.yaml'} --candidate {record.candidate.source} --stage release"
    )
    assert command in text


def test_how_to_reproduce_a_first_release_and_outputs_of_models_that_ran_elsewhere(
    run: Path,
) -> None:
    record = load_record(run)
    first = how_to_reproduce(record.model_copy(update={"bootstrap": True}), None)
    assert "--threads 1 --bootstrap" in first
    told = [
        Attestation(
            source=f"{side} it.npz",
            outputs_sha256="ab" * 32,
            artifact_sha256="cd" * 32,
            runtime="trt",
            device="T4",
        )
        for side in ("fp32", "int8")
    ]
    text = how_to_reproduce(record.model_copy(update={"attested": tuple(told)}), None)
    assert "--fp32-outputs 'fp32 it.npz' --int8-outputs 'int8 it.npz' --stage" in text
    assert "--candidate" not in text


def test_a_version_that_is_another_release_by_now_is_not_told_as_this_ones(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    (version,) = tracker.registry.known
    tracker.registry.tag(version, {"record": "another"})
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    assert any("version 1 of digits-cnn-int8 says record another" in note for note in found.notes)
    folder = unpacked(found.file)
    assert json.loads((folder / "registry.json").read_text())["registered"] is None
    assert "No version of digits-cnn-int8 names it" in (folder / "HOW_TO_REPRODUCE.md").read_text()


def test_outputs_that_nothing_vouches_for_stay_outside(run: Path, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.log(changed(run, outputs_sha256=None), run)
    (run / "outputs.npz").write_bytes(b"anything")
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    assert "outputs.npz" not in found.names
    assert any("outputs.npz" in note for note in found.notes)


def test_a_name_that_no_archive_can_have(run: Path, tracker: MemoryTracker) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        evidence(run, tracker, out=Path("x" * 5000))


# ── the policy ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_the_resolved_policy_reads_back_to_the_same_digest(file: Path, tmp_path: Path) -> None:
    loaded = load_policy(file)
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved_yaml(loaded.policy))
    assert load_policy(again).sha256 == loaded.sha256


def git(folder: Path, *arguments: str) -> None:
    own = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_policys_history_is_told_from_git(run: Path, once: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    policy = Path(shutil.copy(once / "policy.yaml", folder / "old.yaml"))
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "a first budget")
    git(folder, "mv", "old.yaml", "policy.yaml")
    git(folder, "commit", "-qm", "a better name")
    policy = folder / "policy.yaml"
    policy.write_text(policy.read_text() + "# not committed yet\n")
    source = load_record(run).policy_source.model_copy(update={"file": str(policy)})
    tracker = MemoryTracker()
    tracker.log(changed(run, policy_source=source), run)
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    text = (unpacked(found.file) / "policy" / "history.txt").read_text()
    assert "+# not committed yet" in text
    assert text.index("a better name") < text.index("a first budget")
    assert "+version: 1" in text


def test_without_git_that_is_told(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    assert any("no history" in note for note in found.notes)
    text = (unpacked(found.file) / "policy" / "history.txt").read_text()
    assert text.startswith("no history: ")


def test_what_a_policy_extends_is_in_it_with_its_history(run: Path, tmp_path: Path) -> None:
    record, base = load_record(run), tmp_path / "policies" / "base"
    base.mkdir(parents=True)
    shutil.copy(record.policy_source.file, base / "rules\n of all.yaml")
    own = tmp_path / "policies" / "digits.yaml"
    own.write_text('extends: "base/rules\\n of all.yaml"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    place = record.policy_source.model_copy(update={"policy": str(own)})
    tracker = MemoryTracker()
    tracker.log(changed(run, policy_source=place), run)
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    there = {file.relative_to(folder) for file in (folder / "policy").rglob("*.yaml")}
    names = ("resolved.yaml", "as-it-stands/digits.yaml", "as-it-stands/base/rules_ of all.yaml")
    assert there == {Path("policy", name) for name in names}
    history = (folder / "policy" / "history.txt").read_text()
    assert history.count("Subject") + history.count("    first") == 2
    assert "==== base/rules_ of all.yaml" in history
    assert "+  expect_fp32:" in history


@pytest.mark.parametrize("content", [None, "password: hunter2\n", "root:x:0:0\n", ""])
def test_a_record_cannot_name_any_file_into_the_archive(
    run: Path, tmp_path: Path, content: str | None
) -> None:
    secret = tmp_path / "secret.yaml"
    if content is not None:
        secret.write_text(content)
    source = load_record(run).policy_source.model_copy(update={"file": str(secret)})
    tracker = MemoryTracker()
    tracker.log(changed(run, policy_source=source), run)
    found = evidence(run, tracker, out=tmp_path / "e.zip")
    assert not any(name.startswith("policy/as-it-stands") for name in found.names)
    assert b"hunter2" not in found.file.read_bytes()
    assert any("policy file" in note for note in found.notes)


# ── refusals ──────────────────────────────────────────────────────────────────────────────


def test_an_edited_record_is_refused(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace('"outcome": "pass"', '"outcome": "waived"'))
    with pytest.raises(RecordError):
        evidence(run, tracker, out=tmp_path / "e.zip")
    assert not (tmp_path / "e.zip").exists()


def test_a_record_that_is_not_the_trackers_is_refused(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    changed(run, durations={})
    with pytest.raises(RecordError, match="durations"):
        evidence(run, tracker, out=tmp_path / "e.zip")


@pytest.mark.parametrize("name", ["rows.npz", "outputs.npz"])
def test_changed_arrays_are_refused(
    run: Path, tracker: MemoryTracker, tmp_path: Path, name: str
) -> None:
    (run / name).write_bytes(b"other")
    with pytest.raises(RecordError, match=name):
        evidence(run, tracker, out=tmp_path / "e.zip")


def test_a_link_out_of_the_folder_is_refused(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    (run / "rows.npz").rename(tmp_path / "rows.npz")
    (run / "rows.npz").symlink_to(tmp_path / "rows.npz")
    with pytest.raises(RecordError, match="leaves the record's folder"):
        evidence(run, tracker, out=tmp_path / "e.zip")


def test_an_edited_report_is_rendered_anew(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    before = (run / "report.md").read_text()
    (run / "report.md").write_text("PASS, trust me")
    (run / "notes-of-somebody.txt").write_text("private")
    folder = unpacked(evidence(run, tracker, out=tmp_path / "e.zip").file)
    assert (folder / "report.md").read_text() == before
    assert not (folder / "notes-of-somebody.txt").exists()


def test_evidence_is_never_overwritten(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(b"mine")
    with pytest.raises(UsageError, match="never overwritten"):
        evidence(run, tracker, out=tmp_path / "e.zip")
    with pytest.raises(UsageError, match="--out"):
        evidence(run, tracker, out=tmp_path / "no" / "such" / "folder.zip")


def test_without_a_registry_that_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code_of(["evidence", str(run), "--tracker", "none"]) == 0
    (file,) = tmp_path.glob("*-evidence.zip")
    assert "no version and no moves are told" in capsys.readouterr().out
    assert "note" in json.loads((unpacked(file) / "registry.json").read_text())
    assert MODEL in file.read_bytes().decode("utf-8", "replace")
