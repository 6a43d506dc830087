"""Question answering: the best span and token F1 agree with looking at every span by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.values import Rows, TensorSpec

TASK = tasks.get("question_answering")
ROLES = {"start": "s", "end": "e"}


def bind(targets, tokens, *, outputs=ROLES, ends=None):
    decode = {"as": "logits", "outputs": outputs}
    build = Build(recipe="dynamic", decode=decode)
    first = {"s": np.zeros((1, tokens)), "e": np.zeros((1, ends or tokens))}
    specs = tuple(TensorSpec(name, "float64", (None, None)) for name in first)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), first)


def value(name, targets, spans, reference=None):
    metric = bind(targets, 50).metric(name)
    spans = np.asarray(spans, dtype=float)
    return metric.summarize(Rows(metric.observe(spans, np.asarray(targets), reference)))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_best_span_is_the_best_of_all(data):
    tokens = data.draw(st.integers(1, 40))
    numbers = arrays(np.float64, tokens, elements=st.integers(-4, 4))
    start, end = data.draw(numbers), data.draw(numbers)
    spans = [(i, j) for i in range(tokens) for j in range(i, min(i + 30, tokens))]
    best = max(spans, key=lambda span: (start[span[0]] + end[span[1]], -span[0], -span[1]))
    found = bind(None, tokens).decode({"s": start[None], "e": end[None]})[0].tolist()
    assert found == ([-1, -1] if best == (0, 0) else list(best))


SPANS = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
ANSWERS = st.one_of(SPANS, st.just([-1, -1]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=8))
def test_f1_counts_the_tokens_in_both(pairs):
    def tokens(span):
        none = list(span) in ([-1, -1], [0, 0])
        return set() if none else set(range(span[0], span[1] + 1))

    expected, exact = [], []
    predictions = [[-1, -1] if list(p) == [0, 0] else p for p, _ in pairs]
    for prediction, answer in pairs:
        one, other = tokens(prediction), tokens(answer)
        both = len(one & other)
        expected.append(2 * both / (len(one) + len(other)) if one or other else 1.0)
        exact.append(one == other)
    answers = [list(answer) for _, answer in pairs]
    assert value("f1", answers, predictions) == pytest.approx(np.mean(expected), abs=1e-12)
    assert value("exact", answers, predictions) == pytest.approx(np.mean(exact), abs=1e-12)


def test_an_answer_is_where_it_ends_after_it_begins():
    start, end = np.zeros((1, 6)), np.zeros((1, 6))
    start[0, 4], end[0, 1], end[0, 5] = 9, 9, 3
    assert bind(None, 6).decode({"s": start, "e": end}).tolist() == [[4, 5]]


def test_the_first_token_alone_says_that_there_is_no_answer():
    logits = np.zeros((1, 4))
    logits[0, 0] = 5
    spans = bind(None, 4).decode({"s": logits, "e": logits})
    assert spans.tolist() == [[-1, -1]]
    for none in ([[-1, -1]], [[0, 0]]):
        assert value("exact", none, spans) == value("f1", none, spans) == 1
    assert value("f1", [[0, 3]], spans) == 0


def test_an_end_that_moves_by_one_token_is_not_exact():
    """The villain: coarse end logits that tie, so that every answer loses its tail."""
    rng = np.random.default_rng(0)
    first = rng.integers(1, 20, 200)
    answers = np.stack([first, first + 3], axis=1)
    start, end = np.zeros((200, 50)), np.zeros((200, 50))
    start[np.arange(200), first] = 8
    end[np.arange(200), first + 2], end[np.arange(200), first + 3] = 7.9, 8
    bound, told = bind(answers, 50), {}
    for step in (0.01, 0.5):
        spans = bound.decode({"s": start, "e": np.round(end / step) * step})
        told[step] = value("exact", answers, spans), value("f1", answers, spans)
        flips = value("prediction_flips", answers, spans, answers.astype(float))
        assert flips == 1 - told[step][0]
    assert told[0.01] == (1, 1)
    assert told[0.5] == (0, pytest.approx(6 / 7))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            [[1, 2], [3, 2]],
            r"target of example 1 \(counting from 0\) is 3, 2; expected an answer's",
        ),
        ([[-1, 2]], "is -1, 2"),
        ([[1, 50]], r"example 0 .*column 1, is 50; expected a token, 0 to 49, or -1 in both"),
        ([[1, 2.5]], r"is 2\.5"),
        ([[1, 2, 3]], r"targets are \(N, 3\); question_answering takes \(N, 2\)"),
        ([1, 2], r"targets are \(N,\)"),
    ],
)
def test_targets_that_are_no_spans_are_refused(targets, message):
    with pytest.raises(DataError, match=message):
        bind(targets, 50)


def test_outputs_are_named_by_role():
    with pytest.raises(UsageError, match=r"write `outputs: \{start: NAME, end: NAME\}`.*are s, e"):
        bind(None, 4, outputs={})
    with pytest.raises(DataError, match=r"start and end are \(B, 4\) and \(B, 5\); question"):
        bind(None, 4, ends=5)


def test_metrics_by_name():
    assert list(bind([[1, 2]], 4).metrics) == ["exact", "f1", "prediction_flips"]
    with pytest.raises(UsageError, match="unknown metric 'em'"):
        bind([[1, 2]], 4).metric("em")
    with pytest.raises(UsageError, match=r"'exact' needs labels.*by prediction_flips"):
        bind(None, 4).metric("exact")
