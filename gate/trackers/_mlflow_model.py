"""The INT8 model as MLflow keeps it: its exact bytes, and beside them an MLmodel of the onnx kind.

`mlflow.onnx.log_model` would read the model into memory and write other bytes than were judged.
"""

import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from gate import artifact
from gate.errors import TrackerError
from gate.records import GateRecord, TensorInfo
from gate.registered import registered_name
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_store as store

_MODEL = "model"
READY_S = 30
"""How long a version may take to be ready; MLflow waits ten times as long, for nonsense, too."""
_NEEDED = ("onnx", "onnxruntime", "numpy")


def judged_files(record: GateRecord, folder: Path) -> list[Path]:
    """The INT8 model in a record's folder, its external data after it.

    Raises:
        TrackerError: it is not there, or it is not the model that the verdict is about.
    """
    path = folder / content.MODEL
    if not path.is_file():
        raise TrackerError(
            f"{folder} holds no {content.MODEL}: a release cannot be registered without its model"
        )
    files = content.model_files(folder)
    found = artifact.sha256_of(*files)
    if found != record.int8.sha256:
        raise TrackerError(
            f"{path} is not the model that was judged: its sha256 is {found}, and the record says "
            f"{record.int8.sha256}. Run the gate again; nothing was registered"
        )
    return files


def describe(record: GateRecord, run: str, model: Path, folder: Path) -> None:
    """Write MLmodel and its requirements, for a model that lies beside them, into `folder`."""
    from mlflow.models import Model

    described = Model(artifact_path="model", run_id=run, signature=_signature(record))
    python = ".".join(map(str, sys.version_info[:3]))
    described.add_flavor(  # as mlflow.pyfunc.add_to_model does, whose import warns and takes 1 s
        "python_function",
        loader_module="mlflow.onnx",
        python_version=python,
        data=model.name,
        env={"virtualenv": "python_env.yaml"},
    )
    described.add_flavor(
        "onnx",
        onnx_version=record.provenance.versions.get("onnx", metadata.version("onnx")),
        data=model.name,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    described.save(str(folder / "MLmodel"))
    (folder / "requirements.txt").write_text(_requirements(record), encoding="utf-8")
    environment = {"python": python, "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment), encoding="utf-8")


def _requirements(record: GateRecord) -> str:
    used = record.provenance.versions
    wanted = {"mlflow": metadata.version("mlflow")}
    wanted |= {name: used[name] for name in _NEEDED if name in used}
    return "".join(f"{name}=={version}\n" for name, version in wanted.items())


def _signature(record: GateRecord) -> Any:
    """Inputs and outputs as MLflow shows them; None where numpy has no such type (bfloat16)."""
    import numpy as np
    from mlflow.models import ModelSignature

    inputs, outputs = record.candidate.inputs, record.candidate.outputs
    if any(info.dtype not in np.sctypeDict for info in (*inputs, *outputs)):
        return None
    return ModelSignature(inputs=_schema(inputs), outputs=_schema(outputs))


def _schema(infos: tuple[TensorInfo, ...]) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    free = -1
    shapes = [tuple(free if size is None else size for size in info.shape) for info in infos]
    return Schema(
        [
            TensorSpec(np.dtype(info.dtype), shape, info.name)
            for info, shape in zip(infos, shapes, strict=True)
        ]
    )


def register(client: Any, run: Any, record: GateRecord, files: Sequence[Path]) -> str:
    """The version of the registered INT8 model that this run made; uploaded once."""
    name, run_id = registered_name(record.model), run.info.run_id
    if (known := _registered(client, name, run_id)) is not None:
        return known
    for path in files:
        client.log_artifact(run_id, str(path), _MODEL)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        describe(record, run_id, files[0], Path(scratch))
        client.log_artifacts(run_id, scratch, _MODEL)

    def version() -> str:
        known = _registered(client, name, run_id)  # an answer may have been lost
        return known or _created(client, name, run, record)

    return store.insisted(version)


def _registered(client: Any, name: str, run_id: str) -> str | None:
    """The version that a run made; None where it made none."""
    known = registered(client, name, run_id)
    return str(known[0].version) if known else None


def registered(client: Any, name: str, run_id: str) -> Sequence[Any]:
    """Every version of the registered model that a run made."""
    found: Sequence[Any] = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return found


def _created(client: Any, name: str, run: Any, record: GateRecord) -> str:
    """A new version, and the registered model where this is its first."""
    from mlflow.exceptions import MlflowException

    def create() -> str:
        with store.unrepeated():
            made = client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/{_MODEL}",
                run_id=run.info.run_id,
                tags=content.version_tags(record),
                description=f"INT8 of {record.candidate.source}",
                await_creation_for=READY_S,
            )
        return str(made.version)

    try:
        return create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    _ensure_registered(client, name, record)
    return create()


def _ensure_registered(client: Any, name: str, record: GateRecord) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags={f"{content.PREFIX}model": record.model})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
