"""The releases of a model as one line: each run's numbers, what is left of its budgets, its drift.

Pure: it reads what a tracker gave, and decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from gate.commands._history_drift import NO_DRIFT, Anchor, Drift, Drifts, anchor_of
from gate.commands._history_series import Asked, Series, chosen, finite
from gate.registered import Bridge, Move
from gate.trackers import PastRun
from gate.wording import short

_HASH = 64
_NAME = 16
_HEX = frozenset("0123456789abcdef")
_RANKS = ("error", "fail", "incomplete", "inconclusive", "waived", "pass")
_EMPTY = len(_RANKS)


@dataclass(frozen=True, slots=True)
class Past:
    """Everything that is kept of a model's releases."""

    model: str
    runs: tuple[PastRun, ...]
    """Newest first."""
    production: str | None = None
    """The version that serves; None where no alias says so."""
    moves: tuple[Move, ...] = ()
    """Oldest first."""
    bridges: tuple[Bridge, ...] = ()
    """Newest first."""


@dataclass(frozen=True, slots=True)
class Change:
    """The held-out set that a run met is not that of the run before."""

    before: str
    after: str
    bridge: str | None
    """Id of the bridge between the two; None where there is none."""
    anchored: bool
    """Whether drift goes on: the anchor's value on the new set is known."""

    @property
    def told(self) -> str:
        """In one sentence."""
        how = f"bridged by {self.bridge}" if self.bridge else "no bridge"
        drift = "goes on" if self.anchored else "is unknown from here"
        sets = f"{short(self.before)} → {short(self.after)}"
        return f"held-out set changed: {sets}, {how}; drift against the anchor {drift}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One run, as a history shows it."""

    run: PastRun
    series: Series | None
    """None where the run has none of the numbers that were asked for."""
    is_production: bool = False
    drift: Drift = NO_DRIFT
    change: Change | None = None
    """What happened to the held-out set before this run."""
    moves: tuple[Move, ...] = ()
    """Of aliases, before this run and after the one before it."""

    @property
    def candidate(self) -> str:
        """The head of a hash, or the end of a source's name where nothing could be hashed."""
        name = self.run.candidate
        is_hash = len(name) == _HASH and set(name) <= _HEX
        return name[:12] if is_hash else name.rpartition("/")[2][-_NAME:]

    @property
    def recipe(self) -> str | None:
        """Its name."""
        return self.run.tags.get("recipe")

    @property
    def reference(self) -> float | None:
        """FP32's value, or that of the release that INT8 is held against."""
        return self.series.reference(self.run) if self.series else None

    def value(self, quantity: str) -> float | None:
        """int8, drop, lower or upper."""
        return self.series.of(self.run, quantity) if self.series else None

    @property
    def quantity(self) -> str:
        """What lower and upper bound: drop, relative_drop, value, ratio."""
        return _QUANTITIES.get(self.series.threshold if self.series else None, "drop")

    @property
    def limit(self) -> float | None:
        """Of the budget that the numbers belong to."""
        return self.series.limit(self.run) if self.series else None

    @property
    def left(self) -> float | None:
        """Of that budget, in its own unit; below zero beyond it."""
        limit, int8 = self.limit, self.value("int8")
        if limit is None:
            return None
        match self.quantity:
            case "value" if int8 is not None:
                floor = self.series is not None and self.series.threshold == "at_least"
                return int8 - limit if floor else limit - int8
            case "ratio":
                ratio = self._ratio
                return None if ratio is None else limit - ratio
            case "drop" | "relative_drop":
                drop = self.value("drop")
                return None if drop is None else limit - drop
        return None

    @property
    def _ratio(self) -> float | None:
        """INT8 / reference; a timed metric's median of ratios is kept as its drop."""
        drop, int8, reference = self.value("drop"), self.value("int8"), self.reference
        if drop is not None:
            return 1 + drop
        return int8 / reference if int8 is not None and reference else None

    @property
    def share_left(self) -> float | None:
        """The least share that is left of a budget: the run's own, or that against the anchor."""
        pairs = ((self.left, self.limit), (self.drift.left, self.drift.limit))
        shares = [left / abs(limit) for left, limit in pairs if left is not None and limit]
        return min(shares, default=None)

    @property
    def int8_share(self) -> float | None:
        """Of the work, between 0 and 1."""
        return finite(self.run, "int8_share/int8")

    @property
    def latency(self) -> float | None:
        """INT8's median, in milliseconds."""
        return finite(self.run, "latency_p50/int8")

    @property
    def reason(self) -> str | None:
        """Why it is no pass, in a few words."""
        if self.run.outcome == "incomplete":
            return "logging was cut short"
        key = "error" if self.run.outcome == "error" else "blocked"
        text = self.run.tags.get(key)
        return " ".join(text.split()) if text else None

    @property
    def marks(self) -> tuple[str, ...]:
        """What its outcome does not say by itself."""
        tags = self.run.tags
        holds = {
            "stopped early": "stopped" in tags,
            "observed only": tags.get("mode") == "observe",
            "by point estimates": tags.get("decision") == "point",
            "attested": "attested" in tags,
            "bootstrap": tags.get("bootstrap", "false") != "false",
        }
        return tuple(mark for mark, is_so in holds.items() if is_so)


