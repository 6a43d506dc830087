"""How `gate init` comes by recipe and calibration data; takes some of the only file if told to."""

from dataclasses import replace
from pathlib import Path

from gate import remote
from gate.commands import _init_files, _init_fit, _init_split
from gate.commands._init_asked import answer, found_here
from gate.commands._init_data import Looked
from gate.commands._init_desk import Desk
from gate.commands._init_model import Model, begin, drafted
from gate.commands._init_text import Place, Spec
from gate.errors import UsageError
from gate.wording import plain

NONE, SPLIT = "none", "split"
_CALIBRATION = ("calibration.*", "data/calibration.*", "data/*/calibration.*")


def with_calibration(desk: Desk, spec: Spec, model: Model, looked: Looked) -> Spec:
    """With recipe and calibration data, which may have to be taken from the held-out ones."""
    named, seed = _calibration(desk, model, looked)
    if seed is not None:
        return _taken_apart(desk, _with_recipe(spec, model, calibrated=True), model, looked, seed)
    spec = _with_recipe(spec, model, calibrated=named is not None)
    if named is None or spec.recipe == "dynamic":
        desk.who.tell(f"recipe: {spec.recipe}, without calibration data")
        return spec
    return replace(spec, calibration=Place(desk.path(named)))


def _with_recipe(spec: Spec, model: Model, *, calibrated: bool) -> Spec:
    recipe, why = model.recipe(calibrated=calibrated)
    return replace(spec, recipe=recipe, recipe_why=why)


def _calibration(desk: Desk, model: Model, looked: Looked) -> tuple[str | None, int | None]:
    """The file, or the seed to take the held-out one apart by; neither: none is needed."""
    asked, who = desk.asked, desk.who
    if asked.split is not None:
        return None, asked.split
    named = asked.calibration or found_here(*_CALIBRATION)
    only = "only one file of data is given, and held-out examples must not calibrate"
    if asked.calibration is None and who.asks:
        place = Path(looked.source.path)
        guessed = named or (SPLIT if place.suffix in _init_split.ROOM else None)
        guessed = guessed or (None if model.needs_calibration else NONE)
        question = "calibration data; `split` takes some of the held-out ones, `none` does without"
        if named is None:
            who.tell(only)
        named = answer(who, None, "--calibration", question, guessed)
    elif asked.calibration is None and named is not None:
        who.tell(f"--calibration {plain(named)}, as it lies here")
    if named == SPLIT:
        return None, 0
    if named in (None, NONE):
        if model.needs_calibration:
            raise UsageError(
                f"{only}: name others with --calibration FILE, or let --split 0 (a seed) take some "
                "of these"
            )
        return None, None
    return named, None


def halves(out: Path, name: str, held_out: str) -> dict[Path, str]:
    """Files that one file of data becomes."""
    suffix, folder = Path(held_out).suffix, out.parent / name
    advice = "name it with --calibration"
    return {
        folder / f"calibration{suffix}": advice,
        folder / f"held_out{suffix}": "name it with --data",
    }


def _taken_apart(desk: Desk, spec: Spec, model: Model, looked: Looked, seed: int) -> Spec:
    source = remote.local(looked.source.path, looked.base)
    _init_split.demand_divisible(source)
    both = halves(desk.out, spec.name, source.name)
    _init_files.demand_new(both, force=desk.asked.force)
    run = begin(
        drafted(replace(spec, recipe="dynamic"), desk.out), desk.room("apart"), desk.progress
    )
    taken = _init_split.chosen(_init_fit.alone(run, model), seed)
    _init_split.demand_folder(next(iter(both)).parent)
    for path, rows in zip(both, (taken, ~taken), strict=True):
        _init_split.write(source, looked.columns, rows, path)
    count = int(taken.sum())
    desk.who.tell(
        f"split: {count} of {looked.total} examples for calibration, the others held out; no "
        "content and no unit is in both. Did training see any of them? Then they are not held out"
    )
    calibration, rest = (desk.path(str(path)) for path in both)
    return replace(
        spec,
        calibration=Place(calibration, comment=f"taken from {source.name} with seed {seed}"),
        held_out=Place(rest),
    )
