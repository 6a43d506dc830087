"""The guarantee, simulated: at its budget a release passes, or fails, at most α of the time."""

from functools import cache

import numpy as np
import pytest

from gate.statistics import exact

ALPHA = 0.05
DELTA = 0.01
CELLS = [(n, flips) for n in (500, 1000, 2000, 10_000) for flips in (0.01, 0.012, 0.02, 0.05)]


@cache
def p_values(b: int, c: int, n: int) -> tuple[float, float]:
    return exact.p_values(b, c, n, DELTA, alpha_pass=ALPHA, alpha_fail=ALPHA)


def errors_at_the_boundary(n: int, flips: float, runs: int, seed: int) -> tuple[float, float]:
    """Shares of false PASS and false FAIL among `runs` releases whose true drop is the budget."""
    lost, gained = (flips + DELTA) / 2, (flips - DELTA) / 2
    tables = np.random.default_rng(seed).multinomial(n, [lost, gained, 1 - flips], runs)
    decided = np.array([p_values(int(b), int(c), n) for b, c, _ in tables])
    passed, failed = (decided <= ALPHA).mean(axis=0)
    return float(passed), float(failed)


def allowed(runs: int) -> float:
    """α and three standard errors of the simulation."""
    return ALPHA + 3 * (ALPHA * (1 - ALPHA) / runs) ** 0.5


@pytest.mark.parametrize(("n", "flips"), [(500, 0.012), (1000, 0.02)])
def test_false_verdicts_at_the_boundary(n: int, flips: float) -> None:
    runs = 2000
    passed, failed = errors_at_the_boundary(n, flips, runs, seed=1)
    assert passed <= allowed(runs)
    assert failed <= allowed(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "flips"), CELLS)
def test_false_verdicts_at_the_boundary_at_full_size(n: int, flips: float) -> None:
    runs = 20_000
    passed, failed = errors_at_the_boundary(n, flips, runs, seed=2)
    assert passed <= allowed(runs)
    assert failed <= allowed(runs)
