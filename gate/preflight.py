"""What can be known to be wrong before any work: names, ranges, files and columns.

For data only file headers are read, and no model is opened; what is behind a URI is fetched.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

from gate import artifact, decoding, formats, remote, tasks
from gate.door import unknown
from gate.errors import DataError, UsageError
from gate.metrics import MODEL_METRICS, PROCESS_METRICS, Traits
from gate.policy import MODEL_URIS, Budget, ExpectFp32
from gate.policy_faults import Finding
from gate.policy_file import LoadedPolicy, raise_all
from gate.registered import PINNED, registered_name
from gate.sources import DataSource
from gate.stopping import unstoppable
from gate.strict_yaml import Loc
from gate.tasks import Task

_NO_SLICES = ("id", "unit")
_PERCENT = 100
_GROUP = re.compile(r"target/[1-9]")
"""A slice column that targets make: the data show whether there is one."""
_MET_BY_ALL = (("at_least", 0.0), ("at_most", 1.0))
_UNITS = {
    "latency_p50": "milliseconds",
    "latency_p95": "milliseconds",
    "throughput": "examples a second",
    "peak_memory": "bytes",
}
_Shapes = Mapping[str, tuple[int, ...]]


class Unsupported(Protocol):
    """Why this version cannot judge a budget on a metric of such a kind; None where it can."""

    def __call__(
        self,
        budget: Budget,
        *,
        proportion: bool,
        relative: bool,
        artifact: bool,
        higher_is_better: bool,
    ) -> str | None:
        """The reason, in a sentence."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a metric is, as far as its name tells."""

    traits: Traits
    artifact: bool


def preflight(
    loaded: LoadedPolicy,
    *,
    unsupported: Unsupported,
    needs_candidate: bool = True,
    needs_data: bool = True,
) -> None:
    """Prove that all a policy names exists, and that this version can judge it.

    Args:
        loaded: the policy.
        unsupported: why a budget cannot be judged, `gate.compare.unsupported`.
        needs_candidate: whether the policy's own candidate is used, and has to exist.
        needs_data: whether its data are read, and have to exist and hold its columns.

    Raises:
        PolicyError: all findings at once, one a line, each beginning with file:line:column.
        DataError: nothing else is wrong, but a data file is damaged.
    """
    findings = [
        *_names(loaded, unsupported),
        *_contradictions(loaded),
        *(_candidate(loaded) if needs_candidate else ()),
        *(_files(loaded) if needs_data else ()),
    ]
    try:
        findings += _columns(loaded) if needs_data else []
    except DataError:
        raise_all(findings, first=loaded.file)
        raise
    raise_all(findings, first=loaded.file)


# ── names and numbers ─────────────────────────────────────────────────────────────────────


def _names(loaded: LoadedPolicy, unsupported: Unsupported) -> Iterator[Finding]:
    """Task, decoder, metrics and thresholds."""
    try:
        task = tasks.get(loaded.policy.task)
    except UsageError as error:
        yield loaded.mark("task"), str(error)
        return
    decoder, decoders = loaded.policy.build.decode.name, decoding.names(loaded.policy.task)
    if decoder not in decoders:
        yield loaded.mark("build", "decode", "as"), unknown("decoder", decoder, decoders)
    for index, budget in enumerate(loaded.policy.judge.budgets):
        yield from _budget(loaded, task, ("judge", "budgets", index), budget, unsupported)
    if loaded.policy.judge.expect_fp32 != "unknown":
        yield from _expected(loaded, task, loaded.policy.judge.expect_fp32)


def _kind(task: Task, metric: str) -> _Kind | None:
    """None where no metric has that name."""
    if metric in MODEL_METRICS:
        better_high = MODEL_METRICS[metric].higher_is_better
        high = 1.0 if metric == "int8_share" else None
        return _Kind(Traits(higher_is_better=better_high, high=high), artifact=True)
    traits = task.traits(metric)
    return None if traits is None else _Kind(traits, artifact=False)


def _budget(
    loaded: LoadedPolicy, task: Task, loc: Loc, budget: Budget, unsupported: Unsupported
) -> Iterator[Finding]:
    kind = _kind(task, budget.metric)
    if kind is None:
        known = (*task.known, *MODEL_METRICS)
        yield loaded.mark(*loc, "metric"), unknown("metric", budget.metric, known)
        return
    reason = unsupported(
        budget,
        proportion=kind.traits.proportion,
        relative=kind.traits.relative,
        artifact=kind.artifact,
        higher_is_better=kind.traits.higher_is_better,
    )
    if reason is not None:
        yield loaded.mark(*loc), reason
        return
    if kind.artifact and (budget.slice is not None or budget.each is not None):
        key = "slice" if budget.slice is not None else "each"
        text = f"{budget.metric} is one number of the whole model, it has no slices; delete `{key}`"
        yield loaded.key_mark(*loc, key), text
    if loaded.policy.judge.stopping == "early":
        held_up = unstoppable(budget, proportion=kind.traits.proportion, artifact=kind.artifact)
        if held_up is not None:
            yield loaded.mark(*loc, "metric"), held_up
    if kind.artifact and budget.min_examples > 1:
        text = f"{budget.metric} is no metric of examples, so they have no least number; delete it"
        yield loaded.key_mark(*loc, "min_examples"), text
    problem = _out_of_range(budget, kind)
    if problem is not None:
        yield loaded.mark(*loc, budget.threshold), problem


