"""How `gate init` fills in `build`: what enters the model, its task, classes and decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gate import tasks
from gate.commands import _init_fit
from gate.commands._init_asked import answer, listed, yaml_of
from gate.commands._init_data import Looked
from gate.commands._init_desk import Desk
from gate.commands._init_inputs import Entering, entering, reads_text
from gate.commands._init_model import Model
from gate.commands._init_task import Guess, box_decoder, guess
from gate.commands._init_text import Spec, flow
from gate.door import unknown
from gate.errors import UsageError
from gate.wording import few, plural

_BY_TARGETS = ("classification", "text_classification")


def with_inputs(desk: Desk, spec: Spec, model: Model, looked: Looked) -> tuple[Spec, bool]:
    """With what happens to raw values; and whether text enters."""
    inputs = model.candidate.inputs
    if spec.preprocess is not None:
        why = "as training does it"
        return replace(spec, preprocess_why=why), reads_text(inputs, looked.columns)
    place = Path(desk.named)
    beside = (place, place.parent, looked.base / Path(looked.source.path).parent, Path())
    found, file = entering(looked, inputs, own=model.source.tokenizer, beside=beside)
    if found.preprocess is None:
        return spec, found.text
    steps = dict(found.preprocess)
    if file is not None:
        steps["tokenizer"] = {"file": desk.path(str(file)), **steps["tokenizer"]}
    return _confirmed(desk, spec, steps, found), found.text


def _confirmed(desk: Desk, spec: Spec, steps: Mapping[str, Any], found: Entering) -> Spec:
    question = "what happens to raw values before they enter the model, as training did it"
    desk.who.tell(f"preprocess: {found.why}")
    answered = desk.who.ask("--preprocess", question, flow(steps))
    why = found.why if answered == flow(steps) else "as training does it"
    return replace(spec, preprocess=yaml_of("--preprocess", answered), preprocess_why=why)


def with_task(
    desk: Desk, spec: Spec, model: Model, looked: Looked, *, text: bool
) -> tuple[Spec, list[Any]]:
    """With task and classes; and the decoders to try."""
    outputs = model.candidate.outputs
    found = guess(outputs, looked.target, text=text)
    if found is not None:
        desk.who.tell(f"task: {found.task}, it seems: {found.why}")
    named = answer(
        desk.who,
        desk.asked.task,
        "--task",
        f"what the model is for ({few(tasks.names(), 20)})",
        None if found is None else found.task,
    )
    if named not in tasks.names():
        raise UsageError(unknown("task", named, tasks.names()))
    if found is None or found.task != named:
        found = Guess(named, "as asked")
    spec = replace(spec, task=named, task_why=found.why)
    spec = _with_classes(desk, spec, model, looked)
    return _with_decoders(desk, spec, model, found)


def _with_decoders(desk: Desk, spec: Spec, model: Model, found: Guess) -> tuple[Spec, list[Any]]:
    if desk.asked.decode is not None:
        return spec, [yaml_of("--decode", desk.asked.decode)]
    if found.task != "detection":
        return spec, _init_fit.decoders(found.task, found.output)
    shapes = [one.shape for one in model.candidate.inputs if len(one.shape) == 4]  # noqa: PLR2004
    size = shapes[0][2:] if shapes and shapes[0][1] in (1, 3) else shapes[0][1:3] if shapes else ()
    read = box_decoder(model.candidate.outputs, size)
    if read is None:
        raise UsageError(
            f"nothing tells how the outputs ({model.described()}) become boxes: say so with "
            "--decode, such as --decode '{as: yolox, size: [640, 640]}'; `gate tasks detection` "
            "lists the decoders"
        )
    decoder, why = read
    return replace(spec, decode_why=why), [decoder]


def _with_classes(desk: Desk, spec: Spec, model: Model, looked: Looked) -> Spec:
    target = looked.target
    if desk.asked.classes is not None:
        names = listed("--classes", desk.asked.classes)
        return replace(spec, classes=names, classes_why="in the order of the outputs")
    if model.source.classes or target is None:
        return spec
    if target.classes:
        return replace(spec, classes=target.classes, classes_why="by the ids of the data")
    if spec.task == "token_classification":
        question = "the labels in the order of the outputs: O, B-PER, I-PER, …"
        names = listed("--classes", answer(desk.who, None, "--classes", question, None))
        return replace(spec, classes=names, classes_why="in the order of the outputs")
    if spec.task not in _BY_TARGETS or target.kind != "U":
        return spec
    return _sorted_classes(desk, spec, model, [str(one) for one in target.values])


def _sorted_classes(desk: Desk, spec: Spec, model: Model, names: Sequence[str]) -> Spec:
    """The targets' own names, in the order that most trainers give them."""
    sizes = {one.shape[1] for one in model.candidate.outputs if len(one.shape) == 2}  # noqa: PLR2004
    if sizes != {len(names)}:
        raise UsageError(
            f"targets are {plural(len(names), 'name')} of classes ({few(names)}), and the model "
            f"has {few([str(size) for size in sizes]) or 'no such'} outputs: name all of them "
            "with --classes, in the order of the outputs"
        )
    question = "the classes in the order of the outputs"
    guessed = "a guess: the order of the alphabet"
    desk.who.tell(f"classes: {guessed}; FP32's own accuracy shows whether it is the model's")
    answered = desk.who.ask("--classes", question, flow(names))
    why = guessed if answered == flow(names) else "in the order of the outputs"
    return replace(spec, classes=listed("--classes", answered), classes_why=why)
