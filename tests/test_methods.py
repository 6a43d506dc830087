"""Every metric judged: by the jackknife over units, or by the worst case where little changed."""

import math

import numpy as np
import pytest
from support.pairs import ACCURACY, evaluation, table

from gate.compare import compare_budgets
from gate.decide import decide
from gate.metrics import Metric
from gate.policy import Budget
from gate.statistics import clopper_pearson, exact, jackknife, latency, ratio, sequential, tango
from gate.tasks.classification import TASK
from gate.values import Evaluation, Rows

RNG = np.random.default_rng(7)


def judged(found, alpha=0.05, metrics=None, **fields):
    budget = Budget.model_validate(fields)
    known = {"accuracy": ACCURACY} if metrics is None else metrics
    measured = compare_budgets([budget], found, known, {}, alpha)
    return measured[0].comparison, decide(measured, alpha)


def labels(fp32, int8, targets, unit=None):
    """An evaluation of class predictions (N,), and the metrics of its task."""
    targets = np.asarray(targets)
    count = max(*fp32, *int8, *targets) + 1
    rows = [Rows(np.stack([p, targets], axis=1).astype(float)) for p in (fp32, int8)]
    scores = Rows(np.zeros((1, count + 1)))
    metric = TASK.observed(targets, {"score": scores})
    found = Evaluation(
        ids=np.array([f"id{index}" for index in range(len(targets))]),
        targets=targets,
        slices={},
        unit=unit,
        fp32={"label": rows[0]},
        int8={"label": rows[1]},
    )
    names = ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "precision_macro")
    return found, {name: metric(name) for name in (*names, "recall_macro")}


def release(n, changed, *, worse=1.0, classes=4):
    """Balanced classes, FP32 right 95 % of the time, `changed` predictions that INT8 changes."""
    targets = np.arange(n) % classes
    wrong = RNG.random(n) < 0.05
    fp32 = np.where(wrong, (targets + 1) % classes, targets)
    int8 = fp32.copy()
    places = RNG.choice(np.flatnonzero(~wrong), changed, replace=False)
    int8[places[: int(worse * changed)]] += 1
    back = RNG.choice(np.flatnonzero(wrong), changed - int(worse * changed), replace=False)
    int8[back] = targets[back]
    return fp32, int8 % classes, targets


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1_macro", "precision_macro"])
def test_a_metric_of_labels_is_judged_by_the_jackknife(name):
    found, metrics = labels(*release(5000, 100, worse=0.5))
    comparison, verdict = judged(found, metrics=metrics, metric=name, max_drop=0.01)
    assert comparison.method == jackknife.METHOD
    assert comparison.note == "asymptotic"
    assert comparison.lower < comparison.degradation < comparison.upper < 0.01
    assert verdict.outcome == "pass"
    found, metrics = labels(*release(5000, 300))
    comparison, verdict = judged(found, metrics=metrics, metric=name, max_drop=0.01)
    assert comparison.lower > 0.01
    assert verdict.outcome == "fail"


def test_the_jackknife_of_balanced_accuracy_is_near_the_exact_test():
    """With classes of one size it is accuracy: two methods, one number.

    A jackknife of few groups estimates its variance, so its p scatters around the exact one.
    """
    found, metrics = labels(*release(8000, 160, worse=0.75))
    ours, _ = judged(found, metrics=metrics, metric="balanced_accuracy", max_drop=0.015)
    theirs, _ = judged(found, metrics=metrics, metric="accuracy", max_drop=0.015)
    assert theirs.method == exact.METHOD
    assert ours.degradation == pytest.approx(theirs.degradation, abs=1e-12)
    assert theirs.p_pass / 4 < ours.p_pass < 4 * theirs.p_pass


@pytest.mark.parametrize("name", ["f1_macro", "precision_macro", "recall_macro", "f1_micro"])
@pytest.mark.parametrize(("n", "expected"), [(400, "inconclusive"), (4000, "pass")])
def test_an_identical_model_passes_where_n_allows(name, n, expected):
    fp32, _, targets = release(n, 0)
    found, metrics = labels(fp32, fp32, targets)
    limit = 0.005 if n == 400 else 0.01
    comparison, verdict = judged(found, metrics=metrics, metric=name, max_drop=limit)
    assert comparison.method == jackknife.WORST_CASE
    assert (comparison.changed, comparison.units) == (0, n)
    assert f"0 of {n:,} examples changed" in comparison.note
    assert verdict.outcome == expected


def test_few_changes_of_a_rare_class_are_few():
    """Fifty changes, but only one where it weighs: the worst case, not the jackknife."""
    targets = np.r_[np.zeros(4900, int), np.ones(100, int)]
    int8 = targets.copy()
    int8[:49], int8[-1] = 1, 0
    found, metrics = labels(targets, int8, targets)
    comparison, _ = judged(found, metrics=metrics, metric="recall_macro", max_drop=0.02)
    assert comparison.method == jackknife.WORST_CASE
    int8[-40:] = 0
    found, metrics = labels(targets, int8, targets)
    comparison, verdict = judged(found, metrics=metrics, metric="recall_macro", max_drop=0.02)
    assert comparison.method == jackknife.METHOD
    assert verdict.outcome == "fail"


