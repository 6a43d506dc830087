"""The workers of a run on a Ray cluster, and the shards that they have at hand.

Shards go out in order, a few ahead of what is asked for, and are handed on in order, whichever is
finished first. A worker that dies is replaced and its shards go out again; one that several workers
died of is named and ends the run.
"""

import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gate import artifact
from gate.engines import Elsewhere, Job, Made
from gate.engines._ray_worker import Bundle, Message, Worker, replaced
from gate.errors import EngineError, GateError, UsageError
from gate.scoring import Part

_START_S = 120.0
"""Until the first worker is there …"""
_ANOTHER_S = 20.0
"""… and others beside it."""
_LOOK_S = 1.0
_EACH = 2
"""Shards that a worker has: one at hand, one waiting."""
_TRIES = 3


class RayCrew:
    """Who works, and for which job."""

    def __init__(self, ray: Any, workers: int | None, threads: int) -> None:
        """Call for workers; nobody waits for them before there is a job."""
        self._ray = ray
        cpus = self._cpus(threads)
        self._kind = ray.remote(Worker).options(num_cpus=cpus, max_restarts=0, max_task_retries=0)
        self._wanted = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
        self._called = [self._kind.remote() for _ in range(self._wanted)]
        """Those who know no job."""
        self.actors: list[Any] = []
        """Those who know the job."""
        self._job: Job[Any] | None = None
        self._given: tuple[Any, ...] = ()

    def score(self, job: Job[Made], parts: Iterator[Part]) -> Generator[Made, None, None]:
        """As `Crew.score`."""
        if job.elsewhere is None:
            raise UsageError(
                "--engine ray runs models, and here outputs are judged that were made elsewhere: "
                "leave it out"
            )
        if job is not self._job:
            self._take_on(job, job.elsewhere)
        at_work = _AtWork(self._ray, self, job.timeout_s)
        try:
            yield from at_work.made(parts)
        finally:
            at_work.give_up()

    def complete(self) -> None:
        """Have as many workers as are wanted, each shown to be alike; at least one.

        Raises:
            EngineError: none comes, or one is not like this machine.
        """
        missing = self._wanted - len(self.actors) - len(self._called)
        self._called += [self._kind.remote() for _ in range(missing)]
        coming = {actor.open.remote(*self._given): actor for actor in self._called}
        self._called = []
        try:
            for ref in self._arrived(list(coming)):
                self.actors.append(coming.pop(ref))
                self._demand_open(ref)
        finally:
            for actor in coming.values():
                self._kill(actor)
        if not self.actors:
            raise EngineError(
                f"no worker has started within {_START_S:.0f} s: the cluster has "
                f"{self._ray.cluster_resources().get('CPU', 0):g} CPUs, of which "
                f"{self._ray.available_resources().get('CPU', 0):g} are free. Give it room, or "
                "fewer --threads"
            )

    def lose(self, actor: Any) -> None:
        """A worker is there no longer."""
        self._kill(actor)
        self.actors = [one for one in self.actors if one is not actor]

    def dismiss(self) -> None:
        """Nobody works on."""
        for actor in (*self._called, *self.actors):
            self._kill(actor)

    def _cpus(self, threads: int) -> int:
        nodes = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return max(1, min(threads, int(max(nodes, default=1))))

    def _take_on(self, job: Job[Any], elsewhere: Elsewhere) -> None:
        """Everybody is told of it, in the place of what they knew."""
        put = self._ray.put
        models = {
            role: [put(Bundle.of(file)) for file in artifact.files(model)]
            for role, model in elsewhere.models.items()
        }
        plugins = [put(Bundle.of(file)) for file in elsewhere.plugins]
        own = [put(Bundle.of(file)) for file in (elsewhere.tokenizer,) if file is not None]
        self._job, self._given = job, (put(replaced(elsewhere)), models, plugins, own)
        self._called, self.actors = [*self.actors, *self._called], []
        self.complete()

    def _arrived(self, coming: list[Any]) -> list[Any]:
        """One has long to come, as nodes may have to start; others shorter."""
        if self.actors or not coming:
            ready, late = [], coming
        else:
            ready, late = self._ray.wait(coming, num_returns=1, timeout=_START_S)
        if not late or not (ready or self.actors):
            return list(ready)
        more, _ = self._ray.wait(late, num_returns=len(late), timeout=_ANOTHER_S)
        return [*ready, *more]

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # those that are gone are gone
            self._ray.kill(actor)

    def _demand_open(self, ref: Any) -> None:
        try:
            problem = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"a worker died while it began: {first_line(error)}") from error
        if problem is not None:
            raise problem


