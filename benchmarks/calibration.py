"""What calibration costs, held against onnxruntime.quantization in the same run.

`make bench` runs it and prints the table of docs/quantization.md. Each measurement is a process of
its own, so that peaks of memory are its own too; times are medians of interleaved rounds, ratios
medians of those of each round. Ratios carry over to other machines, seconds do not.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from models import convolutions, mobilenet_v2, transformer
from onnxruntime.quantization import CalibrationMethod, create_calibrator, registry

from gate import calibrate, ranges, recipes
from gate.backends.onnxruntime import BACKEND
from gate.values import Split

THREADS = min(4, os.cpu_count() or 1)
MB = 1 << 20


# ── what is measured on ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Noise:
    """A column whose rows are made when they are asked for, the same every time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    below: int = 0
    """Integers below this; 0 for floats of 0 to 1."""

    def __getitem__(self, index: Any) -> Any:
        """Rows by index array."""
        return np.stack([self._row(int(row)) for row in index])

    def _row(self, row: int) -> Any:
        rng, shape = np.random.default_rng(row), self.shape[1:]
        if self.below:
            return rng.integers(0, self.below, shape, dtype=np.int64)
        return rng.random(shape, dtype=np.float32)


def data(kind: str, count: int, size: int) -> Split:
    """`count` images with `size` a side, or texts of `size` words."""
    shape = (count, size) if kind == "text" else (count, 3, size, size)
    dtype, below = (np.int64, 1000) if kind == "text" else (np.float32, 0)
    column = Noise(shape, np.dtype(dtype), below)
    return Split(
        name="calibration", source="noise", ids=np.arange(count).astype(str), explicit_ids=False,
        content=np.zeros((count, 16), np.uint8), targets=None, slices={}, unit=None, sha256="",
        population="",
        inputs={"ids" if kind == "text" else "image": column}, order=np.arange(count),
        prepare=lambda rows: rows,
    )  # fmt: skip


# ── one measurement, in its own process ───────────────────────────────────────────────────


def ours(model: Path, split: Split, method: str) -> dict[str, float]:
    """From the file to ranges; `all` takes them by every method, from the same pass."""
    methods = ranges.METHODS if method == "all" else [method]
    chosen = [recipes.resolve({"base": "static", "calibration": name}) for name in methods]
    sources = BACKEND.activations(model, chosen[0])
    tensors = tuple(dict.fromkeys(sources.values()))
    runner = BACKEND.open_exposed(model, tensors, threads=max(1, THREADS - 1))
    observed = calibrate.observe(runner.views, _batches(runner, split), tensors)
    for recipe in chosen:
        calibrate.ranges_of(observed, recipe, sources)
    return {}


def forward(model: Path, split: Split, _: str) -> dict[str, float]:
    """A pass that only looks at what calibration needs: the same tensors, batches and views."""
    sources = BACKEND.activations(model, recipes.RECIPES["static"])
    runner = BACKEND.open_exposed(model, tuple(dict.fromkeys(sources.values())), threads=THREADS)
    for batch in _batches(runner, split):
        runner.views(batch.feeds)
    return {}


def _batches(runner: Any, split: Split) -> Iterator[Any]:
    def measure(batch: Any) -> int:
        return sum(value.nbytes for value in runner.run(batch.feeds).values())

    return calibrate.batches(split, fixed=None, measure=measure)


def theirs(model: Path, split: Split, method: str) -> dict[str, float]:
    """The same with ONNX Runtime's calibraters, as `quantize_static` calls them."""
    calibrater = _calibrater(model, method)
    calibrater.collect_data(_Reader(split))
    calibrater.compute_data()
    return {}


