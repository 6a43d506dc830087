"""Whether workflows gate every change: required, on every pull request, with no way around it.

What GitHub's settings say is not in a file: that branch protection requires the verdict is for the
repository's owner to see to.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gate.errors import Mark
from gate.workflows import base, cover, parts, safety, shell
from gate.workflows.parts import Finding, concerns, gating_files, gating_jobs, steps_of
from gate.workflows.read import Node, Workflow

_ALWAYS = re.compile(r"\s*(\$\{\{)?\s*always\(\)\s*(\}\})?\s*")
_FORGIVEN = re.compile(r"\|\|[ \t]*(true|:|echo|exit[ \t]+0)(?!\w)|(?<!\S)set[ \t]+\+\w*e")
_SUCCESS = re.compile(r"(?<![\w-])success(?![\w(-])")
_FILTERED = ("pull_request", "merge_group")
_FILTERS = ("paths", "paths-ignore")


def findings(
    workflows: Sequence[Workflow],
    policies: Sequence[Path],
    root: Path,
    *,
    every: bool = False,
) -> list[Finding]:
    """All that is wrong, in the order of files and lines.

    Args:
        workflows: of one repository.
        policies: paths from `root`.
        root: the repository.
        every: hold each workflow to what is safe, not only those that run a command of the gate.
    """
    local = gating_files(workflows)
    gating = [one for one in workflows if one.file.name in local]
    near = [one for one in workflows if every or one in gating or concerns(one)]
    found = [finding for one in near for finding in safety.unsafe(one)]
    found += [finding for one in gating for finding in _loose(one, local)]
    found += _together(gating, policies, root) if gating else _nothing(workflows)
    return sorted(set(found), key=lambda one: (str(one[0].file), one[0].line, one[0].column))


def _nothing(workflows: Sequence[Workflow]) -> list[Finding]:
    if not any(one.jobs for one in workflows):
        return []
    at = Mark(workflows[0].file, 1, 1)
    return [(at, "no job here runs `gate run`; write one with `gate workflow init`")]


def _together(
    gating: Sequence[Workflow], policies: Sequence[Path], root: Path
) -> Iterator[Finding]:
    """What one of the workflows has to do, whichever it is."""
    if not any({"pull_request", "workflow_call"} & one.triggers.keys() for one in gating):
        on = gating[0].root.at("on") or gating[0].root
        yield on.mark, "no pull request is gated; write `pull_request:` under `on:`"
    yield from cover.uncovered(gating, policies, root)


def _loose(workflow: Workflow, local: set[str]) -> Iterator[Finding]:
    """Ways past the gate in one workflow that runs it."""
    jobs = gating_jobs(workflow, local)
    yield from _triggers(workflow)
    for step in parts.steps(workflow):
        if step.job and base.is_blind(workflow, workflow.jobs[step.job], step):
            at = step.node.at("run") or step.node.at("uses") or step.node
            yield (
                at.mark,
                f"job {step.job} asks what has changed since the change itself, and nothing has; "
                "write the base's commit, ${{ github.event.pull_request.base.sha }}",
            )
    for name, job in jobs.items():
        yield from _forgiven(name, job)
        for step in steps_of(name, job):
            yield from shell.forgiven(workflow, job, step)
        if {"pull_request", "workflow_call"} & workflow.triggers.keys():
            yield from _own_judge(workflow, name, job)
    if any(_needs_verdict(job) for job in jobs.values()):
        yield from _verdict(workflow)


def _triggers(workflow: Workflow) -> Iterator[Finding]:
    target = workflow.triggers.get("pull_request_target")
    if target is not None:
        yield (
            target.key or target.mark,
            "pull_request_target gives a stranger's change the repository's secrets; write "
            "`pull_request`, and comment from a workflow of its own on `workflow_run`",
        )
    for trigger in _FILTERED:
        given = workflow.triggers.get(trigger)
        for name in _FILTERS:
            listed = given.at(name) if given else None
            if listed is not None:
                yield (
                    listed.key or listed.mark,
                    f"with `{name}`, a required check stays pending wherever it is not started; "
                    "delete it: `gate workflow matrix --changed-since REV` plans only what changed",
                )


def _forgiven(name: str, job: Node) -> Iterator[Finding]:
    """Where a red gate turns green."""
    tolerant = (step.node for step in steps_of(name, job) if step.gates or not step.uses)
    for part in (job, *tolerant):
        excused = part.at("continue-on-error")
        if excused is not None and excused.text != "false":
            yield (
                excused.key or excused.mark,
                f"`continue-on-error` lets job {name} pass after a failure; delete it. "
                "To watch without blocking write `mode: observe` into the policy",
            )


def _own_judge(workflow: Workflow, name: str, job: Node) -> Iterator[Finding]:
    """A change that is judged by its own policy can loosen it."""
    for step in steps_of(name, job):
        if step.gates and base.is_own(workflow, job, step):
            at = step.node.at("run") or step.node.at("uses") or step.node
            yield (
                at.mark,
                f"job {name} judges a pull request by the pull request's own policy; write "
                "`--judge-from` (in the action, `judge-from:`) with the base's commit, "
                "${{ github.event.pull_request.base.sha }}",
            )


# ── the verdict ───────────────────────────────────────────────────────────────────────────


def _needs_verdict(job: Node) -> bool:
    """Whether the job itself cannot be required: it may be skipped, or has many names.

    A plain call of a workflow that gates has that one's verdict.
    """
    return any(job.at(key) is not None for key in ("strategy", "if", "needs"))


def _verdict(workflow: Workflow) -> Iterator[Finding]:
    """One job that always runs, waits for all others and reads how they ended."""
    jobs = workflow.jobs
    always = {name: job for name, job in jobs.items() if _ALWAYS.fullmatch(job.word("if"))}
    if not always:
        others = ", ".join(jobs)
        yield (
            (workflow.root.at("jobs") or workflow.root).mark,
            "no job can be required: a matrix has many names, and a skipped job passes; write a "
            f"job `verdict` with `if: always()` and `needs: [{others}]` that fails unless all of "
            "them succeeded",
        )
        return
    name = min(always, key=lambda one: len(_unwaited(one, jobs)))
    waited = [item.text for item in _needs(jobs[name])]
    missing = _unwaited(name, jobs)
    if missing:
        at = jobs[name].at("needs") or jobs[name]
        written = ", ".join([*waited, *missing])
        yield (
            at.mark,
            f"job {name} does not wait for {', '.join(missing)}; write `needs: [{written}]`",
        )
    yield from _unread(name, jobs[name], waited)
    yield from _forgiven(name, jobs[name])
    yield from _lenient(name, jobs[name])


def _lenient(name: str, job: Node) -> Iterator[Finding]:
    """A verdict that looks, and is green whatever it sees."""
    asked = list(steps_of(name, job))
    said = [f"{step.node.word('if')} {step.script}" for step in asked if not shell.may_skip(step)]
    if not any(step.uses for step in asked) and not any(map(_SUCCESS.search, said)):
        at = job.at("steps") or job
        yield (
            at.mark,
            f"job {name} is green whatever the others came to: what is skipped or cancelled did "
            'not fail; write a step that fails unless each is success: `[ "$RESULT" = success ]`',
        )
    for step in asked:
        run = step.node.at("run")
        if run is not None and _FORGIVEN.search(step.script):
            yield run.mark, f"job {name} drops an exit code; delete `|| …` and `set +e`"


def _needs(job: Node) -> list[Node]:
    found = job.at("needs")
    return [] if found is None else found.items


def _unwaited(name: str, jobs: Mapping[str, Node]) -> list[str]:
    """Jobs that a verdict does not wait for; those that wait for it come after it."""
    waited = {item.text for item in _needs(jobs[name])}
    after = {name}
    for _ in jobs:
        after |= {one for one, job in jobs.items() if after & {n.text for n in _needs(job)}}
    apart = {one for one, job in jobs.items() if parts.stands_apart(one, job)}
    return [one for one in jobs if one not in waited | after | apart]


def _unread(name: str, job: Node, waited: Sequence[str]) -> Iterator[Finding]:
    written = " ".join(node.text for node in job.walk() if node.text).replace(" ", "")
    if "needs.*.result" in written or "toJSON(needs)" in written:
        return
    for one in waited:
        if f"needs.{one}.result" not in written:
            at = job.at("needs") or job
            yield (
                at.mark,
                f"job {name} does not look at how {one} ended; write "
                f"`env: {{RESULT: ${{{{ needs.{one}.result }}}}}}`, and fail unless it is success",
            )
