"""One release of a real model through the gate: what happened, and the row of the table."""

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.int8 import ranges_of

from gate import recipes
from gate.backends.onnxruntime import BACKEND
from gate.errors import GateError
from gate.normalize import normalize
from gate.pipeline import run_gate
from gate.quantize import quantize
from gate.records import Comparison, GateRecord
from gate.values import Int8Model

Columns = Mapping[str, Any]


def package(name: str, distribution: str | None = None) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{distribution or name} is not installed: run `make test-real`")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class Outcome:
    """How `gate run` ended."""

    recipe: str
    exit_code: int
    reason: str
    """The error's message, or of what blocks."""
    seconds: float
    record: GateRecord | None = None

    def value(self, metric: str) -> Comparison:
        """What was measured of a metric, over the whole held-out set."""
        assert self.record is not None, self.reason
        found = [c for c in self.record.comparisons if c.metric == metric and c.slice is None]
        return found[0]

    @property
    def int8_share(self) -> float:
        """Of the arithmetic, as it executed."""
        assert self.record is not None, self.reason
        return self.record.int8.int8_share


@dataclass(frozen=True)
class Row:
    """A line of the table in docs/quantization.md."""

    model: str
    recipe: str
    fp32: str = "–"
    int8: str = "–"
    share: str = "–"
    size: str = "–"
    seconds: str = "–"
    outcome: str = "–"

    def __str__(self) -> str:
        """In Markdown."""
        cells = self.model, f"`{self.recipe}`", self.fp32, self.int8, self.share, self.size
        return f"| {' | '.join((*cells, self.seconds, self.outcome))} |"


ROWS: list[Row] = []
"""Of this run; the terminal summary prints them."""


@dataclass
class Release:
    """A real model with its data, to be gated by one recipe or another."""

    folder: Path
    name: str
    """In the table: package, version, model."""
    candidate: Path
    held_out: Columns
    """A column per input, and `target`."""
    calibration: Columns
    expect: dict[str, Any] | str = "unknown"
    metric: str = "accuracy"
    budgets: tuple[dict[str, Any], ...] = ()
    build: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    task: str = "classification"

    def __post_init__(self) -> None:
        """Save the splits once."""
        self.folder.mkdir(exist_ok=True, parents=True)
        np.savez(self.folder / "held_out.npz", **self.held_out)
        np.savez(self.folder / "calibration.npz", **self.calibration)

    def run(self, recipe: str | dict[str, Any]) -> Outcome:
        """Gate it; errors are an outcome, too."""
        shown = recipe if isinstance(recipe, str) else _named(recipe)
        began = time.perf_counter()
        try:
            finished = run_gate(self._policy(recipe), self.candidate, tracker="none")
        except GateError as error:
            outcome = Outcome(shown, error.exit_code, str(error), time.perf_counter() - began)
        else:
            findings = finished.record.verdict.findings
            why = "; ".join(one.reason for one in findings if one.blocking)
            spent = time.perf_counter() - began
            outcome = Outcome(shown, finished.exit_code, why, spent, finished.record)
        ROWS.append(self._row(outcome))
        return outcome

    def _policy(self, recipe: str | dict[str, Any]) -> Path:
        build = {"recipe": recipe} | self.build
        if recipes.resolve(recipe).needs_calibration:
            build["calibration"] = {"path": "calibration.npz"}
        budgets = self.budgets or ({"metric": self.metric, "max_drop": 0.02},)
        spec = {
            "version": 1,
            "model": "real",
            "task": self.task,
            "build": build,
            "judge": {
                "held_out": {"path": "held_out.npz"},
                "expect_fp32": self.expect,
                "budgets": list(budgets),
            }
            | self.judge,
        }
        file = self.folder / "policy.yaml"
        file.write_text(yaml.safe_dump(spec, sort_keys=False))
        return file

    def _row(self, outcome: Outcome) -> Row:
        said = {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}.get(outcome.exit_code, "error")
        told = f"{said}, exit {outcome.exit_code}"
        row = Row(self.name, outcome.recipe, outcome=told, seconds=f"{outcome.seconds:.0f}")
        if outcome.record is None:
            return row
        judged, record = outcome.value(self.metric), outcome.record
        return Row(
            self.name,
            outcome.recipe,
            fp32=_percent(judged.reference),
            int8=_percent(judged.int8),
            share=f"{outcome.int8_share:.3f}",
            size=f"{record.int8.bytes / record.candidate.bytes:.2f}",
            seconds=row.seconds,
            outcome=told,
        )


def _named(recipe: Mapping[str, Any]) -> str:
    """As the policy has it, in one line."""
    return yaml.safe_dump(dict(recipe), default_flow_style=True, sort_keys=False, width=999).strip()


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def distribution(name: str, what: str) -> str:
    """How the table names a model."""
    return f"{name} {version(name)}, {what}"


def closeness(
    folder: Path, model: Path, recipe: str, calibration: Columns, shown: Columns
) -> tuple[Columns, Columns, Int8Model]:
    """What FP32 and INT8 give on `shown`, and how the INT8 model came out; no verdict."""
    normalised = normalize(
        model, name=model.name, sha256=None, backend=BACKEND, threads=2, scratch=folder
    )
    chosen = recipes.resolve(recipe)
    int8 = quantize(
        normalised,
        chosen,
        ranges_of(normalised.path, chosen, dict(calibration)),
        backend=BACKEND,
        sample_feeds={name: column[:1] for name, column in shown.items()},
        threads=2,
        destination=folder / "model.int8.onnx",
    )
    fp32, after = (BACKEND.open(m.path, threads=2).run(shown) for m in (normalised, int8))
    return fp32, after, int8


def overlap(fp32: np.ndarray, int8: np.ndarray, above: float) -> float:
    """Intersection over union of the pixels that lie above a threshold."""
    before, after = fp32 > above, int8 > above
    return float((before & after).sum() / (before | after).sum())


def table() -> str:
    """The rows in Markdown."""
    head = ("model", "recipe", "FP32", "INT8", "INT8 share", "size", "seconds", "outcome")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join((*lines, *map(str, ROWS)))
