"""Whether a step's shell runs `gate run` as a command whose exit code is the step's.

No shell is interpreted. What the gate's step may look like is narrow instead: `gate run` begins a
command of its own, and nothing around it decides what its exit code comes to.
"""

import re
from collections.abc import Iterator

from gate.workflows.parts import RUN, Finding, Step
from gate.workflows.read import Node, Workflow

_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_REMARK = re.compile(r"(?m)(?<!\S)#.*$")
_MERGED = re.compile(r"\d?>&\d|&>>?")
_BEGINS = re.compile(
    r"(\w+=\S*\s+)*((exec|time|timeout|nice|env|python[\d.]*|uv|uvx|pipx|poetry|pdm|hatch|pipenv|"
    r"pixi|conda|mamba|micromamba)\s[^|&;()<>`{}!]*)?"
)
_JOINED = re.compile(r"\|\|?|&&?|[;()`]")
_OPENED = re.compile(r"(?m)(?:^|[;&|])[ \t]*(?:if|case)\b")
_CLOSED = re.compile(r"(?m)(?:^|[;&|])[ \t]*(?:fi|esac)\b")
_DROPPED = (
    (re.compile(r"(?<!\S)set[ \t]+(-\S+[ \t]+)*\+(\w*e|o[ \t]+errexit)"), "`set +e`"),
    (re.compile(r"(?<![\w-])trap[ \t]"), "`trap`"),
    (
        re.compile(r"(?<![\w.-])(function[ \t]+gate\b|gate[ \t]*\(\)|alias[ \t]+gate=)"),
        "a `gate` of its own",
    ),
    (re.compile(r"(?<![\w-])exit([ \t]+0+)?[ \t]*(?=$|[;&|)}\n])"), "`exit 0`"),
    (re.compile(r"(?<!<)<<-?[ \t]*[\w\\]"), "a here-document"),
)
_ALWAYS_RUN = re.compile(r"\s*(\$\{\{)?\s*(always\(\)|success\(\)|!\s*cancelled\(\))\s*(\}\})?\s*")
_STRICT = re.compile(r"(\S*/)?(bash|sh)\b.*\s(-\w*e\w*|-o\s+errexit)\b.*\{0\}")


def forgiven(workflow: Workflow, job: Node, step: Step) -> Iterator[Finding]:
    """Where a step that runs the gate may be skipped, or be green where the gate is red.

    Args:
        workflow: that has the job.
        job: that has the step.
        step: any; nothing is found in one that does not gate.
    """
    if not step.gates:
        return
    condition = step.node.at("if")
    if condition is not None and may_skip(step):
        yield (
            condition.key or condition.mark,
            f"a step that is skipped passes, so the gate of job {step.job} may never run; delete "
            "this `if`, or write it at the job, which a verdict looks at",
        )
    script = step.node.at("run")
    if script is None or not RUN.search(step.script):
        return
    yield from _shells(workflow, job, step)
    wrong = _wrong(step.script)
    if wrong is not None:
        yield (
            script.mark,
            f"job {step.job} drops the exit code of `gate run`, or may not run it ({wrong}); write "
            "it as a command of its own, on a line that it begins, and delete what stands around",
        )


def may_skip(step: Step) -> bool:
    """Whether a step has an `if` that may not hold, other than one on how other jobs ended."""
    condition = step.node.word("if")
    told = not condition or _ALWAYS_RUN.fullmatch(condition) or "'success'" in condition
    return not told


def _shells(workflow: Workflow, job: Node, step: Step) -> Iterator[Finding]:
    """The shell that counts; a template of one's own may go on after a failure."""
    asked = (
        step.node.at("shell"),
        job.at("defaults", "run", "shell"),
        workflow.root.at("defaults", "run", "shell"),
    )
    shell = next((one for one in asked if one is not None), None)
    if shell is not None and "{0}" in shell.text and not _STRICT.fullmatch(shell.text):
        yield (
            shell.mark,
            f"`{shell.text}` goes on after a command that fails; write `bash`",
        )


def _wrong(script: str) -> str | None:
    """What takes the exit code away; None where nothing does."""
    bare = _QUOTED.sub("x", _REMARK.sub("", script))
    dropped = next((what for pattern, what in _DROPPED if pattern.search(bare)), None)
    if dropped is not None:
        return dropped
    runs = list(RUN.finditer(bare))
    if not runs:
        return "it stands in quotes or in a remark"
    return next((why for run in runs if (why := _around(bare, run.start(), run.end()))), None)


def _around(bare: str, start: int, end: int) -> str | None:
    """What stands before or after it on its line, or what it stands in."""
    begin = bare.rfind("\n", 0, start) + 1
    before, after = bare[begin:start].strip(), bare[end:].partition("\n")[0]
    if before and not _BEGINS.fullmatch(f"{before} "):
        return f"`{before}` before it"
    found = _JOINED.search(_MERGED.sub("", after))
    if found is not None:
        return f"`{found[0]}` after it"
    above = bare[:begin]
    if len(_OPENED.findall(above)) > len(_CLOSED.findall(above)):
        return "it stands in an `if` or a `case`"
    return None
