"""`gate compare`: two releases on the examples that both were judged on, metric by metric."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gate import tasks
from gate.commands._replay_stored import vouched_rows
from gate.commands.judge import demand_untouched
from gate.commands.report import load_record, record_file
from gate.compare import describe
from gate.errors import RecordError, ReleaseError, UsageError
from gate.metrics import ARTIFACT_METRICS, ArtifactMetric, Metric
from gate.policy import MODEL_URIS
from gate.records import Comparison, GateRecord
from gate.release import ROWS, record_of, stored_rows
from gate.rows import same_examples
from gate.trackers import Tracker
from gate.values import Array, Evaluation

ALPHA = 0.05
"""One-sided, of the intervals that are shown."""
_FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two releases."""

    name: str
    """As the user named it."""
    record: GateRecord
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Changed:
    """Examples on which one metric's answer is another."""

    metric: str
    lost: tuple[str, ...]
    """Ids of those that A has right and B has not; of all that changed, where there is no right."""
    gained: tuple[str, ...]
    """Ids of those that B has right and A has not."""
    is_right: bool
    """Whether the metric tells right from wrong."""


@dataclass(frozen=True, slots=True)
class Compared:
    """B held against A; + is worse."""

    a: Side
    b: Side
    n: int
    """Examples of both."""
    int8: tuple[Comparison, ...]
    """INT8 of B (as `int8`) held against INT8 of A (as `reference`)."""
    fp32: tuple[Comparison, ...]
    """The same of both FP32 models."""
    changed: Changed | None


def compare(a: str, b: str, tracker: Tracker) -> Compared:
    """Two releases, each a record's folder or file, or `models:/name-int8/3`.

    Raises:
        UsageError: there is no such record or version, or they are about other tasks.
        ReleaseError: they have no examples in common, or one is not what its record says.
        RecordError: a record or its rows are damaged or were edited.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        sides = [
            _side(name, tracker, Path(scratch) / str(place)) for place, name in enumerate((a, b))
        ]
        first, second = sides
        _demand_comparable(first, second)
        mine, theirs = _shared(first, second)
        return _compared(first, second, mine, theirs)


def _compared(a: Side, b: Side, mine: Array, theirs: Array) -> Compared:
    before, after = a.evaluation, b.evaluation
    both = replace(
        after,
        ids=after.ids[theirs],
        targets=None if after.targets is None else after.targets[theirs],
        slices={},
        unit=None if after.unit is None else after.unit[theirs],
        fp32={name: rows.take(mine) for name, rows in before.int8.items()},
        int8={name: rows.take(theirs) for name, rows in after.int8.items()},
        releases={},
        content=None,
    )
    of_fp32 = replace(
        both,
        fp32={name: rows.take(mine) for name, rows in before.fp32.items()},
        int8={name: rows.take(theirs) for name, rows in after.fp32.items()},
        problems={},
    )
    metrics = _metrics(b.record, both)
    _demand_same_widths(a, b, both, metrics)
    artifacts = {
        name: (kind.measure(a.record.candidate, a.record.int8)[1],
               kind.measure(b.record.candidate, b.record.int8)[1])
        for name, kind in ARTIFACT_METRICS.items()
    }  # fmt: skip
    measured = {} if a.record.attested or b.record.attested else artifacts
    kinds: list[Metric | ArtifactMetric] = [*metrics.values(), *ARTIFACT_METRICS.values()]
    return Compared(
        a=a,
        b=b,
        n=len(both.ids),
        int8=describe(both, kinds, measured, ALPHA),
        fp32=describe(of_fp32, [*metrics.values()], {}, ALPHA),
        changed=_changed(metrics, both),
    )


# ── the two ───────────────────────────────────────────────────────────────────────────────


def _side(name: str, tracker: Tracker, scratch: Path) -> Side:
    scratch.mkdir()
    if name.startswith(MODEL_URIS[0]):
        return _registered(name, tracker, scratch)
    record, folder = load_record(Path(name)), record_file(Path(name)).parent
    demand_untouched(record, folder / ROWS)
    return Side(name, record, vouched_rows(folder, record))


def _registered(name: str, tracker: Tracker, scratch: Path) -> Side:
    registry = tracker.registry
    if registry is None:
        raise UsageError(f"{name} is a registered version, and --tracker {tracker.key} has none")
    rest = name.removeprefix(MODEL_URIS[0])
    model, at, alias = rest.partition("@")
    if at:
        version = registry.find(model, alias=alias)
    else:
        model, _, number = rest.partition("/")
        version = registry.find(model, version=number) if number.isdigit() else None
    if version is None:
        raise UsageError(
            f"there is no {name} in the registry (looked in: {tracker.where()}); name a version as "
            "`models:/name-int8/3` or `models:/name-int8@production`"
        )
    record = record_of(tracker, version)
    own = next(stored_rows(tracker, registry, version, record, scratch), None)
    found = None if own is None or record.stopped is not None else own.load()
    if found is None:
        raise ReleaseError(
            f"the rows of {version.uri} on its whole held-out set are not in the tracker (run "
            f"{version.run}): name the folder of its record instead"
        )
    return Side(version.uri, record, found)


def _demand_comparable(a: Side, b: Side) -> None:
    for what in ("task", "model"):
        mine, theirs = (getattr(side.record.policy, what) for side in (a, b))
        if what == "task" and mine != theirs:
            raise UsageError(f"{a.name} is about {what} {mine} and {b.name} about {theirs}")
    classes = a.record.policy.build.classes, b.record.policy.build.classes
    if all(classes) and classes[0] != classes[1]:
        raise UsageError(f"{a.name} and {b.name} have other classes: their answers differ in kind")
    if a.record.provenance.plugins != b.record.provenance.plugins:
        raise ReleaseError(
            f"{a.name} and {b.name} were judged with other plugins (--plugin), which may observe "
            "examples otherwise: judge A again with those of B"
        )
    for side in (a, b):
        if side.record.stopped is not None:
            raise ReleaseError(
                f"{side.name} stopped early: which examples it saw depends on its own verdict, so "
                "nothing is compared on them. Judge it on the whole set (`stopping: full`)"
            )
        if side.evaluation.problems:
            raise RecordError(f"{side.name} gave NaN or Inf: {min(side.evaluation.problems)}")


def _demand_same_widths(a: Side, b: Side, both: Evaluation, metrics: Mapping[str, Metric]) -> None:
    """Where classes have no names, their number tells: scores, counts and targets are so wide."""
    for name in dict.fromkeys(metric.observation for metric in metrics.values()):
        if both.fp32[name].width != both.int8[name].width:
            raise UsageError(
                f"{a.name} and {b.name} have other classes ({name}: {both.fp32[name].width} and "
                f"{both.int8[name].width} values an example): their answers differ in kind"
            )


def _shared(a: Side, b: Side) -> tuple[Array, Array]:
    """Where the examples of both stand in A and in B, in the order of B's ids."""
    before, after = a.evaluation, b.evaluation
    _, theirs, mine = np.intersect1d(after.ids, before.ids, return_indices=True)
    if a.record.splits.held_out.sha256 != b.record.splits.held_out.sha256:
        alike = a.record.preprocessing_sha256 == b.record.preprocessing_sha256
        same = alike & same_examples(before, after, mine, theirs)
        mine, theirs = mine[same], theirs[same]
    if not len(mine):
        raise ReleaseError(
            f"{a.name} and {b.name} have no example in common, or their inputs are prepared "
            "differently: evaluate A on the other set with `gate rebase`, or judge both on one set"
        )
    return mine, theirs


