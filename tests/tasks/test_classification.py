"""Classification: kinds, targets, decoders, and agreement of every metric with scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import tasks
from gate.errors import DataError, EvaluationError, UsageError
from gate.policy import Build
from gate.tasks import _classification_rows as observed
from gate.values import Rows, TensorSpec

TASK = tasks.get("classification")
RNG = np.random.default_rng(0)


def bind(targets, first, *, decode="logits", classes=(), outputs=("y",)):
    build = Build(recipe="dynamic", decode=decode, classes=classes)
    specs = tuple(TensorSpec(name, "float32", (None,)) for name in outputs)
    return TASK.bind(build, specs, np.asarray(targets), dict.fromkeys(outputs, np.asarray(first)))


def measure(name, targets, scores, reference=None):
    """A metric's value on decoded scores."""
    targets, scores = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    metric = bind(targets, np.zeros((2, *scores.shape[1:]))).metric(name)
    return metric.summarize(Rows(metric.observe(scores, targets, reference)))


def agree(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


# ── scikit-learn as oracle ────────────────────────────────────────────────────────────────

LOGIT = st.one_of(
    st.sampled_from([-1e4, -1.0, 0.0, 1.0, 1e4]),
    st.floats(-30, 30, width=32),
)


@st.composite
def single_label(draw, smallest, largest):
    """Targets (N,) and logits (N, C), with ties, absent classes and constant predictions."""
    size, n = draw(st.integers(smallest, largest)), draw(st.integers(1, 12))
    present = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size))
    targets = draw(st.lists(st.sampled_from(present), min_size=n, max_size=n))
    value = st.just(draw(LOGIT)) if draw(st.booleans()) else LOGIT
    rows = st.lists(value, min_size=size, max_size=size)
    logits = draw(st.lists(rows, min_size=n, max_size=n))
    return np.array(targets), np.array(logits, dtype=np.float32)


@st.composite
def multi_label(draw):
    """Targets (N, L) and logits (N, L), with examples and labels that are empty."""
    count, n = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    bits = st.lists(st.integers(0, draw(st.integers(0, 1))), min_size=count, max_size=count)
    values = st.lists(LOGIT, min_size=count, max_size=count)
    targets = draw(st.lists(bits, min_size=n, max_size=n))
    logits = draw(st.lists(values, min_size=n, max_size=n))
    return np.array(targets), np.array(logits, dtype=np.float32)


AVERAGED = {
    f"{name}_{average}": (function, average)
    for name, function in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    )
    for average in ("macro", "micro")
}
POSITIVE = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


def check_averages(bound, targets, scores, predicted):
    for name, (function, average) in AVERAGED.items():
        agree(value(bound, name, targets, scores), function(targets, predicted, average=average))


def value(bound, name, targets, scores):
    metric = bound.metric(name)
    return metric.summarize(Rows(metric.observe(scores, targets, None)))


def check_positive(bound, targets, scores, predicted):
    for name, function in POSITIVE.items():
        # scikit-learn refuses an absent positive class by default; as a label it scores 0
        expected = function(targets, predicted, labels=[1], average="macro")
        agree(value(bound, name, targets, scores), expected)


