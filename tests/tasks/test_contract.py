"""What every registered task has to do; a new one adds its samples here."""

import math

import numpy as np
import pytest
from support import scenes, task_samples

from gate import tasks
from gate.errors import UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.values import Ragged, Rows, TensorSpec, finite, joined

SAMPLES = {
    "classification": task_samples.classification(),
    "detection": scenes.samples(),
    "embedding": task_samples.embedding(),
    "question_answering": task_samples.question_answering(),
    "ranking": task_samples.ranking(),
    "regression": task_samples.regression(),
    "segmentation": task_samples.segmentation(),
    "text_classification": task_samples.text_classification(),
    "text_recognition": task_samples.text_recognition(),
    "token_classification": task_samples.token_classification(),
}
CASES = [
    pytest.param(key, sample, id=f"{key}-{sample.name}")
    for key, samples in SAMPLES.items()
    for sample in samples
]
BREAKABLE = [case for case in CASES if case.values[1].breakable]


def applies(bound, name):
    """Whether a metric can be had, unasked or by name."""
    try:
        bound.metric(name)
    except UsageError:
        return False
    return True


def every_metric(key, bound, sample):
    asked = [name for name in tasks.get(key).known if applies(bound, name)]
    return dict(bound.metrics) | {name: bound.metric(name) for name in (*asked, *sample.asked)}


def observed(bound, metric, sample, part=slice(None)):
    """FP32 and INT8 rows of a part of the sample."""
    reference = bound.decode(sample.outputs("fp32", part))
    scores = bound.decode(sample.outputs("int8", part))
    targets = sample.targets[part]
    return metric.observe(reference, targets, None), metric.observe(scores, targets, reference)


def same(rows, others):
    """Rows that are equal to the last bit."""
    if isinstance(rows, Ragged):
        np.testing.assert_array_equal(rows.offsets, others.offsets)
        rows, others = rows.values, others.values
    np.testing.assert_array_equal(rows, others)


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
        assert len(task.known) > 0

    def test_what_is_known_of_a_metric_by_its_name(self, key):
        task = tasks.get(key)
        for name, traits in task.known.items():
            assert task.traits(name) == traits
            assert isinstance(traits, Traits)
            assert not traits.proportion or traits.is_share
        assert task.traits("no such metric") is None

    def test_every_known_metric_applies_somewhere(self, key):
        task = tasks.get(key)
        bounds = [sample.bind(key) for sample in SAMPLES[key]]
        applying = {
            n for bound in bounds for n in (*bound.metrics, *task.known) if applies(bound, n)
        }
        assert applying >= set(task.known)
        assert all(task.traits(name) for name in applying)

    def test_unknown_decoder_lists_the_known_ones(self, key):
        sample = SAMPLES[key][0]
        build = Build(recipe="dynamic", decode="no-such-decoder")
        outputs = (TensorSpec("y", "float32", (None,)),)
        first = sample.outputs("fp32")
        with pytest.raises(UsageError, match=r"unknown decoder 'no-such-decoder'.*Known:"):
            tasks.get(key).bind(build, outputs, sample.targets, first)