def _out_of_range(budget: Budget, kind: _Kind) -> str | None:
    """Why a threshold can never be met, or always is by its kind."""
    share = kind.traits.is_share
    what = f"{budget.threshold} of {budget.metric}"
    if budget.threshold == "max_drop" and share and budget.limit >= 1:
        return f"{what} is a share of all examples, below 1, not {budget.limit:g}" + _percent(
            budget.limit
        )
    if budget.threshold not in ("at_least", "at_most"):
        return None
    return _no_value(budget, kind, what)


def _no_value(budget: Budget, kind: _Kind, what: str) -> str | None:
    """Why a limit on the value itself is none that a model could be on either side of."""
    if kind.traits.is_share and not 0 <= budget.limit <= 1:
        return f"{what} is a share, from 0 to 1, not {budget.limit:g}" + _percent(budget.limit)
    if kind.traits.is_share and (budget.threshold, budget.limit) in _MET_BY_ALL:
        return f"{what}, a share, is met by every model at {budget.limit:g}"
    if budget.metric in PROCESS_METRICS and budget.limit <= 0:
        return f"{what} is in {_UNITS[budget.metric]}, above 0, not {budget.limit:g}"
    if budget.metric == "size" and budget.limit < 0:
        return f"{what} is in bytes, 0 or more, not {budget.limit:g}"
    return None if kind.artifact else _beyond(budget, kind.traits, what)


def _beyond(budget: Budget, traits: Traits, what: str) -> str | None:
    """Why no value of the metric could meet the limit."""
    if budget.threshold == "at_most" and traits.low is not None and budget.limit < traits.low:
        return f"{what} is never below {traits.low:g}, so {budget.limit:g} can not be met"
    if budget.threshold == "at_least" and traits.high is not None and budget.limit > traits.high:
        return f"{what} is never above {traits.high:g}, so {budget.limit:g} can not be met"
    return None


def _percent(value: float) -> str:
    """What to write for a percentage that was given as such."""
    return f"; write {value / _PERCENT:g} for {value:g} %" if 1 <= value < _PERCENT else ""


def _expected(loaded: LoadedPolicy, task: Task, expected: ExpectFp32) -> Iterator[Finding]:
    for metric, value in expected.metrics.items():
        loc = ("judge", "expect_fp32", metric)
        traits, problem = task.traits(metric), _not_fp32(task, metric)
        if problem is not None or traits is None:
            yield loaded.key_mark(*loc), problem or ""
        elif loaded.policy.judge.stopping == "early" and not traits.proportion:
            text = (
                f"{metric} is no proportion of examples, so a part of them does not show whether "
                "FP32 is as expected: expect accuracy, or write `stopping: full`"
            )
            yield loaded.key_mark(*loc), text
        elif traits.is_share and not 0 <= value <= 1:
            text = f"{metric} is a share, from 0 to 1, not {value:g}{_percent(value)}"
            yield loaded.mark(*loc), text
    if expected.within >= 1 and any(
        traits.is_share for traits in map(task.traits, expected.metrics) if traits
    ):
        yield (
            loaded.mark("judge", "expect_fp32", "within"),
            f"within {expected.within:g} accepts any share, so nothing is checked"
            + (_percent(expected.within) or "; write e.g. 0.02"),
        )


def _not_fp32(task: Task, metric: str) -> str | None:
    """Why FP32 alone has no value of a metric."""
    kind = _kind(task, metric)
    alone = tuple(name for name, traits in task.known.items() if not traits.relative)
    if kind is None:
        return unknown("metric", metric, alone)
    if kind.artifact or kind.traits.relative:
        reason = "is no metric of predictions" if kind.artifact else "compares INT8 with FP32"
        return f"{metric} {reason}: FP32 alone has no such value. Known: {', '.join(alone)}"
    return None


# ── what does not go together ─────────────────────────────────────────────────────────────


def _contradictions(loaded: LoadedPolicy) -> Iterator[Finding]:
    judge = loaded.policy.judge
    if judge.decision == "point" and judge.stopping == "early":
        yield (
            loaded.mark("judge", "stopping"),
            "`decision: point` knows no evidence that could suffice early: write `stopping: full`",
        )
    yield from _anchor(loaded)


