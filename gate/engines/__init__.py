"""Where shards are run: on this machine, or on a cluster."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from gate import door
from gate.policy import Policy
from gate.scoring import Part, Scored, Scorer
from gate.values import Array, TensorSpec, Values

GROUP = "gate.engines"
ENGINES = {"local": "gate.engines.local:ENGINE", "ray": "gate.engines.ray:ENGINE"}


SHARD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model that workers run."""

    path: Path
    """On this machine."""
    sha256: str
    """Of its ONNX file, external data included."""


@dataclass(frozen=True, slots=True, eq=False)
class Elsewhere:
    """What a process on another machine needs in order to do what a scorer does here."""

    backend: str
    threads: int
    """Of one inference."""
    models: Mapping[str, Shipped]
    """`fp32`, `int8`, and `own` where INT8 is held against a reference."""
    policy: Policy
    """Resolved."""
    base: Path
    """What its paths are relative to, on storage that workers share."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    targets: Values | None
    """Of the whole split, as the task was fitted to."""
    first: Mapping[str, Array]
    """FP32's raw outputs, as the task was fitted to."""
    metrics: tuple[str, ...]
    batch_size: int
    environment: Mapping[str, object]
    """Versions and CPU features that a worker has to have, so that it computes the same."""
    plugins: Mapping[Path, str]
    """sha256 by file."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What has to be done for every shard."""

    scorer: Scorer
    """Does it here."""
    elsewhere: Elsewhere | None
    """Does it anywhere; None where no model runs."""
    timeout_s: float = SHARD_TIMEOUT_S
    """After which a shard that has not come back counts as lost."""


class Engine(Protocol):
    """A way to run shards."""

    key: str

    def demand(self) -> None:
        """Show that it is there, before anything else takes time.

        Raises:
            UsageError: what it needs is not installed, or not said rightly.
            EngineError: it cannot be reached.
        """

    def score(
        self, job: Job, parts: Iterator[Part], *, workers: int | None
    ) -> Generator[Scored, None, None]:
        """What becomes of each shard, in the order of `parts`, each exactly once.

        `parts` are taken as there is room for them, little ahead of what is asked for, so that
        little is done in vain where evaluation stops; closing the iterator ends the work. What a
        shard raises is raised in its turn, so that none behind an end is ever heard of.

        Args:
            job: what to do.
            parts: shards, in order.
            workers: how many models run at once; default: the engine's.

        Raises:
            GateError: a shard's own, or the engine's.
        """


def get(key: str) -> Engine:
    """The engine behind `key`; `UsageError` lists the known ones."""
    return cast(Engine, door.look_up(GROUP, ENGINES, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, ENGINES)
