"""Shards on this machine, in threads: while a model runs, others are read, prepared and reduced.

ONNX Runtime lets go of Python's lock while a model runs, and so do image decoders, hashes and most
of numpy. So threads overlap as processes would, and share the sessions and the data: docs/scale.md
has the measurement.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from threading import Semaphore
from types import TracebackType

from gate.engines import Crew, Job, Made
from gate.scoring import Part

_BESIDE = 1
"""Threads that prepare and reduce while every worker's model runs."""


class _Closed(Exception):  # noqa: N818 - nobody hears of it
    """Nothing is wanted any more."""


class _Permit:
    """So many models run at once, and none any more once it is closed."""

    def __init__(self, models: int) -> None:
        self._free, self._closed = Semaphore(models), False

    def __enter__(self) -> None:
        self._free.acquire()
        if self._closed:
            self._free.release()
            raise _Closed

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.release()

    def close(self) -> None:
        """Threads end at their next batch: who is interrupted has seconds, and a shard minutes."""
        self._closed = True


class Threads:
    """The workers of this machine."""

    def __init__(self, models: int) -> None:
        """So many models run at once."""
        self._models = models

    def score(self, job: Job[Made], parts: Iterator[Part]) -> Generator[Made, None, None]:
        """As `Crew.score`."""
        permit = _Permit(self._models)
        work = job.work.under(permit)
        running: deque[Future[Made]] = deque()
        most = self._models + _BESIDE
        with ThreadPoolExecutor(most, thread_name_prefix="gate") as pool:
            try:
                for part in parts:
                    # plugins are known to the context
                    running.append(pool.submit(copy_context().run, work, part))
                    if len(running) > most:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                permit.close()
                for waiting in running:
                    waiting.cancel()


class Local:
    """The engine; it holds no state."""

    key = "local"

    def demand(self) -> None:
        """Always there."""

    def crew(self, *, workers: int | None, threads: int) -> AbstractContextManager[Crew]:  # noqa: ARG002
        """As `Engine.crew`; one worker unless more are asked for, as inference has threads."""
        return nullcontext(Threads(workers or 1))


ENGINE = Local()
