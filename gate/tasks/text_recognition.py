"""Text recognition: what stands in a picture of a line, or is said in a recording.

Decoder `ctc`: one output (B, T, C) of scores, T frames by C classes; the first class is the blank,
the others are `build.classes` in order, a character or a longer piece of text each. The best class
of each frame is taken, repeats are collapsed, blanks dropped (Graves et al. 2006, best path). T may
differ from batch to batch. Decoder `text`: one output (B,) that is text already.

Targets (N,) are text. Texts are compared code point by code point, and nothing is normalised:
upper case, accents and composition make a difference. ::

    accuracy               share of examples of which the whole text is right
    character_error_rate   Σ edit distance / Σ length of the true text; can exceed 1
    prediction_flips       share of examples of which INT8 reads another text than FP32

The edit distance is Levenshtein's: the least number of characters inserted, deleted or replaced.
The error rate is undefined where all true texts are empty, and all are over no examples. Rows:
1 where right; the distance and the true length; 1 where flipped. What is decoded are code points,
any number an example, and NaN for one whose outputs are not finite.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from gate.errors import DataError, EvaluationError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.values import Array, Ragged, Rows, TensorSpec, Values, finite

_BLANK = 0
_AXES = 3
_BROKEN = np.full(1, np.nan)
KNOWN: Mapping[str, Traits] = {
    "accuracy": Traits(proportion=True),
    "character_error_rate": Traits(higher_is_better=False, high=None),
    **agreement.FLIPS,
}


class TextRecognition:
    """The task `text_recognition`; see `gate.tasks.Task`."""

    key: str = "text_recognition"
    unit: str = "text"
    decoders: tuple[str, ...] = ("ctc", "text")
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
        """Fit to one output, (B, T, C) scores or (B,) text, and targets (N,) of text.

        Raises:
            DataError: targets are no text, or the output is not what the decoder reads.
            UsageError: the policy names an output or decoder that does not exist, or not C − 1
                classes.
        """
        decoder = binding.decoder(self.key, build, self.decoders, used=("output",))
        output = binding.only_output(build, outputs)
        read = _FITS[decoder](output, np.asarray(first[output]), build.classes)
        _demand_text(binding.demand_array(self.key, targets, "one text"))
        metrics = binding.labelled(_catalogue(), targets)
        return BoundTask(
            kind="text",
            decode=lambda outputs: read(_given(outputs, output)),
            metrics=metrics,
            metric=partial(_metric, metrics),
            tell=_tell,
            apart=_apart,
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:  # noqa: ARG002
        """Metrics of rows observed earlier: rows say all there is to know."""
        return partial(_metric, binding.labelled(_catalogue(), targets))


def _demand_text(targets: Array | None) -> None:
    if targets is None:
        return
    if targets.ndim != 1:
        raise DataError(
            f"targets are {binding.told('N', targets.shape)}; text_recognition takes (N,), one "
            "text an example"
        )
    wrong = np.array([not isinstance(value, str) for value in targets.tolist()], dtype=bool)
    if wrong.any():
        expected = "expected text; save digits as text, too, or leading zeros are lost"
        raise binding.wrong_target(targets, wrong, expected)


# ── predictions ───────────────────────────────────────────────────────────────────────────

_Read = Callable[[Array], Ragged]


def _given(outputs: Mapping[str, Array], name: str) -> Array:
    if name not in outputs:
        raise EvaluationError(
            f"the model gives no output {name!r}, only {', '.join(outputs)}; it must have the "
            "outputs of the FP32 model"
        )
    return np.asarray(outputs[name])


def _fit_ctc(output: str, sample: Array, classes: tuple[str, ...]) -> _Read:
    binding.demand_floats(output, sample)
    if sample.ndim != _AXES:
        raise DataError(
            f"output {output!r} is {binding.told('B', sample.shape)}; `decode: ctc` reads scores "
            "(B, T, C), T frames by C classes of which the first is the blank"
        )
    if len(classes) != sample.shape[2] - 1:
        raise UsageError(
            f"`build.classes` must name the {sample.shape[2] - 1} characters of output {output!r} "
            f"that follow the blank, which is class 0 and has no name; it has {len(classes)} names"
        )
    return partial(_best_path, output, classes)


def _best_path(output: str, classes: tuple[str, ...], scores: Array) -> Ragged:
    """(B, T, C) to the texts of the best class of each frame."""
    if scores.ndim != _AXES or scores.shape[2] != len(classes) + 1:
        raise EvaluationError(
            f"output {output!r} has shape {binding.told('B', scores.shape)}; expected "
            f"(B, T, {len(classes) + 1}) as in FP32's first batch"
        )
    sound = np.asarray(np.isfinite(scores).all(axis=(1, 2)))
    best = np.where(np.isfinite(scores), scores, 0).argmax(axis=2)
    starts = np.ones(best.shape, dtype=bool)
    starts[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = starts & (best != _BLANK)
    texts = (
        "".join(classes[at - 1] for at in row[keep]) for row, keep in zip(best, kept, strict=True)
    )
    return _ragged(text if good else None for text, good in zip(texts, sound, strict=True))


def _fit_text(output: str, sample: Array, classes: tuple[str, ...]) -> _Read:  # noqa: ARG001
    _as_text(output, sample)
    return partial(_as_text, output)


def _as_text(output: str, values: Array) -> Ragged:
    """(B,) of str, None where a broken output was read."""
    listed = values.tolist()
    if values.ndim != 1 or not all(value is None or isinstance(value, str) for value in listed):
        raise DataError(
            f"output {output!r} holds {values.dtype} {binding.told('B', values.shape)}; "
            "`decode: text` reads one text an example, (B,): name a decoder that makes text of it"
        )
    return _ragged(listed)


_FITS: Mapping[str, Callable[[str, Array, tuple[str, ...]], _Read]] = {
    "ctc": _fit_ctc,
    "text": _fit_text,
}


def _ragged(texts: Iterable[str | None]) -> Ragged:
    """Code points, (m, 1) a text."""
    return Ragged.of([_BROKEN if text is None else _points(text) for text in texts], 1)


def _points(text: str) -> Array:
    return np.array([ord(character) for character in text], dtype=np.float64)


def _tell(fp32: Array, int8: Array) -> tuple[str, str]:
    return _spelled(fp32), _spelled(int8)


def _apart(fp32: Ragged, int8: Ragged) -> Array:
    """(N,) of edit distances; NaN where INT8's outputs are not finite."""
    return _rows(int8, fp32, _edits)[:, 0]


