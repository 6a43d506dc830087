"""A comparison of two ways to prepare examples, for people, and for programs."""

from collections.abc import Iterator

import yaml

from gate.commands._parity_found import Cause, Gap, Parity
from gate.wording import plain, plural

_SMALL = 1e-4


def render(found: Parity, format: str) -> str:  # noqa: A002
    """As `text` or `json`, ending in a line break."""
    if format == "json":
        return found.model_dump_json(indent=2) + "\n"
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Parity) -> Iterator[str]:
    outcome = "the same" if found.alike else "NOT the same"
    yield (
        f"{plain(found.policy)} and {plain(found.function)} feed the model {outcome}, on "
        f"{plural(found.examples, 'example')} of {found.split}"
    )
    for gap in found.gaps:
        yield from _gap(gap)
    if found.alike:
        return
    yield ""
    yield from _causes(found)
    yield from _advice(found)


def _gap(gap: Gap) -> Iterator[str]:
    yield f"  {plain(gap.input, 60)}"
    if gap.policy == gap.function:
        yield f"    both      {gap.policy}"
    else:
        yield f"    policy    {gap.policy}"
        yield f"    function  {gap.function}"
    if gap.unlike:
        yield f"    {gap.unlike} of {plural(gap.examples, 'example')} differ: {_how_far(gap)}"


def _how_far(gap: Gap) -> str:
    values = f"{_percent(gap.share)} of all values"
    if gap.largest is None:
        return f"shapes, and {values}"
    return f"{values}, by {_number(gap.largest)} at most and {_number(gap.mean)} in the mean"


def _causes(found: Parity) -> Iterator[str]:
    if found.causes:
        yield "Where they part, each on top of those before"
    for cause in found.causes:
        yield f"  {cause.name}: {plain(cause.detail, 400)}"
        yield f"    {_moved(cause)}"
    if not found.causes:
        yield "None of the usual causes brings them nearer."
    if found.unexplained is not None and found.unexplained > _SMALL:
        yield (
            f"Left: {_percent(found.unexplained)} of the variance of the function's values does "
            "not come of the policy's"
        )


def _moved(cause: Cause) -> str:
    mean = f"mean difference {_number(cause.mean_before)} → {_number(cause.mean_after)}"
    values = f"{_percent(cause.share_before)} → {_percent(cause.share_after)}"
    return f"{mean}, values that differ {values}"


def _advice(found: Parity) -> Iterator[str]:
    if found.preprocess is None:
        return
    yield ""
    yield f"Tried, and the same on all {plural(found.examples, 'example')}:"
    told = {"build": {"preprocess": found.preprocess}}
    text = yaml.safe_dump(told, sort_keys=False, width=100, default_flow_style=None)
    yield from text.splitlines()


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _number(value: float | None) -> str:
    return "(shapes differ)" if value is None else f"{value:.4g}"
