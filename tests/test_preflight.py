import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate.errors import DataError, PolicyError
from gate.policy import Budget
from gate.policy_file import load_policy
from gate.preflight import preflight

GOOD = """\
version: 1
model: digits-cnn
task: classification
build:
  recipe: static
  calibration: {path: data/calibration.npz}
judge:
  held_out: {path: data/held_out.npz}
  expect_fp32: {accuracy: 0.96, within: 0.02}
  budgets:
    - {metric: accuracy, max_drop: 0.01}
    - {metric: accuracy, max_drop: 0.03, each: site}
    - {metric: accuracy, max_drop: 0.0, slice: {site: north, target: 3}}
    - {metric: prediction_flips, at_most: 0.05}
    - {metric: size, max_ratio: 0.5}
    - {metric: int8_share, at_least: 0.8}
    - {metric: top3_accuracy, at_least: 1}
"""
FIRST = "{metric: accuracy, max_drop: 0.01}"


def unsupported(budget: Budget, *, proportion: bool, artifact: bool, **kind: bool) -> str | None:
    if proportion or artifact:
        return None
    return f"a budget on {budget.metric} cannot be judged by this version"


def columns(path: Path, **more: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    arrays = {
        "image": np.zeros((4, 1, 2, 2), np.float32),
        "id": np.array(list("abcd")),
        "unit": np.array(list("uuvv")),
        "target": np.arange(4),
        "site": np.array(["north", "south"] * 2),
    }
    np.savez(path, **(arrays | more))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    columns(Path("data/held_out.npz"))
    columns(Path("data/calibration.npz"))
    return tmp_path


def check(text: str, **options: Any) -> None:
    Path("p.yaml").write_text(text)
    preflight(load_policy("p.yaml"), unsupported=unsupported, **options)


def findings(text: str, **options: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        check(text, **options)
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_policy() -> None:
    check(GOOD)


SITES = "Known: site, target"
ABSENT = "is not available in this version of gate"

BUDGET_FINDINGS = [
    ("metric: acuracy, max_drop: 0.01", "16: unknown metric 'acuracy'; did you mean 'accuracy'?"),
    ("metric: map, max_drop: 0.01", "16: unknown metric 'map'. Known: accuracy, top5_accuracy"),
    ("metric: auroc, max_drop: 0.01", "7: a budget on auroc cannot be judged by this version"),
    ("metric: accuracy, max_drop: 1", "36: max_drop of accuracy is a share of all examples, below"),
    ("metric: accuracy, at_least: 96.5", "36: at_least of accuracy is a share, from 0 to 1, not 9"),
    ("metric: accuracy, at_least: -0.1", "36: at_least of accuracy is a share, from 0 to 1, not -"),
    ("metric: top2_accuracy, at_most: 2", "40: at_most of top2_accuracy is a share, from 0 to 1"),
    ("metric: prediction_flips, at_least: 9", "44: at_least of prediction_flips is a share, from"),
    ("metric: int8_share, at_most: 80", "37: at_most of int8_share is a share, from 0 to 1, not 8"),
    ("metric: size, at_most: -1", "31: at_most of size is in bytes, 0 or more, not -1"),
    ("metric: size, at_most: 9, each: site", "34: size is one number of the whole model, it has"),
    ("metric: size, at_most: 9, slice: {site: a}", "34: size is one number of the whole model, it"),
    ("metric: accuracy, max_drop: 0, each: sight", "45: unknown slice column 'sight'; did you mea"),
    ("metric: accuracy, max_drop: 0, each: image", f"45: unknown slice column 'image'. {SITES}"),
    ("metric: accuracy, max_drop: 0, each: id", f"45: unknown slice column 'id'. {SITES}"),
    ("metric: accuracy, max_drop: 0, each: unit", f"45: unknown slice column 'unit'. {SITES}"),
    ("metric: accuracy, max_drop: 0, slice: {a: b}", f"47: unknown slice column 'a'. {SITES}"),
    ("metric: accuracy, max_drop: 0, against: anchor", "48: `against: anchor` needs one: write `a"),
]


@pytest.mark.parametrize(("budget", "expected"), BUDGET_FINDINGS)
def test_a_budget(budget: str, expected: str) -> None:
    (line,) = findings(changed(FIRST, f"{{{budget}}}"))
    assert line.startswith(f"p.yaml:11:{expected}")


STATIC, CANDIDATE = "recipe: static", "recipe: static\n  candidate: m.onnx"
CALIBRATION, HELD_OUT = "data/calibration.npz", "data/held_out.npz"
NONE = "there is no data/none.npz; paths are relative to the policy's folder, ."

ONE_FINDING = [
    ("task: classification", "task: clasification", "3:7: unknown task 'clasification'; did you"),
    ("judge:\n", "judge:\n  stopping: early\n", "8:13: the held-out data have a `unit` column"),
    ("judge:\n", "judge:\n  anchor: models:/a@x\n", "8:11: the anchor is a release that stays t"),
    ("judge:\n", "judge:\n  anchor: old.onnx\n", "8:11: the anchor is a release that stays the "),
    ("accuracy: 0.96,", "acuracy: 0.96,", "9:17: unknown metric 'acuracy'; did you mean 'accura"),
    ("accuracy: 0.96,", "size: 0.96,", "9:17: size is no metric of predictions: FP32 alone has n"),
    ("accuracy: 0.96,", "prediction_flips: 0,", "9:17: prediction_flips compares INT8 with FP32:"),
    ("accuracy: 0.96,", "accuracy: 96,", "9:27: accuracy is a share, from 0 to 1, not 96; write"),
    ("within: 0.02", "within: 2", "9:41: within 2 accepts any share, so nothing is checked; wri"),
    (STATIC, "recipe: static\n  decode: logit", "6:11: unknown decoder 'logit'; did you mean 'l"),
    (STATIC, "recipe: static\n  decode: {as: x}", "6:16: unknown decoder 'x'. Known: logits, pr"),
    (STATIC, CANDIDATE, "6:14: there is no m.onnx; paths are relative to the policy's folder, ."),
    (CALIBRATION, "data/none.npz", f"6:23: {NONE}"),
    (HELD_OUT, "data/none.npz", f"8:20: {NONE}"),
    (
        HELD_OUT,
        "p.yaml",
        "8:20: cannot tell the format of p.yaml from its name; add `format:` with",
    ),
    (HELD_OUT, HELD_OUT + ", format: nzp", "8:47: unknown format 'nzp'; did you mean 'npz'?"),
    (CALIBRATION, HELD_OUT, "6:23: build.calibration is the same file as judge.held_out; held-out"),
    (CALIBRATION, "data/../data/held_out.npz", "6:23: build.calibration is the same file as jud"),
    (
        STATIC,
        "recipe: static\n  tuning: {path: data/calibration.npz}",
        "6:18: build.tuning is the same file as build.calibration; held-out, calibration and",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), ONE_FINDING)
def test_one_finding(old: str, new: str, expected: str) -> None:
    (line,) = findings(changed(old, new))
    assert line.startswith(f"p.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "end"),
    [
        (FIRST, "{metric: accuracy, max_drop: 1}", "not 1; write 0.01 for 1 %"),
        (FIRST, "{metric: accuracy, at_least: 96.5}", "not 96.5; write 0.965 for 96.5 %"),
        (FIRST, "{metric: accuracy, max_drop: 400}", "below 1, not 400"),
        ("within: 0.02", "within: 2", "write 0.02 for 2 %"),
    ],
)
def test_percentages_are_told_what_to_write(old: str, new: str, end: str) -> None:
    assert findings(changed(old, new))[0].endswith(end)


def test_unknown_metrics_list_those_of_the_task_and_of_artifacts() -> None:
    (line,) = findings(changed(FIRST, "{metric: map, max_drop: 0.01}"))
    assert "accuracy" in line
    assert line.endswith("throughput, peak_memory")


def test_all_findings_come_at_once() -> None:
    text = changed("data/calibration.npz", "none.npz")
    text = text.replace("site: north", "sight: north")
    text = text.replace("0.96,", "96,").replace("top3_accuracy", "top3")
    places = [line.split(": ")[0] for line in findings(text)]
    assert places == ["p.yaml:6:23", "p.yaml:9:27", "p.yaml:13:49", "p.yaml:17:16"]


def test_a_hard_link_is_the_same_file() -> None:
    os.link("data/held_out.npz", "data/copy.npz")
    assert "is the same file as" in findings(changed("data/calibration.npz", "data/copy.npz"))[0]


def test_target_with_many_labels_is_no_slice_column() -> None:
    columns(Path("data/held_out.npz"), target=np.zeros((4, 3)))
    each, slice_ = findings(changed("each: site", "each: target"))
    assert each.startswith("p.yaml:12:48: target is (4, 3), many labels an example")
    assert slice_.startswith("p.yaml:13:62: target is (4, 3), many labels an example")


def test_target_is_always_a_slice_column() -> None:
    check(changed("each: site", "each: target"))


@pytest.mark.parametrize("uri", ["models:/digits-cnn/3", "models:/d@champion", "runs:/1a2b/model"])
def test_a_registered_candidate_is_not_looked_for(uri: str) -> None:
    check(changed("recipe: static", f"recipe: static\n  candidate: {uri}"))


def test_the_policys_candidate_may_be_absent_when_another_is_given() -> None:
    check(
        changed("recipe: static", "recipe: static\n  candidate: none.onnx"), needs_candidate=False
    )


def test_a_candidate_that_exists() -> None:
    Path("m.onnx").write_bytes(b"")
    check(changed("recipe: static", "recipe: static\n  candidate: m.onnx"))


def test_without_a_known_task_files_are_still_checked() -> None:
    text = changed("task: classification", "task: x").replace("data/held_out", "none")
    assert len(findings(text)) == 2


def test_a_damaged_file_is_not_the_policys_fault() -> None:
    Path("data/held_out.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"held_out\.npz") as caught:
        check(GOOD)
    assert caught.value.exit_code == 4


def test_findings_come_before_a_damaged_file() -> None:
    Path("data/held_out.npz").write_bytes(b"PK\x03\x04 and no more")
    (line,) = findings(changed("{accuracy: 0.96,", "{acuracy: 0.96,"))
    assert "unknown metric" in line


def test_positions_are_in_the_file_that_wrote_the_value() -> None:
    Path("base.yaml").write_text(changed("data/calibration.npz", "none.npz"))
    assert findings("extends: base.yaml\nbuild: {decode: x}\n") == [
        "p.yaml:2:17: unknown decoder 'x'. Known: logits, probabilities",
        "base.yaml:6:23: there is no none.npz; paths are relative to the policy's folder, .",
    ]


def test_only_headers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("gate.formats.npz.Npz.read", refuse)
    check(GOOD)


def test_no_heavy_library_is_imported(folder: Path) -> None:
    Path("p.yaml").write_text(GOOD)
    code = (
        "import sys\n"
        "from gate.policy_file import load_policy\n"
        "from gate.preflight import preflight\n"
        "preflight(load_policy('p.yaml'), unsupported=lambda budget, **kind: None)\n"
        "heavy = {'onnx', 'onnxruntime', 'mlflow', 'torch', 'scipy', 'sklearn', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.fspath(root)},
    )
    assert done.stdout == "[]\n"