@settings(max_examples=40, deadline=None)
@given(single_label(3, 5))
def test_multi_class_agrees_with_scikit_learn(example):
    targets, logits = example
    bound = bind(targets, np.zeros_like(logits))
    scores = bound.decode({"y": logits})
    size = scores.shape[1]
    predicted, labels = np.argmax(scores, axis=1), np.arange(size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(value(bound, "accuracy", targets, scores), sk.accuracy_score(targets, predicted))
        agree(
            value(bound, "balanced_accuracy", targets, scores),
            sk.balanced_accuracy_score(targets, predicted),
        )
        agree(value(bound, "mcc", targets, scores), sk.matthews_corrcoef(targets, predicted))
        check_averages(bound, targets, scores, predicted)
        agree(
            value(bound, "auroc", targets, scores),
            sk.roc_auc_score(targets, scores, multi_class="ovr", labels=labels),
        )
        agree(
            value(bound, "log_loss", targets, scores),
            sk.log_loss(targets, scores, labels=labels),
        )
        for k in range(1, size):
            agree(
                value(bound, f"top{k}_accuracy", targets, scores),
                sk.top_k_accuracy_score(targets, scores, k=k, labels=labels),
            )


@settings(max_examples=40, deadline=None)
@given(single_label(2, 2), st.sampled_from(["two classes", "column", "flat"]))
def test_binary_agrees_with_scikit_learn(example, form):
    targets, logits = example
    raw = {"two classes": logits, "column": logits[:, :1], "flat": logits[:, 0]}[form]
    bound = bind(targets, np.zeros_like(raw))
    scores = bound.decode({"y": raw})
    positive = scores[:, -1]
    predicted = (positive > 0.5).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(value(bound, "accuracy", targets, scores), sk.accuracy_score(targets, predicted))
        agree(
            value(bound, "balanced_accuracy", targets, scores),
            sk.balanced_accuracy_score(targets, predicted),
        )
        agree(value(bound, "mcc", targets, scores), sk.matthews_corrcoef(targets, predicted))
        check_averages(bound, targets, scores, predicted)
        check_positive(bound, targets, scores, predicted)
        agree(value(bound, "auroc", targets, scores), sk.roc_auc_score(targets, positive))
        agree(
            value(bound, "log_loss", targets, scores),
            sk.log_loss(targets, positive if scores.shape[1] == 1 else scores, labels=[0, 1]),
        )
        agree(
            value(bound, "top1_accuracy", targets, scores),
            sk.top_k_accuracy_score(targets, positive, k=1, labels=[0, 1]),
        )


@settings(max_examples=40, deadline=None)
@given(multi_label())
def test_multi_label_agrees_with_scikit_learn(example):
    targets, logits = example
    bound = bind(targets, np.zeros_like(logits))
    scores = bound.decode({"y": logits})
    predicted = (scores > 0.5).astype(int)
    columns = range(targets.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(value(bound, "accuracy", targets, scores), (predicted == targets).all(axis=1).mean())
        agree(
            value(bound, "auroc", targets, scores),
            np.mean([sk.roc_auc_score(targets[:, i], scores[:, i]) for i in columns]),
        )
        agree(
            value(bound, "log_loss", targets, scores),
            np.mean([sk.log_loss(targets[:, i], scores[:, i], labels=[0, 1]) for i in columns]),
        )
        if targets.shape[1] > 1:  # scikit-learn takes one column for binary targets
            agree(value(bound, "accuracy", targets, scores), sk.accuracy_score(targets, predicted))
            agree(value(bound, "auroc", targets, scores), sk.roc_auc_score(targets, scores))
            check_averages(bound, targets, scores, predicted)
        else:
            check_single_label_averages(bound, targets, scores, predicted)


def check_single_label_averages(bound, targets, scores, predicted):
    for name, (function, _) in AVERAGED.items():
        expected = function(targets[:, 0], predicted[:, 0], labels=[1], average="macro")
        agree(value(bound, name, targets, scores), expected)


def test_large_samples_agree_with_scikit_learn():
    targets = RNG.integers(0, 6, 3000)
    logits = RNG.normal(0, 1, (3000, 6)) + 2 * np.eye(6)[targets]
    bound = bind(targets, logits)
    scores = bound.decode({"y": logits})
    predicted = scores.argmax(axis=1)
    check_averages(bound, targets, scores, predicted)
    agree(
        value(bound, "auroc", targets, scores),
        sk.roc_auc_score(targets, scores, multi_class="ovr"),
    )
    agree(value(bound, "log_loss", targets, scores), sk.log_loss(targets, scores))
    agree(
        value(bound, "top5_accuracy", targets, scores),
        sk.top_k_accuracy_score(targets, scores, k=5),
    )


def test_more_labels_than_one_bit_pattern_holds():
    targets, logits = RNG.integers(0, 2, (200, 130)), RNG.normal(0, 1, (200, 130))
    bound = bind(targets, logits)
    scores = bound.decode({"y": logits})
    rows = bound.metric("accuracy").observe(scores, targets, None)
    assert rows.shape == (200, 6)
    check_averages(bound, targets, scores, (scores > 0.5).astype(int))
    agree(value(bound, "auroc", targets, scores), sk.roc_auc_score(targets, scores))


@given(st.integers(0, 160).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)))
def test_bit_patterns_are_exact(bits):
    labels = np.array([bits, bits[::-1]], dtype=np.int64)
    np.testing.assert_array_equal(observed.unpack(observed.pack(labels), len(bits)), labels)


# ── metrics by hand ───────────────────────────────────────────────────────────────────────


