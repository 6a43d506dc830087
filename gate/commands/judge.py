"""`gate judge`: decide again from a record, running no model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from gate import artifact, tasks
from gate.commands.report import load_record, record_file
from gate.compare import compare_budgets
from gate.decide import decide, measured_of
from gate.errors import RecordError, UsageError
from gate.evaluate import demand_baseline
from gate.judgeable import unsupported
from gate.metrics import ARTIFACT_METRICS, MODEL_METRICS, PROCESS_METRICS, Metric
from gate.policy import Policy
from gate.policy_file import LoadedPolicy, load_policy
from gate.policy_file import digest as policy_digest
from gate.preflight import preflight
from gate.records import (
    Comparison,
    Finding,
    GateRecord,
    Measured,
    PolicySource,
    Verdict,
)
from gate.release import anchored_elsewhere
from gate.rows import load_rows
from gate.statistics import exact, ledger
from gate.values import Evaluation
from gate.waivers import beside, load_waivers, waive
from gate.wording import few

_DUST = 1e-12
_NEAR = 1e-6
_DECIDING = ("reference", "int8", "degradation", "p_pass", "p_fail")


def judge(path: Path, policy: str | None = None) -> GateRecord:
    """The record at `path`, decided again: by its own policy, or by another one.

    Raises:
        UsageError: there is no record, or the policy is about something else.
        RecordError: the record or its rows are damaged, or its verdict is not what its own
            numbers give.
        BaselineError: FP32 is not what the policy expects.
    """
    record = load_record(path)
    rows = record_file(path).with_name("rows.npz")
    demand_untouched(record, rows if rows.is_file() else None)
    record = rejudge(record)
    return record if policy is None else judge_by(load_policy(policy), record, rows)


def judge_by(loaded: LoadedPolicy, record: GateRecord, rows: Path) -> GateRecord:
    """The record as if `loaded` had judged it: its budgets on the stored rows, no model run.

    The artifact stays the one that was built: of the policy only `judge` counts.

    Raises:
        UsageError: the policy is another model's, another task's, or pins other data.
        RecordError: the rows are not those that the record vouches for.
        BaselineError: FP32 is not what the policy expects.
    """
    preflight(loaded, unsupported=unsupported, needs_candidate=False, needs_data=False)
    _demand_same_subject(loaded, record)
    _demand_measured(loaded, record)
    if record.stopped is not None or record.examples_evaluated < record.examples_total:
        raise UsageError(
            f"record {record.id} stopped early, at {record.examples_evaluated:,} of "
            f"{record.examples_total:,} examples: which ones were seen depends on its own verdict, "
            "so no other policy can be judged on them. Run the gate with this policy"
        )
    evaluation = _rows(rows, record)
    metrics = _metrics(loaded.policy, evaluation)
    baseline = demand_baseline(loaded.policy.judge.expect_fp32, evaluation, metrics)
    policy = record.policy.model_copy(update={"judge": loaded.policy.judge})
    alpha = ledger.alpha_of_attempt(policy.alpha, record.attempt or 1)
    measured = _measured(record, policy, evaluation, metrics)
    held = load_waivers(beside(loaded.file), loaded.policy, datetime.now(UTC).date())
    return record.model_copy(
        update={
            "policy": policy,
            "judged_from": None,
            "policy_source": PolicySource(
                file=str(loaded.budgets_file), lines=dict(loaded.lines), base=str(loaded.base)
            ),
            "baseline": baseline,
            "comparisons": tuple(m.comparison for m in measured if m.comparison is not None),
            "alpha": alpha,
            "waivers": held.waivers,
            "verdict": waive(
                decide(measured, alpha, policy.alpha, point=policy.judge.decision == "point"),
                held.waivers,
                held.expired,
            ),
            "provenance": record.provenance.model_copy(
                update={"policy_sha256": policy_digest(policy)}
            ),
        }
    )


def _measured(
    record: GateRecord, policy: Policy, evaluation: Evaluation, metrics: Mapping[str, Metric]
) -> tuple[Measured, ...]:
    """A policy's budgets on the stored rows, and on what else the record holds."""
    artifacts = record.process.numbers
    if not record.attested:
        models = record.candidate, record.int8
        artifacts |= {name: metric.measure(*models) for name, metric in ARTIFACT_METRICS.items()}
    return compare_budgets(
        policy.judge.budgets,
        evaluation,
        {**metrics, **MODEL_METRICS},
        artifacts,
        ledger.alpha_of_attempt(policy.alpha, record.attempt or 1),
        fail_alpha=policy.alpha,
        rounds=record.process.rounds,
        releases={one.against: {"size": float(one.bytes)} for one in record.releases},
        bootstrap=record.bootstrap,
    )


