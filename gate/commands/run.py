"""`gate run`: the stage itself, for one policy or several."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gate import facts
from gate.commands._base_policy import held_to_base, shaken_off
from gate.commands._changed import Looked, expanded, looked_at
from gate.commands._told import say, tell
from gate.commands.progress import progress
from gate.commands.report import demand_place, show
from gate.errors import EXIT_PASS, GateError, UsageError, worst
from gate.pipeline import Finished, run_gate
from gate.records import GateRecord, Stage
from gate.wording import listing, plain

_NAMED = 5
_NAMING = ("int8", "reference", "fp32_outputs", "int8_outputs", "waivers")
"""Options that name files on which every policy's run depends."""


def run_policies(
    policies: Sequence[str],
    *,
    candidate: str | None,
    stage: Stage,
    out: Path | None,
    formats: Sequence[str],
    judge_from: str | None = None,
    changed_since: str | None = None,
    plugins: Sequence[Path] = (),
    **options: Any,
) -> int:
    """Run every policy, whatever the others came to; show the reports; the worst exit code.

    Args:
        policies: files or globs; each record of several goes to its own folder in `out`.
        candidate: judged by every policy; default: each policy's own.
        stage: as `run_gate`.
        out: as `run_gate`.
        formats: keys of `gate.reporters`.
        judge_from: a revision that `judge` and waivers are taken from; default: the policy itself.
        changed_since: a revision; only policies that a change since then concerns are run.
        plugins: files that are loaded already.
        options: the others of `run_gate`.

    Raises:
        UsageError: a report cannot be shown here, or a glob or a revision is wrong.
    """
    demand_place(formats)
    asked, policies = policies, expanded(policies)
    several = len(policies) > 1
    if changed_since is not None:
        besides = _besides(candidate, plugins, options)
        policies = _concerned(policies, changed_since, besides)
    records: list[GateRecord] = []
    problems: list[tuple[str, GateError]] = []
    for policy, name in zip(policies, _names(policies), strict=True):
        folder = out / name if out is not None and several else out
        try:
            finished = _run(
                policy, judge_from, candidate=candidate, stage=stage, out=folder, **options
            )
        except GateError as error:
            tell(error)
            problems.append((policy, error))
            continue
        records.append(finished.record)
        for note in finished.notes:
            say(f"gate: {note}")
        say(f"gate: record in {finished.folder}")
    if judge_from is not None:
        problems += _taken_away(shaken_off(asked, expanded(asked), judge_from), judge_from)
    if not records and not problems:
        return EXIT_PASS
    show(records, formats, problems)
    return worst([r.exit_code for r in records] + [error.exit_code for _, error in problems])


def _names(policies: Sequence[str]) -> Iterator[str]:
    """A folder for each: the file's name, with a number where another has the same."""
    seen: Counter[str] = Counter()
    for policy in policies:
        stem = Path(policy).stem
        seen[stem] += 1
        yield stem if seen[stem] == 1 else f"{stem}-{seen[stem]}"


def _run(policy: str, judge_from: str | None, **options: Any) -> Finished:
    named = options.get("waivers")
    if named is not None and judge_from is None and not named.is_file():
        raise UsageError(f"--waivers {plain(named)} is no file: correct the path, or leave it out")
    if judge_from is None:
        with progress(Path(policy).stem) as shown:
            return run_gate(policy, progress=shown, **options)
    options.pop("waivers", None)
    with held_to_base(Path(policy), judge_from, named) as (loaded, waivers):
        assert loaded.judged_from is not None
        for line in facts.held_to(loaded.judged_from):
            say(f"gate: {plain(policy)}: {line}")
        with progress(Path(policy).stem) as shown:
            return run_gate(loaded, progress=shown, waivers=waivers, **options)


def _taken_away(gone: Sequence[str], rev: str) -> list[tuple[str, GateError]]:
    """A problem for each policy that a change takes away."""
    found: list[tuple[str, GateError]] = []
    for policy in gone:
        error = UsageError(
            f"{plain(policy)} is at {plain(rev)} and not here: a change does not take its own gate "
            "away. Restore it, rebase on what has it, or let its owners merge its removal"
        )
        tell(error)
        found.append((policy, error))
    return found


# ── what a change concerns ────────────────────────────────────────────────────────────────


def _besides(
    candidate: str | None, plugins: Sequence[Path], options: Mapping[str, Any]
) -> list[Path]:
    """Local files that the command line names for every policy."""
    named = [candidate, *(options.get(name) for name in _NAMING)]
    local = [Path(name) for name in named if name is not None and ":/" not in str(name)]
    return [*plugins, *local]


def _concerned(policies: Sequence[str], rev: str, besides: Sequence[Path]) -> list[str]:
    """The policies that a change since `rev` concerns; what was looked at is told."""
    found = looked_at(policies, rev, besides=besides)
    for looked in found:
        say(f"gate: {plain(looked.policy)}: {_told(looked, rev)}")
        for unseen in looked.unseen:
            say(f"gate: {plain(looked.policy)}: not looked at: {plain(unseen)}")
    concerned = [looked.policy for looked in found if looked.because]
    if not concerned:
        say(f"gate: nothing to gate since {plain(rev)}")
    return concerned


def _told(looked: Looked, rev: str) -> str:
    if looked.because:
        names = listing((plain(name) for name in looked.because), _NAMED)
        return f"changed since {plain(rev)}: {names}"
    return f"the same as at {plain(rev)}: {', '.join(plain(name) for name in looked.files)}"
