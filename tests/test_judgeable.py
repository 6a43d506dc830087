"""Which budgets can be judged at all."""

import numpy as np

from gate.judgeable import is_clustered, unsupported
from gate.policy import Budget


def budget(**fields):
    return Budget.model_validate({"metric": "accuracy"} | fields)


def test_unsupported_needs_only_the_kind_of_metric():
    kinds = {
        "proportion": True,
        "relative": False,
        "artifact": False,
        "higher_is_better": True,
    }
    assert unsupported(budget(max_drop=0.01), **kinds) is None
    assert "at_least" in unsupported(budget(at_most=0.9), **kinds)
    assert unsupported(budget(max_drop=0.01), **kinds | {"proportion": False}) is None
    flips = budget(metric="prediction_flips", at_most=0.02)
    assert unsupported(flips, **kinds | {"relative": True, "higher_is_better": False}) is None
    size = budget(metric="size", max_ratio=0.5)
    artifact = kinds | {"proportion": False, "artifact": True, "higher_is_better": False}
    assert unsupported(size, **artifact) is None
    assert "at_most" in unsupported(budget(metric="size", at_least=5), **artifact)


def test_examples_are_clustered_where_they_share_units():
    assert is_clustered(np.array(["a", "a", "b"]))
    assert not is_clustered(np.array(["a", "b", "c"]))
    assert not is_clustered(None)


def test_of_an_earlier_release_there_are_rows_and_the_size():
    kinds = {"proportion": True, "relative": False, "artifact": False, "higher_is_better": True}
    against = {"against": "production"}
    assert unsupported(budget(max_drop=0.01, **against), **kinds) is None
    assert unsupported(budget(max_relative_drop=0.01, **against), **kinds) is None
    assert "own accuracy" in unsupported(budget(at_least=0.9, **against), **kinds)
    flips = budget(metric="prediction_flips", max_drop=0.02, **against)
    assert "its own FP32" in unsupported(flips, **kinds | {"relative": True})
    artifact = kinds | {"proportion": False, "artifact": True, "higher_is_better": False}
    assert unsupported(budget(metric="size", max_ratio=1.1, **against), **artifact) is None
    timed = budget(metric="latency_p50", max_ratio=1.1, **against)
    assert "side by side" in unsupported(timed, **artifact)