def test_rows_are_the_smallest_statistics():
    targets, raw = np.arange(40) % 8, RNG.normal(size=(40, 8))
    bound = bind(targets, raw)
    scores = bound.decode({"y": raw})
    widths = {
        metric.observation: metric.observe(scores, targets, scores).shape[1]
        for metric in bound.metrics.values()
    }
    assert widths == {"label": 2, "top5": 1, "score": 9, "log_loss": 1, "confidence": 2, "flip": 1}
    rows = bound.metric("accuracy").observe(scores, targets, None)
    np.testing.assert_array_equal(rows, np.stack([scores.argmax(axis=1), targets], axis=1))


def test_of_two_classes_the_score_rows_keep_the_positive_one():
    bound = bind([0, 1], [[0.0, 1.0], [2.0, 3.0]])
    rows = bound.metric("auroc").observe(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([0, 1]), None)
    np.testing.assert_array_equal(rows, [[0.7, 0], [0.4, 1]])


def test_ties_go_to_the_first_class_and_top_k_to_the_later_ones():
    tied = np.full((4, 4), 0.25)
    assert measure("accuracy", [0, 1, 2, 3], tied) == 0.25
    metric = bind([0, 1, 2, 3], np.zeros((2, 4))).metric("top2_accuracy")
    rows = metric.observe(tied, np.array([0, 1, 2, 3]), None)
    np.testing.assert_array_equal(rows[:, 0], [0, 0, 1, 1])


def test_one_half_is_not_yet_positive():
    assert measure("accuracy", [0, 1], [[0.5], [0.5]]) == 0.5
    assert measure("accuracy", [[0, 0]], [[0.5, 0.5]]) == 1.0


def test_int8_softmax_is_renormalised_before_the_loss():
    rows = np.array([[0.5, 0.25, 0.26], [0.1, 0.8, 0.12]])
    exact = rows / rows.sum(axis=1, keepdims=True)
    agree(measure("log_loss", [0, 2], rows), sk.log_loss([0, 2], exact, labels=[0, 1, 2]))


def test_a_softmax_that_quantized_to_nothing_is_the_worst_loss():
    worst = -math.log(np.finfo(np.float64).eps)
    agree(measure("log_loss", [1, 2], np.zeros((2, 3))), worst)


def test_auroc_is_undefined_where_a_class_is_absent():
    assert math.isnan(measure("auroc", [1, 1], [[0.2], [0.7]]))
    assert math.isnan(measure("auroc", [0, 1, 1], np.eye(3)))
    assert math.isnan(measure("auroc", [[0, 1], [1, 1]], np.eye(2)))


def test_flips_count_changed_predictions_right_or_wrong():
    reference = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    scores = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.4, 0.3, 0.3], [0.3, 0.5, 0.2]])
    assert measure("prediction_flips", [0, 0, 1, 0], scores, reference) == 0.75
    assert measure("prediction_flips", [0, 0, 1, 0], scores) == 0


def test_a_flip_of_any_label_is_one_flip():
    reference = np.array([[0.9, 0.9], [0.9, 0.1], [0.1, 0.1]])
    scores = np.array([[0.1, 0.1], [0.9, 0.9], [0.2, 0.3]])
    assert measure("prediction_flips", [[1, 1], [1, 0], [0, 0]], scores, reference) == 2 / 3


def test_a_broken_reference_is_a_nan_flip():
    scores = np.array([[0.9, 0.1, 0.0]] * 2)
    reference = np.array([[np.nan] * 3, [0.9, 0.1, 0.0]])
    metric = bind([0, 1], np.zeros((2, 3))).metric("prediction_flips")
    rows = metric.observe(scores, np.array([0, 1]), reference)
    np.testing.assert_array_equal(rows, [[np.nan], [0]])
    assert metric.per_example(Rows(rows)).tolist() == [True, False]


def test_nan_is_never_a_right_prediction():
    bound = bind([0, 1], np.zeros((2, 3)))
    scores = np.array([[np.nan] * 3, [0.1, 0.8, 0.1]])
    for name in ("accuracy", "top1_accuracy"):
        metric = bound.metric(name)
        rows = Rows(metric.observe(scores, np.array([0, 1]), None))
        assert metric.per_example(rows).tolist() == [False, True]
        assert math.isnan(metric.summarize(rows))


EMPTY = {
    "multi-class": bind(np.zeros(0, int), np.zeros((0, 9))),
    "two classes": bind(np.zeros(0, int), np.zeros((0, 2))),
    "binary": bind(np.zeros(0, int), np.zeros((0, 1))),
    "multi-label": bind(np.zeros((0, 3), int), np.zeros((0, 3))),
}


