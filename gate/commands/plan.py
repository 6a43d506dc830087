"""`gate plan`: before anything runs, the examples each budget needs and what a set can decide."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from gate import formats, remote, tasks, trackers
from gate.commands import _plan_html, _plan_json, _plan_text
from gate.commands._plan_pages import History, Setting, page
from gate.commands._plan_past import asks, between_releases
from gate.data import read
from gate.errors import DataError, UsageError
from gate.evidence import number
from gate.judgeable import is_clustered, unsupported
from gate.metrics import MODEL_METRICS
from gate.planning import Kind, Plan, Question, Slice, Spread, plan_budgets
from gate.policy import Budget, Policy, slice_label
from gate.policy_file import LoadedPolicy, load_policy
from gate.preflight import preflight
from gate.records import Comparison, Counts
from gate.slices import samples
from gate.statistics import jackknife, ledger, power
from gate.trackers import PastRun, Tracker
from gate.values import Array, Column, Evaluation
from gate.wording import QUANTITIES

_LATEST = 3
_NEW = "a candidate that was not judged yet"
_JUDGED = frozenset({"pass", "fail", "inconclusive", "waived"})
_PAIRED = ("drop", "relative_drop")
_Entries = Sequence[Mapping[str, Any]]
"""Comparisons of one stored record."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What an earlier run measured."""

    comparisons: _Entries
    alpha: float
    """One-sided error of its intervals' ends."""


@dataclass(frozen=True, slots=True)
class _Data:
    """The held-out set, as far as planning reads it."""

    total: int
    """Examples in the file."""
    used: int
    """Of them, those that `limit` leaves."""
    columns: Mapping[str, Array]
    """(N,) of each column that a budget slices by."""
    clustered: bool
    """Whether examples share units."""


def plan(policy: str, *, tracker: str, html: Path | None, format_: str = "text") -> str:
    """The plan of a policy as text or JSON; with `html` also written as one page.

    Args:
        policy: the policy's file.
        tracker: key of the tracker that earlier runs of the model are taken from.
        html: file to write.
        format_: text or json.

    Raises:
        PolicyError: the policy is wrong.
        UsageError: the format of the data is not known, or `html` cannot be written.
        DataError: the held-out data are damaged or empty.
        TrackerError: the tracker cannot be reached.
        RecordError: a record of an earlier run is damaged.
    """
    loaded = load_policy(policy)
    preflight(loaded, unsupported=unsupported, needs_candidate=False, needs_data=_is_there(loaded))
    answers, setting = _answers(loaded, trackers.get(tracker))
    told = page(answers, setting)
    if html is not None:
        _write(html, _plan_html.render(told))
    return _plan_json.render(answers, setting) if format_ == "json" else _plan_text.render(told)


def _answers(loaded: LoadedPolicy, tracker: Tracker) -> tuple[Plan, Setting]:
    policy = loaded.policy
    path = remote.local(policy.judge.held_out.path, loaded.base)
    data = _read(policy, path, loaded.base) if path.exists() else None
    past = tracker.past(policy.model)
    runs = _recorded(tracker, past)
    questions = [
        _question(policy, budget, data, [found for _, found in runs])
        for budget in policy.judge.budgets
    ]
    questions = _with_flips(tracker, past, policy, questions)
    alpha, source = _alpha(policy, tracker)
    judge = policy.judge
    answers = plan_budgets(questions, alpha=alpha, early=judge.stopping == "early", seed=judge.seed)
    setting = Setting(
        model=policy.model,
        policy=str(loaded.file),
        alpha_source=source,
        early=judge.stopping == "early",
        data=str(path),
        total=data.total if data else None,
        used=data.used if data else None,
        clustered=data is not None and data.clustered,
        history=History(tuple(run.when for run, _ in runs), tracker.where()),
    )
    return answers, setting


