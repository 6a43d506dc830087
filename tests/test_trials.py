"""Trials on disk, and those that no other beats."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.int8 import recipe

from gate.errors import RecordError
from gate.recipes import RECIPES, Recipe
from gate.trials import Estimate, Journal, Trial, front, named, question_digest

QUESTION: dict[str, Any] = {"candidate": "ab" * 32, "budgets": [{"max_drop": 0.01}], "seed": 0}


def trial(chosen: Recipe | None = None, **changes: Any) -> Trial:
    fields: dict[str, Any] = {"number": 1, "move": "a move", "outcome": "misses"}
    return Trial(**(fields | {"recipe": chosen or recipe()} | changes))


def known(journal: Journal, *recipes: Recipe) -> list[Trial | None]:
    return [journal.known(one) for one in recipes]


# ── on disk ───────────────────────────────────────────────────────────────────────────────

ONE = trial(
    recipe("static-mse", exclude_nodes=["b", "a"]),
    divergence=1e-5,
    flips=0.01,
    int8_share=0.98,
    estimates=(Estimate(budget="accuracy.max_drop", value=0.01, beyond=0.0),),
)
OTHER = trial(
    recipe("smoothquant"), number=2, outcome="failed", error="naïve\u2028\u0085 →\nKeyError"
)


def test_what_one_wrote_another_reads(tmp_path: Path) -> None:
    first = Journal(tmp_path / "new" / "folder", QUESTION)
    for one in (ONE, OTHER):
        first.add(one)
    second = Journal(tmp_path / "new" / "folder", QUESTION)
    every = ONE.recipe, OTHER.recipe, recipe()
    assert known(first, *every) == known(second, *every) == [ONE, OTHER, None]


def test_two_that_are_open_at_once_lose_nothing(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, QUESTION), Journal(tmp_path, QUESTION)
    first.add(ONE)
    second.add(OTHER)
    assert known(Journal(tmp_path, QUESTION), ONE.recipe, OTHER.recipe) == [ONE, OTHER]


def test_nothing_was_tried_yet(tmp_path: Path) -> None:
    assert Journal(tmp_path, QUESTION).known(recipe()) is None


@pytest.mark.parametrize("left", range(1, len(OTHER.model_dump_json().encode()) + 1, 7))
def test_a_line_that_was_cut_off_is_tried_again_and_spoils_no_other(
    tmp_path: Path, left: int
) -> None:
    """Anywhere, in the middle of a letter too."""
    journal = Journal(tmp_path, QUESTION)
    for one in (ONE, OTHER):
        journal.add(one)
    file = tmp_path / "trials.jsonl"
    whole = file.read_bytes()
    end = len(whole) - len(OTHER.model_dump_json().encode()) - 1 + left
    file.write_bytes(whole[:end])
    again = Journal(tmp_path, QUESTION)
    cut = end < len(whole) - 1
    assert known(again, ONE.recipe, OTHER.recipe) == [ONE, None if cut else OTHER]
    third = trial(recipe("static-7bit"), number=3)
    for one in (OTHER, third):
        again.add(one)
    every = ONE.recipe, OTHER.recipe, third.recipe
    assert known(Journal(tmp_path, QUESTION), *every) == [ONE, OTHER, third]


@pytest.mark.parametrize("change", [{"seed": 1}, {"budgets": []}, {"more": None}])
def test_the_trials_of_another_question_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    Journal(tmp_path, QUESTION).add(ONE)
    with pytest.raises(RecordError, match="another candidate, policy or data: name a new folder"):
        Journal(tmp_path, QUESTION | change)
    assert Journal(tmp_path, QUESTION).known(ONE.recipe) == ONE


def test_the_order_of_a_question_does_not_matter() -> None:
    turned = dict(reversed(QUESTION.items()))
    assert question_digest(turned) == question_digest(QUESTION)
    assert question_digest(QUESTION | {"seed": 1}) != question_digest(QUESTION)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="file/trials cannot be used for trials"):
        Journal(tmp_path / "file" / "trials", QUESTION)


def test_a_trial_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path, QUESTION)
    (tmp_path / "trials.jsonl").mkdir()
    with pytest.raises(RecordError, match=r"trials\.jsonl cannot be written"):
        journal.add(ONE)


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    Journal(tmp_path, QUESTION)
    (tmp_path / "key.json").write_text("{")
    with pytest.raises(RecordError, match="cannot be used for trials"):
        Journal(tmp_path, QUESTION)


def test_the_key_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Journal(tmp_path, QUESTION)
    Journal(tmp_path, QUESTION)
    assert json.loads((tmp_path / "key.json").read_text())["candidate"] == "ab" * 32


# ── names ─────────────────────────────────────────────────────────────────────────────────


def test_a_recipe_is_known_by_what_it_does(tmp_path: Path) -> None:
    assert named(recipe("static-mse")) == named(recipe(calibration="mse"))
    assert named(recipe(exclude_nodes=["a", "b"])) == named(recipe(exclude_nodes=["b", "a"]))
    assert len({named(one) for one in RECIPES.values()}) == len(RECIPES)


# ── none is better ────────────────────────────────────────────────────────────────────────

LIMITED = "accuracy.max_drop"
SOME = st.sampled_from([0.0, 0.5, 0.9, 1.0])


@st.composite
def trials(draw: st.DrawFn) -> tuple[Trial, ...]:
    """Few values, so that there are ties; what failed has none."""
    return tuple(
        trial(number=number, outcome="failed")
        if draw(st.booleans()) and draw(st.booleans())
        else trial(
            number=number,
            outcome=draw(st.sampled_from(["meets", "misses"])),
            int8_share=draw(SOME),
            divergence=draw(SOME),
            estimates=tuple(
                Estimate(budget=budget, value=0.0, beyond=draw(st.none() | SOME))
                for budget in draw(st.sampled_from([(), (LIMITED,), ("size.max_ratio", LIMITED)]))
            ),
        )
        for number in range(draw(st.integers(0, 7)))
    )


def over(one: Trial) -> float | None:
    return dict((e.budget, e.beyond) for e in one.estimates).get(LIMITED)  # noqa: C402


@given(trials())
def test_the_front_is_what_nothing_beats(every: tuple[Trial, ...]) -> None:
    ran = [one for one in every if over(one) is not None]

    def points(one: Trial) -> tuple[float, float]:
        return one.int8_share or 0, -(over(one) or 0.0)

    def beats(one: Trial, other: Trial) -> bool:
        (a, b), (c, d) = points(one), points(other)
        return points(one) != points(other) and a >= c and b >= d

    expected = {one.number for one in ran if not any(beats(other, one) for other in ran)}
    found = front(every, LIMITED)
    assert {one.number for one in found} == expected
    assert len(found) == len(expected)
    assert [one.worth for one in found] == sorted(one.worth for one in found)
    assert front(iter(every), LIMITED) == found