# ── shards at hand ────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class _Sent:
    """A shard on its way."""

    turn: int
    """Its place among those that were sent."""
    part: Part
    actor: Any
    since: float = field(default_factory=time.monotonic)
    """When it was sent, or when its worker was done with what it had before."""


class _AtWork:
    """What a crew has at hand, and what it has finished."""

    def __init__(self, ray: Any, crew: RayCrew, timeout_s: float) -> None:
        self._ray, self._crew, self._timeout_s = ray, crew, timeout_s
        self._sent: dict[Any, _Sent] = {}
        self._done: dict[int, Any] = {}
        self._lost: list[_Sent] = []
        """What a worker that died had at hand and waiting."""
        self._tries: Counter[int] = Counter()

    def made(self, parts: Iterator[Part]) -> Generator[Any, None, None]:
        """Every shard, in order."""
        sent = asked = 0
        more = True
        while True:
            while more and len(self._sent) + len(self._done) < _EACH * len(self._crew.actors):
                part = next(parts, None)
                more = part is not None
                if part is not None:
                    self._send(sent, part)
                    sent += 1
            if asked == sent and not more:
                return
            while asked not in self._done:
                self._send_again()
                self._wait()
            found = self._done.pop(asked)
            asked += 1
            if isinstance(found, GateError):
                raise found
            yield found

    def give_up(self) -> None:
        """What waits is not begun."""
        for ref in self._sent:
            with suppress(Exception):  # those that are gone are gone
                self._ray.cancel(ref)

    def _send(self, turn: int, part: Part) -> None:
        at_hand = Counter(one.actor for one in self._sent.values())
        actor = min(self._crew.actors, key=lambda one: at_hand[one])
        ref = actor.score.remote(Message.of(part))
        self._sent[ref] = _Sent(turn, part, actor)

    def _send_again(self) -> None:
        """What was lost goes out again, to another worker."""
        if self._lost:
            self._crew.complete()
        while self._lost:
            one = self._lost.pop(0)
            self._send(one.turn, one.part)

    def _wait(self) -> None:
        ready, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=_LOOK_S)
        for ref in ready:
            self._land(ref)
        if not ready:
            self._give_up_late()

    def _land(self, ref: Any) -> None:
        errors, one = self._ray.exceptions, self._sent[ref]
        try:
            found = self._ray.get(ref)
        except errors.RayTaskError as error:
            found = EngineError(f"{_named(one.part)} failed on its worker: {first_line(error)}")
        except errors.RayError as error:  # its worker is gone, or its node with what it gave
            self._dismissed(one.actor, first_line(error))
            return
        del self._sent[ref]
        self._done[one.turn] = found
        for following in self._of(one.actor)[:1]:
            following.since = time.monotonic()

    def _of(self, actor: Any) -> list[_Sent]:
        """What a worker has: first what is at hand, then what waits."""
        return [one for one in self._sent.values() if one.actor is actor]

    def _dismissed(self, actor: Any, why: str) -> None:
        """A worker died: what it had goes out again, unless several died of it."""
        at_hand = self._gone(actor)
        self._tries[at_hand.turn] += 1
        if self._tries[at_hand.turn] >= _TRIES:
            self._lost.remove(at_hand)
            self._done[at_hand.turn] = EngineError(
                f"{_named(at_hand.part)} was given up: {_TRIES} workers died of it, the last with: "
                f"{why} Give workers more memory or a smaller `batch_size`, or look at these "
                "examples"
            )

    def _give_up_late(self) -> None:
        """A shard that takes longer than any may, in its turn, is an error."""
        for actor in list(self._crew.actors):
            for one in self._of(actor)[:1]:
                waited = time.monotonic() - one.since
                if waited <= self._timeout_s:
                    continue
                self._lost.remove(self._gone(actor))
                self._done[one.turn] = EngineError(
                    f"{_named(one.part)} has not come back for {waited:.0f} s: its worker hangs or "
                    "cannot be reached. Look at that node, or allow more by --shard-timeout"
                )

    def _gone(self, actor: Any) -> _Sent:
        """A worker is there no longer; what it had is lost, and of that, what was at hand."""
        self._crew.lose(actor)
        lost = self._of(actor)
        self._sent = {ref: one for ref, one in self._sent.items() if one.actor is not actor}
        self._lost += lost
        return lost[0]


def _named(part: Part) -> str:
    ids = part.split.ids
    return f"shard {part.number} (examples {ids[0]} to {ids[-1]})"


def first_line(error: BaseException) -> str:
    """Of what Ray tells, the cause."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
