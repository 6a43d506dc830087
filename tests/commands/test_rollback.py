"""An alias goes back to the last release that passed, and to nothing that changed since."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import registry as support
from support.registry import MODEL, MemoryTracker, another

from gate.cli import exit_code_of
from gate.commands._promote_text import render_rollback
from gate.commands.promote import promote
from gate.commands.report import load_record
from gate.commands.rollback import rollback
from gate.errors import ReleaseError, TrackerError, UsageError


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.made(tmp_path_factory.mktemp("rollback") / "project").folder / "run"


@pytest.fixture
def tracker(once: Path, tmp_path: Path) -> MemoryTracker:
    """Three releases that passed, promoted one after the other."""
    made = MemoryTracker()
    for hours in (-3, -2, -1):
        folder = tmp_path / f"release{hours}"
        made.log(another(once, folder, hours=hours), folder)
        promote(folder, made)
    return made


def test_back_to_the_version_before(tracker: MemoryTracker) -> None:
    found = rollback(MODEL, tracker, by="ann", why="wrong on invoices")
    assert tracker.registry.aliases == {"production": "2"}
    assert (found.move.previous, found.move.version, found.outcome) == ("3", "2", "moved")
    assert render_rollback(found) == (
        "ROLLED BACK  digits-cnn-int8: production from version 3 to version 2\n"
        "  by ann: wrong on invoices\n"
        "  Version 3 is marked as rolled back, and is not promoted again: what takes its place is "
        "a new release.\n"
    )
    entry = tracker.registry.entries[-1]
    assert (entry.kind, entry.who, entry.complete) == ("rollback", "ann", True)
    assert entry.record == tracker.registry.known[1].tags["record"]
    assert "by ann: wrong on invoices" in tracker.registry.known[2].tags["rolled_back"]


def test_twice_goes_back_twice(tracker: MemoryTracker) -> None:
    rollback(MODEL, tracker)
    rollback(MODEL, tracker)
    assert tracker.registry.aliases == {"production": "1"}


def test_what_was_rolled_back_is_not_promoted_again(tracker: MemoryTracker, tmp_path: Path) -> None:
    rollback(MODEL, tracker)
    assert promote(tmp_path / "release-1", tracker).exit_code == 2
    assert tracker.registry.aliases == {"production": "2"}


def test_a_dry_run_moves_nothing(tracker: MemoryTracker) -> None:
    found = rollback(MODEL, tracker, dry_run=True)
    assert found.outcome == "would move"
    assert "production from version 3 to version 2" in render_rollback(found)
    assert "is marked as rolled back" not in render_rollback(found)
    assert tracker.registry.aliases == {"production": "3"}
    assert "rolled_back" not in tracker.registry.known[2].tags


def test_an_artifact_that_changed_is_skipped_aloud(tracker: MemoryTracker) -> None:
    with tracker.registry.files["2"].open("ab") as stream:
        stream.write(b"\0")
    found = rollback(MODEL, tracker)
    assert tracker.registry.aliases == {"production": "1"}
    assert "skipped version 2: the artifact of models:/digits-cnn-int8/2 changed" in (
        render_rollback(found)
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda tracker: tracker.records.pop("run2"), "gone from the tracker"),
        (lambda tracker: tracker.runs.pop(1), "is gone from the tracker"),
        (lambda tracker: tracker.registry.files["2"].unlink(), "cannot be fetched"),
        (
            lambda tracker: tracker.registry.tag(tracker.registry.known[1], {"record": "x"}),
            "its record x is gone",
        ),
        (
            lambda tracker: tracker.registry.tag(tracker.registry.known[1], {"int8_sha256": "x"}),
            "says int8_sha256 x",
        ),
        (
            lambda tracker: tracker.registry.tag(tracker.registry.known[1], {"rolled_back": "x"}),
            "rolled back itself",
        ),
        (
            lambda tracker: tracker.runs.__setitem__(
                1, replace(tracker.runs[1], outcome="incomplete")
            ),
            "is incomplete",
        ),
    ],
    ids=["record", "run", "files", "other record", "other hash", "rolled back", "incomplete"],
)
def test_what_no_pass_backs_is_skipped(tracker: MemoryTracker, spoil, told: str) -> None:
    spoil(tracker)
    found = rollback(MODEL, tracker)
    assert tracker.registry.aliases == {"production": "1"}
    assert told in render_rollback(found)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("stage", "pr", "of stage pr"),
        ("ledger", "none", "nothing counted"),
    ],
)
def test_a_record_that_is_no_release_is_skipped(
    tracker: MemoryTracker, field: str, value: str, told: str, tmp_path: Path
) -> None:
    record = support.changed(tmp_path / "release-2", **{field: value})
    tracker.records["run2"] = record.model_dump_json()
    assert told in render_rollback(rollback(MODEL, tracker))
    assert tracker.registry.aliases == {"production": "1"}


def test_an_edited_record_is_skipped(tracker: MemoryTracker) -> None:
    tracker.records["run2"] = tracker.records["run2"].replace(
        '"outcome":"pass"', '"outcome":"fail"'
    )
    rollback(MODEL, tracker)
    assert tracker.registry.aliases == {"production": "1"}


def test_nothing_to_go_back_to(tracker: MemoryTracker) -> None:
    for number in ("1", "2"):
        tracker.registry.files[number].unlink()
    with pytest.raises(ReleaseError, match=r"(?s)nothing to roll .* to.*version 2: .*version 1: "):
        rollback(MODEL, tracker)
    assert tracker.registry.aliases == {"production": "3"}


def test_a_first_release_has_nothing_before_it(once: Path, tmp_path: Path) -> None:
    tracker = MemoryTracker()
    folder = Path(shutil.copytree(once, tmp_path / "only"))
    tracker.log(load_record(folder), folder)
    promote(folder, tracker)
    with pytest.raises(ReleaseError, match="production names and keeps naming"):
        rollback(MODEL, tracker)


def test_an_alias_that_does_not_exist(tracker: MemoryTracker) -> None:
    with pytest.raises(ReleaseError, match=r"no alias 'canary' .* its aliases are production"):
        rollback(MODEL, tracker, alias="canary")


def test_a_model_that_does_not_exist(tracker: MemoryTracker) -> None:
    with pytest.raises(UsageError, match="Known: digits-cnn"):
        rollback("digits", tracker)


@pytest.mark.parametrize("after", ["intention", "alias", "move"])
def test_what_was_cut_short_is_completed_and_goes_no_further(
    tracker: MemoryTracker, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object) -> None:
        raise TrackerError("the store died")

    with monkeypatch.context() as patch:
        if after == "move":
            patch.setattr(tracker.registry, "tag", dead)
        tracker.registry.break_after = after
        with pytest.raises(TrackerError):
            rollback(MODEL, tracker)
    tracker.registry.break_after = None
    found = rollback(MODEL, tracker)
    assert found.outcome == ("moved" if after == "intention" else "completed")
    completed = "This rollback had been cut short, and is complete now; nothing else moved."
    assert (completed in render_rollback(found)) == (after != "intention")
    assert tracker.registry.aliases == {"production": "2"}
    assert "rolled_back" in tracker.registry.known[2].tags
    assert all(entry.complete for entry in tracker.registry.entries)


def test_on_the_command_line(
    tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    support.plug(tracker, monkeypatch)
    assert exit_code_of(["rollback", MODEL, "--tracker", "memory", "--why", "slow"]) == 0
    assert capsys.readouterr().out.startswith("ROLLED BACK  digits-cnn-int8: production from ver")
    assert exit_code_of(["rollback", MODEL, "--tracker", "memory", "--alias", "x"]) == 4
