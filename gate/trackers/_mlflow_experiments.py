"""A model's experiment in MLflow: `gate/<model>`, where all its runs are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gate.errors import TrackerError
from gate.trackers import _mlflow_store as store

FOLDER = "gate/"


def models(client: Any) -> tuple[str, ...]:
    """Every model that has an experiment, sorted."""
    found = store.pages(client.search_experiments, filter_string=f"name LIKE '{FOLDER}%'")
    return tuple(sorted(entry.name.removeprefix(FOLDER) for entry in found))


@contextmanager
def kept(model: str) -> Iterator[tuple[Any, str] | None]:
    """A client and the id of a model's experiment; None where there is no such experiment.

    Raises:
        TrackerError: the store refused or cannot be reached.
    """
    place = store.locate()
    if place.missing:
        yield None
        return
    with store.opened(place) as client:
        experiment = client.get_experiment_by_name(f"{FOLDER}{model}")
        yield None if experiment is None else (client, str(experiment.experiment_id))


def ensured(client: Any, place: store.Place, model: str) -> str:
    """The id of a model's experiment, which is made where there is none.

    Raises:
        TrackerError: somebody deleted it.
    """
    from mlflow.exceptions import MlflowException

    name = f"{FOLDER}{model}"
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=place.artifacts(name)))
        except MlflowException as error:
            known = client.get_experiment_by_name(name)
            if known is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if known.lifecycle_stage != "active":
        raise TrackerError(
            f"MLflow at {place.shown}: the experiment {name!r} is deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {known.experiment_id}`"
        )
    return str(known.experiment_id)
