"""The ledger: how attempts are counted, and that retrying no longer pays."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import ledger
from gate.statistics.ledger import Attempt

unhurried = settings(deadline=None)

ALPHA = 0.05
SHA = "ab" * 32


def history(text):
    """ "A- B? C+": A did not pass, B is unfinished, C passed."""
    outcomes = {"-": "fail", "~": "inconclusive", "w": "waived", "?": None, "+": "pass"}
    return [Attempt(key=word[0], outcome=outcomes[word[1]]) for word in text.split()]


histories = st.lists(
    st.builds(
        Attempt,
        key=st.sampled_from("ABCD"),
        outcome=st.sampled_from(["pass", "fail", "inconclusive", "waived", None]),
    )
)


# ── α of an attempt ───────────────────────────────────────────────────────────────────────


def test_each_attempt_costs_more():
    found = [ledger.alpha_of_attempt(ALPHA, j) for j in (1, 2, 3, 10)]
    assert found == pytest.approx([0.05, 0.0125, 0.05 / 9, 0.0005])
    assert ledger.alpha_of_attempt(ALPHA, 1) == ALPHA


def test_all_attempts_together_cost_less_than_two():
    total = sum(ledger.alpha_of_attempt(ALPHA, j) for j in range(1, 100_000))
    assert 1.64 * ALPHA < total <= 1.65 * ALPHA


@pytest.mark.parametrize(
    ("alpha", "attempt"),
    [(0.0, 1), (1.0, 1), (math.nan, 1), (0.05, 0), (0.05, -1), (0.05, 1.5), (0.05, math.nan)],
)
def test_nonsense_is_refused(alpha, attempt):
    with pytest.raises(ValueError, match="must"):
        ledger.alpha_of_attempt(alpha, attempt)
    if attempt != 0:
        with pytest.raises(ValueError, match="must"):
            ledger.reuse_error(alpha, attempt)


# ── counting ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("past", "key", "number"),
    [
        ("", "A", 1),
        ("A-", "B", 2),
        ("A-", "A", 1),  # the same one judged again
        ("A- B~ A-", "C", 3),
        ("A- B- C-", "B", 2),
        ("A?", "A", 1),  # reserved before its own evaluation
        ("A?", "B", 2),  # interrupted, and still spent
        ("A? A? A-", "B", 2),
        ("A- B+", "C", 1),
        ("A- B+", "B", 1),  # what passed, judged again
        ("A- B+", "A", 1),
        ("A- B+ C-", "A", 2),
        ("A- B+ C- D-", "D", 2),
        ("A+ A?", "A", 1),
        ("A- Bw", "C", 3),  # waived is not passed
        ("A+ B+ C+", "D", 1),
    ],
)
def test_attempts_are_counted_since_the_last_pass(past, key, number):
    assert ledger.attempt_number(history(past), key) == number


@unhurried
@given(histories, st.sampled_from("ABCDE"))
def test_reserving_an_attempt_does_not_change_its_number(past, key):
    number = ledger.attempt_number(past, key)
    assert ledger.attempt_number([*past, Attempt(key, None)], key) == number
    assert 1 <= number <= len({attempt.key for attempt in past}) + 1


@unhurried
@given(histories, st.sampled_from("ABCDE"))
def test_what_is_new_comes_after_all_that_was_tried(past, key):
    passes = [i for i, attempt in enumerate(past) if attempt.outcome == "pass"]
    since = past[passes[-1] + 1 :] if passes else past
    keys = {attempt.key for attempt in since}
    number = ledger.attempt_number(past, key)
    assert number == len(keys) + 1 if key not in keys else 1 <= number <= len(keys)
    everyone = {ledger.attempt_number(past, one) for one in keys}
    assert everyone == set(range(1, len(keys) + 1))


def test_attempts_without_a_key_are_refused():
    with pytest.raises(ValueError, match="must"):
        ledger.attempt_number([], "")
    with pytest.raises(ValueError, match="must"):
        ledger.attempt_number([Attempt("", None)], "A")


def test_attempts_do_not_change():
    with pytest.raises(AttributeError):
        Attempt("A", None).outcome = "pass"


def test_a_key_is_of_candidate_and_recipe():
    key = ledger.attempt_key(SHA, "qdq: true")
    assert key == ledger.attempt_key(SHA, "qdq: true")
    assert (
        len(
            {key, ledger.attempt_key(SHA, "qdq: false"), ledger.attempt_key("cd" * 32, "qdq: true")}
        )
        == 3
    )
    assert len(key) == 64


def test_a_key_is_the_same_in_every_version():
    """Attempts that a tracker keeps count on: made by `printf … | sha256sum`."""
    alone = "53a2ebf2cf9d5323abefcc39014a500fa443b32a74cd6decbd593db6b3db615e"
    drawn = "803f3dc7bf6e4f31e443e7458e1c587780f226f201169efa4b73baf39b1b8afb"
    assert ledger.attempt_key(SHA, "static") == alone
    assert ledger.attempt_key(SHA, "static", "seed 3") == drawn


@pytest.mark.parametrize(
    ("sha256", "recipe"), [("", "r"), ("ab", "r"), (SHA.upper(), "r"), (SHA + "\n", "r"), (SHA, "")]
)
def test_a_key_of_nothing_is_refused(sha256, recipe):
    with pytest.raises(ValueError, match="must"):
        ledger.attempt_key(sha256, recipe)


# ── what retrying does ────────────────────────────────────────────────────────────────────


def p_values_at_the_boundary(likeness, runs=40_000, attempts=30):
    """Of candidates whose true drop is the budget, on one held-out set: (runs, attempts).

    The set's luck is shared by all of them, and each adds its own.
    """
    from scipy.special import ndtr

    rng = np.random.default_rng(8)
    luck, own = rng.standard_normal((runs, 1)), rng.standard_normal((runs, attempts))
    return ndtr(math.sqrt(likeness) * luck + math.sqrt(1 - likeness) * own)


def test_without_a_ledger_retrying_passes_sooner_or_later():
    false = p_values_at_the_boundary(0.5) <= ALPHA
    found = {j: false[:, :j].any(axis=1).mean() for j in (1, 3, 10, 30)}
    assert found == pytest.approx({1: 0.05, 3: 0.12, 10: 0.24, 30: 0.39}, abs=0.015)
    assert all(share <= ledger.reuse_error(ALPHA, j) + 0.005 for j, share in found.items())


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9])
def test_with_it_retrying_does_not_pay(likeness):
    alphas = [ledger.alpha_of_attempt(ALPHA, j) for j in range(1, 31)]
    share = float((p_values_at_the_boundary(likeness) <= alphas).any(axis=1).mean())
    assert ALPHA - 0.005 <= share <= 1.65 * ALPHA + 3 * math.sqrt(0.0825 * 0.9175 / 40_000)


def test_what_the_report_says_of_reuse():
    assert ledger.reuse_error(ALPHA, 0) == 0.0
    assert ledger.reuse_error(ALPHA, 1) == pytest.approx(ALPHA)
    assert ledger.reuse_error(ALPHA, 10) == pytest.approx(1 - 0.95**10)
    assert ledger.alpha_of_attempt(ALPHA, ledger.FRESH_AT) <= ALPHA / 100


def test_only_a_pass_of_the_same_demands_starts_again():
    past = [
        Attempt("A", None, "strict"),
        Attempt("B", "fail", "strict"),
        Attempt("C", "pass", "loose"),
    ]
    assert ledger.attempt_number(past, "D", "strict") == 4
    assert ledger.attempt_number(past, "D", "loose") == 1
    assert ledger.attempt_number([*past, Attempt("D", "pass", "strict")], "E", "strict") == 1


def test_another_draw_is_another_attempt():
    assert ledger.attempt_key("a" * 64, "r") == ledger.attempt_key("a" * 64, "r", "")
    keys = {ledger.attempt_key("a" * 64, "r", draw) for draw in ("", "seed 0", "seed 1")}
    assert len(keys) == 3
