"""`gate workflow`: write a user's GitHub workflow, check what is there, plan its matrix."""

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from gate import remote
from gate.commands._changed import changed, removed
from gate.commands.check import Line
from gate.errors import EXIT_PASS, EXIT_USAGE, PolicyError, RecordError, UsageError
from gate.policy import MODEL_URIS
from gate.policy_file import LoadedPolicy, load_policy
from gate.waivers import FILE as WAIVERS
from gate.wording import few, plain
from gate.workflows import check as rules
from gate.workflows import read, write
from gate.workflows.cover import policies_below
from gate.workflows.parts import Finding

FOLDER = Path(".github/workflows")
MOST_JOBS = 256
"""Jobs that GitHub makes of one matrix."""
_NAME = 60


# ── init ──────────────────────────────────────────────────────────────────────────────────


def init(pattern: str, out: Path, *, force: bool) -> str:
    """Write a workflow that gates the policies that `pattern` finds; what to tell the user.

    Nothing is written that `check` would find fault with.

    Raises:
        UsageError: `out` is there and not to be replaced, there is no policy, one cannot be gated
            without being asked for a candidate, or policies would go ungated.
        PolicyError: a policy is wrong.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} is there; write elsewhere with --out, or replace it with --force")
    files, _ = _found([pattern])
    if not files:
        raise UsageError(
            f"{plain(pattern)} finds no policy; write one first (policies/<model>.yaml), or name "
            "yours with --policies"
        )
    gated = [_gated(load_policy(file)) for file in files]
    text = write.compose(pattern, gated, metadata.version("int8-gate"))
    _prove(text, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); name another") from error
    return (
        f"{out}: gates {few([plain(one.model) for one in gated])}. Commit it, and require the "
        "check `verdict` in the settings of the branch's protection"
    )


def _gated(loaded: LoadedPolicy) -> write.Gated:
    build, judge = loaded.policy.build, loaded.policy.judge
    if build.candidate is None:
        raise PolicyError(
            "no `candidate` here, and in CI nobody names one; write `candidate: model.onnx` (the "
            "path of your model, or models:/name/version) under `build`",
            loaded.key_mark("build"),
        )
    splits = (build.calibration, build.tuning, judge.held_out)
    trust = build.candidate.endswith(".pt2")
    extras = {"torch"} if trust else set()
    if any(split is not None and remote.is_uri(split.path) for split in splits):
        extras.add("remote")
    models = (build.candidate, judge.anchor or "")
    return write.Gated(
        file=loaded.file.as_posix(),
        model=loaded.policy.model,
        extras=frozenset(extras),
        trust=trust,
        registry=any(model.startswith(MODEL_URIS) for model in models),
    )


def _prove(text: str, out: Path) -> None:
    """Show that what is about to be written stands its own check."""
    root = Path()
    wrong = rules.findings([read.parse(text, out)], policies_below(root), root, every=True)
    if wrong:
        raise UsageError("\n".join(f"{mark}: {message}" for mark, message in wrong))


# ── check ─────────────────────────────────────────────────────────────────────────────────


def check(files: Sequence[Path], root: Path = Path()) -> tuple[list[Line], int]:
    """Check workflows; those in `.github/workflows` where none is named.

    Returns:
        A line for each finding, or one for each file that is in order; and the exit code.

    Raises:
        UsageError: there is no workflow.
    """
    named = list(files) or sorted((*(root / FOLDER).glob("*.yml"), *(root / FOLDER).glob("*.yaml")))
    if not named:
        raise UsageError(f"{FOLDER} holds no workflow; write one with `gate workflow init`")
    workflows, found = _loaded(named)
    found += rules.findings(workflows, policies_below(root), root, every=bool(files))
    bad = {mark.file for mark, _ in found}
    lines = [Line(f"{mark}: {message}", bad=True) for mark, message in found]
    lines += [Line(f"{file}: ok", bad=False) for file in named if file not in bad]
    return lines, EXIT_USAGE if found else EXIT_PASS


def _loaded(files: Iterable[Path]) -> tuple[list[read.Workflow], list[Finding]]:
    """What can be read, and what is wrong with the rest."""
    workflows, found = [], []
    for file in files:
        try:
            workflows.append(read.load(file))
        except PolicyError as error:
            if error.mark is None:
                raise
            found.append((error.mark, error.message))
    return workflows, found


# ── matrix ────────────────────────────────────────────────────────────────────────────────


def matrix(patterns: Sequence[str], changed_since: str | None) -> tuple[str, list[str]]:
    """The matrix of the gate's jobs, as one line of ASCII JSON; its `include` may be empty.

    Each job has a `policy`, a `name` to be shown, and an `id` of letters, digits, `.`, `_` and `-`
    that no other has.

    Args:
        patterns: policies and globs of them, from the current folder.
        changed_since: a revision of git; only policies that a change since then concerns.

    Returns:
        The JSON, and what somebody should see: globs that find nothing, policies that are gone.

    Raises:
        UsageError: a named policy is not there, or there are more than GitHub runs.
    """
    files, notes = _found(patterns)
    if changed_since is not None:
        notes += [
            f"{plain(file)} was there at {plain(changed_since)} and is not any more: unless it was "
            "renamed, nothing gates its model from now on"
            for file in removed(patterns, changed_since)
        ]
        files = changed(files, changed_since) if files else []
    if len(files) > MOST_JOBS:
        raise UsageError(
            f"{len(files)} policies, and GitHub runs at most {MOST_JOBS} jobs of a matrix: gate "
            "them in several workflows, a folder each"
        )
    jobs = [_job(file) for file in files]
    return json.dumps({"include": jobs}, separators=(",", ":")), notes


def _found(patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Policies, each once, and a note on each glob that finds none: there may be none yet.

    A file whose name is the glob, letter by letter, is one more file and hides no other: a change
    could bring it.

    Raises:
        UsageError: a name that is no glob is not a file's.
    """
    files: dict[str, None] = {}
    notes = []
    for pattern in patterns:
        named = [pattern] if Path(pattern).is_file() else []
        matched = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
        found = [*named, *(name for name in matched if _is_policy(Path(name)))]
        if not found and not glob.has_magic(pattern):
            raise UsageError(f"{plain(pattern)} does not exist; name a policy, or a glob of some")
        if not found:
            notes.append(f"no policy fits {plain(pattern)}")
        files |= dict.fromkeys(found)
    return list(files), notes


