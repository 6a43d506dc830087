"""A user's folder in miniature: a policy, its data and a model, each ready to be spoilt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gate import examples
from gate.examples import digits

CNN = digits.FOLDER / "cnn.onnx"
WIDE_RANGE = digits.FOLDER / "wide-range.onnx"
SUBGRAPH = digits.FOLDER / "subgraph.onnx"


class Project:
    """`policy.yaml`, `calibration.npz` and `held_out.npz` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy.yaml"
        self.spec: dict[str, Any] = {
            "version": 1,
            "model": "digits-cnn",
            "task": "classification",
            "build": {"recipe": "static", "calibration": {"path": "calibration.npz"}},
            "judge": {
                "held_out": {"path": "held_out.npz"},
                "expect_fp32": {"accuracy": 0.961, "within": 0.02},
                "budgets": [{"metric": "accuracy", "max_drop": 0.01}],
            },
        }
        for name in ("calibration", "held_out"):
            with np.load(examples.policies() / "digits" / f"{name}.npz") as archive:
                self.save(name, **archive)
        self.write()

    def write(self) -> Path:
        """The policy as `spec` now says."""
        self.policy.write_text(yaml.safe_dump(self.spec, sort_keys=False))
        return self.policy

    def budget(self, **budget: Any) -> Path:
        """The policy with this one budget."""
        self.spec["judge"]["budgets"] = [budget]
        return self.write()

    def data(self, name: str) -> dict[str, Any]:
        """A split's columns."""
        with np.load(self.folder / f"{name}.npz") as archive:
            return dict(archive)

    def save(self, name: str, **columns: Any) -> None:
        """Write a split."""
        np.savez(self.folder / f"{name}.npz", **columns)

    def change(self, name: str, function: Callable[[dict[str, Any]], None]) -> None:
        """Change a split's columns in place."""
        columns = self.data(name)
        function(columns)
        self.save(name, **columns)
