"""What the memory of releases costs, and what it stops: history, logging, cumulative drift.

`make bench` runs it and prints the table of docs/history.md. Stores are made by logging one real
record and copying its rows straight into the tables of the database. Seconds are of this machine,
the best of a few; it exits with 1 where one is beyond its bar.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import chdir, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

import gate
from gate import examples, trackers
from gate.examples import digits
from gate.records import GateRecord
from gate.statistics import exact

MODEL = "digits-cnn"
RELEASES = {1_000: 2.0, 10_000: 10.0}
"""Releases, and the seconds that `gate history` may take for them."""
METRICS = 20
LOGGING_S = 1.0
TRIES = 3
DAY_MS = 24 * 3600 * 1000

LINES, STEPS, N = 100, 10, 10_000
LOSS, STEP_BUDGET, TOTAL_BUDGET, ALPHA = 0.003, 0.01, 0.015, 0.05
RIGHT = 0.96
FLIPS = (0.01, 0.02)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    measured: float
    bar: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is within its bar."""
        return self.measured >= self.bar if self.at_least else self.measured <= self.bar


def main() -> int:
    """Measure and print all of it; 0 where every bar is met."""
    with tempfile.TemporaryDirectory(prefix="gate-history-") as scratch:
        folder = Path(scratch)
        record = _record(folder)
        rows = [Row("logging a run, MLflow imported", _logging(folder, record), LOGGING_S, "s")]
        for count, bar in RELEASES.items():
            rows.append(Row(f"history of {count:,} × {METRICS}", _history(folder, count), bar, "s"))
    rows += _drift()
    _print(rows)
    return 0 if all(row.is_met for row in rows) else 1


def _print(rows: Sequence[Row]) -> None:
    print("| | measured | bar | |\n|---|---:|---:|---|")
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        met = "" if row.is_met else "MISSED"
        print(f"| {row.what} | {row.measured:.4g} {row.unit} | {sign} {row.bar:g} | {met} |")


# ── logging ───────────────────────────────────────────────────────────────────────────────


def _record(folder: Path) -> GateRecord:
    """A release of the bundled model, gated as a user would, without a tracker."""
    policies = examples.policies() / "digits"
    budgets = [
        {"metric": "accuracy", "max_drop": 0.01},
        {"metric": "accuracy", "max_drop": 0.2, "each": "target"},
        {"metric": "size", "max_ratio": 0.9},
    ]
    policy = {
        "version": 1,
        "model": MODEL,
        "task": "classification",
        "build": {"recipe": "static", "calibration": {"path": str(policies / "calibration.npz")}},
        "judge": {
            "held_out": {"path": str(policies / "held_out.npz")},
            "expect_fp32": "unknown",
            "budgets": budgets,
        },
    }
    (folder / "policy.yaml").write_text(json.dumps(policy), encoding="utf-8")
    finished = gate.run_gate(
        folder / "policy.yaml",
        digits.FOLDER / "cnn.onnx",
        out=folder / "run",
        tracker="none",
        stage="release",
    )
    return finished.record


def _logging(folder: Path, record: GateRecord) -> float:
    """Seconds of `Tracker.log`, on a sqlite store that is there."""
    keeper, store, seconds = trackers.get("mlflow"), folder / "store", []
    store.mkdir()
    with chdir(store):
        for number in range(TRIES + 1):
            changes = {
                "id": f"{record.id}-{number}",
                "created": record.created + timedelta(days=number),
            }
            again = record.model_copy(update=changes)
            (folder / "run" / "record.json").write_text(again.model_dump_json(), encoding="utf-8")
            began = time.perf_counter()
            keeper.log(again, folder / "run")
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:])  # the first one makes the store


# ── history ───────────────────────────────────────────────────────────────────────────────


def _history(folder: Path, count: int) -> float:
    """Seconds of the whole process `gate history`, interpreter and imports included."""
    store = folder / f"store-{count}"
    store.mkdir()
    _grown(folder / "store" / "mlflow.db", store / "mlflow.db", count)
    command = [sys.executable, "-m", "gate", "history", MODEL]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=store, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds.append(time.perf_counter() - began)
        if f"{count:,} runs" not in done.stdout:
            raise SystemExit(f"gate history does not show {count:,} runs: {done.stdout[-500:]}")
    return min(seconds)


def _grown(template: Path, out: Path, count: int) -> None:
    """A store of `count` releases: copies of the first run, a day apart, INT8 a little lower."""
    with closing(sqlite3.connect(template)) as source, closing(sqlite3.connect(out)) as store:
        source.backup(store)
        store.execute("PRAGMA synchronous = OFF")
        names = [r[0] for r in store.execute("SELECT run_uuid FROM runs ORDER BY start_time")]
        first, others = names[0], names[1:]
        for table in ("tags", "params", "latest_metrics", "metrics", "runs"):
            store.executemany(f"DELETE FROM {table} WHERE run_uuid = ?", [(n,) for n in others])
        _thinned(store, first)
        for number in range(1, count):
            _copied(store, first, number)
        store.commit()


