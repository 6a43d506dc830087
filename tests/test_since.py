"""What changed since the last PASS."""

from typing import Any

import pytest

from gate.records import GateRecord
from gate.since import since


def stored(record: GateRecord) -> dict[str, Any]:
    return record.model_dump(mode="json")


def changes(now: GateRecord, last: GateRecord) -> tuple[str, ...]:
    return since(now, stored(last), run="abc", when=last.created).changes


def test_nothing_changed(make_record: Any) -> None:
    record = make_record("pass")
    assert changes(record, record) == ()


def test_the_last_pass_is_named(make_record: Any) -> None:
    record = make_record("pass")
    previous = since(record, stored(record), run="abc", when=record.created)
    assert (previous.run, previous.when) == ("abc", record.created)


def test_new_weights(make_record: Any) -> None:
    last = make_record("pass")
    candidate = last.candidate.model_copy(update={"fp32_sha256": "1" * 64, "sha256": "2" * 64})
    now = last.model_copy(update={"candidate": candidate})
    assert changes(now, last) == (f"weights: {last.candidate.sha256[:12]} -> {'2' * 12}",)


def test_another_recipe_and_what_it_refines(make_record: Any) -> None:
    last = make_record("pass")
    other = last.int8.recipe.model_copy(update={"name": "dynamic"})
    refined = last.int8.recipe.model_copy(update={"exclude_op_types": ("Softmax",)})
    for recipe, told in ((other, "static -> dynamic"), (refined, "exclude_op_types")):
        now = last.model_copy(update={"int8": last.int8.model_copy(update={"recipe": recipe})})
        (change,) = changes(now, last)
        assert change.startswith("recipe: ")
        assert told in change


@pytest.mark.parametrize(
    ("split", "told"), [("held_out", "held-out data"), ("calibration", "calibration data")]
)
def test_other_data(make_record: Any, split: str, told: str) -> None:
    last = make_record("pass")
    moved = getattr(last.splits, split).model_copy(update={"sha256": "9" * 64})
    now = last.model_copy(update={"splits": last.splits.model_copy(update={split: moved})})
    assert changes(now, last) == (told,)


def test_another_policy_names_its_keys(make_record: Any) -> None:
    last = make_record("pass")
    judge = last.policy.judge.model_copy(update={"confidence": 0.9})
    now = last.model_copy(update={"policy": last.policy.model_copy(update={"judge": judge})})
    assert changes(now, last) == ("policy: confidence",)


def test_another_runtime_and_cpu(make_record: Any) -> None:
    last = make_record("pass")
    provenance = last.provenance.model_copy(
        update={
            "versions": {**last.provenance.versions, "onnxruntime": "1.30.0"},
            "cpu": {**last.provenance.cpu, "model": "Haswell", "vnni": False},
        }
    )
    told = changes(last.model_copy(update={"provenance": provenance}), last)
    assert told[0].startswith("onnxruntime ")
    assert told[0].endswith("-> 1.30.0")
    assert told[1].startswith("CPU: ")
    assert "Haswell" in told[1]


def test_which_side_moved(make_record: Any) -> None:
    last = make_record("pass")
    first = last.comparisons[0]
    moved = first.model_copy(update={"int8": first.int8 - 0.05})
    now = last.model_copy(update={"comparisons": (moved, *last.comparisons[1:])})
    (change,) = changes(now, last)
    assert change.startswith("INT8 accuracy ")


@pytest.mark.parametrize("lost", [None, {}, {"schema_version": 99}])
def test_a_lost_record_is_said_to_be_lost(make_record: Any, lost: Any) -> None:
    record = make_record("pass")
    (change,) = since(record, lost, run="abc", when=record.created).changes
    assert change.startswith("unknown: the record of run abc is lost")


def test_layers_that_stopped_being_quantized_are_named(make_record):
    before = make_record("pass")
    nodes = tuple(f"conv{index}" for index in range(5))
    old = before.model_copy(
        update={
            "int8": before.int8.model_copy(update={"quantized_nodes": nodes, "skipped_nodes": ()})
        }
    )
    new = before.model_copy(
        update={
            "int8": before.int8.model_copy(update={"quantized_nodes": (), "skipped_nodes": nodes})
        }
    )
    changes = since(new, old.model_dump(mode="json"), run="r", when=old.created).changes
    assert "5 layers stopped being quantized: conv0, conv1, conv2 and 2 more" in changes
    changes = since(old, new.model_dump(mode="json"), run="r", when=old.created).changes
    assert "5 layers began to be quantized: conv0, conv1, conv2 and 2 more" in changes
