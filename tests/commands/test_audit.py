"""What no PASS backs is found: moved by hand, gone, changed, cut short."""

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from support import registry as support
from support.registry import MODEL, NAME, MemoryTracker, another

from gate.cli import exit_code_of
from gate.commands.audit import BLIND, Audit, audit, render
from gate.commands.promote import promote
from gate.commands.rollback import rollback
from gate.errors import TrackerError, UsageError
from gate.registered import Version


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.made(tmp_path_factory.mktemp("audit") / "project").folder / "run"


@pytest.fixture
def tracker(once: Path, tmp_path: Path) -> MemoryTracker:
    """Two releases that passed, promoted one after the other."""
    made = MemoryTracker()
    for hours in (-2, -1):
        folder = tmp_path / f"release{hours}"
        made.log(another(once, folder, hours=hours), folder)
        promote(folder, made)
    return made


def faults(found: Audit, alias: str = "production") -> str:
    """What stands against an alias."""
    (one,) = [one for one in found.aliases if one.alias == alias]
    return "\n".join(one.faults)


def test_what_the_gate_did_is_backed(tracker: MemoryTracker) -> None:
    found = audit(MODEL, tracker)
    assert (found.backed, found.exit_code) == (True, 0)
    assert [one.alias for one in found.aliases] == ["production"]
    assert [moved.move.version for moved in found.moves] == ["1", "2"]
    assert BLIND in render(found, "text")


def test_a_rollback_is_backed(tracker: MemoryTracker) -> None:
    rollback(MODEL, tracker)
    assert audit(MODEL, tracker).exit_code == 0


def test_an_alias_moved_by_hand(tracker: MemoryTracker) -> None:
    tracker.registry.aliases["production"] = "1"
    found = audit(MODEL, tracker)
    assert found.exit_code == 1
    assert "moved by hand: the gate moved it to version 2 last" in faults(found)


def test_a_move_by_hand_that_the_gate_found_when_it_moved_the_alias_on(
    tracker: MemoryTracker, once: Path, tmp_path: Path
) -> None:
    tracker.registry.aliases["production"] = "1"
    tracker.log(another(once, tmp_path / "newer", hours=0), tmp_path / "newer")
    assert promote(tmp_path / "newer", tracker).outcome == "moved"
    found = audit(MODEL, tracker)
    assert found.exit_code == 1
    assert faults(found) == ""
    told = "moved by hand before it: the gate had left the alias at version 2, and found it at "
    assert [f"{told}version 1" in moved.faults for moved in found.moves] == [False, False, True]


def test_an_alias_made_by_hand(tracker: MemoryTracker) -> None:
    tracker.registry.aliases["canary"] = "2"
    found = audit(MODEL, tracker)
    assert "the gate completed no move of it" in faults(found, "canary")
    assert faults(found) == ""


def test_an_alias_removed_by_hand(tracker: MemoryTracker) -> None:
    del tracker.registry.aliases["production"]
    assert "it is gone: the gate moved it to version 2" in faults(audit(MODEL, tracker))


def test_a_version_that_no_gate_registered(tracker: MemoryTracker) -> None:
    own = tracker.registry.known[0]
    tracker.registry.known.append(
        Version(NAME, "3", own.created, "", "elsewhere", MappingProxyType({}))
    )
    tracker.registry.aliases["production"] = "3"
    assert "no gate registered it" in faults(audit(MODEL, tracker))


