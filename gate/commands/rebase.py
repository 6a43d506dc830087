"""`gate rebase`: a new held-out set takes the place of the old one, and history goes on.

Anchor and production are run on the new set, so that what comes after is held against them there;
what they have on both sets is the bridge between the numbers before and after.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gate import artifact, backends, data, plugins, tasks
from gate.commands._replay_stored import home_of, opened
from gate.errors import ReleaseError, UsageError
from gate.metrics import Metric
from gate.pipeline import BACKEND
from gate.policy_file import load_policy
from gate.progress import Progress, Silent
from gate.records import GateRecord
from gate.registered import PINNED, PRODUCTION, Bridge, Bridged, Version, registered_name
from gate.release import Against, as_shipped, demand_released, fetch_model, record_of, stored_rows
from gate.rerun import Again, Place, open_again, rerun
from gate.rows import rows_of, save_arrays
from gate.sources import DataSource
from gate.trackers import Registry, Tracker
from gate.values import Evaluation, Rows, Split

_POLICIES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class New:
    """The held-out set that arrives."""

    source: DataSource
    base: Path
    """What its path is relative to."""
    seed: int | None
    """That of its policy; None: each release's own."""


@dataclass(frozen=True, slots=True)
class Rebased:
    """What came of it."""

    bridge: Bridge
    run: str
    """The tracker's id."""
    examples: int
    """Of the new set."""
    unchecked: tuple[str, ...]
    """Data that releases were made from and that are not here to be held against the new set."""


@dataclass(frozen=True, slots=True)
class _Earlier:
    """A release that the bridge rests on."""

    version: Version
    record: GateRecord
    roles: tuple[str, ...]


