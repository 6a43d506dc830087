"""Runs the steps of an action or a job as GitHub's runner does, with commands that only pretend.

A step's script runs under `bash --noprofile --norc -eo pipefail`, in a workspace of its own, with
temporary GITHUB_* files. What a step `uses` is written down and not run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from support.expressions import condition, substituted

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "gate"
WORKFLOWS = ROOT / ".github" / "workflows"
HOSTILE = {
    "spaces": "policies/two words.yaml",
    "quotes": 'policies/it\'s "quoted".yaml',
    "substitution": "policies/$(touch pwned)`touch pwned`.yaml",
    "command": "x; touch pwned; #",
    "expression": "${{ github.token }} $HOME ${PATH}",
    "newline": "policies/a\ntouch pwned\n::set-output name=outcome::pass",
    "heredoc": "x\noutcome=pass\nEOF\noutcome<<EOF\npass\nEOF",
    "dashes": "--help",
    "emoji": "模型 🚀 é",
    "long": "n" * 300,
    "glob": "*",
    "backslash": "a\\nb\\",
}
_RECORDER = """\
import json, os, pathlib, sys
name, log = pathlib.Path(sys.argv[0]).name, pathlib.Path(os.environ["HARNESS_LOG"])
with log.open("a", encoding="utf-8") as stream:
    stream.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
"""


@dataclass
class Ran:
    """What became of a job or an action."""

    status: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    """Outputs of the steps that have an id."""
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """What steps used, and with what."""
    exit_codes: list[int] = field(default_factory=list)
    """Of the steps that ran a script."""
    log: str = ""
    """Standard output and error of all steps."""


class Runner:
    """A workspace, and the commands that are found in it."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.bin = folder / "bin"
        self.temp = folder / "temp"
        self.calls_file = folder / "calls"
        self.files = folder / "files"
        for made in (self.workspace, self.bin, self.temp, self.files):
            made.mkdir(parents=True)
        self.command(
            "python",
            "if sys.argv[1:3] == ['-m', 'pip']: sys.exit(0)\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        )

    def command(self, name: str, body: str) -> None:
        """A command that writes its arguments down, and then does what `body` says in Python."""
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{_RECORDER}{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def real_gate(self) -> None:
        """`gate` as it is."""
        self.command(
            "gate", "os.execv(sys.executable, [sys.executable, '-m', 'gate', *sys.argv[1:]])"
        )

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of a command, in order."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text(encoding="utf-8").splitlines()
        return [found[1:] for line in lines if (found := json.loads(line))[0] == name]

    @property
    def pwned(self) -> bool:
        """Whether a hostile value was run."""
        return any(path.name == "pwned" for path in self.workspace.parent.rglob("*"))

    def action(self, inputs: Mapping[str, str], folder: Path = ACTION) -> Ran:
        """Run a composite action."""
        action = yaml.safe_load((folder / "action.yml").read_text(encoding="utf-8"))
        declared = action["inputs"]
        assert inputs.keys() <= declared.keys()
        assert {name for name, one in declared.items() if one.get("required")} <= inputs.keys()
        values = {name: one.get("default", "") for name, one in declared.items()} | dict(inputs)
        contexts = {"inputs": values, "runner": {"temp": str(self.temp)}}
        ran = self._steps(action["runs"]["steps"], contexts, {"GITHUB_ACTION_PATH": str(folder)})
        contexts["steps"] = {name: {"outputs": found} for name, found in ran.steps.items()}
        for name, output in action["outputs"].items():
            ran.outputs[name] = substituted(output["value"], contexts)
        return ran

    def job(self, workflow: dict[str, Any], name: str, contexts: Mapping[str, Any]) -> Ran:
        """Run a job of a workflow, whose `if` is told to be true, once for `matrix`."""
        job = workflow["jobs"][name]
        known = {"runner": {"temp": str(self.temp)}, "github": {}, "matrix": {}, "needs": {}}
        known |= {"inputs": {}, **contexts}
        env = {key: substituted(value, known) for key, value in job.get("env", {}).items()}
        ran = self._steps(job["steps"], known, env)
        known["steps"] = {key: {"outputs": found} for key, found in ran.steps.items()}
        for key, value in job.get("outputs", {}).items():
            ran.outputs[key] = substituted(value, known)
        return ran

    def _steps(
        self, steps: list[dict[str, Any]], contexts: Mapping[str, Any], env: Mapping[str, str]
    ) -> Ran:
        ran = Ran()
        for number, step in enumerate(steps):
            known = {name: {"outputs": found} for name, found in ran.steps.items()}
            seen = {**contexts, "steps": known}
            if not condition(step.get("if"), seen, ran.status):
                continue
            if "uses" in step:
                ran.used.append((step["uses"], substituted(step.get("with", {}), seen)))
                continue
            given = {**env, **substituted(step.get("env", {}), seen)}
            code, outputs, told = self._script(number, step["run"], given)
            ran.log += told
            ran.exit_codes.append(code)
            ran.status = ran.status if code == 0 else "failure"
            if "id" in step:
                ran.steps[step["id"]] = outputs
        return ran

    def _script(
        self, number: int, script: str, env: Mapping[str, str]
    ) -> tuple[int, dict[str, str], str]:
        assert "${{" not in script, "an expression would become part of the script"
        place = self.files / str(len(list(self.files.iterdir())))
        place.mkdir()
        (place / "script.sh").write_text(script, encoding="utf-8")
        outputs = place / "output"
        outputs.touch()
        surroundings = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.temp),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "HARNESS_LOG": str(self.calls_file),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(place / "script.sh")],
            cwd=self.workspace,
            env={**surroundings, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, parsed(outputs.read_text(encoding="utf-8")), done.stdout

    @property
    def summary(self) -> str:
        """What all steps wrote into the job's summary."""
        return "".join(path.read_text() for path in sorted(self.files.glob("*/summary.md")))


def parsed(text: str) -> dict[str, str]:
    """GITHUB_OUTPUT as the runner reads it: `name=value`, or a value up to its delimiter."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, equals, value = line.partition("=")
        begun, heredoc, delimiter = line.partition("<<")
        if heredoc and (not equals or len(begun) < len(name)):
            value_lines = []
            for inner in lines:
                if inner == delimiter:
                    break
                value_lines.append(inner)
            else:
                raise AssertionError(f"no {delimiter} ends the value of {begun}")
            found[begun] = "\n".join(value_lines)
        elif equals:
            found[name] = value
        elif line:
            raise AssertionError(f"the runner refuses {line!r}")
    return found
