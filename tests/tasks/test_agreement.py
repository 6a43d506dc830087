"""How far INT8 agrees with FP32, against formulas written out."""

import numpy as np
import pytest
from scipy.special import rel_entr

from gate.tasks import _agreement as agreement
from gate.values import Rows

RANDOM = np.random.default_rng(5)
FP32 = RANDOM.normal(size=(20, 4))
INT8 = FP32 + 0.1 * RANDOM.normal(size=FP32.shape)
COSINE, SQNR = agreement.of_values()


def value(metric, int8=INT8, fp32=FP32):
    return metric.summarize(Rows(metric.observe(int8, None, fp32)))


def test_cosine_and_noise_are_what_their_formulas_say():
    cosines = [
        p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(FP32, INT8, strict=True)
    ]
    assert value(COSINE) == pytest.approx(np.mean(cosines))
    noise = ((FP32 - INT8) ** 2).sum()
    assert value(SQNR) == pytest.approx(10 * np.log10((FP32**2).sum() / noise))


def test_divergence_is_scipys():
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (FP32, INT8))
    assert value(agreement.of_probabilities(), q, p) == pytest.approx(rel_entr(p, q).sum(1).mean())


def test_what_agrees_in_all_is_as_good_as_can_be():
    assert value(COSINE, FP32) == 1
    assert value(SQNR, FP32) == 150
    assert value(agreement.of_probabilities(), np.abs(FP32), np.abs(FP32)) == 0
    for metric in (COSINE, SQNR):
        assert metric.summarize(Rows(metric.observe(FP32, None, None))) == value(metric, FP32)


def test_nothing_at_all_agrees_with_nothing_and_with_nothing_else():
    nothing = np.zeros((2, 3))
    assert value(COSINE, nothing, nothing) == 1
    assert value(COSINE, np.ones((2, 3)), nothing) == 0
    assert value(SQNR, nothing, nothing) == 150
    assert np.isnan(value(SQNR, np.ones((2, 3)), nothing))


def test_what_is_not_finite_is_not_known():
    broken = INT8.copy()
    broken[3, 1] = np.nan
    metric = agreement.flips(lambda a, b: (a > 0).any(axis=1) != (b > 0).any(axis=1))
    for one in (COSINE, SQNR, agreement.of_probabilities(), metric):
        rows = one.observe(broken, None, FP32)
        assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [3]
        assert np.isnan(one.summarize(Rows(rows)))
    assert metric.per_example(Rows(metric.observe(broken, None, FP32)))[3]
