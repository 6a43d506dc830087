"""Records as the gate writes them, for whoever reads records."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support import line as releases
from support.exporting import keep_operators
from support.project import Project
from support.tally import executions

from gate.policy import Budget, Policy
from gate.records import Comparison, Finding, GateRecord

os.environ.setdefault("GATE_CACHE_KEY", "of the tests")  # nothing is written to the user's folder
settings.register_profile("gate", deadline=None)  # a busy machine is no failure
settings.load_profile("gate")

MakeRecord = Callable[..., GateRecord]

BUDGETS = (
    {"metric": "accuracy", "max_drop": 0.01},
    {"metric": "accuracy", "max_drop": 0.03, "each": "target"},
    {"metric": "prediction_flips", "at_most": 0.05},
    {"metric": "size", "max_ratio": 0.5},
    {"metric": "int8_share", "at_least": 0.8},
)
ACCURACY, EACH, FLIPS, SIZE, SHARE = (Budget.model_validate(budget).id for budget in BUDGETS)

# (lost, gained, n), lower, upper, p_pass, p_fail, as Tango's interval and the exact test give them
DROPS: dict[str, tuple[tuple[int, int, int], float, float, float, float]] = {
    "pass": ((3, 2, 1000), -0.003371, 0.005716, 0.003779, 1.0),
    "fail": ((60, 5, 1000), 0.042901, 0.069009, 1.0, 0.000071),
    "inconclusive": ((1, 1, 150), -0.023366, 0.023366, 0.245878, 1.0),
}
CLEAN = ((0, 0, 101), -0.026089, 0.026089, 0.047126, 1.0)
LOSING = ((1, 0, 100), -0.016606, 0.043582, 0.195622, 1.0)
COLLAPSED = ((30, 0, 100), 0.230311, 0.379963, 1.0, 0.000073)
FLIPPED = {
    "pass": (0.008, 0.003987, 0.014388, 0.0000001, 1.0),
    "fail": (0.074, 0.060830, 0.089072, 1.0, 0.000612),
    "inconclusive": (0.013333, 0.002374, 0.041375, 0.0177, 1.0),
}
WHY = {
    "pass": "accuracy drops 0.10 pp (loss between −0.34 and 0.57, each end 95 % sure), proven "
    "within the 1.00 pp allowed",
    "fail": "accuracy drops 5.50 pp (loss between 4.29 and 6.90, each end 95 % sure), more than "
    "the 1.00 pp allowed",
    "inconclusive": "accuracy does not change (loss between −2.34 and 2.34, each end 95 % sure); "
    "150 examples do not prove it within the 1.00 pp allowed, about 1,031 would",
    "clean": "accuracy on {} does not change (loss between −2.61 and 2.61, each end 95 % sure), "
    "proven within the 3.00 pp allowed",
    "losing": "not proven: accuracy on {} drops 1.00 pp (loss between −1.66 and 4.36, each end "
    "95 % sure); 100 examples do not prove it within the 3.00 pp allowed, about 332 would",
    "collapsed": "accuracy on target=8 drops 30.00 pp (loss between 23.03 and 38.00, each end "
    "95 % sure), more than the 3.00 pp allowed",
    "flips": "prediction_flips is {:.2f} %, held against the 5.00 % allowed",
}


def drop(numbers: Any, where: str | None = None) -> Comparison:
    """Accuracy of FP32 97.1 % on 1000 digits, and what INT8 lost of it."""
    (lost, gained, n), lower, upper, p_pass, p_fail = numbers
    right = round(0.971 * n)
    return Comparison(
        metric="accuracy", slice=where, n=n, reference=right / n,
        int8=(right - lost + gained) / n, degradation=(lost - gained) / n,
        lower=lower, upper=upper, p_pass=p_pass, p_fail=p_fail,
        method="Tango interval, exact unconditional test",
        counts={"both_right": right - lost, "lost": lost, "gained": gained,
                "both_wrong": n - right - gained},
    )  # fmt: skip


def number(metric: str, reference: float | None, int8: float, **changes: Any) -> Comparison:
    """A metric that is no paired proportion."""
    fields = {"metric": metric, "n": 1000, "reference": reference, "int8": int8, "degradation": 0.0}
    return Comparison(**(fields | {"method": "exact number"} | changes))


def finding(
    budget: str, comparison: Comparison | None, outcome: str = "pass", **changes: Any
) -> Any:
    """What a budget came to; it blocks unless it passes."""
    fields = {
        "budget": budget, "slice": comparison.slice if comparison else None,
        "comparison": comparison, "outcome": outcome, "blocking": outcome != "pass",
        "reason": "proven within the budget",
    }  # fmt: skip
    return Finding(**(fields | changes))


def accuracy_finding(kind: str) -> Finding:
    """Whether the whole held-out set is within one percentage point."""
    if kind == "undefined":
        nothing = drop(DROPS["pass"]).model_copy(
            update={"int8": None, "degradation": None, "lower": None, "upper": None,
                    "p_pass": None, "p_fail": None, "counts": None, "method": "undefined",
                    "note": "accuracy has no value: INT8 gives NaN for 12 of 1000 examples"}
        )  # fmt: skip
        reason = "accuracy has no value: INT8 gives NaN for 12 of 1000 examples"
        return finding(ACCURACY, nothing, "fail", reason=reason)
    outcome = kind if kind in DROPS else "pass"
    needed = 1031 if outcome == "inconclusive" else None
    comparison, reason = drop(DROPS[outcome]), WHY[outcome]
    return finding(ACCURACY, comparison, outcome, reason=reason, examples_needed=needed)


def slice_findings(kind: str, slices: int) -> list[Finding]:
    """Every third slice is not proven; the one of target 8 collapses in a failing release."""
    found = []
    for index in range(slices):
        where = f"target={index}"
        if kind == "fail" and index == 8:
            found.append(finding(EACH, drop(COLLAPSED, where), "fail", reason=WHY["collapsed"]))
        elif index % 3:
            found.append(finding(EACH, drop(CLEAN, where), reason=WHY["clean"].format(where)))
        else:
            found.append(
                finding(EACH, drop(LOSING, where), "inconclusive", blocking=False,
                        reason=WHY["losing"].format(where), examples_needed=332)
            )  # fmt: skip
    return found


def findings(kind: str, slices: int) -> tuple[Finding, ...]:
    """Every budget's."""
    side = kind if kind in FLIPPED else "pass"
    value, lower, upper, p_pass, p_fail = FLIPPED[side]
    flips = number(
        "prediction_flips", None, value, quantity="value", lower=lower, upper=upper,
        p_pass=p_pass, p_fail=p_fail, degradation=value, method="Clopper-Pearson",
    )  # fmt: skip
    size = number("size", 103_412.0, 33_120.0, quantity="ratio", degradation=-0.679728,
                  p_pass=0.0, p_fail=1.0)  # fmt: skip
    share = number("int8_share", None, 0.9871, quantity="value", degradation=0.9871,
                   p_pass=0.0, p_fail=1.0)  # fmt: skip
    return (
        accuracy_finding(kind),
        *slice_findings(kind, slices),
        finding(FLIPS, flips, "fail" if side == "fail" else "pass",
                reason=WHY["flips"].format(100 * value)),
        finding(SIZE, size, reason="size is 0.32 times FP32's, within the 0.50 allowed"),
        finding(SHARE, share, reason="int8_share is 0.99, the 0.80 required"),
    )  # fmt: skip