def _spelled(points: Array) -> str:
    return "".join(map(chr, points[:, 0].astype(int))) if np.isfinite(points).all() else "NaN"


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue() -> list[Metric]:
    return [_accuracy(), _error_rate(), _flips()]


def _metric(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    raise binding.no_metric(name, metrics, KNOWN.get(name), "text recognition")


def _accuracy() -> Metric:
    def observe(scores: Ragged, targets: Array, reference: Ragged | None) -> Array:  # noqa: ARG001
        return _rows(scores, _ragged(targets.tolist()), lambda one, other: (_same(one, other),))

    return Metric(
        name="accuracy",
        observation="exact",
        observe=observe,
        summarize=agreement.defined(agreement.mean),
        higher_is_better=True,
        per_example=lambda rows: rows.flat[:, 0] == 1,
    )


def _error_rate() -> Metric:
    def observe(scores: Ragged, targets: Array, reference: Ragged | None) -> Array:  # noqa: ARG001
        return _rows(scores, _ragged(targets.tolist()), _edits)

    return Metric(
        name="character_error_rate",
        observation="edits",
        observe=observe,
        summarize=agreement.defined(_rate),
        higher_is_better=False,
        flaws=lambda rows: rows.flat[:, 0] > 0,
    )


def _flips() -> Metric:
    def observe(scores: Ragged, targets: object, reference: Ragged | None) -> Array:  # noqa: ARG001
        other = scores if reference is None else reference
        return _rows(scores, other, lambda one, another: (not _same(one, another),))

    return Metric(
        name="prediction_flips",
        observation="flip",
        observe=observe,
        summarize=agreement.defined(agreement.mean),
        higher_is_better=False,
        # a NaN row counts: what is unknown must not look unchanged
        per_example=lambda rows: rows.flat[:, 0] != 0,
        relative=True,
    )


def _rows(
    scores: Ragged, others: Ragged, see: Callable[[Array, Array], tuple[float, ...]]
) -> Array:
    """(B, k) of what `see` tells of two texts, NaN where either is broken."""
    pairs = [(scores.entry(at)[:, 0], others.entry(at)[:, 0]) for at in range(len(scores))]
    width = len(see(np.zeros(0), np.zeros(0)))
    found = np.array([see(*pair) for pair in pairs], dtype=np.float64).reshape(len(pairs), width)
    found[~(finite(scores) & finite(others))] = np.nan
    return found


def _same(one: Array, other: Array) -> bool:
    return np.array_equal(one, other)


def _edits(text: Array, true: Array) -> tuple[float, float]:
    """Levenshtein distance, and the length of the true text."""
    return float(distance(text, true)), float(len(true))


def distance(one: Array, other: Array) -> int:
    """Levenshtein's, of (m,) and (n,) code points (Wagner and Fischer 1974), a row at a time.

    Within a row only insertions depend on what stands left of them, and the least of those is a
    running minimum.
    """
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for at, symbol in enumerate(one, start=1):
        reached = np.minimum(row[1:] + 1, row[:-1] + (other != symbol))
        row = np.minimum.accumulate(np.concatenate(([at], reached)) - steps) + steps
    return int(row[-1])


def _rate(values: Array) -> float:
    edits, length = values.sum(axis=0)
    return float(edits / length) if length else float("nan")


TASK: Task = TextRecognition()
