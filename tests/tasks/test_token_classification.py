"""Token classification: spans agree with conlleval's rules written out; bad labels are named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.values import Rows, TensorSpec

TASK = tasks.get("token_classification")
NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-MISC")
RNG = np.random.default_rng(0)


def bind(targets, tokens, *, classes=NAMES, size=None):
    first = np.zeros((1, tokens, size or len(classes)))
    build = Build(recipe="dynamic", classes=classes)
    specs = (TensorSpec("y", "float64", (None, *first.shape[1:])),)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), {"y": first})


def rows(name, targets, predicted, reference=None):
    """Of label numbers."""
    targets, predicted = np.asarray(targets), np.asarray(predicted, dtype=float)
    metric = bind(targets, targets.shape[1]).metric(name)
    return metric, Rows(metric.observe(predicted, targets, reference))


def value(name, targets, predicted, reference=None):
    metric, found = rows(name, targets, predicted, reference)
    return metric.summarize(found)


# ── conlleval, one token after another ────────────────────────────────────────────────────


def spans_of(labels):
    """(type, first, last) of each span of label names, as conlleval.pl walks through them."""
    found, open_type, begin = set(), None, 0
    for place, label in enumerate([*labels, "O"]):
        kind = None if label == "O" else label[2:]
        goes_on = open_type is not None and label == f"I-{open_type}"
        if open_type is not None and not goes_on:
            found.add((open_type, begin, place - 1))
            open_type = None
        if kind is not None and not goes_on:
            open_type, begin = kind, place
    return found


def by_hand(targets, predicted):
    hit = guessed = actual = 0
    for truth, guess in zip(targets, predicted, strict=True):
        kept = truth != -100
        one = spans_of([NAMES[i] for i in truth[kept]])
        other = spans_of([NAMES[i] for i in guess[kept]])
        hit, guessed, actual = hit + len(one & other), guessed + len(other), actual + len(one)
    precision = hit / guessed if guessed else 0.0
    recall = hit / actual if actual else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
    return {"span_precision": precision, "span_recall": recall, "span_f1": f1}


@st.composite
def sentences(draw):
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    label = st.integers(0, len(NAMES) - 1)
    actual = draw(arrays(np.int64, shape, elements=st.one_of(label, st.just(-100))))
    noise = draw(arrays(np.int64, shape, elements=label))
    changed = draw(arrays(np.bool_, shape)) & draw(arrays(np.bool_, shape))
    return actual, np.where(changed | (actual < 0), noise, actual)


@settings(max_examples=150, deadline=None)
@given(sentences())
def test_spans_are_those_of_conlleval(example):
    actual, predicted = example
    for name, expected in by_hand(actual, predicted).items():
        assert value(name, actual, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("actual", "predicted", "expected"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", (1, 1, 1)),
        ("B-PER I-PER O", "I-PER I-PER O", (1, 1, 1)),  # a span may begin with I
        ("B-PER I-PER O", "B-PER B-PER O", (0, 2, 1)),  # B begins another one
        ("B-PER I-PER O", "B-PER I-LOC O", (0, 2, 1)),  # and so does another type
        ("B-PER O B-LOC", "B-PER O O", (1, 1, 2)),
        ("O O I-LOC", "O I-LOC I-LOC", (0, 1, 1)),
    ],
)
def test_rows_count_spans(actual, predicted, expected):
    told = [[[NAMES.index(name) for name in side.split()]] for side in (actual, predicted)]
    np.testing.assert_array_equal(rows("span_f1", *told)[1].values, [expected])


def test_no_span_reaches_into_the_next_example():
    np.testing.assert_array_equal(
        rows("span_f1", [[0, 1], [2, 0]], [[0, 1], [2, 0]])[1].values, [[1, 1, 1], [1, 1, 1]]
    )


def test_tokens_that_count_for_nothing_are_left_out():
    actual = [[-100, 1, -100, 2, 0], [-100] * 5]
    predicted = [[3, 1, 0, 2, 3], [1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(
        rows("span_f1", actual, predicted)[1].values, [[1, 2, 1], [0, 0, 0]]
    )
    assert value("token_accuracy", actual, predicted) == pytest.approx(2 / 3)
    assert value("span_recall", actual, predicted) == 1
    assert value("span_f1", [[0, 0]], [[0, 0]]) == 0  # as seqeval: nothing to find, nothing found


def test_flips_are_of_tokens_that_count():
    actual, fp32 = [[0, 1, -100], [0, -100, -100]], np.array([[0, 1, 2], [0, 3, 4.0]])
    int8 = [[0, 2, 0], [0, 1, 1]]
    assert value("token_flips", actual, int8, fp32) == pytest.approx(1 / 3)
    assert value("prediction_flips", actual, int8, fp32) == 0.5
    bound = bind(None, 3)
    assert list(bound.metrics) == ["prediction_flips", "token_flips"]
    observed = bound.metric("token_flips").observe(np.array(int8, float), None, fp32)
    np.testing.assert_array_equal(observed, [[2, 3], [2, 3]])


def test_a_model_that_no_longer_tells_begin_from_inside_loses_spans_and_few_tokens():
    """The villain: two close logits that quantize to one code, where the first label wins."""
    actual = np.tile([1, 1, 2, 0, 0, 0, 0, 0, 0, 0], (50, 1))
    scores = np.eye(len(NAMES))[actual]
    scores[:, :, 2] = np.where(actual == 2, 1.01, scores[:, :, 2])
    scores[:, :, 1] = np.where(actual == 2, 1.0, scores[:, :, 1])
    bound, told = bind(actual, 10), {}
    for name in ("span_f1", "token_accuracy"):
        metric = bound.metric(name)
        told[name] = [
            metric.summarize(Rows(metric.observe(bound.decode({"y": side}), actual, None)))
            for side in (scores, np.round(scores, 1))
        ]
    assert told["span_f1"][0] == told["token_accuracy"][0] == 1
    assert told["token_accuracy"][1] == 0.9
    assert told["span_f1"][1] == pytest.approx(0.4)


# ── what does not fit ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            [[0, 1], [0, 6]],
            r"example 1 \(counting from 0\), token 1, is 6; expected a label, 0 to 5",
        ),
        ([[0, -1]], "is -1; expected a label, 0 to 5, or -100 for none"),
        ([[0, 0.5]], "is 0.5"),
        ([["O", "B-PER"]], "token 0, is 'O'"),
        ([[0, 1, 2]], r"targets \(N, 3\) and output 'y' \(B, 2, 6\) do not fit"),
        ([0, 1], r"targets \(N,\)"),
    ],
)
def test_targets_that_are_no_labels_are_refused(targets, message):
    with pytest.raises(DataError, match=message):
        bind(targets, 2)


def test_labels_are_iob2():
    with pytest.raises(UsageError, match="IOB2 labels: O, B-PER, I-PER, …; 'E-PER' is none"):
        bind(None, 2, classes=("O", "B-PER", "E-PER"))
    with pytest.raises(UsageError, match=r"must name the 3 labels of output 'y'.*it has 2 names"):
        bind(None, 2, classes=("O", "B-PER"), size=3)
    with pytest.raises(UsageError, match="it has 3 names, 2 of them distinct"):
        bind(None, 2, classes=("O", "B-PER", "O"))


def test_metrics_by_name():
    bound = bind([[0, 1]], 2)
    assert list(bound.metrics) == list(TASK.known)
    with pytest.raises(UsageError, match="unknown metric 'span_f2'; did you mean 'span_f1'"):
        bound.metric("span_f2")
    with pytest.raises(UsageError, match=r"'span_f1' needs labels.*by prediction_flips"):
        bind(None, 2).metric("span_f1")
