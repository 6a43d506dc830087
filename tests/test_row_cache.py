"""What earlier runs left of shards: used where it is shown to be the same, and nowhere else."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shards import TASK, Counting, bits, observed, scorer_of, split_of

from gate.engines import Job
from gate.engines.local import Threads
from gate.errors import EvaluationError
from gate.evaluate import Evaluated, evaluate
from gate.row_cache import RowCache
from gate.scoring import Part, Scored, Scorer
from gate.values import Evaluation, Ragged, Split

N, BATCH = 600, 20
KEY: dict[str, Any] = {"model": "m"}
RUN: dict[str, Any] = {"int8": "q"}


class Bench:
    """Runs of two models on one split, which share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.fp32, self.int8 = Counting(), Counting(lambda x: x * 0.9)
        self.split: Split = split_of(N)
        self.made: Callable[[Scorer], Scorer] = lambda scorer: scorer
        self.runs = 0
        self.told: tuple[str, ...] = ()

    @property
    def scorer(self) -> Scorer:
        return self.made(scorer_of(self.fp32, self.int8, batch_size=BATCH))

    def memory(self, *, fp32: Any = KEY, run: Any = RUN) -> RowCache:
        again = self.scorer.reference
        return RowCache(self.cache, fp32=fp32, run=run, again=again, batch=BATCH)

    def run(
        self,
        *,
        memory: RowCache | None = None,
        after: int | None = None,
        stop: Any = None,
        score: Any = None,
    ) -> Evaluated:
        """A whole run, or one that is interrupted `after` so many shards."""
        self.fp32.seen, self.int8.seen = [], []
        self.runs += 1
        memory = memory or self.memory()
        done: list[int] = []

        def advance(examples: int) -> None:
            done.append(examples)
            if len(done) == after:
                raise KeyboardInterrupt

        found = evaluate(
            score or partial(Threads(1).score, Job(self.scorer, None)),
            self.split,
            batch_size=BATCH,
            seed=0,
            scratch=self.folder / str(self.runs),
            progress=advance,
            stop=stop,
            memory=memory,
        )
        self.told = memory.clear(len(found.evaluation.ids))
        return found

    def interrupted(self, after: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.run(after=after)

    def files(self, suffix: str = "") -> list[Path]:
        return sorted(self.cache.glob(f"*{suffix}"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def same(one: Evaluated, other: Evaluated) -> bool:
    return all(
        bits(dict(getattr(one.evaluation, side))) == bits(dict(getattr(other.evaluation, side)))
        for side in ("fp32", "int8", "own")
    ) and (
        bits(dict(one.sample)) == bits(dict(other.sample))
        and one.evaluation.ids.tolist() == other.evaluation.ids.tolist()
        and one.evaluation.problems == other.evaluation.problems
    )


# ── FP32 is known ─────────────────────────────────────────────────────────────────────────


def test_fp32_runs_once_and_int8_every_time(bench: Bench) -> None:
    first = bench.run()
    assert (len(bench.fp32.seen), len(bench.int8.seen), bench.told) == (N, N, ())
    again = bench.run()
    assert same(first, again)
    assert (len(bench.fp32.seen), len(bench.int8.seen)) == (BATCH, N)
    assert bench.told == ("FP32 was known of 600 examples; it gave the same bits again",)
    bench.int8.function = lambda x: x * 0.5
    other = bench.run(memory=bench.memory(run={"int8": "other"}))
    assert len(bench.fp32.seen) == BATCH
    assert not same(first, other)


def test_a_longer_set_uses_what_its_shards_share(bench: Bench) -> None:
    bench.run()
    whole = split_of(N)
    bench.split = replace(
        whole,
        content=np.where(np.arange(N)[:, None] < N - 1, whole.content, np.uint8(0)),
    )
    bench.run()
    assert 0 < len(bench.fp32.seen) < N


@pytest.mark.parametrize("what", ["model", "batch_size", "new"])
def test_another_key_is_no_hit(bench: Bench, what: str) -> None:
    bench.run()
    bench.run(memory=bench.memory(fp32=KEY | {what: "other"}))
    assert len(bench.fp32.seen) == N


def test_fp32_that_gives_other_bits_is_believed_and_what_was_kept_goes(bench: Bench) -> None:
    """The same key and other outputs: the key has forgotten something."""
    bench.run()
    bench.fp32.function = lambda x: np.nextafter(x, 2, dtype=x.dtype)
    found = bench.run()
    assert set(bench.fp32.seen) == set(bench.split.ids)
    assert bench.told == ()
    fresh = Bench(bench.folder / "fresh")
    fresh.fp32.function = bench.fp32.function
    assert same(found, fresh.run())
    assert same(found, bench.run())
    assert len(bench.fp32.seen) == BATCH


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "of another shard"])
def test_what_is_damaged_is_run_again_and_mended(bench: Bench, damage: str) -> None:
    first = bench.run()
    kept = bench.files(".fp32")
    whole = kept[1].read_bytes()
    spoilt = {
        "cut": whole[:-1],
        "flipped": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "empty": b"",
        "of another shard": kept[0].read_bytes(),
    }
    kept[1].write_bytes(spoilt[damage])
    assert same(first, bench.run())
    assert BATCH < len(bench.fp32.seen) < N
    assert same(first, bench.run())
    assert len(bench.fp32.seen) == BATCH


def test_nan_is_never_kept_and_never_believed(bench: Bench) -> None:
    bench.fp32.function = lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x)
    with pytest.raises(EvaluationError, match="NaN or Inf"):
        bench.run()
    assert bench.files() == []


