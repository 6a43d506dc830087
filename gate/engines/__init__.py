"""Where shards are run: on this machine, or on a cluster."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from gate import door
from gate.policy import Policy
from gate.scoring import Part, Work
from gate.sources import DataSource
from gate.values import Array, TensorSpec, Values

GROUP = "gate.engines"
ENGINES = {"local": "gate.engines.local:ENGINE", "ray": "gate.engines.ray:ENGINE"}

SHARD_TIMEOUT_S = 600.0
Made = TypeVar("Made")
"""What becomes of a shard."""


@dataclass(frozen=True, slots=True, eq=False)
class Elsewhere:
    """What a process on another machine needs in order to do what a scorer does here."""

    backend: str
    threads: int
    """Of one inference."""
    models: Mapping[str, Path]
    """Files here: `fp32` and `int8`, and `own` against a reference; or one alone."""
    policy: Policy
    """Resolved."""
    split: str
    """The name of the split that shards are of."""
    source: DataSource
    """Where its examples are."""
    base: Path
    """What its paths are relative to, on storage that workers share."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_size: int
    environment: Mapping[str, object]
    """Versions and CPU features that a worker has to have, so that it computes the same."""
    plugins: Mapping[Path, str]
    """sha256 by file."""
    targets: Values | None = None
    """Of the whole split, as the task was fitted to."""
    first: Mapping[str, Array] = field(default_factory=dict)
    """FP32's raw outputs, as the task was fitted to."""
    metrics: tuple[str, ...] = ()
    tokenizer: Path | None = None
    """The candidate's own, where texts are read by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[Made]):
    """What has to be done for every shard."""

    work: Work[Made]
    """Does it here."""
    elsewhere: Elsewhere | None
    """Does it anywhere; None where no model runs."""
    timeout_s: float = SHARD_TIMEOUT_S
    """After which a shard that has not come back counts as lost."""


class Crew(Protocol):
    """Workers, there for as long as a run needs them."""

    def score(self, job: Job[Made], parts: Iterator[Part]) -> Generator[Made, None, None]:
        """What becomes of each shard, in the order of `parts`, each exactly once.

        `parts` are taken as there is room for them, little ahead of what is asked for, so that
        little is done in vain where evaluation stops; closing the iterator ends the work. What a
        shard raises is raised in its turn, so that none behind an end is ever heard of.

        Args:
            job: what to do; workers know the last one, and are told of another.
            parts: shards, in order.

        Raises:
            GateError: a shard's own, or the engine's.
        """


class Engine(Protocol):
    """A way to run shards."""

    key: str

    def demand(self) -> None:
        """Show that it is there, before anything else takes time.

        Raises:
            UsageError: what it needs is not installed, or not said rightly.
            EngineError: it cannot be reached.
        """

    def crew(self, *, workers: int | None, threads: int) -> AbstractContextManager[Crew]:
        """Workers, which begin while models are made that they will run.

        Args:
            workers: how many models run at once; default: the engine's.
            threads: of one inference.

        Raises:
            EngineError: it cannot be reached.
        """


def get(key: str) -> Engine:
    """The engine behind `key`; `UsageError` lists the known ones."""
    return cast(Engine, door.look_up(GROUP, ENGINES, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, ENGINES)
