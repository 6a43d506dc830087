"""What recovery tried: one recipe after another, each kept as it ends."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import ValidationError

from gate.errors import RecordError
from gate.recipes import Recipe
from gate.values import Array, Value

PLOT = "trials.svg"
_KEY, _TRIALS = "key.json", "trials.jsonl"


class Estimate(Value):
    """One budget, by its point estimate on tuning data."""

    budget: str
    """The budget's id."""
    value: float | None
    """What it limits; None where it is undefined. Of a drop in a share of examples, what was lost:
    gains that make up for losses here may be none on other examples."""
    beyond: float | None
    """How far that is beyond the limit, negative within it."""


class Trial(Value):
    """One recipe, tried on tuning data."""

    number: int
    """From 1, in the order they were tried."""
    recipe: Recipe
    move: str
    """What was changed, and why."""
    outcome: Literal["meets", "misses", "failed"]
    """Whether every budget is met with room to spare; `failed`: it could not be tried."""
    divergence: float | None = None
    """Energy of INT8's error at the outputs over that of FP32's outputs."""
    flips: float | None = None
    """Share of examples whose prediction changed; None where the task has none."""
    int8_share: float | None = None
    """Of the multiply–accumulate work."""
    bytes: int | None = None
    estimates: tuple[Estimate, ...] = ()
    spare: float | None = None
    """Share of the tightest limit on a sampled drop or rate that is left; None without any."""
    examples: int = 0
    """Of tuning data that INT8 was run on."""
    milliseconds: float | None = None
    """An example, on tuning data: the median batch."""
    seconds: float = 0.0
    """All that it took."""
    error: str | None = None
    """Why it failed."""

    def beyond(self, budget: str) -> float | None:
        """How far it is beyond a budget's limit; None where it failed, or that is undefined."""
        return next((one.beyond for one in self.estimates if one.budget == budget), None)

    @property
    def worth(self) -> tuple[float, float]:
        """Sorts the best first: most integer work, then least divergence and fewest flips.

        The latter two count by their ratios; a flip is counted in, so that none is not all.
        """
        flips = (self.flips or 0.0) + 1 / max(1, self.examples)
        return -round(self.int8_share or 0.0, 3), (self.divergence or 0.0) * flips


class Journal:
    """Trials in a folder, written as they end; those of the same question are found again."""

    def __init__(self, folder: Path, question: Mapping[str, Any]) -> None:
        """Open or begin the journal of a question: all that a trial's result depends on.

        Raises:
            RecordError: the folder holds the trials of another question, or cannot be written.
        """
        self._file, self._gap = folder / _TRIALS, b""
        self._known: dict[str, Trial] = {}
        digest = question_digest(question)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            key = folder / _KEY
            if not key.exists():
                told = json.dumps({"sha256": digest, **question}, indent=2, default=str)
                part = key.with_suffix(f".{uuid4().hex}.part")
                part.write_text(told, encoding="utf-8")
                part.replace(key)
            elif json.loads(key.read_text()).get("sha256") != digest:
                raise RecordError(
                    f"{folder} holds trials of another candidate, policy or data: name a new folder"
                )
            for trial in self._read():
                self._known[named(trial.recipe)] = trial
        except (OSError, ValueError) as error:
            raise RecordError(f"{folder} cannot be used for trials: {error}") from error

    def known(self, recipe: Recipe) -> Trial | None:
        """The trial of a recipe, where it was tried before."""
        return self._known.get(named(recipe))

    def add(self, trial: Trial) -> None:
        """Keep a trial, at once.

        Raises:
            RecordError: it cannot be written.
        """
        self._known[named(trial.recipe)] = trial
        try:
            with self._file.open("ab") as stream:
                # on a line of its own, whatever was cut short before it
                stream.write(self._gap + trial.model_dump_json().encode() + b"\n")
                stream.flush()
            self._gap = b""
        except OSError as error:
            raise RecordError(f"{self._file} cannot be written: {error}") from error

    def _read(self) -> Iterator[Trial]:
        if not self._file.exists():
            return
        *lines, rest = self._file.read_bytes().split(b"\n")
        self._gap = b"\n" if rest else b""
        for line in (*lines, rest):
            try:
                yield Trial.model_validate_json(line)
            except ValidationError:  # cut short as it was written: it is tried again
                continue


def question_digest(question: Mapping[str, Any]) -> str:
    """Names all that a trial's result depends on."""
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).hexdigest()


def named(recipe: Recipe) -> str:
    """The same for all that make the same of a model, whichever preset they refine."""
    nodes = tuple(sorted(recipe.exclude_nodes))
    changed = recipe.model_copy(update={"exclude_nodes": nodes})
    return changed.model_dump_json(exclude={"name", "summary"})


def front(trials: Iterator[Trial] | tuple[Trial, ...], budget: str) -> tuple[Trial, ...]:
    """Trials that no other beats in a budget's value and in integer work at once, best first."""
    ran = [(trial, trial.beyond(budget)) for trial in trials]
    known = [(trial, value) for trial, value in ran if value is not None]
    kept = [
        trial
        for trial, value in known
        if not any(
            (other.int8_share or 0) >= (trial.int8_share or 0)
            and theirs <= value
            and ((other.int8_share or 0) > (trial.int8_share or 0) or theirs < value)
            for other, theirs in known
        )
    ]
    return tuple(sorted(kept, key=lambda trial: trial.worth))


def divergence(fp32: Sequence[Mapping[str, Array]], int8: Sequence[Mapping[str, Array]]) -> float:
    """Energy of INT8's error at the outputs over that of FP32's outputs, the mean of all outputs.

    NaN and infinite outputs are infinitely far.
    """
    ratios = []
    for name, first in fp32[0].items():
        if np.asarray(first).dtype.kind != "f":
            continue
        signal = error = 0.0
        for before, after in zip(fp32, int8, strict=True):
            wide, found = (np.asarray(side[name], dtype=np.float64) for side in (before, after))
            with np.errstate(invalid="ignore", over="ignore"):
                signal += float(np.square(wide).sum())
                error += float(np.square(found - wide).sum())
        ratios.append(error / signal if signal > 0 else error)
    total = float(np.mean(ratios)) if ratios else 0.0
    return total if math.isfinite(total) else sys.float_info.max
