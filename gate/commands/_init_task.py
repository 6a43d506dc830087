"""Which task a model is for, by its outputs and the targets; and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gate.boxes import WIDTH
from gate.commands._init_data import Target
from gate.values import TensorSpec

_BOX = 4
_SPAN = 2
_FLOATS = ("float16", "float32", "float64")
_STRIDES = (8, 16, 32)
_Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """A task, the output that is read, and what speaks for it."""

    task: str
    why: str
    output: str | None = None
    """Where there are several."""


@dataclass(frozen=True, slots=True)
class _Out:
    """An output as candidates for a task are tried on it."""

    name: str
    inner: _Shape
    """Without the batch axis."""

    def told(self) -> str:
        dims = ("?" if size is None else str(size) for size in self.inner)
        return f"output {self.name!r} ({', '.join(['N', *dims])})"


def guess(outputs: Sequence[TensorSpec], target: Target | None, *, text: bool) -> Guess | None:
    """The task that shapes and values speak for; None where they do not, or for several.

    Args:
        outputs: the model's.
        target: what is true of the examples; None where the data do not say.
        text: whether the model reads text.
    """
    floats = [_Out(one.name, one.shape[1:]) for one in outputs if one.dtype in _FLOATS]
    if target is not None and target.kind == "r":
        return _boxes(target)
    spans = _spans(floats, target)
    if spans is not None:
        return spans
    found = [one for out in floats if (one := _of_output(out, target, text=text)) is not None]
    if len(found) != 1:
        return None
    several = len(outputs) > 1
    return found[0] if several else Guess(found[0].task, found[0].why)


def _boxes(target: Target) -> Guess | None:
    if target.shape[1] != WIDTH:
        return None
    return Guess("detection", "the targets are any number of boxes an image")


def _spans(floats: Sequence[_Out], target: Target | None) -> Guess | None:
    flat = [out for out in floats if len(out.inner) == 1]
    pair = target is not None and target.shape[1:] == (_SPAN,) and target.kind in "iu"
    if len(flat) == len(floats) == _SPAN and pair and flat[0].inner == flat[1].inner:
        return Guess(
            "question_answering", "two outputs over the tokens, and targets of a first and a last"
        )
    return None


def _of_output(out: _Out, target: Target | None, *, text: bool) -> Guess | None:
    if target is None:
        return _unlabelled(out, text=text)
    rank = len(target.shape) - 1
    by_rank = {0: _of_values, 1: _of_rows, 2: _of_maps}
    found = by_rank[rank](out, target) if rank in by_rank else None
    if found is None:
        return None
    task, why = found
    if text and task == "classification":
        task, why = "text_classification", f"the model reads text, and {why}"
    return Guess(task, f"{out.told()}: {why}", out.name)


def _unlabelled(out: _Out, *, text: bool) -> Guess | None:
    if len(out.inner) != 1 or out.inner[0] == 1:
        return None
    task = "text_classification" if text else "classification"
    return Guess(task, f"{out.told()}, and no targets: scores of classes, it seems", out.name)


def _of_values(out: _Out, target: Target) -> tuple[str, str] | None:
    """Targets (N,)."""
    classes = out.inner[0] if len(out.inner) == 1 else 1 if not out.inner else None
    count = len(target.values)
    if target.kind == "U":
        return _of_texts(out, classes, count)
    if len(out.inner) > 1:
        return None
    if classes == 1:
        binary = target.whole and set(target.values.tolist()) <= {0, 1}
        told = "classification", "targets are 0 and 1, and the output is one score"
        return told if binary else ("regression", "targets are numbers, and the output is one")
    if target.within(classes):
        return (
            "classification",
            f"targets are {count} whole numbers, classes below {classes or '?'}",
        )
    return None


def _of_texts(out: _Out, classes: int | None, count: int) -> tuple[str, str] | None:
    if len(out.inner) == _SPAN:
        return "text_recognition", "a text an example, and scores of letters at each place"
    fits = len(out.inner) == 1 and (classes is None or 1 < classes >= count)
    return ("classification", f"targets are {count} names of classes") if fits else None


def _of_rows(out: _Out, target: Target) -> tuple[str, str] | None:
    """Targets (N, L)."""
    length = target.shape[1]
    if target.kind in "biu" and len(out.inner) == _SPAN and out.inner[0] in (None, length):
        return "token_classification", "targets are a label for every token"
    if len(out.inner) != 1 or out.inner[0] not in (None, length):
        return None
    if target.whole and set(target.values.tolist()) <= {0, 1}:
        return "classification", f"targets are 0 and 1 for each of {length} labels"
    if target.kind == "f" and not target.whole:
        return "regression", f"targets are {length} numbers, and the output is as many"
    return None


def _of_maps(out: _Out, target: Target) -> tuple[str, str] | None:
    """Targets (N, H, W)."""
    same = out.inner[-2:] == target.shape[1:] or None in out.inner[-2:]
    if target.kind in "biu" and len(out.inner) in (2, 3) and same:
        return "segmentation", "targets are a map of classes"
    return None


# ── boxes ─────────────────────────────────────────────────────────────────────────────────


def box_decoder(
    outputs: Sequence[TensorSpec], size: tuple[int | None, ...]
) -> tuple[Any, str] | None:
    """How a detector's outputs are read, and why; None where their shapes do not tell.

    Args:
        outputs: the model's.
        size: (height, width) of its input, None where free.
    """
    shapes = {one.name: one.shape[1:] for one in outputs}
    if len(outputs) == 1:
        return _one_grid(*next(iter(shapes.items())), size)
    return _listed(shapes) or _centres(shapes, size)


def _one_grid(name: str, inner: _Shape, size: tuple[int | None, ...]) -> tuple[Any, str] | None:
    if len(inner) != _SPAN or inner[0] is None or inner[1] is None:
        return None
    if inner[0] < inner[1]:
        return "yolov8", f"output {name!r} has {inner[0]} channels and {inner[1]} places"
    height, width = size if len(size) == _SPAN else (None, None)
    if height is None or width is None:
        return None
    cells = sum((height // stride) * (width // stride) for stride in _STRIDES)
    if inner[0] == cells:
        decode = {"as": "yolox", "size": [height, width]}
        return decode, f"output {name!r} has a place for each of {cells} cells"
    if inner[0] == 3 * cells:
        return "yolov8", f"output {name!r} has three places for each of {cells} cells, as YOLOv5"
    return None


def _listed(shapes: dict[str, _Shape]) -> tuple[Any, str] | None:
    boxes = [n for n, inner in shapes.items() if len(inner) == _SPAN and inner[1] == _BOX]
    flat = {n: inner for n, inner in shapes.items() if len(inner) == 1}
    scores = [n for n in flat if "score" in n.lower() or "conf" in n.lower()]
    labels = [n for n in flat if "label" in n.lower() or "class" in n.lower()]
    if (len(boxes), len(scores), len(labels)) != (1, 1, 1):
        return None
    named = {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}
    decode = {"as": "boxes-scores-labels", "outputs": named}
    return decode, "three outputs: boxes, scores and labels"


def _centres(shapes: dict[str, _Shape], size: tuple[int | None, ...]) -> tuple[Any, str] | None:
    maps = {name: inner for name, inner in shapes.items() if len(inner) == 3}  # noqa: PLR2004
    boxes = [name for name, inner in maps.items() if inner[0] == _BOX]
    heats = [name for name in maps if name not in boxes]
    if (len(boxes), len(heats)) != (1, 1):
        return None
    cells, height = maps[heats[0]][1], size[0] if size else None
    if not cells or not height or height % cells:
        return None
    decode: dict[str, Any] = {"as": "centernet", "strides": [height // cells]}
    if (heats[0], boxes[0]) != ("heatmap", "box"):
        decode["outputs"] = {"heatmap": heats[0], "box": boxes[0]}
    return decode, f"a heat map of {cells} cells over {height} pixels, and boxes"
