"""What a registry keeps of releases: versions, moves of aliases, bridges between held-out sets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from gate.values import Value

PRODUCTION = "production"
"""The alias whose version a budget `against: production` is about."""
PINNED = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[1-9][0-9]{0,8})")
"""A version's address, whatever aliases move."""
_SUFFIX = "-int8"


def registered_name(model: str) -> str:
    """The registered model that INT8 releases of a policy's model are versions of."""
    return f"{model}{_SUFFIX}"


def model_of(name: str) -> str | None:
    """The policy's model that a registered INT8 model belongs to; None where it is none."""
    return name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) and name != _SUFFIX else None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model."""

    name: str
    """Of the registered model."""
    version: str
    """A whole number from 1, as text."""
    created: datetime
    run: str
    """The tracker's id of the run that made it; empty where none did."""
    source: str
    """Where its files lie, as the registry writes it."""
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The gate's own, without their prefix: record, outcome, int8_sha256, …"""
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """As a person names it."""
        return f"models:/{self.name}/{self.version}"

    @property
    def number(self) -> int:
        """To sort by."""
        return int(self.version)


@dataclass(frozen=True, slots=True)
class Move:
    """An alias that the gate moved, as it wrote it down."""

    model: str
    """The policy's."""
    alias: str
    version: str
    previous: str | None
    """The version that the alias named before; None where there was no such alias."""
    kind: Literal["promote", "rollback"]
    record: str
    """Id of the PASS record that backs it."""
    int8_sha256: str
    who: str
    why: str
    when: datetime
    complete: bool = True
    """Whether the alias is known to have moved: the intention is written down first."""


class ReleaseInfo(Value):
    """A release of the past that INT8 was held against."""

    against: Literal["production", "anchor"]
    name: str
    """The registered model that it is a version of."""
    version: str
    record: str
    """Id of the record that released it."""
    run: str
    """The tracker's id of the run that did."""
    int8_sha256: str
    bytes: int
    """Of its INT8 model."""
    rows: Literal["stored", "stored, by content", "evaluated"]
    """Whether its own run's rows on these examples were at hand: all of its held-out set, or those
    of it that are still the same; else its model was run."""

    @property
    def uri(self) -> str:
        """As a person names it."""
        return f"models:/{self.name}/{self.version}"


class Bridged(Value):
    """One release on two held-out sets."""

    version: str
    """Of the registered INT8 model."""
    record: str
    """Id of the record that released it."""
    int8_sha256: str
    roles: tuple[str, ...]
    """anchor, production, or both."""
    before: dict[str, float]
    """INT8's value by metric, on the old set."""
    after: dict[str, float]
    """The same on the new one."""
    rows: str
    """The file beside the bridge that holds its rows on the new set, as rows.npz does."""
    rows_sha256: str


class Bridge(Value):
    """A held-out set that another one took the place of, with releases evaluated on both."""

    schema_version: Literal[1] = 1
    id: str
    """Unique, sortable: UTC time and the new set's digest."""
    created: datetime
    model: str
    """The policy's."""
    before: str
    """sha256 of the old held-out set."""
    after: str
    """sha256 of the new one."""
    releases: tuple[Bridged, ...] = Field(min_length=1)
