"""Shards on a Ray cluster: an existing one by RAY_ADDRESS, or one for the run.

Workers are core actors, each with its models and its data open. Shards go out in order, a few ahead
of what is asked for, and are handed on in order, whichever is finished first. A worker that dies is
replaced and its shards go out again; one that several workers died of is named and ends the run.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gate import artifact
from gate.engines import Elsewhere, Job
from gate.engines._ray_worker import Bundle, Message, Worker, replaced
from gate.errors import EngineError, GateError, UsageError
from gate.scoring import Part, Scored

_ADDRESS = "RAY_ADDRESS"
_OWN = (None, "", "local")
"""Addresses that mean a cluster for this run alone."""
_PROBE_S = 5.0
_START_S = 120.0
"""Until the first worker is there …"""
_ANOTHER_S = 20.0
"""… and others beside it."""
_LOOK_S = 1.0
_EACH = 2
"""Shards that a worker has: one at hand, one waiting."""
_TRIES = 3
_CHATTER = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Ray:
    """The engine; it holds no state."""

    key = "ray"

    def demand(self) -> None:
        """Ray is installed, and where an address is given, something answers there.

        Raises:
            UsageError, EngineError: as `Engine.demand`.
        """
        ray, address = _imported(), os.environ.get(_ADDRESS)
        if not ray.is_initialized() and address not in _OWN:
            _demand_answer(address or "")

    def score(
        self, job: Job, parts: Iterator[Part], *, workers: int | None
    ) -> Generator[Scored, None, None]:
        """As `Engine.score`; as many workers as the cluster has room for, unless it is said."""
        if job.elsewhere is None:
            raise UsageError(
                "--engine ray runs models, and here outputs are judged that were made elsewhere: "
                "leave it out"
            )
        ray = _connected()
        with _as_engine_error(ray):
            crew = _Crew(ray, job, job.elsewhere, workers)
            try:
                yield from crew.scored(parts)
            finally:
                crew.dismiss()


ENGINE = Ray()


# ── the cluster ───────────────────────────────────────────────────────────────────────────


def _connected() -> Any:
    """Ray, connected to a cluster; it stays so until the process ends: policies of a set share it.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        EngineError: the cluster cannot be reached, or has another version.
    """
    ray = _imported()
    if not ray.is_initialized():
        with _own_signals():
            _start(ray, os.environ.get(_ADDRESS))
    return ray


@contextmanager
def _as_engine_error(ray: Any) -> Iterator[None]:
    """What Ray itself raises, such as for want of disk, is no defect of the gate."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray cannot go on: {_first_line(error)}") from error


def _imported() -> Any:
    """Raises UsageError where Ray is not installed."""
    for name, value in _CHATTER.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--engine ray needs Ray, which is not installed: pip install 'int8-gate[ray]'"
        ) from error
    return ray


