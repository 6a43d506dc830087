"""Classification: one class, or any number of labels, from logits or probabilities.

Shapes say which kind it is, and nothing is guessed from values: targets (N,) with an output
(B, C ≥ 2) are multi-class, with an output (B,) or (B, 1) binary; targets (N, L) with an output
(B, L) are multi-label. The metrics themselves stand in a private sibling, apart from policies
and models, so that each file stays short.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gate import door
from gate.errors import DataError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._classification_metrics import catalogue, shown, top_k, top_k_metric
from gate.tasks._classification_parts import answers, confusions, groups, reliability
from gate.tasks._classification_rows import MANY_CLASSES, Kind, Problem
from gate.values import Array, Rows, TensorSpec, Values

_RANGE_SLACK = 1e-6
"""A float32 softmax may round to just above 1."""
_SUM_SLACK = 1e-3
_SUM_EXACT = 1e-4
_LISTED = 10

_INSTEAD = {
    "balanced_accuracy": "recall_macro",
    "mcc": "f1_macro or f1_micro",
    "precision": "precision_macro or precision_micro",
    "recall": "recall_macro or recall_micro",
    "f1": "f1_macro or f1_micro",
    "ece": "log_loss",
    "output_cosine": "kl_divergence or sqnr",
}
"""What to use where a known metric does not apply."""


_PROPORTION = Traits(proportion=True)
_AVERAGES = tuple(
    f"{name}{suffix}"
    for suffix in ("", "_macro", "_micro")
    for name in ("precision", "recall", "f1")
)
KNOWN: Mapping[str, Traits] = {
    "accuracy": _PROPORTION,
    "top5_accuracy": _PROPORTION,
    "balanced_accuracy": Traits(),
    **dict.fromkeys(_AVERAGES, Traits()),
    "mcc": Traits(low=-1.0),
    "auroc": Traits(undefined="without both examples of a class and others"),
    "log_loss": Traits(higher_is_better=False, high=None),
    "ece": Traits(higher_is_better=False),
    **agreement.KNOWN,
}


class Classification:
    """The task `classification`; see `gate.tasks.Task`."""

    key: str = "classification"
    unit: str = "example"
    decoders: tuple[str, ...] = ("logits", "probabilities")
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric, top-k ones included; None where the name is not known."""
        return _PROPORTION if top_k(metric) is not None else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to a model's outputs and all targets of a split, (N,) or (N, L).

        Without targets the output is taken to be of one class an example.

        `first` are FP32's raw outputs by name, (B, …) each, for one batch.

        Raises:
            DataError: targets, outputs and decoder do not fit; says which example and why.
            UsageError: the policy names an output, decoder or number of classes that the model
                does not have.
        """
        decoder = binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        sample = np.asarray(first[output])
        binding.demand_floats(output, sample)
        targets = binding.demand_array(self.key, targets, "one class, or 0 and 1 for each label")
        problem = _problem(output, build.classes, targets, sample)
        if targets is not None:
            problem.encode(targets)
        _CHECKS[decoder](problem, output, sample)
        metrics = agreement.telling(catalogue(problem), sample.shape[1:])
        if targets is None:
            metrics = {name: metric for name, metric in metrics.items() if metric.relative}
        return BoundTask(
            kind=problem.kind,
            decode=partial(
                _decode,
                output=output,
                shape=sample.shape[1:],
                activate=partial(_ACTIVATIONS[decoder], problem),
            ),
            metrics=shown(problem, metrics),
            metric=partial(_metric, problem, metrics, tuple(self.known)),
            groups=partial(groups, problem, build.classes),
            parts=partial(confusions, problem, build.classes),
            answers=partial(answers, problem, build.classes),
            plots=reliability,
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics of rows observed earlier: what was predicted is read off their widths."""
        problem = _observed_problem(targets, rows)
        return partial(_metric, problem, catalogue(problem), tuple(self.known))


# ── kind and targets ──────────────────────────────────────────────────────────────────────


