"""Looking while evaluating: when the evidence suffices, and that looking costs no guarantee."""

import dataclasses

import numpy as np
import pytest
from support.pairs import ACCURACY, FLIPS, LOG_LOSS, evaluation

from gate.compare import compare_budgets
from gate.decide import decide
from gate.policy import Budget, ExpectFp32
from gate.statistics import exact, sequential
from gate.stopping import Watch, chance, log_e, unstoppable
from gate.values import Evaluation

METRICS = {"accuracy": ACCURACY, "prediction_flips": FLIPS}


def budget(**fields):
    return Budget.model_validate({"metric": "accuracy"} | fields)


def part(found, start, end):
    """Examples from `start` to before `end`, as a batch leaves them."""
    cut = slice(start, end)

    def rows(side):
        return {name: values.take(np.arange(start, end)) for name, values in side.items()}

    return Evaluation(
        ids=found.ids[cut],
        targets=found.targets[cut],
        slices={name: values[cut] for name, values in found.slices.items()},
        unit=None,
        fp32=rows(found.fp32),
        int8=rows(found.int8),
    )


def run(found, budgets, alpha=0.05, batch=64):
    """Evaluate as the pipeline does: batch by batch, until a reason to stop."""
    n = len(found.ids)
    watch = Watch(budgets, METRICS, found, alpha=alpha, fail_alpha=alpha)
    done, why = 0, None
    while done < n and why is None:
        end = min(done + batch, n)
        why = watch(part(found, done, end))
        done = end
    seen = part(found, 0, done)
    early = watch.early(done, n)
    measured = compare_budgets(budgets, seen, METRICS, {}, alpha, early=early)
    return done, why, measured, decide(measured, alpha)


def shuffled(lost, gained, n, seed=0, slices=None):
    fp32, int8 = np.ones(n), np.ones(n)
    int8[:lost] = 0
    fp32[lost : lost + gained] = 0
    order = np.random.default_rng(seed).permutation(n)
    return evaluation(fp32[order], int8[order], slices)


def test_a_good_release_passes_long_before_the_end():
    done, why, measured, verdict = run(shuffled(25, 15, 10_000), [budget(max_drop=0.01)])
    assert done < 4000
    assert why == "every budget that needs proof was proven"
    assert verdict.outcome == "pass"
    found = measured[0].comparison
    assert found.method == sequential.METHOD
    assert found.lower < found.degradation < found.upper <= 0.01
    assert found.note == f"stopped early after {done:,} of 10,000 examples"


def test_a_bad_release_fails_and_its_budget_is_named():
    budgets = [budget(max_drop=0.01), budget(metric="prediction_flips", at_most=0.5)]
    done, why, _, verdict = run(shuffled(400, 0, 10_000), budgets)
    assert done < 2000
    assert why == "budget accuracy.max_drop was proven violated"
    assert verdict.findings[0].outcome == "fail"
    assert verdict.outcome == "fail"


def test_at_the_budget_everything_is_read_and_the_exact_test_has_its_share():
    done, why, measured, _ = run(shuffled(140, 60, 8000), [budget(max_drop=0.01)])
    assert (done, why) == (8000, None)
    found = measured[0].comparison
    assert found.method.startswith(exact.METHOD)
    plain = exact.p_values(140, 60, 8000, 0.01, alpha_pass=0.04, alpha_fail=0.04)
    assert found.p_pass == pytest.approx(min(1, plain[0] / 0.8))
    assert found.p_fail == pytest.approx(min(1, plain[1] / 0.8))


@pytest.mark.parametrize(
    ("fields", "quantity"),
    [
        ({"max_relative_drop": 0.02}, "relative_drop"),
        ({"at_least": 0.95}, "value"),
        ({"metric": "prediction_flips", "at_most": 0.03}, "value"),
    ],
)
def test_every_kind_of_limit_stops_with_an_interval_that_holds(fields, quantity):
    done, _, measured, verdict = run(shuffled(30, 20, 8000), [budget(**fields)])
    found = measured[0].comparison
    assert done < 8000
    assert verdict.outcome == "pass"
    assert found.quantity == quantity
    assert found.lower <= (found.int8 if quantity == "value" else found.degradation) <= found.upper


def test_every_slice_is_seen_before_it_ends():
    rare = np.array(["common"] * 7900 + ["rare"] * 100)
    found = shuffled(0, 0, 8000, slices={"site": rare})
    budgets = [budget(max_drop=0.01), budget(max_drop=0.05, each="site")]
    done, _, measured, verdict = run(found, budgets)
    assert done >= 7900
    assert {one.slice for one in measured} == {None, "site=common", "site=rare"}
    assert verdict.outcome == "pass"


