"""magika tells files by their bytes, which come as integers: one-hot, one MatMul, one Conv."""

import json

import numpy as np
import pytest
from real import files
from real.gating import Release, distribution, package

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

CALIBRATION, HELD_OUT = 5, 24
"""Files of each of 22 kinds."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    shipped = package("magika") / "models" / "standard_v3_3"
    known = json.loads((shipped / "config.min.json").read_text())["target_labels_space"]
    found = list(files.written(list(files.KINDS), CALIBRATION + HELD_OUT, seed=0))
    content = np.stack([row for _, row in found])
    targets = np.array([known.index(kind) for kind, _ in found])
    calibrating = np.arange(len(found)) % (CALIBRATION + HELD_OUT) < CALIBRATION
    return Release(
        folder=tmp_path_factory.mktemp("magika"),
        name=distribution("magika", "standard_v3_3"),
        candidate=shipped / "model.onnx",
        held_out={"bytes": content[~calibrating], "target": targets[~calibrating]},
        calibration={"bytes": content[calibrating]},
        expect={"accuracy": 0.97, "within": 0.03},
        build={"decode": "probabilities"},
    )


def test_every_operator_as_integers_is_blocked(release: Release) -> None:
    """ONNX Runtime's own quantizer raises here, on a bias of shape (1, 214)."""
    outcome = release.run("static")
    assert outcome.exit_code == 1
    assert "accuracy drops" in outcome.reason
    assert outcome.int8_share > 0.99


def test_its_one_convolution_holds(release: Release) -> None:
    outcome = release.run("static-conv")
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.int8_share > 0.85


def test_dynamic_ranges_hold_and_leave_the_convolution(release: Release) -> None:
    outcome = release.run("dynamic")
    assert outcome.exit_code == 0, outcome.reason
    assert outcome.int8_share < 0.15
    assert outcome.record is not None
    islands = outcome.record.int8.islands
    assert [island.reason for island in islands] == ["recipe 'dynamic' leaves Conv out"]
