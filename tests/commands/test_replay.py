"""A record's model run again: the same bits, close, different, or nothing proven."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml
from support import saturating
from support.project import CNN, Project

from gate import evaluate, run_gate
from gate.cli import exit_code_of
from gate.commands import _replay_cpu as cpus
from gate.commands import _replay_stored as stores
from gate.commands._replay_text import to_json, to_text
from gate.commands.replay import Replay, difference, needed, outcome, replay
from gate.commands.report import load_record
from gate.errors import EvaluationError, GateError, RecordError, UsageError

QEMU = pytest.mark.skipif(
    shutil.which(cpus.QEMU) is None, reason=f"{cpus.QEMU} is not installed: {cpus.INSTALL}"
)
VNNI = "avx512_vnni"


def made(folder: Path, recipe: str = "static", **judge: Any) -> Path:
    """The folder of a finished run."""
    policy, candidate = saturating.project(folder, recipe)
    spec = yaml.safe_load(policy.read_text())
    spec["judge"] |= judge
    policy.write_text(yaml.safe_dump(spec))
    with mock.patch.object(evaluate, "SAMPLE", 64):  # as small as makes a difference
        return run_gate(policy, candidate, tracker="none", out=folder / "run", threads=1).folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each recipe, made once."""
    runs: dict[str, Path] = {}

    def of(recipe: str) -> Path:
        if recipe not in runs:
            runs[recipe] = made(tmp_path_factory.mktemp(recipe) / "project", recipe)
        return runs[recipe]

    return of


