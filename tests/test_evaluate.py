"""One loop over fixed batches, both models, and rows.npz."""

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from gate.engines import Job
from gate.engines.local import Threads
from gate.errors import DataError, EvaluationError, RecordError
from gate.evaluate import evaluate, first_outputs, grouped
from gate.metrics import Metric
from gate.rows import load_rows, rows_of, save_arrays
from gate.scoring import Give, Models, Part, Scored, Scorer
from gate.tasks import BoundTask
from gate.values import Batch, Rows, Split

N = 150


class Fake:
    """A runner that computes scores by a function of its input."""

    inputs = ()
    outputs = ()

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.batches: list[int] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.batches.append(len(feeds["x"]))
        return {"scores": self.function(feeds["x"])}


def right(scores: Any, targets: Any, reference: Any) -> Any:
    return (scores.argmax(axis=1) == targets).astype(float)[:, None]


def moved(scores: Any, targets: Any, reference: Any) -> Any:
    before = scores if reference is None else reference
    return np.abs(scores - before).sum(axis=1, keepdims=True)


def metric(name: str, observe: Any) -> Metric:
    return Metric(
        name=name,
        observation=name,
        observe=observe,
        summarize=lambda rows: float(rows.values.mean()),
        higher_is_better=True,
    )


METRICS = {"right": metric("right", right), "moved": metric("moved", moved)}
TASK = BoundTask(
    kind="test",
    decode=lambda outputs: outputs["scores"],
    metrics=METRICS,
    metric=METRICS.__getitem__,
)


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(0)
    return Split(
        name="held_out",
        source="test",
        ids=np.array([f"id-{i}" for i in range(N)]),
        explicit_ids=True,
        content=np.zeros((N, 16), np.uint8),
        inputs={"x": rng.standard_normal((N, 3)).astype(np.float32)},
        targets=rng.integers(0, 3, N),
        slices={"site": np.array(["a", "b"] * (N // 2))},
        unit=None,
        sha256="0" * 64,
        population="0" * 64,
        order=np.arange(N),
        prepare=lambda raw: raw,
    )


def scorer(fp32: Give, int8: Give, batch_size: int = 64) -> Scorer:
    return Scorer(Models(fp32, int8), TASK, METRICS, batch_size)


def evaluated(split: Split, fp32: Fake, int8: Fake, batch_size: int = 64) -> Any:
    done: list[int] = []
    made = scorer(lambda b: fp32.run(b.feeds), lambda b: int8.run(b.feeds), batch_size)
    with TemporaryDirectory() as scratch:
        result = evaluate(
            partial(Threads(1).score, Job(made, None)),
            split,
            batch_size=batch_size,
            seed=0,
            scratch=Path(scratch),
            progress=done.append,
        )
    assert sum(done) == N
    return result


def test_both_models_see_the_same_fixed_batches(split: Split) -> None:
    fp32, int8 = Fake(lambda x: x), Fake(lambda x: x)
    evaluated(split, fp32, int8)
    # shards are run beside each other
    assert sorted(fp32.batches) == sorted(int8.batches) == [22, 64, 64]


def test_rows_are_one_an_example_in_order(split: Split) -> None:
    result = evaluated(split, Fake(lambda x: x), Fake(lambda x: -x)).evaluation
    x = split.inputs["x"][:]
    expected = (x.argmax(axis=1) == split.targets).astype(float)
    np.testing.assert_array_equal(result.fp32["right"].values[:, 0], expected)
    np.testing.assert_allclose(result.int8["moved"].values[:, 0], 2 * np.abs(x).sum(axis=1), 1e-6)
    assert not result.fp32["moved"].values.any()
    np.testing.assert_array_equal(result.ids, split.ids)


@pytest.mark.parametrize("batch_size", [1, 7, 150, 1000])
def test_the_batch_size_does_not_change_rows(split: Split, batch_size: int) -> None:
    one = evaluated(split, Fake(lambda x: x), Fake(lambda x: x * 0.9)).evaluation
    other = evaluated(split, Fake(lambda x: x), Fake(lambda x: x * 0.9), batch_size).evaluation
    for name in METRICS:
        np.testing.assert_array_equal(one.int8[name].values, other.int8[name].values)


def test_outputs_of_other_shapes_in_other_batches_are_told(split: Split) -> None:
    def tokens(batch: Batch) -> dict[str, Any]:
        x = batch.feeds["x"]
        return {"scores": x, "hidden": np.zeros((len(x), 5 + batch.start))}

    told = r"\(5,\) of output 'hidden' in one batch and \(69,\) in another: .*`padding: max_length`"
    with pytest.raises(EvaluationError, match=told):
        first_outputs(tokens, list(split.batches(64)))
    with pytest.raises(EvaluationError, match=told):
        scorer(tokens, tokens)(Part(0, 0, split, np.zeros(N, dtype=bool)))


def test_a_column_called_like_a_group_of_classes_is_refused(split: Split) -> None:
    task = replace(TASK, groups=lambda targets: {"target/1": targets, "site": targets})
    with pytest.raises(DataError, match=r"has a column 'site', and so are called the groups"):
        grouped(split, task)


def test_target_is_a_slice_column(split: Split) -> None:
    result = evaluated(split, Fake(lambda x: x), Fake(lambda x: x)).evaluation
    assert set(result.slices) == {"site", "target"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fp32_that_is_not_finite_is_no_baseline(split: Split, value: float) -> None:
    def broken(x: Any) -> Any:
        return np.where(np.arange(len(x))[:, None] == 3, np.float32(value), x)

    with pytest.raises(EvaluationError, match=r"FP32 model gives NaN or Inf on 1 .*ids: id-3\)"):
        evaluated(split, Fake(broken), Fake(lambda x: x))


def test_int8_that_is_not_finite_is_told_and_counted(split: Split) -> None:
    def broken(x: Any) -> Any:
        return np.where(np.arange(len(x))[:, None] < 2, np.nan, x)

    result = evaluated(split, Fake(lambda x: x), Fake(broken)).evaluation
    assert result.problems.keys() == METRICS.keys()
    assert (
        "NaN or Inf on 6 of 150 examples (first ids: id-0, id-1, id-64" in result.problems["right"]
    )


def test_the_sample_is_seeded_and_keeps_its_ids(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gate.evaluate.SAMPLE", 64)
    one = evaluated(split, Fake(lambda x: x), Fake(lambda x: x * 2)).sample
    two = evaluated(split, Fake(lambda x: x), Fake(lambda x: x * 2), 9).sample
    assert len(one["id"]) == 64
    np.testing.assert_array_equal(one["id"], two["id"])
    rows = [int(name.removeprefix("id-")) for name in one["id"]]
    np.testing.assert_array_equal(one["output/scores"], split.inputs["x"][:][rows] * 2)


def test_nothing_holds_on_to_what_came_back(split: Split) -> None:
    """On a cluster all arrays of a shard lie in one piece of its store."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    def score(parts: Iterator[Part]) -> Generator[Scored, None, None]:
        nonlocal most
        made = scorer(lambda b: {"scores": b.feeds["x"]}, lambda b: {"scores": b.feeds["x"]}, 10)
        for part in parts:
            scored = made(part)
            alive.extend(
                weakref.ref(one) for one in (*scored.sample.values(), scored.fp32["right"])
            )
            yield scored
            del scored
            most = max(most, sum(one() is not None for one in alive))

    with TemporaryDirectory() as scratch:
        evaluate(
            score,
            split,
            batch_size=10,
            seed=0,
            scratch=Path(scratch),
            progress=lambda _: None,
            stop=lambda _: None,
        )
    assert len(alive) == 6
    assert most <= 3


# ── rows.npz ──────────────────────────────────────────────────────────────────────────────


def test_rows_come_back_from_disk(split: Split, tmp_path: Path) -> None:
    def broken(x: Any) -> Any:
        return np.where(np.arange(len(x))[:, None] < 2, np.nan, x)

    before = evaluated(split, Fake(lambda x: x), Fake(broken)).evaluation
    save_arrays(tmp_path / "rows.npz", rows_of(before))
    after = load_rows(tmp_path / "rows.npz")
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.targets, before.targets)
    assert after.problems == before.problems
    assert after.slices.keys() == before.slices.keys()
    for side in ("fp32", "int8"):
        mine, theirs = getattr(after, side), getattr(before, side)
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name].values, theirs[name].values)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(5), "a": Rows(np.ones((2, 2))).values, "file": np.zeros(1)}
    save_arrays(tmp_path / "one.npz", arrays)
    save_arrays(tmp_path / "two.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"nonsense"])
def test_damaged_rows_are_a_record_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(RecordError, match="missing or damaged"):
        load_rows(tmp_path / "rows.npz")


def test_missing_rows_are_a_record_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="missing or damaged"):
        load_rows(tmp_path / "rows.npz")