@pytest.mark.parametrize(
    ("problem", "name"), [(problem, name) for problem in EMPTY for name in EMPTY[problem].metrics]
)
def test_no_examples_are_nan(problem, name):
    bound, columns = EMPTY[problem], {"multi-class": 9, "two classes": 2, "binary": 1}
    scores = np.zeros((0, columns.get(problem, 3)))
    targets = np.zeros((0, 3) if problem == "multi-label" else 0, dtype=int)
    rows = Rows(bound.metric(name).observe(scores, targets, scores))
    assert len(rows) == 0
    assert math.isnan(bound.metric(name).summarize(rows))


def test_directions():
    bound = bind([0, 1], np.zeros((2, 3)))
    lower = {name for name, metric in bound.metrics.items() if not metric.higher_is_better}
    assert lower == {"log_loss", "ece", "prediction_flips"}


def test_many_examples_and_classes_take_seconds():
    n, size = 5000, 1000
    targets = np.arange(n) % size
    scores = RNG.random((n, size))
    bound = bind(targets, np.zeros((2, size)))
    for metric in bound.metrics.values():
        assert math.isfinite(metric.summarize(Rows(metric.observe(scores, targets, scores))))


# ── kinds ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("targets", "output", "kind"),
    [
        ((4,), (2, 3), "multi-class"),
        ((4,), (2, 2), "multi-class"),
        ((4,), (2, 1), "binary"),
        ((4,), (2,), "binary"),
        ((4, 3), (2, 3), "multi-label"),
        ((4, 1), (2, 1), "multi-label"),
    ],
)
def test_shapes_tell_the_kind(targets, output, kind):
    assert bind(np.zeros(targets, int), np.zeros(output)).kind == kind


