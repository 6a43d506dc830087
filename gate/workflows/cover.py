"""Which policies a workflow gates: every one of the repository has to be among them."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gate.errors import PolicyError
from gate.strict_yaml import load as load_yaml
from gate.workflows.parts import OWN, Finding, stands_apart
from gate.workflows.read import Node, Workflow

_SUFFIXES = (".yaml", ".yml")
_WORDS = re.compile(r"[\s'\",;()]+")


def policies_below(root: Path) -> list[Path]:
    """The policies in `policies/`, as paths from `root`: YAML files that name a model.

    Files without one are there to be extended. A file that is not YAML counts as a policy, because
    somebody may have meant it as one.
    """
    files = sorted(path for path in (root / "policies").rglob("*") if path.suffix in _SUFFIXES)
    return [path.relative_to(root) for path in files if path.is_file() and _names_a_model(path)]


def _names_a_model(path: Path) -> bool:
    try:
        return load_yaml(path).exists("model")
    except PolicyError:
        return True


def uncovered(
    workflows: Sequence[Workflow], policies: Sequence[Path], root: Path
) -> Iterator[Finding]:
    """Policies that no pattern of these workflows matches, and patterns that match nothing.

    Args:
        workflows: those that gate, at least one.
        policies: paths from `root`.
        root: the repository.
    """
    patterns = list(_patterns(workflows))
    begin = patterns[0][0].mark if patterns else workflows[0].root.mark
    gated: set[str] = set()
    for node, pattern in patterns:
        matched = glob.glob(pattern, root_dir=root, recursive=True)
        gated |= {Path(path).as_posix() for path in matched}
        if not matched and pattern.startswith("policies/") and policies:
            yield node.mark, f"{pattern} matches no file; write a pattern that finds your policies"
    for policy in policies:
        if policy.as_posix() not in gated:
            yield (
                begin,
                f"{policy.as_posix()} is gated nowhere; write it here, or a pattern such as "
                f"{policy.parent.as_posix()}/*{policy.suffix}",
            )


def _patterns(workflows: Sequence[Workflow]) -> Iterator[tuple[Node, str]]:
    """Whatever reads like the path of a policy, in values that jobs and callers give."""
    seen: set[str] = set()
    for node in _places(workflows):
        lines = [line.strip() for line in node.text.splitlines()]
        lines = [line for line in lines if not line.startswith("#")]
        for text in (*lines, *(word for line in lines for word in _WORDS.split(line))):
            if text.endswith(_SUFFIXES) and _is_path(text) and text not in seen:
                seen.add(text)
                yield node, text


def _is_path(text: str) -> bool:
    return not text.startswith((".github/", *OWN, "/", "-")) and "${{" not in text


def _places(workflows: Sequence[Workflow]) -> Iterator[Node]:
    """Scalars of jobs, of `env`, and the defaults of what a caller leaves out."""
    callable_ = {workflow.file.name: workflow for workflow in workflows}
    for workflow in workflows:
        env = workflow.root.at("env")
        jobs = [job for name, job in workflow.jobs.items() if not stands_apart(name, job)]
        for part in (*jobs, *([env] if env else [])):
            yield from (node for node in part.walk() if node.text)
        for job in workflow.jobs.values():
            called = callable_.get(PurePosixPath(job.word("uses")).name)
            if called is not None and job.at("with", "policies") is None:
                default = called.root.at("on", "workflow_call", "inputs", "policies", "default")
                yield from [default] if default else []
