"""Whole runs: the record is the same whatever ran it, and whatever an earlier run had left."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image
from support.onnx_models import model, save, weights
from support.project import CNN, WIDE_RANGE, Project
from support.shards import Work, bits, told, work_of

import gate
from gate import artifact, examples, tokens
from gate.engines._ray_worker import Bundle, Message, Worker, replaced
from gate.errors import EngineError, GateError
from gate.pipeline import Finished


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(folder)


def run(project: Any, candidate: Path = CNN, **options: Any) -> Finished:
    return gate.run_gate(project.policy, candidate, tracker="none", threads=1, **options)


# ── kinds of work ─────────────────────────────────────────────────────────────────────────


class Bundled(Project):
    """A bundled example, ready to be changed."""

    def __init__(self, folder: Path, key: str, limit: int) -> None:
        shutil.copytree(examples.policies() / key, folder / key)
        self.folder, self.policy = folder, folder / f"{key}.yaml"
        self.spec = yaml.safe_load((examples.policies() / f"{key}.yaml").read_text())
        for source in (self.spec["build"]["calibration"], self.spec["judge"]["held_out"]):
            source.pop("sha256", None)
            source["limit"] = limit
        self.spec["judge"]["expect_fp32"] = "unknown"
        self.write()


def _of_scenes(folder: Path) -> tuple[Project, Path, dict[str, Any]]:
    made = Bundled(folder, "scenes", 40)
    made.spec["judge"]["batch_size"] = 8
    made.spec["judge"]["budgets"] = [{"metric": "map", "max_drop": 0.5}]
    made.write()
    return made, examples_model("scenes", "detector.onnx"), {}


def _of_texts(folder: Path) -> tuple[Project, Path, dict[str, Any]]:
    made = Bundled(folder, "languages", 150)
    made.spec["build"]["preprocess"]["tokenizer"]["padding"] = "longest"
    made.spec["judge"]["batch_size"] = 7
    made.spec["build"]["recipe"] = "static"
    made.spec["judge"]["budgets"] = [{"metric": "accuracy", "max_drop": 0.5}]
    made.write()
    return made, _of_any_length(folder / "model.onnx"), {}


def _of_any_length(path: Path) -> Path:
    """Tokens are averaged, padding among them: what stands beside a text changes what it gets."""
    arrays = {
        "table": weights(30_000, 16, scale=1.0),
        "hidden": weights(16, 32),
        "last": weights(32, 18),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"], "embed"),
        helper.make_node("ReduceMean", ["words", "axes"], ["mean"], "average", keepdims=0),
        helper.make_node("MatMul", ["mean", "hidden"], ["inner"], "inner"),
        helper.make_node("Relu", ["inner"], ["positive"], "relu"),
        helper.make_node("MatMul", ["positive", "last"], ["logits"], "last"),
    ]
    given = {"input_ids": (TensorProto.INT64, ("N", "L"))}
    return save(model(nodes, given, {"logits": ["N", 18]}, arrays, opset=18), path)


def _of_digits(folder: Path, **judge: Any) -> tuple[Project, Path, dict[str, Any]]:
    made = Project(folder)
    limit = judge.pop("limit", None)
    made.spec["judge"] |= {"expect_fp32": "unknown", **judge}
    if limit is not None:
        made.spec["judge"]["held_out"]["limit"] = limit
    made.write()
    return made, CNN, {}


def _of_pictures(folder: Path) -> tuple[Project, Path, dict[str, Any]]:
    """Digits as files of PNG in folders of classes."""
    made, candidate, options = _of_digits(folder)
    for name, count in (("held_out", 90), ("calibration", 40)):
        columns = made.data(name)
        for k in range(count):
            where = folder / name / f"class{columns['target'][k]}"
            where.mkdir(parents=True, exist_ok=True)
            picture = np.round(columns["image"][k, 0] / columns["image"].max() * 255)
            Image.fromarray(picture.astype(np.uint8)).save(where / f"{k}.png")
    made.spec["judge"]["held_out"] = {"path": "held_out", "format": "image_folder"}
    made.spec["build"]["calibration"] = {"path": "calibration", "format": "image_folder"}
    made.spec["build"]["preprocess"] = {"color": "L", "scale": 1 / 255, "to_channels_first": True}
    made.spec["build"]["classes"] = [f"class{k}" for k in range(10)]
    made.write()
    return made, candidate, options


def examples_model(key: str, file: str) -> Path:
    return Path(examples.__file__).parent / key / file


KINDS: Mapping[str, Callable[[Path], tuple[Project, Path, dict[str, Any]]]] = {
    "one example": lambda folder: _of_digits(folder, limit=1),
    "fewer than a batch": lambda folder: _of_digits(folder, limit=40),
    "one at a time": lambda folder: _of_digits(folder, limit=150, batch_size=1),
    "boxes": _of_scenes,
    "texts": _of_texts,
    "pictures": _of_pictures,
    "reference": lambda folder: (*_of_digits(folder, limit=200)[:2], {"reference": WIDE_RANGE}),
}


_SLOW = ("boxes", "reference", "one at a time")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], Worker]:
    """A cluster's worker, in this process."""
    monkeypatch.setattr(
        "gate.engines._ray_worker._fetched",
        lambda bundles, folder: [one.unpack(folder) for one in bundles],
    )

    def begin(work: Work) -> Worker:
        assert work.job.elsewhere is not None
        models = {
            role: [Bundle.of(file) for file in artifact.files(model)]
            for role, model in work.job.elsewhere.models.items()
        }
        own = work.job.elsewhere.tokenizer
        worker, sent = Worker(), () if own is None else (Bundle.of(own),)
        assert worker.open(replaced(work.job.elsewhere), models, (), sent) is None
        return worker

    return begin


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in _SLOW else ()) for kind in KINDS],
)
def test_of_any_kind_rows_and_record_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: Callable[[Work], Worker], kind: str
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project, candidate, options = KINDS[kind](folder)
    work = work_of(project, tmp_path / "out", candidate, **options)
    monkeypatch.chdir(tmp_path)  # where nothing of it is kept
    assert told(run(project, candidate, workers=3, **options).record) == told(work.record)
    if "own" in work.job.elsewhere.models:  # type: ignore[union-attr]
        shutil.copyfile(tmp_path / "out" / "model.fp32.onnx", tmp_path / "out" / "own.onnx")
        work = replace(work, job=_with_reference(work, tmp_path / "out"))
    worker = begun(work)
    for part in work.parts:
        found = worker.score(Message.of(part))
        assert not isinstance(found, GateError), found
        assert bits(found) == bits(work.job.work(part))


