"""Which numbers of a run a history is about: a metric or a budget, on the whole set or a slice."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from gate.errors import UsageError
from gate.policy import THRESHOLDS
from gate.trackers import PastRun
from gate.wording import listing

_LISTED = 20
_SECONDS = "seconds"
_FP32 = "fp32"
_EACH = "each "


@dataclass(frozen=True, slots=True)
class Asked:
    """What `--metric` and `--slice` name; nothing: each run's own first budget."""

    metric: str | None = None
    """A metric, or a budget by its id."""
    slice: str | None = None
    """`column=value`."""


@dataclass(frozen=True, slots=True)
class Series:
    """Where a run keeps the numbers of one metric or budget."""

    name: str
    """`metric[.limit][@reference]`, as `PastRun.metrics` begins."""
    slice: str | None = None

    @property
    def label(self) -> str:
        """As a person names it."""
        return self.name if self.slice is None else f"{self.name} at {self.slice}"

    @property
    def against(self) -> str:
        """What INT8 is held against."""
        return self.name.partition("@")[2] or _FP32

    @property
    def metric(self) -> str:
        """The metric alone."""
        return _split(self.name)[0]

    @property
    def threshold(self) -> str | None:
        """The kind of limit, where it is a budget's."""
        return _split(self.name)[1]

    def of(self, run: PastRun, quantity: str) -> float | None:
        """fp32 (or the reference's name), int8, drop, lower or upper; None where it is not kept."""
        where = self.name if self.slice is None else f"{self.name}/{self.slice}"
        return finite(run, f"{where}/{quantity}")

    def reference(self, run: PastRun) -> float | None:
        """The value that INT8 is held against."""
        return self.of(run, self.against)

    def limit(self, run: PastRun) -> float | None:
        """The budget's; None where it is none, or its id was too long to be kept."""
        head, at, reference = self.name.partition("@")
        column = (self.slice or "").partition("=")[0]
        inner = ("",) if self.slice is None else (f"[{self.slice}]", f"[each {column}]")
        ids = (f"{head}{part}{at}{reference}" for part in inner)
        return next((run.limits[key] for key in ids if key in run.limits), None)

    def is_kept(self, run: PastRun) -> bool:
        """Whether the run has any number of it."""
        quantities = ("int8", "drop", self.against)
        return any(self.of(run, quantity) is not None for quantity in quantities)


def finite(run: PastRun, key: str) -> float | None:
    """A metric of a run; None where it has none, or what was logged is no number."""
    value = run.metrics.get(key)
    return value if value is not None and math.isfinite(value) else None


# ── choosing ──────────────────────────────────────────────────────────────────────────────


def chosen(run: PastRun, asked: Asked) -> Series | None:
    """The numbers of a run that were asked for; None where it has none of them."""
    if asked.metric is None:
        own = _own(run)
        if own is None or asked.slice is None:
            return own
        options = _options(own.metric, asked.slice, first=own.name)
    elif asked.metric in _names(asked.metric):
        options = _options(asked.metric, asked.slice)
    else:
        options = iter([_of_budget(asked.metric, asked.slice)])
    return next((series for series in options if series.is_kept(run)), None)


def demand_known(runs: Sequence[PastRun], asked: Asked) -> None:
    """Refuse a metric, a budget or a slice that no run has.

    Raises:
        UsageError: lists those that there are.
    """
    if asked.metric is None and asked.slice is None:
        return
    _demand_one_slice(asked)
    names, slices = _kept(runs)
    if asked.metric is not None and asked.metric not in names:
        _refuse("--metric", asked.metric, names)
    if asked.slice is not None and asked.slice not in slices:
        _refuse("--slice", asked.slice, slices)
    if any(chosen(run, asked) for run in runs):
        return
    what = f"--metric {asked.metric}" if asked.metric else "the runs' own budgets"
    where = f"at --slice {asked.slice}" if asked.slice else "on the whole set"
    raise UsageError(f"no run has {what} {where}; slices: {listing(sorted(slices), _LISTED)}")


def _demand_one_slice(asked: Asked) -> None:
    """Refuse a budget on one slice together with `--slice` of another."""
    inner = _inner(asked.metric or "")
    if inner is None or asked.slice is None:
        return
    each = inner.removeprefix(_EACH)
    same = inner == asked.slice if each == inner else asked.slice.startswith(f"{each}=")
    if not same:
        raise UsageError(
            f"--metric {asked.metric} is about {inner}, and --slice says {asked.slice}: "
            "name the metric without its slice, or leave --slice out"
        )


def _refuse(flag: str, asked: str, known: set[str]) -> None:
    close = get_close_matches(asked, known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    listed = listing(sorted(known), _LISTED) if known else "none"
    raise UsageError(f"{flag} {asked}: no run has it. {hint}Known: {listed}")


def _kept(runs: Iterable[PastRun]) -> tuple[set[str], set[str]]:
    """Every metric and budget by name, and every slice."""
    names: set[str] = set()
    slices: set[str] = set()
    keys = {key.rpartition("/")[0] for run in runs for key in run.metrics}
    for key in keys:
        name, _, where = key.partition("/")
        if name != _SECONDS:
            names |= {name, _split(name)[0]}
            slices |= {where} - {""}
    return names | {budget for run in runs for budget in run.limits}, slices


def _own(run: PastRun) -> Series | None:
    """That of the run's first budget."""
    name, _, where = run.tags.get("metric", "").partition("/")
    return Series(name, where or None) if name else None


def _options(metric: str, where: str | None, *, first: str | None = None) -> Iterator[Series]:
    """A metric's budgets in the order of their kinds, then the metric by itself."""
    if first is not None:
        yield Series(first, where)
    for reference in ("", "@production", "@anchor"):
        for kind in (*(f".{threshold}" for threshold in THRESHOLDS), ""):
            yield Series(f"{metric}{kind}{reference}", where)


def _of_budget(budget: str, where: str | None) -> Series:
    """`accuracy.max_drop[site=north]@anchor`, which says its slice itself."""
    inner = _inner(budget)
    name = budget if inner is None else budget.replace(f"[{inner}]", "", 1)
    own = None if inner is None or inner.startswith(_EACH) else inner
    return Series(name, where or own)


def _inner(budget: str) -> str | None:
    """`site=north` or `each site`, where a budget's id names one."""
    inner, bracket, _ = budget.partition("[")[2].rpartition("]")
    return inner if bracket else None


def _names(metric: str) -> tuple[str, ...]:
    """The name itself where it is a metric's, and nothing where it is a budget's."""
    plain = _split(metric)[1] is None and "@" not in metric and "[" not in metric
    return (metric,) if plain else ()


def _split(name: str) -> tuple[str, str | None]:
    """Metric and kind of limit."""
    head = name.partition("@")[0]
    metric, dot, kind = head.rpartition(".")
    return (metric, kind) if dot and kind in THRESHOLDS else (head, None)
