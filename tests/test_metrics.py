"""What a metric is: proportions, rates, and the metrics of the artifacts themselves."""

from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from gate.metrics import ARTIFACT_METRICS, Metric
from gate.values import Rows


def metric(**more):
    return Metric(
        name="share",
        observation="share",
        observe=lambda scores, targets, reference: scores,
        summarize=lambda rows: float(rows.values.mean()),
        higher_is_better=True,
        **more,
    )


def counts(rows):
    return rows.values[:, 0] == 1


@dataclass(frozen=True)
class Artifact:
    bytes: int
    int8_share: float = 0.0


@pytest.mark.parametrize(
    ("given", "proportion"),
    [
        ({}, False),
        ({"per_example": counts}, True),
        ({"per_example": counts, "relative": True}, False),
        ({"relative": True}, False),
    ],
)
def test_a_proportion_counts_examples_of_each_model_by_itself(given, proportion):
    assert metric(**given).is_proportion is proportion


def test_a_metric_does_not_change():
    with pytest.raises(FrozenInstanceError):
        metric().higher_is_better = False


def test_artifact_metrics_stand_under_their_names():
    assert list(ARTIFACT_METRICS) == ["size", "int8_share"]
    assert all(name == metric.name for name, metric in ARTIFACT_METRICS.items())


def test_size_is_of_both_models_and_smaller_is_better():
    size = ARTIFACT_METRICS["size"]
    assert size.measure(Artifact(400), Artifact(120)) == (400.0, 120.0)
    assert not size.higher_is_better


def test_int8_share_is_of_the_int8_model_alone():
    share = ARTIFACT_METRICS["int8_share"]
    assert share.measure(Artifact(400), Artifact(120, int8_share=0.75)) == (None, 0.75)
    assert share.higher_is_better


@pytest.mark.parametrize(
    "mask", [np.array([True, False, True]), np.array([0, 2]), np.array([False] * 3)]
)
def test_rows_are_taken_by_mask_or_index(mask):
    values = np.arange(6.0).reshape(3, 2)
    taken = Rows(values).take(mask)
    assert len(taken) == len(values[mask])
    np.testing.assert_array_equal(taken.values, values[mask])
