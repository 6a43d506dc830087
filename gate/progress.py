"""Who is told how far a run has come."""

from typing import Protocol


class Progress(Protocol):
    """Who is told how far a run has come."""

    def step(self, name: str, total: int | None = None) -> None:
        """A step begins; `total` examples lie ahead, where that is known."""

    def advance(self, examples: int) -> None:
        """So many more examples are done."""


class Silent:
    """Progress that nobody watches."""

    def step(self, name: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, examples: int) -> None:
        """Say nothing."""