def test_a_version_that_was_rolled_back_and_put_back_by_hand(tracker: MemoryTracker) -> None:
    rollback(MODEL, tracker)
    tracker.registry.aliases["production"] = "2"
    told = faults(audit(MODEL, tracker))
    assert "moved by hand" in told
    assert "version 2 was rolled back" in told


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda tracker: tracker.records.pop("run2"), "gone from the tracker"),
        (lambda tracker: tracker.records.update(run2="{}"), "does not fit the record's schema"),
        (lambda tracker: tracker.runs.pop(), "is gone from the tracker"),
        (lambda tracker: tracker.registry.files["2"].unlink(), "cannot be fetched"),
        (lambda tracker: (tracker.folders["run2"] / "rows.npz").unlink(), "rows.npz of run"),
        (
            lambda tracker: (tracker.folders["run2"] / "rows.npz").write_bytes(b"other"),
            "in the tracker was changed",
        ),
        (
            lambda tracker: tracker.registry.files["2"].write_bytes(b"other"),
            "the artifact of models:/digits-cnn-int8/2 changed",
        ),
        (
            lambda tracker: tracker.runs.__setitem__(1, replace(tracker.runs[1], outcome="fail")),
            "its run says fail, and its record pass",
        ),
        (
            lambda tracker: tracker.records.update(
                run2=tracker.records["run2"].replace('"outcome":"pass"', '"outcome":"waived"')
            ),
            "not what its own numbers give",
        ),
    ],
    ids=["gone", "damaged", "run", "files", "rows", "other rows", "artifact", "outcome", "edited"],
)
def test_what_backed_it_is_no_more(tracker: MemoryTracker, spoil, told: str) -> None:
    spoil(tracker)
    found = audit(MODEL, tracker)
    assert found.exit_code == 1
    assert told in faults(found)
    older, newer = found.moves
    assert older.faults == ()
    assert told in "\n".join(newer.faults)


def test_a_version_that_is_gone(tracker: MemoryTracker) -> None:
    tracker.registry.known.pop(0)
    found = audit(MODEL, tracker)
    assert found.moves[0].faults == ("version 1 is gone from the registry",)
    assert faults(found) == ""


def test_an_entry_that_tells_of_another_artifact(tracker: MemoryTracker) -> None:
    tracker.registry.entries[0] = replace(tracker.registry.entries[0], int8_sha256="ab")
    (told,) = audit(MODEL, tracker).moves[0].faults
    assert "written down for int8_sha256 ab" in told


@pytest.mark.parametrize("after", ["intention", "alias"])
def test_an_entry_that_was_cut_short(tracker: MemoryTracker, after: str) -> None:
    tracker.registry.break_after = after
    with pytest.raises(TrackerError):
        rollback(MODEL, tracker)
    found = audit(MODEL, tracker)
    assert found.exit_code == 1
    assert "cut short" in "\n".join(found.moves[-1].faults)
    rollback(MODEL, tracker)
    assert audit(MODEL, tracker).exit_code == 0


def test_an_intention_that_came_to_nothing_and_was_followed_by_another(
    tracker: MemoryTracker, once: Path, tmp_path: Path
) -> None:
    tracker.registry.break_after = "intention"
    with pytest.raises(TrackerError):
        rollback(MODEL, tracker)
    tracker.log(another(once, tmp_path / "newer", hours=0), tmp_path / "newer")
    promote(tmp_path / "newer", tracker)
    found = audit(MODEL, tracker)
    assert found.exit_code == 0
    assert [moved.done for moved in found.moves] == [True, True, False, True]
    assert "(cut short, and never done)" in render(found, "text")


def test_json_tells_everything(tracker: MemoryTracker) -> None:
    tracker.registry.aliases["production"] = "1"
    told = json.loads(render(audit(MODEL, tracker), "json"))
    assert (told["model"], told["registered"], told["backed"]) == (MODEL, NAME, False)
    assert told["exit_code"] == 1
    assert told["aliases"][0]["faults"]
    assert [move["version"] for move in told["moves"]] == ["1", "2"]
    assert told["cannot_see"] == BLIND


def test_a_model_that_does_not_exist(tracker: MemoryTracker) -> None:
    with pytest.raises(UsageError, match="Known: digits-cnn"):
        audit("digits", tracker)


def test_on_the_command_line(
    tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    support.plug(tracker, monkeypatch)
    assert exit_code_of(["audit", MODEL, "--tracker", "memory"]) == 0
    assert capsys.readouterr().out.startswith("BACKED  digits-cnn-int8: 1 alias, 2 moves, 0 not")
    tracker.registry.aliases["production"] = "1"
    assert exit_code_of(["audit", MODEL, "--tracker", "memory", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["backed"] is False
