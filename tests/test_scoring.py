"""Shards: whole batches of one sequence, and rows that do not depend on how it is cut."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shards import (
    METRICS,
    TASK,
    Counting,
    bits,
    observed,
    parts_of,
    scorer_of,
    split_of,
)

from gate.errors import EvaluationError
from gate.scoring import Part, Scorer, cut
from gate.values import Ragged, joined

# ── how a split is cut ────────────────────────────────────────────────────────────────────


@given(
    count=st.integers(1, 20_000),
    batch_size=st.sampled_from([1, 2, 7, 64, 100, 128, 129, 5000]),
    early=st.booleans(),
)
def test_shards_are_whole_batches_of_the_whole_sequence(
    count: int, batch_size: int, early: bool
) -> None:
    split = replace(split_of(3), ids=np.arange(count), order=np.arange(count), slices={})
    split = replace(split, content=np.zeros((count, 16), np.uint8), targets=None)
    kept = np.arange(count) % 2 == 0
    parts = list(cut(split, batch_size, kept, early=early))
    assert np.concatenate([part.split.ids for part in parts]).tolist() == list(range(count))
    assert np.concatenate([part.kept for part in parts]).tolist() == kept.tolist()
    assert [part.number for part in parts] == list(range(len(parts)))
    assert all(part.start % batch_size == 0 for part in parts)
    assert parts[-1].stop == count
    assert max(len(part.split) for part in parts) <= max(batch_size, 128 if early else 4096)


def test_a_part_of_a_split_is_that_part_of_everything() -> None:
    split = split_of(300, unit=np.arange(300) // 2)
    part = list(cut(split, 10, np.zeros(300, dtype=bool), early=True))[1]
    place = slice(120, 240)
    assert part.start == 120
    assert part.split.ids.tolist() == split.ids[place].tolist()
    assert part.split.unit is not None
    assert part.split.unit.tolist() == (np.arange(300) // 2)[place].tolist()
    np.testing.assert_array_equal(part.split.targets, split.targets[place])
    np.testing.assert_array_equal(part.split.content, split.content[place])
    np.testing.assert_array_equal(part.split.slices["site"], split.slices["site"][place])
    (batch,) = part.split.batches(200)
    np.testing.assert_array_equal(batch.feeds["x"], split.inputs["x"][place])


# ── what is made of one ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 5, 128, 300])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_shards_together_are_the_whole_run(count: int, batch_size: int) -> None:
    split = split_of(count)
    models = Counting(lambda x: x), Counting(lambda x: x * 0.9)
    score = scorer_of(*models, batch_size=batch_size, own=Counting(lambda x: -x))
    whole = score(Part(0, 0, split, np.arange(count) % 3 == 0))
    parts = [score(part) for part in parts_of(split, batch_size)]
    assert whole.ids.tolist() == [one for part in parts for one in part.ids.tolist()]
    for side in ("fp32", "int8", "own"):
        for name, rows in getattr(whole, side).items():
            assert bits(rows) == bits(joined([getattr(part, side)[name] for part in parts]))
    for name, values in whole.sample.items():
        assert bits(values) == bits(np.concatenate([part.sample[name] for part in parts]))
    assert bits(whole.reference) == bits(joined([part.reference for part in parts]))


def test_a_shard_whose_reference_is_known_runs_int8_alone() -> None:
    (part,) = parts_of(split_of(90), 20)
    fp32, int8 = Counting(), Counting(lambda x: x + 1)
    score = scorer_of(fp32, int8, batch_size=20)
    whole = score(part)
    again = score(part.knowing(whole.reference))
    assert bits(again) == bits(whole)
    assert (len(fp32.seen), len(int8.seen)) == (90, 180)


def test_a_ragged_reference_is_known_too() -> None:
    (part,) = parts_of(split_of(30), 8)

    def decode(outputs: Any) -> Ragged:
        return Ragged.of([row[:1, None].repeat(2, 1) for row in outputs["scores"]], 2)

    def sizes(scores: Any, targets: Any, reference: Any) -> Any:
        return (scores if reference is None else reference).sizes[:, np.newaxis] * 1.0

    made = scorer_of(
        Counting(), Counting(), batch_size=8, metrics={"sizes": observed("sizes", sizes)}
    )
    score = replace(made, task=replace(TASK, decode=decode))
    whole = score(part)
    assert isinstance(whole.reference, Ragged)
    assert bits(score(part.knowing(whole.reference))) == bits(whole)


def test_models_run_while_they_are_permitted_alone() -> None:
    held: list[str] = []

    class Permit:
        def __enter__(self) -> None:
            held.append("in")

        def __exit__(self, *_: object) -> None:
            held.append("out")

    def give(batch: Any) -> Any:
        assert held[-1] == "in"
        return {"scores": batch.feeds["x"]}

    def decode(outputs: Any) -> Any:
        assert held[-1] == "out"
        return outputs["scores"]

    (part,) = parts_of(split_of(10), 4)
    score = replace(scorer_of(give, give, batch_size=4), permit=Permit())
    replace(score, task=replace(TASK, decode=decode))(part)
    assert held == ["in", "out"] * 6


# ── what ends a run ───────────────────────────────────────────────────────────────────────


def nan_at(place: int) -> Any:
    return lambda x: np.where(np.arange(len(x))[:, None] == place, np.nan, x)


def test_a_model_that_gives_nan_is_no_baseline() -> None:
    (part,) = parts_of(split_of(10), 10)
    good, bad = Counting(), Counting(nan_at(3))
    for models in ((bad, good, None), (good, good, bad)):
        with pytest.raises(EvaluationError, match=r"gives NaN or Inf on 1 .*ids: id-3\)"):
            scorer_of(models[0], models[1], own=models[2])(part)
    assert np.flatnonzero(scorer_of(good, bad)(part).broken).tolist() == [3]


@pytest.mark.parametrize("rows", [np.zeros((21, 1)), np.zeros((9, 1)), np.zeros((0, 1))])
def test_a_metric_that_has_not_one_row_an_example_is_an_error(rows: Any) -> None:
    """More would be cut off, and every row behind held against another example's."""
    metrics = METRICS | {"twice": observed("twice", lambda *_: rows)}
    (part,) = parts_of(split_of(10), 10)
    with pytest.raises(EvaluationError, match=f"'twice' observe {len(rows)} entries .* of 10"):
        scorer_of(Counting(), Counting(), metrics=metrics)(part)


def test_a_decoder_that_has_not_one_entry_an_example_is_an_error() -> None:
    task = replace(TASK, decode=lambda outputs: np.repeat(outputs["scores"], 2, axis=0))
    (part,) = parts_of(split_of(10), 10)
    score: Scorer = replace(scorer_of(Counting(), Counting()), task=task)
    with pytest.raises(EvaluationError, match="gives 20 entries for a batch of 10"):
        score(part)
