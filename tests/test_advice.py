"""What is proposed resolves, is not what was done, and fits what was blamed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.int8 import recipe
from support.seen import layer

from gate.advice import advise, to_blame, touching
from gate.recipes import RECIPES, Recipe, resolve, spelled

CAUSES = (
    *("saturation", "range outlier", "unequal channels", "unequal inputs", "delicate operator"),
    *("depthwise", "first layer", "last layer"),
)
LAYERS = st.builds(
    layer,
    node=st.sampled_from(["a", "b", "c"]),
    share=st.floats(0.01, 1),
    cause=st.sampled_from([None, *CAUSES]),
    op=st.sampled_from(["Conv", "Gemm", "MatMul", "LayerNormalization", "Add", "Input"]),
    loses=st.sampled_from(["activations", "weights"]),
)


def proposed(found: Any, chosen: Recipe, **options: Any) -> Recipe:
    advice = advise(found, chosen, **options)
    assert advice is not None
    return resolve(advice.recipe)


def bare(chosen: Recipe) -> dict[str, Any]:
    return chosen.model_dump(exclude={"name", "summary"})


@given(st.lists(LAYERS, min_size=1, max_size=4), st.sampled_from(sorted(RECIPES)))
def test_what_is_proposed_resolves_and_differs(found: list[Any], base: str) -> None:
    advice = advise(found, RECIPES[base])
    if advice is not None:
        assert bare(resolve(advice.recipe)) != bare(RECIPES[base])
        assert advice.why
        assert "." not in advice.why


@given(st.lists(LAYERS, min_size=1, max_size=4), st.sampled_from(["x86", "arm64", "tensorrt"]))
def test_a_target_is_kept(found: list[Any], target: str) -> None:
    chosen = recipe("static", target=target)
    advice = advise(found, chosen)
    if advice is not None:
        assert resolve(advice.recipe).target == target
        assert resolve(advice.recipe) != chosen


@given(st.lists(LAYERS, min_size=1, max_size=4))
def test_following_advice_comes_to_an_end(found: list[Any]) -> None:
    chosen = RECIPES["static-percentile"]
    for _ in range(10):
        advice = advise(found, chosen)
        if advice is None:
            return
        chosen = resolve(advice.recipe)
    pytest.fail("the same layers are advised on for ever")


@pytest.mark.parametrize(
    ("base", "cause", "op", "changes"),
    [
        ("static-percentile", "saturation", "Conv", {"calibration": "min-max"}),
        ("static-per-tensor", "unequal channels", "Conv", {"per_channel": True}),
        ("static", "unequal channels", "Conv", {"equalize": True, "calibration": "mse"}),
        ("static", "range outlier", "Gemm", {"equalize": True, "calibration": "mse"}),
        ("static", "range outlier", "LayerNormalization", {"smooth": 0.5}),
        ("smoothquant", "range outlier", "MatMul", {"calibration": "mse"}),
    ],
)
def test_a_cause_has_its_remedy(base: str, cause: str, op: str, changes: dict[str, Any]) -> None:
    found = proposed([layer(cause=cause, op=op)], RECIPES[base])
    assert found == RECIPES[base].model_copy(update=changes)


def test_delicate_operators_are_left_out_by_the_preset_for_that() -> None:
    """Its op_types may name what the model lacks; those of another base may not."""
    found = advise([layer(cause="delicate operator", op="Add")], RECIPES["static"])
    assert found is not None
    assert found.recipe == {"base": "static-matmul"}
    kept = proposed(
        [layer(cause="delicate operator", op="Add")],
        recipe("static-percentile", exclude_nodes=["head"]),
    )
    assert (kept.name, kept.exclude_nodes) == ("static-matmul", ("head",))


@pytest.mark.parametrize("cause", [None, "depthwise", "first layer", "unequal inputs"])
def test_without_a_remedy_what_touches_a_layer_is_excluded(cause: str | None) -> None:
    found = [layer("a", 0.4, cause), layer("b", 0.2, cause, loses="weights"), layer("c", 0.1)]
    advice = advise(found, RECIPES["static"])
    assert advice is not None
    assert advice.recipe == {"base": "static", "exclude_nodes": ["a", "after_a", "b"]}
    assert (
        advice.why == "2 layers cost 60 % of the error: leave what touches them in floating point"
    )


def test_what_is_excluded_stays_excluded() -> None:
    chosen = recipe("static", exclude_nodes=["a", "after_a"])
    assert advise([layer("a")], chosen) is None
    assert proposed([layer("b")], chosen).exclude_nodes == ("a", "after_a", "b", "after_b")


def test_nodes_that_smoothing_made_are_not_named() -> None:
    found = [layer("x_smoothed_Mul", op="Mul")]
    assert proposed(found, RECIPES["dynamic"], nodes={"after_x_smoothed_Mul"}).exclude_nodes == (
        "after_x_smoothed_Mul",
    )
    assert advise(found, RECIPES["dynamic"], nodes=set()) is None


def test_something_is_left_in_int8() -> None:
    assert advise([layer("fc")], RECIPES["static"], working=("fc",)) is None
    assert advise([layer("fc")], RECIPES["static"], working=("fc", "conv")) is not None


def test_nothing_lost_nothing_advised() -> None:
    assert advise([], RECIPES["static"]) is None


def test_the_fewest_layers_that_make_up_half_are_to_blame() -> None:
    found = [layer(name, share) for name, share in (("a", 0.4), ("b", 0.2), ("c", 0.4))]
    assert [one.node for one in to_blame(found)] == ["a", "b"]
    assert len(to_blame([layer(share=0.01)] * 50)) == 8


def test_an_input_is_no_node() -> None:
    assert touching(layer("image", op="Input")) == ("after_image",)
    assert touching(layer("conv", loses="weights")) == ("conv",)


def test_the_current_recipe_is_refined_not_replaced() -> None:
    chosen = recipe("static-7bit", exclude_nodes=["head"])
    found = proposed([layer(cause="unequal channels")], chosen)
    assert (found.reduce_range, found.exclude_nodes, found.equalize) == (True, ("head",), True)
    assert isinstance(spelled(found), dict)
