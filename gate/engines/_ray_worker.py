"""What a worker on a cluster does: the same as a scorer here, from what it was sent.

It reads the data itself, and shows for every batch that these are the examples that were identified
where the run began.
"""

import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gate import backends, data, decoding, formats, identity, plugins, tokens
from gate.engines import Elsewhere
from gate.errors import EngineError, GateError
from gate.provenance import environment
from gate.scoring import Alone, Give, Models, Part, Scorer, Work
from gate.values import Array, Batch, Split, Values

_HEAD = 16
_NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A part, without what a worker reads itself."""

    number: int
    start: int
    ids: Array
    order: Array
    targets: Values | None
    content: Array
    kept: Array
    reference: Values | None

    @classmethod
    def of(cls, part: Part) -> "Message":
        """What has to be sent of a part."""
        split = part.split
        return cls(
            part.number,
            part.start,
            split.ids,
            split.order,
            split.targets,
            split.content,
            part.kept,
            part.reference,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A file, as its bytes."""

    name: str
    content: Array
    """(B,) uint8."""
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "Bundle":
        """Of a file on this machine, mapped rather than read."""
        content = np.memmap(file, dtype=np.uint8, mode="r")
        return cls(file.name, np.asarray(content), sha256(content.data).hexdigest())

    def unpack(self, folder: Path) -> Path:
        """Written into a private folder.

        Raises:
            EngineError: it is not what was sent.
        """
        if sha256(self.content.data).hexdigest() != self.sha256:
            raise EngineError(f"{self.name} reached {here()} damaged: run the gate again")
        path = folder / self.name
        path.write_bytes(self.content.data)
        return path


def here() -> str:
    """This worker, as an error names it."""
    return f"the worker on {platform.node()} (pid {os.getpid()})"