def test_changes_that_a_metric_does_not_see_do_not_count():
    """From one wrong class to another: recall is the same, and nothing was learnt of it."""
    targets = np.arange(3000) % 3
    fp32 = targets.copy()
    fp32[:90] = (fp32[:90] + 1) % 3
    int8 = fp32.copy()
    int8[:90] = (int8[:90] + 1) % 3
    found, metrics = labels(fp32, int8, targets)
    comparison, _ = judged(found, metrics=metrics, metric="recall_macro", max_drop=0.02)
    assert comparison.changed == 0


# ── units ─────────────────────────────────────────────────────────────────────────────────


def clustered(units, size, lost):
    """`lost` whole units of `size` examples go wrong."""
    n = units * size
    unit = np.repeat(np.arange(units), size)
    return evaluation(np.ones(n), np.where(unit < lost, 0.0, 1.0), unit=unit)


def test_proportions_of_units_are_judged_by_units():
    comparison, verdict = judged(clustered(1000, 8, 5), metric="accuracy", max_drop=0.02)
    assert comparison.method == jackknife.WORST_CASE
    assert comparison.note == "worst case: 5 of 1,000 units changed"
    assert verdict.outcome == "pass"
    comparison, verdict = judged(clustered(1000, 8, 60), metric="accuracy", max_drop=0.02)
    assert comparison.method == jackknife.METHOD
    assert comparison.counts.lost == 480
    assert verdict.outcome == "fail"


@pytest.mark.parametrize(("lost", "method"), [(29, jackknife.WORST_CASE), (30, jackknife.METHOD)])
def test_thirty_changed_units_are_enough_for_the_jackknife(lost, method):
    comparison, _ = judged(clustered(1000, 2, lost), metric="accuracy", max_drop=0.02)
    assert comparison.method == method


def test_methods_have_the_names_that_older_records_hold():
    """What is shown and proven of a record goes by them, years later, too."""
    told = (clopper_pearson.METHOD, tango.METHOD, exact.METHOD, ratio.METHOD, sequential.METHOD,
            jackknife.METHOD, jackknife.WORST_CASE, latency.METHOD)  # fmt: skip
    assert told == (
        "Clopper-Pearson", "Tango interval", "Tango interval, exact unconditional test",
        "Nam-Blackwelder score", "betting e-process", "delete-group jackknife", "worst case",
        "randomised ABBA rounds, exact sign test",
    )  # fmt: skip


def test_examples_of_one_unit_prove_no_more_than_one():
    loose = clustered(100, 8, 0)
    comparison, verdict = judged(loose, metric="accuracy", max_drop=0.02)
    assert verdict.outcome == "inconclusive"
    alone = evaluation(np.ones(800), np.ones(800))
    assert judged(alone, metric="accuracy", max_drop=0.02)[1].outcome == "pass"
    assert comparison.upper == pytest.approx(1 - 0.05 ** (1 / 100))


@pytest.mark.parametrize("fields", [{"at_least": 0.9}, {"max_relative_drop": 0.05}])
def test_units_of_every_limit(fields):
    good, bad = clustered(600, 4, 2), clustered(600, 4, 120)
    assert judged(good, metric="accuracy", **fields)[1].outcome == "pass"
    comparison, verdict = judged(bad, metric="accuracy", **fields)
    assert verdict.outcome == "fail"
    assert comparison.lower < (comparison.degradation or 1) or comparison.quantity == "value"


def test_the_order_of_the_file_changes_no_digit():
    fp32, int8, targets = release(3000, 90)
    order = RNG.permutation(3000)
    unit = np.arange(3000) // 3
    one, metrics = labels(fp32, int8, targets, unit)
    rows = {name: r.take(order) for name, r in one.fp32.items()}
    other = Evaluation(
        ids=one.ids[order],
        targets=targets[order],
        slices={},
        unit=unit[order],
        fp32=rows,
        int8={name: r.take(order) for name, r in one.int8.items()},
    )
    for name in metrics:
        first = judged(one, metrics=metrics, metric=name, max_drop=0.02)[0]
        assert judged(other, metrics=metrics, metric=name, max_drop=0.02)[0] == first


# ── metrics that nobody bounds ────────────────────────────────────────────────────────────

MEAN = Metric(
    name="loss",
    observation="loss",
    observe=lambda *_: np.zeros(0),
    summarize=lambda rows: float(rows.values.mean()),
    higher_is_better=False,
)


def losses(fp32, int8):
    found = evaluation(np.ones(len(fp32)), np.ones(len(fp32)))
    rows = ({"loss": Rows(np.asarray(side, float)[:, np.newaxis])} for side in (fp32, int8))
    return Evaluation(found.ids, found.targets, {}, None, *rows)