def policy(judge: dict[str, Any]) -> Policy:
    """The policy of the bundled digits, or nearly."""
    held_out = {"path": "digits/held_out.npz"}
    expected = {"accuracy": 0.961, "within": 0.02}
    build = {"recipe": "static", "calibration": {"path": "digits/calibration.npz"}}
    rules = {"held_out": held_out, "expect_fp32": expected, "budgets": BUDGETS} | judge
    document = {"version": 1, "model": "digits-cnn", "task": "classification", "build": build}
    return Policy.model_validate(document | {"judge": rules})


PREVIOUS: dict[str, Any] = {
    "when": datetime(2026, 7, 23, 16, 40, tzinfo=UTC), "run": "7c1e09bb52d14a7e",
    "changes": ("weights: 51d0aa93be12 -> 3fa9c21b7d04", "onnxruntime 1.30.0 -> 1.31.1"),
}  # fmt: skip
CPU = {"model": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "architecture": "x86_64",
       "features": ["avx2", "avx512f", "avx512_vnni"], "vnni": True}  # fmt: skip
VERSIONS = {"gate": "0.1.0", "numpy": "2.3.4", "onnx": "1.23.2", "onnxruntime": "1.31.1"}
TENSOR = {"name": "image", "dtype": "float32", "shape": (None, 1, 8, 8)}


