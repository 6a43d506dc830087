"""Ranking: nDCG agrees with scikit-learn's, MRR with counting, and bad lists are named."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.values import Rows, TensorSpec

TASK = tasks.get("ranking")


def bind(targets, first):
    first = np.asarray(first, dtype=np.float32)
    specs = (TensorSpec("y", "float32", (None, *first.shape[1:])),)
    build = Build(recipe="dynamic", decode="scores")
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), {"y": first})


def rows(name, targets, scores, reference=None):
    scores = np.asarray(scores, dtype=np.float64)
    metric = bind(targets, scores).metric(name)
    return metric, Rows(metric.observe(scores, np.asarray(targets), reference))


def value(name, targets, scores, reference=None):
    metric, found = rows(name, targets, scores, reference)
    return metric.summarize(found)


@st.composite
def lists(draw):
    """Grades with padding, at least two documents a query, and scores with ties."""
    n, length = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    grades = draw(arrays(np.int64, (n, length), elements=st.integers(-1, 4)))
    grades[:, :2] = np.maximum(grades[:, :2], 0)
    scores = draw(arrays(np.float64, (n, length), elements=st.sampled_from([-1, 0, 0.5, 2, 3])))
    return grades, scores


@settings(max_examples=80, deadline=None)
@given(lists(), st.one_of(st.none(), st.integers(1, 9)))
def test_ndcg_is_that_of_scikit_learn_with_an_exponential_gain(example, cut):
    grades, scores = example
    expected = [
        sk.ndcg_score([2.0 ** own[own >= 0] - 1], [score[own >= 0]], k=cut)
        for own, score in zip(grades, scores, strict=True)
    ]
    assert value(f"ndcg{cut or ''}", grades, scores) == pytest.approx(np.mean(expected), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(lists())
def test_mrr_counts_what_stands_before_the_first_relevant_document(example):
    grades, scores = example
    expected = []
    for own, score in zip(grades.tolist(), scores.tolist(), strict=True):
        # of equal scores those that are not relevant come first
        kept = sorted((-s, g > 0) for s, g in zip(score, own, strict=True) if g >= 0)
        ranks = [rank for rank, (_, relevant) in enumerate(kept, start=1) if relevant]
        expected.append(1 / ranks[0] if ranks else 0)
    assert value("mrr", grades, scores) == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_query_without_a_relevant_document_counts_as_nothing_found():
    grades, scores = [[0, 0, -1], [0, 1, -1]], [[3, 2, 9], [1, 2, 9]]
    assert value("ndcg", grades, scores) == 0.5
    assert value("mrr", grades, scores) == 0.5
    assert value("ndcg", [[2]], [[0.3]]) == 1  # one document is where it belongs


def test_constant_scores_earn_no_reciprocal_rank():
    """The villain: a head that quantized to nothing scores all documents alike."""
    rng = np.random.default_rng(0)
    grades = (rng.random((300, 20)) < 0.1).astype(int)
    scores = grades + rng.normal(0, 0.2, grades.shape)
    assert value("mrr", grades, scores) > 0.8
    assert value("mrr", grades, np.zeros(grades.shape)) < 0.06
    assert value("ndcg", grades, np.zeros(grades.shape)) < 0.6 * value("ndcg", grades, scores)


def test_what_stands_where_there_is_no_document_changes_nothing():
    grades = np.array([[1, 0, -1], [0, 2, 1]])
    scores = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    other = scores + np.array([[0, 0, 50], [0, 0, 0]])
    for name in ("ndcg", "mrr", "prediction_flips", "output_cosine", "sqnr"):
        assert value(name, grades, other, scores) == value(name, grades, scores, scores)
    assert value("prediction_flips", grades, -scores, scores) == 1


def test_a_broken_score_is_a_flip_that_counts():
    grades, scores = np.array([[1, 0], [0, 1]]), np.array([[1.0, 0.0], [np.nan, np.nan]])
    metric = bind(grades, np.zeros((2, 2))).metric("prediction_flips")
    found = Rows(metric.observe(scores, grades, np.array([[1.0, 0.0], [0.0, 1.0]])))
    assert metric.per_example(found).tolist() == [False, True]
    assert np.isnan(metric.summarize(found))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[0, 1], [0, -2]], r"target of example 1 \(counting from 0\), label 1, is -2; expected a"),
        ([[0, 0.5]], r"is 0\.5; expected a grade 0, 1"),
        ([[0, 32]], "is 32"),
        ([[0, 1], [-1, -1]], "query 1 .*has no document"),
        ([["a", "b"]], "is 'a'"),
        ([[0, 1, 1]], r"targets \(N, 3\) and output 'y' \(B, 2\) do not fit ranking"),
        ([0, 1], r"targets \(N,\)"),
    ],
)
def test_targets_that_are_no_lists_of_grades_are_refused(targets, message):
    with pytest.raises(DataError, match=message):
        bind(targets, np.zeros((2, 2)))


def test_cut_offs_are_asked_by_name():
    bound = bind([[0, 1]], np.zeros((1, 2)))
    assert list(bound.metrics) == ["ndcg", "ndcg10", "mrr", "prediction_flips"]
    assert bound.metric("ndcg3").name == "ndcg3"
    with pytest.raises(UsageError, match="unknown metric 'ndcg0'"):
        bound.metric("ndcg0")
    with pytest.raises(UsageError, match=r"'ndcg5' needs labels.*by prediction_flips"):
        bind(None, np.zeros((1, 2))).metric("ndcg5")
