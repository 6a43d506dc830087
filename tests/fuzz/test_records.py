"""Records that are anything: none is judged or verified to a PASS that its run did not come to."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from support import mutation
from support.fuzzing import Ended, Worker, command, demand_clean, long, quick
from support.keys import save_pair
from support.project import CNN, WIDE_RANGE, Project
from support.tally import Tally

import gate
from gate.commands.report import load_record
from gate.commands.sign import sign
from gate.policy_file import digest
from gate.records import GateRecord
from gate.statement import record_sha256

KIND = "records"
COMMANDS = ("judge", "verify", "text", "markdown", "html", "junit", "json", "github")
READS = COMMANDS[2:]
_NEAR = 1e-6


@dataclass(frozen=True)
class Runs:
    """Two runs, signed, and the key to trust."""

    worker: Worker
    key: Path
    texts: dict[str, str]
    records: dict[str, GateRecord]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("records")
    project = Project(folder)
    private, public = save_pair(folder)
    texts, records = {}, {}
    for name, model in (("passed", CNN), ("failed", WIDE_RANGE)):
        out = folder / name
        gate.run_gate(project.policy, model, tracker="none", threads=1, out=out)
        sign(out, private)
        shutil.copytree(out, folder / f"{name}-hostile")
        texts[name] = (out / "record.json").read_text("utf-8")
        records[name] = load_record(out)
    worker = Worker(folder)
    yield Runs(worker, public, texts, records)
    worker.stop()


def strategy(runs: Runs) -> Any:
    def of(name: str) -> Any:
        document = json.loads(runs.texts[name])
        one = st.just(name), st.sampled_from(COMMANDS)
        none = st.just([])
        verdict = {"verdict": document["verdict"], "policy": document["policy"]}
        return st.one_of(
            st.tuples(*one, mutation.edits(document, most=2), none),
            st.tuples(*one, mutation.edits(verdict), none),
            st.tuples(*one, none, mutation.byte_edits(most=2)),
        )

    return st.one_of(of("passed"), of("failed"))


def content(text: str, edits: Any, byte_edits: Any) -> bytes:
    if edits:
        text = json.dumps(mutation.changed(json.loads(text), edits), indent=2)
    return mutation.bytes_changed(text.encode("utf-8", "surrogatepass"), byte_edits)


def arguments(runs: Runs, asked: str, folder: Path) -> list[str]:
    if asked == "judge":
        return ["judge", str(folder)]
    if asked == "verify":
        return ["verify", str(folder), "--key", str(runs.key)]
    return ["report", str(folder), "--format", asked]


def demand_no_new_pass(asked: str, folder: Path, was: GateRecord, ended: Ended) -> None:
    """What a 0 says is what the run came to."""
    if ended.code != 0 or asked in READS:
        return
    found = load_record(folder)
    if asked == "verify":
        assert record_sha256(found) == record_sha256(was), "another record was verified"
    else:
        assert was.exit_code == 0, "what failed was judged to pass"
        assert decisive(found) == decisive(was), "another record was judged to pass"


def decisive(record: GateRecord) -> Any:
    """What a verdict rests on, and says."""
    found = record.verdict.findings
    return (
        digest(record.policy),
        record.alpha,
        record.rows_sha256,
        record.examples_evaluated,
        record.examples_total,
        record.verdict.outcome,
        [(one.budget, one.slice, one.outcome, one.blocking) for one in found],
        [round((one.comparison.degradation or 0) / _NEAR / 10) for one in found if one.comparison],
    )


def case_of(runs: Runs, tally: Tally) -> Any:
    def case(drawn: Any) -> None:
        name, asked, edits, byte_edits = drawn
        folder = runs.worker.folder / f"{name}-hostile"
        (folder / "record.json").write_bytes(content(runs.texts[name], edits, byte_edits))
        ended = tally.count(runs.worker.run(command, arguments(runs, asked, folder)))
        demand_clean(ended)
        demand_no_new_pass(asked, folder, runs.records[name], ended)

    return case


def test_a_record_comes_to_what_its_run_did_or_to_an_error(
    runs: Runs, record_property: Any
) -> None:
    tally = Tally(KIND, record_property)
    quick(case_of(runs, tally), strategy(runs), 80, tally)


@pytest.mark.slow
def test_a_record_comes_to_what_its_run_did_or_to_an_error_whatever_it_is(
    runs: Runs, record_property: Any
) -> None:
    tally = Tally(KIND, record_property)
    long(case_of(runs, tally), strategy(runs), tally)


# ── what lies beside a record ─────────────────────────────────────────────────────────────

BESIDE = ("rows.npz", "outputs.npz", "verdict.intoto.json", "model.int8.onnx")


def beside_case_of(runs: Runs, tally: Tally) -> Any:
    """A record as it was, with a file beside it that is not."""

    def case(drawn: Any) -> None:
        name, file, byte_edits = drawn
        folder, kept = (runs.worker.folder / one for one in (f"{name}-hostile", name))
        (folder / "record.json").write_text(runs.texts[name], encoding="utf-8")
        before = (kept / file).read_bytes()
        after = mutation.bytes_changed(before, byte_edits)
        (folder / file).write_bytes(after)
        try:
            ended = tally.count(runs.worker.run(command, arguments(runs, "verify", folder)))
        finally:
            (folder / file).write_bytes(before)
        demand_clean(ended)
        assert ended.code != 0 or after == before or _reads_the_same(file, after, before)

    return case


def _reads_the_same(file: str, after: bytes, before: bytes) -> bool:
    """A signed verdict counts as it is read: spaces in it do not."""
    if not file.endswith(".json"):
        return False
    after_says, before_says = json.loads(after), json.loads(before)
    return bool(
        after_says["payload"] == before_says["payload"]
        and after_says["signatures"][0]["sig"] == before_says["signatures"][0]["sig"]
    )


def beside() -> Any:
    return st.tuples(
        st.sampled_from(("passed", "failed")), st.sampled_from(BESIDE), mutation.byte_edits(most=2)
    )


def test_what_lies_beside_a_record_is_as_it_was_or_is_refused(
    runs: Runs, record_property: Any
) -> None:
    tally = Tally("files beside records", record_property)
    quick(beside_case_of(runs, tally), beside(), 30, tally)


@pytest.mark.slow
def test_what_lies_beside_a_record_is_as_it_was_or_is_refused_whatever_it_is(
    runs: Runs, record_property: Any
) -> None:
    tally = Tally("files beside records", record_property)
    long(beside_case_of(runs, tally), beside(), tally)


# ── what was found, as it was printed ─────────────────────────────────────────────────────

FOUND = (
    (("verdict", "findings", 0, "comparison", "p_fail"), -1, "verify", "greater than or equal to"),
    (("verdict", "findings", 0, "comparison", "p_pass"), 2, "judge", "less than or equal to 1"),
    (("alpha",), 0.5, "text", "less than 0.5"),
    (("attempt",), 0, "judge", "greater than or equal to 1"),
    (("examples_total",), -1, "judge", "greater than or equal to 0"),
    (("provenance", "seed"), 2**63, "verify", "cannot be signed, nor held against a signature"),
    (("provenance", "cpu", "vnni"), 2**60, "verify", "cannot be signed, nor held against a"),
)


@pytest.mark.parametrize(("place", "value", "asked", "said"), FOUND)
def test_what_no_run_writes_is_an_error_with_words(
    runs: Runs, place: mutation.Place, value: Any, asked: str, said: str
) -> None:
    folder = runs.worker.folder / "passed-hostile"
    edit = mutation.Edit(place, "put", value)
    (folder / "record.json").write_bytes(content(runs.texts["passed"], [edit], []))
    ended = runs.worker.run(command, arguments(runs, asked, folder))
    demand_clean(ended)
    assert (ended.code, said in ended.err) == (4, True), ended


@pytest.mark.parametrize("at", range(40, 200))
def test_rows_whose_header_is_damaged_are_refused(runs: Runs, at: int) -> None:
    """At 85 it has no end for numpy, which mends headers by Python's tokens."""
    drawn = ("passed", "rows.npz", [mutation.ByteEdit("flip", at)])
    beside_case_of(runs, Tally("found", lambda name, told: None))(drawn)
