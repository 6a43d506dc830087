"""A new held-out set: both releases on both sets, the bridge kept, and runs held against it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.line import ANCHOR, MODEL, PRODUCTION, policy, promoted, released
from support.project import WIDE_RANGE, Project

from gate import trackers
from gate.cli import exit_code_of
from gate.commands._rebase_text import render
from gate.commands.rebase import Rebased, rebase
from gate.errors import GateError, OverlapError, ReleaseError, UsageError
from gate.plugins import plugged_in
from gate.records import GateRecord

First = tuple[Path, GateRecord]


def fresh(line: Project, start: int = 100) -> str:
    """A new set: the old one's later examples under other names."""
    columns = line.data("held_out")
    new = {key: values[start:] for key, values in columns.items()}
    new["id"] = np.array([f"new-{index}" for index in range(len(new["target"]))])
    line.save("new", **new)
    return "new.npz"


def rebased(held_out: str = "new.npz", **options: Any) -> Rebased:
    return rebase(MODEL, held_out, trackers.get("mlflow"), threads=1, **options)


def test_production_is_evaluated_on_both_and_the_bridge_is_kept(
    line: Project, first_release: First
) -> None:
    record = first_release[1]
    found = rebased(fresh(line))
    (one,) = found.bridge.releases
    told = {c.metric: c.int8 for c in record.comparisons if c.slice is None and c.against == "fp32"}
    assert (one.version, one.record, one.roles) == ("1", record.id, ("production",))
    assert found.bridge.before == record.splits.held_out.sha256
    assert one.before["accuracy"] == told["accuracy"]
    assert one.before.keys() == one.after.keys() >= {"accuracy", "log_loss", "auroc"}
    assert found.examples == 900
    registry = trackers.get("mlflow").registry
    assert registry is not None
    assert [bridge for _, bridge in registry.bridges(MODEL)] == [found.bridge]


def test_runs_on_the_new_set_are_paired_without_running_production(line: Project) -> None:
    found = rebased(fresh(line))
    line.spec["judge"]["held_out"] = {"path": "new.npz", "sha256": found.bridge.after}
    record = released(policy(line, PRODUCTION), WIDE_RANGE)
    assert record.releases[0].rows == "stored"
    against = record.verdict.findings[1].comparison
    assert against is not None
    assert against.n == 900
    assert against.reference == found.bridge.releases[0].after["accuracy"]


def test_anchor_and_production_are_both_carried_over(line: Project) -> None:
    second = released(policy(line, ANCHOR, anchor=f"models:/{MODEL}-int8/1"))
    assert second.verdict.outcome == "pass"
    promoted("2", second, previous="1")
    found = rebased(fresh(line))
    assert [(one.version, one.roles) for one in found.bridge.releases] == [
        ("2", ("production",)),
        ("1", ("anchor",)),
    ]


def test_one_bridge_follows_the_other(line: Project) -> None:
    first = rebased(fresh(line))
    second = rebased(fresh(line, 300))
    assert second.bridge.before == first.bridge.after
    assert second.bridge.releases[0].before == first.bridge.releases[0].after
    with pytest.raises(UsageError, match="nothing to rebase"):
        rebased()


def test_a_policy_names_what_needs_more_than_a_path(line: Project) -> None:
    fresh(line)
    line.spec["judge"]["held_out"] = {"path": "new.npz", "limit": 500}
    policy(line)
    assert rebased(str(line.policy)).examples == 500


def test_examples_that_a_release_was_made_from_prove_nothing(line: Project) -> None:
    with pytest.raises(OverlapError):
        rebased("calibration.npz")


def test_what_is_not_here_to_be_held_against_is_said(
    line: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise UsageError("no longer there")

    monkeypatch.setattr("gate.commands.rebase.opened", gone)
    said = render(rebased(fresh(line)), "text")
    assert f"NOT CHECKED: whether the calibration data of models:/{MODEL}-int8/1" in said


def test_the_command_tells_what_to_write(line: Project, capfd: pytest.CaptureFixture[str]) -> None:
    fresh(line)
    arguments = ["rebase", MODEL, "--held-out", "new.npz", "--threads", "1", "--format"]
    assert exit_code_of([*arguments, "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["releases"][0]["after"]["accuracy"] > 0.9
    fresh(line, 200)
    assert exit_code_of([*arguments, "text"]) == 0
    assert "sha256: " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("kind", "model", "held_out", "options", "said"),
    [
        (UsageError, MODEL, "gone.npz", {}, "no such file"),
        (ReleaseError, "nobody", "new.npz", {}, "neither"),
        (UsageError, MODEL, "new.npz", {"anchor": "models:/x@y"}, "name a version"),
        (ReleaseError, MODEL, "new.npz", {"anchor": "models:/x/7"}, "not in the registry"),
    ],
)
def test_what_cannot_be_carried_over(  # noqa: PLR0917 - what is asked, and what is said
    line: Project,
    kind: type[GateError],
    model: str,
    held_out: str,
    options: dict[str, Any],
    said: str,
) -> None:
    fresh(line)
    with pytest.raises(kind, match=said):
        rebase(model, held_out, trackers.get("mlflow"), threads=1, **options)


def test_nothing_is_carried_over_without_a_memory(line: Project) -> None:
    with pytest.raises(UsageError, match="keeps no releases"):
        rebase(MODEL, fresh(line), trackers.get("none"))


def test_data_of_another_shape_do_not_fit(line: Project) -> None:
    line.save("new", image=np.zeros((20, 1, 9, 9), np.float32), target=np.zeros(20, np.int64))
    with pytest.raises(GateError, match="image"):
        rebased()


def test_a_release_that_another_plugin_observed_is_not_carried_over(line: Project) -> None:
    fresh(line)
    plugin = line.folder / "mine.py"
    plugin.write_text('def mine(outputs):\n    return outputs\n\n\nDECODERS = {"mine": mine}\n')
    with plugged_in([plugin]), pytest.raises(ReleaseError, match="other plugins"):
        rebased()
