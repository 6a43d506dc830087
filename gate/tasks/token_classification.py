"""Token classification: a label for every token, and the spans that IOB2 labels make up.

Decoder `logits`: an output (B, T, C) with `build.classes` naming the C labels: O, B-PER, I-PER, …
Targets (N, T) are label numbers; −100 marks tokens that count for nothing, as in training:
padding, special tokens, later pieces of a word. Of spans in both, H, predicted, P, and actual, A,
over all examples ::

    span_precision  H / P
    span_recall     H / A
    span_f1         2 H / (P + A), micro-averaged, as seqeval and conlleval have it
    token_accuracy  share of tokens with the right label
    token_flips     share of tokens that INT8 labels otherwise than FP32

A span is right where its type, first and last token are. All lie in 0..1; those of spans are 0
where their denominator is, as in seqeval, those of tokens are undefined where no token counts, and
all over no examples. Without targets every token counts for flips, padding too.

Rows an example: H, P and A; tokens that are right and all; tokens that changed and all.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gate.errors import DataError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks import _token_spans as spans
from gate.tasks._summaries import observing, of_changes, of_example_changes, of_share, ratio
from gate.values import Array, Rows, TensorSpec, Values

_IGNORED = -100
_AXES = 3
KNOWN: Mapping[str, Traits] = {
    "span_f1": Traits(),
    "span_precision": Traits(),
    "span_recall": Traits(),
    "token_accuracy": Traits(),
    **agreement.FLIPS,
    "token_flips": Traits(relative=True, higher_is_better=False),
}


class TokenClassification:
    """The task `token_classification`; see `gate.tasks.Task`."""

    key: str = "token_classification"
    unit: str = "text"
    decoders: tuple[str, ...] = ("logits",)
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric; None where the name is not known."""
        return self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to an output (B, T, C), C names in `build.classes` and targets (N, T).

        Raises:
            DataError: shapes differ, or a target is no label; says which token.
            UsageError: the policy names an output or decoder that does not exist, or its classes
                are not the labels of the output.
        """
        binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        sample = np.asarray(first[output])
        binding.demand_floats(output, sample)
        numbers = binding.demand_array(self.key, targets, "a label for every token, (N, T),")
        _demand_shapes(output, sample.shape, numbers)
        labels = _labels(output, build.classes, sample.shape[2])
        if numbers is not None:
            _encode(numbers, len(build.classes))
        metrics = binding.labelled(_catalogue(labels), numbers)
        return BoundTask(
            kind=f"{len(build.classes)} labels",
            decode=partial(_decode, output=output, shape=sample.shape[1:]),
            metrics=metrics,
            metric=partial(_metric, metrics),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:  # noqa: ARG002
        """Metrics of rows observed earlier: rows say all there is to know."""
        return partial(_metric, binding.labelled(_catalogue(spans.Labels.of(())), targets))


def _demand_shapes(output: str, raw: tuple[int, ...], targets: Array | None) -> None:
    """Raises DataError where the output has not C scores for each target."""
    fits = len(raw) == _AXES and 0 not in raw[1:]
    if not fits or (targets is not None and targets.shape[1:] != raw[1:2]):
        given = "" if targets is None else f"targets {binding.told('N', targets.shape)} and "
        raise DataError(
            f"{given}output {output!r} {binding.told('B', raw)} do not fit token_classification; "
            "it takes an output (B, T, C), and targets (N, T) of label numbers, -100 where a "
            "token counts for nothing"
        )


def _labels(output: str, classes: tuple[str, ...], size: int) -> spans.Labels:
    if len(classes) != size or len(set(classes)) != size:
        raise UsageError(
            f"`build.classes` must name the {size} labels of output {output!r} in order, each "
            f"once, as O, B-PER, I-PER, …; it has {len(classes)} names, {len(set(classes))} of "
            "them distinct"
        )
    return spans.Labels.of(classes)


def _encode(targets: Array, size: int) -> Array:
    """(B, T) of label numbers as int64, −1 where a token counts for nothing.

    Raises:
        DataError: one is no label; names the first.
    """
    expected = f"a label, 0 to {size - 1}, or {_IGNORED} for none"

    def sound(values: Array) -> Array:
        label = (values >= 0) & (values < size) & (values == np.floor(values))
        return np.asarray(label | (values == _IGNORED))

    found = binding.numbers(targets, expected, sound, part="token").astype(np.int64)
    return np.where(found == _IGNORED, -1, found)


def _decode(outputs: Mapping[str, Array], *, output: str, shape: tuple[int, ...]) -> Array:
    """(B, T) of label numbers in float64, the first of equal ones; NaN where not finite."""
    raw = binding.read(outputs, output, shape)
    return binding.where_finite(raw, lambda scores: np.asarray(scores.argmax(axis=2)))


# ── rows ──────────────────────────────────────────────────────────────────────────────────


def _see_spans(predicted: Array, targets: Array, *, labels: spans.Labels) -> Array:
    """(B, 3) spans in both, predicted, actual."""
    actual = _encode(targets, len(labels.types))
    return spans.count(labels, _whole(predicted), actual, actual >= 0)


def _see_tokens(predicted: Array, targets: Array, *, labels: spans.Labels) -> Array:
    """(B, 2) tokens that are right, and that count."""
    actual = _encode(targets, len(labels.types))
    right = _whole(predicted) == actual
    return np.stack([right.sum(axis=1), (actual >= 0).sum(axis=1)], axis=1)


def _whole(predicted: Array) -> Array:
    """Label numbers of int64; what is not finite is any, for its rows become NaN."""
    return np.nan_to_num(predicted).astype(np.int64)


def _changes(int8: Array, fp32: Array, targets: Array | None, *, labels: spans.Labels) -> Array:
    """(B, 2) tokens with another label, and tokens that count."""
    counted = np.ones(int8.shape, dtype=bool)
    if targets is not None:
        counted = _encode(targets, len(labels.types)) >= 0
    changed = (int8 != fp32) & counted
    return np.stack([changed.sum(axis=1), counted.sum(axis=1)], axis=1)


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue(labels: spans.Labels) -> list[Metric]:
    changes = partial(_changes, labels=labels)

    def any_change(int8: Array, fp32: Array, targets: Array | None) -> Array:
        return np.asarray(changes(int8, fp32, targets)[:, :1] > 0)

    return [
        _of_spans("span_f1", labels, lambda h, p, a: ratio(2 * h, p + a)),
        _of_spans("span_precision", labels, lambda h, p, _: ratio(h, p)),
        _of_spans("span_recall", labels, lambda h, _, a: ratio(h, a)),
        of_share("token_accuracy", "token", partial(_see_tokens, labels=labels)),
        of_example_changes(any_change),
        of_changes("token_flips", "token_flip", changes),
    ]


def _metric(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    raise binding.no_metric(name, metrics, KNOWN.get(name), "token classification")


def _of_spans(
    name: str, labels: spans.Labels, of: Callable[[float, float, float], float]
) -> Metric:
    return Metric(
        name=name,
        observation="span",
        observe=observing(partial(_see_spans, labels=labels)),
        summarize=agreement.defined(lambda values: of(*values.sum(axis=0).tolist())),
        higher_is_better=True,
        flaws=lambda rows: np.any(rows.flat[:, :1] != rows.flat[:, 1:], axis=1),
    )


TASK: Task = TokenClassification()
