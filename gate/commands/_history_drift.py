"""Cumulative drift: how much worse a release is than the anchor that all of them answer to.

A step budget bounds what one release loses; drift bounds what all of them lost together. Values
on different held-out sets are never subtracted: across a change of set the anchor's value on the
new one has to be known, from a bridge or from a run that measured the anchor itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gate.commands._history_series import Series
from gate.policy import THRESHOLDS
from gate.registered import Bridge, Bridged, registered_name
from gate.trackers import PastRun

_SAME = 1e-12
_TOLERANCE = 1e-6
_RELATIVE = "max_relative_drop"
Better = Literal["high", "low"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The release that drift is counted from."""

    name: str
    """`models:/name-int8/3`, or the run's id where it is no registered version."""
    run: PastRun | None
    """None where it is not on record."""
    named: bool
    """Whether a policy names it; else it is the oldest release that passed."""

    @property
    def told(self) -> str:
        """What it is, and why it is that one."""
        why = "named by the policy" if self.named else "the oldest release that passed"
        return f"{self.name}, {why}" if self.run else f"{self.name}, {why}, is not on record"


@dataclass(frozen=True, slots=True)
class Drift:
    """How much worse than the anchor a run is: positive is worse, always."""

    value: float | None = None
    """In the metric's own unit; None where it is unknown."""
    how: Literal["measured", "computed", "unknown", "none"] = "none"
    """measured: example by example. computed: INT8's values subtracted. none: nothing to tell."""
    why: str | None = None
    """Why it is unknown."""
    limit: float | None = None
    """Of the run's budget against the anchor."""
    left: float | None = None
    """Of that budget, in its own unit."""


NO_DRIFT = Drift()


def anchor_of(model: str, runs: Sequence[PastRun]) -> Anchor | None:
    """The anchor that the newest run names, else the oldest release that passed.

    `runs` newest first. None where there is neither.
    """
    named = next((run.tags.get("anchor") for run in runs if run.outcome not in _CUT), None)
    if named:
        number = named.removeprefix(f"models:/{registered_name(model)}/")
        found = (run for run in runs if run.version is not None and run.version == number)
        return Anchor(named, next(found, None), named=True)
    passed = [run for run in runs if run.stage == "release" and run.outcome == "pass"]
    if not passed:
        return None
    oldest = passed[-1]
    version = oldest.version
    name = oldest.run if version is None else f"models:/{registered_name(model)}/{version}"
    return Anchor(name, oldest, named=False)


_CUT = ("error", "incomplete")


def better(runs: Sequence[PastRun], series: Series) -> Better | None:
    """Whether high or low values of a metric are good, as its runs show it; None: they do not.

    By the tag of a run whose own metric it is; else by which way `drop` was subtracted; else by
    the kind of a limit.
    """
    metric = series.metric
    for run in runs:
        told = run.tags.get("better")
        name = run.tags.get("metric", "").partition("/")[0]
        if told in ("high", "low") and Series(name).metric == metric:
            return "high" if told == "high" else "low"
    shown = (_shown(run, one) for run in runs for one in _subtracted(metric, series))
    by_limit: dict[str | None, Better] = {"at_least": "high", "at_most": "low", "max_ratio": "low"}
    return next((side for side in shown if side), by_limit.get(series.threshold))


def _subtracted(metric: str, series: Series) -> Iterator[Series]:
    """Where a drop is a difference of two values."""
    for reference in ("", "@production", "@anchor"):
        for kind in ("", ".max_drop"):
            for where in dict.fromkeys((series.slice, None)):
                yield Series(f"{metric}{kind}{reference}", where)


def _shown(run: PastRun, series: Series) -> Better | None:
    reference, int8, drop = series.reference(run), series.of(run, "int8"), series.of(run, "drop")
    if reference is None or int8 is None or drop is None or abs(drop) <= _SAME:
        return None
    slack = _TOLERANCE * max(1.0, abs(drop))
    if abs(reference - int8 - drop) <= slack:
        return "high"
    return "low" if abs(int8 - reference - drop) <= slack else None