def test_ragged_outputs_are_known(bench: Bench) -> None:
    def boxes(outputs: Any) -> Ragged:
        return Ragged.of([np.full((i % 3, 2), s[0]) for i, s in enumerate(outputs["scores"])], 2)

    def count(scores: Any, targets: Any, reference: Any) -> Any:
        return scores.sizes[:, np.newaxis] + 0.0

    metrics = {"count": observed("count", count), "boxes": observed("boxes", lambda s, t, r: s)}
    task = replace(TASK, decode=boxes)
    bench.made = lambda scorer: replace(scorer, task=task, metrics=metrics)
    first = bench.run()
    assert same(first, bench.run())
    assert len(bench.fp32.seen) == BATCH
    bench.interrupted(2)
    assert same(first, bench.run())
    assert len(bench.int8.seen) < N


# ── a run that was interrupted ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_run_is_taken_up(bench: Bench, after: int) -> None:
    expected = Bench(bench.folder / "whole").run()
    bench.interrupted(after)
    done = sum(len(part) for part in np.split(np.arange(N), range(120, N, 120))[:after])
    assert len(bench.files(".shard")) == after
    assert same(bench.run(), expected)
    assert len(bench.int8.seen) == N - done
    assert bench.told[0] == f"{done} examples were taken up from a run that was interrupted"
    assert bench.files(".shard") == []
    bench.run()
    assert len(bench.int8.seen) == N


def test_one_interrupted_at_its_very_end_runs_nothing(bench: Bench) -> None:
    bench.interrupted(5)

    def no_engine(parts: Iterator[Part]) -> Generator[Scored, None, None]:
        pytest.fail("an engine was asked for nothing")

    assert same(bench.run(score=no_engine), Bench(bench.folder / "whole").run())


@pytest.mark.parametrize("which", [0, 2, 4])
def test_a_gap_in_what_is_kept_is_filled(bench: Bench, which: int) -> None:
    bench.interrupted(5)
    order = sorted(bench.files(".shard"), key=lambda file: file.stat().st_mtime_ns)
    order[which].write_bytes(b"spoilt")
    assert same(bench.run(), Bench(bench.folder / "whole").run())
    assert bench.int8.seen == bench.split.ids[120 * which : 120 * (which + 1)].tolist()


def test_another_int8_model_takes_nothing_up(bench: Bench) -> None:
    bench.interrupted(3)
    bench.run(memory=bench.memory(run={"int8": "other"}))
    assert len(bench.int8.seen) == N


def test_an_output_called_offsets_is_taken_up_too(bench: Bench) -> None:
    """As many a detector has; arrays of rows have offsets of their own."""
    first = bench.run()
    assert "output/offsets" in first.sample
    bench.interrupted(2)
    assert same(bench.run(), first)


def test_what_an_early_stop_ignored_is_not_missed(bench: Bench) -> None:
    def stop(head: Evaluation) -> str | None:
        return "enough" if "id-250" in head.ids.tolist() else None

    fresh = Bench(bench.folder / "whole")
    expected = fresh.run(stop=stop)
    assert expected.stopped == "enough"
    assert len(expected.evaluation.ids) == 260
    with pytest.raises(KeyboardInterrupt):
        bench.run(after=2, stop=stop)
    found = bench.run(stop=stop)
    assert same(found, expected)
    assert found.stopped == expected.stopped
    assert bench.files(".shard") == []


# ── a folder that others use ──────────────────────────────────────────────────────────────


def test_two_runs_at_once_take_nothing_from_each_other(bench: Bench) -> None:
    """One ends, and removes what both were taking up, while the other reads it."""
    expected = Bench(bench.folder / "whole").run()
    bench.interrupted(5)
    other = Bench(bench.folder / "other")
    other.cache = bench.cache
    looked: list[int] = []

    class Slow(RowCache):
        def load(self, part: Part) -> Scored | None:
            looked.append(part.number)
            if len(looked) == 3:
                assert same(other.run(), expected)
                assert bench.files(".shard") == []
            return super().load(part)

    memory = Slow(bench.cache, fp32=KEY, run=RUN, again=bench.scorer.reference, batch=BATCH)
    assert same(bench.run(memory=memory), expected)


def test_what_is_pruned_under_a_run_is_run_again(bench: Bench) -> None:
    first = bench.run()
    memory = bench.memory()
    known = memory.known

    def pruned(part: Part) -> Part:
        if part.number == 2:
            for file in bench.files():
                file.unlink()
        return known(part)

    memory.known = pruned  # type: ignore[method-assign]
    assert same(bench.run(memory=memory), first)


def test_a_folder_that_cannot_be_written_costs_time_alone(bench: Bench) -> None:
    bench.cache = bench.folder / "file" / "cache"
    (bench.folder / "file").write_text("in the way")
    assert same(bench.run(), Bench(bench.folder / "whole").run())
    bench.run()
    assert len(bench.fp32.seen) == N


def test_what_is_very_large_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the disk that this run's own rows need."""
    monkeypatch.setattr("gate.row_cache._LARGEST", 100)
    bench.interrupted(2)
    assert bench.files() == []


def test_the_folder_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    (size, *_) = {file.stat().st_size for file in bench.files()}
    monkeypatch.setattr("gate.row_cache._MOST", 2 * size)
    bench.run()
    assert len(bench.files()) == 2


# ── what an engine does wrong ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["left out", "turned round"])
def test_an_engine_that_loses_shards_ends_the_run(bench: Bench, wrong: str) -> None:
    def score(parts: Iterator[Part]) -> Generator[Scored, None, None]:
        found = [bench.scorer(part) for part in parts]
        yield from found[:-1] if wrong == "left out" else found[::-1]

    with pytest.raises(EvaluationError, match=r"left out 1 shard|examples of another one"):
        bench.run(score=score)
