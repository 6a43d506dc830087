"""Who moves an alias, and why, as the move is signed."""

import getpass
import os
import socket
from collections.abc import Mapping

from gate import story
from gate.records import GateRecord
from gate.wording import plain

_LONGEST = 300


def who(by: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """`by`, else in GitHub Actions who started the run and its address, else user@host."""
    if by and by.strip():
        return plain(by.strip(), _LONGEST)
    actor = environ.get("GITHUB_ACTOR")
    if environ.get("GITHUB_ACTIONS") == "true" and actor:
        return plain(f"{actor} ({_address(environ)})", _LONGEST)
    return plain(f"{_user()}@{socket.gethostname()}", _LONGEST)


def _address(environ: Mapping[str, str]) -> str:
    server = environ.get("GITHUB_SERVER_URL", "https://github.com")
    repository, run = environ.get("GITHUB_REPOSITORY", "?"), environ.get("GITHUB_RUN_ID", "?")
    return f"{server}/{repository}/actions/runs/{run}"


def _user() -> str:
    """The login name; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def why(given: str | None, record: GateRecord) -> str:
    """`given`, else the verdict's first words: what blocks most, or that nothing does."""
    first = next(iter(story.blockers(record)), story.summary(record).partition(". ")[0])
    words = f"{record.verdict.outcome.upper()}: {first}"
    return plain((given or "").strip() or words, _LONGEST)
