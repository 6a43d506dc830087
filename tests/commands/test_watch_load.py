"""Two hundred versions, and watchers that die again and again: each version is gated once."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import faults
from support.project import CNN, WIDE_RANGE, Project

from gate.commands._watch_state import Tags
from gate.registered import registered_name
from gate.trackers.mlflow import TRACKER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SOURCE = "digits"
BURSTS = (50, 40, 40, 30, 40)
"""How many versions come at once, 200 together; the next burst comes while the last is gated."""
DEATHS = 15
TWO_AT_ONCE = 3
"""The burst in which two watchers are at work."""
EVERY = 5
"""One version of so many is degraded."""
LIFE_S = 60.0
"""Of a claim, which a watcher that was killed leaves behind: an hour, but for this test."""
_PROGRAM = """
import sys
from datetime import timedelta
from gate.commands import _watch_claims, _watch_state
_watch_claims.SETTLE_S = float(sys.argv[1])
_watch_state.LIFE = timedelta(seconds=float(sys.argv[2]))
from gate.cli import main
main(sys.argv[3:])
"""


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = faults.made(tmp_path / "work", empty_store, monkeypatch)
    made.budget(metric="accuracy", max_drop=0.05)
    return made


class Line:
    """The registered source model, whose versions are all different, and some of them degraded."""

    def __init__(self) -> None:
        import mlflow

        uri = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.client.create_registered_model(SOURCE)
        self.count = 0

    def grow(self, by: int) -> None:
        for _ in range(by):
            self.count += 1
            live = Path.cwd() / "live" / f"{self.count}"
            live.mkdir(parents=True)
            (live / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}")
            model = onnx.load(CNN if self.count % EVERY else WIDE_RANGE)
            model.producer_version = f"{self.count}"
            onnx.save(model, live / "model.onnx")
            self.client.create_model_version(SOURCE, live.as_uri())

    def outcomes(self) -> dict[int, str]:
        """Of the versions that have one."""
        tags = Tags(faults.MODEL)
        found = {v.number: tags.outcome(v) for v in faults.registry().versions(SOURCE)}
        return {number: one.outcome for number, one in found.items() if one is not None}


def begun(project: Project, log: Path, settle: float) -> subprocess.Popen[bytes]:
    with log.open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, f"{settle}", f"{LIFE_S}", "watch", SOURCE,
             "--policy", str(project.policy), "--every", "1", "--threads", "1", "--quiet"],
            cwd=project.folder, env=os.environ, start_new_session=True, stdout=told, stderr=told,
        )  # fmt: skip


def ended(watcher: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """A signal to all of its processes, as a machine gives that goes down."""
    assert watcher.poll() is None, "a watcher ended by itself"
    os.killpg(watcher.pid, how)
    code = watcher.wait(60)
    assert code in (130, -signal.SIGKILL)


def watched(project: Project, line: Line, until: int, rng: random.Random, two: bool) -> int:
    """Watchers that die at any moment, until so many versions have an outcome; how many died."""
    died, log = 0, project.folder / "watch.log"
    start = time.monotonic()
    while len(line.outcomes()) < until:
        assert time.monotonic() - start < 1200, log.read_text()[-3000:]
        both = [begun(project, log, 2.0 if two else 0.05) for _ in range(1 + two)]
        time.sleep(rng.uniform(4, 45))
        for watcher in both:
            ended(watcher, rng.choice([signal.SIGKILL, signal.SIGTERM]))
            died += 1
    return died


def test_each_of_200_versions_is_gated_once(project: Project, record_property: Any) -> None:
    rng, line, died = random.Random(200), Line(), 0
    waits_for = itertools.accumulate(BURSTS)
    for number, (burst, whole) in enumerate(zip(BURSTS, waits_for, strict=True)):
        line.grow(burst)
        until = whole if number + 1 == len(BURSTS) else whole - burst // 2
        died += watched(project, line, until, rng, two=number == TWO_AT_ONCE)
    record_property("died", died)
    assert died >= DEATHS
    degraded = {number: "pass" if number % EVERY else "fail" for number in range(1, 201)}
    assert line.outcomes() == degraded
    demand_once(degraded)


def demand_once(expected: dict[int, str]) -> None:
    """One whole verdict a version in the tracker, and what was cut short is no verdict."""
    runs = TRACKER.past(faults.MODEL)
    assert {run.outcome for run in runs} <= {"pass", "fail", "incomplete"}
    whole = [run for run in runs if run.outcome != "incomplete"]
    told = Counter((run.tags["source"], run.outcome) for run in whole)
    assert told == {(f"models:/{SOURCE}/{n}", one): 1 for n, one in expected.items()}
    versions = faults.registry().versions(registered_name(faults.MODEL))
    shown = Counter(v.tags["outcome"] for v in versions if "outcome" in v.tags)
    assert shown == Counter(expected.values())
    faults.demand_whole_tracker()
