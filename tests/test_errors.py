"""The exception tree and the order of exit codes."""

import itertools
from pathlib import Path

import pytest

from gate import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.GateError, 4),
        (errors.UsageError, 2),
        (errors.PolicyError, 2),
        (errors.CandidateError, 4),
        (errors.DataError, 4),
        (errors.OverlapError, 4),
        (errors.QuantizationError, 4),
        (errors.EvaluationError, 4),
        (errors.BaselineError, 4),
        (errors.PluginError, 4),
        (errors.RecordError, 4),
        (errors.TrackerError, 4),
    ],
)
def test_each_error_has_its_exit_code(kind: type[errors.GateError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, errors.GateError)


def test_the_tree_that_is_drawn_is_the_tree_that_exists() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    exist = {name for name in vars(errors) if name.endswith("Error")}
    assert drawn == exist


def test_no_error_releases() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert all(kind.exit_code != 0 for kind in kinds if issubclass(kind, errors.GateError))


def test_worst_of_every_pair_follows_the_order() -> None:
    order = [4, 2, 1, 3, 0]
    for pair in itertools.product(order, repeat=2):
        assert errors.worst(pair) == min(pair, key=order.index)


def test_nothing_at_all_and_unknown_codes_are_errors() -> None:
    assert errors.worst([]) == 4
    assert errors.worst([0, 77]) == 4


def test_a_policy_error_begins_with_its_place() -> None:
    mark = errors.Mark(Path("policies/x.yaml"), 3, 7)
    assert str(errors.PolicyError("no", mark)) == "policies/x.yaml:3:7: no"
