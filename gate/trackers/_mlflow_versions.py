"""Versions of a registered model in MLflow, and their ONNX files, which are copied, never run."""

import posixpath
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from gate.errors import TrackerError
from gate.registered import Version
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_past as past
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store

_MLMODEL = "MLmodel"
_READY = "READY"


# ── what is registered ────────────────────────────────────────────────────────────────────


def registered(client: Any, name: str) -> Any:
    """The registered model of that name, with aliases and tags; None where there is none."""
    return _if_there(client.get_registered_model, name)


def aliases(model: Any) -> dict[str, str]:
    """The version that each alias of a registered model names."""
    return {alias: str(version) for alias, version in model.aliases.items()}


def every(client: Any, name: str) -> tuple[Version, ...]:
    """All versions of a registered model, by number."""
    model = registered(client, name)
    if model is None:
        return ()
    found = store.pages(client.search_model_versions, filter_string=f"name='{name}'")
    named = _by_version(aliases(model))
    return tuple(
        sorted((_version(one, named) for one in found), key=lambda version: version.number)
    )


def numbered(client: Any, name: str, version: str) -> Version | None:
    """The version of that number; None where there is none."""
    if not version.isdecimal():
        return None
    found = _if_there(client.get_model_version, name, version)
    model = None if found is None else registered(client, name)
    return None if model is None else _version(found, _by_version(aliases(model)))


def aliased(client: Any, name: str, alias: str) -> Version | None:
    """The version that an alias names; None where there is none."""
    model = registered(client, name)
    number = None if model is None else aliases(model).get(alias)
    found = None if number is None else _if_there(client.get_model_version, name, number)
    return None if found is None else _version(found, _by_version(aliases(model)))


def in_tables(tables: sql.Tables, name: str, alias: str) -> Version | None:
    """As `aliased`, from the tables of a database."""
    found = tables.aliased(name, alias)
    if found is None:
        return None
    ready = found.status == _READY
    tags = past.own_tags(found.tags) if ready else {"status": found.status.lower()}
    return Version(
        name=name,
        version=found.version,
        created=datetime.fromtimestamp(found.created / 1000, UTC),
        run=found.run,
        source=found.source,
        tags=MappingProxyType(tags),
        aliases=found.aliases,
    )


def _if_there(get: Any, *which: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return get(*which)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _by_version(named: Mapping[str, str]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for alias, version in sorted(named.items()):
        found[version].append(alias)
    return found


def _version(found: Any, named: Mapping[str, Sequence[str]]) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        run=found.run_id or "",
        source=found.source or "",
        tags=MappingProxyType(_tags(found)),
        aliases=tuple(named.get(str(found.version), ())),
    )


def _tags(found: Any) -> dict[str, str]:
    """The gate's own; of a version that the registry does not call ready only its status.

    Such a version stays in sight, as an alias may name it, but without record or outcome nothing
    takes it for a release.
    """
    if found.status != _READY:
        return {"status": str(found.status).lower()}
    return past.own_tags(found.tags)


# ── its files ─────────────────────────────────────────────────────────────────────────────


def fetch(client: Any, place: store.Place, version: Version, folder: Path) -> Path:
    """Copy a version's ONNX file, and what may be its external data, into an empty folder.

    The gate's own versions are `model.int8.onnx` and the files that begin with that name; of
    other producers' the onnx flavour in MLmodel names the file, and all that lies beside it
    comes along. Only files that the store lists are copied: no name leads out of the version.

    Raises:
        TrackerError: there is no ONNX file, or it cannot be told which.
    """
    files = _Remote.of(client, place, version)
    top = files.listed("")
    if content.MODEL in top:
        wanted = [name for name in top if name.startswith(content.MODEL)]
        return files.copied(wanted, folder)[content.MODEL]
    main = _named(files, top)
    beside = files.listed(posixpath.dirname(main))
    return files.copied(beside, folder)[main]


class _Remote:
    """The files of a version, where they are kept."""

    def __init__(self, repository: Any, shown: str) -> None:
        self._repository = repository
        self.shown = shown

    @classmethod
    def of(cls, client: Any, place: store.Place, version: Version) -> "_Remote":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = client.get_model_version_download_uri(version.name, version.version)
        repository = get_artifact_repository(
            uri, tracking_uri=place.uri, registry_uri=place.registry
        )
        return cls(repository, f"{version.uri} in MLflow at {place.shown}")

    def listed(self, folder: str) -> list[str]:
        """The files in one of its folders, as paths from the top."""
        found = self._repository.list_artifacts(folder or None)
        return sorted(file.path for file in found if not file.is_dir)

    def copied(self, names: Sequence[str], folder: Path) -> dict[str, Path]:
        """Copy files side by side into `folder`: where each came to lie."""
        made = {}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            for name in names:
                # without dst_path a local store would hand out its own live file
                local = Path(self._repository.download_artifacts(name, dst_path=scratch))
                made[name] = local.replace(folder / posixpath.basename(name))
        return made


def _named(files: _Remote, top: Sequence[str]) -> str:
    """The one ONNX file that MLmodel names, itself or as the only one in a folder."""
    data = _data(files, top)
    named = posixpath.normpath(data)
    if named in files.listed(posixpath.dirname(named)):
        return named
    inside = [name for name in files.listed(named) if name.endswith(".onnx")]
    if len(inside) != 1:
        raise TrackerError(
            f"{files.shown}: its {_MLMODEL} names {data!r}, which is no file and holds "
            f"{len(inside)} .onnx files, not 1: log the model again with mlflow.onnx.log_model"
        )
    return inside[0]


def _data(files: _Remote, top: Sequence[str]) -> str:
    """What MLmodel's onnx flavour names; parsed as data, and held to its own folder."""
    flavors = _flavors(files, top)
    if "onnx" not in flavors:
        raise TrackerError(
            f"{files.shown} has the flavours {', '.join(sorted(flavors)) or 'none'} and no "
            f"{content.MODEL}: only ONNX is read, which mlflow.onnx.log_model keeps"
        )
    told = flavors["onnx"]
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, str) or not _stays_inside(data):
        raise TrackerError(f"{files.shown}: its {_MLMODEL} points outside its folder: {data!r}")
    return data


def _flavors(files: _Remote, top: Sequence[str]) -> dict[str, Any]:
    if _MLMODEL not in top:
        raise TrackerError(
            f"{files.shown} holds neither {content.MODEL} nor {_MLMODEL}: its files are gone, or "
            "it was not made by MLflow"
        )
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        text = files.copied([_MLMODEL], Path(scratch))[_MLMODEL].read_bytes()
    try:
        return {str(key): told for key, told in yaml.safe_load(text)["flavors"].items()}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise TrackerError(f"{files.shown}: its {_MLMODEL} file is damaged: {error}") from error


def _stays_inside(data: str) -> bool:
    return (
        "\\" not in data
        and not data.startswith("/")
        and posixpath.normpath(data) not in ("", ".", "..")
        and not posixpath.normpath(data).startswith("../")
    )
