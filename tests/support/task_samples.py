"""Models' outputs and targets, small and seeded, on which every task's contract is tested."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gate import tasks
from gate.policy import Build
from gate.values import TensorSpec, Values


@dataclass(frozen=True)
class Sample:
    """A model's outputs on some targets, both models', and how to read them."""

    name: str
    targets: Values
    fp32: Any
    """(N, …) of the output `y`, or outputs by name."""
    int8: Any
    asked: tuple[str, ...] = ()
    """Parametrised metrics that no list names."""
    build: dict = field(default_factory=dict)

    def outputs(self, side: str, part: Any = slice(None)) -> dict[str, np.ndarray]:
        """Those of `fp32` or `int8`, for a part of the examples."""
        found = getattr(self, side)
        named = found if isinstance(found, Mapping) else {"y": found}
        return {name: values[part] for name, values in named.items()}

    def broken(self, value: float, example: int) -> dict[str, np.ndarray]:
        """INT8's outputs, with one value of one example put in."""
        outputs = {name: values.copy() for name, values in self.outputs("int8").items()}
        first = next(v for v in outputs.values() if np.issubdtype(v.dtype, np.floating))
        first.reshape(len(first), -1)[example, 0] = value
        return outputs

    @property
    def breakable(self) -> bool:
        """Whether an output can be NaN at all."""
        kinds = [values.dtype for values in self.outputs("int8").values()]
        return any(np.issubdtype(kind, np.floating) for kind in kinds)

    def bind(self, key: str, *, labelled: bool = True) -> tasks.BoundTask:
        """The task fitted to FP32's outputs and, where `labelled`, the targets."""
        build = Build(recipe="dynamic", **self.build)
        specs = tuple(
            TensorSpec(name, str(values.dtype), (None, *values.shape[1:]))
            for name, values in self.outputs("fp32").items()
        )
        first = self.outputs("fp32", slice(0, 8))
        return tasks.get(key).bind(build, specs, self.targets if labelled else None, first)


N = 41


def noisy(name: str, targets: Values, raw: np.ndarray, *, by: float = 0.7, **more: Any) -> Sample:
    """A sample whose INT8 outputs are FP32's and noise."""
    rng = np.random.default_rng(11)
    int8 = raw + (by * rng.normal(0, 2, raw.shape)).astype(raw.dtype)
    return Sample(name, targets, raw, int8, **more)


def logits(*shape: int, seed: int = 7) -> np.ndarray:
    """(N, …) of float32."""
    return np.random.default_rng(seed).normal(0, 2, (N, *shape)).astype(np.float32)


def classification() -> list[Sample]:
    rng = np.random.default_rng(7)
    softmax = np.exp(logits(4))
    softmax /= softmax.sum(axis=1, keepdims=True)
    top = ("top1_accuracy", "top6_accuracy")
    return [
        noisy("multi-class", np.arange(N) % 7, logits(7), asked=top),
        noisy("two classes", np.arange(N) % 2, logits(2), asked=("top1_accuracy",)),
        noisy("binary", np.arange(N) % 2 == 1, logits(1)),
        noisy("flat binary", (np.arange(N) % 2).astype(np.float32), logits()),
        noisy("multi-label", rng.integers(0, 2, (N, 3)), logits(3)),
        noisy("many labels", rng.integers(0, 2, (N, 60)), logits(60)),
        noisy(
            "names",
            np.array(["cat", "dog", "owl"])[np.arange(N) % 3],
            logits(3),
            build={"classes": ("owl", "cat", "dog")},
        ),
        Sample(
            "probabilities",
            np.arange(N) % 4,
            softmax,
            np.round(softmax * 255) / 255,
            build={"decode": "probabilities"},
        ),
    ]


def regression() -> list[Sample]:
    rng = np.random.default_rng(3)
    values = {"decode": "values"}
    return [
        noisy("one number", rng.normal(size=N), logits(), build=values),
        noisy("a column", rng.normal(size=N), logits(1), build=values),
        noisy(
            "several numbers",
            rng.integers(-3, 9, (N, 3)),
            logits(3),
            build=values,
            asked=("quantile_loss_5",),
        ),
    ]


def ranking() -> list[Sample]:
    rng = np.random.default_rng(5)
    grades = rng.integers(0, 4, (N, 12))
    padded = np.where(np.arange(12) < rng.integers(1, 13, (N, 1)), grades, -1)
    scores = {"decode": "scores"}
    return [
        noisy("full lists", grades, logits(12), build=scores, asked=("ndcg3",)),
        noisy("padded lists", padded, logits(12), build=scores, asked=("ndcg1", "ndcg40")),
    ]