# ── what they come to ─────────────────────────────────────────────────────────────────────


def _metrics(record: GateRecord, both: Evaluation) -> dict[str, Metric]:
    """What the record of B tells of FP32 and INT8, but for what compares the two in itself."""
    metric = tasks.get(record.policy.task).observed(both.targets, both.fp32)
    told = [c.metric for c in record.comparisons if c.slice is None and c.against == _FP32]
    task = tasks.get(record.policy.task)
    found = {}
    for name in dict.fromkeys(told):
        traits = task.traits(name)
        if traits is None or traits.relative:
            continue
        wanted = metric(name)
        if wanted.observation in both.fp32 and wanted.observation in both.int8:
            found[name] = wanted
    return found


def _changed(metrics: Mapping[str, Metric], both: Evaluation) -> Changed | None:
    """Of the first metric that is told of examples one by one."""
    proportions = [metric for metric in metrics.values() if metric.per_example is not None]
    for metric in (*proportions[:1], *metrics.values()):
        before, after = both.fp32[metric.observation], both.int8[metric.observation]
        if metric.per_example is None:
            other = (metric.seen(before) != metric.seen(after)).any(axis=1)
            return Changed(metric.name, tuple(_ids(both, other)), (), is_right=False)
        good = metric.higher_is_better
        old, new = (metric.per_example(rows) == good for rows in (before, after))
        lost, gained = (tuple(_ids(both, mask)) for mask in (old & ~new, ~old & new))
        return Changed(metric.name, lost, gained, is_right=True)
    return None


def _ids(both: Evaluation, mask: Array) -> Iterator[str]:
    yield from map(str, both.ids[mask].tolist())