def _problem(
    output: str, classes: tuple[str, ...], targets: Array | None, sample: Array
) -> Problem:
    """What there is to predict, from the shapes alone."""
    kind, size = _kind(output, (0,) if targets is None else targets.shape, sample.shape)
    named = len(classes) if classes else size
    if named != size or len(set(classes)) != len(classes):
        what = "labels" if kind == "multi-label" else "classes"
        raise UsageError(
            f"`build.classes` must name the {size} {what} of output {output!r} ({kind}), each "
            f"once; it has {len(classes)} names, {len(set(classes))} of them distinct"
        )
    return Problem(kind, size, partial(_encode, kind, size, classes))


def _observed_problem(targets: Values | None, rows: Mapping[str, Rows]) -> Problem:
    if targets is None:  # what compares INT8 with FP32 needs no class
        return Problem("binary", 2, partial(_encode, "binary", 2, ()))
    if targets.ndim > 1:
        size = targets.shape[1]
        return Problem("multi-label", size, partial(_encode, "multi-label", size, ()))
    if "score" not in rows:
        size = _many(rows)
        return Problem("multi-class", size, partial(_encode, "multi-class", size, ()))
    scores = rows["score"].flat.shape[1] - 1  # the last column is the target
    kind: Kind = "multi-class" if scores > 1 else "binary"
    size = max(scores, 2)
    return Problem(kind, size, partial(_encode, kind, size, ()))


def _many(rows: Mapping[str, Rows]) -> int:
    """A number of classes for rows that are kept without scores, which is so of many classes alone.

    How many there are the rows do not tell; averages look at those that occur.
    """
    asked = (k for k in map(top_k, (f"{name}_accuracy" for name in rows)) if k is not None)
    return max(int(rows["label"].flat.max()), MANY_CLASSES, *asked) + 1


def _kind(output: str, targets: tuple[int, ...], raw: tuple[int, ...]) -> tuple[Kind, int]:
    """Kind, and number of classes or labels."""
    match targets, raw:
        case ((_,), (_,) | (_, 1)):
            return "binary", 2
        case ((_,), (_, classes)) if classes > 1:
            return "multi-class", classes
        case ((_, labels), (_, scores)) if labels == scores > 0:
            return "multi-label", labels
    raise DataError(
        f"targets {binding.told('N', targets)} and output {output!r} {binding.told('B', raw)} do "
        "not fit together; classification takes targets (N,) with an output (B, C) or (B,), or 0/1 "
        "targets (N, L) with an output (B, L)"
    )


def _encode(kind: Kind, size: int, classes: tuple[str, ...], targets: Array) -> Array:
    """Targets as the data hold them -> int64 class indices (B,), or 0/1 (B, L).

    Raises:
        DataError: one is neither a class nor a label; the message names the first.
    """
    expected = f"a class, 0 to {size - 1}" if kind == "multi-class" else "0 or 1"
    values = binding.numbers_if_all(targets)
    if values.dtype.kind in "OUT":
        return _named(kind, expected, classes, values)
    if values.dtype.kind not in "biuf":
        raise DataError(f"targets hold {values.dtype}; expected each to be {expected}")
    limit = size if kind == "multi-class" else 2
    sound = (values >= 0) & (values < limit) & (values == np.floor(values))
    if not sound.all():
        raise binding.wrong_target(values, ~sound, f"expected {expected}")
    return values.astype(np.int64)


def _named(kind: Kind, expected: str, classes: tuple[str, ...], targets: Array) -> Array:
    """Class indices of class names."""
    if not classes or kind == "multi-label":
        isnt_label = np.ones(targets.shape, dtype=bool)
        advice = "" if kind == "multi-label" else "; for names, list them in `build.classes`"
        raise binding.wrong_target(targets, isnt_label, f"expected {expected}{advice}")
    index = {name: place for place, name in enumerate(classes)}
    indices = np.array(
        [index.get(value, -1) if isinstance(value, str) else -1 for value in targets.tolist()],
        dtype=np.int64,
    )
    if (indices < 0).any():
        names = ", ".join(classes[:_LISTED]) + (", …" if len(classes) > _LISTED else "")
        raise binding.wrong_target(
            targets, indices < 0, f"expected a name in `build.classes`: {names}"
        )
    return indices


# ── scores ────────────────────────────────────────────────────────────────────────────────


