"""A record is run again from its folder, and every bit that differs is told."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import CNN, Project

import gate
from gate import artifact
from gate.cli import exit_code_of
from gate.commands._proof_text import render
from gate.commands.reproduce import Reproduction, reproduce
from gate.errors import RecordError, UsageError


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("reproduce"))
    gate.run_gate(project.policy, CNN, tracker="none", threads=1, out=project.folder / "out")
    return project.folder


@pytest.fixture
def out(once: Path, tmp_path: Path) -> Path:
    """To be spoilt; policy and data are where it says."""
    return Path(shutil.copytree(once / "out", tmp_path / "out"))


def edited(out: Path, **fields: Any) -> None:
    file = out / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), encoding="utf-8")


def differing(found: Reproduction) -> dict[str, str]:
    return {one.what: one.differs for one in found.held if one.differs}


def test_the_same_machine_gives_the_same_bits(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert exit_code_of(["reproduce", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("REPRODUCED  digits-cnn, record ")
    for what in ("held-out data", "calibration data", "INT8 artifact", "rows.npz", "outputs.npz"):
        assert f"  same    {what}\n" in told
    assert not list(elsewhere.rglob("record.json"))


@pytest.mark.slow
def test_nothing_of_the_surroundings_is_in_the_bits(out: Path, tmp_path: Path) -> None:
    """Another folder, time zone, locale, umask, hash seed and number of BLAS threads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = {
        "LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "gate", "reproduce", str(out), "--threads", "2"],
        cwd=elsewhere, env=os.environ | other, capture_output=True, text=True, check=False,
        umask=0o077,
    )  # fmt: skip
    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "REPRODUCED"), done.stderr
    assert "here: threads 2, and it was 1" in done.stdout


def test_what_differs_is_named(out: Path) -> None:
    """As if the record were of a machine that computes otherwise."""
    with np.load(out / "outputs.npz") as archive:
        arrays = dict(archive)
    name = next(name for name in arrays if name != "id")
    arrays[name] = np.nextafter(arrays[name], np.inf, dtype=arrays[name].dtype)
    np.savez(out / "outputs.npz", **arrays)
    edited(out, outputs_sha256=artifact.sha256_of(out / "outputs.npz"))
    found = reproduce(out)
    assert differing(found) == {"outputs.npz": f"{name} differ"}
    assert found.exit_code == 1
    assert render(found, "text").startswith("NOT REPRODUCED")
    assert f"  differs outputs.npz: {name} differ\n" in render(found, "text")
    assert json.loads(render(found, "json"))["exit_code"] == 1


def test_what_of_this_machine_is_another_is_told(out: Path) -> None:
    told = json.loads((out / "record.json").read_text("utf-8"))["provenance"]
    told["versions"]["onnxruntime"] = "1.0"
    told["cpu"]["features"] = ["amx_int8"]
    edited(out, provenance=told)
    found = reproduce(out)
    assert found.exit_code == 0
    assert any(line.startswith("onnxruntime ") for line in found.elsewhere)
    assert any("and they were amx_int8" in line for line in found.elsewhere)


def test_a_folder_that_is_not_whole_is_refused(out: Path) -> None:
    (out / "model.fp32.onnx").unlink()
    with pytest.raises(RecordError, match=r"model\.fp32\.onnx is missing: fetch the whole folder"):
        reproduce(out)


def test_other_data_are_told_before_anything_is_compared(
    once: Path, out: Path, tmp_path: Path
) -> None:
    there = Path(shutil.copytree(once, tmp_path / "there"))
    project = Project(there)
    project.change("held_out", lambda columns: columns["image"].__setitem__(0, 0.5))
    source = json.loads((out / "record.json").read_text("utf-8"))["policy_source"]
    edited(out, policy_source=source | {"file": str(project.policy), "base": str(there)})
    assert "held-out data" in differing(reproduce(out))


@pytest.mark.parametrize("of", ["attested", "reference"])
def test_what_its_folder_does_not_keep_is_no_reproduction(
    out: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    from gate.commands import reproduce as module

    record = module.judge(out)
    held: Any = (object(),) if of == "attested" else record.candidate
    monkeypatch.setattr(module, "judge", lambda _: record.model_copy(update={of: held}))
    with pytest.raises(UsageError, match="cannot be run again from its folder"):
        reproduce(out)


def test_another_plugin_of_that_name_is_refused(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "decoders.py"
    file.write_text("DECODERS = {}\n")
    told = json.loads((out / "record.json").read_text("utf-8"))["provenance"]
    edited(out, provenance=told | {"plugins": {"decoders.py": "0" * 64}})
    assert exit_code_of(["reproduce", str(out), "--plugin", str(file)]) == 2
