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
