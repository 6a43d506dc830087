"""Embedding: correlations agree with scipy, retrieval with a search by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gate import tasks
from gate.errors import DataError, UsageError
from gate.policy import Build
from gate.tasks import _embedding_retrieval as retrieval
from gate.values import Rows, TensorSpec

TASK = tasks.get("embedding")
RNG = np.random.default_rng(0)


def bind(targets, first, **decode):
    outputs = first if isinstance(first, dict) else {"y": first}
    outputs = {name: np.asarray(values, dtype=np.float32) for name, values in outputs.items()}
    specs = tuple(TensorSpec(name, "float32", (None,)) for name in outputs)
    build = Build(recipe="dynamic", decode=decode)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), outputs)


def value(name, targets, vectors, kind):
    bound = bind(targets, vectors, **{"as": kind})
    metric = bound.metric(name)
    rows = metric.observe(np.asarray(vectors, dtype=float), np.asarray(targets), None)
    return metric.summarize(Rows(rows))


def cosines(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


# ── pairs ─────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_correlations_are_scipys(data):
    n = data.draw(st.integers(3, 15))
    pairs = data.draw(arrays(np.int64, (n, 2, 3), elements=st.integers(-3, 3))).astype(float)
    targets = data.draw(arrays(np.int64, n, elements=st.integers(0, 4)))
    metric = bind(targets, pairs, **{"as": "pairs"}).metric("spearman")
    found = metric.observe(pairs, targets, None)
    left, right = np.moveaxis(cosines(pairs), 1, 0)
    np.testing.assert_allclose(found[:, 0], (left * right).sum(axis=1), atol=1e-12)
    if len(np.unique(found[:, 0])) == 1 or len(set(targets)) == 1:
        assert math.isnan(metric.summarize(Rows(found)))
        return
    ranks = scipy.stats.spearmanr(*found.T).statistic
    assert value("spearman", targets, pairs, "pairs") == pytest.approx(ranks, abs=1e-9)
    if np.ptp(found[:, 0]) > 1e-9:
        linear = scipy.stats.pearsonr(*found.T).statistic
        assert value("pearson", targets, pairs, "pairs") == pytest.approx(linear, abs=1e-9)


def test_two_outputs_are_read_as_one_of_pairs():
    pairs, targets = RNG.normal(size=(20, 2, 4)).astype(np.float32), RNG.random(20)
    halves = {"a": pairs[:, 0], "b": pairs[:, 1]}
    bound = bind(targets, halves, **{"as": "pairs", "outputs": {"first": "a", "second": "b"}})
    np.testing.assert_array_equal(bound.decode(halves), pairs)
    assert list(bound.metrics) == ["spearman", "pearson", "output_cosine", "sqnr"]


# ── vectors ───────────────────────────────────────────────────────────────────────────────


def by_hand(vectors, labels, k):
    """recall@k and nDCG@k, each neighbour looked at; no two similarities may be equal."""
    similarity = cosines(vectors) @ cosines(vectors).T
    recalls, gains = [], []
    for i, row in enumerate(similarity):
        others = [j for j in range(len(labels)) if j != i]
        near = sorted(others, key=lambda j: -row[j])
        relevant = np.array([[float(labels[j] == labels[i]) for j in others]])
        recalls.append(any(labels[j] == labels[i] for j in near[:k]))
        gains.append(sk.ndcg_score(relevant, [row[others]], k=k))
    return np.mean(recalls), np.mean(gains)


@pytest.mark.parametrize("k", [1, 3, 10, 29])
@pytest.mark.parametrize("groups", [2, 6, 25])
def test_retrieval_is_a_search_through_all_others(k, groups, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", 7 * 30)  # several blocks, the last one short
    labels = RNG.integers(0, groups, 30)
    vectors = RNG.normal(size=(groups, 5))[labels] + RNG.normal(size=(30, 5))
    recall, ndcg = by_hand(vectors, labels, k)
    assert value(f"recall{k}", labels, vectors, "vectors") == pytest.approx(recall, abs=1e-12)
    assert value(f"ndcg{k}", labels, vectors, "vectors") == pytest.approx(ndcg, abs=1e-12)


def test_vectors_that_collapsed_find_nothing():
    """The villain: a last layer whose range was cut to one code gives all the same vector."""
    labels = np.arange(60) % 3
    vectors = np.eye(3)[labels] + RNG.normal(0, 0.1, (60, 3))
    for name in ("recall1", "recall10", "ndcg10"):
        assert value(name, labels, vectors, "vectors") > 0.95
        assert value(name, labels, np.full((60, 3), 0.7), "vectors") == 0
        assert value(name, labels, np.zeros((60, 3)), "vectors") == 0


def test_a_label_that_occurs_once_is_not_found():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1]])
    assert value("recall1", ["a", "a", "b"], vectors, "vectors") == pytest.approx(2 / 3)
    assert value("ndcg2", ["a", "a", "b"], vectors, "vectors") == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["recall1", "ndcg3"])
def test_among_examples_of_one_label_whatever_is_found_is_right_so_that_it_has_no_value(name):
    collapsed = np.ones((8, 2))
    assert math.isnan(value(name, [3] * 8, collapsed, "vectors"))
    assert value(name, [3] * 7 + [4], collapsed, "vectors") < 1


def test_too_few_to_have_k_others_have_no_value():
    labels, vectors = np.arange(10) % 2, RNG.normal(size=(10, 3))
    assert math.isnan(value("recall10", labels, vectors, "vectors"))
    assert math.isfinite(value("recall9", labels, vectors, "vectors"))
    assert list(bind(labels, vectors, **{"as": "vectors"}).metrics) == [
        "recall1",
        "output_cosine",
        "sqnr",
    ]


def test_huge_and_tiny_vectors_have_a_cosine():
    vectors = np.array([[1e200, 0], [1e-200, 0], [0, 1e200], [0, 1e-200]])
    metric = bind(np.arange(4) % 2, np.ones((4, 2)), **{"as": "vectors"}).metric("recall1")
    rows = Rows(np.column_stack([vectors, [0, 0, 1, 1]]))
    assert metric.summarize(rows) == 1


# ── what does not fit ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("vectors", (4, 2, 3), r"output 'y' \(B, 2, 3\) do not fit `decode: vectors`.*pool token"),
        ("vectors", (4,), r"output 'y' \(B,\)"),
        ("vectors", (4, 0), "do not fit"),
        ("pairs", (4, 3, 3), r"do not fit `decode: pairs`, which takes an output \(B, 2, D\)"),
        ("pairs", (4, 2), "do not fit"),
    ],
)
def test_outputs_that_are_no_vectors_are_refused(kind, shape, message):
    with pytest.raises(DataError, match=message):
        bind(np.zeros(4), np.zeros(shape), **{"as": kind})


def test_halves_have_to_be_alike():
    outputs = {"first": "a", "second": "b"}
    halves = {"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}
    with pytest.raises(DataError, match=r"output 'a' \(B, 3\) and output 'b' \(B, 4\) do not fit"):
        bind(np.zeros(2), halves, **{"as": "pairs", "outputs": outputs})


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        ({"as": "pairs", "outputs": {"first": "y"}}, "reads 2 different outputs; write `outputs:"),
        ({"as": "pairs", "outputs": {"first": "y", "second": "y"}}, "reads 2 different outputs"),
        ({"as": "pairs", "outputs": {"first": "y", "second": "z"}}, "unknown output 'z'"),
        ({"as": "vectors", "outputs": {"first": "y", "second": "z"}}, "does not read `outputs`"),
        (
            {"as": "pairs", "output": "y", "outputs": {"first": "y", "second": "z"}},
            "does not read `output`",
        ),
    ],
)
def test_outputs_are_named_by_role(decode, message):
    with pytest.raises(UsageError, match=message):
        bind(np.zeros(2), np.zeros((2, 3)), **decode)


def test_targets_have_one_value_an_example():
    with pytest.raises(DataError, match=r"\(N, 2\); embedding by `vectors` takes \(N,\): a class"):
        bind(np.zeros((4, 2)), np.zeros((4, 3)), **{"as": "vectors"})
    with pytest.raises(DataError, match="'high'; expected how alike the pair is, a number"):
        bind(["high", "low"], np.zeros((2, 2, 3)), **{"as": "pairs"})


def test_metrics_of_the_other_kind_say_so():
    bound = bind(np.zeros(4), np.zeros((4, 2, 3)), **{"as": "pairs"})
    with pytest.raises(UsageError, match="'recall5' does not apply to embedding by `pairs`; those"):
        bound.metric("recall5")
    with pytest.raises(UsageError, match=r"'recall5' needs labels.*by output_cosine"):
        bind(None, np.zeros((4, 3)), **{"as": "vectors"}).metric("recall5")


def test_how_labels_are_numbered_changes_no_example():
    vectors, labels = RNG.random((6, 3)), np.array(["b", "a", "b", "c", "a", "c"])
    whole, rest = (
        bind(kept, vectors, **{"as": "vectors"}).metric("recall1") for kept in (labels, labels[1:])
    )
    before = Rows(whole.observe(vectors, labels, None)).take(np.arange(1, 6))
    after = Rows(rest.observe(vectors[1:], labels[1:], None))
    assert (before.flat != after.flat).any()
    np.testing.assert_array_equal(whole.seen(before), rest.seen(after))