def _thinned(store: sqlite3.Connection, run: str) -> None:
    """Exactly `METRICS` numbers; those of the budgets come first."""
    keys = [r[0] for r in store.execute("SELECT key FROM latest_metrics WHERE run_uuid = ?", [run])]
    keys.sort(key=lambda key: (not key.startswith("accuracy.max_drop/"), key.count("/"), key))
    if len(keys) < METRICS:
        raise SystemExit(f"the record has {len(keys)} metrics, fewer than {METRICS}")
    store.executemany("DELETE FROM latest_metrics WHERE key = ?", [(k,) for k in keys[METRICS:]])


def _copied(store: sqlite3.Connection, run: str, number: int) -> None:
    name = uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex
    for table in ("runs", "tags", "params", "latest_metrics"):
        cursor = store.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [run])
        columns = [entry[0] for entry in cursor.description]
        rows = [dict(zip(columns, row, strict=True)) | {"run_uuid": name} for row in cursor]
        for row in rows:
            _aged(table, row, number)
        marks = ", ".join("?" for _ in columns)
        store.executemany(
            f"INSERT INTO {table} VALUES ({marks})", [tuple(r.values()) for r in rows]
        )


def _aged(table: str, row: dict[str, object], number: int) -> None:
    if table == "runs":
        row["start_time"] = int(str(row["start_time"])) + number * DAY_MS
    if table == "tags" and row["key"] == "gate.record":
        row["value"] = f"{row['value']}-{number}"
    if table == "tags" and row["key"] == "gate.version":
        row["value"] = str(number + 1)
    if table == "latest_metrics" and str(row["key"]).endswith("/int8"):
        row["value"] = float(str(row["value"])) - 1e-6 * number


# ── drift ─────────────────────────────────────────────────────────────────────────────────


def _drift() -> Iterator[Row]:
    """Lines of releases that each lose a little, under a step budget, and under both."""
    rng = np.random.default_rng(7)
    reached = [_line(rng) for _ in range(LINES)]
    edge = round(TOTAL_BUDGET / LOSS)
    step, both = (np.array(side) for side in zip(*reached, strict=True))
    yield Row("lines beyond 1.5 pp under a step budget", float((step > edge).sum()), 90, "", True)
    yield Row("and under ours", float((both > edge).sum()), ALPHA * LINES, "")
    yield Row(
        "lines let to exactly 1.5 pp by ours", float((both >= edge).sum()), 2 * ALPHA * LINES, ""
    )
    yield Row(
        "mean drift after 10 releases, step budget", 100 * LOSS * step.mean(), 2.5, "pp", True
    )
    yield Row("and under ours", 100 * LOSS * both.mean(), 100 * TOTAL_BUDGET, "pp")


def _line(rng: np.random.Generator) -> tuple[int, int]:
    """Releases that pass one after the other: by the step budget, and by both budgets.

    A line ends with the first release that is not proven within its budgets. Examples are
    independent draws from a population on which the k-th release loses exactly k × `LOSS`.
    """
    anchor = rng.random(N) < RIGHT
    serving, step, both, is_ours = anchor, 0, 0, True
    for number in range(STEPS):
        release = _release(rng, serving, RIGHT - number * LOSS)
        if not _is_proven(serving, release, STEP_BUDGET):
            break
        step += 1
        is_ours = is_ours and _is_proven(anchor, release, TOTAL_BUDGET)
        both += is_ours
        serving = release
    return step, both


def _release(rng: np.random.Generator, before: np.ndarray, accuracy: float) -> np.ndarray:
    """(N,) of bool: what the next release has right, where the one before has `accuracy`.

    It flips a share of `FLIPS` of the population, and loses `LOSS` of it.
    """
    flips = rng.uniform(*FLIPS)
    lost = before & (rng.random(N) < (flips + LOSS) / 2 / accuracy)
    gained = ~before & (rng.random(N) < (flips - LOSS) / 2 / (1 - accuracy))
    return (before & ~lost) | gained


def _is_proven(before: np.ndarray, after: np.ndarray, budget: float) -> bool:
    """As the gate decides a budget on a drop in accuracy."""
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    p_pass, _ = exact.p_values(lost, gained, N, budget, alpha_pass=ALPHA, alpha_fail=ALPHA)
    return p_pass <= ALPHA


if __name__ == "__main__":
    sys.exit(main())