# ── a record against itself ───────────────────────────────────────────────────────────────


def demand_untouched(record: GateRecord, rows: Path | None) -> None:
    """Show that a record's numbers go together, with each other and with the rows beside it.

    It guards against an edited record, not against one that was made up with its rows.

    Raises:
        RecordError: they do not; says which.
    """
    if policy_digest(record.policy) != record.provenance.policy_sha256:
        _refuse(record, "its policy is not the one that it was judged by")
    if record.examples_total != record.splits.held_out.examples:
        _refuse(record, "it does not tell how many examples there were")
    stored = [finding.comparison for finding in record.verdict.findings]
    if rows is None:
        again = [_by_its_table(record, finding) for finding in record.verdict.findings]
    else:
        evaluation = _rows(rows, record)
        if len(evaluation.ids) != record.examples_evaluated:
            _refuse(record, "it does not tell how many examples were evaluated")
        if record.policy.judge.stopping == "early":
            return  # what was seen on the way is not kept
        metrics = _metrics(record.policy, evaluation)
        measured = _measured(record, record.policy, evaluation, metrics)
        again = [one.comparison for one in measured]
    if len(stored) != len(again) or not all(map(_agree, stored, again)):
        _refuse(record, "its comparisons are not what its examples give")


def _by_its_table(record: GateRecord, finding: Finding) -> Comparison | None:
    """An exact test's p-values from the paired table that it rests on; else as they stand."""
    found = finding.comparison
    if found is None or found.counts is None or found.method != exact.METHOD:
        return found
    known = {budget.id: budget.limit for budget in record.policy.judge.budgets}
    limit = known.get(finding.budget)
    if limit is None:
        _refuse(record, f"it has a finding on {finding.budget}, which is no budget of its policy")
    table = found.counts
    p_pass, p_fail = exact.p_values(
        table.lost,
        table.gained,
        table.n,
        limit,
        alpha_pass=record.alpha,
        alpha_fail=record.policy.alpha / _family(record),
    )
    return found.model_copy(update={"p_pass": p_pass, "p_fail": p_fail})


def _family(record: GateRecord) -> int:
    """Tests that share the error of a FAIL."""
    found = (finding.comparison for finding in record.verdict.findings)
    return max(1, sum(c is not None and c.p_fail is not None and c.n > 0 for c in found))


def _agree(stored: Comparison | None, again: Comparison | None) -> bool:
    if stored is None or again is None:
        return stored is again
    pairs = ((getattr(stored, name), getattr(again, name)) for name in _DECIDING)
    return all(
        one is other or (None not in (one, other) and abs(one - other) <= _NEAR)
        for one, other in pairs
    )


def _refuse(record: GateRecord, why: str) -> NoReturn:
    raise RecordError(
        f"record {record.id} was changed after it was written, or written by another version of "
        f"gate: {why}. Do not release on it; run the gate again"
    )


def _demand_same_subject(loaded: LoadedPolicy, record: GateRecord) -> None:
    policy, pin = loaded.policy, loaded.policy.judge.held_out.sha256
    for what in ("model", "task"):
        asked, recorded = getattr(policy, what), getattr(record.policy, what)
        if asked != recorded:
            raise UsageError(f"{loaded.file} is about {what} {asked}; the record is of {recorded}")
    mine, theirs = loaded.policy.judge.held_out, record.policy.judge.held_out
    same = (mine.path, mine.limit) == (theirs.path, theirs.limit)
    if pin not in (None, record.policy.judge.held_out.sha256, record.splits.held_out.sha256):
        raise UsageError(
            f"{loaded.file} pins other held-out data than the record was measured on: "
            "run the gate on them"
        )
    if not same and pin != record.splits.held_out.sha256:
        raise UsageError(
            f"{loaded.file} names other held-out data ({mine.path}) than the record was measured "
            f"on ({theirs.path}): run the gate on them"
        )