_QUANTITIES: dict[str | None, str] = {
    "max_relative_drop": "relative_drop",
    "at_least": "value",
    "at_most": "value",
    "max_ratio": "ratio",
}


@dataclass(frozen=True)
class Line:
    """The releases of a model in one metric."""

    past: Past
    asked: Asked
    entries: tuple[Entry, ...]
    """Oldest first."""
    anchor: Anchor | None
    later: tuple[Move, ...] = field(default=())
    """Moves of aliases after the newest run."""

    @property
    def model(self) -> str:
        """As policies name it."""
        return self.past.model

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The metrics and budgets that the numbers belong to, each once."""
        return tuple(dict.fromkeys(e.series.label for e in self.entries if e.series))

    @cached_property
    def newest(self) -> Entry | None:
        """The newest release; where there is none the newest run."""
        if not self.entries:
            return None
        releases = (entry for entry in reversed(self.entries) if entry.run.stage == "release")
        return next(releases, self.entries[-1])

    @property
    def badness(self) -> tuple[int, float, str]:
        """Sorts lines worst first: what fails, then what has the least of its budget left.

        Where nothing is known of a budget, nothing of it counts as left.
        """
        if self.newest is None:
            return _EMPTY, 0.0, self.model
        share = self.newest.share_left
        return _RANKS.index(self.newest.run.outcome), 0.0 if share is None else share, self.model


def line_of(past: Past, asked: Asked) -> Line:
    """The line of a model, in the metric that was asked for."""
    anchor = anchor_of(past.model, past.runs)
    series = [chosen(run, asked) for run in past.runs]
    drifts = {
        key: Drifts(past.runs, one, anchor, past.bridges)
        for key, one in {_subject(one): one for one in series if one}.items()
    }
    rows = [*zip(past.runs, series, strict=True)][::-1]
    changes = [*_changes([run for run, _ in rows], [one for _, one in rows], past.bridges, drifts)]
    moves = [*_between(rows, past.moves)]
    entries = tuple(
        Entry(
            run,
            one,
            is_production=run.version is not None and run.version == past.production,
            drift=_drift(run, one, drifts),
            change=change,
            moves=moved,
        )
        for (run, one), change, moved in zip(rows, changes, moves, strict=True)
    )
    return Line(past, asked, entries, anchor, _after(past))


def _subject(series: Series) -> tuple[str, str | None]:
    return series.metric, series.slice


_ByMetric = Mapping[tuple[str, str | None], Drifts]


def _drift(run: PastRun, series: Series | None, drifts: _ByMetric) -> Drift:
    if series is None:
        return NO_DRIFT
    return drifts[_subject(series)].of(run, series.of(run, "int8"))


def _changes(
    runs: Sequence[PastRun],
    series: Sequence[Series | None],
    bridges: Sequence[Bridge],
    drifts: _ByMetric,
) -> Iterator[Change | None]:
    """For each run, oldest first, whether its held-out set is another than the one before."""
    names = {pair: b.id for b in bridges for pair in ((b.before, b.after), (b.after, b.before))}
    before: str | None = None
    for run, one in zip(runs, series, strict=True):
        after = run.tags.get("held_out")
        if after is None or before in (None, after):
            yield None
        else:
            known = one is not None and drifts[_subject(one)].is_known_on(after)
            yield Change(str(before), after, names.get((str(before), after)), known)
        before = after or before


def _between(
    rows: Sequence[tuple[PastRun, Series | None]], moves: Sequence[Move]
) -> Iterator[tuple[Move, ...]]:
    since: datetime | None = None
    for run, _ in rows:
        yield tuple(m for m in moves if m.when < run.when and (since is None or m.when >= since))
        since = run.when


def _after(past: Past) -> tuple[Move, ...]:
    newest = past.runs[0].when if past.runs else None
    return tuple(move for move in past.moves if newest is None or move.when >= newest)
