"""An alias moves on a PASS that still counts, and on nothing else."""

import getpass
import json
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import registry as support
from support.keys import save_pair
from support.project import WIDE_RANGE
from support.registry import MODEL, MemoryTracker, another, changed

from gate.cli import exit_code_of
from gate.commands._promote_policy import filled
from gate.commands._promote_signed import who
from gate.commands._promote_text import render_promotion
from gate.commands.promote import Promotion, promote
from gate.commands.report import load_record
from gate.commands.sign import sign
from gate.errors import EXIT_PASS, TrackerError, UsageError
from gate.exhibits import Waiver
from gate.policy_file import digest, load_policy
from gate.records import Attestation, GateRecord
from gate.registered import ReleaseInfo
from gate.sources import Preprocess

ADOPTED = "read by its own tokenizer.json"
ATTESTED = Attestation(
    source="int8.npz",
    outputs_sha256="ab" * 32,
    artifact_sha256="cd" * 32,
    runtime="trt",
    device="T4",
)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a release that passed."""
    return support.made(tmp_path_factory.mktemp("promote") / "project").folder


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    """The release's folder, to be spoilt; policy and data stay where the record says."""
    return Path(shutil.copytree(once / "run", tmp_path / "run"))


@pytest.fixture
def tracker(run: Path) -> MemoryTracker:
    made = MemoryTracker()
    made.log(load_record(run), run)
    return made


def reasons(found: Promotion) -> str:
    return "\n".join(reason.text for reason in found.reasons)


def refused(found: Promotion, tracker: MemoryTracker, code: int) -> str:
    """What stands against it; nothing moved, and nothing was written down."""
    assert found.outcome == "refused"
    assert found.exit_code == code
    assert "production" not in tracker.registry.aliases
    assert not tracker.registry.entries
    return reasons(found)


def spoilt(folder: Path, **fields: Any) -> tuple[GateRecord, MemoryTracker]:
    """A record with other fields, and a tracker that keeps it so."""
    record, tracker = changed(folder, **fields), MemoryTracker()
    tracker.log(record, folder)
    return record, tracker


def with_policy(record: GateRecord, **judge: Any) -> dict[str, Any]:
    """Fields of a record that was judged by another policy."""
    policy = record.policy.model_copy(
        update={"judge": record.policy.judge.model_copy(update=judge)}
    )
    used = record.provenance.model_copy(update={"policy_sha256": digest(policy)})
    return {"policy": policy, "provenance": used}


# ── it moves ──────────────────────────────────────────────────────────────────────────────


def test_a_pass_is_promoted_and_written_down(run: Path, tracker: MemoryTracker) -> None:
    found = promote(run, tracker, by="ann", why="the March release")
    record = load_record(run)
    assert (found.outcome, found.exit_code, found.previous) == ("moved", EXIT_PASS, None)
    assert tracker.registry.aliases == {"production": "1"}
    (entry,) = tracker.registry.entries
    assert (entry.version, entry.previous, entry.kind, entry.complete) == ("1", None, "promote", 1)
    assert (entry.record, entry.int8_sha256) == (record.id, record.int8.sha256)
    assert (entry.who, entry.why) == ("ann", "the March release")


def test_the_record_file_does_as_well_as_its_folder(run: Path, tracker: MemoryTracker) -> None:
    assert promote(run / "record.json", tracker).outcome == "moved"


def test_why_defaults_to_the_verdicts_first_words(run: Path, tracker: MemoryTracker) -> None:
    promote(run, tracker)
    assert tracker.registry.entries[0].why.startswith("PASS: 1 budget")


