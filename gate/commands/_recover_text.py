"""A recovery for people, and for programs."""

import json
import math
from collections.abc import Iterator

from gate.commands.recover import Recovery
from gate.recipes import spelled
from gate.trials import PLOT, Trial, front
from gate.wording import json_text, plain, plural

_RULE = 100
_ERROR, _MOVE = 160, 160


def render(found: Recovery, format: str) -> str:  # noqa: A002
    """The recovery as `text` or `json`, ending in a line break."""
    return _json(found) if format == "json" else "\n".join(_lines(found)) + "\n"


def _json(found: Recovery) -> str:
    best = front(found.trials, found.main)
    told = {
        "model": found.model,
        "exit_code": found.exit_code,
        "ended": found.ended,
        "seconds": round(found.seconds, 3),
        "recipe": None if found.winner is None else spelled(found.winner.recipe),
        "winner": None if found.winner is None else found.winner.number,
        "front": [trial.number for trial in best],
        "record": None if found.finished is None else str(found.finished.folder),
        "trials": [trial.model_dump(mode="json") for trial in found.trials],
    }
    return json_text(told)


def _lines(found: Recovery) -> Iterator[str]:
    yield _head(found)
    yield ""
    yield from table(found)
    yield ""
    if found.ended is not None:
        yield f"The search ended early: {plain(found.ended, _ERROR)}."
    yield f"Trials are kept in {found.folder}, with {PLOT}; the same command goes on where it was."
    yield from _result(found)


def _head(found: Recovery) -> str:
    tried = plural(len(found.trials), "trial")
    ran = sum(trial.examples for trial in found.trials)
    return (
        f"{plain(found.model)}: {tried} on {found.tuned_on} in {found.seconds:.1f} s, {ran} "
        "examples through INT8; "
        "the held-out set had no part in it"
    )


def table(found: Recovery) -> Iterator[str]:
    """A line a trial; those on the Pareto front of the first budget and integer work are marked."""
    best = {trial.number for trial in front(found.trials, found.main)}
    head = f"{'':2}{'no':>3} {'outcome':<8}{'INT8':>7} {'SQNR':>8} {'flips':>7} {'over by':>9} "
    yield f"{head}{'ms':>8}  what was changed"
    yield "─" * _RULE
    for trial in found.trials:
        yield _row(trial, found.main, on_front=trial.number in best)
    yield f"* no other trial has more integer work and less {plain(found.main)}"


def _row(trial: Trial, main: str, *, on_front: bool) -> str:
    mark = "*" if on_front else " "
    if trial.outcome == "failed":
        told = f"{plain(trial.move, _MOVE)}: {plain(trial.error, _ERROR)}"
        return f"{mark:2}{trial.number:>3} failed   {told}"
    beyond = trial.beyond(main)
    cells = (
        f"{100 * (trial.int8_share or 0):6.1f}%",
        f"{_decibels(trial):>8}",
        "      –" if trial.flips is None else f"{100 * trial.flips:6.2f}%",
        "        –" if beyond is None else f"{beyond:+9.4f}",
        "       –" if trial.milliseconds is None else f"{trial.milliseconds:8.3f}",
    )
    return (
        f"{mark:2}{trial.number:>3} {trial.outcome:<8}{' '.join(cells)}  {plain(trial.move, _MOVE)}"
    )


def _decibels(trial: Trial) -> str:
    from math import log10

    if trial.divergence is None:
        return "–"
    return "exact" if trial.divergence == 0 else f"{-10 * log10(trial.divergence):.1f} dB"


def _result(found: Recovery) -> Iterator[str]:
    yield ""
    if found.winner is None:
        yield "Nothing met the budgets on tuning data. The best that was found:"
        ran = [trial for trial in found.trials if trial.outcome != "failed"]
        best = min(ran, key=_misses)
        yield f"  trial {best.number}, {recipe(best)}"
        return
    met = f"Trial {found.winner.number} met the budgets"
    yield f"{met} with the most integer work of what was tried:"
    yield "  build:"
    yield f"    {recipe(found.winner)}"
    if found.finished is not None:
        yield f"On the held-out set: {found.finished.verdict.outcome.upper()}"
        yield f"record in {found.finished.folder}"


def _misses(trial: Trial) -> tuple[float, tuple[float, float]]:
    """How far beyond the worst of its limits, then as `worth`."""
    beyond = [math.inf if one.beyond is None else one.beyond for one in trial.estimates]
    return max(beyond, default=0.0), trial.worth


def recipe(trial: Trial) -> str:
    """A line of YAML to paste under `build:`; JSON's flow style is YAML."""
    return f"recipe: {json.dumps(spelled(trial.recipe), ensure_ascii=True)}"