@pytest.fixture
def run(once: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run that may be spoilt; its data stay where the record says."""
    shutil.copytree(once("static"), tmp_path / "copy")
    return tmp_path / "copy"


# ── on this machine ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recipe", ["static", "static-signed", "static-7bit"])
def test_the_machine_that_made_a_record_replays_it_bit_by_bit(
    once: Callable[[str], Path], recipe: str
) -> None:
    found = replay(once(recipe))
    assert (found.outcome, found.exit_code) == ("same", 0)
    assert found.outputs.identical == found.examples == found.stored == 64
    assert (found.outputs.largest, found.outputs.median) == (0.0, 0.0)
    assert (found.missing, found.added, found.versions) == ((), (), {})
    assert found.metrics["accuracy"] == (1.0, 1.0)
    assert found.flip_rate_upper == pytest.approx(1 - 0.05 ** (1 / 64))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_dynamic_outputs_are_replayed_in_their_own_batches(tmp_path: Path, batch: int) -> None:
    """The range of a dynamic model's activations is that of the whole batch."""
    policy, candidate = saturating.project(tmp_path / "project", "static")
    spec = yaml.safe_load(policy.read_text())
    spec["build"] = {"recipe": "dynamic"}
    spec["judge"]["batch_size"] = batch
    policy.write_text(yaml.safe_dump(spec))
    folder = run_gate(policy, candidate, tracker="none", out=tmp_path / "run").folder
    assert replay(folder, examples=12).outcome == "same"


def test_a_run_that_stopped_early_is_replayed_on_what_it_saw(tmp_path: Path) -> None:
    budgets = [{"metric": "accuracy", "max_drop": 0.1}]
    folder = made(tmp_path / "project", stopping="early", budgets=budgets)
    record = load_record(folder)
    assert record.stopped is not None
    assert replay(folder).outcome == "same"


def test_a_bundled_model_on_real_data(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    policy = Project(tmp_path / "project").policy
    folder = run_gate(policy, CNN, tracker="none", out=tmp_path / "run").folder
    found = replay(folder)
    assert found.outcome == "same"
    assert found.held_out == 1000


def test_the_order_of_the_file_and_its_format_do_not_matter(run: Path, tmp_path: Path) -> None:
    source = Path(load_record(run).policy_source.file).parent / "held_out.npz"
    with np.load(source) as archive:
        turned = {name: archive[name][::-1] for name in archive.files}
    np.savez(tmp_path / "turned.npz", **turned)
    assert replay(run, data=tmp_path / "turned.npz").outcome == "same"


def test_examples_are_a_seeded_sample_of_what_is_stored(run: Path) -> None:
    assert replay(run, examples=5).examples == 5
    with pytest.raises(UsageError, match=r"--examples 65: the record stored the outputs of 64"):
        replay(run, examples=65)
    assert replay(run, max_flips=0.1).examples == needed(0.1) == 29


def test_without_the_fp32_model_it_is_the_same(run: Path) -> None:
    (run / "model.fp32.onnx").unlink()
    assert replay(run).outcome == "same"


def test_the_working_folder_is_never_imported_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository under review may hold a `gate` or a `numpy.py` of its own."""
    villain = tmp_path / "checkout"
    (villain / "gate" / "commands").mkdir(parents=True)
    names = ("gate/__init__.py", "gate/commands/__init__.py", "numpy.py", "json.py", "zipfile.py")
    for name in (*names, "onnxruntime.py", "gate/commands/_replay_cpu.py"):
        (villain / name).write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    monkeypatch.chdir(villain)
    monkeypatch.setenv("PYTHONPATH", ".")
    assert replay(run).outcome == "same"
    assert not (tmp_path / "owned").exists()


# ── batches ───────────────────────────────────────────────────────────────────────────────


def sample(places: list[int], seen: int) -> stores.Stored:
    ids = np.array([f"e{index}" for index in range(seen)])
    evaluation: Any = type("Seen", (), {"ids": ids})()
    chosen = np.array(places)
    return stores.Stored(ids[chosen], {}, chosen, evaluation)


def test_whole_batches_are_those_of_the_run() -> None:
    found = list(stores._whole(sample([1, 5, 6, 9], seen=10), 4))
    assert [list(ids) for ids, _ in found] == [
        ["e0", "e1", "e2", "e3"], ["e4", "e5", "e6", "e7"], ["e8", "e9"],
    ]  # fmt: skip
    assert [list(wanted) for _, wanted in found] == [[1], [1, 2], [1]]


def test_packed_batches_are_full() -> None:
    found = list(stores._packed(sample([1, 5, 6, 9, 11], seen=20), 4))
    assert [list(ids) for ids, _ in found] == [["e1", "e5", "e6", "e9"], ["e11"] * 4]
    assert [list(wanted) for _, wanted in found] == [[0, 1, 2, 3], [0]]
    assert [len(ids) for ids, _ in stores._packed(sample([1, 2], seen=3), 64)] == [3]


# ── verdicts ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("limit", "examples"), [(0.01, 299), (0.05, 59), (0.5, 5), (0, None)])
def test_so_many_without_a_flip_prove_the_rate(limit: float, examples: int | None) -> None:
    assert needed(limit) == examples
    if examples:
        assert outcome(examples, 0, 0, limit) == "close"
        assert outcome(examples - 1, 0, 0, limit) == "not proven"


@pytest.mark.parametrize(
    ("n", "identical", "flips", "limit", "word"),
    [
        (1, 1, 0, 0.01, "same"),
        (64, 63, 0, 0.01, "not proven"),
        (64, 63, 0, 0.05, "close"),
        (64, 0, 1, 0.01, "different"),
        (64, 0, 64, 0.01, "different"),
        (1000, 0, 4, 0.01, "close"),
        (1000, 0, 10, 0.01, "not proven"),
        (1000, 0, 11, 0.01, "different"),
        (64, 0, 0, 0.0, "not proven"),
        (64, 0, 1, 0.0, "different"),
    ],
)
def test_the_word_for_it(n: int, identical: int, flips: int, limit: float, word: str) -> None:
    assert outcome(n, identical, flips, limit) == word


def test_differences_are_of_all_outputs() -> None:
    old = {"a": np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 5.0]]), "b": np.array([1, 2, 3])}
    new = {"a": np.array([[1.0, 2.0], [3.0, 4.5], [-0.0, 5.0]]), "b": np.array([1, 2, 3])}
    found = difference(old, new)
    assert (found.identical, found.largest, found.median) == (1, 0.5, 0.0)


def test_nan_is_never_identical() -> None:
    nan = {"a": np.array([[np.nan], [1.0]], dtype=np.float32)}
    found = difference(nan, nan)
    assert (found.identical, found.not_finite, found.largest) == (1, 1, 0.0)
    nothing = difference({"a": np.array([np.nan])}, {"a": np.array([1.0])})
    assert (nothing.largest, nothing.median) == (None, None)


def test_text_outputs_have_no_difference_but_are_compared() -> None:
    found = difference({"a": np.array(["x", "y"])}, {"a": np.array(["x", "long"])})
    assert (found.identical, found.largest) == (1, None)


def replayed_as(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], **options: Any
) -> Replay:
    """A replay of which the outputs are changed."""
    real = cpus.run

    def changed(*args: Any, **kwargs: Any) -> cpus.Ran:
        ran = real(*args, **kwargs)
        return cpus.Ran({k: change(v.copy()) for k, v in ran.outputs.items()}, ran.cpu, ran.seconds)

    monkeypatch.setattr(cpus, "run", changed)
    return replay(run, **options)


def test_nan_here_is_different(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_nan(values: Any) -> Any:
        values[3, 0] = np.nan
        return values

    found = replayed_as(run, monkeypatch, one_nan)
    assert (found.outcome, found.flips, found.outputs.not_finite) == ("different", 1, 1)
    assert "1 example with NaN or Inf" in to_text(found)
    assert json.loads(to_json(found))["metrics"]["accuracy"]["replayed"] is None


def test_other_bits_and_the_same_predictions_are_close_if_proven(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replayed_as(run, monkeypatch, lambda values: values * np.float32(1.001))
    assert (found.outcome, found.exit_code, found.flips) == ("not proven", 3, 0)
    assert "larger --max-flips" in to_text(found)
    assert replay(run, max_flips=0.05).outcome == "close"


def test_outputs_of_another_shape_are_no_replay(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="nothing was compared"):
        replayed_as(run, monkeypatch, lambda values: values[:, :5])


# ── the command ───────────────────────────────────────────────────────────────────────────


def test_the_command_prints_the_word_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["replay", str(run)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("SAME  saturating-static on this machine")
    assert "0 of 64 predictions; the rate is at most 4.57 %" in shown.out
    assert "run on this machine" in shown.err


def test_json_is_all_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["replay", str(run / "record.json"), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["exit_code"], told["flips"]) == ("same", 0, 0)
    assert told["metrics"]["accuracy"] == {"recorded": 1.0, "replayed": 1.0}
    assert told["cpu"] == load_record(run).provenance.cpu


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cpu", "haswel"], "unknown CPU 'haswel'; did you mean 'haswell'? Known: nehalem"),
        (["--cpu", "cascadelake"], "qemu does not emulate its AVX-512"),
        (["--cpu", "skylake-server"], "use that"),
        (["--max-flips", "nan"], "max-flips"),
        (["--max-flips", "1"], "from 0 to below 1"),
        (["--examples", "0"], "examples"),
        (["--format", "xml"], "xml"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_bad_usage_exits_2(
    run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["replay", str(run), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_no_record_exits_2(tmp_path: Path) -> None:
    assert exit_code_of(["replay", str(tmp_path)]) == 2


# ── what a record does not vouch for ──────────────────────────────────────────────────────


def append(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\0")


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.fp32.onnx", "rows.npz"])
def test_a_changed_file_is_refused(run: Path, name: str) -> None:
    append(run / name)
    with pytest.raises(RecordError, match=rf"{name} is not "):
        replay(run)


@pytest.mark.parametrize("name", ["model.int8.onnx", "outputs.npz", "rows.npz"])
def test_a_missing_file_is_told(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RecordError, match=rf"{name} is missing"):
        replay(run)


def test_models_that_ran_elsewhere_cannot_be_replayed(run: Path) -> None:
    record = load_record(run).model_copy(update={"attested": ("on a phone",)})
    with pytest.raises(RecordError, match="ran elsewhere: there is no model to replay"):
        stores.demand_artifact(run, record)


def change_outputs(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with np.load(run / "outputs.npz") as archive:
        columns = dict(archive)
    change(columns)
    np.savez(run / "outputs.npz", **columns)
    change_record(run, lambda fields: fields.update(outputs_sha256=None))


def turned(columns: dict[str, Any]) -> None:
    columns["output/logits"] = columns["output/logits"][::-1]


def renamed(columns: dict[str, Any]) -> None:
    columns["id"] = np.array([f"x{index}" for index in range(64)])


def cut(columns: dict[str, Any]) -> None:
    columns["output/logits"] = columns["output/logits"][:5]


def numbered(columns: dict[str, Any]) -> None:
    columns["id"] = np.arange(64)


def repeated(columns: dict[str, Any]) -> None:
    columns["id"] = np.repeat(columns["id"][:1], 64)


def emptied(columns: dict[str, Any]) -> None:
    for name in columns:
        columns[name] = columns[name][:0]


def unnamed(columns: dict[str, Any]) -> None:
    columns["output/other"] = columns.pop("output/logits")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (turned, "does not give the .* rows"),
        (renamed, "holds examples that record .* did not see"),
        (cut, "not one output for each"),
        (emptied, "it holds 0 ids"),
        (numbered, "missing or damaged"),
        (repeated, "missing or damaged"),
        (lambda columns: columns.pop("id"), "missing or damaged"),
        (lambda columns: columns.pop("output/logits"), "not one output for each"),
    ],
)
def test_outputs_of_another_run_are_refused(
    run: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    change_outputs(run, change)
    with pytest.raises(RecordError, match=said):
        replay(run)


def test_outputs_that_the_record_does_not_vouch_for_are_refused(run: Path) -> None:
    vouched = load_record(run).outputs_sha256
    change_outputs(run, turned)
    change_record(run, lambda fields: fields.update(outputs_sha256=vouched))
    with pytest.raises(RecordError, match=r"outputs\.npz is not what record"):
        replay(run)


def test_outputs_of_another_name_are_refused(run: Path) -> None:
    change_outputs(run, unnamed)
    with pytest.raises(EvaluationError, match="'logits'"):
        replay(run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no archive"])
def test_damaged_outputs_are_refused(run: Path, content: bytes) -> None:
    (run / "outputs.npz").write_bytes(content)
    with pytest.raises(RecordError, match=r"outputs\.npz is missing or damaged"):
        replay(run)


def test_outputs_never_run_code(run: Path) -> None:
    np.savez(run / "outputs.npz", id=np.array([print], dtype=object))
    with pytest.raises(RecordError, match="missing or damaged"):
        replay(run)


def change_record(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((run / "record.json").read_text())
    change(fields)
    (run / "record.json").write_text(json.dumps(fields))


def test_another_preprocessing_is_refused(run: Path) -> None:
    change_record(run, lambda fields: fields["policy"]["build"].update(preprocess={"scale": 0.5}))
    with pytest.raises(RecordError, match="preprocessing"):
        replay(run)


# ── the data ──────────────────────────────────────────────────────────────────────────────


def test_data_that_moved_are_asked_for(run: Path, tmp_path: Path) -> None:
    home = Path(load_record(run).policy_source.file).parent
    moved = tmp_path / "elsewhere" / "other.npz"
    moved.parent.mkdir()
    shutil.copy(home / "held_out.npz", moved)
    change_record(run, lambda fields: fields["policy_source"].update(base="/gone"))
    with pytest.raises(UsageError, match=r"no longer at /gone/held_out\.npz: .* --data"):
        replay(run)
    assert replay(run, data=moved).outcome == "same"


def test_other_data_are_refused(run: Path) -> None:
    home = Path(load_record(run).policy_source.file).parent
    with pytest.raises(UsageError, match=r"calibration\.npz is not the held-out set .* --data"):
        replay(run, data=home / "calibration.npz")


# ── the process ───────────────────────────────────────────────────────────────────────────


def test_a_killed_process_is_no_verdict(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_CHILD", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(EvaluationError, match="was killed by SIGKILL; out of memory"):
        replay(run)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('no such library')", "failed: no such library"),
        ("raise SystemExit(3)", "failed: exit code 3, and no message"),
        ("pass", "left no result"),
    ],
)
def test_a_process_that_gives_nothing_is_no_verdict(
    run: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(cpus, "_CHILD", program)
    with pytest.raises(EvaluationError, match=said):
        replay(run)


def test_a_process_that_hangs_is_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_CHILD", "import signal; signal.pause()")
    monkeypatch.setattr(cpus, "limit", lambda *_: 0.3)
    with pytest.raises(EvaluationError, match=r"did not end within .* --examples"):
        replay(run)


def test_nothing_is_left_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    before = sorted(run.iterdir())
    replay(run)
    assert list(private.iterdir()) == []
    assert sorted(run.iterdir()) == before


def test_time_grows_with_the_sample() -> None:
    assert cpus.limit(64, 0.01, 0) == pytest.approx(120 + 64 * 3)
    assert cpus.limit(64, None, 10**9) > cpus.limit(64, None, 0) > cpus.limit(1, None, 0) > 120


# ── emulated CPUs ─────────────────────────────────────────────────────────────────────────


def test_without_qemu_it_says_how_to_install_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_: None)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert exit_code_of(["replay", str(run), "--cpu", "haswell"]) == 4
    assert "apt-get install qemu-user" in capsys.readouterr().err


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_elsewhere_than_on_x86_64_linux_nothing_is_emulated(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(GateError, match="x86-64 Linux only") as caught:
        cpus.machine("haswell")
    assert caught.value.exit_code == 4


def test_a_qemu_that_lacks_what_the_cpu_has_is_no_verdict() -> None:
    """Before 7.2 it had no AVX2, and ran a Haswell on SSE kernels."""
    haswell = cpus.Machine("Haswell", (), cpus.CPUS["haswell"])
    with pytest.raises(EvaluationError, match=r"does not emulate AVX2, FMA3.*7\.2"):
        cpus._emulated(haswell, cpus.CPUS["haswell"], ["SSE42"])


@pytest.mark.slow
@QEMU
@pytest.mark.parametrize("name", ["haswell", "nehalem"])
def test_what_a_process_sees_is_the_emulated_cpu(run: Path, name: str) -> None:
    found = replay(run, cpu=name, examples=2)
    assert not found.cpu["vnni"]
    assert ("avx2" in found.cpu["features"]) == (name == "haswell")
    assert found.machine.startswith(f"{name.capitalize()}, emulated by qemu")


@QEMU
@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("static", "different"),
        # ONNX Runtime makes its activations unsigned on x86
        pytest.param("static-signed", "different", marks=pytest.mark.slow),
        ("static-7bit", "same"),
    ],
)
def test_8_bit_weights_saturate_on_a_haswell(
    once: Callable[[str], Path], recipe: str, word: str
) -> None:
    folder = once(recipe)
    if VNNI not in load_record(folder).provenance.cpu["features"]:
        pytest.skip("this machine saturates too: it has no AVX-512 VNNI")
    found = replay(folder, cpu="haswell")
    assert found.outcome == word
    assert VNNI in found.missing
    if word == "different":
        assert (found.flips, found.exit_code) == (64, 1)
        assert found.metrics["accuracy"] == (1.0, 0.0)
        assert "static-7bit" in to_text(found)
