"""A verdict as a statement about an artifact, in a form that can be signed.

The form is in-toto's (Statement v1, https://in-toto.io/Statement/v1), its predicate a test result
(v0.1), and the envelope DSSE (https://github.com/secure-systems-lab/dsse), so that other tools
read it, too. Nothing in it depends on when or where it was made: the same record gives the same
bytes.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import rfc8785

from gate.errors import RecordError
from gate.records import GateRecord

FILE = "verdict.intoto.json"
"""Beside the record."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_RESULTS = {"pass": "PASSED", "waived": "WARNED", "inconclusive": "FAILED", "fail": "FAILED"}
"""Whatever is no PASS and was let through by nobody, has failed."""


def record_sha256(record: GateRecord) -> str:
    """Of a record as canonical JSON (RFC 8785): whatever its file's spaces and order of keys.

    Raises:
        RecordError: it holds what canonical JSON has no form for.
    """
    try:
        return sha256(rfc8785.dumps(record.model_dump(mode="json"))).hexdigest()
    except rfc8785.CanonicalizationError as error:
        raise RecordError(
            f"record {record.id} cannot be signed, nor held against a signature: {error}. "
            "Canonical JSON holds whole numbers below 2^53 (is `judge.seed` larger?): run the gate "
            "again with smaller ones"
        ) from error


def statement_of(record: GateRecord) -> bytes:
    """What a record says of its INT8 artifact, as canonical JSON."""
    return rfc8785.dumps(
        {
            "_type": _STATEMENT,
            "subject": [{"name": record.model, "digest": {"sha256": record.int8.sha256}}],
            "predicateType": _PREDICATE,
            "predicate": _predicate(record),
        }
    )


def _predicate(record: GateRecord) -> dict[str, Any]:
    findings = record.verdict.findings
    passed = [_test(one) for one in findings if one.outcome == "pass"]
    warned = [_test(one) for one in findings if one.outcome != "pass" and not one.blocking]
    failed = [_test(one) for one in findings if one.outcome != "pass" and one.blocking]
    result = _RESULTS[record.verdict.outcome]
    if record.policy.judge.mode == "observe" and result == "PASSED":
        result = "WARNED"  # it enforced nothing
    return {
        "result": result,
        "configuration": [_material(name, digest) for name, digest in _materials(record).items()],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
        "gate": {
            "record": record.id,
            "verdict": record.verdict.outcome,
            "stage": record.stage,
            "mode": record.policy.judge.mode,
            "examples": record.examples_evaluated,
            "alpha": record.alpha,
            "attested": bool(record.attested),
        },
    }


def _test(finding: Any) -> str:
    return finding.budget if finding.slice is None else f"{finding.budget} at {finding.slice}"


def _material(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _materials(record: GateRecord) -> dict[str, str]:
    """sha256 by name of all that the verdict rests on; rows are tied to the record by theirs."""
    found = {
        "record": record_sha256(record),
        "rows.npz": record.rows_sha256,
        "policy": record.provenance.policy_sha256,
        "candidate": record.candidate.sha256,
        "model.fp32.onnx": record.candidate.fp32_sha256,
        "held_out": record.splits.held_out.sha256,
        "preprocessing": record.preprocessing_sha256,
    }
    if record.outputs_sha256 is not None:
        found["outputs.npz"] = record.outputs_sha256
    return found


# ── the envelope ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Envelope:
    """A statement, and a signature of it by one key."""

    statement: bytes
    key: str
    """sha256 of the public key's DER, in hex."""
    signature: bytes

    def dumps(self) -> str:
        """As DSSE has it."""
        signed = {"keyid": self.key, "sig": base64.b64encode(self.signature).decode()}
        told = {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(self.statement).decode(),
            "signatures": [signed],
        }
        return json.dumps(told, indent=2) + "\n"


def envelope(text: str, where: str) -> Envelope:
    """An envelope read back.

    Raises:
        RecordError: it is none, or holds more or less than one signature of a statement.
    """
    try:
        told = json.loads(text)
        (signed,) = told["signatures"]
        kind = told["payloadType"]
        found = Envelope(
            base64.b64decode(told["payload"], validate=True),
            str(signed["keyid"]),
            base64.b64decode(signed["sig"], validate=True),
        )
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise RecordError(
            f"{where} is no signed verdict ({type(error).__name__}: {error}): sign the record "
            "again with `gate sign`"
        ) from error
    if kind != PAYLOAD_TYPE:
        raise RecordError(f"{where} is no signed verdict: its payload is another thing")
    return found


def signed_bytes(statement: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)