def _with_reference(work: Work, folder: Path) -> Any:
    """What is held against is kept under no name: the candidate's is the other one."""
    from gate.backends.onnxruntime import BACKEND

    models = dict(work.job.elsewhere.models)  # type: ignore[union-attr]
    models["own"] = folder / "own.onnx"
    models["fp32"] = WIDE_RANGE
    given = BACKEND.open(WIDE_RANGE, threads=1)
    scorer = work.job.work
    gives = replace(scorer.models, fp32=lambda batch: given.run(batch.feeds))
    return replace(work.changed(models=models), work=replace(scorer, models=gives))


def test_weights_beside_the_model_reach_a_worker(
    tmp_path: Path, project: Project, begun: Callable[[Work], Worker]
) -> None:
    work = work_of(project, tmp_path / "out")
    beside = tmp_path / "model.onnx"
    whole = onnx.load(tmp_path / "out" / "model.fp32.onnx")
    onnx.save(whole, beside, save_as_external_data=True, location="model.onnx.data")
    assert work.job.elsewhere is not None
    models = {**work.job.elsewhere.models, "fp32": beside}
    worker = begun(replace(work, job=work.changed(models=models)))
    found = worker.score(Message.of(work.parts[0]))
    assert bits(found) == bits(work.job.work(work.parts[0]))


