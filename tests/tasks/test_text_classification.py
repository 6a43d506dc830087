"""Text classification: classification's own metrics under its key, with Matthews' correlation."""

import numpy as np
import pytest
import sklearn.metrics as sk

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.values import Rows, TensorSpec

TASK = tasks.get("text_classification")
RNG = np.random.default_rng(0)


def bind(targets, first, **build):
    specs = (TensorSpec("y", "float32", (None, *first.shape[1:])),)
    return TASK.bind(Build(recipe="dynamic", **build), specs, targets, {"y": first})


def value(bound, name, targets, raw):
    metric = bound.metric(name)
    return metric.summarize(Rows(metric.observe(bound.decode({"y": raw}), targets, None)))


def test_a_report_shows_matthews_correlation():
    one, many = np.arange(30) % 3, RNG.integers(0, 2, (30, 3))
    raw = RNG.normal(size=(30, 3))
    plain = tasks.get("classification")
    assert set(TASK.known) == set(plain.known)
    shown = set(bind(one, raw).metrics)
    build, specs = Build(recipe="dynamic"), (TensorSpec("y", "float32", (None, 3)),)
    usual = plain.bind(build, specs, one, {"y": raw}).metrics
    assert shown - set(usual) == {"mcc"}
    assert set(usual) < shown
    assert {"accuracy", "f1_macro", "f1_micro", "prediction_flips"} < shown
    assert "mcc" not in bind(many, raw).metrics
    assert list(bind(None, raw).metrics) == ["prediction_flips"]


def test_a_model_that_always_says_the_frequent_class_has_no_correlation():
    """The villain: accuracy hides what a collapsed head lost, mcc does not."""
    targets = (RNG.random(500) < 0.08).astype(int)
    good = np.eye(2)[targets] * 4 + RNG.normal(0, 0.8, (500, 2))
    collapsed = np.tile([1.0, 0.5], (500, 1))
    bound = bind(targets, good)
    assert value(bound, "accuracy", targets, collapsed) > 0.9
    assert value(bound, "mcc", targets, collapsed) == 0
    assert value(bound, "mcc", targets, good) == pytest.approx(
        sk.matthews_corrcoef(targets, good.argmax(axis=1)), abs=1e-12
    )
    assert value(bound, "mcc", targets, -good) < -0.5


def test_class_names_and_tags():
    names = np.array(["ham", "spam", "ham"])
    bound = bind(names, np.zeros((2, 2)), classes=("ham", "spam"))
    assert value(bound, "accuracy", names, np.eye(2)[[0, 1, 0]]) == 1
    tags = np.array([[0, 1], [1, 1]])
    with pytest.raises(UsageError, match=r"'mcc' does not apply to multi-label .*use f1_macro"):
        bind(tags, np.zeros((2, 2))).metric("mcc")


def test_token_outputs_are_not_taken_for_classes():
    with pytest.raises(DataError, match=r"output 'y' \(B, 7, 3\) do not fit together"):
        bind(np.array([0, 1]), np.zeros((2, 7, 3)))
