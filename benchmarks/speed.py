"""What the gate itself costs, beside the models that it runs.

`make bench` runs it and prints the table of docs/speed.md; `speed.py judge memory` measures those
lines alone. Each line is a ratio within one run, to a peer or to what nobody can go below, or
seconds beside such a floor. Runs of the gate are processes of their own, started as a user starts
them. It exits with 1 where one is beyond its bar. Ratios carry over to other machines, seconds do
not.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from speed_models import FLIPS, Large, as_coco, scenes, small_policy
from speed_runs import TRIES, Cluster, Ran, best, cluster, gate_run

from gate import tasks
from gate.compare import compare_budgets
from gate.decide import decide
from gate.policy import Budget
from gate.values import Evaluation, Ragged, Rows

PROGRAM = ("-m", "gate")
_VALIDATES = "click, numpy, pydantic, yaml"
_RUNS = f"{_VALIDATES}, onnxruntime, mlflow"


@dataclass(frozen=True)
class Sizes:
    """Of the whole benchmark."""

    side: int
    """Of the images of a MobileNetV2, in pixels."""
    images: int
    calibration: int
    seeds: int
    few: int
    """Examples of the small CNN."""
    many: int
    shards: tuple[int, int]
    """Images that engines share, and their side."""
    pictures: int
    """With boxes."""


FULL = Sizes(224, 10_000, 100, 10, 10_000, 100_000, (20_000, 96), 5_000)
QUICK = Sizes(96, 4_000, 32, 2, 2_000, 20_000, (1_000, 32), 200)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    floor: str
    """What it is held against, and what that took."""
    took: str
    measured: float
    bar: float
    unit: str = " ×"
    also: bool = True
    """Whether what a ratio does not tell is right, too."""

    @property
    def is_met(self) -> bool:
        """Whether it is within its bar."""
        return self.also and self.measured <= self.bar

    def __str__(self) -> str:
        """As the table has it."""
        cells = (self.what, self.floor, self.took, f"{self.measured:.3g}{self.unit}")
        return f"| {' | '.join(cells)} | ≤ {self.bar:g}{self.unit} | {self._told} |"

    @property
    def _told(self) -> str:
        return "met" if self.is_met else "MISSED"


# ── the lines ─────────────────────────────────────────────────────────────────────────────


@dataclass
class Bench:
    """What lines have in common."""

    folder: Path
    sizes: Sizes

    @cached_property
    def large(self) -> Large:
        """For what takes minutes."""
        sizes = self.sizes
        return Large(self.folder / "large", sizes.side, sizes.images, sizes.calibration)

    @cached_property
    def sharded(self) -> Large:
        """For engines."""
        images, side = self.sizes.shards
        return Large(self.folder / "sharded", side, images, 32, threads=1)

    def small(self, count: int, **other: Any) -> Path:
        """A policy on so many small digits."""
        return small_policy(self.folder / f"small-{count}", count, **other)


def line_help(bench: Bench) -> Iterator[Row]:
    """What a shell waits for."""
    yield _beside("`gate --help`", bench, [*PROGRAM, "--help"], "click", bar=0.15)


def line_check(bench: Bench) -> Iterator[Row]:
    """What an editor waits for."""
    program = [*PROGRAM, "check", str(bench.small(100))]
    yield _beside("`gate check`", bench, program, _VALIDATES, bar=0.5)


def line_judge(bench: Bench) -> Iterator[Row]:
    """Of a record with 50,000 examples, in ten slices and all."""
    budgets = [{"metric": "accuracy", "max_drop": drop} for drop in (0.01, 0.05)]
    budgets[1]["each"] = "target"
    policy = bench.small(50_000, budgets=budgets)
    record = str(gate_run(policy, "--tracker", "none").folder)
    program = [*PROGRAM, "judge", record]
    yield _beside(
        "`gate judge`, 50,000 examples", bench, program, f"{_VALIDATES}, scipy.stats", bar=2.0
    )


def _beside(what: str, bench: Bench, program: Sequence[str], imported: str, *, bar: float) -> Row:
    least, took = _importing(imported, bench), best(program, bench.folder)
    return Row(what, f"importing {imported}: {least:.2f} s", f"{took:.2f} s", took, bar, " s")


def _importing(imported: str, bench: Bench) -> float:
    return best(["-c", f"import {imported}"], bench.folder)


def line_fixed(bench: Bench) -> Iterator[Row]:
    """A run on 100 examples: on a store that is made for it, and on the same once more."""
    policy, home = bench.small(100), bench.folder / "fixed"
    home.mkdir()
    least = _importing(_RUNS, bench)
    for what in ("a new store", "the same store"):
        ran = gate_run(policy, home=home)
        floor = f"importing {_RUNS}: {least:.2f} s"
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in ran.parts.items())
        yield Row(f"`gate run`, 100 examples, MLflow on {what}", floor, parts, ran.seconds, 6, " s")


def line_whole(bench: Bench) -> Iterator[Row]:
    """A whole run beside its forward passes."""
    large = bench.large
    what = f"`gate run`, MobileNetV2, {large.images:,} images of {large.side}²"
    yield _ratio(what, "bare loops", large.floor[0], large.whole.seconds, 1.15)


def line_early(bench: Bench) -> Iterator[Row]:
    """A good release, stopped as soon as it is proven."""
    large, seeds = bench.large, range(bench.sizes.seeds)
    full = large.whole.seconds
    took = [
        large.gate(large.policy(f"early-{seed}", stopping="early", seed=seed)).seconds
        for seed in seeds
    ]
    what = f"`stopping: early`, {len(seeds)} seeds, {100 * FLIPS:g} % flips, no drop"
    yield _ratio(what, "the full run", full, float(np.mean(took)), 0.40)


def line_again(bench: Bench) -> Iterator[Row]:
    """Another recipe for the same candidate."""
    large = bench.large
    first = large.whole.seconds
    second = large.gate(
        large.policy("again", mode="observe", build={"recipe": "static-7bit"}),
        home=large.home,
    ).seconds
    yield _ratio("a second recipe, FP32 cached", "the first run", first, second, 0.6)


def line_memory(bench: Bench) -> Iterator[Row]:
    """Peaks of whole processes."""
    few, many = bench.sizes.few, bench.sizes.many
    peaks = [gate_run(bench.small(count)).peak for count in (few, many)]
    one, other = (f"{peak / (1 << 20):,.0f} MB" for peak in peaks)
    what = f"peak memory at {many:,} examples"
    yield Row(what, f"at {few:,}: {one}", other, peaks[1] / peaks[0], 1.05)


def line_statistics(_: Bench) -> Iterator[Row]:
    """20 budgets on each of 50 slices, 50,000 examples."""
    n, rng = 50_000, np.random.default_rng(0)
    u, site, targets = rng.random(n), rng.integers(0, 50, n), np.zeros(n, dtype=np.int64)
    lost, flipped = FLIPS, 2 * FLIPS
    sides = ((u < lost) | (u >= flipped), u >= lost)
    fp32, int8 = (
        {"label": Rows(np.column_stack([~right, targets]).astype(float))} for right in sides
    )
    ids = np.array([f"{index:06d}" for index in range(n)])
    found = Evaluation(ids, targets, {"site": site}, None, fp32, int8)
    metrics = {"accuracy": tasks.get("classification").observed(targets, fp32)("accuracy")}
    told = [{"metric": "accuracy", "max_drop": 0.01 + i / 1000, "each": "site"} for i in range(20)]
    budgets = [Budget.model_validate(one) for one in told]
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        decide(compare_budgets(budgets, found, metrics, {}, 0.05), 0.05)
        seconds.append(time.perf_counter() - start)
    took, passes = min(seconds), _counted(sides, site)
    what = "20 budgets × 50 slices × 50,000 examples"
    floor = f"counting 20 × 50 tables: {passes:.2f} s"
    yield Row(what, floor, f"{took:.2f} s", took, 2, " s")


def _counted(sides: tuple[np.ndarray, np.ndarray], site: np.ndarray) -> float:
    """Seconds of counting what was lost and gained, once a budget and slice."""
    start = time.perf_counter()
    for _ in range(20):
        for one in range(50):
            here = site == one
            np.count_nonzero(here & sides[0] & ~sides[1])
            np.count_nonzero(here & sides[1] & ~sides[0])
    return time.perf_counter() - start


def line_ray(bench: Bench) -> Iterator[Row]:
    """Two workers of one thread each, on a cluster that waits."""
    sharded = bench.sharded
    policy = sharded.policy("shared")
    local = sharded.gate(policy, "--engine", "local", "--threads", "1")
    with cluster(bench.folder) as found:
        shared = _on_ray(sharded, policy, found)
    what = f"Ray, 2 workers, {sharded.images:,} images"
    yield _ratio(what, "one process", local.seconds, shared.seconds, 0.6)
    shards = (ran.parts["evaluate"] for ran in (local, shared))
    yield _ratio("its evaluation alone", "one process", *shards, 0.6)


def line_killed(bench: Bench) -> Iterator[Row]:
    """The same, of which a worker dies when half of the time is over."""
    sharded = bench.sharded
    policy = sharded.policy("shared")
    with cluster(bench.folder) as found:
        whole = _on_ray(sharded, policy, found)
        half = whole.seconds / 2
        broken = _on_ray(sharded, policy, found, at=lambda _: found.kill_one(after=half))
    same = _evidence(whole) == _evidence(broken)
    what = f"a worker killed at half: {'the same record' if same else 'ANOTHER RECORD'}"
    yield _ratio(what, "undisturbed", whole.seconds, broken.seconds, 1.5, also=same)


def _on_ray(sharded: Large, policy: Path, found: Cluster, **other: Any) -> Ran:
    options = ("--engine", "ray", "--workers", "2", "--threads", "1")
    return sharded.gate(policy, *options, RAY_ADDRESS=found.address, **other)


def _evidence(ran: Ran) -> Any:
    """What of a record does not depend on when and where it was written."""
    record = ran.record
    return [record[key] for key in ("rows_sha256", "outputs_sha256", "comparisons", "verdict")]


def line_detection(bench: Bench) -> Iterator[Row]:
    """Rows of mAP beside a whole evaluation by faster-coco-eval, from the same arrays."""
    truth, found = scenes(bench.sizes.pictures)
    theirs, ours = _by_coco(truth, found), _by_gate(truth, found)
    assert abs(theirs[1] - ours[1]) < 1e-9, (theirs, ours)  # noqa: PLR2004
    what = f"rows of mAP, {bench.sizes.pictures:,} images × 80 classes"
    yield _ratio(what, "faster-coco-eval", theirs[0], ours[0], 1.5)


def _ratio(
    what: str, against: str, floor: float, took: float, bar: float, *, also: bool = True
) -> Row:
    return Row(what, f"{against}: {floor:.2f} s", f"{took:.2f} s", took / floor, bar, also=also)


LINES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    name.removeprefix("line_"): line for name, line in globals().items() if name.startswith("line_")
}
"""In the order of the table."""


def _by_gate(truth: Ragged, found: Ragged) -> tuple[float, float]:
    """Seconds of rows and mAP, and mAP."""
    metric = tasks.get("detection").observed(truth, {})("map")
    start = time.perf_counter()
    value = metric.summarize(Rows(metric.observe(found, truth, None)))
    return time.perf_counter() - start, value


def _by_coco(truth: Ragged, found: Ragged) -> tuple[float, float]:
    """The same; making its tables is not timed."""
    annotations, results = as_coco(truth, found)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = {"info": {}, **annotations}
        annotated.createIndex()
        judged = COCOeval_faster(annotated, annotated.loadRes(results), "bbox")
        start = time.perf_counter()
        judged.evaluate()
        judged.accumulate()
        took = time.perf_counter() - start
        judged.summarize()
    return took, float(judged.stats[0])


# ── the table ─────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Measure and print the lines; 0 where every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(LINES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--images", type=int, help="of MobileNetV2, instead of what takes minutes")
    given = parser.parse_args()
    if unknown := set(given.lines) - LINES.keys():
        parser.error(f"no such line: {', '.join(sorted(unknown))}")
    sizes = QUICK if given.quick else FULL
    sizes = sizes if given.images is None else replace(sizes, images=given.images)
    print("\n## Speed\n\n| | against | gate | measured | bar | |\n|---|---|---|---:|---:|---|")
    rows = []
    with tempfile.TemporaryDirectory(prefix="gate-speed-") as folder:
        bench = Bench(Path(folder), sizes)
        for name in given.lines or LINES:
            for row in LINES[name](bench):
                print(row, flush=True)
                rows.append(row)
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
