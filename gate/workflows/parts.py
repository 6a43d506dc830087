"""The parts of a workflow that matter to a gate: steps, what runs in them, which jobs gate."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gate.errors import Mark
from gate.workflows.read import Node, Workflow

Finding = tuple[Mark, str]
"""Where, and what is wrong with what to write."""

OWN = ("./", "$/")
"""How a workflow names files of its own repository."""
RUN = re.compile(r"(?<![\w./-])gate[ \t]+run\b")
_COMMAND = re.compile(r"(?<![\w./-])gate[ \t]+(run|workflow|comment|check|promote|recover|judge)\b")
_DIFF = re.compile(r"(?<![\w./-])gate[ \t]+policy[ \t]+diff\b")
_ACTION = re.compile(r"(^|/)actions/gate(@|$)")
_CALLED = re.compile(r"/\.github/workflows/gate\.ya?ml(@|$)")
_COMMENT = re.compile(r"(?m)^[ \t]*#.*$")


@dataclass(frozen=True, slots=True)
class Step:
    """A step, and the job it is in; an action's steps are in none."""

    job: str
    node: Node

    @property
    def uses(self) -> str:
        """The action that it uses; empty where it runs a script."""
        return self.node.word("uses")

    @property
    def script(self) -> str:
        """What its shell runs, without lines that are comments."""
        return _COMMENT.sub("", self.node.word("run")).replace("\\\n", " ")

    @property
    def gates(self) -> bool:
        """Whether it runs the gate."""
        return bool(RUN.search(self.script) or _ACTION.search(self.uses))


def steps(workflow: Workflow) -> Iterator[Step]:
    """Every step of a workflow's jobs, or of a composite action."""
    for name, job in workflow.jobs.items():
        yield from steps_of(name, job)
    yield from (Step("", node) for node in _list(workflow.root.at("runs", "steps")))


def steps_of(name: str, job: Node) -> Iterator[Step]:
    """A job's steps."""
    return (Step(name, node) for node in _list(job.at("steps")))


def uses(workflow: Workflow) -> Iterator[Node]:
    """What every job and step names under `uses`."""
    nodes = [job.at("uses") for job in workflow.jobs.values()]
    nodes += [step.node.at("uses") for step in steps(workflow)]
    return (node for node in nodes if node is not None)


def gating_jobs(workflow: Workflow, local: Collection[str] = ()) -> dict[str, Node]:
    """The jobs that run the gate.

    Args:
        workflow: any.
        local: names of files of this repository that gate when they are called.
    """
    return {name: job for name, job in workflow.jobs.items() if _gates(name, job, local)}


def _gates(name: str, job: Node, local: Collection[str]) -> bool:
    called = job.word("uses")
    if called.startswith(OWN):
        return PurePosixPath(called).name in local
    return bool(_CALLED.search(called)) or any(step.gates for step in steps_of(name, job))


def stands_apart(name: str, job: Node) -> bool:
    """Whether a job gates nothing, and only tells what policies let through.

    It is red until their owners merge that, so no verdict waits for it.
    """
    asked = list(steps_of(name, job))
    told = any(_DIFF.search(step.script) for step in asked)
    return told and not any(step.gates for step in asked)


def gating_files(workflows: Sequence[Workflow]) -> set[str]:
    """Names of the files that gate, by themselves or by calling one that does."""
    found: set[str] = set()
    while True:
        more = {one.file.name for one in workflows if gating_jobs(one, found)}
        if more <= found:
            return found
        found |= more


def concerns(workflow: Workflow) -> bool:
    """Whether any step runs a command of the gate."""
    return any(step.gates or _COMMAND.search(step.script) for step in steps(workflow))


def _list(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []
