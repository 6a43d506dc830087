"""A verdict made durable: folder first, tracker last."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gate import publish
from gate.errors import GateError, RecordError, TrackerError, UsageError
from gate.records import GateRecord
from gate.trackers import PastRun


def test_a_new_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    with publish.claimed(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        publish.claimed(out),
        pytest.raises(UsageError, match="is being written by another run"),
        publish.claimed(out),
    ):
        pytest.fail("claimed twice")
    with publish.claimed(out):
        pass


def test_a_claim_ends_with_what_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), publish.claimed(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    with (
        pytest.raises(UsageError, match=r"not empty \(it holds record\.json\)"),
        publish.claimed(tmp_path),
    ):
        pytest.fail("claimed")
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be written"),
        publish.claimed(tmp_path / "out"),
    ):
        pytest.fail("claimed")


def test_finish_writes_every_report_and_the_record(make_record: Any, tmp_path: Path) -> None:
    record = make_record("fail")
    publish.finish(record, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "junit.xml",
        "record.json",
        "report.html",
        "report.md",
        "report.txt",
    ]
    assert GateRecord.model_validate_json((tmp_path / "record.json").read_text()) == record


def test_the_record_is_written_last(
    make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    honest = Path.replace

    def replace(self: Path, target: Path) -> Path:
        written.append(target.name)
        return honest(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    publish.finish(make_record("pass"), tmp_path)
    assert written[-1] == "record.json"


def test_a_full_disk_leaves_no_record(
    make_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        publish.finish(make_record("pass"), tmp_path)
    assert not (tmp_path / "record.json").exists()


def test_models_are_moved_with_their_external_data(tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    folder.mkdir()
    for name in ("model.fp32.onnx", "model.fp32.onnx.data", "model.int8.onnx", "cleaned.onnx"):
        (scratch / name).write_text(name)
    publish.keep_models(scratch, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "model.fp32.onnx",
        "model.fp32.onnx.data",
        "model.int8.onnx",
    ]


class Broken:
    """A tracker that refuses everything."""

    def log(self, record: Any, folder: Any) -> str:
        raise TrackerError("refused")

    def log_error(self, model: str, **kwargs: Any) -> None:
        raise TrackerError("refused too")


def test_a_refused_record_says_how_to_send_it_later(make_record: Any, tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match=r"refused\n.*does not release.*--track .*record\.json"):
        publish.send(Broken(), make_record("pass"), tmp_path)  # type: ignore[arg-type]


def test_the_first_error_stays_the_one_that_is_told() -> None:
    error = GateError("first")
    told = {"model": "m", "stage": "pr", "source": "s"}
    with pytest.raises(GateError), publish.tracing(Broken(), **told):  # type: ignore[arg-type]
        raise error
    assert str(error) == "first"
    assert "refused too" in error.__notes__[0]


class Dead:
    """A tracker that is not there."""

    def prepare(self) -> None:
        raise TrackerError("nobody home")


class Past:
    """A tracker that remembers."""

    def __init__(self, *outcomes: str) -> None:
        self.runs = [
            PastRun(
                run=f"run-{index}",
                when=datetime(2026, 1, 1, tzinfo=UTC),
                stage="pr",
                outcome=outcome,
                candidate="c",
                version=None,
                metrics={},
                tags={},
            )
            for index, outcome in enumerate(outcomes)
        ]

    def prepare(self) -> None:
        pass

    def past(self, model: str) -> list[PastRun]:
        return self.runs

    def record(self, run: str) -> dict[str, Any]:
        return {"id": run}

    def reserve(self, model: str, *, held_out: str, key: str) -> None:
        raise AssertionError("nothing was asked to be counted")


def test_a_dead_tracker_is_told_and_does_not_stop_the_run() -> None:
    last, unreachable = publish.reach(Dead(), "m")  # type: ignore[arg-type]
    assert last == publish.Known()
    assert str(unreachable) == "nobody home"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), None),
        (("fail", "error", "incomplete", "inconclusive", "waived"), None),
        (("fail", "pass", "pass"), "run-1"),
    ],
)
def test_the_newest_pass_counts(outcomes: tuple[str, ...], expected: str | None) -> None:
    known, unreachable = publish.reach(Past(*outcomes), "m")  # type: ignore[arg-type]
    assert unreachable is None
    assert (known.last and known.last[0].run) == expected


def test_a_damaged_record_of_the_last_pass_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: Past, run: str) -> dict[str, Any]:
        raise RecordError("record.json is damaged")

    monkeypatch.setattr(Past, "record", damaged)
    known, unreachable = publish.reach(Past("pass"), "m")  # type: ignore[arg-type]
    last = known.last
    assert unreachable is None
    assert last is not None
    assert last[0].run == "run-0"
    assert last[1] is None