def test_a_slice_that_cannot_be_judged_keeps_it_from_passing_early():
    found = shuffled(0, 0, 2000, slices={"site": np.arange(2000) // 1990})
    small = budget(max_drop=0.05, slice={"site": 1}, min_examples=50)
    done, why, _, verdict = run(found, [budget(max_drop=0.01), small])
    assert (done, why) == (2000, None)
    assert verdict.outcome == "inconclusive"


@pytest.mark.parametrize(("d", "f"), [(0.01, 0.012), (0.01, 0.03)])
def test_looking_keeps_the_error_at_the_budget(d, f):
    """Boundary: false PASS and false FAIL together with the looks are within α."""
    rng = np.random.default_rng(5)
    n, runs, alpha = 1000, 300, 0.05
    outcomes = []
    for _ in range(runs):
        u = rng.random(n)
        fp32 = np.where(u < (f - d) / 2, 0.0, 1.0)
        int8 = np.where((u >= (f - d) / 2) & (u < f), 0.0, 1.0)
        outcomes.append(run(evaluation(fp32, int8), [budget(max_drop=d)], batch=100)[3].outcome)
    limit = alpha + 2.6 * np.sqrt(alpha * (1 - alpha) / runs)
    assert np.mean([outcome == "pass" for outcome in outcomes]) <= limit
    assert np.mean([outcome == "fail" for outcome in outcomes]) <= limit


def test_the_cells_are_those_of_the_e_process():
    drop = log_e(budget(max_drop=0.01), (880, 15, 8, 97), 5000)
    assert drop == sequential.log_e_drop(15, 8, 1000, 0.01, 5000)
    floor = log_e(budget(at_least=0.9), (950, 0, 0, 50), 5000)
    assert floor == pytest.approx(sequential.log_e_rate(50, 1000, 0.1, 5000))


def test_what_no_bet_is_on_is_told():
    assert unstoppable(budget(max_drop=0.01), proportion=True, artifact=False) is None
    assert unstoppable(budget(metric="size", at_most=5), proportion=False, artifact=True) is None
    why = unstoppable(budget(metric="f1_macro", max_drop=0.1), proportion=False, artifact=False)
    assert "no proportion of examples" in (why or "")


def test_metrics_without_budgets_are_no_part_of_it():
    found = shuffled(0, 0, 500)
    watch = Watch([budget(max_drop=0.1)], METRICS | {"log_loss": LOG_LOSS}, found, alpha=0.05,
                  fail_alpha=0.05)  # fmt: skip
    assert watch(dataclasses.replace(part(found, 0, 400))) is not None


# ── what a full evaluation would have caught ──────────────────────────────────────────────


def with_rare_slice(harmed):
    """10,000 examples, 200 of them of a slice of which `harmed` are lost."""
    fp32, int8 = np.ones(10_000), np.ones(10_000)
    int8[:harmed] = 0
    where = np.where(np.arange(10_000) < 200, "rare", "common")
    order = np.random.default_rng(0).permutation(10_000)
    return evaluation(fp32[order], int8[order], {"s": where[order]})


def test_a_harmed_slice_fails_as_it_does_when_all_is_read():
    budgets = [budget(max_drop=0.02), budget(max_drop=0.05, each="s")]
    done, why, _, verdict = run(with_rare_slice(70), budgets)
    assert verdict.outcome == "fail"
    assert done == 10_000 or "violated" in why


def test_a_sound_slice_holds_it_back_until_it_is_proven_or_seen():
    budgets = [budget(max_drop=0.02), budget(max_drop=0.05, each="s")]
    done, _, _, verdict = run(with_rare_slice(0), budgets)
    assert verdict.outcome == "pass"
    alone, *_ = run(with_rare_slice(0), budgets[:1])
    assert alone < done


def expecting(found, accuracy, within=0.02):
    """Examples read until it stops, where training reported so much."""
    expected = ExpectFp32.model_validate({"accuracy": accuracy, "within": within})
    watch = Watch(
        [budget(max_drop=0.05)], METRICS, found, alpha=0.05, fail_alpha=0.05, expected=expected
    )
    for start in range(0, len(found.ids), 64):
        if watch(part(found, start, min(start + 64, len(found.ids)))):
            return min(start + 64, len(found.ids))
    return None


def test_fp32_has_to_be_what_was_expected_before_it_stops():
    right = np.ones(10_000)
    right[:1000] = 0
    right = right[np.random.default_rng(3).permutation(10_000)]
    found = evaluation(right, right)
    assert expecting(found, 0.96) is None
    assert expecting(found, 0.90) < 5000
    assert expecting(found, 0.90, within=0.004) > expecting(found, 0.90)


def test_chance_shrinks_with_what_was_seen():
    assert chance(0.9, 100, 1000) > chance(0.9, 400, 1000) > chance(0.9, 999, 1000) > 0
    assert chance(0.9, 1000, 1000) == chance(0.9, 10, None) == 0
    assert chance(1.0, 100, 1000) > 0  # nothing wrong so far is no proof