def test_a_newer_release_takes_over_and_the_way_back_is_told(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    promote(run, tracker)
    newer = another(run, tmp_path / "newer", hours=0.01)
    tracker.log(newer, tmp_path / "newer")
    found = promote(tmp_path / "newer", tracker)
    assert (found.outcome, found.version, found.previous) == ("moved", "2", "1")
    assert "production moved from version 1 to version 2" in render_promotion(found)
    assert f"gate rollback {MODEL}\n" in render_promotion(found)


def test_another_alias_moves_alone(run: Path, tracker: MemoryTracker) -> None:
    promote(run, tracker, alias="canary")
    assert tracker.registry.aliases == {"canary": "1"}


def test_a_dry_run_checks_everything_and_moves_nothing(run: Path, tracker: MemoryTracker) -> None:
    found = promote(run, tracker, dry_run=True)
    assert (found.outcome, found.exit_code) == ("would move", EXIT_PASS)
    assert tracker.registry.aliases == {}
    assert tracker.registry.entries == []
    lines = render_promotion(found, checks=True).splitlines()
    assert sum(line.startswith("  ok  ") for line in lines) == len(found.checks) == 11


def test_doing_it_twice_changes_nothing(run: Path, tracker: MemoryTracker) -> None:
    promote(run, tracker)
    found = promote(run, tracker, max_age=0.0000001)  # a job that runs again next year, too
    assert (found.outcome, found.exit_code) == ("already there", EXIT_PASS)
    assert len(tracker.registry.entries) == 1
    assert "NOTHING TO DO" in render_promotion(found)


@pytest.mark.parametrize("after", ["intention", "alias"])
def test_a_move_that_was_cut_short_is_completed(
    run: Path, tracker: MemoryTracker, after: str
) -> None:
    tracker.registry.break_after = after
    with pytest.raises(TrackerError):
        promote(run, tracker)
    assert promote(run, tracker).outcome == {"intention": "moved", "alias": "completed"}[after]
    (entry,) = tracker.registry.entries
    assert entry.complete
    assert tracker.registry.aliases == {"production": "1"}


def test_what_was_cut_short_of_another_alias_is_not_completed_with_it(
    run: Path, tracker: MemoryTracker
) -> None:
    promote(run, tracker)
    tracker.registry.break_after = "alias"
    with pytest.raises(TrackerError):
        promote(run, tracker, alias="canary")
    assert promote(run, tracker).outcome == "already there"
    assert [entry.complete for entry in tracker.registry.entries] == [True, False]


def test_a_dry_run_completes_nothing(run: Path, tracker: MemoryTracker) -> None:
    tracker.registry.break_after = "alias"
    with pytest.raises(TrackerError):
        promote(run, tracker)
    found = promote(run, tracker, dry_run=True)
    assert (found.outcome, found.exit_code) == ("completed", EXIT_PASS)
    assert not tracker.registry.entries[0].complete


def test_an_alias_that_somebody_moves_meanwhile_stays_there(
    run: Path, tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = tracker.registry.move

    def late(wanted: Any) -> None:
        tracker.registry.aliases["production"] = "7"
        move(wanted)

    monkeypatch.setattr(tracker.registry, "move", late)
    with pytest.raises(TrackerError, match="7"):
        promote(run, tracker)
    assert tracker.registry.aliases == {"production": "7"}


# ── the record ────────────────────────────────────────────────────────────────────────────


def test_an_edited_number_is_refused(run: Path, tracker: MemoryTracker) -> None:
    text = json.loads((run / "record.json").read_text())
    text["verdict"]["findings"][0]["comparison"]["p_pass"] /= 2
    (run / "record.json").write_text(json.dumps(text))
    told = refused(promote(run, tracker), tracker, 4)
    assert "was changed after it was written" in told
    assert "verdict.findings differ" in told


def test_a_field_that_decides_nothing_has_to_be_the_trackers_too(
    run: Path, tracker: MemoryTracker
) -> None:
    changed(run, durations={"quantize": 0.1})
    told = refused(promote(run, tracker), tracker, 4)
    assert "durations" in told
    assert told.count("\n") == 0


def test_changed_or_missing_rows_are_refused(run: Path, tracker: MemoryTracker) -> None:
    (run / "rows.npz").write_bytes((run / "outputs.npz").read_bytes())
    refused(promote(run, tracker), tracker, 4)
    (run / "rows.npz").unlink()
    assert "fetch the whole folder" in refused(promote(run, tracker), tracker, 4)


def test_a_record_that_the_tracker_does_not_keep(run: Path) -> None:
    tracker = MemoryTracker()
    told = refused(promote(run, tracker), tracker, 4)
    assert "gate report --track" in told
    assert "without its run, nothing tells which version of digits-cnn-int8 it is" in told


def test_a_run_that_is_incomplete(run: Path, tracker: MemoryTracker) -> None:
    tracker.runs[0] = support.replace(tracker.runs[0], outcome="incomplete")
    assert "is incomplete" in refused(promote(run, tracker), tracker, 4)


def test_a_run_that_says_another_outcome(run: Path, tracker: MemoryTracker) -> None:
    tracker.runs[0] = support.replace(tracker.runs[0], outcome="fail")
    told = refused(promote(run, tracker), tracker, 4)
    assert "run run1 says fail, and the record pass: one was changed" in told


def test_a_stored_record_that_is_gone_or_damaged(run: Path, tracker: MemoryTracker) -> None:
    tracker.records["run1"] = json.dumps({"schema_version": 1})
    assert "cannot be read" in refused(promote(run, tracker), tracker, 4)
    del tracker.records["run1"]
    assert "gone from the tracker" in refused(promote(run, tracker), tracker, 4)


# ── the verdict ───────────────────────────────────────────────────────────────────────────


def test_a_failed_gate_never_moves_an_alias(tmp_path: Path) -> None:
    project = support.made(tmp_path / "bad", WIDE_RANGE)
    folder = project.folder / "run"
    tracker = MemoryTracker()
    tracker.log(load_record(folder), folder)
    told = refused(promote(folder, tracker), tracker, 1)
    assert told.startswith("the verdict is FAIL")
    assert told.count("\n") == 0


def test_inconclusive_is_refused_whatever_on_inconclusive_says(tmp_path: Path) -> None:
    held_out = {"path": "held_out.npz", "limit": 150}
    project = support.made(tmp_path / "few", held_out=held_out, on_inconclusive="warn")
    folder = project.folder / "run"
    tracker = MemoryTracker()
    tracker.log(load_record(folder), folder)
    assert load_record(folder).exit_code == 0
    assert "INCONCLUSIVE" in refused(promote(folder, tracker), tracker, 3)


def test_waived_is_not_pass(run: Path) -> None:
    record = load_record(run)
    verdict = record.verdict.model_copy(update={"outcome": "waived"})
    _, tracker = spoilt(run, verdict=verdict)
    assert "WAIVED" in refused(promote(run, tracker), tracker, 4)  # no gate writes it yet: edited


def waived(run: Path, **fields: Any) -> dict[str, Any]:
    """Fields of a record whose one budget was let through."""
    record = load_record(run)
    (finding,) = record.verdict.findings
    one = finding.model_copy(update={"outcome": "waived", "slice": fields.get("slice")})
    waiver = {"model": MODEL, "budget": one.budget, "reason": "r", "who": "ann"} | fields
    verdict = record.verdict.model_copy(update={"outcome": "waived", "findings": (one,)})
    return {"verdict": verdict, "waivers": (Waiver.model_validate(waiver),)}


@pytest.mark.parametrize("other", [{"budget": "size.max_ratio"}, {"slice": "site=y"}])
def test_a_waiver_of_something_else_lets_nothing_through(run: Path, other: dict[str, str]) -> None:
    day = str((support.now() + timedelta(days=9)).date())
    fields = waived(run, expires=day)
    (waiver,) = fields["waivers"]
    _, tracker = spoilt(run, **fields | {"waivers": (waiver.model_copy(update=other),)})
    assert "the waiver of accuracy.max_drop has expired" in reasons(
        promote(run, tracker, waived=True)
    )


@pytest.mark.parametrize("slice_", [None, "site=x"])
@pytest.mark.parametrize(("days", "holds"), [(-1, False), (0, True), (9, True)])
def test_a_waiver_holds_to_the_end_of_its_last_day(
    run: Path, slice_: str | None, days: int, holds: bool
) -> None:
    day = support.now() + timedelta(days=days)
    _, tracker = spoilt(run, **waived(run, slice=slice_, expires=str(day.date())))
    found = promote(run, tracker, waived=True)
    (check,) = [check for check in found.checks if check.what == "waivers that still hold"]
    where = " at site=x" if slice_ else ""
    told = [f"the waiver of accuracy.max_drop{where} has expired: gate it again, under a waiver "
            "that holds where somebody still answers for it"]  # fmt: skip
    assert [reason.text for reason in check.reasons] == ([] if holds else told)
    assert {reason.code for reason in check.reasons} <= {2}
    assert "WAIVED, which is no PASS" not in reasons(found)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"stage": "pr"}, "of stage pr"),
        ({"ledger": "none"}, "nothing counted its attempts"),
        ({"attested": (ATTESTED,)}, "there is no model to promote"),
    ],
)
def test_what_is_no_release(run: Path, fields: dict[str, Any], told: str) -> None:
    _, tracker = spoilt(run, **fields)
    found = promote(run, tracker)
    assert told in reasons(found)
    assert any(reason.code == 2 for reason in found.reasons)
    assert tracker.registry.aliases == {}