class Worker:
    """One of a crew: models open, data open, a shard at a time."""

    def __init__(self) -> None:
        """Begin, knowing no job."""
        # plugins are known to a context, and no two calls need have the same
        self._context, self._plugged = copy_context(), ExitStack()

    def open(
        self,
        elsewhere: Elsewhere,
        models: Mapping[str, Sequence[Any]],
        brought: Sequence[Any],
        tokenizer: Sequence[Any],
    ) -> GateError | None:
        """Open all that a job needs, in the place of another's; what stands against it.

        `models` by role, `brought`, the plugins, and the candidate's own `tokenizer`, if any, are
        references to bundles: what they refer to travels to a node once, however many workers it
        has.
        """
        self._elsewhere, self._models, self._brought = elsewhere, models, brought
        self._tokenizer = tokenizer
        try:
            self._context.run(self._open)
        except GateError as error:
            return EngineError(f"{here()}: {error}")
        return None

    def score(self, message: Message) -> Any:
        """What becomes of a shard, or the GateError that it raises."""
        try:
            return self._context.run(self._scored, message)
        except GateError as error:
            return _portable(error)

    def _open(self) -> None:
        self._plugged.close()
        folder, needed = Path(tempfile.mkdtemp(prefix="gate-worker-")), False
        try:
            # they are there until the next job
            self._plugged.enter_context(plugins.plugged_in(_fetched(self._brought, folder)))
            needed = self._opened_in(folder)
        finally:
            if not needed:  # a worker is killed in the end, and would leave it behind
                shutil.rmtree(folder, ignore_errors=True)

    def _opened_in(self, folder: Path) -> bool:
        """Whether anything in the folder may still be opened: the gate's own formats map it."""
        given = self._elsewhere
        backend = backends.get(given.backend)
        _demand_alike(given.environment, environment(backend.versions()))
        preprocess = given.policy.build.preprocess
        for file in _fetched(self._tokenizer, folder):
            preprocess = tokens.with_own(preprocess, file)
        opened = data.open_table(
            given.split,
            given.source,
            base=given.base,
            inputs=given.inputs,
            preprocess=preprocess,
            scratch=folder,
            needs_target=False,
        )
        self._opened, self._seen = opened, list[Array]()
        self._work = self._work_of({role: self._give(role, folder / role) for role in self._models})
        return formats.of(opened.path, given.source.format).key not in formats.FORMATS

    def _work_of(self, gives: Mapping[str, Give]) -> Work[Any]:
        given = self._elsewhere
        if len(gives) == 1:
            (alone,) = gives.values()
            return Alone(alone, given.batch_size)
        task = decoding.bind(
            given.policy, given.outputs, given.targets, given.first, home=given.base
        )
        models = Models(gives["fp32"], gives["int8"], gives.get("own"))
        metrics = {name: task.metric(name) for name in given.metrics}
        return Scorer(models, task, metrics, given.batch_size)

    def _give(self, role: str, folder: Path) -> Give:
        folder.mkdir()
        files = _fetched(self._models[role], folder)
        backend = backends.get(self._elsewhere.backend)
        runner = backend.open(files[0], threads=self._elsewhere.threads)

        def give(batch: Batch) -> Mapping[str, Array]:
            return runner.run(batch.feeds)

        return give

    def _scored(self, message: Message) -> Any:
        self._seen.clear()
        part = Part(
            message.number, message.start, self._split(message), message.kept, message.reference
        )
        with plugins.plugged_in(()):  # what their code raises is told as theirs
            made = self._work(part)
        self._demand_same(message)
        return made

    def _split(self, message: Message) -> Split:
        given, table = self._elsewhere, self._opened.table
        if len(message.order) and int(message.order.max()) >= len(table):
            raise EngineError(
                f"{here()} finds {len(table)} examples in {given.source.path}, and "
                "there are more where the run began: let both read the same data"
            )
        return Split(
            name=given.split,
            source=given.source.path,
            ids=message.ids,
            explicit_ids=table.id is not None,
            content=message.content,
            inputs=table.inputs,
            targets=message.targets,
            slices={},
            unit=None,
            sha256="",
            population="",
            order=message.order,
            prepare=self._prepare,
        )

    def _prepare(self, raw: Mapping[str, Array]) -> Mapping[str, Array]:
        feeds, alike = self._opened.prepare(raw), self._opened.alike
        told = feeds
        if alike is not self._opened.prepare:
            told = raw if alike is None else alike(raw)
        self._seen.append(identity.hash_rows(told)[:, :_HEAD])
        return feeds

    def _demand_same(self, message: Message) -> None:
        """Raises EngineError where what was read is not what was identified."""
        read = np.concatenate(self._seen)
        wrong = message.ids[(read != message.content).any(axis=1)]
        if len(wrong):
            raise EngineError(
                f"{here()} reads other data than were identified where the run began: "
                f"{len(wrong)} examples of shard {message.number} differ (first ids: "
                f"{', '.join(wrong[:_NAMED])}). Let both read the same storage"
            )


def _fetched(bundles: Sequence[Any], folder: Path) -> list[Path]:
    import ray

    found: list[Bundle] = ray.get(list(bundles))
    return [one.unpack(folder) for one in found]


def _portable(error: GateError) -> GateError:
    """What a plugin raises may not survive the way."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - it is this process's own
    except Exception:  # noqa: BLE001 - its code may raise anything
        return EngineError(f"{here()}: {error}")
    return error


def _demand_alike(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Raises EngineError where this machine would compute something else."""
    if wanted == found:
        return
    parted = [name for name in wanted if wanted[name] != found.get(name)]
    told = "; ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in parted)
    raise EngineError(
        f"it would compute something else than the machine where the run began: {told}. Install "
        "the same versions everywhere, and let workers have the same CPU features"
    )


def replaced(elsewhere: Elsewhere) -> Elsewhere:
    """What is sent: models go as their bytes, once to every node."""
    return replace(elsewhere, models={}, plugins={}, tokenizer=None)
