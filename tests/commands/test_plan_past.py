"""A plan learns from releases: flips from one to the next, and what they let a set decide."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.line import ANCHOR, MODEL, PRODUCTION, policy, released
from support.onnx_models import retouched
from support.project import CNN, Project

from gate import trackers
from gate.commands._plan_past import between_releases
from gate.commands.plan import plan
from gate.policy import Budget
from gate.policy_file import load_policy
from gate.rows import load_rows

First = tuple[Path, Any]


@pytest.fixture
def second(line: Project, tmp_path: Path) -> Project:
    """A line whose second release differs a little from the first."""
    retouched(CNN, tmp_path / "b.onnx")
    record = released(policy(line), tmp_path / "b.onnx", out=tmp_path / "second")
    assert record.verdict.outcome == "pass"
    return line


def test_flips_are_counted_between_releases(second: Project, first_release: First) -> None:
    tracker = trackers.get("mlflow")
    found = between_releases(
        tracker, tracker.past(MODEL), load_policy(second.policy).policy, ["accuracy", "auroc"]
    )
    sides = [
        load_rows(folder / "rows.npz").int8["label"].flat
        for folder in (first_release[0] / "first", second.folder / "second")
    ]
    right = [side[:, 0] == side[:, 1] for side in sides]
    assert found == {"accuracy": (float(np.mean(right[0] != right[1])),), "auroc": ()}


def test_a_budget_against_production_is_planned_with_them(second: Project) -> None:
    told = plan(str(policy(second, PRODUCTION).policy), tracker="mlflow", html=None)
    assert "against production" in told.split("Chance of PASS")[0]
    section = told.split("2. accuracy, drop ≤ 1.00 pp against production")[1]
    assert "0.5 %" not in section.splitlines()[3]  # an assumed rate
    lines = [part for part in told.splitlines() if part.startswith("  - {")]
    assert any("against: production" in part for part in lines)


def test_what_it_says_can_be_pasted(second: Project, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    told = plan(str(policy(second, PRODUCTION).policy), tracker="mlflow", html=page)
    lines = [part.split("#")[0] for part in told.splitlines() if part.startswith("  - {")]
    budgets = yaml.safe_load("\n".join(lines))
    limits = [Budget.model_validate(budget).limit for budget in budgets]
    assert len(limits) == 2
    assert all(0.002 < limit < 0.03 for limit in limits)
    assert "max_drop" in page.read_text()


def test_a_pasted_budget_is_the_one_that_was_planned(second: Project) -> None:
    sites = np.array(["no"] * 300 + ["a, b: {x} #1"] * 700)
    second.change("held_out", lambda columns: columns.update({"my site: x": sites}))
    budgets = [
        *(
            {"metric": "accuracy", "max_drop": 0.2, "slice": {"my site: x": x}}
            for x in sorted(set(sites.tolist()))
        ),
        {"metric": "accuracy", "max_drop": 0.2, "each": "my site: x", "min_examples": 100},
        {"metric": "top5_accuracy", "max_drop": 0.2, "require": "no_proven_harm"},
    ]
    policy(second, *budgets)
    released(second)
    told = plan(str(second.policy), tracker="mlflow", html=None)
    lines = [part.strip() for part in told.splitlines() if part.startswith("  - {")]
    pasted = [Budget.model_validate(yaml.safe_load(line)[0]) for line in lines]
    asked = load_policy(second.policy).policy.judge.budgets
    unlimited = {"max_drop": None}
    assert [one.model_copy(update=unlimited) for one in pasted] == [
        one.model_copy(update=unlimited) for one in asked
    ]


def test_without_history_nothing_is_promised(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    project = policy(Project(tmp_path), ANCHOR, anchor=f"models:/{MODEL}-int8/1")
    assert "  - {" not in plan(str(project.policy), tracker="none", html=None)


def test_rows_that_were_changed_tell_nothing(second: Project, monkeypatch: Any) -> None:
    tracker = trackers.get("mlflow")
    fetch = type(tracker).fetch

    def tampered(self: Any, run: str, name: str, folder: Path) -> Path | None:
        path = fetch(self, run, name, folder)
        assert path is not None
        path.write_bytes(path.read_bytes() + b"\0")
        return path

    monkeypatch.setattr(type(tracker), "fetch", tampered)
    policy_ = load_policy(second.policy).policy
    assert between_releases(tracker, tracker.past(MODEL), policy_, ["accuracy"]) == {"accuracy": ()}
