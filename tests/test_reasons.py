"""A diagnosis in a few lines, whatever the model calls its nodes."""

import pytest
import yaml
from support.seen import layer

from gate import reasons
from gate.diagnosis import Advice, Diagnosis, SliceLoss

SLICE = SliceLoss(slice="site=north", n=250, loss=0.04, rest=0.004, p=0.002)


def test_a_layer() -> None:
    found = reasons.layer(layer("conv_4", 0.621, "range outlier"))
    assert found == (
        "conv_4 (Conv) 62.1 % of the error at the outputs, own SQNR 20.0 dB: range outlier, 3 of 4"
    )
    assert reasons.layer(layer("a", 0.5, own_sqnr=None)) == (
        "a (Conv) 50 % of the error at the outputs"
    )


def test_a_slice() -> None:
    found = reasons.lost(SLICE, "top_5_accuracy")
    assert found.startswith("site=north loses 4.00 pp of top-5 accuracy (n = 250), the rest 0.40")
    assert "p = 0.002" in found


@pytest.mark.parametrize(
    "recipe",
    [
        {"base": "static-mse"},
        {"base": "static", "exclude_nodes": ["a: b", "#c", "- d", "é'\"", "yes"], "smooth": 0.5},
    ],
)
def test_advice_is_yaml_to_paste(recipe: dict[str, object]) -> None:
    text = reasons.recipe(Advice(why="it helps", recipe=recipe))
    assert yaml.safe_load(f"build:\n  {text}")["build"]["recipe"] == recipe


def test_the_worst_are_told_first_and_few_of_them() -> None:
    found = Diagnosis(
        layers=tuple(layer(f"n{index}", 0.2) for index in range(5)),
        lost="accuracy",
        slices=(SLICE,) * 5,
        advice=Advice(why="it helps", recipe={"base": "static-mse"}),
        problems=tuple(f"problem {index}" for index in range(5)),
    )
    labels = [label for label, _ in reasons.brief(found)]
    assert labels == ["Layer"] * 3 + ["Slice"] * 3 + ["Try"] + ["Not told"] * 4
    assert reasons.brief(found)[-1] == ("Not told", "2 more things")
    assert reasons.brief(found)[6][1] == 'it helps: recipe: {"base": "static-mse"}'


def test_hostile_names_are_made_harmless() -> None:
    found = Diagnosis(layers=(layer("a\x1b[31m\n::error::b" + "c" * 500, 0.5),))
    ((_, text),) = reasons.brief(found)
    assert "\x1b" not in text
    assert "\n" not in text
    assert "::" not in text
    assert len(text) < 200


def test_nothing_found_is_nothing_said() -> None:
    assert reasons.brief(Diagnosis()) == ()
