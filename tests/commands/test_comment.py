"""One comment for a pull request: worst first, escaped, within GitHub's limits, from any folder."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from gate.cli import exit_code_of
from gate.commands.comment import LIMIT, MARK, Found, gathered, render
from gate.errors import RecordError, UsageError
from gate.exhibits import PastPoint, Waiver
from gate.policy import JudgedFrom
from gate.records import GateRecord, Outcome
from gate.waivers import waive

MakeRecord = Callable[..., GateRecord]
HOSTILE = "</summary><script>alert(1)</script> | `x` @team #1 [a](http://b.c) $(touch pwned) \u202e"


def put(record: GateRecord, folder: Path) -> GateRecord:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json())
    return record


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]


def point(value: float) -> PastPoint:
    return PastPoint(
        when=datetime(2026, 1, 1, tzinfo=UTC), stage="release", outcome="pass", version="1",
        held_out=None, reference=0.97, int8=value, drop=0.0, limit=0.01, drift=None,
    )  # fmt: skip


def test_a_row_a_model_the_worst_first(make_record: MakeRecord, tmp_path: Path) -> None:
    for kind in ("pass", "inconclusive", "fail"):
        put(make_record(kind, model=f"m-{kind}", id=kind), tmp_path / kind / "deep")
    found = gathered([tmp_path])
    text = render(found)
    assert text.startswith(MARK)
    assert [re.findall(r"m-\w+", row)[0] for row in rows(text)] == ["m-fail", "m-inconclusive",
                                                                     "m-pass"]  # fmt: skip
    assert "1 fail, 1 inconclusive, 1 pass" in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert found.exit_code == 1


def test_the_trend_ends_with_this_run(make_record: MakeRecord, tmp_path: Path) -> None:
    past = tuple(map(point, (0.90, 0.95, 0.97)))
    put(make_record("pass", past=past), tmp_path / "a")
    (row,) = rows(render(gathered([tmp_path])))
    assert re.search(r"▁[▁-█]{2}[▁-█] 0\.97", row)


def test_a_strangers_numbers_may_be_anything_finite(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    put(make_record("pass", past=tuple(map(point, (-1.7e308, 1.7e308)))), tmp_path / "a")
    (row,) = rows(render(gathered([tmp_path])))
    assert "▁█" in row


@pytest.mark.parametrize("outcome", ["pass", "waived"])
def test_a_verdict_that_its_own_findings_refute_is_shown_as_no_verdict(
    make_record: MakeRecord, tmp_path: Path, outcome: Outcome
) -> None:
    record = make_record("fail")
    verdict = record.verdict.model_copy(update={"outcome": outcome})
    put(record.model_copy(update={"verdict": verdict}), tmp_path / "a")
    found = gathered([tmp_path])
    assert (found.records, found.exit_code) == ((), 4)
    assert "its own findings do not" in render(found)


def test_who_waived_and_what_is_looser_is_told(make_record: MakeRecord, tmp_path: Path) -> None:
    looser = JudgedFrom(rev="main", commit="a" * 40, policy="p.yaml", looser=("size is looser",))
    put(make_record("pass", judged_from=looser), tmp_path / "a")
    text = render(gathered([tmp_path]))
    assert "LOOSER in this change" in text
    assert "size is looser" in text
    record = make_record("fail")
    budget = record.verdict.findings[0].budget
    one = Waiver(
        model=record.model, budget=budget, reason="the camera goes", who="ann", expires=date.today()
    )
    verdict = waive(record.verdict, [one])
    record = record.model_copy(update={"verdict": verdict, "waivers": (one,)})
    put(record, tmp_path / "b")
    assert "by ann" in render(gathered([tmp_path / "b"]))


def test_one_record_in_two_places_is_one_row(make_record: MakeRecord, tmp_path: Path) -> None:
    put(make_record("pass"), tmp_path / "a")
    put(make_record("pass"), tmp_path / "b")
    assert len(gathered([tmp_path]).records) == 1
    put(make_record("fail"), tmp_path / "c")
    ((_, error),) = gathered([tmp_path]).problems
    assert "another record than the one with the same id" in str(error)


def test_every_word_is_text(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record("fail", id=f"id {HOSTILE}")
    finding = record.verdict.findings[0]
    bad = finding.model_copy(update={"reason": HOSTILE, "budget": HOSTILE})
    verdict = record.verdict.model_copy(update={"findings": (bad, *record.verdict.findings[1:])})
    put(record.model_copy(update={"verdict": verdict, "model": HOSTILE}), tmp_path / "a")
    text = render(gathered([tmp_path]), link="https://example.com/run/1")
    assert "<script" not in text
    assert "\u202e" not in text
    assert "@team" not in text
    assert "](http://b.c" not in text.replace("\\", "")
    assert text.count("<summary>") == text.count("</summary>") == 1
    for row in rows(text):
        assert len(re.findall(r"(?<!\\)\|", row)) == 6


def test_two_hundred_models_fit(make_record: MakeRecord, tmp_path: Path) -> None:
    for number in range(200):
        name = f"model-{number}-" + "é" * 80
        put(make_record("fail", model=name, id=str(number)), tmp_path / str(number))
    text = render(gathered([tmp_path]))
    assert len(text) <= LIMIT
    shown = len(rows(text))
    hidden = 200 - shown
    assert shown > 100
    assert hidden == 0 or f"…and {hidden} more" in text
    put(make_record("pass", id="one too many"), tmp_path / "201st")
    with pytest.raises(UsageError, match="201 records"):
        gathered([tmp_path])


def test_what_is_no_record_is_told(make_record: MakeRecord, tmp_path: Path) -> None:
    put(make_record("pass"), tmp_path / "a")
    broken = {
        "torn": '{"schema_version": 1, ',
        "foreign": json.dumps({"schema_version": 99}),
        "nan": '{"schema_version": NaN}',
    }
    for name, text in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    found = gathered([tmp_path])
    text = render(found)
    assert found.exit_code == 4
    assert text.count("**ERROR**") == 3
    assert "1 pass, 3 could not be read" in text


def test_nothing_is_no_pass(tmp_path: Path) -> None:
    found = gathered([tmp_path])
    assert (found, found.exit_code) == (Found((), ()), 4)
    assert "There is no record: nothing was judged" in render(found)


def test_links_are_not_followed(make_record: MakeRecord, tmp_path: Path) -> None:
    put(make_record("pass"), tmp_path / "secret")
    inside = tmp_path / "artifact"
    inside.mkdir()
    (inside / "record.json").symlink_to(tmp_path / "secret" / "record.json")
    (inside / "folder").symlink_to(tmp_path / "secret")
    assert gathered([inside]).records == ()


def test_a_file_of_gigabytes_is_not_read(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(make_record("pass"), tmp_path / "a")
    monkeypatch.setattr("gate.commands.comment._LARGEST", 10)
    ((_, error),) = gathered([tmp_path]).problems
    assert isinstance(error, RecordError)


@pytest.mark.parametrize(
    "link", ["http://a.b", "javascript:x", "https://a.b) [x](y", "https://a b"]
)
def test_a_link_is_an_address(make_record: MakeRecord, tmp_path: Path, link: str) -> None:
    put(make_record("pass"), tmp_path / "a")
    with pytest.raises(UsageError, match="--link"):
        render(gathered([tmp_path]), link=link)


def test_the_command(
    make_record: MakeRecord, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(make_record("fail"), tmp_path / "a")
    assert exit_code_of(["comment", str(tmp_path), "--link", "https://example.com/1"]) == 0
    assert "[The whole reports](https://example.com/1)" in capfd.readouterr().out
    assert exit_code_of(["comment", str(tmp_path / "nowhere")]) == 2