def record_fields(judge: dict[str, Any], n: int) -> dict[str, Any]:
    """All of a record but its verdict."""
    resolved = policy(judge)
    lines = {budget.id: 17 + index for index, budget in enumerate(resolved.judge.budgets)}
    calibration = {"source": "digits/calibration.npz", "sha256": "c4" * 32, "examples": 256}
    held_out = {"source": "digits/held_out.npz", "sha256": "ef" * 32, "examples": n}
    baseline = {"metric": "accuracy", "expected": 0.961, "measured": 0.971, "within": 0.02}
    return {
        "id": "20260730T091204Z-3fa9c21b7d04",
        "created": datetime(2026, 7, 30, 9, 12, 4, tzinfo=UTC),
        "model": "digits-cnn", "stage": "pr", "policy": resolved,
        "policy_source": {"file": "policies/digits.yaml", "lines": lines},
        "candidate": {"source": "models:/digits-cnn/4", "sha256": "3fa9c21b7d04" + "0" * 52,
                      "fp32_sha256": "9b" * 32, "bytes": 103_412, "inputs": (TENSOR,),
                      "outputs": (TENSOR | {"name": "logits", "shape": (None, 10)},),
                      "opset": 17, "steps": ("opset 13 -> 17",)},
        "int8": {"sha256": "7e" * 32, "bytes": 33_120, "recipe": resolved.build.recipe,
                 "quantized_nodes": ("conv1", "conv2", "fc1"), "skipped_nodes": ("fc2",),
                 "int8_share": 0.9871, "kernels": {"QLinearConv": 2, "QGemm": 1, "Gemm": 1}},
        "splits": {"held_out": held_out | {"duplicates": 0},
                   "calibration": calibration | {"duplicates": 0}},
        "preprocessing_sha256": "aa" * 32,
        "baseline": () if judge.get("expect_fp32") == "unknown" else (baseline,),
        "alpha": 0.05, "previous": PREVIOUS,
        "provenance": {"git": "b1946ac92492d2347c6235b4d2611184a1b2c3d4", "versions": VERSIONS,
                       "cpu": CPU, "seed": 0, "policy_sha256": "5d" * 32, "threads": 2,
                       "batch_size": 64},
        "durations": {"quantize": 1.2, "evaluate": 0.4}, "examples_evaluated": n,
        "examples_total": n, "rows_sha256": "12" * 32,
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    """`make_record(kind, slices=10, judge={…}, **fields)`.

    `kind` is pass, fail, inconclusive or undefined (INT8 gave NaN); `judge` replaces keys of the
    policy's judge (mode, on_inconclusive, expect_fp32); any other keyword replaces a field of the
    record. Every record has a previous PASS: `previous=None` makes it a first release.
    """

    def make(
        kind: str = "pass", *, slices: int = 10, judge: dict[str, Any] | None = None, **fields: Any
    ) -> GateRecord:
        found = findings(kind, slices)
        extra = (number("balanced_accuracy", 0.9708, 0.9699), number("log_loss", 0.0912, 0.0967))
        compared = tuple(f.comparison for f in found if f.comparison is not None)
        outcome = "fail" if kind == "undefined" else kind
        made = record_fields(judge or {}, 150 if kind == "inconclusive" else 1000)
        made |= {"comparisons": (*compared, *extra)}
        if kind == "fail":
            moved = (*PREVIOUS["changes"], "INT8 accuracy 0.969 -> 0.916")
            made |= {"previous": PREVIOUS | {"changes": moved}}
        made |= {"verdict": {"outcome": outcome, "findings": found}}
        return GateRecord.model_validate(made | fields)

    return make


@pytest.fixture(autouse=True)
def drawn_alike(request: pytest.FixtureRequest) -> None:
    """What a test draws from its module's generator depends on no other test."""
    rng = getattr(getattr(request, "module", None), "RNG", None)
    if rng is not None:
        rng.bit_generator.state = _BEGINNINGS.setdefault(id(rng), rng.bit_generator.state)


_BEGINNINGS: dict[int, Any] = {}


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    """Where a test exports with torch, which its module has loaded."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules and find_spec("onnxscript"):
            keep_operators(patch)
        yield


# ── stores ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite store without runs, made once: its migrations take seconds."""
    from gate.trackers.mlflow import TRACKER

    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        TRACKER.prepare()
    return folder / "mlflow.db"


# ── a line of releases ────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def first_release(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[Path, GateRecord]:
    """A folder whose store has version 1, which passed as a first release, in production."""
    folder = tmp_path_factory.mktemp("line")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    before, uri = Path.cwd(), os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    try:
        return folder, releases.begun(folder)
    finally:
        os.chdir(before)
        if uri is not None:
            os.environ["MLFLOW_TRACKING_URI"] = uri


@pytest.fixture
def line(
    first_release: tuple[Path, GateRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A working folder of its own, with that store as it was then."""
    shutil.copyfile(first_release[0] / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


# ── what is made once, is made on one worker ──────────────────────────────────────────────


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share what is made for their module, or the line of releases, share a worker."""
    for item in items:
        made: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
        if item.get_closest_marker("xdist_group") is None:
            if "first_release" in made:
                item.add_marker(pytest.mark.xdist_group("line"))
            elif any(found[-1].scope == "module" for found in made.values()):
                item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and config.getoption("loadgroup", False) and hasattr(item, "_id"):
            # xdist 3.8 appends the group to what pytest 9.2 no longer reads, and so groups nothing
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")


# ── what fuzzing ran ──────────────────────────────────────────────────────────────────────


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many hostile inputs of each kind were tried."""
    found = [told for reports in terminalreporter.stats.values() for told in executions(reports)]
    for told in found:
        terminalreporter.write_line(f"fuzz executions: {told}")


# ── what was run ──────────────────────────────────────────────────────────────────────────


def pytest_sessionstart() -> None:
    """Under `make coverage` workers are measured, and no command that a test starts.

    Coverage takes a lock in Python, and waits for itself where a signal interrupts it there.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:  # which was started by it
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


def pytest_sessionfinish() -> None:
    """Under `make coverage` each worker keeps what it ran, before it is ended without waiting."""
    if "coverage" in sys.modules:
        from coverage import Coverage

        measuring = Coverage.current()
        if measuring is not None:
            measuring.save()