@pytest.mark.parametrize(
    ("targets", "output", "message"),
    [
        ((4, 2), (2, 3), r"targets \(N, 2\) and output 'y' \(B, 3\) do not fit together"),
        ((4, 1), (2, 3), r"targets \(N, 1\)"),
        ((4, 3), (2,), r"output 'y' \(B,\)"),
        ((4,), (2, 3, 5), r"output 'y' \(B, 3, 5\)"),
        ((4,), (2, 0), r"output 'y' \(B, 0\)"),
        ((4, 2, 2), (2, 2), r"targets \(N, 2, 2\)"),
        ((4,), (), r"output 'y' \(\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(targets, output, message):
    with pytest.raises(DataError, match=message):
        bind(np.zeros(targets, int), np.zeros(output))


def test_metrics_stand_in_the_order_of_a_report():
    averages = [f"{name}_{kind}" for kind in ("macro", "micro") for name in POSITIVE]
    last = ["auroc", "log_loss", "ece", "prediction_flips"]
    labels = [name for name in last if name != "ece"]
    multi_class = ["accuracy", "top5_accuracy", "balanced_accuracy", *averages, *last]
    assert list(bind([0, 1], np.zeros((2, 6))).metrics) == multi_class
    binary = ["accuracy", "balanced_accuracy", *POSITIVE, *averages, *last]
    assert list(bind([0, 1], np.zeros((2, 1))).metrics) == binary
    assert list(bind([0, 1], np.zeros((2, 2))).metrics) == binary
    assert list(bind([[0, 1]], np.zeros((2, 2))).metrics) == ["accuracy", *averages, *labels]


@pytest.mark.parametrize(
    ("name", "targets", "output", "message"),
    [
        ("f1", (4,), (2, 3), "'f1' does not apply to multi-class .*use f1_macro or f1_micro"),
        (
            "precision",
            (4, 2),
            (2, 2),
            "'precision' does not apply to multi-label .*precision_macro",
        ),
        ("recall", (4,), (2, 3), "use recall_macro"),
        ("balanced_accuracy", (4, 2), (2, 2), "use recall_macro"),
        ("mcc", (4, 2), (2, 2), "use f1_macro or f1_micro"),
        ("top2_accuracy", (4, 3), (2, 3), "'top2_accuracy' does not apply to multi-label"),
        ("top3_accuracy", (4,), (2, 3), "'top3_accuracy' is always 1 with 3 classes"),
        ("top5_accuracy", (4,), (2, 5), "always 1 with 5 classes; use a k below 5"),
        ("top2_accuracy", (4,), (2, 1), "always 1 with 2 classes"),
        ("top0_accuracy", (4,), (2, 3), "unknown metric 'top0_accuracy'"),
        ("acuracy", (4,), (2, 3), "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ("size", (4,), (2, 3), "unknown metric 'size'"),
        ("output_cosine", (4,), (2, 1), "'output_cosine' does not apply to binary .*use kl_div"),
        ("output_cosine", (4, 1), (2, 1), "'output_cosine' does not apply to binary|multi-label"),
    ],
)
def test_metrics_that_do_not_apply_say_what_does(name, targets, output, message):
    bound = bind(np.zeros(targets, int), np.zeros(output))
    with pytest.raises(UsageError, match=message):
        bound.metric(name)


def test_what_a_metrics_name_tells():
    proportions = {"accuracy", "top5_accuracy", "prediction_flips"}
    assert {name for name, traits in TASK.known.items() if traits.proportion} == proportions
    assert TASK.traits("top17_accuracy").proportion
    assert not TASK.traits("auroc").proportion
    assert TASK.traits("top0_accuracy") is None
    assert TASK.traits("top_accuracy") is None
    relative = {name for name, traits in TASK.known.items() if traits.relative}
    assert relative == {"prediction_flips", "kl_divergence", "output_cosine", "sqnr"}


# ── targets ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float16, object])
def test_targets_come_as_any_whole_number(dtype):
    targets = np.array([0, 2, 1]).astype(dtype)
    assert value(bind(targets, np.zeros((2, 3))), "accuracy", targets, np.eye(3)[[0, 2, 1]]) == 1


def test_targets_come_as_booleans():
    targets = np.array([True, False])
    assert (
        value(bind(targets, np.zeros((2, 1))), "accuracy", targets, np.array([[0.9], [0.1]])) == 1
    )


MULTI, BINARY = (2, 3), (2,)


@pytest.mark.parametrize(
    ("targets", "output", "message"),
    [
        ([0, 1, 3], MULTI, "example 2 .*is 3; expected a class, 0 to 2"),
        ([0, -1, 3], MULTI, "example 1 .*is -1; expected a class, 0 to 2"),
        ([0.0, np.nan], MULTI, "example 1 .*is nan"),
        ([np.inf, 0], MULTI, "example 0 .*is inf"),
        ([0, 0.5], MULTI, "example 1 .*is 0.5"),
        ([2**63], MULTI, "example 0 .*is 9223372036854775808"),
        ([0, 2], BINARY, "example 1 .*is 2; expected 0 or 1"),
        ([[0, 1], [1, -1]], (2, 2), r"example 1 .*, label 1, is -1; expected 0 or 1"),
        ([[0, 1], [np.nan, 1]], (2, 2), r"example 1 .*, label 0, is nan"),
        (["1", "0"], BINARY, "example 0 .*is '1'; expected 0 or 1; for names, .*`build.classes`"),
        (["cat"], MULTI, "is 'cat'; expected a class, 0 to 2; for names, .*`build.classes`"),
        ([["a", "b"]], (2, 2), "example 0 .*is 'a'; expected 0 or 1"),
        (np.array([0, None], object), MULTI, "`build.classes`"),
        ([1j], MULTI, "targets hold complex128; expected each to be a class, 0 to 2"),
        (np.array([0], "M8[s]"), MULTI, "targets hold datetime64"),
        ([b"cat"], MULTI, "targets hold |S3"),
    ],
)
def test_targets_that_are_no_classes_are_named(targets, output, message):
    with pytest.raises(DataError, match=message):
        bind(targets, np.zeros(output))


@pytest.mark.parametrize("dtype", [str, object, "StringDType"])
def test_names_become_classes(dtype):
    dtype = np.dtypes.StringDType() if dtype == "StringDType" else dtype
    targets = np.array(["owl", "cat", "owl"], dtype=dtype)
    bound = bind(targets, np.zeros((2, 3)), classes=("cat", "dog", "owl"))
    assert value(bound, "accuracy", targets, np.eye(3)[[2, 0, 1]]) == 2 / 3


def test_a_lone_output_has_two_classes():
    targets = np.array(["yes", "no"])
    bound = bind(targets, np.zeros((2, 1)), classes=("no", "yes"))
    assert value(bound, "recall", targets, np.array([[0.9], [0.1]])) == 1


def test_indices_may_be_used_beside_class_names():
    assert bind([0, 2], np.zeros((2, 3)), classes=("a", "b", "c")).kind == "multi-class"


@pytest.mark.parametrize("odd", ["emu", "", None, 3, ("cat",)])
def test_a_name_that_is_no_class_is_named(odd):
    targets = np.empty(3, dtype=object)
    targets[:] = ["cat", odd, "emu"]
    with pytest.raises(
        DataError, match=r"example 1 .* expected a name in `build.classes`: cat,"
    ) as e:
        bind(targets, np.zeros((2, 3)), classes=("cat", "dog", "owl"))
    assert repr(odd) in str(e.value)


@pytest.mark.parametrize(
    ("classes", "targets", "output", "message"),
    [
        (
            ("a", "b"),
            [0],
            (2, 3),
            r"name the 3 classes of output 'y' \(multi-class\).* has 2 names",
        ),
        (("a", "b", "b"), [0], (2, 3), "3 names, 2 of them distinct"),
        (("a",), [0], (2, 1), r"name the 2 classes of output 'y' \(binary\)"),
        (("a",), [[0, 1]], (2, 2), r"name the 2 labels of output 'y' \(multi-label\)"),
    ],
)
def test_class_names_must_be_as_many_as_outputs(classes, targets, output, message):
    with pytest.raises(UsageError, match=message):
        bind(targets, np.zeros(output), classes=classes)


# ── outputs and decoders ──────────────────────────────────────────────────────────────────


def test_several_outputs_need_a_choice():
    with pytest.raises(
        UsageError, match=r"2 outputs \(a, b\).*`decode: {as: logits, output: NAME}`"
    ):
        bind([0], np.zeros((2, 3)), outputs=("a", "b"))


def test_an_unknown_output_lists_the_known_ones():
    with pytest.raises(
        UsageError, match=r"unknown output 'logit'; did you mean 'logits'.*Known: box"
    ):
        bind(
            [0],
            np.zeros((2, 3)),
            decode={"as": "logits", "output": "logit"},
            outputs=("box", "logits"),
        )


def test_the_chosen_output_is_read():
    build = Build(recipe="dynamic", decode={"as": "logits", "output": "b"})
    specs = tuple(TensorSpec(name, "float32", (None,)) for name in "ab")
    first = {"a": np.zeros((1, 9, 9)), "b": np.array([[0.0, 5.0]])}
    bound = TASK.bind(build, specs, np.array([1]), first)
    assert bound.decode(first).argmax() == 1


def test_an_unknown_decoder_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown decoder 'logit'; did you mean 'logits'"):
        bind([0], np.zeros((2, 3)), decode="logit")


@pytest.mark.parametrize("dtype", [np.int64, object])
def test_an_output_of_labels_is_refused(dtype):
    with pytest.raises(DataError, match=r"output 'y' holds .*, not floating-point scores"):
        bind([0, 1], np.zeros(2, dtype=dtype))


def test_extreme_logits_stay_probabilities():
    raw = np.array([[1e4, -1e4, 0], [3e38, -3e38, 3e38]], dtype=np.float32)
    scores = bind([0], raw).decode({"y": raw})
    np.testing.assert_array_equal(scores, [[1, 0, 0], [0.5, 0, 0.5]])
    one = np.array([1e4, -1e4, 0.0, -40.0])
    np.testing.assert_allclose(
        bind([0], one).decode({"y": one})[:, 0], [1, 0, 0.5, 4.248354255e-18], rtol=1e-9
    )
    vast = np.array([[1e308, -1e308, -1e308]])
    np.testing.assert_array_equal(bind([0], vast).decode({"y": vast}), [[1, 0, 0]])


def test_probabilities_are_taken_as_they_are():
    raw = np.array([[0.1, 0.9], [0.5, 0.5004]], dtype=np.float32)
    scores = bind([0], raw, decode="probabilities").decode({"y": raw})
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, raw.astype(np.float64))


@pytest.mark.parametrize("decode", ["logits", "probabilities"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_value_makes_all_of_its_examples_scores_nan(decode, broken):
    raw = np.array([[0.25, broken, 0.75], [0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    scores = bind([0], raw[1:2], decode=decode).decode({"y": raw})
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1:]).all()


def test_broken_fp32_outputs_do_not_disturb_the_check_of_the_decoder():
    raw = np.array([[np.nan, 1, 1], [0.2, 0.3, 0.5], [5.0, 0.0, 0.0]])
    assert bind([0], raw[:2], decode="probabilities").kind == "multi-class"
    with pytest.raises(DataError, match="has 5 for example 2"):
        bind([0], raw, decode="probabilities")


@pytest.mark.parametrize(
    ("targets", "first", "message"),
    [
        ([0], [[0.2, 0.3, 0.5], [0.2, 1.3, 0.1]], "has 1.3 for example 1"),
        ([0], [[-0.2, 1.0, 0.2]], "has -0.2 for example 0"),
        ([0], [[0.2, 0.3, 0.4]], "sums to 0.9, not 1 for example 0"),
        ([0], [[0.2], [7.0]], "has 7 for example 1"),
        ([0], [0.5, -3.0], "has -3 for example 1"),
        ([[0, 1]], [[0.5, 2.0]], "has 2 for example 0"),
    ],
)
def test_logits_are_no_probabilities(targets, first, message):
    with pytest.raises(DataError, match=message) as raised:
        bind(targets, first, decode="probabilities")
    assert "write `decode: logits`" in str(raised.value)


@pytest.mark.parametrize(
    ("targets", "first"),
    [
        ([0], [[0.3332, 0.3332, 0.3332]]),
        ([0], [[0.2], [0.7]]),
        ([[0, 1]], [[0.9, 0.9], [0.0, 0.0]]),
        ([0], np.float32([[1.0000002, 0.0]])),
    ],
)
def test_probabilities_are_taken_for_such(targets, first):
    assert bind(targets, first, decode="probabilities").kind


def test_probabilities_are_no_logits():
    with pytest.raises(DataError, match=r"all 2 examples .*write `decode: probabilities`"):
        bind([0], [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("targets", "first"),
    [([0], [[0.2], [0.8]]), ([0], [0.2, 0.8]), ([[0, 1]], [[0.2, 0.8], [0.3, 0.7]])],
)
def test_a_sigmoid_that_has_been_applied_is_not_applied_again(targets, first):
    with pytest.raises(DataError, match=r"lie in 0\.\.1; write `decode: probabilities`"):
        bind(targets, first)


@pytest.mark.parametrize(
    ("targets", "first"),
    [
        ([0], [[0.2, 0.3, 0.5]]),
        ([0], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.51]]),
        ([0], [[0.2, 0.3, 0.5], [-0.1, 0.6, 0.5]]),
        ([0], [[0.2], [1.8]]),
        ([[0, 1]], [[0.2, 0.8], [-0.3, 0.7]]),
    ],
)
def test_logits_are_taken_for_such(targets, first):
    assert bind(targets, first).kind


def test_an_int8_model_with_other_outputs_is_refused():
    decode = bind([0], np.zeros((2, 3))).decode
    with pytest.raises(EvaluationError, match="gives no output 'y', only z"):
        decode({"z": np.zeros((2, 3))})
    with pytest.raises(EvaluationError, match=r"has shape \(B, 4\); expected \(B, 3\)"):
        decode({"y": np.zeros((2, 4))})


def test_many_classes_keep_no_scores_unasked_and_can_be_judged_again():
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 101, 400), rng.random((400, 101))
    bound = bind(targets, scores[:2])
    assert "auroc" not in bound.metrics
    rows = {
        metric.observation: Rows(metric.observe(scores, targets, None))
        for metric in bound.metrics.values()
    }
    assert max(row.values.shape[1] for row in rows.values()) <= 2
    again = TASK.observed(targets, rows)
    for name, metric in bound.metrics.items():
        agree(again(name).summarize(rows[metric.observation]), value(bound, name, targets, scores))


@pytest.mark.parametrize("occurring", [2, 4, 120])
def test_of_many_classes_those_that_do_not_occur_change_no_judgement(occurring):
    rng = np.random.default_rng(0)
    targets = np.arange(600) % occurring
    scores = rng.random((600, 200))
    scores[np.arange(600), targets] += 0.9
    scores[:, occurring:] = 0
    bound = bind(targets, scores[:2])
    asked = ("accuracy", "top5_accuracy", "top150_accuracy", "f1_macro", "precision_macro")
    metrics = {name: bound.metric(name) for name in (*asked, "recall_macro", "mcc")}
    rows = {m.observation: Rows(m.observe(scores, targets, None)) for m in metrics.values()}
    again = TASK.observed(targets, rows)
    for name, metric in metrics.items():
        own = rows[metric.observation]
        agree(again(name).summarize(own), metric.summarize(own))
        np.testing.assert_array_equal(again(name).reach(own), metric.reach(own))


def test_int8_may_predict_a_class_that_fp32_never_does():
    targets = np.arange(300) % 150
    fp32, int8 = (5 * np.eye(200)[seen] for seen in (targets, np.where(targets == 7, 199, targets)))
    metric = bind(targets, fp32[:2]).metric("f1_macro")
    rows = {"label": Rows(metric.observe(fp32, targets, None))}
    own = Rows(metric.observe(int8, targets, None))
    again = TASK.observed(targets, rows)("f1_macro").summarize(own)
    agree(again, metric.summarize(own))
    agree(again, sk.f1_score(targets, int8.argmax(axis=1), average="macro", zero_division=0))


def test_without_labels_a_lone_score_has_no_cosine():
    spec = TensorSpec("y", "float32", (None, 1))
    bound = TASK.bind(Build(recipe="dynamic"), (spec,), None, {"y": np.zeros((2, 1))})
    assert "output_cosine" not in bound.metrics
    with pytest.raises(UsageError, match="does not apply to binary classification"):
        bound.metric("output_cosine")
    with pytest.raises(UsageError, match="'accuracy' needs labels"):
        bound.metric("accuracy")


# ── calibration error ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_calibration_error_is_the_gap_in_fifteen_bins(width):
    scores = RNG.random((300, width))
    scores = scores if width == 1 else scores / scores.sum(axis=1, keepdims=True)
    targets = RNG.integers(0, max(width, 2), 300)
    if width == 1:
        confident, predicted = np.maximum(scores, 1 - scores)[:, 0], (scores[:, 0] > 0.5)
    else:
        confident, predicted = scores.max(axis=1), scores.argmax(axis=1)
    right = predicted == targets
    expected = 0.0
    for low in range(15):
        here = (confident >= low / 15) & (confident < (low + 1) / 15)
        if here.any():
            expected += abs(right[here].mean() - confident[here].mean()) * here.mean()
    agree(measure("ece", targets, scores), expected)


# ── how far one change moves a metric ─────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_no_single_change_moves_a_metric_further_than_its_sway(kind):
    rng = np.random.default_rng(1)
    for turn in range(12):
        n, size = 24, {"binary": 2, "multi-class": 3, "multi-label": 2}[kind]
        if kind == "multi-label":
            targets = rng.integers(0, 2, (n, size))
            predicted = np.where(rng.random((n, size)) < 0.8, targets, 1 - targets)
            choices = [np.array(bits) for bits in ((0, 0), (0, 1), (1, 0), (1, 1))]
        else:
            targets = np.arange(n) % size
            predicted = np.where(rng.random(n) < 0.8, targets, rng.integers(0, size, n))
            choices = list(range(size))
        if turn % 3 == 0 and kind == "multi-class":  # as in a slice that one class is left out of
            targets, predicted = targets % 2, predicted % 2
        bound = bind(targets, np.zeros((2, size)) if kind != "binary" else np.zeros((2, 1)))

        def coded(labels, kind=kind, targets=targets):
            if kind == "multi-label":
                return np.hstack([observed.pack(labels), observed.pack(targets)])
            return np.stack([labels, targets], axis=1).astype(float)

        before = Rows(coded(predicted))
        for metric in bound.metrics.values():
            if metric.observation != "label":
                continue
            reach, value = metric.reach(before), metric.summarize(before)
            places = [(row, choice) for row in range(n) for choice in choices]
            for row, choice in places:
                after = predicted.copy()
                after[row] = choice
                changed = Rows(coded(after))
                moved = value - metric.summarize(changed)
                assert moved * n <= reach[row] + 1e-9, (metric.name, row)
                unseen = (metric.seen(before)[row] == metric.seen(changed)[row]).all()
                assert not unseen or moved <= 1e-12 or np.isinf(reach[row])


@pytest.mark.parametrize("size", [1, 4, 60], ids=["binary", "classes", "labels in two words"])
def test_auroc_by_column_is_the_same_to_the_last_bit(size):
    labels = RNG.integers(0, 2, (500, size)) if size == 60 else RNG.integers(0, max(size, 2), 500)
    scores = RNG.random((500, size)).round(2)
    bound = bind(labels, np.zeros((2, size)))
    metric = bound.metric("auroc")
    rows = Rows(metric.observe(scores, labels, None))
    value = metric.summarize(rows)
    assert 0 < value < 1
    order = RNG.permutation(500)
    assert metric.by_column(lambda column: rows.flat[order, column]) == value
