"""Groups of classes, and which classes INT8 newly confuses."""

from functools import partial

import numpy as np

from gate.tasks._classification_parts import confusions, groups
from gate.tasks._classification_rows import Problem
from gate.values import Evaluation, Rows

CLASSES = ("animal/cat", "animal/dog", "plant/tree/oak", "stone")


def encode(targets):
    return np.array([CLASSES.index(t) if isinstance(t, str) else t for t in targets.tolist()])


PROBLEM = Problem("multi-class", 4, encode)


def evaluation(fp32, int8, targets):
    def rows(predicted):
        return {"label": Rows(np.stack([predicted, targets], axis=1).astype(float))}

    ids = np.array([str(i) for i in range(len(targets))])
    return Evaluation(ids, np.array(targets), {}, None, rows(fp32), rows(int8))


def test_groups_are_the_first_parts_of_class_names():
    for targets in (np.array(CLASSES), np.arange(4)):
        found = groups(PROBLEM, CLASSES, targets)
        assert {name: values.tolist() for name, values in found.items()} == {
            "target/1": ["animal", "animal", "plant", "stone"],
            "target/2": ["animal/cat", "animal/dog", "plant/tree", "stone"],
        }


def test_names_without_parts_make_no_groups():
    assert groups(PROBLEM, ("a", "b", "c", "d"), np.arange(4)) == {}
    assert groups(PROBLEM, (), np.arange(4)) == {}
    assert groups(Problem("multi-label", 4, encode), CLASSES, np.eye(4)) == {}


def test_pairs_that_int8_confuses_more_often_are_told_the_worst_first():
    targets = [0, 0, 0, 1, 1, 2, 3, 3]
    fp32 = [0, 0, 1, 1, 0, 2, 3, 2]
    int8 = [1, 1, 1, 1, 1, 3, 3, 3]
    (part,) = confusions(PROBLEM, CLASSES, evaluation(fp32, int8, targets))
    assert part.rows == (
        ("animal/cat", "animal/dog", "1", "3"),
        ("plant/tree/oak", "stone", "0", "1"),
    )
    (numbered,) = confusions(PROBLEM, (), evaluation(fp32, int8, targets))
    assert numbered.rows[0] == ("0", "1", "1", "3")


def test_where_int8_confuses_nothing_more_there_is_nothing_to_tell():
    tell = partial(confusions, PROBLEM, CLASSES)
    assert not [*tell(evaluation([1, 0], [0, 0], [0, 1]))]
    assert not [*tell(evaluation([1, 0], [np.nan, 0], [0, 1]))]


def test_a_group_is_a_slice_that_a_policy_may_judge(tmp_path, monkeypatch):
    from support.project import CNN, Project

    from gate import run_gate

    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    names = [f"{'even' if digit % 2 == 0 else 'odd'}/{digit}" for digit in range(10)]
    project.spec["build"]["classes"] = names
    project.budget(metric="accuracy", max_drop=0.02, each="target/1")
    record = run_gate(project.policy, CNN, tracker="none", threads=1).record
    assert [finding.slice for finding in record.verdict.findings] == [
        "target/1=even",
        "target/1=odd",
    ]
    assert record.parts[0].columns == ("class", "taken for", "FP32", "INT8")
