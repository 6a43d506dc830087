"""`gate demo`: the real stage on bundled real data, as a user would run it."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click

from gate.errors import EXIT_ERROR, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from gate.examples import digits

FEW = """\
version: 1
extends: digits.yaml                  # everything as there, but far fewer held-out examples
judge:
  held_out: {limit: 150}
"""


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


def demo(out: Path | None, *, train: bool) -> int:
    """Set a folder up, run every scene and the history in it; 0 when all went as they must.

    Raises:
        UsageError: the folder exists, or training was asked for without torch.
    """
    folder = out or Path(".gate") / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    _set_up(folder, train=train)
    began = time.monotonic()
    wrong = [scene for scene in SCENES if _play(scene, folder) != scene.expected]
    if _command(["history", "digits-cnn"], folder) != EXIT_PASS or wrong:
        click.echo(f"the demo did not go as it must: {', '.join(s.title for s in wrong)}", err=True)
        return EXIT_ERROR
    click.echo(f"{len(SCENES)} releases gated in {time.monotonic() - began:.0f} s.\n")
    click.echo(NEXT.format(folder=folder, mlflow=_typed("mlflow"), gate=_typed("gate")), nl=False)
    return EXIT_PASS


def _typed(command: str) -> str:
    """What to type for a command: its name where the shell finds it, else where it lies."""
    beside = Path(sys.executable).with_name(command)
    return command if shutil.which(command) or not beside.exists() else str(beside)


def _set_up(folder: Path, *, train: bool) -> None:
    if folder.exists():
        raise UsageError(f"--out {folder} exists already: name a new folder")
    models, policies = folder / "models", folder / "policies"
    models.mkdir(parents=True)
    (policies / "digits").mkdir(parents=True)
    source = digits.policies()
    shutil.copyfile(source / "digits.yaml", policies / "digits.yaml")
    (policies / "digits-few.yaml").write_text(FEW, encoding="utf-8")
    for name in ("calibration.npz", "held_out.npz"):
        shutil.copyfile(source / "digits" / name, policies / "digits" / name)
    if train:
        _train(models)
        return
    for name in digits.MODELS:
        shutil.copyfile(digits.FOLDER / name, models / name)


def _train(models: Path) -> None:
    """The bundled models, trained again on the digits that the bundled data leave over."""
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise UsageError("--train needs torch and onnxscript: pip install 'int8-gate[torch]'")
    from gate.examples.digits import train

    click.echo("training the digits CNN …", err=True)
    began = time.monotonic()
    train.write_models(models)
    click.echo(f"trained and exported in {time.monotonic() - began:.0f} s", err=True)


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
