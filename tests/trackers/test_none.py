from pathlib import Path

from gate.trackers.none import TRACKER


def test_it_keeps_nothing(tmp_path: Path, kept) -> None:
    record, folder = kept()
    before = sorted(folder.rglob("*"))
    TRACKER.prepare()
    TRACKER.log_error(record.model, stage="pr", source="s", error="e")
    assert TRACKER.log(record, folder) == ""
    assert (TRACKER.past(record.model), TRACKER.models(), TRACKER.record("")) == ((), (), None)
    assert sorted(folder.rglob("*")) == before


def test_it_says_so() -> None:
    assert TRACKER.where() == "nowhere (--tracker none)"
