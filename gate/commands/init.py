"""`gate init`: look at a model and its data, and write the policy that they can be judged by."""

import glob
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gate import policy, remote, tasks
from gate.commands import _init_budgets, _init_files, _init_fit
from gate.commands._init_asked import Asked, Dialogue, answer, expected, found_here, yaml_of
from gate.commands._init_build import with_inputs, with_task
from gate.commands._init_calibration import NONE, SPLIT, halves, with_calibration
from gate.commands._init_data import look, remarks
from gate.commands._init_desk import Desk
from gate.commands._init_expect import expectation
from gate.commands._init_fit import Opened
from gate.commands._init_model import Model, begin, bring, drafted
from gate.commands._init_text import Line, Place, Spec, compose
from gate.errors import UsageError
from gate.judgeable import unsupported
from gate.preflight import preflight
from gate.progress import Progress
from gate.sources import DataSource
from gate.wording import plain, plural

POLICIES = Path("policies")
WORKFLOW = Path(".github/workflows/gate.yml")
_MODELS = ("*.onnx", "models/*.onnx", "*.pt2", "models/*.pt2")
_HELD_OUT = ("held_out.*", "data/held_out.*", "data/*/held_out.*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DRAFT = (Line({"metric": "size", "max_ratio": 1.0}, ""),)
"""A policy has a budget; this one is asked for while it is not known which."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was done."""

    policy: Path
    told: str
    """What was written and what comes next, for stdout."""


def init(asked: Asked, who: Dialogue, progress: Progress) -> Written:
    """Write a policy that passes `gate check`, and that `gate run` can decide.

    Args:
        asked: what the flags say.
        who: answers the rest, and hears what was guessed and why.
        progress: told of each step.

    Raises:
        UsageError: a file is there already, or something is missing that cannot be guessed.
        GateError: model and data cannot be judged; as `gate run` would say it.
    """
    _demand_known(asked)
    question = "the FP32 model: an ONNX file, or models:/name/version"
    named = answer(who, asked.model, "--model", question, found_here(*_MODELS))
    question = "the held-out data, which neither training nor calibration saw (npz, Parquet, …)"
    held_out = answer(who, asked.data, "--data", question, found_here(*_HELD_OUT))
    for flag, given, value in (("model", asked.model, named), ("data", asked.data, held_out)):
        if given is None and not who.asks:
            who.tell(f"--{flag} {plain(value)}, as it lies here")
    name = _name(asked, who, named)
    out = asked.out or POLICIES / f"{name}.yaml"
    _demand_place(asked, out)
    with (
        tempfile.TemporaryDirectory(prefix="gate-init-") as scratch,
        _init_files.folder(out.parent),
    ):
        desk = Desk(asked, who, progress, Path(scratch), named, out)
        both = halves(out, name, held_out)
        with _init_files.removed_on_failure(both):
            spec, notes = _specified(desk, name, held_out)
            text = compose(spec)
            preflight(drafted(spec, out), unsupported=unsupported)
            note = _init_files.write_schema(out, force=asked.force)
            _init_files.write(text, out)
    for told in (*notes, *([note] if note else [])):
        who.tell(told)
    return Written(out, _told(desk, spec))


def _demand_known(asked: Asked) -> None:
    if asked.task is not None:
        tasks.get(asked.task)
    expected(asked.expect)
    for flag, text in (("--preprocess", asked.preprocess), ("--decode", asked.decode)):
        if text is not None:
            yaml_of(flag, text)
    if asked.split is not None and asked.calibration is not None:
        raise UsageError(
            "--split makes calibration data, and --calibration names some: give one of them"
        )
    for flag, value in (("--model", asked.model), ("--calibration", asked.calibration)):
        if value and not value.startswith(policy.MODEL_URIS) and not remote.is_uri(value):
            _demand_there(flag, value)
    if asked.data and not remote.is_uri(asked.data):
        _demand_there("--data", asked.data)


def _demand_there(flag: str, named: str) -> None:
    if named not in (NONE, SPLIT) and not Path(named).exists():
        raise UsageError(f"{flag} {plain(named)} does not exist (looked in {Path.cwd()})")


def _name(asked: Asked, who: Dialogue, named: str) -> str:
    stem = Path(named).stem
    if named.startswith("models:/"):
        stem = re.split("[/@]", named.removeprefix("models:/"))[0]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    question = "the registered model's name, under which its history is kept"
    name = answer(who, asked.name, "--name", question, slug or None)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {plain(name)}: a model's name begins with a letter or digit and has letters, "
            f"digits, `.`, `_` and `-`, 100 at the most; {slug or 'my-model'} would be one"
        )
    return name


