"""Candidates that MLflow keeps, as files on this machine; nothing of them is read here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gate import outside
from gate.errors import FetchError


@outside.reaches_out
def download(uri: str, folder: Path) -> tuple[str, Path]:
    """Copy an MLflow artifact into `folder`; the URI with its alias resolved, and the path.

    `dst_path` matters: without it a local store hands out its own live files.

    Raises:
        FetchError: it is not there, or cannot be reached.
    """
    folder.mkdir()
    with _mlflow_at_once():
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            uri = _pin(uri)
            local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
        except (MlflowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise FetchError(
                f"candidate {uri} cannot be fetched from {mlflow.get_tracking_uri()}: {first}"
            ) from error
    return uri, Path(local)


def _pin(uri: str) -> str:
    """`models:/name@alias` as `models:/name/3`, so that the record names what was judged."""
    if not uri.startswith("models:/") or "@" not in uri:
        return uri
    from mlflow import MlflowClient

    name, _, alias = uri.removeprefix("models:/").partition("@")
    return f"models:/{name}/{MlflowClient().get_model_version_by_alias(name, alias).version}"


@contextmanager
def _mlflow_at_once() -> Iterator[None]:
    """MLflow that fails within seconds, not after its default four minutes, and keeps quiet."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    missing = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            os.environ.pop(key, None)
