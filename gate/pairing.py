"""INT8 of an earlier release on the examples of this run, so that the two can be paired.

Its own run left a row for every example. Where this held-out set is that one, or what is left of
it, the rows stand; where it is another, or its rows are gone, the release's model is run again, on
these examples, with its own preprocessing and its own way to read outputs: as it was shipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gate import plugins, preprocess
from gate.errors import EvaluationError, GateError, ReleaseError
from gate.metrics import Metric
from gate.registered import ReleaseInfo
from gate.release import Release
from gate.rerun import Place, open_again, rerun
from gate.rows import places, same_examples
from gate.run import Run
from gate.values import Array, Evaluation, Rows, Split

How = Literal["stored", "stored, by content", "evaluated"]
Observed = Mapping[str, Rows]
"""Rows by observation name."""


def pair_all(
    run: Run, evaluation: Evaluation, held_out: Split, metrics: Mapping[str, Metric]
) -> tuple[Evaluation, tuple[ReleaseInfo, ...]]:
    """An evaluation of all of `held_out`, with the INT8 rows of the run's earlier releases.

    Args:
        run: this run.
        evaluation: its rows, with at least what `metrics` observe.
        held_out: its examples.
        metrics: by name; those that compare INT8 with its own FP32 are left out.

    Raises:
        ReleaseError: rows or a model are not what was judged, had other classes, or cannot be
            run on these examples.
    """
    alone = [metric for metric in metrics.values() if not metric.relative]
    rows: dict[str, Observed] = {}
    infos = []
    for release in run.releases:
        _demand_same_classes(run, release)
        found, how = _rows(run, release, evaluation, held_out, alone)
        _demand_same_widths(release, found, evaluation, alone)
        rows[release.against] = found
        infos.append(_info(release, how))
    return replace(evaluation, releases=rows), tuple(infos)


def _rows(
    run: Run, release: Release, evaluation: Evaluation, held_out: Split, metrics: Sequence[Metric]
) -> tuple[Observed, How]:
    wanted = {metric.observation for metric in metrics}
    if release.record.provenance.plugins != plugins.active():
        return _evaluated(run, release, evaluation, metrics), "evaluated"  # others observed them
    if (rows := _stored(release, evaluation, held_out, wanted)) is not None:
        return rows, "stored"
    if (rows := _by_content(run, release, evaluation, wanted)) is not None:
        return rows, "stored, by content"
    return _evaluated(run, release, evaluation, metrics), "evaluated"


def _demand_same_classes(run: Run, release: Release) -> None:
    mine, theirs = run.policy.build.classes, release.record.policy.build.classes
    if mine and theirs and mine != theirs:
        raise ReleaseError(
            f"{release.against} is {release.version.uri}, whose classes are not this policy's: "
            "what both predict cannot be compared. Name another release, or leave the budgets "
            f"against {release.against} out until one with these classes has passed"
        )


def _demand_same_widths(
    release: Release, rows: Observed, evaluation: Evaluation, metrics: Sequence[Metric]
) -> None:
    """Where classes have no names, their number tells: scores, counts and targets are so wide."""
    for name in dict.fromkeys(metric.observation for metric in metrics):
        mine, theirs = evaluation.int8[name].width, rows[name].width
        if mine != theirs:
            raise ReleaseError(
                f"{release.against} is {release.version.uri}, whose outputs are not as many as "
                f"the candidate's ({name}: {theirs} values an example, and here {mine}): it had "
                "other classes, or vectors of another length. Name another release, or leave the "
                f"budgets against {release.against} out until one with these outputs has passed"
            )


def _info(release: Release, how: How) -> ReleaseInfo:
    version, record = release.version, release.record
    return ReleaseInfo(
        against=release.against,
        name=version.name,
        version=version.version,
        record=record.id,
        run=version.run,
        int8_sha256=record.int8.sha256,
        bytes=record.int8.bytes,
        rows=how,
    )


# ── rows that are kept ────────────────────────────────────────────────────────────────────


def _stored(
    release: Release, evaluation: Evaluation, held_out: Split, wanted: set[str]
) -> Observed | None:
    """From an evaluation on this very set; None where there is none."""
    for stored in release.stored:
        if stored.held_out != held_out.sha256:
            continue
        found = stored.load()
        where = None if found is None else places(evaluation.ids, found.ids)
        if found is not None and where is not None and _whole(found, wanted):
            return _taken(found, where)
    return None


def _by_content(
    run: Run, release: Release, evaluation: Evaluation, wanted: set[str]
) -> Observed | None:
    """From one on a set that holds all of these examples, unchanged; None where there is none.

    An example is the same where its id, its target, and what the model gets of it are.
    """
    read = preprocess.digest(run.policy.build.preprocess)
    if release.record.preprocessing_sha256 != read:
        return None  # contents are what enters the model
    for stored in release.stored:
        found = stored.load()
        where = None if found is None else places(evaluation.ids, found.ids)
        if found is None or where is None or not _whole(found, wanted):
            continue
        if same_examples(evaluation, found, np.arange(len(where)), where).all():
            return _taken(found, where)
    return None


def _whole(found: Evaluation, wanted: set[str]) -> bool:
    return wanted <= found.int8.keys() and not found.problems


def _taken(found: Evaluation, where: Array) -> Observed:
    return {name: rows.take(where) for name, rows in found.int8.items()}


# ── its model, run again ──────────────────────────────────────────────────────────────────


def _evaluated(
    run: Run, release: Release, evaluation: Evaluation, metrics: Sequence[Metric]
) -> Observed:
    try:
        with run.step(release.against, total=len(evaluation.ids)):
            return _run_again(run, release, evaluation, metrics)
    except ReleaseError:
        raise
    except GateError as error:
        raise ReleaseError(
            f"{release.against} ({release.version.uri}) has to be run on these examples, as it was "
            f"released, and that cannot be done: {error}"
        ) from error


def _run_again(
    run: Run, release: Release, evaluation: Evaluation, metrics: Sequence[Metric]
) -> Observed:
    judge, record = run.policy.judge, release.shipped()
    scratch = run.scratch / f"{release.against}-again"
    scratch.mkdir()
    place = Place(run.backend, run.threads, run.loaded.base, scratch, home=run.loaded.base)
    labelled = evaluation.targets is not None
    split = open_again(record, judge.held_out, place, labelled=labelled, seed=judge.seed)
    where = places(evaluation.ids, split.ids)
    if where is None:
        raise EvaluationError(
            "its own preprocessing leaves some out. Mend these examples, or take them out"
        )
    again = rerun(
        record,
        release.model(),
        split,
        place,
        metrics=[metric.name for metric in metrics],
        who=f"{release.against} ({release.version.uri})",
        progress=run.progress.advance,
    )
    return {name: rows.take(where) for name, rows in again.rows.items()}