@pytest.mark.parametrize("n", [1, 2, 29])
def test_few_examples_of_an_unbounded_metric_prove_nothing(n):
    loss = RNG.random(n)
    for fields in ({"max_drop": 0.5}, {"at_most": 5.0}, {"max_ratio": 2.0}):
        comparison, verdict = judged(
            losses(loss, loss + 0.01), metrics={"loss": MEAN}, metric="loss", **fields
        )
        assert verdict.outcome == "inconclusive"
        assert (comparison.p_pass, comparison.p_fail) == (1.0, 1.0)
        assert comparison.method == jackknife.WORST_CASE


def test_a_perfect_model_of_which_nothing_spreads_proves_nothing():
    comparison, verdict = judged(
        losses(np.zeros(500), np.zeros(500)), metrics={"loss": MEAN}, metric="loss", at_most=0.1
    )
    assert comparison.method == jackknife.WORST_CASE
    assert verdict.outcome == "inconclusive"


@pytest.mark.parametrize(
    ("fields", "quantity"),
    [
        ({"max_drop": 0.2}, "drop"),
        ({"max_relative_drop": 0.3}, "relative_drop"),
        ({"max_ratio": 1.3}, "ratio"),
        ({"at_most": 0.8}, "value"),
    ],
)
def test_a_mean_loss_meets_every_kind_of_limit(fields, quantity):
    loss = RNG.random(800)
    for more, expected in ((0.02, "pass"), (0.6, "fail")):
        comparison, verdict = judged(
            losses(loss, loss + more * RNG.random(800) * 2),
            metrics={"loss": MEAN},
            metric="loss",
            **fields,
        )
        assert comparison.quantity == quantity
        assert verdict.outcome == expected
        limit = next(iter(fields.values()))
        assert (comparison.upper <= limit) == (expected == "pass")


def test_a_share_of_nothing_has_no_value():
    found = losses(np.zeros(100), np.ones(100))
    comparison, verdict = judged(found, metrics={"loss": MEAN}, metric="loss", max_ratio=1.1)
    assert (comparison.method, verdict.outcome) == ("undefined", "fail")


def test_a_class_that_a_group_holds_alone_leaves_the_metric_undefined():
    """AUROC with a single positive: one replicate has no value, so the metric has none."""
    scores = np.random.default_rng(0).random((400, 2))
    targets = (np.arange(400) == 5).astype(int)
    metric = TASK.observed(targets, {"score": Rows(np.zeros((1, 3)))})("auroc")
    rows = [Rows(np.stack([side, targets], axis=1)) for side in (scores[:, 0], scores[:, 0] + 1e-3)]
    found = evaluation(np.ones(400), np.ones(400))
    found = Evaluation(found.ids, targets, {}, None, {"score": rows[0]}, {"score": rows[1]})
    comparison, verdict = judged(found, metrics={"auroc": metric}, metric="auroc", max_drop=0.1)
    assert verdict.outcome in ("fail", "inconclusive")
    assert comparison.p_pass in (None, 1.0)


@pytest.mark.parametrize("cells", [(1, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 9, 0, 0)])
def test_villains_of_one_example_never_pass(cells):
    found = evaluation(*table(*cells))
    for fields in ({"max_drop": 0.01}, {"max_relative_drop": 0.01}, {"at_least": 0.9}):
        assert judged(found, metric="accuracy", **fields)[1].outcome != "pass"
    assert not math.isnan(judged(found, metric="accuracy", max_drop=0.01)[0].p_pass)


# ── harm where few units changed ──────────────────────────────────────────────────────────


def test_most_units_lost_is_harm_however_few_they_are():
    comparison, verdict = judged(clustered(40, 25, 29), metric="accuracy", max_drop=0.05)
    assert comparison.method == jackknife.WORST_CASE
    assert verdict.outcome == "fail"
    comparison, verdict = judged(clustered(40, 25, 29), metric="accuracy", at_least=0.9)
    assert verdict.outcome == "fail"
    comparison, verdict = judged(clustered(40, 25, 40), metric="accuracy", max_drop=0.05)
    assert verdict.outcome == "fail"  # nothing spreads, and all signs agree


@pytest.mark.parametrize("name", ["recall_macro", "f1_macro", "balanced_accuracy"])
def test_a_class_that_is_lost_is_harm(name):
    targets = np.repeat([0, 1], [471, 29])
    found, metrics = labels(targets, np.zeros(500, dtype=int), targets)
    comparison, verdict = judged(found, metrics=metrics, metric=name, max_drop=0.05)
    assert comparison.method == jackknife.WORST_CASE
    assert verdict.outcome == "fail"


def test_changes_both_ways_are_no_harm():
    fp32, int8, targets = release(1000, 16, worse=0.5)
    found, metrics = labels(fp32, int8, targets)
    comparison, _ = judged(found, metrics=metrics, metric="f1_macro", max_drop=0.0001)
    assert comparison.p_fail > 0.2


@pytest.mark.parametrize(("units", "rate"), [(40, 0.3), (300, 0.05)])
def test_at_the_limit_few_changes_rarely_fail(units, rate):
    fails = 0
    for _ in range(300):
        lost = int(RNG.binomial(units, rate))
        comparison, _ = judged(clustered(units, 2, lost), metric="accuracy", max_drop=rate)
        fails += comparison.p_fail <= 0.05
    assert fails <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)
