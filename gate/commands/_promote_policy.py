"""The policy in force and the held-out data, held against those that a record was judged by."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gate import remote
from gate.commands._promote_backing import Reason, differing
from gate.commands._replay_stored import opened, with_own_files
from gate.commands.report import is_there
from gate.errors import EXIT_USAGE, GateError
from gate.policy import Policy
from gate.policy_file import LoadedPolicy, digest, load_policy
from gate.records import GateRecord, PolicySource
from gate.wording import few, short

_OWN_CLASSES = "classes from its label map"
_OWN_TOKENIZER = "its own tokenizer.json"
"""Steps of a candidate whose own classes or tokenizer the run filled into the policy."""
_NAMED = 6


def in_force(
    record: GateRecord, named: str | None
) -> tuple[LoadedPolicy | None, tuple[Reason, ...]]:
    """The policy in force, and why it is not the one that the record was judged by.

    Args:
        record: its `policy_source` names the file where `named` does not.
        named: the file of `--policy`.
    """
    file = Path(named or record.policy_source.policy or record.policy_source.file)
    if not is_there(file):
        told = "" if named else ", which the record names"
        return None, (
            Reason(
                f"there is no policy {file}{told}: name the one in force with --policy", EXIT_USAGE
            ),
        )
    try:
        loaded = load_policy(file)
    except GateError as error:
        return None, (Reason(f"{error}; {_name_it(named)}", error.exit_code),)
    loaded = replace(loaded, policy=filled(loaded.policy, record))
    changed = [*_changes(loaded.policy, record)]
    if not changed:
        return loaded, ()
    return loaded, (
        Reason(
            f"{file} is not the policy that it was judged by: {few(changed, _NAMED)} differ; "
            f"gate it again by the policy in force, {_name_it(named)}",
            EXIT_USAGE,
        ),
    )


def _name_it(named: str | None) -> str:
    if named:
        return "or name the right file with --policy"
    return "or name that with --policy"


def filled(policy: Policy, record: GateRecord) -> Policy:
    """The policy with what a run fills in from the candidate itself, where the record's run did.

    Only what the policy leaves open is filled: what somebody wrote since stays, and differs.
    """
    build, known = policy.build, record.policy.build
    changes: dict[str, object] = {}
    if not build.classes and any(_OWN_CLASSES in step for step in record.candidate.steps):
        changes["classes"] = known.classes
    mine = build.preprocess.tokenizer if build.preprocess else None
    theirs = known.preprocess.tokenizer if known.preprocess else None
    adopted = any(_OWN_TOKENIZER in step for step in record.candidate.steps)
    if adopted and build.preprocess and mine and theirs and mine.file is None:
        own = mine.model_copy(update={"sha256": mine.sha256 or theirs.sha256})
        changes["preprocess"] = build.preprocess.model_copy(update={"tokenizer": own})
    build = build.model_copy(update=changes)
    return policy.model_copy(update={"build": build})


def _changes(policy: Policy, record: GateRecord) -> Iterator[str]:
    """What is not as the record tells it; nothing where the digests are equal."""
    if digest(policy) == record.provenance.policy_sha256:
        return
    prose = {"build": {"recipe": {"summary"}}}
    now, then = (one.model_dump(mode="json", exclude=prose) for one in (policy, record.policy))
    found = [*differing(now, then)]
    yield from found or ["its digest and the record's"]


# ── the held-out data ─────────────────────────────────────────────────────────────────────


def held_out_reasons(
    loaded: LoadedPolicy | None, record: GateRecord, folder: Path
) -> Iterator[Reason]:
    """Why the held-out data that the policy in force is about are not those that were judged on.

    A pin that the record's policy has too was proven when it ran. Without a pin the data are
    opened where the policy says that they are.
    """
    if loaded is None:
        yield Reason("the held-out data cannot be checked without the policy in force", EXIT_USAGE)
        return
    source, content = loaded.policy.judge.held_out, record.splits.held_out.sha256
    if source.sha256 is None:
        yield from _data_reasons(loaded, record, folder)
    elif source.sha256 not in (content, record.policy.judge.held_out.sha256):
        yield Reason(
            f"the policy pins held-out data {short(source.sha256)}…, and it was judged on "
            f"{short(content)}… ({record.splits.held_out.source}): gate it on the pinned data",
            EXIT_USAGE,
        )


def _data_reasons(loaded: LoadedPolicy, record: GateRecord, folder: Path) -> Iterator[Reason]:
    """Why the data at the policy's path are not those that were judged on."""
    source = loaded.policy.judge.held_out
    if not remote.is_uri(source.path) and not loaded.resolve(source.path).exists():
        yield Reason(
            f"the held-out data are not at {loaded.resolve(source.path)}, so nothing shows that "
            "they are those it was judged on: bring them there, or pin them in the policy "
            "(`sha256:` under `held_out`) and gate again",
            EXIT_USAGE,
        )
        return
    place = PolicySource(file=str(loaded.file), lines={}, base=str(loaded.base))
    moved = record.model_copy(update={"policy_source": place})
    try:
        with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
            opened("held_out", with_own_files(moved, folder), None, Path(scratch), flag="--policy")
    except GateError as error:
        yield Reason(f"{error}; or gate it again on the data as they are", error.exit_code)