def test_observe_mode_enforces_nothing(tmp_path: Path) -> None:
    project = support.made(tmp_path / "observed", mode="observe")
    folder, tracker = project.folder / "run", MemoryTracker()
    tracker.log(load_record(folder), folder)
    assert "mode: observe" in refused(promote(folder, tracker), tracker, 2)


# ── the version ───────────────────────────────────────────────────────────────────────────


def test_an_artifact_that_changed(run: Path, tracker: MemoryTracker) -> None:
    with (run / "model.int8.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert "models:/digits-cnn-int8/1 changed" in refused(promote(run, tracker), tracker, 4)


def test_an_artifact_that_is_gone(run: Path, tracker: MemoryTracker) -> None:
    (run / "model.int8.onnx").unlink()
    assert "cannot be fetched" in refused(promote(run, tracker), tracker, 4)


def test_a_version_that_is_gone(run: Path, tracker: MemoryTracker) -> None:
    tracker.registry.known.clear()
    assert "version 1 of digits-cnn-int8 is gone" in refused(promote(run, tracker), tracker, 4)


@pytest.mark.parametrize("key", ["record", "int8_sha256"])
def test_a_version_of_another_store(run: Path, tracker: MemoryTracker, key: str) -> None:
    (version,) = tracker.registry.known
    tracker.registry.tag(version, {key: "another"})
    assert "MLFLOW_REGISTRY_URI" in refused(promote(run, tracker), tracker, 4)


def test_a_version_that_another_run_made(run: Path, tracker: MemoryTracker) -> None:
    (version,) = tracker.registry.known
    tracker.registry.known = [support.replace(version, run="run9")]
    assert "made by run run9" in refused(promote(run, tracker), tracker, 4)


# ── the policy in force ───────────────────────────────────────────────────────────────────


@pytest.fixture
def project(run: Path, tmp_path: Path, once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The policy and the data, to be spoilt."""
    for name in ("policy.yaml", "held_out.npz", "calibration.npz"):
        shutil.copy(once / name, tmp_path / name)
    return tmp_path / "policy.yaml"


def rewrite(policy: Path, **judge: Any) -> None:
    spec = yaml.safe_load(policy.read_text())
    spec["judge"] |= judge
    policy.write_text(yaml.safe_dump(spec))


def test_the_policy_may_have_moved(run: Path, tracker: MemoryTracker, project: Path) -> None:
    assert promote(run, tracker, policy=str(project)).outcome == "moved"


def test_a_policy_that_changed_since(run: Path, tracker: MemoryTracker, project: Path) -> None:
    rewrite(project, confidence=0.99, seed=3)
    told = refused(promote(run, tracker, policy=str(project)), tracker, 2)
    assert "judge.confidence, judge.seed differ" in told
    assert told.endswith("by the policy in force, or name the right file with --policy")


def test_the_policy_that_the_record_names_may_have_changed(run: Path, project: Path) -> None:
    source = load_record(run).policy_source.model_copy(update={"file": str(project), "policy": ""})
    _, tracker = spoilt(run, policy_source=source)
    rewrite(project, confidence=0.99)
    told = refused(promote(run, tracker), tracker, 2)
    assert told.endswith("by the policy in force, or name that with --policy")


def test_how_a_recipe_is_described_is_no_part_of_it(
    run: Path, tracker: MemoryTracker, project: Path
) -> None:
    """Another version of the gate may have other words; that the digests differ is told alone."""
    record = load_record(run)
    recipe = record.policy.build.recipe.model_copy(update={"summary": "in other words"})
    build = record.policy.build.model_copy(update={"recipe": recipe})
    _, tracker = spoilt(
        run,
        policy=record.policy.model_copy(update={"build": build}),
        provenance=record.provenance.model_copy(update={"policy_sha256": "ab" * 32}),
    )
    told = reasons(promote(run, tracker, policy=str(project)))
    assert "judged by: its digest and the record's differ" in told


def test_a_comment_changes_no_policy(run: Path, tracker: MemoryTracker, project: Path) -> None:
    project.write_text("# a comment\n" + project.read_text())
    assert promote(run, tracker, policy=str(project)).outcome == "moved"


def test_a_policy_that_is_not_there_or_none(
    run: Path, tracker: MemoryTracker, project: Path
) -> None:
    told = refused(promote(run, tracker, policy="nowhere.yaml"), tracker, 2)
    assert "name the one in force with --policy" in told
    project.write_text("judge: {}\n")
    refused(promote(run, tracker, policy=str(project)), tracker, 2)


def test_a_record_whose_policy_is_elsewhere_asks_for_it(run: Path) -> None:
    source = load_record(run).policy_source.model_copy(update={"file": "gone/policy.yaml"})
    _, tracker = spoilt(run, policy_source=source)
    told = refused(promote(run, tracker), tracker, 2)
    assert "no policy gone/policy.yaml, which the record names" in told


def test_what_the_candidate_brought_itself_is_no_change_of_policy(run: Path) -> None:
    """A run fills classes in from the candidate's label map; the file leaves them open."""
    record = load_record(run)
    names = tuple(f"digit {number}" for number in range(10))
    build = record.policy.build.model_copy(update={"classes": names})
    policy = record.policy.model_copy(update={"build": build})
    used = record.provenance.model_copy(update={"policy_sha256": digest(policy)})
    fields = {"policy": policy, "provenance": used}
    _, tracker = spoilt(run, **fields)
    assert "build.classes differ" in refused(promote(run, tracker), tracker, 2)
    steps = (*record.candidate.steps, "classes from its label map: digit 0, digit 1")
    candidate = record.candidate.model_copy(update={"steps": steps})
    _, tracker = spoilt(run, candidate=candidate)
    assert promote(run, tracker).outcome == "moved"


def read_by(record: GateRecord, tokenizer: dict[str, Any], *steps: str) -> GateRecord:
    """A record whose policy has a tokenizer, and whose candidate was changed by these steps."""
    before = Preprocess.model_validate({"tokenizer": {"max_length": 8} | tokenizer})
    build = record.policy.build.model_copy(update={"preprocess": before})
    return record.model_copy(
        update={
            "policy": record.policy.model_copy(update={"build": build}),
            "candidate": record.candidate.model_copy(update={"steps": steps}),
        }
    )


@pytest.mark.parametrize(
    ("written", "steps", "expected"),
    [
        ({}, (ADOPTED,), "ab" * 32),
        ({}, (), None),
        ({}, ("opset 13 -> 17",), None),
        ({"sha256": "cd" * 32}, (ADOPTED,), "cd" * 32),
        ({"file": "t.json"}, (ADOPTED,), None),
    ],
)
def test_the_candidates_own_tokenizer_is_no_change_of_policy(
    run: Path, written: dict[str, Any], steps: tuple[str, ...], expected: str | None
) -> None:
    """A run pins what the candidate brings, where the file names no other."""
    record = read_by(load_record(run), {"sha256": "ab" * 32}, *steps)
    now = read_by(load_record(run), written).policy
    before = filled(now, record).build.preprocess
    assert before is not None
    assert before.tokenizer is not None
    assert (before.tokenizer.sha256, before.tokenizer.max_length) == (expected, 8)


def test_without_a_tokenizer_there_is_none_to_adopt(run: Path) -> None:
    record = load_record(run)
    adopted = read_by(record, {}, ADOPTED)
    assert filled(record.policy, adopted) == record.policy
    without = adopted.model_copy(update={"policy": record.policy})
    assert filled(adopted.policy, without) == adopted.policy


def test_the_words_of_adoption_are_those_that_promotion_looks_for(
    once: Path, tmp_path: Path
) -> None:
    from gate import adoption
    from gate.commands import _promote_policy as policies

    loaded = load_policy(once / "policy.yaml")
    filled, steps = adoption.adopted(loaded, name="c", classes=("a", "b"), tokenizer=None)
    assert policies._OWN_CLASSES in steps[0]
    assert filled.policy.build.classes == ("a", "b")
    assert policies._OWN_TOKENIZER in Path(adoption.__file__).read_text()


# ── the held-out data ─────────────────────────────────────────────────────────────────────


def test_unpinned_data_that_changed(run: Path, tracker: MemoryTracker, project: Path) -> None:
    with np.load(project.with_name("held_out.npz")) as archive:
        columns = dict(archive)
    np.savez(project.with_name("held_out.npz"), **{k: v[1:] for k, v in columns.items()})
    told = refused(promote(run, tracker, policy=str(project)), tracker, 2)
    assert "is not the held-out set of record" in told


def test_unpinned_data_that_are_gone(run: Path, tracker: MemoryTracker, project: Path) -> None:
    project.with_name("held_out.npz").unlink()
    told = refused(promote(run, tracker, policy=str(project)), tracker, 2)
    assert "pin them in the policy" in told


def test_a_pin_of_the_content_needs_no_data(run: Path, project: Path) -> None:
    record = load_record(run)
    pin = {"path": "held_out.npz", "sha256": record.splits.held_out.sha256}
    rewrite(project, held_out=pin)
    held_out = record.policy.judge.held_out.model_copy(update={"sha256": pin["sha256"]})
    _, tracker = spoilt(run, **with_policy(record, held_out=held_out))
    project.with_name("held_out.npz").unlink()
    assert promote(run, tracker, policy=str(project)).outcome == "moved"


def test_a_pin_of_other_data(run: Path, tracker: MemoryTracker, project: Path) -> None:
    rewrite(project, held_out={"path": "held_out.npz", "sha256": "ab" * 32})
    told = refused(promote(run, tracker, policy=str(project)), tracker, 2)
    assert "pins held-out data abababababab…" in told


# ── stale ─────────────────────────────────────────────────────────────────────────────────


def test_an_old_verdict(run: Path, tracker: MemoryTracker) -> None:
    later = support.now() + timedelta(days=31)
    told = refused(promote(run, tracker, now=later), tracker, 2)
    assert "31 days ago, and a verdict counts for 30 days" in told
    assert promote(run, tracker, now=later, max_age=40).outcome == "moved"


def test_a_record_of_the_future_tells_both_clocks(run: Path, tracker: MemoryTracker) -> None:
    created = load_record(run).created
    earlier = created - timedelta(minutes=6)
    told = refused(promote(run, tracker, now=earlier), tracker, 2)
    assert f"{created:%Y-%m-%d %H:%M}" in told
    assert f"{earlier:%Y-%m-%d %H:%M}" in told
    assert promote(run, tracker, now=created - timedelta(minutes=4)).outcome == "moved"


def test_an_age_is_told_in_days(run: Path, tracker: MemoryTracker) -> None:
    created = load_record(run).created
    edge, beyond = created + timedelta(days=1), created + timedelta(days=1, seconds=1)
    assert "counts for 1 day:" in refused(promote(run, tracker, now=beyond, max_age=1), tracker, 2)
    assert "counts for 0.5 days:" in reasons(promote(run, tracker, now=edge, max_age=0.5))
    assert promote(run, tracker, now=edge, max_age=1, dry_run=True).outcome == "would move"


def test_clocks_may_be_five_minutes_apart(run: Path, tracker: MemoryTracker) -> None:
    created = load_record(run).created
    before = created - timedelta(minutes=5, microseconds=1)
    assert "made in the future" in reasons(promote(run, tracker, now=before))
    assert not reasons(promote(run, tracker, now=created - timedelta(minutes=5), dry_run=True))


def test_a_time_without_a_zone_is_no_time(run: Path) -> None:
    _, tracker = spoilt(run, created=datetime(2026, 1, 1))
    told = refused(promote(run, tracker), tracker, 4)
    assert "its time has no zone, so nobody can tell how old it is" in told


def test_a_newer_version_is_not_replaced(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    tracker.log(another(run, tmp_path / "newer", hours=0.01), tmp_path / "newer")
    promote(tmp_path / "newer", tracker)
    found = promote(run, tracker)
    assert found.exit_code == 2
    assert "names version 2 already" in reasons(found)
    assert tracker.registry.aliases == {"production": "2"}


@pytest.mark.parametrize("outcome", ["fail", "inconclusive", "waived"])
def test_a_later_run_of_the_same_artifact_that_did_not_pass(
    run: Path, tracker: MemoryTracker, outcome: str
) -> None:
    (mine,) = tracker.runs
    later = mine.when + timedelta(hours=1)
    tags = {**mine.tags, "record": "later"}
    tracker.runs.append(
        support.replace(mine, run="run2", when=later, outcome=outcome, tags=tags, version=None)
    )
    assert f"came to {outcome.upper()}" in refused(promote(run, tracker), tracker, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"stage": "pr"},
        {"outcome": "incomplete"},
        {"outcome": "error"},
        {"tags": {}},
        {"when": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
    ids=["pull request", "incomplete", "error", "other artifact", "earlier"],
)
def test_other_runs_stand_against_nothing(
    run: Path, tracker: MemoryTracker, fields: dict[str, Any]
) -> None:
    (mine,) = tracker.runs
    later = {"when": mine.when + timedelta(hours=1), "outcome": "fail", "run": "run2"}
    tags = {"tags": {**mine.tags, "record": "later"}}
    tracker.runs.append(support.replace(mine, **(later | tags | fields)))
    assert promote(run, tracker).outcome == "moved"


def test_a_later_version_counts_as_later_whatever_its_clock_said(
    run: Path, tracker: MemoryTracker
) -> None:
    (mine,) = tracker.runs
    earlier = mine.when - timedelta(hours=1)
    tags = {**mine.tags, "record": "later"}
    tracker.runs.append(
        support.replace(mine, run="run2", when=earlier, outcome="fail", tags=tags, version="2")
    )
    assert "came to FAIL" in refused(promote(run, tracker), tracker, 2)


def test_what_was_rolled_back_stays_back(run: Path, tracker: MemoryTracker) -> None:
    (version,) = tracker.registry.known
    tracker.registry.tag(version, {"rolled_back": "2026-03-01 by ann"})
    told = refused(promote(run, tracker), tracker, 2)
    assert "version 1 was rolled back (2026-03-01 by ann)" in told


def production(version: str) -> ReleaseInfo:
    return ReleaseInfo(
        against="production",
        name=support.NAME,
        version=version,
        record="r",
        run="run0",
        int8_sha256="ab" * 32,
        bytes=1,
        rows="stored",
    )


@pytest.mark.parametrize(("named", "told"), [(None, "no version"), ("1", "version 1")])
def test_production_moved_on_since_the_verdict(
    run: Path, tmp_path: Path, named: str | None, told: str
) -> None:
    tracker = MemoryTracker()
    tracker.log(another(run, tmp_path / "older", hours=-1), tmp_path / "older")
    tracker.log(changed(run, releases=(production("9"),)), run)
    tracker.registry.aliases |= {"production": named} if named else {}
    found = promote(run, tracker)
    assert found.exit_code == 2
    assert f"was version 9 of digits-cnn-int8, and it is {told} by now" in reasons(found)
    assert tracker.registry.aliases.get("production") == named


def test_production_as_it_was_judged_against(run: Path, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.log(another(run, tmp_path / "older", hours=-1), tmp_path / "older")
    tracker.log(changed(run, releases=(production("1"),)), run)
    tracker.registry.aliases["production"] = "1"
    assert promote(run, tracker).outcome == "moved"


def test_an_anchor_may_have_moved_on(run: Path) -> None:
    anchor = production("9").model_copy(update={"against": "anchor"})
    _, tracker = spoilt(run, releases=(anchor,))
    assert promote(run, tracker).outcome == "moved"


def first(run: Path, tmp_path: Path) -> MemoryTracker:
    """A first release, judged while there was no production, beside another one."""
    tracker = MemoryTracker()
    tracker.log(another(run, tmp_path / "older", hours=-1), tmp_path / "older")
    policy = load_policy(tmp_path / "policy.yaml").policy
    record = load_record(run)
    sha256 = record.provenance.model_copy(update={"policy_sha256": digest(policy)})
    tracker.log(changed(run, policy=policy, provenance=sha256, bootstrap=True), run)
    return tracker


@pytest.fixture
def against_production(once: Path, tmp_path: Path) -> Path:
    """A policy with a budget against production."""
    file = tmp_path / "policy.yaml"
    spec = yaml.safe_load((once / "policy.yaml").read_text())
    own = spec["judge"]["budgets"]
    spec["judge"]["budgets"] = [*own, {**own[0], "against": "production"}]
    file.write_text(yaml.safe_dump(spec))
    return file


def test_a_first_release_is_none_where_production_exists_by_now(
    run: Path, tmp_path: Path, against_production: Path
) -> None:
    tracker = first(run, tmp_path)
    tracker.registry.aliases["production"] = "1"
    found = promote(run, tracker, policy=str(against_production))
    told = "judged as a first release (`--bootstrap`), and production is version 1"
    assert told in reasons(found)
    assert tracker.registry.aliases["production"] == "1"


def test_a_first_release_that_no_budget_holds_against_production_is_no_matter(
    run: Path, tmp_path: Path
) -> None:
    tracker = MemoryTracker()
    tracker.log(another(run, tmp_path / "older", hours=-1), tmp_path / "older")
    tracker.log(changed(run, bootstrap=True), run)
    tracker.registry.aliases["production"] = "1"
    assert promote(run, tracker).outcome == "moved"


@pytest.mark.parametrize("named", [None, "2"])
def test_a_first_release_is_one_where_production_is_none_or_itself(
    run: Path, tmp_path: Path, against_production: Path, named: str | None
) -> None:
    tracker = first(run, tmp_path)
    tracker.registry.aliases |= {"production": named} if named else {}
    told = reasons(promote(run, tracker, alias="canary", policy=str(against_production)))
    assert "first release" not in told


def test_what_is_in_production_may_have_another_name_too(run: Path, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.log(another(run, tmp_path / "older", hours=-1), tmp_path / "older")
    tracker.log(changed(run, releases=(production("1"),)), run)
    tracker.registry.aliases["production"] = "2"
    assert promote(run, tracker, alias="canary").outcome == "moved"


# ── moved by hand ─────────────────────────────────────────────────────────────────────────


def test_a_bad_release_that_somebody_aliased_by_hand_is_not_nothing_to_do(
    run: Path, tracker: MemoryTracker
) -> None:
    tracker.registry.aliases["production"] = "1"
    assert promote(run, tracker).outcome == "already there"
    changed(run, durations={})
    found = promote(run, tracker)
    assert (found.outcome, found.exit_code) == ("refused", 4)


# ── all at once, and on the command line ──────────────────────────────────────────────────


def test_every_reason_is_told_and_the_worst_is_the_exit_code(
    run: Path, tracker: MemoryTracker, project: Path
) -> None:
    rewrite(project, confidence=0.99)
    (run / "model.int8.onnx").unlink()
    later = support.now() + timedelta(days=50)
    found = promote(run, tracker, policy=str(project), now=later)
    assert len(found.reasons) == 3
    assert found.exit_code == 4
    lines = [line for line in render_promotion(found).splitlines() if line.startswith("- ")]
    assert len(lines) == 3


def test_the_command_line_tells_refusals_on_standard_error(
    run: Path,
    tracker: MemoryTracker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    support.plug(tracker, monkeypatch)
    arguments = ["promote", str(run), "--tracker", "memory"]
    assert exit_code_of([*arguments, "--policy", "nowhere.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("NOT PROMOTED")
    assert exit_code_of([*arguments, "--dry-run"]) == 0
    assert "WOULD PROMOTE" in capsys.readouterr().out
    assert exit_code_of(arguments) == 0
    assert "PROMOTED" in capsys.readouterr().out


def test_scripts_are_told_every_check(
    run: Path,
    tracker: MemoryTracker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    support.plug(tracker, monkeypatch)
    arguments = ["promote", str(run), "--tracker", "memory", "--format", "json"]
    assert exit_code_of([*arguments, "--policy", "nowhere.yaml"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["exit_code"], told["move"]) == ("refused", 2, None)
    against = [check["what"] for check in told["checks"] if check["reasons"]]
    assert against == ["policy in force", "held-out data as they were judged on"]
    assert exit_code_of([*arguments, "--by", "änn"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["exit_code"], told["version"]) == ("moved", 0, "1")
    assert told["move"]["who"] == "änn"
    assert datetime.fromisoformat(told["move"]["when"]) == tracker.registry.entries[0].when


@pytest.mark.parametrize("age", ["nan", "0", "-1", "1e12"])
def test_an_age_that_is_none(run: Path, age: str) -> None:
    assert exit_code_of(["promote", str(run), "--max-age", age, "--tracker", "none"]) == 2


@pytest.mark.parametrize("age", [0.0, -1.0, 36_500.1, float("nan")])
def test_no_age_from_python_either(run: Path, tracker: MemoryTracker, age: float) -> None:
    with pytest.raises(UsageError, match="is no number of days from 0 to 36,500"):
        promote(run, tracker, max_age=age)
    assert promote(run, tracker, max_age=36_500).outcome == "moved"


def test_a_tracker_without_a_registry(run: Path) -> None:
    from gate.trackers import get

    with pytest.raises(UsageError, match="registers no releases"):
        promote(run, get("none"))


# ── who ───────────────────────────────────────────────────────────────────────────────────


def test_who_is_told_by_name_by_github_or_by_the_machine() -> None:
    actions = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "ann",
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "org/repo",
        "GITHUB_RUN_ID": "42",
    }
    assert who("bob", actions) == "bob"
    assert who(None, actions) == "ann (https://github.example/org/repo/actions/runs/42)"
    assert "@" in who(None, {"GITHUB_ACTOR": "ann"})
    assert "\n" not in who("a\nb", os.environ)


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found"), OSError("no login")])
def test_a_container_without_a_login_name_has_a_number(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nobody)
    assert who(None, {}) == f"uid {os.getuid()}@{socket.gethostname()}"


@pytest.mark.parametrize(
    "missing", ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_ACTIONS"]
)
def test_what_github_does_not_say_is_not_made_up(missing: str) -> None:
    said = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "ann",
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "org/repo",
        "GITHUB_RUN_ID": "42",
    }
    told = {
        "GITHUB_SERVER_URL": "ann (https://github.com/org/repo/actions/runs/42)",
        "GITHUB_REPOSITORY": "ann (https://github.example/?/actions/runs/42)",
        "GITHUB_RUN_ID": "ann (https://github.example/org/repo/actions/runs/?)",
        "GITHUB_ACTIONS": f"{getpass.getuser()}@{socket.gethostname()}",
    }
    assert who(None, {key: said[key] for key in said if key != missing}) == told[missing]


def test_long_names_and_reasons_are_cut() -> None:
    assert 290 < len(who("x" * 900)) <= 300
    assert 290 < len(who(None, {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "x" * 900})) <= 300


@pytest.mark.parametrize("given", ["", " ", "\n"])
def test_nobody_is_no_name_and_nothing_is_no_reason(
    run: Path, tracker: MemoryTracker, given: str
) -> None:
    found = promote(run, tracker, by=given, why=given)
    assert found.move is not None
    assert "@" in found.move.who
    assert found.move.why.startswith("PASS: ")


def test_names_that_no_file_can_have(run: Path, tracker: MemoryTracker) -> None:
    name = "x" * 5000
    assert "there is no policy x" in reasons(promote(run, tracker, policy=name))
    with pytest.raises(UsageError, match="does not exist"):
        promote(Path(name), tracker)


# ── signed ────────────────────────────────────────────────────────────────────────────────


def test_a_signature_that_is_asked_for_has_to_be_there_and_of_this_key(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    private, public = save_pair(tmp_path)
    _, other = save_pair(tmp_path, "other")
    told = refused(promote(run, tracker, require_signature=public), tracker, 4)
    assert "`gate sign` makes one" in told
    sign(run, private)
    told = refused(promote(run, tracker, require_signature=other), tracker, 4)
    assert "nobody who is trusted here says so" in told
    found = promote(run, tracker, require_signature=public)
    assert (found.outcome, found.exit_code) == ("moved", 0)
    assert "signed by the key that is trusted" in [check.what for check in found.checks]


def test_an_alias_that_is_there_already_needs_the_signature_too(
    run: Path, tracker: MemoryTracker, tmp_path: Path
) -> None:
    _, public = save_pair(tmp_path)
    assert promote(run, tracker).outcome == "moved"
    assert promote(run, tracker, require_signature=public).exit_code == 4


def test_a_key_that_is_not_there_is_told(run: Path, tracker: MemoryTracker, tmp_path: Path) -> None:
    sign(run, save_pair(tmp_path)[0])
    with pytest.raises(UsageError, match="cannot be read"):
        promote(run, tracker, require_signature=tmp_path / "none.pem")
    assert not tracker.registry.entries
