"""Why a run failed, told briefly by the run itself: on calibration data, which it has at hand."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from gate import data, diagnose, graph
from gate.advice import advise
from gate.backends import Backend
from gate.diagnosis import Diagnosis
from gate.errors import GateError
from gate.metrics import Metric
from gate.recipes import Recipe
from gate.run import SMOOTHED, Run
from gate.values import Batch, Candidate, Evaluation, Int8Model, Split

_EXAMPLES = 64
_AT_A_TIME = 8
"""Examples: three models run at once."""
_LISTED = 20


def why(
    run: Run,
    models: tuple[Candidate, Int8Model],
    splits: Mapping[str, Split],
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
) -> Diagnosis:
    """The layers and slices that cost the most, and what to try.

    It never changes a verdict: what cannot be told is told as that.
    """
    with run.step("diagnose"):
        found = Diagnosis()
        try:
            found = diagnose.losing_slices(evaluation, metrics, seed=run.policy.judge.seed)
            return _with_layers(run, models, splits, found)
        except GateError as error:
            return with_problem(found, f"layers are not compared: {error}")
        except Exception as error:  # noqa: BLE001 - told in the report; the verdict stands without
            return with_problem(found, f"a defect of the gate, {type(error).__name__}: {error}")


def _with_layers(
    run: Run,
    models: tuple[Candidate, Int8Model],
    splits: Mapping[str, Split],
    found: Diagnosis,
) -> Diagnosis:
    candidate, int8 = models
    split = splits.get("calibration", splits.get("tuning"))
    if split is None:
        return with_problem(found, NO_DATA)
    smoothed = run.scratch / SMOOTHED
    base = smoothed if smoothed.exists() else candidate.path
    batches = some(split, _EXAMPLES, fixed=data.fixed_batch(candidate), recipe=int8.recipe)
    layers = of_layers(run.backend, (candidate.path, base), int8, batches, threads=run.threads)
    return found.model_copy(update={**layers, "split": split.name})


NO_DATA = (
    "layers are not compared: there are no calibration or tuning data, and what is chosen on "
    "held-out examples proves nothing; add `build.tuning`"
)


def some(
    split: Split, examples: int, *, fixed: int | None, recipe: Recipe | None
) -> Iterator[Batch]:
    """So many examples, in batches that the models take.

    What one batch of a dynamic recipe gives depends on all that are in it.
    """
    alone = recipe is not None and not recipe.needs_calibration
    size = fixed or (1 if alone else min(_AT_A_TIME, examples))
    return islice(split.batches(size), max(1, examples // size))


def of_layers(
    backend: Backend,
    fp32: tuple[Path, Path],
    int8: Int8Model,
    batches: Iterator[Batch],
    *,
    threads: int,
    listed: int = _LISTED,
) -> dict[str, object]:
    """The parts of a `Diagnosis` that are about layers.

    `fp32` are the model itself, and what INT8 was made of: the same, or smoothed.

    Raises:
        GateError: the models cannot be held against each other.
    """
    itself, base = fp32
    seen = diagnose.observe(backend.probe(base, int8.path, threads=threads), batches)
    layers = diagnose.layers(seen)
    recipe, nodes = int8.recipe, graph.read(itself, weights=False).graph.node
    return {
        "examples": seen.examples,
        "layers": layers[:listed],
        "others": max(0, len(layers) - listed),
        "advice": None
        if recipe is None
        else advise(
            layers, recipe, nodes={node.name for node in nodes}, working=int8.quantized_nodes
        ),
    }


def with_problem(found: Diagnosis, problem: str) -> Diagnosis:
    """With one more thing that cannot be told."""
    return found.model_copy(update={"problems": (*found.problems, problem)})
