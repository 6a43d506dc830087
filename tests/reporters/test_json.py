"""The JSON report is the record."""

import json

import pytest

from gate.errors import RecordError
from gate.records import GateRecord
from gate.reporters.json import REPORTER


@pytest.mark.parametrize("kind", ["pass", "fail", "inconclusive", "undefined"])
def test_reads_back_as_an_equal_record(make_record, kind):
    record = make_record(kind)
    text = REPORTER.render(record)
    assert GateRecord.model_validate_json(text) == record
    assert GateRecord.model_validate(json.loads(text)) == record
    assert REPORTER.render(GateRecord.model_validate_json(text)) == text


def test_is_indented_and_names_the_schema_first(make_record):
    lines = REPORTER.render(make_record()).splitlines()
    assert lines[:2] == ["{", '  "schema_version": 1,']


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_refuses_numbers_that_json_does_not_have(make_record, number):
    made = make_record()
    cpu = made.provenance.model_copy(update={"cpu": {"features": [{"ghz": number}]}})
    with pytest.raises(RecordError, match=r"record.provenance.cpu.features\[0\].ghz is NaN or"):
        REPORTER.render(made.model_copy(update={"provenance": cpu}))
    with pytest.raises(RecordError, match=r"record\.alpha"):
        REPORTER.render(made.model_copy(update={"alpha": number}))
