"""A git repository of one's own, without anybody's configuration."""

import os
import subprocess
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "ann", "GIT_AUTHOR_EMAIL": "ann@example.com",
    "GIT_COMMITTER_NAME": "ann", "GIT_COMMITTER_EMAIL": "ann@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_ALLOW_PROTOCOL": "file",
}  # fmt: skip


class Clone:
    """A working tree on branch `work`; what `main` has is the base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, at: Path | None = None) -> str:
        """What git prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=at or self.folder,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **IDENTITY},
        )
        return done.stdout.strip()

    def commit(self, why: str = "a change") -> str:
        """All that there is, as a commit; its name."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", why)
        return self.git("rev-parse", "HEAD")

    def branch(self) -> None:
        """What there is becomes the base, and work goes on beside it."""
        self.commit("the base")
        self.git("checkout", "-q", "-b", "work")