class Drifts:
    """Drift of the runs of one model in one metric, on the whole set or a slice."""

    def __init__(
        self,
        runs: Sequence[PastRun],
        series: Series,
        anchor: Anchor | None,
        bridges: Sequence[Bridge],
    ) -> None:
        """`runs` newest first."""
        self._anchor = anchor
        self._better = better(runs, series)
        self._metric, self._slice = series.metric, series.slice
        self._values = dict(self._known(runs, bridges))

    def is_known_on(self, held_out: str | None) -> bool:
        """Whether the anchor's value on a held-out set is."""
        return held_out in self._values

    def of(self, run: PastRun, int8: float | None) -> Drift:
        """Drift of a run with that INT8 value, and what is left of its budget on drift."""
        measured = self._measured(run)
        if measured is not None:
            reference = self._reference(run)
            return self._with_budget(run, Drift(measured, "measured"), reference)
        if int8 is None:
            return NO_DRIFT
        anchor = self._values.get(run.tags.get("held_out", ""))
        why = self._unknown(anchor)
        if anchor is None or why:
            return self._with_budget(run, Drift(None, "unknown", why), None)
        value = anchor - int8 if self._better == "high" else int8 - anchor
        return self._with_budget(run, Drift(value, "computed"), anchor)

    def _unknown(self, anchor: float | None) -> str | None:
        if self._anchor is None:
            return "no release has passed yet"
        if self._anchor.run is None and anchor is None:
            return f"{self._anchor.name} is not on record"
        if anchor is None:
            return f"no bridge gives the value of {self._anchor.name} on this held-out set"
        return None if self._better else f"whether {self._metric} is better high or low is unknown"

    # what runs measured against the anchor itself

    def _against(self, kinds: Sequence[str]) -> Iterator[Series]:
        for kind in kinds:
            yield Series(f"{self._metric}{kind}@anchor", self._slice)

    def _measured(self, run: PastRun) -> float | None:
        if not self._is_about_it(run):
            return None
        found = (series.of(run, "drop") for series in self._against(("", ".max_drop")))
        return next((drop for drop in found if drop is not None), None)

    def _reference(self, run: PastRun) -> float | None:
        if not self._is_about_it(run):
            return None
        kinds = ("", ".max_drop", f".{_RELATIVE}")
        found = (series.of(run, "anchor") for series in self._against(kinds))
        return next((value for value in found if value is not None), None)

    def _is_about_it(self, run: PastRun) -> bool:
        """Whether `@anchor` meant, in that run, the release that it means now."""
        named = run.tags.get("anchor")
        return named is None or (self._anchor is not None and named == self._anchor.name)

    # the anchor's value by held-out set

    def _known(
        self, runs: Sequence[PastRun], bridges: Sequence[Bridge]
    ) -> Iterator[tuple[str, float]]:
        """What is worth least first: the anchor's own where it stopped early, bridges, other runs,
        the anchor's own where it did not."""
        yield from self._own() if self._is_cut else ()
        yield from self._bridged(bridges)
        for run in runs:
            value = self._reference(run)
            if value is not None and "held_out" in run.tags:
                yield run.tags["held_out"], value
        yield from () if self._is_cut else self._own()

    def _own(self) -> Iterator[tuple[str, float]]:
        own = self._anchor.run if self._anchor else None
        if own is not None and "held_out" in own.tags:
            value = _int8(own, self._metric, self._slice)
            yield from () if value is None else [(own.tags["held_out"], value)]

    @property
    def _is_cut(self) -> bool:
        """Whether the anchor's own run stopped early: its examples were chosen by its outcome."""
        own = self._anchor.run if self._anchor else None
        return own is not None and "stopped" in own.tags

    def _bridged(self, bridges: Sequence[Bridge]) -> Iterator[tuple[str, float]]:
        key = self._metric if self._slice is None else f"{self._metric}/{self._slice}"
        for bridge in bridges:
            for release in filter(self._is_anchor, bridge.releases):
                sides: tuple[tuple[str, Mapping[str, float]], ...] = (
                    (bridge.before, release.before),
                    (bridge.after, release.after),
                )
                yield from ((digest, values[key]) for digest, values in sides if key in values)

    def _is_anchor(self, release: Bridged) -> bool:
        own = self._anchor.run if self._anchor else None
        if own is not None:
            return release.record == own.tags.get("record")
        name = self._anchor.name if self._anchor else ""
        return name.endswith(f"/{release.version}") and "anchor" in release.roles

    # budgets

    def _with_budget(self, run: PastRun, drift: Drift, anchor: float | None) -> Drift:
        if not self._is_about_it(run):
            return drift  # what it was allowed to lose is about another release
        for series in self._against((".max_drop", f".{_RELATIVE}")):
            limit = series.limit(run)
            if limit is not None:
                left = _left(series, run, drift.value, limit, anchor)
                return Drift(drift.value, drift.how, drift.why, limit, left)
        return drift


def _int8(run: PastRun, metric: str, where: str | None) -> float | None:
    """INT8's value, from the metric itself or from a budget on it."""
    kinds = ("", *(f".{threshold}" for threshold in THRESHOLDS))
    found = (Series(f"{metric}{kind}", where).of(run, "int8") for kind in kinds)
    return next((value for value in found if value is not None), None)


def _left(
    series: Series, run: PastRun, drift: float | None, limit: float, anchor: float | None
) -> float | None:
    if series.threshold != _RELATIVE:
        return None if drift is None else limit - drift
    own = series.of(run, "drop")
    if own is None and drift is not None and anchor:
        own = drift / abs(anchor)
    return None if own is None else limit - own
