"""A verdict is proven by what lies beside its record, and by a signature; all else is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.keys import save_pair
from support.project import CNN, WIDE_RANGE, Project

import gate
from gate.cli import exit_code_of
from gate.commands._proof_text import render
from gate.commands.report import load_record
from gate.commands.sign import sign
from gate.commands.verify import verify
from gate.errors import RecordError, UsageError
from gate.records import Attestation
from gate.signing import KEY
from gate.signing import sign as sign_statement
from gate.statement import FILE, statement_of


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that passed, and one that failed."""
    folder = tmp_path_factory.mktemp("verify")
    project = Project(folder)
    for name, model in (("passed", CNN), ("failed", WIDE_RANGE)):
        out = folder / name
        gate.run_gate(project.policy, model, tracker="none", threads=1, out=out)
    return folder


@pytest.fixture
def out(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The PASS, to be spoilt; policy and data are where it says."""
    monkeypatch.delenv(KEY, raising=False)
    return Path(shutil.copytree(once / "passed", tmp_path / "passed"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return save_pair(tmp_path)


def reasons(out: Path, **options: object) -> str:
    return "\n".join(reason.text for reason in verify(out, **options).reasons)  # type: ignore[arg-type]


def edited(out: Path, change: Callable[[dict[str, object]], None]) -> None:
    file = out / "record.json"
    fields = json.loads(file.read_text("utf-8"))
    change(fields)
    file.write_text(json.dumps(fields), encoding="utf-8")


# ── what holds ────────────────────────────────────────────────────────────────────────────


def test_a_run_goes_together_as_it_was_left(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["verify", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("VERIFIED  digits-cnn, record ")
    assert told.count("  ok  ") == 6
    assert "not signed: these files go together, and nothing shows who made them" in told


def test_a_signed_verdict_is_proven(
    out: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    assert exit_code_of(["sign", str(out), "--key", str(private)]) == 0
    assert capsys.readouterr().out.endswith(f": {out / FILE}\n")
    assert exit_code_of(["verify", str(out / "record.json"), "--key", str(public)]) == 0
    told = capsys.readouterr().out
    assert "  ok  signed by the key that is trusted\n" in told
    assert "not signed" not in told


def test_a_fail_is_signed_and_proven_as_a_fail(
    once: Path, tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(once / "failed", tmp_path / "failed"))
    sign(out, keys[0])
    assert exit_code_of(["verify", str(out), "--key", str(keys[1]), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["exit_code"]) == ("fail", 0)
    assert len(told["signed"]) == 64


def test_signing_again_gives_the_same_file(out: Path, keys: tuple[Path, Path]) -> None:
    sign(out, keys[0])
    first = (out / FILE).read_bytes()
    sign(out, keys[0])
    assert (out / FILE).read_bytes() == first
    assert sorted(file.name for file in out.glob(".*")) == []


def test_what_is_not_at_hand_may_be_left_out_and_is_told(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        (out / name).unlink()
    edited(out, lambda fields: fields["policy_source"].update(file="gone", policy="", base="gone"))  # type: ignore[attr-defined]
    assert exit_code_of(["verify", str(out)]) == 4
    capsys.readouterr()
    assert exit_code_of(["verify", str(out), "--skip", "models", "--skip", "policy"]) == 0
    told = capsys.readouterr().out
    for what in ("data", "models", "policy"):  # without the policy nobody knows where data are
        assert f"  --  {what} not looked at (--skip)" in told


def test_the_artifact_to_be_served_is_held_against_the_record(out: Path, tmp_path: Path) -> None:
    served = Path(shutil.copyfile(out / "model.int8.onnx", tmp_path / "served.onnx"))
    assert verify(out, int8=served).exit_code == 0
    served.write_bytes(served.read_bytes() + b"\0")
    assert "served.onnx is not what record" in reasons(out, int8=served)
    assert verify(out, int8=served).exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [["--int8", "served.onnx", "--skip", "models"], ["--policy", "p.yaml", "--skip", "policy"]],
)
def test_what_is_named_is_not_left_out(
    out: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["verify", str(out), *arguments]) == 2
    assert "leaves out: drop one of them" in capsys.readouterr().err


def test_models_that_ran_elsewhere_are_told_and_one_can_be_named(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = load_record(out)
    served = Path(shutil.copyfile(out / "model.int8.onnx", tmp_path / "served.onnx"))
    attested = {"runtime": "trt", "device": "T4", "source": "int8.npz"}
    one = Attestation(**attested, outputs_sha256="ab" * 32, artifact_sha256=record.int8.sha256)
    elsewhere = record.model_copy(update={"attested": (one,)})
    monkeypatch.setattr("gate.commands.verify.load_record", lambda _: elsewhere)
    found = verify(out)
    assert "models ran elsewhere" in render(found, "text")
    assert not [check for check in found.checks if "artifact" in check.what]
    assert verify(out, int8=served).exit_code == 0
    served.write_bytes(b"another")
    assert "served.onnx is not what record" in reasons(out, int8=served)


# ── what does not ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["rows.npz", "outputs.npz", "model.int8.onnx", "model.fp32.onnx"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_file_that_was_changed_or_is_gone_is_named(out: Path, name: str, how: str) -> None:
    file = out / name
    if how == "gone":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert name in reasons(out)
    assert verify(out).exit_code == 4


def test_an_edited_verdict_is_found_out(out: Path) -> None:
    edited(out, lambda fields: fields["verdict"].update(outcome="fail"))  # type: ignore[attr-defined]
    assert "is not what its own numbers give" in reasons(out)


def test_rows_that_were_made_up_with_the_record_are_found_by_the_signature(
    out: Path, keys: tuple[Path, Path]
) -> None:
    """Hashes alone cannot tell: whoever edits both files makes them agree."""
    from gate import artifact

    sign(out, keys[0])
    with np.load(out / "outputs.npz") as archive:
        arrays = dict(archive)
    np.savez(out / "outputs.npz", **arrays)
    again = artifact.sha256_of(out / "outputs.npz")
    edited(out, lambda fields: fields.update(outputs_sha256=again))
    assert verify(out, key=keys[1]).exit_code == 4
    told = reasons(out, key=keys[1])
    assert f"{FILE} is signed, and is not about this record" in told
    (out / FILE).unlink()
    assert verify(out).exit_code == 0
    assert f"there is no {FILE}" in reasons(out, key=keys[1])


def test_another_records_signature_proves_nothing(
    once: Path, out: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    other = Path(shutil.copytree(once / "failed", tmp_path / "failed"))
    sign(out, keys[0])
    shutil.copyfile(out / FILE, other / FILE)
    assert "is not about this record" in reasons(other, key=keys[1])


def test_a_signature_that_nobody_vouches_for_is_no_proof(
    out: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    sign(out, keys[0])
    assert "nothing here says whose that is" in reasons(out)
    assert "nobody who is trusted here" in reasons(out, key=save_pair(tmp_path, "other")[1])
    with pytest.raises(UsageError, match="cannot be read"):
        verify(out, key=tmp_path / "none.pem")


def test_a_record_that_tells_no_hash_of_outputs_is_not_verified(out: Path) -> None:
    edited(out, lambda fields: fields.update(outputs_sha256=None))
    assert "does not tell their hash" in reasons(out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"subject": []}, "subject"),
        ({"more": None}, "more"),
        ({"predicateType": "another"}, "predicateType"),
        ({}, "its bytes"),
    ],
)
def test_a_statement_that_was_signed_and_says_otherwise_is_refused(
    out: Path, keys: tuple[Path, Path], change: dict[str, object], named: str
) -> None:
    """To the byte: a number is no truth value, and what else it holds is no comment."""
    said = json.loads(statement_of(load_record(out))) | change
    made = sign_statement(json.dumps(said, indent=1).encode(), keys[0])
    (out / FILE).write_text(made.dumps())
    told = reasons(out, key=keys[1])
    assert f"is not about this record: {named} differ" in told


@pytest.mark.parametrize("said", [b"\xff", b"[" * 100_000, b"7"])
def test_a_statement_that_is_none_is_refused(
    out: Path, keys: tuple[Path, Path], said: bytes
) -> None:
    (out / FILE).write_text(sign_statement(said, keys[0]).dumps())
    assert "is not about this record" in reasons(out, key=keys[1])


def test_a_damaged_envelope_is_told(out: Path, keys: tuple[Path, Path]) -> None:
    (out / FILE).write_text("{}")
    for key in (None, keys[1]):
        assert "is no signed verdict" in reasons(out, key=key)
    with pytest.raises(RecordError, match="is no signed verdict"):
        sign(out, keys[0])
    (out / FILE).unlink()
    (out / FILE).mkdir()
    assert "cannot be read" in reasons(out)


def test_a_policy_or_data_that_changed_are_told(once: Path, out: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(once, tmp_path / "there"))
    policy = there / "policy.yaml"
    assert verify(out, policy=str(policy)).exit_code == 0
    Project.save(_as_project(there), "held_out", **_changed(there))
    assert "held_out" in reasons(out, policy=str(policy))
    policy.write_text(policy.read_text().replace("max_drop: 0.01", "max_drop: 0.02"))
    assert "is not the policy that it was judged by" in reasons(out, policy=str(policy))


def _as_project(folder: Path) -> Project:
    project = Project.__new__(Project)
    project.folder = folder
    return project


def _changed(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "held_out.npz") as archive:
        columns = dict(archive)
    columns["image"] = columns["image"].copy()
    columns["image"][0] += 1
    return columns


# ── signing ───────────────────────────────────────────────────────────────────────────────


def test_what_its_rows_do_not_give_is_not_signed(out: Path, keys: tuple[Path, Path]) -> None:
    edited(out, lambda fields: fields.update(examples_total=7))
    with pytest.raises(RecordError, match="was changed after it was written"):
        sign(out, keys[0])
    assert not (out / FILE).exists()


def test_without_rows_nothing_is_signed(out: Path, keys: tuple[Path, Path]) -> None:
    (out / "rows.npz").unlink()
    with pytest.raises(RecordError, match=r"rows\.npz is missing"):
        sign(out, keys[0])


def test_another_key_does_not_take_over_in_silence(
    out: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    sign(out, keys[0])
    with pytest.raises(UsageError, match=r"was signed by the key .* already: remove it first"):
        sign(out, save_pair(tmp_path, "other")[0])


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_told(out: Path, keys: tuple[Path, Path]) -> None:
    out.chmod(0o500)
    with pytest.raises(RecordError):
        sign(out, keys[0])
