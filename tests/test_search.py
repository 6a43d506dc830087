"""In which order recipes are tried, which one is taken, and how a search ends."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.int8 import recipe

from gate.advice import touching
from gate.diagnosis import LayerError
from gate.recipes import Recipe
from gate.search import Exhausted, best, of_nodes, search
from gate.trials import Trial, named

CNN = {"Conv": 0.9, "Gemm": 0.1, "Relu": 0.0}
TRANSFORMER = {"MatMul": 0.8, "Gemm": 0.1, "Conv": 0.1}
MISS: dict[str, Any] = {"outcome": "misses", "divergence": 0.1, "int8_share": 1.0, "spare": -1.0}
MEET: dict[str, Any] = {"outcome": "meets", "divergence": 0.01, "int8_share": 1.0, "spare": 0.9}
FAIL: dict[str, Any] = {"outcome": "failed"}
Answer = Callable[[Recipe], Mapping[str, Any]]


def layer(node: str, share: float = 0.1, **changes: Any) -> LayerError:
    fields: dict[str, Any] = {
        "node": node, "op": "Conv", "tensor": f"{node}_out", "readers": (), "loses": "weights",
        "share": share, "own_sqnr": None, "sqnr": None,
    }  # fmt: skip
    return LayerError(**(fields | changes))


class Lab:
    """Answers without a model, and remembers what it was asked."""

    def __init__(
        self, answer: Answer, layers: Sequence[LayerError] = (), *, most: int = 1000
    ) -> None:
        self.answer, self.layers, self.most = answer, layers, most
        self.trials: list[Trial] = []
        self.blamed: list[Recipe] = []

    def attempt(self, chosen: Recipe, move: str) -> Trial:
        if len(self.trials) == self.most:
            raise Exhausted("enough")
        number = len(self.trials) + 1
        self.trials.append(Trial(number=number, recipe=chosen, move=move, **self.answer(chosen)))
        return self.trials[-1]

    def blame(self, chosen: Recipe) -> Sequence[LayerError]:
        self.blamed.append(chosen)
        return self.layers

    def search(
        self, first: Recipe | None = None, work: Mapping[str, float] = CNN
    ) -> tuple[Trial | None, str | None]:
        return search(self.attempt, self.blame, first or recipe(), work)

    @property
    def moves(self) -> list[str]:
        return [trial.move for trial in self.trials]


def excluding(needed: int, of: int) -> tuple[Answer, list[LayerError]]:
    """Meets as soon as the first so many layers stay in floating point."""
    layers = [layer(f"n{index}", 1 / of) for index in range(of)]
    must = {one.node for one in layers[:needed]}

    def answer(chosen: Recipe) -> Mapping[str, Any]:
        share = {"int8_share": 1 - len(chosen.exclude_nodes) / (of + 1)}
        return (MEET if must <= {*chosen.exclude_nodes} else MISS) | share

    return answer, layers


# ── recipes as a whole ────────────────────────────────────────────────────────────────────


def test_the_policys_own_recipe_is_enough_where_it_meets() -> None:
    lab = Lab(lambda _: MEET | {"spare": 0.0})
    own = recipe("static-7bit", exclude_nodes=["head"])
    winner, ended = lab.search(own)
    assert (winner, ended) == (lab.trials[0], None)
    assert [trial.recipe for trial in lab.trials] == [own]


RANGES = ["ranges by mse", "ranges by percentile"]
LIKE = "channels brought to like ranges, by {}"
BIASES = "trial 1, biases corrected"
LAST = "ranges by entropy"
FREE = "matrix products alone, their results in floating point"
ALONE = [f"{FREE}, smoothed by 0.8", f"{FREE}, smoothed by 0.5", FREE, "matrix products alone"]


@pytest.mark.parametrize(
    ("first", "work", "moves"),
    [
        (recipe(), CNN, [*RANGES, BIASES, LIKE.format("mse"), LAST]),
        (
            recipe("static-mse"),
            CNN,
            [RANGES[1], BIASES, LIKE.format("mse"), LAST, "ranges by min-max"],
        ),
        (recipe(), {"Gemm": 0.4}, [*RANGES, BIASES, LAST]),
        (recipe("static-per-tensor"), {}, [*RANGES, "a scale for each channel", LAST]),
        (recipe("static-equalized"), CNN, [RANGES[1], BIASES, LAST, "ranges by min-max"]),
        (recipe(), TRANSFORMER, [*ALONE, *RANGES, BIASES, LIKE.format("mse"), LAST]),
        (recipe("static-matmul"), {"MatMul": 1.0}, [*RANGES, LAST]),
        (recipe("smoothquant"), {"MatMul": 1.0}, [*RANGES, LAST]),
        (recipe(smooth=0.3), {"MatMul": 1.0}, [*ALONE[2:], *RANGES, LAST]),
        (recipe("dynamic"), TRANSFORMER, ["weights of seven bits"]),
        (
            recipe("dynamic", per_channel=False),
            TRANSFORMER,
            ["a scale for each channel", "weights of seven bits"],
        ),
        (recipe("dynamic", target="x86"), TRANSFORMER, []),
    ],
)
def test_the_ladder_goes_from_cheap_to_careful(
    first: Recipe, work: Mapping[str, float], moves: list[str]
) -> None:
    lab = Lab(lambda _: MISS)
    assert lab.search(first, work) == (None, None)
    assert lab.moves[: 1 + len(moves)] == ["the policy's own recipe", *moves]
    assert not {*RANGES, *ALONE, LIKE.format("mse")} & {*lab.moves[1 + len(moves) :]}


def test_channels_are_equalized_by_the_method_that_did_best() -> None:
    lab = Lab(lambda one: MISS | {"divergence": 0.0 if one.calibration == "percentile" else 0.1})
    lab.search()
    (equalized,) = (trial for trial in lab.trials if trial.move == LIKE.format("percentile"))
    assert equalized.recipe == recipe(equalize=True, calibration="percentile")


def test_attention_alone_is_not_tried_a_second_time_as_if_it_were_another() -> None:
    lab = Lab(lambda _: MISS)
    lab.search(work={"Attention": 1.0})
    assert len({*ALONE[2:]} & {*lab.moves}) == 1


def test_of_transformers_the_first_with_room_to_spare_is_enough() -> None:
    lab = Lab(lambda one: MEET if one.smooth == 0.5 else MISS)
    winner, _ = lab.search(work=TRANSFORMER)
    assert winner == lab.trials[-1]
    assert lab.moves[1:] == ALONE[:2]


@pytest.mark.parametrize(("spare", "goes_on"), [(0.6, False), (0.3, True), (None, True)])
def test_more_careful_recipes_are_tried_where_little_room_is_left(
    spare: float | None, goes_on: bool
) -> None:
    lab = Lab(lambda one: MEET | {"spare": spare} if one.calibration == "mse" else MISS)
    winner, _ = lab.search()
    assert winner is not None
    assert (len(lab.moves) > 2) is goes_on
    assert not lab.blamed


def test_few_losses_far_from_fp32_may_be_luck() -> None:
    lucky = MEET | {"divergence": 0.03}
    lab = Lab(lambda one: lucky if one.equalize else MISS)
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe.equalize
    assert LAST in lab.moves[winner.number :]
    assert not lab.blamed


def test_as_good_as_fp32_is_room_enough() -> None:
    near = MEET | {"spare": 0.1, "divergence": 0.0005}
    lab = Lab(lambda one: near if one.equalize else MISS)
    lab.search()
    assert lab.moves[-1] == LIKE.format("mse")


def test_a_target_is_kept() -> None:
    lab = Lab(lambda _: MISS)
    lab.search(recipe(target="arm64", exclude_nodes=["head"]))
    assert {trial.recipe.target for trial in lab.trials} == {"arm64"}
    assert {trial.recipe.exclude_nodes for trial in lab.trials} == {("head",)}


def test_failed_trials_are_passed_over() -> None:
    lab = Lab(lambda one: MEET if one.calibration == "percentile" else FAIL)
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe.calibration == "percentile"


def test_where_nothing_can_be_tried_nobody_is_blamed() -> None:
    lab = Lab(lambda _: FAIL, [layer("n0")])
    assert lab.search() == (None, None)
    assert not lab.blamed


# ── which is taken ────────────────────────────────────────────────────────────────────────


def test_the_most_integer_work_wins() -> None:
    """Though what has less of it is far closer to FP32."""
    lab = Lab(
        lambda one: (
            MEET | {"spare": 0.1, "int8_share": 0.9, "divergence": 1e-9}
            if one.equalize
            else MEET | {"spare": 0.1, "int8_share": 0.95}
            if one.calibration == "entropy"
            else MISS
        )
    )
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe.calibration == "entropy"


TRIALS = st.builds(
    Trial,
    number=st.integers(1, 99),
    recipe=st.just(recipe()),
    move=st.just(""),
    outcome=st.sampled_from(["meets", "misses", "failed"]),
    divergence=st.floats(0, 10),
    flips=st.none() | st.floats(0, 1),
    int8_share=st.sampled_from([0.5, 0.9, 0.9001, 1.0]),
    examples=st.integers(0, 1000),
)


@given(st.lists(TRIALS, max_size=8))
def test_the_best_meets_and_none_that_meets_is_better(trials: list[Trial]) -> None:
    found = best(trials)
    meeting = [trial for trial in trials if trial.outcome == "meets"]
    assert (found is None) == (not meeting)
    if found is None:
        return
    assert found in meeting
    for other in meeting:
        more = (other.int8_share or 0) - (found.int8_share or 0)
        assert more < 0.001
        if abs(more) < 0.0005:
            worst, least = (
                (one.divergence or 0) * ((one.flips or 0) + 1 / max(1, one.examples))
                for one in (other, found)
            )
            assert least <= worst


# ── mixed precision ───────────────────────────────────────────────────────────────────────


@given(st.data())
def test_the_fewest_layers_are_left_in_floating_point(data: st.DataObject) -> None:
    of = data.draw(st.integers(1, 60))
    needed = data.draw(st.integers(1, of))
    lab = Lab(*excluding(needed, of))
    winner, ended = lab.search()
    assert winner is not None
    assert ended is None
    assert winner.recipe.exclude_nodes == tuple(f"n{index}" for index in range(needed))
    mixed = [trial for trial in lab.trials if trial.recipe.exclude_nodes]
    assert len(mixed) <= 2 * of.bit_length() + 1 + 8


@given(st.sets(st.integers(0, 7), min_size=1))
def test_layers_that_cost_nothing_there_are_put_back(needed: set[int]) -> None:
    """The diagnosis ranks them; which of them the budgets can bear only a trial tells."""
    must = {f"n{index}" for index in needed}
    lab = Lab(
        lambda one: (
            (MEET if must <= {*one.exclude_nodes} else MISS)
            | {"int8_share": 1 - len(one.exclude_nodes) / 20}
        ),
        [layer(f"n{index}", 1 / 12) for index in range(12)],
    )
    winner, _ = lab.search()
    assert winner is not None
    assert {*winner.recipe.exclude_nodes} == must


def test_where_nothing_is_left_to_quantize_fewer_layers_may_do() -> None:
    """Doubling comes to all four, of which no INT8 model is left; three are what it takes."""
    answer, layers = excluding(3, 4)
    lab = Lab(lambda one: FAIL if len(one.exclude_nodes) == 4 else answer(one), layers)
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe.exclude_nodes == ("n0", "n1", "n2")


@pytest.mark.parametrize("last", [MISS, FAIL])
def test_where_no_number_of_layers_is_enough_there_is_no_winner(last: Mapping[str, Any]) -> None:
    lab = Lab(
        lambda one: last if len(one.exclude_nodes) == 5 else MISS,
        [layer(f"n{index}", 0.2) for index in range(5)],
    )
    assert lab.search() == (None, None)
    assert max(len(trial.recipe.exclude_nodes) for trial in lab.trials) == 5


def test_layers_that_make_up_next_to_nothing_of_the_error_are_not_excluded() -> None:
    lab = Lab(lambda _: MISS, [layer("n0", 0.9995), layer("n1", 0.0005)])
    lab.search()
    assert {trial.recipe.exclude_nodes for trial in lab.trials} == {(), ("n0",)}


def test_the_recipe_that_is_closest_to_fp32_is_refined() -> None:
    lab = Lab(
        lambda one: MISS | {"divergence": 0.0 if one.calibration == "entropy" else 0.1},
        [layer("n0")],
    )
    lab.search(recipe(exclude_nodes=["head"]))
    assert [one.calibration for one in lab.blamed] == ["entropy"]
    assert lab.trials[-1].recipe.exclude_nodes == ("head", "n0")
    assert lab.trials[-1].recipe.calibration == "entropy"


def test_a_recipe_with_much_less_integer_work_is_not_refined() -> None:
    lab = Lab(
        lambda one: MISS | ({"int8_share": 0.5, "divergence": 1e-6} if one.equalize else {}),
        [layer("n0")],
    )
    lab.search()
    assert not lab.blamed[0].equalize


def test_what_meets_with_less_integer_work_does_not_end_the_search() -> None:
    lab = Lab(
        lambda one: (
            MEET | {"int8_share": 0.5}
            if one.equalize
            else (MEET | {"int8_share": 0.9} if one.exclude_nodes else MISS)
        ),
        [layer("n0")],
    )
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe.exclude_nodes == ("n0",)


def test_what_smoothing_put_into_the_model_is_no_node_that_a_recipe_could_name() -> None:
    own = {"first", "second"}
    put = of_nodes(own, layer("x_smooth", loses="activations", readers=("first", "more_smooth")))
    assert touching(put) == ("first",)
    kept = of_nodes(own, layer("second", loses="activations", readers=("first",)))
    assert touching(kept) == ("second", "first")


def test_of_the_tensors_that_cost_most_other_ranges_are_tried_before_any_is_excluded() -> None:
    lab = Lab(
        lambda one: MEET if one.overrides == {"a_out": "mse", "c_out": "mse"} else MISS,
        [layer("a", loses="activations"), layer("b"), layer("c", loses="activations")],
    )
    winner, _ = lab.search()
    assert winner == lab.trials[-1]
    assert not any(trial.recipe.exclude_nodes for trial in lab.trials)


def test_an_operator_without_weights_that_costs_much_is_left_out_as_a_whole() -> None:
    layers = [
        layer(f"s{index}", 0.12, op="Softmax", loses="activations", readers=("m",))
        for index in range(6)
    ]
    lab = Lab(lambda one: MEET if one.exclude_op_types == ("Softmax",) else MISS, layers)
    winner, _ = lab.search()
    assert winner == lab.trials[-1]
    assert winner is not None
    assert not winner.recipe.exclude_nodes


def test_biases_are_corrected_of_the_recipe_that_did_best() -> None:
    lab = Lab(
        lambda one: (
            MEET
            if one.correct_bias
            else MISS | {"divergence": 0.01 if one.calibration == "percentile" else 0.1}
        )
    )
    winner, _ = lab.search()
    assert winner is not None
    assert winner.recipe == recipe(calibration="percentile", correct_bias=True)


def test_biases_are_corrected_again_where_equalized_channels_do_better() -> None:
    lab = Lab(lambda one: MISS | {"divergence": 0.01 if one.equalize else 0.1})
    lab.search()
    corrected = [trial.recipe for trial in lab.trials if trial.recipe.correct_bias]
    assert [one.equalize for one in corrected[:2]] == [False, True]


# ── how it ends ───────────────────────────────────────────────────────────────────────────


def some_of_all() -> Lab:
    """Meets late, by mixed precision alone, and with a layer to put back."""
    return Lab(
        lambda one: (
            (MEET if {"n0", "n3"} <= {*one.exclude_nodes} else MISS)
            | {"int8_share": 1 - len(one.exclude_nodes) / 20}
        ),
        [layer(f"n{index}", 1 / 6) for index in range(6)],
    )


WHOLE = some_of_all()
WHOLE.search()


@pytest.mark.parametrize("most", range(len(WHOLE.trials) + 1))
def test_cut_short_anywhere_it_gives_the_best_so_far_and_the_reason(most: int) -> None:
    lab = some_of_all()
    lab.most = most
    winner, ended = lab.search()
    assert lab.trials == WHOLE.trials[:most]
    assert winner == best(WHOLE.trials[:most])
    assert ended == ("enough" if most < len(WHOLE.trials) else None)


def test_where_layers_cannot_be_told_apart_the_best_so_far_is_taken() -> None:
    def blame(_: Recipe) -> Sequence[LayerError]:
        raise Exhausted("no inner tensors")

    lab = Lab(lambda one: MEET | {"int8_share": 0.5} if one.equalize else MISS)
    winner, ended = search(lab.attempt, blame, recipe(), CNN)
    assert winner is not None
    assert winner.recipe.equalize
    assert ended == "no inner tensors"


def erratic(seed: int) -> Answer:
    """The same for the same recipe, and otherwise anything."""

    def answer(chosen: Recipe) -> Mapping[str, Any]:
        rng = random.Random(f"{seed} {named(chosen)}")
        return rng.choice([MISS, MISS, MISS, FAIL, MEET]) | {
            "divergence": rng.random(),
            "int8_share": rng.choice([0.4, 0.9, 0.99, 1.0]),
            "spare": rng.random(),
        }

    return answer


@given(
    st.integers(0, 10_000),
    st.sampled_from([CNN, TRANSFORMER, {"Attention": 1.0}]),
    st.sampled_from([recipe(), recipe("static-per-tensor"), recipe("dynamic"), recipe(smooth=0.5)]),
    st.integers(0, 9),
)
def test_the_same_twice_no_recipe_twice_and_the_best_of_all_that_was_tried(
    seed: int, work: Mapping[str, float], first: Recipe, count: int
) -> None:
    layers = [
        layer(f"n{index}", 0.1, loses="activations", readers=(f"n{index // 2}",))
        for index in range(count)
    ]
    one, other = Lab(erratic(seed), layers), Lab(erratic(seed), layers)
    found = one.search(first, work)
    assert found == other.search(first, work)
    assert one.trials == other.trials
    names = [named(trial.recipe) for trial in one.trials]
    assert len(names) == len({*names})
    assert one.trials[0].recipe == first
    assert found == (best(one.trials), None)