def embedding() -> list[Sample]:
    rng = np.random.default_rng(6)
    centres = rng.normal(0, 2, (5, 8)).astype(np.float32)
    labels = np.arange(N) % 5
    vectors = centres[labels] + logits(8)
    named = np.array(["a", "b", "c", "d", "e"])[labels]
    pair = {"as": "pairs", "outputs": {"first": "left", "second": "right"}}
    halves = [logits(6, seed=seed) for seed in (1, 2)]
    return [
        noisy("vectors", labels, vectors, build={"decode": "vectors"}, asked=("recall3", "ndcg4")),
        noisy("vectors by name", named, vectors, build={"decode": "vectors"}),
        noisy("pairs", rng.random(N), logits(2, 6), build={"decode": "pairs"}),
        Sample(
            "pairs of outputs",
            rng.integers(0, 6, N),
            dict(zip(("left", "right"), halves, strict=True)),
            dict(zip(("left", "right"), (half + 0.3 for half in halves), strict=True)),
            build={"decode": pair},
        ),
    ]


def segmentation() -> list[Sample]:
    rng = np.random.default_rng(8)
    maps = rng.integers(0, 4, (N, 6, 5))
    maps[rng.random(maps.shape) < 0.1] = 255
    names = ("road", "car", "sky", "tree")
    numbers = rng.integers(0, 4, (2, N, 6, 5))
    share = 1 / (1 + np.exp(-logits(6, 5)))
    return [
        noisy("scores", maps, logits(4, 6, 5), build={"classes": names}, asked=("iou_sky",)),
        noisy("one score", (maps % 2).astype(np.uint8), logits(1, 6, 5), asked=("iou_1",)),
        Sample(
            "flat probabilities",
            maps > 1,
            share,
            np.round(share * 7) / 7,
            build={"decode": "probabilities"},
        ),
        Sample(
            "class numbers",
            maps,
            numbers[0],
            np.where(rng.random(maps.shape) < 0.2, numbers[1], numbers[0]),
            build={"decode": "classes", "classes": names},
        ),
    ]


def text_classification() -> list[Sample]:
    labels = np.random.default_rng(4).integers(0, 2, (N, 4))
    return [
        noisy("topics", np.arange(N) % 6, logits(6)),
        noisy("entailment of pairs", np.arange(N) % 3, logits(3)),
        noisy("paraphrase or not", np.arange(N) % 2, logits(2)),
        noisy("tags", labels, logits(4)),
    ]


def token_classification() -> list[Sample]:
    rng = np.random.default_rng(9)
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    labels = rng.integers(0, 5, (N, 9))
    labels[rng.random(labels.shape) < 0.2] = -100
    raw = logits(9, 5) + 3 * np.eye(5, dtype=np.float32)[np.maximum(labels, 0)]
    full = np.full((N, 4), 1)
    return [
        noisy("padded", labels, raw, build={"classes": names}),
        noisy("one type", full, logits(4, 3), build={"classes": ("O", "B-X", "I-X")}),
    ]


def text_recognition() -> list[Sample]:
    rng = np.random.default_rng(12)
    letters, texts = "abcé", np.array(["".join(rng.choice(list("abcé"), k % 5)) for k in range(N)])
    frames = np.zeros((N, 12), dtype=np.int64)
    for row, text in zip(frames, texts, strict=True):
        row[: 2 * len(text) : 2] = [letters.index(letter) + 1 for letter in text]
    raw = logits(12, 5) + 3 * np.eye(5, dtype=np.float32)[frames]
    misread = np.where(rng.random(N) < 0.3, np.char.add(texts, "x"), texts).astype(object)
    return [
        noisy("lines", texts, raw, build={"decode": "ctc", "classes": tuple(letters)}),
        Sample("texts", texts, texts.astype(object), misread, build={"decode": "text"}),
    ]


def question_answering() -> list[Sample]:
    rng = np.random.default_rng(10)
    first = rng.integers(0, 20, N)
    answers = np.stack([first, first + rng.integers(0, 20, N)], axis=1)
    answers[rng.random(N) < 0.2] = -1
    names = ("begin", "finish")
    fp32 = {name: logits(40, seed=seed) for seed, name in enumerate(names)}
    for name, places in zip(names, answers.T, strict=True):
        fp32[name][np.arange(N), np.maximum(places, 0)] += 6
    int8 = {name: values + 0.8 * logits(40, seed=20) for name, values in fp32.items()}
    build = {"decode": {"as": "logits", "outputs": {"start": "begin", "end": "finish"}}}
    return [Sample("spans", answers, fp32, int8, build=build)]