def test_a_tokenizer_that_came_with_the_candidate_reaches_a_worker(
    tmp_path: Path, begun: Callable[[Work], Worker]
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project, candidate, options = _of_texts(folder)
    work = work_of(project, tmp_path / "out", candidate, **options)
    assert work.job.elsewhere is not None
    policy = work.job.elsewhere.policy
    assert policy.build.preprocess is not None
    spec = policy.build.preprocess.tokenizer
    assert spec is not None
    assert spec.file is not None
    file = (folder / spec.file).rename(tmp_path / "tokenizer.json")
    wanted = policy.build.preprocess.model_copy(
        update={"tokenizer": spec.model_copy(update={"file": None})}
    )
    build = policy.build.model_copy(update={"preprocess": tokens.with_own(wanted, file)})
    own = tokens.own(build.preprocess)
    job = work.changed(policy=policy.model_copy(update={"build": build}), tokenizer=own)
    worker = begun(replace(work, job=job))
    file.unlink()
    found = worker.score(Message.of(work.parts[0]))
    assert bits(found) == bits(work.job.work(work.parts[0]))


def test_texts_that_a_worker_reads_otherwise_are_named(
    tmp_path: Path, begun: Callable[[Work], Worker]
) -> None:
    """Padded to the longest, too."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    project, candidate, _ = _of_texts(here)
    work = work_of(project, tmp_path / "out", candidate)
    shutil.copytree(here, there)
    file = there / "languages" / "held_out.jsonl"
    lines = file.read_text().splitlines()
    place = int(work.parts[0].split.order[3])
    texts = yaml.safe_load(lines[place])
    column = next(name for name in texts if name not in ("id", "target"))
    texts[column] = texts[column] + "xyz"
    lines[place] = json.dumps(texts)
    file.write_text("\n".join(lines) + "\n")
    found = begun(replace(work, job=work.changed(base=there))).score(Message.of(work.parts[0]))
    assert isinstance(found, EngineError)
    assert f"1 examples of shard 0 differ (first ids: {work.parts[0].split.ids[3]})" in str(found)


# ── what an earlier run had left ──────────────────────────────────────────────────────────


class Interrupting:
    """Presses Ctrl-C when so many shards are done."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def step(self, name: str, total: int | None = None) -> None:
        """As a step begins."""

    def advance(self, examples: int) -> None:
        """A shard is done."""
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def kept(suffix: str) -> list[Path]:
    return sorted(Path(".gate/cache/rows").glob(f"*{suffix}"))


@pytest.mark.parametrize("stopping", ["full", "early"])
def test_an_interrupted_run_is_taken_up_and_comes_to_the_same(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: str
) -> None:
    project.spec["judge"] |= {"stopping": stopping, "batch_size": 10}
    project.budget(metric="accuracy", max_drop=0.05)
    expected = run(project).record
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    monkeypatch.chdir(fresh)
    with pytest.raises(KeyboardInterrupt):
        run(project, progress=Interrupting(2), workers=3)
    assert len(kept(".shard")) == 2
    again = run(project, workers=2)
    assert told(again.record) == told(expected)
    taken = min(240, expected.examples_evaluated)
    assert again.notes == (f"{taken} examples were taken up from a run that was interrupted",)
    assert kept(".shard") == []


def test_fp32_is_known_the_second_time_and_nothing_differs(project: Project) -> None:
    first = run(project)
    again = run(project)
    assert told(again.record) == told(first.record)
    assert (first.notes, again.notes) == (
        (), ("FP32 was known of 1,000 examples; it gave the same bits again",)
    )  # fmt: skip
    project.spec["build"]["recipe"] = "static-per-tensor"
    project.write()
    assert run(project).notes == again.notes


def test_another_batch_size_is_another_arithmetic(project: Project) -> None:
    run(project)
    project.spec["judge"]["batch_size"] = 32
    project.write()
    assert run(project).notes == ()


def test_a_cache_that_cannot_be_written_changes_nothing(project: Project) -> None:
    Path(".gate").mkdir()
    Path(".gate/cache").write_text("in the way")
    first = run(project)
    assert told(run(project).record) == told(first.record)


def test_nan_behind_an_early_stop_is_never_heard_of(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever engine had gone past the end."""
    from gate.scoring import Scorer

    project.spec["judge"] |= {"stopping": "early", "batch_size": 10}
    project.budget(metric="accuracy", max_drop=0.1)
    expected = run(project).record
    assert expected.examples_evaluated < 900
    whole = Scorer.__call__
    behind = (expected.examples_evaluated - 1) // 120 + 1

    def poisoned(self: Scorer, part: Any) -> Any:
        if part.number >= behind:
            raise EngineError(f"heard of shard {part.number}")
        return whole(self, part)

    monkeypatch.setattr(Scorer, "__call__", poisoned)
    shutil.rmtree(".gate")
    assert told(run(project, workers=3).record) == told(expected)
