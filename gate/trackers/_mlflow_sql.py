"""Reads a database of MLflow's as the tables that it is, without MLflow.

Importing MLflow and opening its stores takes 2 s, and `search_runs` makes an object of every tag,
param and metric: 31 s for 10,000 runs, and 1 s of this. Tables are read only where their schema is
one that is known here; for any other, and for a server, MLflow itself is asked, and says the same.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gate.errors import TrackerError
from gate.trackers import _mlflow_store as store

SCHEMAS = frozenset({"dc11669786a5"})
"""Of MLflow 3.17, as alembic names them."""
_WORKSPACE = "default"
_WORKSPACES = ("MLFLOW_ENABLE_WORKSPACES", "MLFLOW_WORKSPACE")
_DELETED = "Deleted_Internal"
_MANY = 500
"""Values that one question names: databases allow a thousand or more."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as it lies in the store."""

    run: str
    started: int
    """Milliseconds since 1970, UTC."""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """The latest value by key; NaN where that is what was logged."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as it lies in the registry."""

    version: str
    created: int
    """Milliseconds since 1970, UTC."""
    run: str
    source: str
    status: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@contextmanager
def reading(place: store.Place) -> Iterator["Tables | None"]:
    """The tables of a database; None where MLflow has to be asked, which also says what is wrong.

    Raises:
        TrackerError: the database fails while it is read.
    """
    connection = _connected(place)
    if connection is None:
        yield None
        return
    from sqlalchemy.exc import SQLAlchemyError

    with connection:
        try:
            yield Tables(connection)
        except SQLAlchemyError as error:
            raise TrackerError(f"MLflow at {place.shown}: {store.reason(error, place)}") from error


def _connected(place: store.Place) -> Any | None:
    """A connection to a database whose schema is known."""
    if place.missing or place.registry != place.uri or any(map(os.environ.get, _WORKSPACES)):
        return None
    if not place.uri.startswith(store.DATABASES):
        return None
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        connection = store.engine(place).connect()
        found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        schemas = {row[0] for row in found}
    except (SQLAlchemyError, OSError, ImportError):
        return None
    if schemas and schemas <= SCHEMAS:
        return connection
    connection.close()
    return None


class Tables:
    """What the gate reads of them."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def experiment(self, name: str) -> int | None:
        """The id of an experiment; None where there is none."""
        table = _table("experiments", "experiment_id", "name", "workspace")
        return next(
            (row[0] for row in self._rows(table, [table.c.experiment_id], table.c.name == name)),
            None,
        )

    def experiments(self, prefix: str) -> list[str]:
        """Names of active experiments that begin with `prefix`, sorted."""
        table = _table("experiments", "name", "lifecycle_stage", "workspace")
        which = table.c.name.startswith(prefix, autoescape=True)
        found = self._rows(table, [table.c.name], which, table.c.lifecycle_stage == "active")
        # sqlite's LIKE takes `Gate/` for `gate/`
        return sorted(row[0] for row in found if row[0].startswith(prefix))

    def runs(self, experiment: int, *, tags: str, params: str) -> list[Stored]:
        """Every active run, with the tags and params that begin with `tags` and `params`."""
        run = _table("runs", "run_uuid", "start_time", "experiment_id", "lifecycle_stage")
        of_it = (run.c.experiment_id == experiment, run.c.lifecycle_stage == "active")
        found = {
            name: Stored(name, started)
            for name, started in self._read([run.c.run_uuid, run.c.start_time], *of_it)
        }

        def of(name: str, *columns: str) -> tuple[Any, list[Any], tuple[Any, ...]]:
            table = _table(name, "run_uuid", "key", *columns)
            joined = (table.c.run_uuid == run.c.run_uuid, *of_it)
            wanted = [table.c.run_uuid, table.c.key, *(table.c[column] for column in columns)]
            return table, wanted, joined

        for name, side, prefix in (("tags", "tags", tags), ("params", "params", params)):
            table, wanted, joined = of(name, "value")
            begun = table.c.key.startswith(prefix, autoescape=True)
            for one, key, value in self._read(wanted, *joined, begun):
                if one in found:  # what began since is left for the next reader
                    getattr(found[one], side)[key] = value
        table, wanted, joined = of("latest_metrics", "value", "is_nan")
        for one, key, value, is_nan in self._read(wanted, *joined):
            if one in found:
                found[one].metrics[key] = float("nan") if is_nan else value
        return list(found.values())

    def tagged(self, experiment: int, key: str, *, prefix: str, deleted: bool) -> list[Stored]:
        """The runs that have a tag, with those of their tags that begin with `prefix`."""
        run = _table("runs", "run_uuid", "start_time", "experiment_id", "lifecycle_stage")
        tag = _table("tags", "run_uuid", "key", "value")
        which = [run.c.experiment_id == experiment, tag.c.run_uuid == run.c.run_uuid]
        which += [] if deleted else [run.c.lifecycle_stage == "active"]
        wanted = [run.c.run_uuid, run.c.start_time]
        found = {
            name: Stored(name, started)
            for name, started in self._read(wanted, *which, tag.c.key == key)
        }
        begun = tag.c.key.startswith(prefix, autoescape=True)
        for part in _parts(list(found)):
            rows = self._read([tag.c.run_uuid, tag.c.key, tag.c.value],
                              tag.c.run_uuid.in_(part), begun)  # fmt: skip
            for name, which_tag, value in rows:
                found[name].tags[which_tag] = value
        return list(found.values())

    def aliased(self, name: str, alias: str) -> Registered | None:
        """The version of a registered model that an alias names; None where there is none."""
        named = _table("registered_model_aliases", "name", "alias", "version", "workspace")
        aliases = {
            row[0]: row[1]
            for row in self._rows(named, [named.c.alias, named.c.version], named.c.name == name)
        }
        number = aliases.get(alias)
        if number is None:
            return None
        table = _table(
            "model_versions", "name", "version", "creation_time", "run_id", "source", "status",
            "current_stage", "workspace",
        )  # fmt: skip
        of_it = (table.c.name == name, table.c.version == number)
        columns = [table.c.creation_time, table.c.run_id, table.c.source, table.c.status]
        kept = [table.c.current_stage.is_(None) | (table.c.current_stage != _DELETED)]
        row = next(iter(self._rows(table, columns, *of_it, *kept)), None)
        if row is None:
            return None
        tag = _table("model_version_tags", "name", "version", "key", "value", "workspace")
        tags = self._rows(
            tag, [tag.c.key, tag.c.value], tag.c.name == name, tag.c.version == number
        )
        created, run, source, status = row
        return Registered(
            version=str(number),
            created=created,
            run=run or "",
            source=source or "",
            status=status,
            tags=dict(map(tuple, tags)),
            aliases=tuple(sorted(key for key, version in aliases.items() if version == number)),
        )

    def _rows(self, table: Any, columns: Sequence[Any], *which: Any) -> list[Any]:
        """Of a table that workspaces share."""
        return self._read(columns, *which, table.c.workspace == _WORKSPACE)

    def _read(self, columns: Sequence[Any], *which: Any) -> list[Any]:
        import sqlalchemy

        return list(self._connection.execute(sqlalchemy.select(*columns).where(*which)))


def _table(name: str, *columns: str) -> Any:
    import sqlalchemy

    return sqlalchemy.table(name, *map(sqlalchemy.column, columns))


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _MANY):
        yield values[start : start + _MANY]