def _alpha(policy: Policy, tracker: Tracker) -> tuple[float, str]:
    """The one-sided error in force for a new candidate's release, and where it comes from."""
    share = f"{policy.judge.confidence * 100:.6g}"
    plain = f"1 − the policy's confidence of {share} %"
    attempt = ledger.attempt_number(tracker.attempts(policy.model), _NEW, policy.demands)
    if attempt == 1:
        return policy.alpha, plain
    told = f"{plain}, over {attempt}²: the next release is attempt {attempt} since the last PASS"
    return ledger.alpha_of_attempt(policy.alpha, attempt), told


def _is_there(loaded: LoadedPolicy) -> bool:
    """Whether every data file exists, so that its columns can be checked."""
    build = loaded.policy.build
    sources = (loaded.policy.judge.held_out, build.calibration, build.tuning)
    places = [remote.local(source.path, loaded.base) for source in sources if source is not None]
    return all(place.exists() for place in places)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--html {file} cannot be written ({error.strerror}): name another file"
        ) from error


# ── questions ─────────────────────────────────────────────────────────────────────────────


def _question(
    policy: Policy, budget: Budget, data: _Data | None, runs: Sequence[_Recorded]
) -> Question:
    kind = _kind(policy, budget, data)
    found = [_comparison(run.comparisons, budget) for run in runs]
    seen = [_rate(comparison, kind) for comparison in found if comparison is not None]
    return Question(
        budget=budget,
        kind=kind,
        slices=None if data is None else _slices(budget, data),
        seen=_distinct(rate for rate in seen if rate is not None),
        reference=_reference(policy, budget, found),
        spread=_spread(budget, runs) if kind == "spread" else None,
    )


def _distinct(rates: Iterable[float]) -> tuple[float, ...]:
    """Without those that read the same."""
    return tuple({f"{rate:.3g}": rate for rate in rates}.values())


def _kind(policy: Policy, budget: Budget, data: _Data | None) -> Kind:
    if budget.metric in MODEL_METRICS:
        return "exact"
    task = tasks.get(policy.task)
    traits = task.traits(budget.metric)
    proportion = traits is not None and traits.proportion
    if not proportion or (data is not None and data.clustered):
        return "spread"
    if budget.threshold in ("at_least", "at_most"):
        return "rate"
    return "relative_drop" if budget.threshold == "max_relative_drop" else "drop"


def _reference(
    policy: Policy, budget: Budget, found: Sequence[Mapping[str, Any] | None]
) -> float | None:
    """What INT8 is held against has on the whole set: FP32 as training reported it, else as the
    last run measured it; an earlier release the other way round."""
    expected = policy.judge.expect_fp32
    told = None if expected == "unknown" else expected.metrics.get(budget.metric)
    values = (comparison.get("reference") for comparison in found if comparison is not None)
    measured = next((float(value) for value in values if isinstance(value, int | float)), None)
    first, second = (measured, told) if asks(budget) else (told, measured)
    return second if first is None else first


# ── data ──────────────────────────────────────────────────────────────────────────────────


def _read(policy: Policy, path: Path, base: Path) -> _Data:
    """The number of examples from the file's header, and the columns that budgets slice by."""
    source = policy.judge.held_out
    shapes = formats.of(path, source.format).columns(path)
    total = next((shape[0] for shape in shapes.values()), 0)
    if total == 0:
        raise DataError(f"{path} is empty: a held-out set needs at least one example")
    wanted = _sliced_by(policy.judge.budgets) | {"unit"}
    names = {name for name in wanted if len(shapes.get(name, ())) == 1}
    columns: dict[str, Array] = {}
    if names:
        with tempfile.TemporaryDirectory(prefix="gate-plan-") as scratch:
            found = read("held_out", source, base, Path(scratch))
            columns = {name: _values(found[name]) for name in sorted(names)}
            del found
    return _Data(
        total=total,
        used=min(total, source.limit or total),
        columns=columns,
        clustered=is_clustered(columns.get("unit")),
    )


def _sliced_by(budgets: Sequence[Budget]) -> set[str]:
    each = {budget.each for budget in budgets if budget.each is not None}
    return each | {column for budget in budgets for column in budget.slice or ()}


def _values(column: Column) -> Array:
    """A copy that outlives the folder it was unpacked to."""
    return np.array(column[:])


