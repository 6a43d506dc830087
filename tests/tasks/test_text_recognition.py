"""Text recognition: distance and CTC agree with their definitions, written out by hand."""

from functools import cache
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import tasks
from gate.errors import DataError, EvaluationError, UsageError
from gate.policy import Build
from gate.tasks.text_recognition import distance
from gate.values import Rows, TensorSpec, finite

TASK = tasks.get("text_recognition")
LETTERS = ("a", "b", "ch")


def bind(targets, first, *, decode="ctc", classes=LETTERS):
    build = Build(recipe="dynamic", decode=decode, classes=classes)
    specs = (TensorSpec("y", "float32", (None,) * np.ndim(first)),)
    return TASK.bind(build, specs, None if targets is None else np.asarray(targets), {"y": first})


def read(texts):
    """What `decode: text` makes of them."""
    texts = np.array(texts, dtype=object)
    return bind(None, texts, decode="text").decode({"y": texts})


def value(name, targets, texts, reference=None):
    targets = np.asarray(targets)
    metric = bind(targets, np.asarray(texts, dtype=object), decode="text").metric(name)
    other = None if reference is None else read(reference)
    return metric.summarize(Rows(metric.observe(read(texts), targets, other)))


def edits(one, other):
    """Levenshtein's definition, by recursion."""

    @cache
    def at(i, j):
        if i == 0 or j == 0:
            return i + j
        same = one[i - 1] == other[j - 1]
        return min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (not same))

    return at(len(one), len(other))


WORDS = st.text(alphabet="abcdé", max_size=9)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_the_distance_is_levenshteins(one, other):
    points = [np.array([ord(letter) for letter in text], dtype=float) for text in (one, other)]
    assert distance(*points) == edits(one, other)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_metrics_are_what_their_definitions_say(pairs):
    texts, true = zip(*pairs, strict=True)
    assert value("accuracy", true, texts) == pytest.approx(np.mean([a == b for a, b in pairs]))
    length = sum(map(len, true))
    expected = sum(edits(a, b) for a, b in pairs) / length if length else float("nan")
    found = value("character_error_rate", true, texts)
    assert found == pytest.approx(expected, nan_ok=True)
    flips = value("prediction_flips", true, texts, reference=true)
    assert flips == pytest.approx(np.mean([a != b for a, b in pairs]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4))
def test_ctc_collapses_repeats_and_then_drops_blanks(frames):
    scores = np.eye(4, dtype=np.float32)[np.array(frames)]
    expected = ["".join(LETTERS[k - 1] for k, _ in groupby(row) if k) for row in frames]
    bound = bind(expected, scores)
    decoded = bound.decode({"y": scores})
    assert [
        bound.tell(decoded.entry(i), decoded.entry(i))[0] for i in range(len(frames))
    ] == expected
    metric = bound.metric("accuracy")
    assert metric.summarize(Rows(metric.observe(decoded, np.array(expected), None))) == 1


def test_frames_may_be_more_or_fewer_than_in_the_first_batch():
    scores = np.eye(4, dtype=np.float32)[[[1, 1, 0, 1, 2]]]
    decoded = bind(["aab"], scores[:, :1]).decode({"y": scores})
    assert decoded.values[:, 0].tolist() == [97, 97, 98]


def test_a_broken_example_has_no_text_and_is_the_furthest_apart():
    scores = np.eye(4, dtype=np.float32)[[[1, 2], [1, 2]]]
    bound = bind(["ab", "ab"], scores)
    whole = bound.decode({"y": scores})
    scores[1, 0, 3] = np.nan
    broken = bound.decode({"y": scores})
    assert finite(broken).tolist() == [True, False]
    assert bound.tell(whole.entry(1), broken.entry(1)) == ("ab", "NaN")
    np.testing.assert_array_equal(bound.apart(whole, broken), [0, np.nan])


def test_errors_beyond_the_length_exceed_one():
    assert value("character_error_rate", ["a"], ["xyz"]) == 3


@pytest.mark.parametrize(
    ("targets", "first", "more", "kind", "message"),
    [
        ([1, 2], np.zeros((2, 5, 4), np.float32), {}, DataError, r"is 1; expected text; save dig"),
        ([["a"]], np.zeros((1, 5, 4), np.float32), {}, DataError, r"\(N, 1\); .*takes \(N,\)"),
        (["a"], np.zeros((1, 4), np.float32), {}, DataError, r"reads scores \(B, T, C\)"),
        (["a"], np.zeros((1, 5, 4), np.int64), {}, DataError, "holds int64"),
        (["a"], np.zeros((1, 5, 9), np.float32), {}, UsageError, "name the 8 characters .* has 3"),
        (["a"], np.zeros((1, 5, 4), np.float32), {"classes": ()}, UsageError, "it has 0 names"),
    ],
)
def test_what_does_not_fit_is_named(targets, first, more, kind, message):
    with pytest.raises(kind, match=message):
        bind(targets, first, **more)


def test_the_decoder_text_wants_text():
    with pytest.raises(DataError, match=r"holds float32 \(B, 4\); `decode: text` reads one text"):
        bind(["a"], np.zeros((1, 4), np.float32), decode="text").decode(
            {"y": np.zeros((1, 4), "f")}
        )


def test_an_int8_model_of_other_classes_is_refused():
    bound = bind(["a"], np.zeros((1, 5, 4), np.float32))
    with pytest.raises(EvaluationError, match=r"\(B, 5, 7\); expected \(B, T, 4\)"):
        bound.decode({"y": np.zeros((1, 5, 7), np.float32)})
    with pytest.raises(EvaluationError, match="gives no output 'y', only z"):
        bound.decode({"z": np.zeros((1, 5, 4), np.float32)})