@pytest.mark.parametrize(("key", "sample"), CASES)
class TestMetrics:
    def test_metrics_are_found_by_name_and_agree_with_the_task(self, key, sample):
        task, bound = tasks.get(key), sample.bind(key)
        for name, metric in every_metric(key, bound, sample).items():
            assert isinstance(metric, Metric)
            assert metric.name == name == bound.metric(name).name
            traits = task.traits(name)
            assert traits.proportion is (metric.per_example is not None)
            assert traits.relative is metric.relative
            assert traits.higher_is_better is metric.higher_is_better

    def test_values_lie_in_the_range_that_is_told(self, key, sample):
        task, bound = tasks.get(key), sample.bind(key)
        for name, metric in every_metric(key, bound, sample).items():
            low, high = task.traits(name).low, task.traits(name).high
            for rows in observed(bound, metric, sample):
                value = metric.summarize(Rows(rows))
                assert low is None or value >= low - 1e-12
                assert high is None or value <= high + 1e-12

    def test_metrics_are_rebuilt_from_the_rows_that_a_run_kept(self, key, sample):
        bound = sample.bind(key)
        metrics = every_metric(key, bound, sample)
        rows = {m.observation: Rows(observed(bound, m, sample)[1]) for m in metrics.values()}
        again = tasks.get(key).observed(sample.targets, rows)
        for name, metric in metrics.items():
            kept = rows[metric.observation]
            assert again(name).summarize(kept) == metric.summarize(kept)

    def test_without_labels_only_agreement_is_measured(self, key, sample):
        task, bound = tasks.get(key), sample.bind(key, labelled=False)
        reference = bound.decode(sample.outputs("fp32"))
        scores = bound.decode(sample.outputs("int8"))
        assert all(metric.relative for metric in bound.metrics.values())
        assert any(applies(bound, name) for name in task.known)
        for name, traits in task.known.items():
            if applies(bound, name):
                assert traits.relative
                metric = bound.metric(name)
                value = metric.summarize(Rows(metric.observe(scores, None, reference)))
                assert math.isfinite(value)

    def test_an_unknown_metric_lists_those_that_apply(self, key, sample):
        bound = sample.bind(key)
        with pytest.raises(UsageError, match="unknown metric 'nonsense'") as raised:
            bound.metric("nonsense")
        assert all(name in str(raised.value) for name in bound.metrics)

    def test_rows_are_float64_one_an_example(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(key, bound, sample).values():
            for rows in observed(bound, metric, sample):
                assert rows.dtype == np.float64
                assert rows.ndim == 2
                assert len(rows) == len(sample.targets)
                assert finite(rows).all()

    def test_metrics_of_one_observation_share_their_rows(self, key, sample):
        bound = sample.bind(key)
        shared = {}
        for metric in every_metric(key, bound, sample).values():
            rows = observed(bound, metric, sample)[1]
            same(shared.setdefault(metric.observation, rows), rows)

    @pytest.mark.parametrize("size", [1, 5, 16])
    def test_batches_concatenate_to_exactly_the_whole(self, key, sample, size):
        bound = sample.bind(key)
        for metric in every_metric(key, bound, sample).values():
            whole = observed(bound, metric, sample)
            parts = [
                observed(bound, metric, sample, slice(start, start + size))
                for start in range(0, len(sample.targets), size)
            ]
            for rows, pieces in zip(whole, zip(*parts, strict=True), strict=True):
                same(rows, joined(pieces))

    def test_a_slice_of_rows_is_the_rows_of_the_slice(self, key, sample):
        bound = sample.bind(key)
        mask = np.arange(len(sample.targets)) % 5 > 0
        for metric in every_metric(key, bound, sample).values():
            taken = Rows(observed(bound, metric, sample)[1]).take(mask)
            there = Rows(observed(bound, metric, sample, mask)[1])
            np.testing.assert_equal(metric.summarize(taken), metric.summarize(there))

    def test_the_order_of_examples_does_not_matter(self, key, sample):
        bound = sample.bind(key)
        order = np.random.default_rng(0).permutation(len(sample.targets))
        for metric in every_metric(key, bound, sample).values():
            rows = Rows(observed(bound, metric, sample)[1])
            value = metric.summarize(rows)
            assert math.isfinite(value)
            assert metric.summarize(rows.take(order)) == pytest.approx(value, rel=0, abs=1e-12)

    def test_no_examples_are_nan(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(key, bound, sample).values():
            for rows in observed(bound, metric, sample, slice(0, 0)):
                assert len(rows) == 0
                assert math.isnan(metric.summarize(Rows(rows)))

    def test_a_proportion_is_the_mean_of_its_examples(self, key, sample):
        bound = sample.bind(key)
        for metric in every_metric(key, bound, sample).values():
            if metric.per_example is None:
                continue
            rows = Rows(observed(bound, metric, sample)[1])
            counted = metric.per_example(rows)
            assert counted.dtype == bool
            assert counted.shape == (len(rows),)
            assert metric.summarize(rows) == pytest.approx(counted.mean(), abs=1e-15)

    def test_no_one_example_moves_a_metric_further_than_it_says(self, key, sample):
        bound, n = sample.bind(key), len(sample.targets)
        for name, metric in every_metric(key, bound, sample).items():
            fp32, int8 = observed(bound, metric, sample)
            reach, value = metric.reach(Rows(fp32)), metric.summarize(Rows(fp32))
            for place in np.flatnonzero(np.isfinite(reach))[:9]:
                index = np.arange(n) + n * (np.arange(n) == place)
                moved = metric.summarize(Rows(joined([fp32, int8])).take(index))
                assert metric.worse(value, moved) * n <= reach[place] + 1e-9, (name, place)

    def test_a_relative_metric_of_a_model_with_itself_is_the_best_there_is(self, key, sample):
        task, bound = tasks.get(key), sample.bind(key)
        scores = bound.decode(sample.outputs("fp32"))
        for name, metric in every_metric(key, bound, sample).items():
            if metric.relative:
                traits = task.traits(name)
                best = traits.high if traits.higher_is_better else traits.low
                for reference in (None, scores):
                    rows = Rows(metric.observe(scores, sample.targets, reference))
                    assert metric.summarize(rows) == best


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("key", "sample"), BREAKABLE)
def test_one_broken_output_makes_its_rows_and_every_metric_nan(key, sample, broken):
    bound = sample.bind(key)
    others = np.arange(len(sample.targets)) != 3
    reference = bound.decode(sample.outputs("fp32"))
    scores = bound.decode(sample.broken(broken, example=3))
    np.testing.assert_array_equal(finite(scores), others)
    for metric in every_metric(key, bound, sample).values():
        rows = metric.observe(scores, sample.targets, reference)
        np.testing.assert_array_equal(finite(rows), others)
        assert math.isnan(metric.summarize(Rows(rows)))
