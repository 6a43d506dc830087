"""From a policy file to a `Policy`: `extends`, validation, and errors with file:line:column."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pydantic import ValidationError

from gate import artifact, remote
from gate.errors import Mark, PolicyError
from gate.policy import MODEL_URIS, WRITTEN, JudgedFrom, Policy
from gate.policy_faults import Finding, dotted, faults, shown
from gate.sources import Graph, Tokenizer
from gate.strict_yaml import Document, Loc, Node, load, merge

_DATA = (("build", "calibration"), ("build", "tuning"), ("judge", "held_out"))
_MODELS = (("build", "candidate"), ("judge", "anchor"))
_GRAPHS = (("build", "preprocess", "graph"), ("build", "decode", "graph"))
_FILES = (("build", "preprocess", "tokenizer"), *_GRAPHS)
"""What is read besides data and models; a graph may be written as its file alone."""
_HOME = "files are relative to the policy's folder"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
Read = Callable[[Path, Mark | None], Document]
"""A file, and where another one names it, to what it holds."""


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy, and where each of its words was written."""

    policy: Policy
    """Resolved: `extends` merged, recipe and defaults filled in."""
    file: Path
    """As it was named."""
    sha256: str
    """Of the resolved policy: the same in any folder, with any comments and order of keys."""
    written: Document
    """What was written, `extends` merged."""
    judged_from: JudgedFrom | None = None
    """Where `judge` is from, where that is not `file`."""

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self.file.parent

    def resolve(self, path: str) -> Path:
        """A path as the policy writes it, from the current folder."""
        return self.base / path

    def mark(self, *loc: str | int) -> Mark:
        """Where the value at `loc`, or the nearest around it, was written."""
        return self.written.mark(*loc)

    def key_mark(self, *loc: str | int) -> Mark:
        """Where the key at `loc`, or the nearest around it, was written."""
        return self.written.key_mark(*loc)

    @property
    def lines(self) -> dict[str, int]:
        """Budget id to the line it begins on, in `budgets_file`."""
        budgets = enumerate(self.policy.judge.budgets)
        return {budget.id: self.mark("judge", "budgets", i).line for i, budget in budgets}

    @property
    def budgets_file(self) -> Path:
        """The file that the budgets were written in: `file`, or one that it extends."""
        return self.mark("judge", "budgets").file


def load_policy(
    path: str | os.PathLike[str],
    *,
    read: Read = load,
    sha256: Callable[[Path], str] = artifact.sha256_of,
) -> LoadedPolicy:
    """Read, merge and validate a policy.

    Args:
        path: the file; what it names is relative to its folder.
        read: gives what it, and what it extends, holds.
        sha256: of a tokenizer or graph that it names.

    Raises:
        PolicyError: all that is wrong, one finding a line, each beginning with file:line:column.
    """
    file = Path(path)
    written = _merged(file, read)
    policy, findings = _validated(written)
    raise_all([*findings, *_addresses(written)], first=file)
    assert policy is not None
    policy, findings = _bound(policy, written, file.parent, sha256)
    raise_all(findings, first=file)
    return LoadedPolicy(policy=policy, file=file, sha256=digest(policy), written=written)


def digest(policy: Policy) -> str:
    """The sha256 of a resolved policy, as canonical JSON.

    A recipe's summary, which is prose, and `build.code` are left out: they change no verdict.
    """
    idle: dict[str, Any] = {"build": {"recipe": {"summary"}, "code": True}}
    values = policy.model_dump(mode="json", exclude=idle)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def raise_all(findings: Iterable[Finding], first: Path) -> None:
    """Report every finding at once, one a line, in the order they were written.

    Args:
        findings: any number; with none, nothing happens.
        first: the file whose findings come first.

    Raises:
        PolicyError: there is a finding.
    """
    ordered = sorted(set(findings), key=lambda finding: _position(finding, first))
    if ordered:
        mark, message = ordered[0]
        others = [f"\n{place}: {text}" for place, text in ordered[1:]]
        raise PolicyError(message + "".join(others), mark)


def _position(finding: Finding, first: Path) -> tuple[bool, str, int, int, str]:
    mark, message = finding
    return mark.file != first, str(mark.file), mark.line, mark.column, message


# ── extends ───────────────────────────────────────────────────────────────────────────────


def _merged(file: Path, read: Read) -> Document:
    """A file laid on all that it extends; `extends` itself is gone."""
    documents = chain(file, read)
    root = reduce(_lay_on, reversed(documents[:-1]), documents[-1].root)
    assert isinstance(root.value, dict)
    entries = {name: node for name, node in root.value.items() if name != "extends"}
    return Document(file, replace(root, value=entries))


def _lay_on(base: Node, over: Document) -> Node:
    """`over` on what it extends, whose paths become relative to `over`."""
    folder = PurePosixPath(str(over.data["extends"])).parent
    return merge(_rebased(base, folder), over.root)


def chain(file: Path, read: Read = load) -> list[Document]:
    """A file, what it extends, what that extends, and so on: each in the folder of it, or below.

    Raises:
        PolicyError: one cannot be read, is no mapping, or extends what it may not.
    """
    documents = [_mapping(read(file, None))]
    while (target := _target(documents[-1])) is not None:
        asked = documents[-1].mark("extends")
        files = [document.file for document in documents]
        if os.path.realpath(target) in map(os.path.realpath, files):
            names = " → ".join(str(name) for name in (*files, target))
            raise PolicyError(f"`extends` goes in a circle: {names}; break it", asked)
        documents.append(_mapping(read(target, asked)))
    return documents


