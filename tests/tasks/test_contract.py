"""What every registered task has to do; a new one adds its samples here."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from gate import tasks
from gate.errors import UsageError
from gate.metrics import Metric
from gate.policy import Build
from gate.values import Rows, TensorSpec


@dataclass(frozen=True)
class Sample:
    """A model's outputs on some targets, both models', and how to read them."""

    name: str
    targets: np.ndarray
    fp32: np.ndarray
    int8: np.ndarray
    asked: tuple[str, ...] = ()
    build: dict = field(default_factory=dict)

    def bind(self, key):
        build = Build(recipe="dynamic", **self.build)
        outputs = (TensorSpec("y", "float32", (None, *self.fp32.shape[1:])),)
        return tasks.get(key).bind(build, outputs, self.targets, {"y": self.fp32[:8]})


def classification_samples():
    rng = np.random.default_rng(7)
    n = 41

    def logits(*shape):
        return rng.normal(0, 2, (n, *shape)).astype(np.float32)

    def sample(name, targets, raw, **more):
        return Sample(name, targets, raw, (raw + 0.7 * logits(*raw.shape[1:])), **more)

    softmax = np.exp(logits(4))
    softmax /= softmax.sum(axis=1, keepdims=True)
    return [
        sample(
            "multi-class", np.arange(n) % 7, logits(7), asked=("top1_accuracy", "top6_accuracy")
        ),
        sample("two classes", np.arange(n) % 2, logits(2), asked=("top1_accuracy",)),
        sample("binary", np.arange(n) % 2 == 1, logits(1)),
        sample("flat binary", (np.arange(n) % 2).astype(np.float32), logits()),
        sample("multi-label", rng.integers(0, 2, (n, 3)), logits(3)),
        sample("many labels", rng.integers(0, 2, (n, 60)), logits(60)),
        sample(
            "names",
            np.array(["cat", "dog", "owl"])[np.arange(n) % 3],
            logits(3),
            build={"classes": ("owl", "cat", "dog")},
        ),
        Sample(
            "probabilities",
            np.arange(n) % 4,
            softmax,
            np.round(softmax * 255) / 255,
            build={"decode": "probabilities"},
        ),
    ]


SAMPLES = {"classification": classification_samples()}
CASES = [
    pytest.param(key, sample, id=f"{key}-{sample.name}")
    for key, samples in SAMPLES.items()
    for sample in samples
]


def every_metric(bound, sample):
    return dict(bound.metrics) | {name: bound.metric(name) for name in sample.asked}


def observed(bound, metric, sample, part=slice(None)):
    """FP32 and INT8 rows of a part of the sample."""
    reference = bound.decode({"y": sample.fp32[part]})
    scores = bound.decode({"y": sample.int8[part]})
    targets = sample.targets[part]
    return metric.observe(reference, targets, None), metric.observe(scores, targets, reference)


def test_every_registered_task_has_samples():
    assert set(SAMPLES) == set(tasks.TASKS) <= set(tasks.names())


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown task 'clasification'; did you mean"):
        tasks.get("clasification")


@pytest.mark.parametrize("key", sorted(tasks.TASKS))
class TestProtocol:
    def test_members(self, key):
        task = tasks.get(key)
        assert task.key == key
        assert task.decoders
        assert len(set(task.known)) == len(task.known) > 0

    def test_what_is_known_of_a_metric_by_its_name(self, key):
        task = tasks.get(key)
        assert all(task.proportion(name) in (True, False) for name in task.known)
        assert task.proportion("no such metric") is None
        assert not task.relative("no such metric")

    def test_every_known_metric_applies_somewhere(self, key):
        applying = {name for sample in SAMPLES[key] for name in sample.bind(key).metrics}
        assert applying == set(tasks.get(key).known)

    def test_unknown_decoder_lists_the_known_ones(self, key):
        sample = SAMPLES[key][0]
        build = Build(recipe="dynamic", decode="no-such-decoder")
        outputs = (TensorSpec("y", "float32", (None,)),)
        with pytest.raises(UsageError, match=r"unknown decoder 'no-such-decoder'.*Known:"):
            tasks.get(key).bind(build, outputs, sample.targets, {"y": sample.fp32})


@pytest.mark.parametrize(("key", "sample"), CASES)
class TestMetrics:
    def test_metrics_are_found_by_name_and_agree_with_the_task(self, key, sample):
        task, bound = tasks.get(key), sample.bind(key)
        for name, metric in every_metric(bound, sample).items():
            assert isinstance(metric, Metric)
            assert metric.name == name == bound.metric(name).name
            assert task.proportion(name) is (metric.per_example is not None)
            assert task.relative(name) is metric.relative

    def test_an_unknown_metric_lists_those_that_apply(self, key, sample):
        bound = sample.bind(key)
        with pytest.raises(UsageError, match="unknown metric 'nonsense'") as raised:
            bound.metric("nonsense")
        assert all(name in str(raised.value) for name in bound.metrics)

    def test_rows_are_float64_one_an_example(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(bound, sample).values():
            for rows in observed(bound, metric, sample):
                assert rows.dtype == np.float64
                assert rows.ndim == 2
                assert len(rows) == len(sample.targets)
                assert np.isfinite(rows).all()

    def test_metrics_of_one_observation_share_their_rows(self, key, sample):
        bound = sample.bind(key)
        shared = {}
        for metric in every_metric(bound, sample).values():
            rows = observed(bound, metric, sample)[1]
            np.testing.assert_array_equal(shared.setdefault(metric.observation, rows), rows)

    @pytest.mark.parametrize("size", [1, 5, 16])
    def test_batches_concatenate_to_exactly_the_whole(self, key, sample, size):
        bound = sample.bind(key)
        for metric in every_metric(bound, sample).values():
            whole = observed(bound, metric, sample)
            parts = [
                observed(bound, metric, sample, slice(start, start + size))
                for start in range(0, len(sample.targets), size)
            ]
            for rows, pieces in zip(whole, zip(*parts, strict=True), strict=True):
                np.testing.assert_array_equal(rows, np.concatenate(pieces))

    def test_a_slice_of_rows_is_the_rows_of_the_slice(self, key, sample):
        bound = sample.bind(key)
        mask = np.arange(len(sample.targets)) % 5 > 0
        for metric in every_metric(bound, sample).values():
            taken = Rows(observed(bound, metric, sample)[1]).take(mask)
            there = Rows(observed(bound, metric, sample, mask)[1])
            np.testing.assert_equal(metric.summarize(taken), metric.summarize(there))

    def test_the_order_of_examples_does_not_matter(self, key, sample):
        bound = sample.bind(key)
        order = np.random.default_rng(0).permutation(len(sample.targets))
        for metric in every_metric(bound, sample).values():
            rows = Rows(observed(bound, metric, sample)[1])
            value = metric.summarize(rows)
            assert math.isfinite(value)
            assert metric.summarize(rows.take(order)) == pytest.approx(value, rel=0, abs=1e-12)

    def test_no_examples_are_nan(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(bound, sample).values():
            for rows in observed(bound, metric, sample, slice(0, 0)):
                assert len(rows) == 0
                assert math.isnan(metric.summarize(Rows(rows)))

    @pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
    def test_one_broken_output_makes_its_rows_and_every_metric_nan(self, key, sample, broken):
        bound = sample.bind(key)
        int8 = sample.int8.copy()
        int8.reshape(len(int8), -1)[3, 0] = broken
        reference, scores = bound.decode({"y": sample.fp32}), bound.decode({"y": int8})
        for metric in every_metric(bound, sample).values():
            rows = metric.observe(scores, sample.targets, reference)
            assert np.isnan(rows[3]).all()
            assert np.isfinite(np.delete(rows, 3, axis=0)).all()
            assert math.isnan(metric.summarize(Rows(rows)))

    def test_a_proportion_is_the_mean_of_its_examples(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(bound, sample).values():
            if metric.per_example is None:
                continue
            rows = Rows(observed(bound, metric, sample)[1])
            counted = metric.per_example(rows)
            assert counted.dtype == bool
            assert counted.shape == (len(rows),)
            assert metric.summarize(rows) == pytest.approx(counted.mean(), abs=1e-15)

    def test_a_relative_metric_of_a_model_with_itself_is_zero(self, key, sample):
        bound = sample.bind(key)
        scores = bound.decode({"y": sample.fp32})
        for metric in every_metric(bound, sample).values():
            if metric.relative:
                for reference in (None, scores):
                    rows = Rows(metric.observe(scores, sample.targets, reference))
                    assert metric.summarize(rows) == 0
