"""Bundled real data and small trained models, so that the gate runs on a fresh machine."""

from pathlib import Path

FOLDER = Path(__file__).parent


def policies() -> Path:
    """The folder of policies and their data: packaged in a wheel, else the repository's."""
    packaged = FOLDER / "policies"
    return packaged if packaged.is_dir() else FOLDER.parents[1] / "policies"
