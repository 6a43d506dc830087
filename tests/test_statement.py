"""What a verdict says of an artifact, in a form that others read and that can be signed."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from gate.errors import RecordError
from gate.records import GateRecord
from gate.statement import (
    Envelope,
    envelope,
    record_sha256,
    signed_bytes,
    statement_of,
)


@pytest.fixture
def record(make_record: Callable[..., GateRecord]) -> GateRecord:
    return make_record("pass")


def said(record: GateRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(statement_of(record))
    return found


def test_the_subject_is_the_int8_artifact(record: GateRecord) -> None:
    """As `sha256sum model.int8.onnx` prints it, so that any tool can ask for it."""
    told = said(record)
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert told["subject"] == [{"name": record.model, "digest": {"sha256": record.int8.sha256}}]


def test_all_that_the_verdict_rests_on_is_named_by_its_hash(record: GateRecord) -> None:
    told = {
        one["name"]: one["digest"]["sha256"] for one in said(record)["predicate"]["configuration"]
    }
    assert told["rows.npz"] == record.rows_sha256
    assert told["policy"] == record.provenance.policy_sha256
    assert told["held_out"] == record.splits.held_out.sha256
    assert told["model.fp32.onnx"] == record.candidate.fp32_sha256
    assert told["record"] == record_sha256(record)


@pytest.mark.parametrize(
    ("outcome", "mode", "result"),
    [
        ("pass", "enforce", "PASSED"),
        ("pass", "observe", "WARNED"),
        ("waived", "enforce", "WARNED"),
        ("fail", "enforce", "FAILED"),
        ("fail", "observe", "FAILED"),
        ("inconclusive", "enforce", "FAILED"),
    ],
)
def test_only_an_enforced_pass_has_passed(
    record: GateRecord, outcome: str, mode: str, result: str
) -> None:
    verdict = record.verdict.model_copy(update={"outcome": outcome})
    judge = record.policy.judge.model_copy(update={"mode": mode})
    policy = record.policy.model_copy(update={"judge": judge})
    changed = record.model_copy(update={"verdict": verdict, "policy": policy})
    assert said(changed)["predicate"]["result"] == result


def test_every_budget_is_told_where_it_belongs(record: GateRecord) -> None:
    predicate = said(record)["predicate"]
    listed = predicate["passedTests"] + predicate["warnedTests"] + predicate["failedTests"]
    assert len(listed) == len(record.verdict.findings)


def test_the_same_record_gives_the_same_bytes_however_it_is_written(record: GateRecord) -> None:
    fields = record.model_dump(mode="json")
    turned = json.dumps(dict(reversed(fields.items())), indent=7)
    again = GateRecord.model_validate_json(turned)
    assert statement_of(again) == statement_of(record)
    assert record_sha256(again) == record_sha256(record)


def test_any_other_field_gives_another_hash(record: GateRecord) -> None:
    other = record.model_copy(update={"examples_total": record.examples_total + 1})
    assert record_sha256(other) != record_sha256(record)
    assert statement_of(other) != statement_of(record)


# ── the envelope ──────────────────────────────────────────────────────────────────────────

PLAIN = Envelope(b'{"a":1}', "f" * 64, bytes(64))


def test_an_envelope_comes_back() -> None:
    assert envelope(PLAIN.dumps(), "here") == PLAIN


def test_what_is_signed_is_as_dsse_has_it() -> None:
    """The example of its specification, of another type."""
    assert signed_bytes(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"payloadType": "text/plain", "payload": "", "signatures": [{"keyid": "", "sig": ""}]}',
        PLAIN.dumps().replace(base64.b64encode(PLAIN.statement).decode(), "not base64!"),
        json.dumps(json.loads(PLAIN.dumps()) | {"signatures": []}),
        json.dumps(json.loads(PLAIN.dumps()) | {"signatures": [{}, {}]}),
        json.dumps(json.loads(PLAIN.dumps()) | {"signatures": [{"keyid": "a"}]}),
        json.dumps(json.loads(PLAIN.dumps()) | {"payload": 7}),
    ],
)
def test_what_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="here is no signed verdict"):
        envelope(text, "here")