def _demand_place(asked: Asked, out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--out {plain(out)}: a policy's name ends in .yaml")
    places = {out: "write elsewhere with --out"}
    if asked.workflow:
        _init_files.demand_new({WORKFLOW: "leave --workflow out"}, force=asked.force)
        if not out.resolve().is_relative_to(Path.cwd().resolve()):
            raise UsageError(f"--workflow gates what lies below {Path.cwd()}, and --out does not")
    _init_files.demand_new(places, force=asked.force)


# ── what is judged ────────────────────────────────────────────────────────────────────────


def _specified(desk: Desk, name: str, held_out: str) -> tuple[Spec, tuple[str, ...]]:
    """The policy, and what somebody should hear of it."""
    given = desk.asked.preprocess
    steps = None if given is None else yaml_of("--preprocess", given)
    spec = Spec(
        name=name,
        task=desk.asked.task or "classification",
        task_why="as asked",
        candidate=desk.path(desk.named),
        recipe="dynamic",
        recipe_why="",
        held_out=Place(desk.path(held_out)),
        preprocess=steps,
        budgets=_DRAFT,
    )
    run = begin(drafted(spec, desk.out), desk.room("model"), desk.progress)
    model = bring(run, desk.named, trust=desk.asked.trust)
    desk.who.tell(f"model: {model.described()}")
    source = DataSource(path=spec.held_out.path)
    looked = look(source, desk.out.parent, desk.room("columns"))
    desk.who.tell(f"data: {looked.described()}")
    spec, text = with_inputs(desk, spec, model, looked)
    spec, found = with_task(desk, spec, model, looked, text=text)
    spec = with_calibration(desk, spec, model, looked)
    return _with_judge(desk, spec, model, found)


# ── what it must meet ─────────────────────────────────────────────────────────────────────


def _with_judge(
    desk: Desk, spec: Spec, model: Model, decoders: list[Any]
) -> tuple[Spec, tuple[str, ...]]:
    given = expected(desk.asked.expect)
    loaded = drafted(replace(spec, decode=decoders[0]), desk.out)
    found: Opened = _init_fit.opened(begin(loaded, desk.room("run"), desk.progress), model)
    task, decoder = _init_fit.bound(found, spec, decoders)
    fitted = _init_fit.measured(found, task, given or ())
    int8 = _init_fit.quantized(found)
    budgets = _init_budgets.propose(fitted, int8, model.candidate.bytes, spec.task)
    expect = expectation(desk.who, fitted, budgets.main, given, asked=bool(desk.asked.expect))
    calibration = found.splits.get("calibration")
    final = replace(
        spec,
        decode=None if decoder == "logits" else decoder,
        decode_why=spec.decode_why or "how outputs become predictions",
        held_out=replace(
            spec.held_out, sha256=found.pin("held_out"), comment=remarks(found.held_out)
        ),
        calibration=None
        if spec.calibration is None or calibration is None
        else replace(
            spec.calibration,
            sha256=found.pin("calibration"),
            comment=spec.calibration.comment or plural(len(calibration), "example"),
        ),
        expect=expect.metrics,
        within=expect.within,
        expect_why=expect.why,
        budgets=budgets.lines,
    )
    return final, (*budgets.notes, *expect.notes)


# ── what comes next ───────────────────────────────────────────────────────────────────────


def _told(desk: Desk, spec: Spec) -> str:
    trust = ["--trust"] if desk.asked.trust else []
    out = str(desk.out)
    lines = [
        f"{plain(out)}: {plural(len(spec.budgets), 'budget')} for {spec.name}, {spec.task}",
        "next:",
        f"  {_init_files.command('gate', 'check', out)}",
        f"  {_init_files.command('gate', 'run', out, *trust)}",
    ]
    return "\n".join(lines)


def workflow(written: Written, *, force: bool) -> str:
    """The workflow that gates the policy and those beside it; what to tell.

    Raises:
        UsageError, PolicyError: as `gate workflow init`.
    """
    from gate.commands.workflow import init as write

    folder = os.path.relpath(written.policy.parent.resolve(), Path.cwd().resolve())
    pattern = Path(glob.escape(folder), f"*{written.policy.suffix}").as_posix()
    return write(pattern, WORKFLOW, force=force)
