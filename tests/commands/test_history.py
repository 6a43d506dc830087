import json
from pathlib import Path
from typing import Any

import pytest
from support.releases import METRIC, Memory, Releases, bridge, move, past

from gate import trackers
from gate.commands import history as module
from gate.commands._history_series import Asked
from gate.commands.history import command, histories, history, show
from gate.errors import UsageError

NOTHING = {"metric": None, "slice_": None, "format_": "text", "out": None}


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        history(Memory(cnn=[past()], other=[past()]), "cmn")
    assert "no run of 'cmn' is kept. Did you mean 'cnn'? Known: cnn, other" in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_empty_store_says_how_to_begin() -> None:
    with pytest.raises(UsageError, match="No model has runs yet: begin with `gate run`"):
        history(Memory(), "cnn")
    with pytest.raises(UsageError, match="No model has runs yet: begin with `gate run`"):
        histories(Memory())


def test_the_version_in_production_is_marked() -> None:
    line = history(Memory(Releases("2"), cnn=[past(3), past(2), past(1)]), "cnn")
    assert [entry.is_production for entry in line.entries] == [False, True, False]
    assert "2 ★" in show(Memory(Releases("2"), cnn=[past(2)]), "cnn")


def test_moves_stand_between_the_runs() -> None:
    moves = [move(1.5, "1"), move(2.5, "2", "1", kind="rollback", complete=False)]
    text = show(Memory(Releases(moves=moves), cnn=[past(2), past(1)]), "cnn")
    first, second = text.index("version 1, promoted by ann"), text.index("1 → 2, rolled back by")
    assert text.index(" 13:00  ") < first < text.index(" 14:00  ") < second
    assert "cut short" in text


def test_without_a_registry_nothing_is_in_production() -> None:
    assert history(Memory(cnn=[past()]), "cnn").past.production is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Asked("acuracy"), "Did you mean 'accuracy'? Known: accuracy, accuracy.max_drop"),
        (Asked(slice="site=nort"), "Did you mean 'site=north'? Known: site=north"),
        (Asked("size", "site=north"), "no run has --metric size at --slice site=north"),
    ],
)
def test_what_no_run_has_lists_what_there_is(asked: Asked, told: str) -> None:
    runs = [past(numbers={"accuracy/site=north/int8": 0.9, "size/int8": 3.0, "seconds/run": 1.0})]
    with pytest.raises(UsageError) as caught:
        history(Memory(cnn=runs), "cnn", asked)
    assert told in str(caught.value)
    assert "seconds" not in str(caught.value)


def test_models_come_worst_first_and_none_is_left_out() -> None:
    tracker = Memory(
        healthy=[past(1, int8=0.9609)],
        narrow=[past(1, int8=0.9515)],
        failing=[past(2, "fail"), past(1)],
        broken=[past(1, "error", numbers={}, version=None)],
        cut=[past(1, "incomplete")],
        empty=[],
    )
    order = [line.model for line in histories(tracker)]
    assert order == ["broken", "failing", "cut", "narrow", "healthy", "empty"]
    assert "empty: no run is kept" in show(tracker)


def test_a_model_stands_by_its_newest_release_not_by_a_pull_request() -> None:
    runs = [past(3, "fail", stage="pr"), past(2), past(1)]
    newest = history(Memory(cnn=runs), "cnn").newest
    assert newest is not None
    assert newest.run.run == "run2"


def test_drift_that_eats_its_budget_comes_before_a_narrow_step() -> None:
    drifted = past(
        2,
        numbers={f"{METRIC}@anchor/drop": 0.0149},
        limits={METRIC: 0.01, f"{METRIC}@anchor": 0.015},
    )
    tracker = Memory(drifted=[drifted, past(1)], narrow=[past(1, int8=0.952)])
    assert [line.model for line in histories(tracker)] == ["drifted", "narrow"]


@pytest.mark.parametrize("format_", ["text", "json", "csv", "html"])
@pytest.mark.parametrize("model", ["cnn", None])
def test_every_format_goes_to_a_file(model: str | None, format_: str, tmp_path: Path) -> None:
    tracker, out = Memory(cnn=[past(1)]), tmp_path / "file"
    shown = show(tracker, model, format_=format_)
    assert show(tracker, model, format_=format_, out=out) == f"wrote {out}\n"
    assert out.read_bytes().decode() == shown


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        show(Memory(cnn=[past()]), "cnn", out=tmp_path / "no" / "file")


@pytest.mark.parametrize("words", [["a", "b"], ["import", "a", "b"]])
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="name one model"):
        command(words, "none", **NOTHING)


def test_the_command_gives_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get", lambda key: Memory(cnn=[past()]))
    told, code = command(["cnn"], "memory", **NOTHING | {"format_": "json"})
    assert (json.loads(told)["model"], code) == ("cnn", 0)


def test_the_garbage_collector_is_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    def look(*arguments: Any) -> None:
        assert not gc.isenabled()
        raise UsageError("stop")

    monkeypatch.setattr(module, "history", look)
    with pytest.raises(UsageError):
        show(Memory(), "cnn")
    assert gc.isenabled()


def test_a_bridge_is_told_and_drift_goes_on() -> None:
    runs = [past(2, tags={"held_out": "b" * 64}), past(1)]
    known = bridge("a" * 64, "b" * 64, record="record1", values={"accuracy": 0.969})
    text = show(Memory(Releases(bridges=[known]), cnn=runs), "cnn")
    assert "bridged by bridge-bbbb; drift against the anchor goes on" in text
    assert "+0.0100" in text


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        (Asked(f"{METRIC}[site=north]", "site=south"), False),
        (Asked(f"{METRIC}[each site]", "hour=1"), False),
        (Asked(f"{METRIC}[site=north]", "site=north"), True),
        (Asked(f"{METRIC}[each site]", "site=south"), True),
    ],
)
def test_a_budget_on_a_slice_shows_no_other(asked: Asked, fits: bool) -> None:
    slices = ("site=north", "site=south", "hour=1")
    limits = {f"{METRIC}[site=north]": 0.1, f"{METRIC}[each site]": 0.2}
    runs = [past(numbers={f"{METRIC}/{s}/int8": 0.9 for s in slices}, limits=limits)]
    if fits:
        assert history(Memory(cnn=runs), "cnn", asked).entries[0].value("int8") == 0.9
        return
    with pytest.raises(UsageError, match=r"is about .*site.*, and --slice says"):
        history(Memory(cnn=runs), "cnn", asked)


def test_import_without_a_folder_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get", lambda key: Memory(cnn=[past()]))
    with pytest.raises(UsageError, match="gate history import FOLDER"):
        command(["import"], "memory", **NOTHING)
