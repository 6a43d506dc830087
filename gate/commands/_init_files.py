"""Files that `gate init` writes: whole or not at all, and never over another without being told."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gate.commands._init_text import SCHEMA
from gate.errors import UsageError
from gate.wording import plain


def demand_new(paths: Mapping[Path, str], *, force: bool) -> None:
    """Raises UsageError where one is there; the values say what to do about it."""
    for path, advice in paths.items():
        if os.path.lexists(path) and not force:
            raise UsageError(f"{plain(path)} is there; {advice}, or replace it with --force")


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """A folder that relative paths start from; gone again where nothing came of it.

    Raises:
        UsageError: it cannot be made.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{plain(path)} cannot be made ({error.strerror}): see --out") from error
    try:
        yield
    finally:
        for one in missing:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


@contextmanager
def removed_on_failure(paths: Mapping[Path, str]) -> Iterator[None]:
    """What was not there before is not there after an error either."""
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        raise


def write(text: str, path: Path) -> None:
    """The whole text, or what was there before.

    Raises:
        UsageError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(
            f"{plain(path)} cannot be written ({error.strerror}): name another with --out"
        ) from error


def write_schema(beside: Path, *, force: bool) -> str | None:
    """The schema beside a policy; what to tell where another one is there and stays."""
    from gate.commands.schema import schema

    path, text = beside.with_name(SCHEMA), json.dumps(schema(), indent=2) + "\n"
    if os.path.lexists(path) and not force:
        same = path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text
        told = f"{plain(path)} is another version's and stays: `gate schema` prints this one's"
        return None if same else told
    write(text, path)
    return None


def command(*words: str) -> str:
    """As a shell takes it."""
    return shlex.join(words)