def rebase(
    model: str,
    held_out: str,
    tracker: Tracker,
    *,
    anchor: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Rebased:
    """Evaluate a model's anchor and production on a new held-out set, and keep the bridge.

    Args:
        model: the policy's.
        held_out: the new data; or a policy that names them, where they need more than a path.
        tracker: where releases are kept.
        anchor: `models:/name-int8/1`; default: that of the newest policy that was judged.
        threads: of one inference; default: every core.
        progress: told of each step.

    Raises:
        UsageError: there is no such model, data or anchor.
        ReleaseError: there is neither anchor nor production, or one is not what was judged.
        GateError: the new data do not fit the models.
    """
    told = progress or Silent()
    registry = _registry(tracker)
    new, earlier = _new(held_out), _earlier(model, tracker, registry, anchor)
    before = _in_force(earlier[0], registry)
    with tempfile.TemporaryDirectory(prefix="gate-") as private:
        scratch = Path(private)
        bridged: list[Bridged] = []
        unchecked: list[str] = []
        for one in earlier:
            place = _place(one, new, scratch / one.version.version, threads)
            own = as_shipped(tracker, one.version, one.record, place.scratch / "own")
            one = replace(one, record=own)  # noqa: PLW2901 - the same release, ready to run
            known = _known(before, one, tracker, registry, place.scratch)
            split = _opened(one, new, place, labelled=known.targets is not None)
            _demand_new(before, split)
            unchecked += _disjoint(one, split, place.scratch)
            told.step("/".join(one.roles), len(split))
            path = fetch_model(registry, one.version, one.record, place.scratch / "model")
            again = rerun(
                one.record, path, split, place, who=one.version.uri, progress=told.advance
            )
            bridged.append(_bridged(one, known, again, scratch))
        created = datetime.now(UTC)
        bridge = Bridge(
            id=f"{created:%Y%m%dT%H%M%S%fZ}-{split.sha256[:12]}",
            created=created,
            model=model,
            before=before,
            after=split.sha256,
            releases=tuple(bridged),
        )
        run = registry.keep_bridge(bridge, scratch)
        return Rebased(bridge, run, len(split), tuple(unchecked))


def _registry(tracker: Tracker) -> Registry:
    if tracker.registry is None:
        raise UsageError(f"--tracker {tracker.key} keeps no releases: name one that does")
    tracker.prepare()
    return tracker.registry


def _new(held_out: str) -> New:
    path = Path(held_out)
    if path.suffix in _POLICIES:
        loaded = load_policy(path)
        return New(loaded.policy.judge.held_out, loaded.base, loaded.policy.judge.seed)
    if "://" not in held_out and not path.exists():
        raise UsageError(f"--held-out {held_out}: there is no such file; name the new data")
    return New(DataSource(path=held_out), Path.cwd(), None)


# ── the releases ──────────────────────────────────────────────────────────────────────────


def _earlier(
    model: str, tracker: Tracker, registry: Registry, anchor: str | None
) -> tuple[_Earlier, ...]:
    """Production first, then the anchor where it is another version."""
    production = registry.find(registered_name(model), alias=PRODUCTION)
    named = anchor or _last_anchor(model, tracker)
    pinned = None if named is None else _pinned(named, registry)
    found = {v.uri: v for v in (production, pinned) if v is not None}
    if not found:
        raise ReleaseError(
            f"{model} has neither a version with the alias {PRODUCTION!r} nor an anchor, so there "
            "is nothing to carry over to the new set. Promote a release first (`gate promote`), or "
            "name --anchor models:/…/1"
        )
    return tuple(_passed(tracker, version, production, pinned) for version in found.values())


def _last_anchor(model: str, tracker: Tracker) -> str | None:
    return next((run.tags["anchor"] for run in tracker.past(model) if "anchor" in run.tags), None)


def _pinned(named: str, registry: Registry) -> Version:
    match = PINNED.fullmatch(named)
    if match is None:
        raise UsageError(f"--anchor {named}: name a version, as models:/name-int8/1")
    found = registry.find(match["name"], version=match["version"])
    if found is None:
        raise ReleaseError(f"the anchor {named} is not in the registry: name one that is kept")
    return found


def _passed(
    tracker: Tracker, version: Version, production: Version | None, pinned: Version | None
) -> _Earlier:
    record = record_of(tracker, version)
    is_either: dict[Against, Version | None] = {"production": production, "anchor": pinned}
    roles = tuple(r for r, v in is_either.items() if v is not None and v.uri == version.uri)
    for role in roles:
        demand_released(version, record, role)
    if record.provenance.plugins != plugins.active():
        raise ReleaseError(
            f"{version.uri} was judged with other plugins (--plugin), which may observe examples "
            "otherwise: rebase with those, or gate that model again with these"
        )
    return _Earlier(version, record, roles)


# ── on the old set ────────────────────────────────────────────────────────────────────────


def _in_force(one: _Earlier, registry: Registry) -> str:
    """The held-out set that releases are judged on now: the last one it was carried over to."""
    for _, bridge in registry.bridges(one.record.model):
        if any(b.record == one.record.id for b in bridge.releases):
            return bridge.after
    return one.record.splits.held_out.sha256


def _known(
    before: str, one: _Earlier, tracker: Tracker, registry: Registry, scratch: Path
) -> Evaluation:
    """A release's rows on the old set, of its own run or of an earlier bridge."""
    for stored in stored_rows(tracker, registry, one.version, one.record, scratch):
        found = stored.load() if stored.held_out == before else None
        if found is not None:
            return found
    raise ReleaseError(
        f"{one.version.uri} has no rows on the held-out set in force ({before[:12]}…): they are "
        "gone, or it was judged on another set. Name another --anchor, or gate it again there"
    )


# ── on the new one ────────────────────────────────────────────────────────────────────────


def _place(one: _Earlier, new: New, scratch: Path, threads: int | None) -> Place:
    scratch.mkdir()
    return Place(
        backend=backends.get(BACKEND),
        threads=threads or os.cpu_count() or 1,
        base=new.base,
        scratch=scratch,
        home=home_of(one.record),
    )


def _opened(one: _Earlier, new: New, place: Place, *, labelled: bool) -> Split:
    seed = one.record.policy.judge.seed if new.seed is None else new.seed
    return open_again(one.record, new.source, place, labelled=labelled, seed=seed)


def _demand_new(before: str, split: Split) -> None:
    if split.sha256 == before:
        raise UsageError(
            f"{split.source} holds the very examples that releases are judged on already "
            f"({before[:12]}…): there is nothing to rebase"
        )


def _disjoint(one: _Earlier, split: Split, scratch: Path) -> list[str]:
    """Show that a release was not made from the new examples; what is not here, it names.

    Raises:
        OverlapError: it was.
    """
    unchecked = []
    for name in ("calibration", "tuning"):
        if getattr(one.record.splits, name) is None:
            continue
        folder = scratch / name
        folder.mkdir()
        try:
            made_from = opened(name, one.record, None, folder, flag="the policy's own path")
        except UsageError:
            unchecked.append(f"the {name} data of {one.version.uri}")
            continue
        data.prove_disjoint((split, made_from))
    return unchecked


def _bridged(one: _Earlier, known: Evaluation, again: Again, folder: Path) -> Bridged:
    split, name = again.split, f"rows-{one.version.version}-{one.record.int8.sha256[:12]}.npz"
    found = Evaluation(
        ids=split.ids,
        targets=split.targets,
        slices=split.slices,
        unit=split.unit,
        fp32={},
        int8=again.rows,
        content=split.content,
    )
    save_arrays(folder / name, rows_of(found))
    return Bridged(
        version=one.version.version,
        record=one.record.id,
        int8_sha256=one.record.int8.sha256,
        roles=one.roles,
        before=dict(_values(_old_metrics(one.record, known, again), known.int8)),
        after=dict(_values(again.metrics, again.rows)),
        rows=name,
        rows_sha256=artifact.sha256_of(folder / name),
    )


def _old_metrics(record: GateRecord, known: Evaluation, again: Again) -> Mapping[str, Metric]:
    """Those of the new set, as the old rows were observed."""
    metric = tasks.get(record.policy.task).observed(known.targets, known.int8)
    return {name: metric(name) for name in again.metrics}


def _values(metrics: Mapping[str, Metric], rows: Mapping[str, Rows]) -> Iterator[tuple[str, float]]:
    for name, metric in metrics.items():
        if metric.observation in rows:
            value = float(metric.summarize(rows[metric.observation]))
            if value == value:  # noqa: PLR0124 - NaN is no value, and equals nothing
                yield name, value