def _softmax(logits: Array) -> Array:
    with np.errstate(over="ignore"):  # a difference beyond float64 is −inf: probability 0
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(logits: Array) -> Array:
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def _from_logits(problem: Problem, raw: Array) -> Array:
    return _softmax(raw) if problem.kind == "multi-class" else _sigmoid(raw)


def _as_they_are(_: Problem, raw: Array) -> Array:
    return raw


def _decode(
    outputs: Mapping[str, Array],
    *,
    output: str,
    shape: tuple[int, ...],
    activate: Callable[[Array], Array],
) -> Array:
    """Raw outputs by name -> probabilities (B, C) in float64.

    An example with any value that is not finite has NaN for all its scores.
    """
    return binding.where_finite(binding.flat(binding.read(outputs, output, shape)), activate)


def _finite(sample: Array) -> tuple[Array, Array]:
    """Finite examples of a raw batch, (b, C) in float64, and their places in it (b,)."""
    flat = binding.flat(sample).astype(np.float64)
    places = np.flatnonzero(np.isfinite(flat).all(axis=1))
    return flat[places], places


def _refuse_logits(problem: Problem, output: str, sample: Array) -> None:
    """`decode: probabilities` needs values in 0..1, of classes with sum 1."""
    values, places = _finite(sample)
    outside = (values < -_RANGE_SLACK) | (values > 1 + _RANGE_SLACK)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise _no_probabilities(output, places[row], f"has {values[row, column]:.6g}")
    off = np.abs(values.sum(axis=1) - 1) > _SUM_SLACK
    if problem.kind == "multi-class" and off.any():
        row = np.flatnonzero(off)[0]
        raise _no_probabilities(output, places[row], f"sums to {values[row].sum():.6g}, not 1")


def _no_probabilities(output: str, example: int, fault: str) -> DataError:
    return DataError(
        f"`decode: probabilities`, but output {output!r} {fault} for example {example} (counting "
        "from 0), so it is no probability; write `decode: logits` if it holds logits"
    )


def _refuse_probabilities(problem: Problem, output: str, sample: Array) -> None:
    """`decode: logits` must not meet outputs that softmax or sigmoid have already been through.

    A second sigmoid would call every example positive, under both models alike.
    """
    values, _ = _finite(sample)
    if len(values) <= 1 or np.ptp(values) == 0 or not ((values >= 0) & (values <= 1)).all():
        return
    told = "lie in 0..1"
    if problem.kind == "multi-class":
        if (np.abs(values.sum(axis=1) - 1) > _SUM_EXACT).any():
            return
        told += " and sum to 1"
    raise DataError(
        f"`decode: logits`, but output {output!r} already holds probabilities: all "
        f"{len(values)} examples of the first batch {told}; write `decode: probabilities`"
    )


_ACTIVATIONS: Mapping[str, Callable[[Problem, Array], Array]] = {
    "logits": _from_logits,
    "probabilities": _as_they_are,
}
_CHECKS: Mapping[str, Callable[[Problem, str, Array], None]] = {
    "logits": _refuse_probabilities,
    "probabilities": _refuse_logits,
}


# ── metrics by name ───────────────────────────────────────────────────────────────────────


def _metric(
    problem: Problem, metrics: Mapping[str, Metric], known: tuple[str, ...], name: str
) -> Metric:
    """The metric, or a UsageError that says what to use instead."""
    if name in metrics:
        return metrics[name]
    k = top_k(name)
    unlabelled = all(metric.relative for metric in metrics.values())
    if unlabelled and (k is not None or (name in known and not KNOWN[name].relative)):
        raise binding.needs_labels(name, metrics)
    if k is not None:
        return _top_k(problem, name, k)
    if name in known:
        raise UsageError(
            f"metric {name!r} does not apply to {problem.kind} classification; use {_INSTEAD[name]}"
        )
    raise UsageError(door.unknown("metric", name, tuple(metrics)))


def _top_k(problem: Problem, name: str, k: int) -> Metric:
    if problem.multi_label:
        raise UsageError(
            f"metric {name!r} does not apply to multi-label classification; use accuracy"
        )
    if k >= problem.size:
        raise UsageError(
            f"metric {name!r} is always 1 with {problem.size} classes; "
            f"use a k below {problem.size}, or accuracy"
        )
    return top_k_metric(problem, k)


TASK: Task = Classification()
