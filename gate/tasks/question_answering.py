"""Extractive question answering: where in the tokens an answer begins and ends.

Decoder `logits`: two outputs (B, T), named `outputs: {start: NAME, end: NAME}`. The predicted
span is that with the largest start + end logit among spans of 1 to 30 tokens; of equal ones the
first, then the shortest. Targets (N, 2) are the first and last token of the answer, counted in
the same sequence, or −1, −1 where there is none. Token 0 is how a model says that there is none
([CLS], as for SQuAD 2), so a predicted or actual span of token 0 alone is no answer. ::

    exact  share of examples whose span is the answer's
    f1     mean of 2 o / (p + a) with o tokens in both, p and a in each span; where one side has
           no answer 1 if the other has none either, else 0

Both are on **tokens**, not on normalised text as in SQuAD's own script: articles, punctuation and
another occurrence of the same words make a difference here. They hold INT8 to FP32 on one and the
same footing; they are not the numbers of a leaderboard.

The search sees logits alone, not which tokens are question or padding: mask those inside the
model, with a large negative number, since −inf is not finite. Both metrics are 0..1, undefined
over no examples. Rows: 1 where exact; the example's f1.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gate.errors import DataError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks._summaries import observing, of_mean
from gate.values import Array, Rows, TensorSpec, Values

_LONGEST = 30
_ROLES = ("start", "end")
_NONE = -1
_AXES = 2
KNOWN: Mapping[str, Traits] = {
    "exact": Traits(proportion=True),
    "f1": Traits(),
    **agreement.FLIPS,
}


class QuestionAnswering:
    """The task `question_answering`; see `gate.tasks.Task`."""

    key: str = "question_answering"
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
        """Fit to outputs start and end, (B, T) each, and targets (N, 2).

        Raises:
            DataError: shapes differ, or an answer lies outside the tokens; says which.
            UsageError: the policy names outputs or a decoder that do not exist.
        """
        binding.decoder(self.key, build, self.decoders, used=("outputs",))
        names = binding.outputs_by_role(build, outputs, _ROLES)
        samples = {name: np.asarray(first[name]) for name in names.values()}
        for name, sample in samples.items():
            binding.demand_floats(name, sample)
        start, end = samples.values()
        answers = binding.demand_array(self.key, targets, "first and last token of an answer")
        if start.shape != end.shape or start.ndim != _AXES or start.shape[1] == 0:
            shapes = " and ".join(binding.told("B", sample.shape) for sample in samples.values())
            raise DataError(
                f"outputs start and end are {shapes}; question_answering takes (B, T) each, a "
                "logit a token"
            )
        if answers is not None:
            _demand_answers(answers, start.shape[1])
        metrics = binding.labelled(_catalogue(), answers)
        return BoundTask(
            kind="spans",
            decode=partial(_decode, names=names, shape=start.shape[1:]),
            metrics=metrics,
            metric=partial(_metric, metrics),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:  # noqa: ARG002
        """Metrics of rows observed earlier: rows say all there is to know."""
        return partial(_metric, binding.labelled(_catalogue(), targets))


# ── targets ───────────────────────────────────────────────────────────────────────────────


def _demand_answers(targets: Array, tokens: int) -> None:
    """Raises DataError where one is neither a span of `tokens` nor −1, −1; names the first."""
    if targets.shape[1:] != (2,):
        raise DataError(
            f"targets are {binding.told('N', targets.shape)}; question_answering takes (N, 2): "
            "first and last token of the answer, or -1, -1 for none"
        )
    expected = f"a token, 0 to {tokens - 1}, or -1 in both for no answer"
    spans = binding.numbers(targets, expected, partial(_is_token, tokens=tokens), part="column")
    first, last = spans.T
    wrong = (first > last) | ((first == _NONE) != (last == _NONE))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"target of example {place} (counting from 0) is {first[place]:g}, {last[place]:g}; "
            "expected an answer's first and last token, in order, or -1, -1 for none. Mend the "
            "targets, or the example"
        )


def _is_token(values: Array, *, tokens: int) -> Array:
    return np.asarray((values >= _NONE) & (values < tokens) & (values == np.floor(values)))


def _answers(spans: Array) -> Array:
    """(B, 2) with −1, −1 for no answer, however that is told: also by token 0 alone."""
    none = (spans == 0).all(axis=1, keepdims=True)
    return np.where(none, float(_NONE), spans.astype(np.float64))


# ── predictions ───────────────────────────────────────────────────────────────────────────


def _decode(
    outputs: Mapping[str, Array], *, names: Mapping[str, str], shape: tuple[int, ...]
) -> Array:
    """(B, 2) first and last token in float64, −1 for no answer; NaN where not finite."""
    sides = [binding.read(outputs, names[role], shape) for role in _ROLES]
    return binding.where_finite(np.stack(sides, axis=1), _best)


def _best(logits: Array) -> Array:
    """(B, 2, T) start and end logits to the best spans (B, 2)."""
    start, end = logits[:, 0], logits[:, 1]
    count, tokens = start.shape
    longest = min(_LONGEST, tokens)
    sums = np.full((count, tokens, longest), -np.inf)
    for more in range(longest):
        sums[:, : tokens - more, more] = start[:, : tokens - more] + end[:, more:]
    chosen = binding.flat(sums).argmax(axis=1)  # the first of equal ones
    first, more = chosen // longest, chosen % longest
    return _answers(np.stack([first, first + more], axis=1))


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue() -> list[Metric]:
    return [_exact(), of_mean("f1", "overlap", _overlap), agreement.flips(_differ)]


def _metric(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    raise binding.no_metric(name, metrics, KNOWN.get(name), "question answering")


def _exact() -> Metric:
    return Metric(
        name="exact",
        observation="exact",
        observe=observing(lambda spans, targets: ~_differ(spans, _answers(targets))[:, np.newaxis]),
        summarize=agreement.defined(agreement.mean),
        higher_is_better=True,
        per_example=lambda rows: rows.flat[:, 0] == 1,
    )


def _differ(spans: Array, others: Array) -> Array:
    """(B,) of bool."""
    return np.asarray((spans != others).any(axis=1))


def _overlap(spans: Array, targets: Array) -> Array:
    """(B, 1) of token F1."""
    answers = _answers(targets)
    either = np.stack([spans, answers])
    none = either[:, :, 0] == _NONE
    sizes = either[:, :, 1] - either[:, :, 0] + 1
    shared = either[:, :, 1].min(axis=0) - either[:, :, 0].max(axis=0) + 1
    found = 2 * np.maximum(shared, 0) / sizes.sum(axis=0)
    scores: Array = np.where(none.any(axis=0), none.all(axis=0), found)
    return scores[:, np.newaxis]


TASK: Task = QuestionAnswering()
