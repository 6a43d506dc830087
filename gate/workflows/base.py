"""Whose policy a job that gates a pull request goes by: the base's, or the change's own."""

import re

from gate.workflows.parts import RUN, Step
from gate.workflows.read import Node, Workflow
from gate.workflows.safety import normal

_ASKED = re.compile(
    r"--(judge-from|changed-since)(?:[ \t]*=[ \t]*|[ \t]+)(\"[^\"]*\"|'[^']*'|[^\s)]+)"
)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_CONTEXT = re.compile(r"(?<![\w.-])github\.[\w.-]+")
_BASE = re.compile(
    r"github\.(base_ref|event\.(pull_request\.base\.(sha|ref)|merge_group\.base_(sha|ref)|before|"
    r"repository\.default_branch|inputs\.[\w-]+))"
)
_CHANGE = re.compile(
    r"github\.(sha|ref|ref_name|head_ref|event\.(pull_request\.(head|merge_commit_sha)|merge_group"
    r"\.head_(sha|ref)|after)(\.[\w.-]+)?)"
)
_ITSELF = ("", "HEAD", "@")


def is_own(workflow: Workflow, job: Node, step: Step) -> bool:
    """Whether a step that gates takes `judge` from the change, or from nowhere.

    A revision that the script itself works out, or that a caller gives, is taken on trust.
    """
    if not RUN.search(step.script):
        again = "--judge-from" in step.node.word("with", "arguments")
        return again or _is_change(step.node.word("with", "judge-from"))
    asked = _asked(workflow, job, step, "judge-from")
    return not asked or any(map(_is_change, asked))


def is_blind(workflow: Workflow, job: Node, step: Step) -> bool:
    """Whether a step asks what has changed since the change itself: nothing has, ever."""
    given = step.node.word("with", "changed-since") if step.gates else ""
    asked = _asked(workflow, job, step, "changed-since")
    return any(map(_is_change, [*asked, *([given] if given else [])]))


def _asked(workflow: Workflow, job: Node, step: Step, option: str) -> list[str]:
    found = [value.strip("\"'") for name, value in _ASKED.findall(step.script) if name == option]
    return [_value(workflow, job, step, one) for one in found]


def _value(workflow: Workflow, job: Node, step: Step, text: str) -> str:
    """What a variable is set to, where `env` says so."""
    named = _VARIABLE.fullmatch(text)
    if named is None:
        return text
    places = (part.at("env", named[1]) for part in (step.node, job, workflow.root))
    found = next((one for one in places if one is not None), None)
    return text if found is None else found.text


def _is_change(value: str) -> bool:
    """Empty, HEAD, or an expression that is: a misspelled one is empty, too."""
    if value.strip() in _ITSELF:
        return True
    named = [
        context
        for expression in _EXPRESSION.findall(value)
        for context in _CONTEXT.findall(normal(expression))
    ]
    if any(_CHANGE.fullmatch(one) for one in named):
        return True
    return bool(named) and not any(_BASE.fullmatch(one) for one in named)
