"""Embeddings: vectors whose cosine similarity means something.

Decoder `pairs`: an example is two things, with one output (B, 2, D), or two outputs (B, D) named
`outputs: {first: NAME, second: NAME}`; targets (N,) say how alike they are. ::

    spearman   correlation of ranks of cosine and target over all examples, ties at mid-ranks
    pearson    correlation of cosine and target

Both lie in −1..1 and are undefined where either side does not vary. Rows: (cosine, target).

Decoder `vectors`: an output (B, D), and targets (N,) of a class or a group: ::

    recall<k>  share of examples of which one of the k nearest others has the same target
    ndcg<k>    the discounted gain of the k nearest others, over the largest there is

They look at all examples at once, so the rows are the vectors, and the target's number: D + 1
columns. `_embedding_retrieval` says what happens to ties, and to a target that occurs once.

Without targets INT8's vectors are held to FP32's own: output_cosine and sqnr.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from gate.errors import DataError, UsageError
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.tasks import _agreement as agreement
from gate.tasks import _binding as binding
from gate.tasks import _embedding_retrieval as retrieval
from gate.tasks._summaries import observing
from gate.values import Array, Rows, TensorSpec, Values

_RETRIEVAL = re.compile(r"(recall|ndcg)([1-9][0-9]{0,5})")
_SEARCHES = {"recall": retrieval.recall, "ndcg": retrieval.ndcg}
_SHOWN = ("recall1", "recall10", "ndcg10")
_ROLES = ("first", "second")
_CORRELATION = Traits(low=-1.0, undefined="where either side does not vary")
_RANKS = {"pairs": 3, "vectors": 2}
_TAKES = {
    "pairs": "an output (B, 2, D), or two outputs (B, D) as `outputs: {first: NAME, second: NAME}`",
    "vectors": "an output (B, D), one vector an example (pool token vectors inside the model)",
}
_OBSERVATIONS = {"pairs": "similarity", "vectors": "vector"}
KNOWN: Mapping[str, Traits] = {
    "spearman": _CORRELATION,
    "pearson": _CORRELATION,
    **dict.fromkeys(_SHOWN, Traits()),
    **agreement.VALUES,
}


class Embedding:
    """The task `embedding`; see `gate.tasks.Task`."""

    key: str = "embedding"
    unit: str = "example"
    decoders: tuple[str, ...] = ("vectors", "pairs")
    known: Mapping[str, Traits] = KNOWN

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric; `recall<k>` and `ndcg<k>` take any k from 1."""
        return Traits() if _RETRIEVAL.fullmatch(metric) else self.known.get(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit to outputs, and targets (N,): similarities of `pairs`, labels of `vectors`.

        Raises:
            DataError: shapes do not fit the decoder, or a similarity is no number; says which.
            UsageError: the policy names an output or decoder that does not exist.
        """
        kind = binding.decoder(self.key, build, self.decoders, used=_fields(build))
        read = _Read.of(kind, build, outputs, first)
        labels = binding.demand_array(self.key, targets, "one value an example")
        if labels is not None and labels.ndim != 1:
            raise DataError(
                f"targets are {binding.told('N', labels.shape)}; embedding by `{kind}` takes (N,): "
                + ("how alike each pair is" if kind == "pairs" else "a class or group of each")
            )
        found = binding.labelled(_catalogue(kind, _encoder(kind, labels)), labels)
        metrics = agreement.telling(found, read.shape)
        shown = {name: m for name, m in metrics.items() if _is_shown(name, labels)}
        return BoundTask(
            kind=kind,
            decode=read.decode,
            metrics=shown,
            metric=partial(_metric, kind, _encoder(kind, labels), metrics),
        )

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics of rows observed earlier: their names say whether pairs or vectors."""
        kind = next((kind for kind, name in _OBSERVATIONS.items() if name in rows), "vectors")
        labels = binding.demand_array(self.key, targets, "one value an example")
        encode = _encoder(kind, labels)
        return partial(_metric, kind, encode, binding.labelled(_catalogue(kind, encode), labels))


# ── outputs ───────────────────────────────────────────────────────────────────────────────


def _fields(build: Build) -> tuple[str, ...]:
    """What the decoder reads of `build.decode`: one output, or two by role."""
    by_role = build.decode.name == "pairs" and build.decode.outputs
    return ("outputs",) if by_role else ("output",)


@dataclass(frozen=True, slots=True)
class _Read:
    """Which outputs are read, and the shape they have in FP32's first batch."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name, without the batch; two outputs are the halves of pairs."""

    @classmethod
    def of(
        cls,
        kind: str,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        first: Mapping[str, Array],
    ) -> "_Read":
        """Those that the policy names.

        Raises:
            DataError: their shapes are no vectors or pairs of them.
        """
        if _fields(build) == ("outputs",):
            names = tuple(binding.outputs_by_role(build, outputs, _ROLES).values())
        else:
            names = (binding.only_output(build, outputs),)
        samples = {name: np.asarray(first[name]) for name in names}
        for name, sample in samples.items():
            binding.demand_floats(name, sample)
        shape = _shape([sample.shape for sample in samples.values()])
        paired = kind != "pairs" or shape[1:2] == (len(_ROLES),)
        if len(shape) != _RANKS[kind] or 0 in shape[1:] or not paired:
            raise _unfit(kind, samples)
        return cls({name: sample.shape[1:] for name, sample in samples.items()})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is decoded of an example."""
        (inner, *others) = self.shapes.values()
        return (len(_ROLES), *inner) if others else inner

    def decode(self, outputs: Mapping[str, Array]) -> Array:
        """(B, D) or (B, 2, D) in float64; NaN for an example with any value not finite."""
        parts = [binding.read(outputs, name, shape) for name, shape in self.shapes.items()]
        found = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        return binding.where_finite(found, lambda values: values)


def _shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """What one output has, or two (B, D) together; () where those are no halves of pairs."""
    if len(shapes) == 1:
        return shapes[0]
    alike = shapes[0] == shapes[1] and len(shapes[0]) == _RANKS["vectors"]
    return (shapes[0][0], len(_ROLES), shapes[0][1]) if alike else ()


def _unfit(kind: str, samples: Mapping[str, Array]) -> DataError:
    shapes = " and ".join(
        f"output {name!r} {binding.told('B', sample.shape)}" for name, sample in samples.items()
    )
    return DataError(f"{shapes} do not fit `decode: {kind}`, which takes {_TAKES[kind]}")


# ── targets ───────────────────────────────────────────────────────────────────────────────


def _encoder(kind: str, targets: Array | None) -> Callable[[Array], Array]:
    """Targets as the data hold them -> float64: similarities, or the numbers of labels.

    Raises:
        DataError: a similarity is no number.
    """
    if targets is None:
        return lambda some: some
    if kind == "pairs":
        encode = partial(binding.numbers, expected="how alike the pair is, a number", sound=_any)
        encode(targets)
        return encode
    numbers = {label: place for place, label in enumerate(dict.fromkeys(targets.tolist()))}
    return lambda some: np.array([numbers[label] for label in some.tolist()], dtype=np.float64)


def _any(values: Array) -> Array:
    return np.ones(values.shape, dtype=bool)


# ── metrics ───────────────────────────────────────────────────────────────────────────────


def _catalogue(kind: str, encode: Callable[[Array], Array]) -> list[Metric]:
    if kind == "pairs":
        own = [_correlation("spearman", encode), _correlation("pearson", encode)]
    else:
        own = [_retrieval(name, encode) for name in _SHOWN]
    return [*own, *agreement.of_values()]


def _is_shown(name: str, labels: Array | None) -> bool:
    """Retrieval among fewer than k others has no value to show."""
    match = _RETRIEVAL.fullmatch(name)
    return match is None or (labels is not None and int(match[2]) < len(labels))


def _metric(
    kind: str, encode: Callable[[Array], Array], metrics: Mapping[str, Metric], name: str
) -> Metric:
    """The metric, or a UsageError that says why there is none."""
    if name in metrics:
        return metrics[name]
    if _RETRIEVAL.fullmatch(name) and _SHOWN[0] in metrics:
        return _retrieval(name, encode)
    raise _no_metric(kind, metrics, name)


def _no_metric(kind: str, metrics: Mapping[str, Metric], name: str) -> UsageError:
    return binding.no_metric(name, metrics, TASK.traits(name), f"embedding by `{kind}`")


def _correlation(name: str, encode: Callable[[Array], Array]) -> Metric:
    def see(pairs: Array, targets: Array) -> Array:
        left, right = np.moveaxis(retrieval.normalised(pairs), 1, 0)
        return np.stack([(left * right).sum(axis=1), encode(targets)], axis=1)

    of = _spearman if name == "spearman" else _pearson
    return Metric(
        name=name,
        observation=_OBSERVATIONS["pairs"],
        observe=observing(see),
        summarize=agreement.defined(of),
        higher_is_better=True,
    )


def _retrieval(name: str, encode: Callable[[Array], Array]) -> Metric:
    match = _RETRIEVAL.fullmatch(name)
    assert match is not None
    return Metric(
        name=name,
        observation=_OBSERVATIONS["vectors"],
        observe=observing(lambda vectors, targets: np.column_stack([vectors, encode(targets)])),
        summarize=agreement.defined(_SEARCHES[match[1]](int(match[2]))),
        higher_is_better=True,
        # labels are numbered as a data set brings them; rows of two runs may have other numbers
        sees=lambda rows: rows.flat[:, :-1],
    )


def _pearson(values: Array) -> float:
    """Of the two columns of (N, 2); NaN where one does not vary."""
    if (values == values[0]).all(axis=0).any():
        return float("nan")
    largest = np.abs(values - values.mean(axis=0)).max(axis=0)
    left, right = ((values - values.mean(axis=0)) / largest).T
    return float((left @ right) / np.sqrt((left @ left) * (right @ right)))


def _spearman(values: Array) -> float:
    return _pearson(np.stack([_mid_ranks(column) for column in values.T], axis=1))


def _mid_ranks(values: Array) -> Array:
    """(N,) the mean of the ranks, from 1, that equal values take up."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return np.asarray((below + up_to + 1) / 2)


TASK: Task = Embedding()
