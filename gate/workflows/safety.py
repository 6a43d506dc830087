"""What no workflow near the gate may do: be unpinned, hold rights, or run what strangers write."""

import re
from collections.abc import Iterator

from gate.workflows.parts import Finding, Step, gating_jobs, steps, uses
from gate.workflows.read import Node, Workflow

_PINNED = re.compile(
    r"[.$]/\S+|docker://\S+@sha256:[0-9a-f]{64}|[^/\s@]+/[^\s@]+@[0-9a-f]{40}", re.ASCII
)
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_UNTRUSTED = re.compile(
    r"(?<![\w.-])(github(\.(event|head_ref|base_ref|ref|ref_name|actor|triggering_actor|workflow)"
    r"(?![\w-])|(?!\.))|(inputs|matrix|needs|steps|env|vars)(?![\w-]))"
)
_ALLOWED_IN_GATE = {"id-token", "attestations"}


def unsafe(workflow: Workflow) -> Iterator[Finding]:
    """Everything of this kind that is wrong with one file; nothing for a composite action's rights.

    Findings are in no order.
    """
    yield from _rights(workflow)
    yield from _pins(workflow)
    for step in steps(workflow):
        yield from _interpolations(workflow, step)
        yield from _credentials(step)


# ── rights ────────────────────────────────────────────────────────────────────────────────


def _rights(workflow: Workflow) -> Iterator[Finding]:
    if not workflow.jobs:
        return
    top = workflow.root.at("permissions")
    if top is None:
        yield (
            workflow.root.mark,
            "no `permissions:` for the whole workflow, so every job gets what the repository's "
            "settings say; write `permissions: {}` here, and in each job what it needs",
        )
    else:
        yield from _granted(top, "the whole workflow", "write `permissions: {}`, and grant in jobs")
    for name, job in workflow.jobs.items():
        yield from _granted_job(name, job, gates=name in gating_jobs(workflow))


def _granted(node: Node, whose: str, advice: str) -> Iterator[Finding]:
    """Write rights of a mapping, or all rights in one word."""
    if node.text:
        yield node.mark, f"`{node.text}` for {whose} is more than any job needs; {advice}"
    for right, access in node.entries.items():
        if access.text == "write":
            yield access.mark, f"{whose} may write {right}; {advice}"


def _granted_job(name: str, job: Node, *, gates: bool) -> Iterator[Finding]:
    granted = job.at("permissions")
    if granted is None:
        return
    if granted.text:
        yield granted.mark, f"`{granted.text}` for job {name} is too much; list what it needs"
    for right, access in granted.entries.items():
        if gates and access.text == "write" and right not in _ALLOWED_IN_GATE:
            yield (
                access.mark,
                f"job {name} runs the change's own models and may write {right}; write "
                f"`{right}: read` or delete it, and do what needs it in another job",
            )


# ── pins ──────────────────────────────────────────────────────────────────────────────────


def _pins(workflow: Workflow) -> Iterator[Finding]:
    for node in uses(workflow):
        if not _PINNED.fullmatch(node.text):
            name = node.text.partition("@")[0]
            yield (
                node.mark,
                f"{node.text!r} is not pinned: a tag can be moved to other code; write "
                f"`{name}@` with the 40 hex digits of a commit, and its version in a comment",
            )


def _credentials(step: Step) -> Iterator[Finding]:
    if not step.uses.startswith("actions/checkout@"):
        return
    if step.node.word("with", "persist-credentials") != "false":
        at = step.node.at("with", "persist-credentials") or step.node.at("uses") or step.node
        yield (
            at.mark,
            "checkout leaves the token in .git/config, where every later step can read it; write "
            "`with: {persist-credentials: false}`",
        )


# ── interpolation ─────────────────────────────────────────────────────────────────────────


def _interpolations(workflow: Workflow, step: Step) -> Iterator[Finding]:
    """Expressions that become part of a script before any shell could quote them."""
    script = step.uses.startswith("actions/github-script@")
    for sink in (step.node.at("run"), step.node.at("with", "script") if script else None):
        if sink is None:
            continue
        start, end = sink.span
        for found in _EXPRESSION.finditer(workflow.text, start, end):
            if _UNTRUSTED.search(normal(found[1])):
                shown = " ".join(found[0].split())
                yield (
                    workflow.place(found.start()),
                    f"{shown} becomes part of the script, and whoever chooses its value can run "
                    f'commands; write `env: {{VALUE: {shown}}}`, and "$VALUE" here',
                )


def normal(expression: str) -> str:
    """`github['head_ref']` as `github.head_ref`; contexts do not mind capitals, text is none."""
    dotted = re.sub(r"\s*\[\s*['\"]([^'\"]*)['\"]\s*\]", r".\1", expression.lower())
    return re.sub(r"\s*\.\s*", ".", re.sub(r"'[^']*'", "''", dotted))