def _demand_measured(loaded: LoadedPolicy, record: GateRecord) -> None:
    """Time and memory are measured for the budgets that ask for them, and for no others.

    Of models that ran elsewhere nothing is.
    """
    budgets = loaded.policy.judge.budgets
    sides = dict.fromkeys(budget.against for budget in budgets)
    held = next(
        (against for against in sides if not _is_held(record, loaded.policy, against)), None
    )
    if held is not None:
        told = f"anchor {loaded.policy.judge.anchor}" if held == "anchor" else held
        raise UsageError(
            f"{loaded.file} has a budget against {told}, which the run that wrote record "
            f"{record.id} was not held against: run the gate with this policy"
        )
    unseen = MODEL_METRICS if record.attested else PROCESS_METRICS
    asked = {budget.metric for budget in loaded.policy.judge.budgets} & unseen.keys()
    missing = sorted(asked - record.process.measured)
    if missing:
        raise UsageError(
            f"{loaded.file} has a budget on {', '.join(missing)}, which the run that wrote record "
            f"{record.id} did not measure: run the gate with this policy"
        )


def _is_held(record: GateRecord, policy: Policy, against: str) -> bool:
    """Whether a record tells how INT8 does against it, or that there was none yet."""
    if record.lacks(against):
        return against != "anchor" or not anchored_elsewhere(policy)
    releases: dict[str, str] = {one.against: one.uri for one in record.releases}
    if against == "anchor":
        return releases.get(against) == policy.judge.anchor
    return against in {"fp32", *releases}


def _rows(path: Path, record: GateRecord) -> Evaluation:
    evaluation = load_rows(path)
    if artifact.sha256_of(path) != record.rows_sha256:
        raise RecordError(
            f"{path} is not what record {record.id} vouches for: it was changed after it was "
            "written. Fetch it again, or run the gate again"
        )
    return evaluation


def _metrics(policy: Policy, evaluation: Evaluation) -> dict[str, Metric]:
    """Every example metric that the policy names.

    Raises:
        UsageError: the record's rows were not observed for one of them.
    """
    metric = tasks.get(policy.task).observed(evaluation.targets, evaluation.fp32)
    asked = [budget.metric for budget in policy.judge.budgets]
    if policy.judge.expect_fp32 != "unknown":
        asked += policy.judge.expect_fp32.metrics
    found = {name: metric(name) for name in asked if name not in MODEL_METRICS}
    for name, wanted in found.items():
        if wanted.observation not in evaluation.fp32:
            raise UsageError(f"the record holds no rows for {name}: run the gate with this policy")
    return found


def rejudge(record: GateRecord) -> GateRecord:
    """The record with the verdict that its own numbers, policy and α give.

    Raises:
        RecordError: the stored verdict is another one; names the budgets that differ.
    """
    allowed = ledger.alpha_of_attempt(record.policy.alpha, record.attempt or 1)
    if abs(record.alpha - allowed) > _DUST:
        raise RecordError(
            f"record {record.id} was judged at α = {record.alpha:g}, and its policy and attempt "
            f"allow {allowed:g}: it was changed after it was written. Run the gate again"
        )
    point = record.policy.judge.decision == "point"
    decided = decide(measured_of(record), record.alpha, record.policy.alpha, point=point)
    verdict = waive(decided, record.waivers)
    differing = _differing(record.verdict, verdict)
    if differing:
        raise RecordError(
            f"the verdict in record {record.id} is not what its own numbers give, for "
            f"{few(differing)}: it was changed after it was written, or decided by another version "
            "of gate. Do not release on it; run the gate again"
        )
    return record.model_copy(update={"verdict": verdict})


def _differing(stored: Verdict, again: Verdict) -> list[str]:
    """Budgets, with their slice, of which the decision differs, is missing or is not asked for."""
    before, after = _decisions(stored), _decisions(again)
    found = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    names = [f"{budget} ({where})" if where else budget for budget, where in found]
    if not names and len(stored.findings) != len(again.findings):
        return ["the number of findings"]
    if not names and stored.outcome != again.outcome:
        return [f"the outcome ({stored.outcome}, and it should be {again.outcome})"]
    return names


def _decisions(verdict: Verdict) -> dict[tuple[str, str | None], tuple[str, bool]]:
    return {
        (finding.budget, finding.slice): (finding.outcome, finding.blocking)
        for finding in verdict.findings
    }
