"""What a report shows besides numbers: examples whose answer changed, curves, the line so far."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from gate.values import Value

Answers = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Targets, FP32's and INT8's answers, in a few words, (N,) each."""


def _iso(value: Any) -> Any:
    """A date as 2026-12-31: numbers would be taken for seconds since 1970."""
    if not isinstance(value, str | date):
        raise ValueError(f"write a date as 2026-12-31, not {value!r}")  # noqa: TRY004 - pydantic's
    return value


class Flipped(Value):
    """One example whose answer INT8 changed."""

    id: str
    change: Literal["lost", "gained", "other"]
    """lost: FP32 right and INT8 wrong; other: neither, or nobody can say."""
    target: str = ""
    fp32: str = ""
    int8: str = ""
    """Both answers in a few words, where the task tells them."""


class Seen(NamedTuple):
    """What one example looks like, for a page that asks for it; never part of a record."""

    kind: Literal["image", "text"]
    data: str
    """A PNG in base64, or the text."""


class Flips(Value):
    """The examples whose answer INT8 changed, as far as a report lists them."""

    metric: str
    """By which they changed."""
    lost: int
    gained: int
    other: int
    shown: tuple[Flipped, ...]
    """The first of each kind, in the order of their ids."""


class Series(Value):
    """One line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]


class Plot(Value):
    """Curves in one frame."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    diagonal: bool = False
    """Whether y = x is what would be ideal."""


class Waiver(Value):
    """A budget that a person lets through for a while."""

    model: str
    """The policy's."""
    budget: str
    """The budget's id, as reports and `gate check` name it."""
    slice: str | None = None
    """`column=value`, to waive one of a budget's slices; without it all of them."""
    reason: str = Field(min_length=1)
    who: str = Field(min_length=1)
    """Who answers for it."""
    expires: Annotated[date, BeforeValidator(_iso)]
    """The last day on which it holds; at most 90 days away."""

    def holds_for(self, budget: str, slice_: str | None) -> bool:
        """Whether it is about what a finding is about."""
        return self.budget == budget and self.slice in (None, slice_)


class PastPoint(Value):
    """An earlier run of the model, by the metric that stands for it."""

    when: datetime
    stage: str
    outcome: str
    version: str | None
    held_out: str | None
    """sha256 of its held-out set."""
    reference: float | None
    int8: float | None
    drop: float | None
    limit: float | None
    drift: float | None
    """Of INT8 against the anchor, where the run was held against one."""
