"""What stays the same while a policy comes about."""

from dataclasses import dataclass
from pathlib import Path

from gate.commands._init_asked import Asked, Dialogue
from gate.commands._init_model import relative
from gate.progress import Progress


@dataclass(frozen=True, slots=True)
class Desk:
    """What stays the same while a policy comes about."""

    asked: Asked
    who: Dialogue
    progress: Progress
    scratch: Path
    named: str
    """The model, as it was named."""
    out: Path

    def room(self, name: str) -> Path:
        """A folder of its own in the scratch folder."""
        found = self.scratch / name
        found.mkdir()
        return found

    def path(self, named: str) -> str:
        """As the policy writes it."""
        return relative(named, self.out.parent)