def _is_policy(path: Path) -> bool:
    """As `gate run` expands a glob: the waivers lie beside the policies, and are none."""
    return path.is_file() and path.name != WAIVERS


def _job(file: str) -> dict[str, Any]:
    try:
        digest = hashlib.sha256(file.encode()).hexdigest()[:8]
    except UnicodeEncodeError as error:
        raise UsageError(f"the name of {file!r} is not UTF-8; rename the file") from error
    stem = Path(file).stem
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:_NAME].strip("-.") or "policy"
    return {"policy": file, "name": plain(stem, _NAME), "id": f"{slug}-{digest}"}


# ── records of strangers ──────────────────────────────────────────────────────────────────


def unpack(archives: Sequence[Path], out: Path) -> str:
    """Take the records out of artifacts that anybody may have made; what to tell the user.

    Raises:
        UsageError: `out` is not empty.
        RecordError: an archive holds something else, too much, or a record that is none.
    """
    from gate.commands.report import load_record
    from gate.workflows.artifact import record_of

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out} is not empty: name a new folder")
    if len(archives) > MOST_JOBS:
        raise RecordError(f"{len(archives)} archives, and a run has at most {MOST_JOBS} records")
    for number, archive in enumerate(archives):
        folder = out / f"{number:03}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_bytes(record_of(archive))
        load_record(folder)
    return f"gate: {len(archives)} records in {out}"