def _start(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address in _OWN:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=_demand_answer(address or ""), **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        told = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise EngineError(
            f"the Ray cluster at {address or 'this machine'} cannot be used: {told} Start one with "
            f"`ray start --head`, give its address in {_ADDRESS}, and install the same Ray and "
            "Python there; without it the gate starts one of its own"
        ) from error


def _demand_answer(address: str) -> str:
    """The address, where something listens there: Ray itself would wait for it without an end.

    Raises:
        UsageError: it is none.
        EngineError: nothing answers.
    """
    known = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray/ray_current_cluster"
    found = known.read_text("utf-8").strip() if address == "auto" and known.is_file() else address
    host, _, port = found.rpartition(":")
    if found == "auto":
        raise EngineError(f"{_ADDRESS} is auto, and no Ray cluster runs here: `ray start --head`")
    if "://" in found or not (host and port.isdigit()):
        raise UsageError(
            f"{_ADDRESS} is {found!r}: write `auto`, or the head's host:port (6379 by default). "
            "From outside a cluster, submit the run: `ray job submit -- gate run … --engine ray`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster answers at {found} ({error}): start its head, or mend {_ADDRESS}"
        ) from error
    return address


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the process with an exit code of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ── the workers ───────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class _Sent:
    """A shard on its way."""

    turn: int
    """Its place among those that were sent."""
    part: Part
    actor: Any
    since: float = field(default_factory=time.monotonic)
    """When it was sent, or when its worker was done with what it had before."""


class _Crew:
    """Workers, what they have at hand, and what they have finished."""

    def __init__(self, ray: Any, job: Job, elsewhere: Elsewhere, workers: int | None) -> None:
        self._ray, self._job = ray, job
        self._kind = ray.remote(Worker).options(
            num_cpus=self._cpus(elsewhere.threads), max_restarts=0, max_task_retries=0
        )
        models = {
            role: [ray.put(Bundle.of(file)) for file in artifact.files(model.path)]
            for role, model in elsewhere.models.items()
        }
        brought = [ray.put(Bundle.of(file)) for file in elsewhere.plugins]
        self._given = ray.put(replaced(elsewhere)), models, brought
        self._actors: list[Any] = []
        self._sent: dict[Any, _Sent] = {}
        self._done: dict[int, Scored | GateError] = {}
        self._lost: list[_Sent] = []
        """What a worker that died had at hand and waiting."""
        self._tries: Counter[int] = Counter()
        self._wanted = workers or self._room(elsewhere.threads)

    def scored(self, parts: Iterator[Part]) -> Generator[Scored, None, None]:
        """Every shard, in order."""
        self._hire()
        sent = asked = 0
        more = True
        while True:
            while more and len(self._sent) + len(self._done) < _EACH * len(self._actors):
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

    def dismiss(self) -> None:
        """Nobody works on."""
        for actor in self._actors:
            self._kill(actor)

    # ── who works ─────────────────────────────────────────────────────────────────────────

    def _cpus(self, threads: int) -> int:
        nodes = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return max(1, min(threads, int(max(nodes, default=1))))

    def _room(self, threads: int) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._cpus(threads))

    def _hire(self) -> None:
        """Have as many workers as are wanted, shown to be alike; at least one.

        Raises:
            EngineError: none comes, or one is not like this machine.
        """
        coming: dict[Any, Any] = {}
        while len(self._actors) + len(coming) < self._wanted:
            actor = self._kind.remote(*self._given)
            coming[actor.ready.remote()] = actor
        for ref in self._arrived(list(coming)):
            self._actors.append(coming.pop(ref))
            try:
                self._demand_ready(ref)
            except EngineError:
                for actor in coming.values():
                    self._kill(actor)
                raise
        for actor in coming.values():
            self._kill(actor)
        if not self._actors:
            raise EngineError(
                f"no worker has started within {_START_S:.0f} s: the cluster has "
                f"{self._ray.cluster_resources().get('CPU', 0):g} CPUs, of which "
                f"{self._ray.available_resources().get('CPU', 0):g} are free. Give it room, or "
                "fewer --threads"
            )

    def _arrived(self, coming: list[Any]) -> list[Any]:
        """One has long to come, as nodes may have to start; others shorter."""
        if self._actors or not coming:
            ready, late = [], coming
        else:
            ready, late = self._ray.wait(coming, num_returns=1, timeout=_START_S)
        if not late or not (ready or self._actors):
            return list(ready)
        more, _ = self._ray.wait(late, num_returns=len(late), timeout=_ANOTHER_S)
        return [*ready, *more]

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # those that are gone are gone
            self._ray.kill(actor)

    def _demand_ready(self, ref: Any) -> None:
        try:
            problem = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"a worker died while it began: {_first_line(error)}") from error
        if problem is not None:
            raise problem

    # ── what is at hand ───────────────────────────────────────────────────────────────────

    def _send(self, turn: int, part: Part) -> None:
        at_hand = Counter(one.actor for one in self._sent.values())
        actor = min(self._actors, key=lambda one: at_hand[one])
        ref = actor.score.remote(Message.of(part))
        self._sent[ref] = _Sent(turn, part, actor)

    def _send_again(self) -> None:
        """What was lost goes out again, to another worker."""
        if self._lost:
            self._hire()
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
            found = EngineError(f"{_named(one.part)} failed on its worker: {_first_line(error)}")
        except errors.RayError as error:  # its worker is gone, or its node with what it gave
            self._dismissed(one.actor, _first_line(error))
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
        for actor in list(self._actors):
            for one in self._of(actor)[:1]:
                waited = time.monotonic() - one.since
                if waited <= self._job.timeout_s:
                    continue
                self._lost.remove(self._gone(actor))
                self._done[one.turn] = EngineError(
                    f"{_named(one.part)} has not come back for {waited:.0f} s: its worker hangs or "
                    "cannot be reached. Look at that node, or allow more by --shard-timeout"
                )

    def _gone(self, actor: Any) -> _Sent:
        """A worker is there no longer; what it had is lost, and of that, what was at hand."""
        self._kill(actor)
        self._actors = [one for one in self._actors if one is not actor]
        lost = self._of(actor)
        self._sent = {ref: one for ref, one in self._sent.items() if one.actor is not actor}
        self._lost += lost
        return lost[0]


def _named(part: Part) -> str:
    ids = part.split.ids
    return f"shard {part.number} (examples {ids[0]} to {ids[-1]})"


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
