"""What a diagnosis says, in the order a person asks, before any format."""

import json
from collections.abc import Iterator

from gate.diagnosis import Advice, Diagnosis, LayerError, SliceLoss
from gate.wording import metric_name, p_value, plain, plural

_LAYERS = 3
_SLICES = 3
_PROBLEMS = 3


def brief(found: Diagnosis) -> tuple[tuple[str, str], ...]:
    """The worst layers and slices and what to try, as label and text."""
    return tuple(_brief(found))


def _brief(found: Diagnosis) -> Iterator[tuple[str, str]]:
    for one in found.layers[:_LAYERS]:
        yield "Layer", layer(one)
    for each in found.slices[:_SLICES]:
        yield "Slice", lost(each, found.lost)
    if found.advice is not None:
        yield "Try", f"{plain(found.advice.why)}: {recipe(found.advice)}"
    for problem in found.problems[:_PROBLEMS]:
        yield "Not told", plain(problem, 300)
    if len(found.problems) > _PROBLEMS:
        yield "Not told", plural(len(found.problems) - _PROBLEMS, "more thing")


def layer(found: LayerError) -> str:
    """`conv_4 (Conv) 62 % of the error, SQNR 12.1 dB: range outlier, channel 3 reaches …`."""
    own = "" if found.own_sqnr is None else f", own SQNR {found.own_sqnr:.1f} dB"
    why = "" if found.cause is None else f": {found.cause.name}, {plain(found.cause.detail, 200)}"
    share = f"{100 * found.share:.3g} % of the error at the outputs"
    return f"{plain(found.node, 60)} ({plain(found.op, 30)}) {share}{own}{why}"


def lost(found: SliceLoss, metric: str) -> str:
    """`site=north loses 4.00 pp of accuracy (n = 250), the rest 0.40 pp (p = .002 …)`."""
    here, rest = (f"{100 * value:.2f} pp" for value in (found.loss, found.rest))
    return (
        f"{plain(found.slice, 60)} loses {here} of {metric_name(metric)} (n = {found.n}), the rest "
        f"{rest} ({p_value(found.p)} for all that were looked at)"
    )


def recipe(advice: Advice) -> str:
    """A line of YAML to paste under `build:`; JSON's flow style is YAML."""
    return f"recipe: {json.dumps(advice.recipe, ensure_ascii=True)}"
