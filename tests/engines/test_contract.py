"""What every engine does: shards in order, each once, the same to the last bit."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.shards import Work, bits, scored

from gate import engines
from gate.engines import Engine, Job
from gate.errors import GateError, UsageError
from gate.scoring import Alone, Part

pytestmark = pytest.mark.xdist_group("ray")
RUN_BY = {"local-1": ("local", 1), "local-3": ("local", 3), "ray-2": ("ray", 2)}


@dataclass
class Hand:
    """Hands shards out, and knows how many."""

    parts: list[Part]
    taken: int = field(default=0)

    def __iter__(self) -> Iterator[Part]:
        for part in self.parts:
            self.taken += 1
            yield part


@pytest.fixture(params=RUN_BY)
def run_by(request: pytest.FixtureRequest) -> tuple[Engine, int]:
    key, workers = RUN_BY[request.param]
    if key == "ray":
        request.getfixturevalue("cluster")
    return engines.get(key), workers


def spoilt(part: Part) -> Part:
    """Of examples that the data do not have."""
    return replace(part, split=replace(part.split, order=part.split.order + 10**6))


def test_shards_come_back_in_order_each_once_and_the_same(
    run_by: tuple[Engine, int], work: Work
) -> None:
    engine, workers = run_by
    hand = Hand(work.parts)
    ahead, found = [], []
    for one in scored(engine, work.job, hand, workers):
        found.append(one)
        ahead.append(hand.taken - len(found))
    assert [one.ids.tolist() for one in found] == [p.split.ids.tolist() for p in work.parts]
    assert [bits(one) for one in found] == [bits(work.job.work(part)) for part in work.parts]
    assert max(ahead) <= 2 * workers + 2
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("gate_")]


def test_what_a_shard_raises_is_raised_in_its_turn(run_by: tuple[Engine, int], work: Work) -> None:
    engine, workers = run_by
    parts = [*work.parts[:2], spoilt(work.parts[2]), *work.parts[3:]]
    running = scored(engine, work.job, parts, workers)
    assert next(running).ids[0] == parts[0].split.ids[0]
    assert next(running).ids[0] == parts[1].split.ids[0]
    with pytest.raises((GateError, IndexError)):
        next(running)
    with pytest.raises(StopIteration):
        next(running)


def test_who_stops_before_it_never_hears_of_it(run_by: tuple[Engine, int], work: Work) -> None:
    engine, workers = run_by
    hand = Hand([work.parts[0], *map(spoilt, work.parts[1:])])
    running = scored(engine, work.job, hand, workers)
    next(running)
    running.close()
    taken = hand.taken
    assert taken < len(work.parts)
    assert not [t for t in threading.enumerate() if t.name.startswith("gate_")]
    assert hand.taken == taken


def test_no_shards_are_no_work(run_by: tuple[Engine, int], work: Work) -> None:
    engine, _ = run_by
    assert list(scored(engine, work.job, (), 1)) == []


def test_what_the_shards_themselves_raise_is_raised(run_by: tuple[Engine, int], work: Work) -> None:
    engine, workers = run_by

    def parts() -> Iterator[Part]:
        yield work.parts[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(scored(engine, work.job, parts(), workers))


def test_a_crew_does_one_job_after_another(run_by: tuple[Engine, int], work: Work) -> None:
    """As recovery has it, and a run that goes on where others had been interrupted."""
    engine, workers = run_by
    int8 = work.job.work.models.int8
    given = work.job.elsewhere
    models = {"alone": given.models["int8"]}
    alone = Job(Alone(int8, 32), replace(given, models=models, batch_size=32))
    with engine.crew(workers=workers, threads=1) as crew:
        for part in work.parts[:2]:
            (scored,) = crew.score(work.job, iter([part]))
            assert bits(scored) == bits(work.job.work(part))
        with closing(crew.score(alone, iter(work.parts))) as running:
            ran = next(running)
        assert [one.examples for one in ran] == [32] * (len(work.parts[0].split) // 32)
        for one, batch in zip(ran, work.parts[0].split.batches(32), strict=True):
            assert bits(dict(one.outputs)) == bits(dict(int8(batch)))
            assert one.seconds > 0
        (scored,) = crew.score(work.job, iter([work.parts[2]]))
        assert bits(scored) == bits(work.job.work(work.parts[2]))


def test_every_key_is_behind_the_door() -> None:
    assert engines.names() == ("local", "ray")
    for name in engines.names():
        assert engines.get(name).key == name
    with pytest.raises(UsageError, match=r"unknown engine 'rey'; did you mean 'ray'\?"):
        engines.get("rey")


def test_local_ends_within_a_batch(work: Work) -> None:
    """Who is interrupted has seconds, and a shard may take minutes."""
    begun = threading.Event()
    more: list[Any] = []

    def slow(batch: Any) -> Any:
        more.append(batch.start)
        begun.set()
        return work.job.work.models.fp32(batch)

    models = replace(work.job.work.models, fp32=slow)
    job = replace(work.job, work=replace(work.job.work, models=models, batch_size=1))

    def parts() -> Iterator[Part]:
        yield work.parts[0]
        yield work.parts[1]
        begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(scored(engines.get("local"), job, parts(), 1))
    assert len(more) < len(work.parts[0].split) + len(work.parts[1].split)
