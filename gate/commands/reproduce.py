"""`gate reproduce`: run a record again, from its own FP32 model, and tell what differs."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import plugins, strict_yaml
from gate.commands import _replay_stored as stores
from gate.commands.judge import judge
from gate.commands.report import record_file
from gate.errors import UsageError
from gate.pipeline import Finished, run_gate
from gate.policy import Policy
from gate.policy_file import LoadedPolicy, digest
from gate.progress import Progress
from gate.records import Comparison, GateRecord
from gate.release import brings_tokenizer
from gate.rows import load_arrays
from gate.wording import few

_NAMED = 4
_OF_RELEASES = "release/"
"""Rows of earlier releases, which are the tracker's to give."""


@dataclass(frozen=True, slots=True)
class Held:
    """One thing of the record, held against what came of it now."""

    what: str
    differs: str = ""
    """How; empty where it is the same."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of running a record again."""

    model: str
    record: str
    verdict: str
    held: tuple[Held, ...]
    elsewhere: tuple[str, ...]
    """What of this machine is not as it was there."""
    left_out: tuple[str, ...]
    """Budgets that need earlier releases."""

    @property
    def exit_code(self) -> int:
        """0 where all is the same, to the last bit; else 1."""
        return int(any(one.differs for one in self.held))


def reproduce(
    path: Path, *, threads: int | None = None, progress: Progress | None = None
) -> Reproduction:
    """Quantize and evaluate again what a record is about, with its policy, seed and data.

    Nothing is tracked, registered or counted.

    Args:
        path: record.json, with models and rows beside it, or the folder that holds them.
        threads: of one inference; default: the record's.
        progress: told of each step.

    Raises:
        UsageError: it cannot be run again from its folder alone.
        RecordError: a file of the folder is missing, or not what the record vouches for.
        GateError: the run failed.
    """
    record, folder = judge(path), record_file(path).parent
    plugins.demand_same(record.provenance.plugins)
    _demand_whole(record)
    fp32, int8 = stores.demand_fp32(folder, record), stores.demand_artifact(folder, record)
    stores.vouched_rows(folder, record)
    policy, left_out = _policy(record, folder)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        finished = run_gate(
            _loaded(policy, record),
            str(fp32),
            int8=str(int8) if record.int8.recipe is None else None,
            tracker="none",
            out=Path(scratch) / "out",
            threads=threads or record.provenance.threads,
            progress=progress,
            waivers=_no_waivers(Path(scratch)),
        )
        held = tuple(_held(record, folder, finished))
    return Reproduction(
        model=record.model,
        record=record.id,
        verdict=record.verdict.outcome,
        held=held,
        elsewhere=tuple(_elsewhere(record, finished.record)),
        left_out=left_out,
    )


# ── what is run ───────────────────────────────────────────────────────────────────────────


def _demand_whole(record: GateRecord) -> None:
    """Raises UsageError where the folder alone does not tell what was judged."""
    if record.attested:
        why = "it judged outputs of models that ran elsewhere"
    elif record.reference is not None:
        why = "INT8 was held against a reference, which its folder does not keep"
    elif record.policy.judge.stopping == "early" and (record.attempt or 1) > 1:
        why = "it stopped early at a later attempt, whose α no run outside the ledger has"
    else:
        return
    raise UsageError(f"record {record.id} cannot be run again from its folder: {why}")


def _policy(record: GateRecord, folder: Path) -> tuple[Policy, tuple[str, ...]]:
    """The record's own, and the ids of its budgets that are left out."""
    policy = record.policy
    kept = tuple(one for one in policy.judge.budgets if one.against == "fp32")
    left_out = tuple(one.id for one in policy.judge.budgets if one.against != "fp32")
    if not kept:
        raise UsageError(
            f"every budget of record {record.id} is against an earlier release: nothing is left "
            "to run again without the tracker"
        )
    judging = policy.judge.model_copy(update={"budgets": kept, "anchor": None})
    build = policy.build
    if brings_tokenizer(record):
        assert build.preprocess is not None
        assert build.preprocess.tokenizer is not None
        file = str((folder / stores.TOKENIZER).resolve())
        own = build.preprocess.tokenizer.model_copy(update={"file": file})
        build = build.model_copy(
            update={"preprocess": build.preprocess.model_copy(update={"tokenizer": own})}
        )
    return policy.model_copy(update={"judge": judging, "build": build}), left_out


def _loaded(policy: Policy, record: GateRecord) -> LoadedPolicy:
    """As if it had been read where the record says."""
    text = json.dumps(policy.model_dump(mode="json", exclude_none=True))
    file = stores.home_of(record) / Path(record.policy_source.file).name
    written = strict_yaml.parse(text, file)
    return LoadedPolicy(policy=policy, file=file, sha256=digest(policy), written=written)


def _no_waivers(scratch: Path) -> Path:
    """What was let through there is no part of what is measured here."""
    file = scratch / "waivers.yaml"
    file.write_text("version: 1\nwaivers: []\n", encoding="utf-8")
    return file


# ── what came of it ───────────────────────────────────────────────────────────────────────


def _held(record: GateRecord, folder: Path, finished: Finished) -> Iterator[Held]:
    now = finished.record
    for name in ("held_out", "calibration", "tuning"):
        one, other = (getattr(each.splits, name) for each in (record, now))
        if one is not None:
            told = "" if other is not None and one.sha256 == other.sha256 else "other examples"
            yield Held(f"{name.replace('_', '-')} data", told)
    parted = record.int8.sha256 != now.int8.sha256
    yield Held("INT8 artifact", f"sha256 {now.int8.sha256[:12]}…" if parted else "")
    for name in (stores.ROWS, stores.OUTPUTS):
        yield Held(name, _arrays(folder / name, finished.folder / name))
    yield Held("every metric", _metrics(record, now))


def _arrays(before: Path, after: Path) -> str:
    one, other = load_arrays(before), load_arrays(after)
    names = [name for name in {**one, **other} if not name.startswith(_OF_RELEASES)]
    differing = [name for name in names if not _same(one.get(name), other.get(name))]
    return f"{few(differing, _NAMED)} differ" if differing else ""


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes())


def _metrics(record: GateRecord, now: GateRecord) -> str:
    before, after = _values(record), _values(now)
    differing = [name for name in before if before[name] != after.get(name)]
    return f"{few(differing, _NAMED)} differ" if differing else ""


def _values(record: GateRecord) -> Mapping[str, Any]:
    """What was measured, by metric and slice; no time, and no interval, which α moves."""
    timed = record.process.measured

    def name(one: Comparison) -> str:
        return one.metric if one.slice is None else f"{one.metric} at {one.slice}"

    return {
        name(one): (one.n, one.reference, one.int8, one.degradation, one.counts)
        for one in record.comparisons
        if one.against == "fp32" and one.metric not in timed
    }


def _elsewhere(record: GateRecord, now: GateRecord) -> Iterator[str]:
    then, here = record.provenance, now.provenance
    for name in sorted({*then.versions, *here.versions}):
        one, other = then.versions.get(name), here.versions.get(name)
        if one != other:
            yield f"{name} {other or 'absent'}, and it was {one or 'absent'}"
    for name in ("architecture", "features"):
        one, other = then.cpu.get(name), here.cpu.get(name)
        if one != other:
            yield f"CPU {name} {_listed(other)}, and they were {_listed(one)}"
    for name in ("threads", "batch_size"):
        one, other = getattr(then, name), getattr(here, name)
        if one != other:
            yield f"{name.replace('_', ' ')} {other}, and it was {one}"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
