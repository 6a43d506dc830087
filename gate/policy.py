"""The policy: how a release is made (`build`) and what it must meet (`judge`)."""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from gate import recipes
from gate.door import unknown
from gate.sources import DataSource, Decode, Preprocess, Strict

Threshold = Literal["max_drop", "max_relative_drop", "at_least", "at_most", "max_ratio"]
THRESHOLDS: tuple[Threshold, ...] = (
    "max_drop",
    "max_relative_drop",
    "at_least",
    "at_most",
    "max_ratio",
)
Scalar = str | int | float | bool
Fraction = Annotated[float, Field(gt=0, lt=1)]
MODEL_URIS = ("models:/", "runs:/")
"""How the address of a model in MLflow begins."""
WRITTEN = "written by a person"
"""Validation context of a policy file: the forms that only a record holds are refused there."""


class PlacedError(ValueError):
    """What is wrong lies deeper than the value that is validated: at `loc` within it."""

    def __init__(self, message: str, *loc: str | int) -> None:
        """Keep `loc` so that the caller can point at it."""
        super().__init__(message)
        self.loc = loc


class ExpectFp32(Strict):
    """What training reported for the FP32 model, checked before any comparison."""

    metrics: dict[str, float]
    """Metric name to value."""
    within: float = Field(ge=0)
    """Largest absolute difference that is accepted."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any, info: ValidationInfo) -> Any:
        """`{accuracy: 0.96, within: 0.02}` is how it is written."""
        if not isinstance(value, Mapping) or ("metrics" in value and info.context != WRITTEN):
            return value
        metrics = {key: number for key, number in value.items() if key != "within"}
        return {"metrics": metrics} | ({"within": value["within"]} if "within" in value else {})

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.metrics:
            raise ValueError("name at least one metric with its FP32 value, or write `unknown`")
        return self


class Budget(Strict):
    """One limit on one metric."""

    metric: str
    """A metric of the task, or `size`, `int8_share`."""
    max_drop: float | None = Field(default=None, ge=0)
    """Largest loss, in the metric's own unit; 0.01 of accuracy is one percentage point."""
    max_relative_drop: Fraction | None = None
    """Largest loss as a share of the reference; 0.01 keeps 99 %."""
    at_least: float | None = None
    """Floor on the INT8 model's own value."""
    at_most: float | None = None
    """Ceiling on the INT8 model's own value."""
    max_ratio: float | None = Field(default=None, gt=0)
    """Ceiling on INT8 / FP32."""
    slice: dict[str, Scalar] | None = None
    """Judge only the examples whose columns have these values."""
    each: str | None = None
    """Judge every value of this column by itself."""
    against: Literal["fp32", "production", "anchor"] = "fp32"
    """What the INT8 model is compared with."""
    require: Literal["proof", "no_proven_harm"] = "proof"
    """proof: pass only when proven within budget; no_proven_harm: block only proven harm.
    Defaults to `no_proven_harm` with `each`, else `proof`."""
    min_examples: int = Field(default=1, ge=1)
    """A slice with fewer examples is listed and not judged."""

    @model_validator(mode="before")
    @classmethod
    def _default_require(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("each") and "require" not in value:
            return dict(value) | {"require": "no_proven_harm"}
        return value

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        given = [name for name in THRESHOLDS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of {', '.join(THRESHOLDS)}; found {found}")
        if self.slice is not None and self.each is not None:
            raise ValueError("give `slice` or `each`, not both")
        if self.slice == {}:
            raise ValueError("`slice` names no column; write e.g. {column: value}")
        return self

    @property
    def threshold(self) -> Threshold:
        """Which kind of limit it is."""
        return next(name for name in THRESHOLDS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The limit's number."""
        return float(getattr(self, self.threshold))

    @property
    def id(self) -> str:
        """Stable name: metric, kind, slice and reference, without the number."""
        where = f"[{slice_label(self.slice)}]" if self.slice else ""
        where = f"[each {self.each}]" if self.each else where
        reference = "" if self.against == "fp32" else f"@{self.against}"
        return f"{self.metric}.{self.threshold}{where}{reference}"


def _resolved_recipe(value: Any, info: ValidationInfo) -> Any:
    """A preset's name or a mapping with `base`; a record holds the whole recipe."""
    recorded = isinstance(value, Mapping) and "name" in value and info.context != WRITTEN
    if recorded or not isinstance(value, str | Mapping):
        return value
    return recipes.resolve(value)


def _full_decode(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        return {"as": value}
    if isinstance(value, Mapping) and "name" in value and info.context == WRITTEN:
        known = ("as", *(key for key in Decode.model_fields if key != "name"))
        raise PlacedError(unknown("key", "name", known), "name")
    return value


class Build(Strict):
    """How the release is made."""

    candidate: str | None = None
    """The model: a path, or an MLflow URI; `--candidate` on the command line overrides it."""
    recipe: Annotated[recipes.Recipe, BeforeValidator(_resolved_recipe)]
    """How it is quantized: a name `gate recipes` lists, or a mapping with `base`."""
    calibration: DataSource | None = None
    """Data that static recipes take activation ranges from."""
    tuning: DataSource | None = None
    """Data that recovery may select on; never the held-out set."""
    preprocess: Preprocess | None = None
    """What happens to raw inputs; without it they enter the model as they are."""
    decode: Annotated[Decode, BeforeValidator(_full_decode)] = Decode(name="logits")
    """How outputs become predictions."""
    classes: tuple[str, ...] = ()
    """Class names, in the order of the outputs."""
    code: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Globs of other files that the model comes from, relative to the policy file: with
    `--changed-since` a change in one of them counts. They change no verdict."""

    @model_validator(mode="after")
    def _has_calibration(self) -> Self:
        if self.recipe.needs_calibration and self.calibration is None:
            raise PlacedError(
                f"recipe {self.recipe.name!r} takes activation ranges from data: "
                "add `calibration: {path: …}`, or use `recipe: dynamic`",
                "recipe",
            )
        return self


class Judge(Strict):
    """What the release must meet."""

    held_out: DataSource
    """Data that no part of the build has seen."""
    expect_fp32: ExpectFp32 | Literal["unknown"]
    """What training reported: without it wrong inputs pass any drop budget."""
    budgets: tuple[Budget, ...] = Field(min_length=1)
    """The limits; every one counts."""
    confidence: float = Field(default=0.95, gt=0.5, le=0.999999)
    """One-sided, of each budget's proof."""
    decision: Literal["confidence", "point"] = "confidence"
    """How a budget is decided."""
    stopping: Literal["full", "early"] = "full"
    """Whether evaluation may stop when the evidence suffices."""
    batch_size: int | None = Field(default=None, ge=1)
    """Fixed batch of the evaluation; default 64, and 1 for dynamic recipes, whose outputs
    depend on it: write there what production serves."""
    anchor: str | None = None
    """A pinned release, for budgets `against: anchor`."""
    on_inconclusive: Literal["block", "warn"] = "block"
    """warn: too little evidence exits 0, but is never promoted."""
    mode: Literal["enforce", "observe"] = "enforce"
    """observe: the same record, exit 0, never promoted."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of every random choice."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: set[str] = set()
        for index, budget in enumerate(self.budgets):
            if budget.id in seen:
                raise PlacedError(
                    f"two budgets are {budget.id!r}: keep the stricter one", "budgets", index
                )
            seen.add(budget.id)
        return self


def _whole(value: Any) -> Any:
    """1 and nothing that Python takes for equal: true, 1.0."""
    if type(value) is not int:
        raise ValueError(f"version must be 1, not {value!r}")
    return value


class Policy(Strict):
    """A model's accuracy budget and how its release is built."""

    version: Annotated[Literal[1], BeforeValidator(_whole)]
    """Of the policy language."""
    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """The registered model's name; history is kept under it."""
    task: str
    """A key of `gate.tasks`."""
    build: Build
    """How the release is made."""
    judge: Judge
    """What it must meet."""

    @property
    def alpha(self) -> float:
        """One-sided error of each budget: 1 − confidence."""
        return 1.0 - self.judge.confidence

    @property
    def demands(self) -> str:
        """sha256 of what has to be met, whatever it is shown on: two policies ask for the same."""
        drawn = {"held_out", "expect_fp32", "seed", "batch_size", "stopping"}
        return hashlib.sha256(self.judge.model_dump_json(exclude=drawn).encode()).hexdigest()

    @property
    def batch_size(self) -> int | None:
        """Examples a batch, or None where the policy leaves it to the model."""
        if self.judge.batch_size is None and self.build.recipe.scheme == "dynamic":
            return 1
        return self.judge.batch_size


class JudgedFrom(Strict):
    """Where `judge` was taken from, where that is not the file that was named."""

    rev: str
    """The revision, as it was asked for."""
    commit: str
    """What it was then."""
    policy: str
    """The policy's file there; empty where there is none, and the run only observes."""
    looser: tuple[str, ...] = ()
    """What the change's own `judge` would let through that the revision's does not; a sentence
    each."""
    changes: tuple[str, ...] = ()
    """What else is different in the change's own `judge`: stricter or neutral."""
    build_changes: tuple[str, ...] = ()
    """What of `build`, which counts from the change, is not as it was."""
    notes: tuple[str, ...] = ()
    """What else to know: a new or renamed policy, data that nothing pins."""


def slice_label(values: Mapping[str, Scalar]) -> str:
    """`{"site": "north", "night": True}` as `night=true,site=north`."""
    return ",".join(f"{column}={scalar_text(values[column])}" for column in sorted(values))


def scalar_text(value: object) -> str:
    """A column's value as text, the same for YAML, numpy and JSON: true, 3, 0.5, north."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)