class _Reader:
    """One example at a time, as ONNX Runtime's examples have it."""

    def __init__(self, split: Split) -> None:
        self._batches = split.batches(1)

    def get_next(self) -> Any:
        """Feeds, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else batch.feeds


def _calibrater(model: Path, method: str) -> Any:
    kinds = {"min-max": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
    return create_calibrator(
        model,
        [*{*registry.QLinearOpsRegistry, *registry.QDQRegistry}],
        augmented_model_path=str(model.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod[kinds[method]],
    )


def ours_open(model: Path, _: Split, __: str) -> dict[str, float]:
    """From the file to a session that gives every tensor to observe."""
    sources = BACKEND.activations(model, recipes.RECIPES["static"])
    BACKEND.open_exposed(model, tuple(dict.fromkeys(sources.values())), threads=THREADS)
    return {}


def theirs_open(model: Path, _: Split, method: str) -> dict[str, float]:
    """The same by ONNX Runtime's augmentation."""
    _calibrater(model, method)
    return {}


def bare(model: Path, split: Split, _: str) -> dict[str, float]:
    """The model alone, and one example."""
    ort.InferenceSession(str(model)).run(None, dict(split.batch(0, 1).feeds))
    return {}


MEASURES: dict[str, Callable[[Path, Split, str], dict[str, float]]] = {
    one.__name__: one for one in (ours, forward, theirs, ours_open, theirs_open, bare)
}


def measure(what: str, model: Path, split: Split, method: str) -> dict[str, float]:
    """Seconds and peak bytes of one of them; imports are not timed."""
    start = time.perf_counter()
    with redirect_stdout(sys.stderr):
        MEASURES[what](model, split, method)
    return {"seconds": time.perf_counter() - start, "peak": _peak()}


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # of this program alone, where rusage knows of the one that started it too
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


# ── the table ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Model:
    """What is calibrated, and on what."""

    name: str
    path: Path
    kind: str
    size: int


@dataclass(frozen=True)
class Sizes:
    """Of the whole benchmark."""

    few: int
    many: int
    rounds: int
    image: int
    transformer: dict[str, int]
    layers: int


FULL = Sizes(few=100, many=400, rounds=3, image=224, transformer={}, layers=1000)
QUICK = Sizes(
    few=4, many=16, rounds=1, image=32, layers=30,
    transformer={"layers": 1, "width": 48, "inner": 96, "words": 16, "vocabulary": 1000},
)  # fmt: skip


class Bench:
    """Runs measurements and keeps what they gave."""

    def __init__(self, rounds: int) -> None:
        """So many times each."""
        self._rounds = rounds
        self._found: dict[tuple[Any, ...], list[dict[str, float]]] = {}

    def rounds(self, *jobs: tuple[str, Model, int, str], times: int = 1) -> list[dict[str, Any]]:
        """(R,) of each job, in so many times the rounds; the jobs take turns."""
        for _ in range(times * self._rounds):
            for job in jobs:
                kept = self._found.setdefault(job, [])
                if len(kept) < times * self._rounds:
                    kept.append(_apart(*job))
        return [
            {key: np.array([one[key] for one in self._found[job]]) for key in ("seconds", "peak")}
            for job in jobs
        ]