def _anchor(loaded: LoadedPolicy) -> Iterator[Finding]:
    """A pinned release, and budgets against it."""
    judge, example = loaded.policy.judge, f"models:/{registered_name(loaded.policy.model)}/1"
    if judge.anchor is not None and not PINNED.fullmatch(judge.anchor):
        yield (
            loaded.mark("judge", "anchor"),
            f"the anchor is a release that stays the same, as `{example}` with the number of its "
            f"version, not {judge.anchor!r}",
        )
    for index, budget in enumerate(judge.budgets):
        loc: Loc = ("judge", "budgets", index, "against")
        if budget.against == "anchor" and judge.anchor is None:
            yield (
                loaded.mark(*loc),
                f"`against: anchor` needs one: write `anchor: {example}` under `judge`",
            )
        if budget.against != "fp32" and judge.stopping == "early":
            yield (
                loaded.mark(*loc),
                f"`against: {budget.against}` is judged on every example that the earlier release "
                "was judged on, so evaluation cannot stop early: write `stopping: full`",
            )


# ── files ─────────────────────────────────────────────────────────────────────────────────


def _candidate(loaded: LoadedPolicy) -> Iterator[Finding]:
    named = loaded.policy.build.candidate
    if named is None or named.startswith(MODEL_URIS):
        return
    if not os.path.exists(loaded.resolve(named)):
        yield loaded.mark("build", "candidate"), _absent(loaded, named)


def _files(loaded: LoadedPolicy) -> Iterator[Finding]:
    """Formats that are not known, files that are missing, and files with two roles."""
    found: dict[Loc, Path] = {}
    for loc, source in _sources(loaded).items():
        try:
            found[loc] = remote.local(source.path, loaded.base)
        except UsageError as error:
            yield loaded.mark(*loc, "path"), str(error)
            continue
        if not found[loc].exists():
            yield loaded.mark(*loc, "path"), _absent(loaded, source.path)
        if artifact.is_endless(found[loc]):
            yield loaded.mark(*loc, "path"), f"{found[loc]} is a device or a pipe; name a file"
            continue
        yield from _format(loaded, loc, source, found[loc])
    for first, second in combinations(found, 2):
        if _same(found[first], found[second]):
            yield (
                loaded.mark(*second, "path"),
                f"{'.'.join(map(str, second))} is the same file as {'.'.join(map(str, first))}; "
                "held-out, calibration and tuning data share no examples: name another file",
            )


def _sources(loaded: LoadedPolicy) -> dict[Loc, DataSource]:
    build, judge = loaded.policy.build, loaded.policy.judge
    named: dict[Loc, DataSource | None] = {
        ("judge", "held_out"): judge.held_out,
        ("build", "calibration"): build.calibration,
        ("build", "tuning"): build.tuning,
    }
    return {loc: source for loc, source in named.items() if source is not None}


def _absent(loaded: LoadedPolicy, path: str) -> str:
    return (
        f"there is no {loaded.resolve(path)}; paths are relative to the policy's folder, "
        f"{loaded.base}"
    )


def _format(loaded: LoadedPolicy, loc: Loc, source: DataSource, path: Path) -> Iterator[Finding]:
    try:
        formats.of(path, source.format)
    except UsageError as error:
        yield loaded.mark(*loc, "format" if source.format else "path"), str(error)


def _same(first: Path, second: Path) -> bool:
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


# ── columns ───────────────────────────────────────────────────────────────────────────────


def _columns(loaded: LoadedPolicy) -> list[Finding]:
    """Slice columns that the held-out data lack; nothing where the data cannot be opened."""
    source = loaded.policy.judge.held_out
    try:
        path = remote.local(source.path, loaded.base)
        if not os.path.exists(path) or artifact.is_endless(path):
            return []
        shapes = formats.of(path, source.format).columns(path)
    except UsageError:
        return []
    return [*_slices(loaded, shapes), *_units(loaded, shapes)]


def _units(loaded: LoadedPolicy, shapes: _Shapes) -> Iterator[Finding]:
    """Bets are on independent examples."""
    if loaded.policy.judge.stopping == "early" and "unit" in shapes:
        yield (
            loaded.mark("judge", "stopping"),
            "the held-out data have a `unit` column, whose examples are not independent of each "
            "other, so evaluation cannot stop early: write `stopping: full`",
        )


def _slices(loaded: LoadedPolicy, shapes: _Shapes) -> Iterator[Finding]:
    for index, budget in enumerate(loaded.policy.judge.budgets):
        loc: Loc = ("judge", "budgets", index)
        if budget.each is not None and (problem := _no_slice(budget.each, shapes)):
            yield loaded.mark(*loc, "each"), problem
        for column in budget.slice or ():
            if problem := _no_slice(column, shapes):
                yield loaded.key_mark(*loc, "slice", column), problem


def _no_slice(column: str, shapes: _Shapes) -> str | None:
    """Why examples cannot be told apart by a column."""
    shape = shapes.get(column, ())
    if column == "target":
        if len(shape) > 1:
            return (
                f"target is {shape}, many labels an example, so it cannot tell examples apart; "
                "slice by a column with one value an example"
            )
        return None
    known = {name for name, shape in shapes.items() if len(shape) == 1} - set(_NO_SLICES)
    if column in known or _GROUP.fullmatch(column):
        return None
    return unknown("slice column", column, tuple(sorted(known | {"target"})))
