"""`gate demo`: the real stage on bundled real data, as a user would run it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import click
from rich.console import Console
from rich.table import Table

from gate import examples, story, wording
from gate.commands._told import say
from gate.commands.report import load_record
from gate.errors import EXIT_ERROR, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from gate.examples import digits, languages, scenes
from gate.records import GateRecord

_WIDTH = 120
"""Of the table, at the least."""
FEW = """\
version: 1
extends: digits.yaml                  # everything as there, but far fewer held-out examples
judge:
  held_out: {limit: 150}
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model, and its bundled example."""

    title: str
    key: str
    """Of its policy and data."""
    model: str
    """As the policy names it."""
    package: ModuleType
    trained_with: tuple[str, ...] = ("torch", "onnxscript", "sklearn")
    """Modules that only training needs."""


FAMILIES = (
    Family("image classification", "digits", "digits-cnn", digits),
    Family("object detection", "scenes", "digits-detector", scenes),
    Family(
        "text classification",
        "languages",
        "language-of-names",
        languages,
        trained_with=("torch", "onnxscript", "babel"),
    ),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A release, and how the gate must answer."""

    title: str
    candidate: str
    policy: str
    expected: int


SCENES = (
    Scene("a good release", "cnn.onnx", "digits.yaml", EXIT_PASS),
    Scene(
        "a retrained one: FP32 as good, but its channels differ 300-fold in range",
        "wide-range.onnx",
        "digits.yaml",
        EXIT_FAIL,
    ),
    Scene(
        "the good one again, with 150 held-out examples: too little evidence",
        "cnn.onnx",
        "digits-few.yaml",
        EXIT_INCONCLUSIVE,
    ),
    Scene(
        "one exported with its layers inside an If: quantizers say 'done' and quantize nothing",
        "subgraph.onnx",
        "digits.yaml",
        EXIT_ERROR,
    ),
)

NEXT = """\
That was real: {folder} holds the policies, the records and the MLflow store.
  look at it:       cd {folder} && {mlflow} ui --backend-store-uri sqlite:///mlflow.db
  read a policy:    {folder}/policies/digits.yaml
For your own model, copy that policy, name your data in it (an .npz or .parquet with one column per
model input, and `target`), write the accuracy that training reported into expect_fp32, then:
  {gate} check my-policy.yaml
  {gate} run my-policy.yaml --candidate my-model.onnx; echo $?
"""


def demo(out: Path | None, *, train: bool, every: bool = False) -> int:
    """Set a folder up and run every scene and the history in it, or every kind of model.

    0 when all went as they must.

    Raises:
        UsageError: the folder exists, or training was asked for without torch.
    """
    folder = out or Path(".gate") / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if folder.exists():
        raise UsageError(f"--out {folder} exists already: name a new folder")
    families = FAMILIES if every else FAMILIES[:1]
    if train:
        _demand_trainers(families)
    for family in families:
        _set_up(family, folder, train=train)
    began = time.monotonic()
    code = play_all(folder) if every else _digits(folder)
    seconds = time.monotonic() - began
    if code != EXIT_PASS:
        return code
    click.echo(f"{len(FAMILIES if every else SCENES)} releases gated in {seconds:.0f} s.\n")
    click.echo(NEXT.format(folder=folder, mlflow=_typed("mlflow"), gate=_typed("gate")), nl=False)
    return EXIT_PASS


def _digits(folder: Path) -> int:
    wrong = [scene for scene in SCENES if _play(scene, folder) != scene.expected]
    if _command(["history", "digits-cnn"], folder) != EXIT_PASS or wrong:
        click.echo(f"the demo did not go as it must: {', '.join(s.title for s in wrong)}", err=True)
        return EXIT_ERROR
    return EXIT_PASS


def _typed(command: str) -> str:
    """What to type for a command: its name where the shell finds it, else where it lies."""
    beside = Path(sys.executable).with_name(command)
    return command if shutil.which(command) or not beside.exists() else str(beside)


def _set_up(family: Family, folder: Path, *, train: bool) -> None:
    models, policies = folder / "models", folder / "policies"
    models.mkdir(parents=True, exist_ok=True)
    key = family.key
    shutil.copytree(examples.policies() / key, policies / key)
    shutil.copyfile(examples.policies() / f"{key}.yaml", policies / f"{key}.yaml")
    if family is FAMILIES[0]:
        (policies / "digits-few.yaml").write_text(FEW, encoding="utf-8")
    if train:
        _train(family, models)
        return
    for name in family.package.MODELS:
        shutil.copyfile(family.package.FOLDER / name, models / name)


def _demand_trainers(families: Sequence[Family]) -> None:
    needed = dict.fromkeys(module for family in families for module in family.trained_with)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--train needs {', '.join(missing)}: pip install 'int8-gate[torch,train]'"
        )


def _train(family: Family, models: Path) -> None:
    """The bundled models, trained again on what the bundled data leave over."""
    say(f"training the model of {family.key} …")
    began = time.monotonic()
    import_module(f"{family.package.__name__}.train").write_models(models)
    say(f"trained and exported in {time.monotonic() - began:.0f} s")


# ── every kind of model ───────────────────────────────────────────────────────────────────


def play_all(folder: Path) -> int:
    """Gate one release of each family, and show them beside each other."""
    codes = [
        _play(
            Scene(family.title, family.package.MODELS[0], f"{family.key}.yaml", EXIT_PASS), folder
        )
        for family in FAMILIES
    ]
    records = [_record(folder, family) for family in FAMILIES]
    console = Console(file=sys.stdout, highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(_table([one for one in records if one is not None]))
    if any(codes) or None in records:
        click.echo(f"the demo did not go as it must: exit codes {codes}", err=True)
        return EXIT_ERROR
    return EXIT_PASS


def _record(folder: Path, family: Family) -> GateRecord | None:
    runs = sorted((folder / ".gate" / family.model).glob("*/record.json"))
    return load_record(runs[-1]) if runs else None


def _table(records: Sequence[GateRecord]) -> Table:
    """A line for each kind of model, by the first budget of its policy."""
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("Model type", "FP32", "INT8", "Degradation [90 % interval]", "Budget", "Outcome"):
        table.add_column(title)
    titles = {family.model: family.title for family in FAMILIES}
    for record in records:
        case = story.cases(record)[0]
        comparison = case.finding.comparison
        assert comparison is not None
        fp32, int8 = wording.both_values(comparison)
        change = wording.measured_text(comparison, case.quantity, case.unit)
        table.add_row(titles[record.model], fp32, int8, change, case.name, case.finding.outcome)
    return table


def _play(scene: Scene, folder: Path) -> int:
    click.secho(f"# {scene.title}", bold=True)
    return _command(
        [
            "run",
            f"policies/{scene.policy}",
            "--candidate",
            f"models/{scene.candidate}",
            "--stage",
            "release",
        ],
        folder,
    )


def _command(arguments: list[str], folder: Path) -> int:
    """Run `gate` in `folder` as a process of its own, showing the command and its exit code."""
    click.secho(f"$ gate {' '.join(arguments)}", fg="cyan")
    sys.stdout.flush()
    code = subprocess.run(  # noqa: S603 - our own interpreter and our own arguments
        [sys.executable, "-m", "gate", *arguments], cwd=folder, check=False
    ).returncode
    click.secho(f"exit code {code}\n", fg="green" if code == EXIT_PASS else "yellow")
    return code