def _slices(budget: Budget, data: _Data) -> tuple[Slice, ...] | None:
    """Labels and sizes, those to be expected where `limit` draws a sample; a slice may have 0.

    None where the data lack the column.
    """
    if not _sliced_by([budget]) <= data.columns.keys():
        return None
    evaluation = Evaluation(
        ids=np.empty(data.total, dtype="U0"),
        targets=np.empty(0),
        slices=data.columns,
        unit=None,
        fp32={},
        int8={},
    )
    found = ((sample, _size(sample.index, data.total)) for sample in samples(budget, evaluation))
    return tuple(
        (sample.label, 0 if sample.missing else round(size * data.used / data.total))
        for sample, size in found
    )


def _size(index: Array | None, total: int) -> int:
    return total if index is None else len(index)


# ── earlier runs ──────────────────────────────────────────────────────────────────────────


def _with_flips(
    tracker: Tracker, past: Sequence[PastRun], policy: Policy, questions: Sequence[Question]
) -> list[Question]:
    """What no run was held against yet has the flips that releases had from one to the next."""
    unknown = [q for q in questions if asks(q.budget) and q.kind in _PAIRED and not q.seen]
    if not unknown:
        return list(questions)
    metrics = sorted({question.budget.metric for question in unknown})
    flips = between_releases(tracker, past, policy, metrics)
    return [replace(q, seen=flips[q.budget.metric]) if q in unknown else q for q in questions]


def _recorded(tracker: Tracker, past: Sequence[PastRun]) -> list[tuple[PastRun, _Recorded]]:
    """The latest runs that were judged, newest first, with what their records compared."""
    found: list[tuple[PastRun, _Recorded]] = []
    for run in past:
        record = tracker.record(run.run) if run.outcome in _JUDGED else None
        comparisons = (record or {}).get("comparisons")
        if isinstance(comparisons, list) and comparisons:
            entries = [entry for entry in comparisons if isinstance(entry, dict)]
            found.append((run, _Recorded(entries, _alpha_of(record or {}))))
        if len(found) == _LATEST:
            break
    return found


def _alpha_of(record: Mapping[str, Any]) -> float:
    alpha = record.get("alpha")
    if isinstance(alpha, float) and 0 < alpha < 0.5:  # noqa: PLR2004
        return alpha
    return 0.05


def _comparison(comparisons: _Entries, budget: Budget) -> Mapping[str, Any] | None:
    """The budget's metric on its own slice, else on the whole set."""
    label = slice_label(budget.slice) if budget.slice else None
    mine = [
        entry
        for entry in comparisons
        if entry.get("metric") == budget.metric and entry.get("against") == budget.against
    ]
    for where in dict.fromkeys((label, None)):
        for entry in mine:
            if entry.get("slice") == where:
                return entry
    return None


def _spread(budget: Budget, runs: Sequence[_Recorded]) -> Spread | None:
    """The newest run's, of the same quantity, where the jackknife gave its interval."""
    for run in runs:
        entry = _comparison(run.comparisons, budget)
        found = None if entry is None else _jackknifed(entry, budget)
        if found is not None and found.lower is not None and found.upper is not None:
            half = (found.upper - found.lower) / 2
            noise = power.noise(half, found.n, alpha=run.alpha)
            return Spread(noise=noise, value=number(found))
    return None


def _jackknifed(entry: Mapping[str, Any], budget: Budget) -> Comparison | None:
    try:
        found = Comparison.model_validate(dict(entry))
    except ValidationError:
        return None
    same = found.quantity == QUANTITIES[budget.threshold] and found.method == jackknife.METHOD
    return found if same and found.n > 0 else None


def _rate(comparison: Mapping[str, Any], kind: Kind) -> float | None:
    """Its flip rate, or the metric's own value; None where it has none."""
    if kind == "rate":
        value = comparison.get("int8")
        return float(value) if isinstance(value, int | float) else None
    try:
        table = Counts.model_validate(comparison.get("counts"))
    except ValidationError:
        return None
    return (table.lost + table.gained) / table.n if table.n > 0 else None
