"""Policies that are anything: a clean error, or a policy that is one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from support import mutation
from support.fuzzing import Worker, command, demand_clean, long, quick
from support.project import Project
from support.tally import Tally

KIND = "policies"
SHIPPED = Path(__file__).parents[2] / "policies"
RICH: dict[str, Any] = {
    "version": 1,
    "model": "digits-cnn",
    "task": "classification",
    "build": {
        "recipe": {"name": "static", "per_channel": True},
        "candidate": "model.onnx",
        "calibration": {"path": "calibration.npz", "limit": 100, "sha256": "ab" * 32},
        "preprocess": {"scale": 0.5, "mean": [0.1], "std": [0.2], "layout": "NCHW"},
        "classes": ["a", "b"],
        "decode": {"as": "logits"},
    },
    "judge": {
        "held_out": {"path": "held_out.npz", "format": "npz", "may_miss": 1},
        "expect_fp32": {"accuracy": 0.961, "within": 0.02},
        "confidence": 0.95,
        "mode": "enforce",
        "on_inconclusive": "block",
        "stopping": "full",
        "decision": "proof",
        "seed": 3,
        "slices": {"ink": {"column": "ink", "edges": [0, 1]}},
        "budgets": [
            {"metric": "accuracy", "max_drop": 0.01, "slice": "ink=light"},
            {"metric": "accuracy", "max_drop": 0.03, "each": "target", "min_examples": 20},
            {"metric": "prediction_flips", "at_most": 0.03},
            {"metric": "size", "max_ratio": 0.5, "against": "production"},
        ],
    },
}
"""Nearly a policy: more words than one policy would have."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("policies"))
    shutil.copytree(SHIPPED, worker.folder, dirs_exist_ok=True)
    Project(worker.folder)
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def specs(worker: Worker) -> list[Any]:
    files = [worker.folder / "policy.yaml", *sorted(SHIPPED.glob("*.yaml"))]
    return [*(yaml.safe_load(file.read_text("utf-8")) for file in files), RICH]


def strategy(specs: list[Any]) -> Any:
    return st.one_of(
        *(st.tuples(st.just(i), mutation.edits(spec), st.just([])) for i, spec in enumerate(specs)),
        *(
            st.tuples(st.just(i), mutation.edits(spec, least=0), mutation.byte_edits())
            for i, spec in enumerate(specs)
        ),
    )


def content(specs: list[Any], case: Any) -> bytes:
    which, edits, byte_edits = case
    text = yaml.safe_dump(mutation.changed(specs[which], edits), sort_keys=False)
    return mutation.bytes_changed(text.encode("utf-8", "surrogatepass"), byte_edits)


def case_of(worker: Worker, specs: list[Any], tally: Tally) -> Any:
    file = worker.folder / "hostile.yaml"

    def case(drawn: Any) -> None:
        file.write_bytes(content(specs, drawn))
        ended = tally.count(worker.run(command, ["check", str(file)]))
        demand_clean(ended)
        assert ended.code != 1 or "gate:" in ended.err
        assert (ended.code == 0) == (": ok (" in ended.out)

    return case


def test_a_policy_is_good_or_has_an_error(
    worker: Worker, specs: list[Any], record_property: Any
) -> None:
    tally = Tally(KIND, record_property)
    quick(case_of(worker, specs, tally), strategy(specs), 150, tally)


@pytest.mark.slow
def test_a_policy_is_good_or_has_an_error_whatever_it_is(
    worker: Worker, specs: list[Any], record_property: Any
) -> None:
    tally = Tally(KIND, record_property)
    long(case_of(worker, specs, tally), strategy(specs), tally)


def test_the_samples_are_good(worker: Worker) -> None:
    files = [str(file) for file in sorted(worker.folder.glob("*.yaml"))]
    files = [file for file in files if not file.endswith("hostile.yaml")]
    ended = worker.run(command, ["check", *files])
    assert (len(files), ended.code) == (4, 0), ended