def _apart(what: str, model: Model, count: int, method: str) -> dict[str, float]:
    program = [sys.executable, str(Path(__file__).resolve()), "--measure", what, method]
    program += [str(model.path), model.kind, str(count), str(model.size)]
    done = subprocess.run(program, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} {method} on {model.name} failed:\n{done.stderr.decode()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(sizes: Sizes, folder: Path) -> Iterator[str]:
    """Every row, as it is measured."""
    cnn = mobilenet_v2(folder / "cnn" / "m.onnx", side=sizes.image)
    text = transformer(folder / "text" / "m.onnx", **sizes.transformer)
    deep = convolutions(folder / "deep" / "m.onnx", layers=sizes.layers)
    words = sizes.transformer.get("words", 128)
    models = [Model("MobileNetV2", cnn, "image", sizes.image), Model("MiniLM", text, "text", words)]
    bench = Bench(sizes.rounds)
    yield "| | model | ONNX Runtime, or the other | gate | ratio | bar | |"
    yield "|---|---|---|---|---|---|---|"
    for model in models:
        yield from _short(bench, model, sizes.few)
        yield from _against_theirs(bench, model, sizes)
    layered = Model(f"{sizes.layers} convolutions", deep, "deep", 8)
    yield from _opened(bench, layered)


def _against_theirs(bench: Bench, model: Model, sizes: Sizes) -> Iterator[str]:
    few, many = sizes.few, sizes.many
    for method in ("percentile", "entropy"):
        them, us, more = bench.rounds(
            ("theirs", model, few, method), ("ours", model, few, method),
            ("ours", model, many, method),
        )  # fmt: skip
        yield _faster(f"{method}, {few} examples", model, them["seconds"], us["seconds"], 5)
        scaled = them["seconds"] * many / few
        title = f"{method}, {many} examples (theirs: {many // few} × that of {few})"
        yield _faster(title, model, scaled, more["seconds"], 5)
    bare, them, us, more = (
        one["peak"]
        for one in bench.rounds(
            ("bare", model, few, ""), ("theirs", model, few, "percentile"),
            ("ours", model, few, "percentile"), ("ours", model, many, "percentile"),
        )
    )  # fmt: skip
    cells = (them - bare, us - bare)
    name = f"peak memory above the session's own, {few} examples"
    yield _row(name, model, cells, 0.1, lambda size: f"{size / MB:,.0f} MB")
    name = f"the whole process's peak, {many} examples against {few}"
    yield _row(name, model, (us, more), 1.05, lambda size: f"{size / MB:,.0f} MB")


def _short(bench: Bench, model: Model, few: int) -> Iterator[str]:
    """What takes seconds: more rounds, and all of it in turns."""
    them, once, one, every = (
        found["seconds"]
        for found in bench.rounds(
            ("theirs", model, few, "min-max"), ("forward", model, few, ""),
            ("ours", model, few, "min-max"), ("ours", model, few, "all"), times=3,
        )
    )  # fmt: skip
    yield _faster(f"min-max, {few} examples", model, them, one, 1)
    name = "all five methods against one"
    yield _row(name, model, (one, every), 1.3, _seconds)
    name = "the pass against a forward pass that gives the same tensors"
    yield _row(name, model, (once, one), 4, _seconds)


def _opened(bench: Bench, model: Model) -> Iterator[str]:
    them, us = bench.rounds(
        ("theirs_open", model, 1, "min-max"), ("ours_open", model, 1, "min-max")
    )
    yield _faster("from the file to the session", model, them["seconds"], us["seconds"], 5)


def _faster(name: str, model: Model, them: Any, us: Any, bar: float) -> str:
    ratio = float(np.median(them / us))
    told = "met" if ratio >= bar else "MISSED"
    cells = (_seconds(them), _seconds(us), f"{ratio:.2g} × as fast", f"≥ {bar:g} ×", told)
    return f"| {name} | {model.name} | " + " | ".join(cells) + " |"


def _row(
    name: str, model: Model, sides: tuple[Any, Any], most: float, tell: Callable[[float], str]
) -> str:
    """The second side as a multiple of the first, round by round."""
    ratio = float(np.median(sides[1] / sides[0]))
    told = "met" if ratio <= most else "MISSED"
    cells = (*(tell(np.median(side)) for side in sides), f"{ratio:.3g} ×", f"≤ {most:g} ×", told)
    return f"| {name} | {model.name} | " + " | ".join(cells) + " |"


def _seconds(times: Any) -> str:
    return f"{np.median(times):.2f} s"


def main() -> None:
    """Print the table, or measure one thing for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, method, path, kind, count, size = given.measure
        split = data(kind, int(count), int(size))
        print(json.dumps(measure(what, Path(path), split, method)))
        return
    print("\n## Calibration\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cnn", "text", "deep"):
            (Path(folder) / name).mkdir()
        for line in table(QUICK if given.quick else FULL, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
