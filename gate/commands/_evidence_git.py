"""What git remembers of a file, as text: every change of it, and what is not committed."""

import os
import shutil
import subprocess
from pathlib import Path

_TIMEOUT_S = 60.0
_QUIET = ("-c", "core.fsmonitor=false", "-c", "log.showSignature=false", "-c", "color.ui=false")
_PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color")


def history(file: Path) -> str:
    """`git log -p --follow` of a file, newest change first, or why there is none.

    Raises nothing: that there is no history is told in the text.
    """
    program = shutil.which("git")
    if program is None:
        return "no history: git is not installed where this was made\n"
    log, failed = _git(program, file, "log", "-p", "--follow", *_PLAIN)
    if failed:
        return f"no history: {failed}\n"
    if not log:
        return f"no history: git has no commit of {file.name}\n"
    changed, failed = _git(program, file, "diff", *_PLAIN, "HEAD")
    if failed:
        changed = f"unknown: {failed}\n"
    changed = changed or "nothing\n"
    return f"# not committed\n{changed}\n# committed, newest first\n{log}"


def _git(program: str, file: Path, command: str, *options: str) -> tuple[str, str]:
    """What git prints, and why it failed; one of them is empty."""
    # a git hook's variables would name another repository than the file's
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    called = [program, "-C", str(file.parent), "--no-pager", *_QUIET, command, *options]
    try:
        done = subprocess.run(  # noqa: S603  a fixed program, no shell
            [*called, "--", file.name],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            env={**own, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return "", f"git failed: {error}"
    if done.returncode:
        return "", done.stderr.strip().partition("\n")[0] or f"git exited {done.returncode}"
    return done.stdout, ""