def _mapping(document: Document) -> Document:
    if not isinstance(document.root.value, dict):
        raise PolicyError(
            "a policy is `key: value` pairs, and this is not; begin with `version: 1`",
            document.mark(),
        )
    return document


def _target(document: Document) -> Path | None:
    """The file that a document extends, proven to lie in its folder or below."""
    node = document.root.child("extends")
    if node is None:
        return None
    name, folder = node.value, document.file.parent
    if not isinstance(name, str) or not name:
        raise PolicyError("`extends` is the name of one file, such as base.yaml", node.mark)
    outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if outside or _URI.match(name):
        raise PolicyError(
            f"`extends: {shown(name)}` leaves the folder of this file; name a file in it or below",
            node.mark,
        )
    real, root = Path(os.path.realpath(folder / name)), Path(os.path.realpath(folder))
    if not real.is_relative_to(root):
        raise PolicyError(
            f"`extends: {shown(name)}` is a link that leaves the folder of this file; "
            "name a file in it or below",
            node.mark,
        )
    return folder / name


def _rebased(root: Node, folder: PurePosixPath) -> Node:
    """Paths that a file in `folder` wrote, as the file that extends it would write them."""

    def rebase(value: Any) -> Any:
        if isinstance(value, list):
            return [replace(node, value=rebase(node.value)) for node in value]
        if not isinstance(value, str) or not value or _URI.match(value):
            return value
        return str(folder / value)

    data = [(*loc, name) for loc in _DATA for name in ("path", "images")]
    files = [*((*loc, "file") for loc in _FILES), *_GRAPHS]
    places = [*data, *_MODELS, *files, ("build", "code")]
    return reduce(lambda node, loc: _changed(node, loc, rebase), places, root)


def _changed(node: Node, loc: Loc, change: Callable[[Any], Any]) -> Node:
    """The tree with the value at `loc` changed, where there is one."""
    if not loc:
        return replace(node, value=change(node.value))
    child = node.child(loc[0])
    if child is None or not isinstance(node.value, dict):
        return node
    return replace(node, value=node.value | {str(loc[0]): _changed(child, loc[1:], change)})


# ── validation ────────────────────────────────────────────────────────────────────────────


def _validated(written: Document) -> tuple[Policy | None, list[Finding]]:
    """The policy, or all that the model finds wrong with what was written."""
    try:
        # strict: a number in quotes is text, and "no" is no boolean
        policy = Policy.model_validate(_frozen(written.data), strict=True, context=WRITTEN)
    except ValidationError as error:
        return None, faults(error, written)
    return policy, []


def _frozen(value: Any) -> Any:
    """Lists as tuples, which is what the policy's types are."""
    if isinstance(value, dict):
        return {name: _frozen(child) for name, child in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _bound(
    policy: Policy, written: Document, base: Path, sha256: Callable[[Path], str]
) -> tuple[Policy, list[Finding]]:
    """The policy with the sha256 of each tokenizer and graph that it names and does not pin.

    So what is hashed and recorded binds what the files hold. A pin is proven where a file is read.
    """
    findings = []
    for loc in _FILES:
        named = reduce(lambda value, name: getattr(value, name, None), loc, cast(Any, policy))
        if not isinstance(named, Graph | Tokenizer) or named.sha256 or named.file is None:
            continue
        path = base / named.file
        try:
            policy = _with(policy, (*loc, "sha256"), sha256(path))
        except OSError as error:
            mark = written.mark(*loc, "file")
            findings.append((mark, f"cannot read {path}: {error.strerror}; {_HOME}"))
    return policy, findings


def _with(value: Any, loc: tuple[str, ...], leaf: str) -> Any:
    """A copy with the field at `loc` set."""
    if not loc:
        return leaf
    inner = getattr(value, loc[0])
    return value.model_copy(update={loc[0]: _with(inner, loc[1:], leaf)})


def _addresses(written: Document) -> list[Finding]:
    """Paths that are empty, or URIs that this version does not read."""
    data = [_data_address(written, (*loc, name)) for loc in _DATA for name in ("path", "images")]
    models = [_model_address(written, loc) for loc in _MODELS]
    return [finding for finding in (*data, *models) if finding]


def _data_address(written: Document, loc: Loc) -> Finding | None:
    text = written.value(*loc)
    if text == "":
        return written.mark(*loc), f"{dotted(loc)} is empty; write a file's path"
    if not isinstance(text, str) or not remote.is_uri(text):
        return None
    wrong = remote.problem(text)
    return None if wrong is None else (written.mark(*loc), f"{shown(text)} {wrong}")


def _model_address(written: Document, loc: Loc) -> Finding | None:
    text = written.value(*loc)
    if text == "":
        return written.mark(*loc), f"{dotted(loc)} is empty; write a path or delete it"
    if isinstance(text, str) and _URI.match(text) and not text.startswith(MODEL_URIS):
        return (
            written.mark(*loc),
            f"{shown(text)} is a URI of a kind that is not known; write a local path, "
            "models:/name/version, models:/name@alias or runs:/run/path",
        )
    return None
