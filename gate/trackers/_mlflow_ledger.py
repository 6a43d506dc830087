"""Attempts on a held-out set, counted in MLflow before they are made.

A reservation is a run of its own, so that neither Ctrl-C nor a crash takes it back, and a run that
somebody deletes in the UI still counts.
"""

from typing import Any

from gate.statistics.ledger import Attempt
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_store as store

KEY = f"{content.PREFIX}attempt_key"
_HELD_OUT = f"{content.PREFIX}population"
_DEMANDS = f"{content.PREFIX}demands"
_OUTCOME = f"{content.PREFIX}outcome"
_COMPLETE = f"{content.PREFIX}complete"


def reserve(
    client: Any, experiment: str, began: int | None, *, model: str, held_out: str, key: str
) -> None:
    """Write down that a release is about to be judged on a held-out set.

    `began` is in milliseconds since 1970, UTC; None: now.
    """
    tags = {
        "mlflow.source.name": "gate",
        "mlflow.source.type": "JOB",
        f"{content.PREFIX}model": model,
        KEY: key,
        _HELD_OUT: held_out,
        content.NOTE: "An attempt at a release, counted before it was judged. Do not delete it.",
    }
    name = f"attempt-{key[:12]}"
    run = client.create_run(experiment, start_time=began, tags=tags, run_name=name)
    client.set_terminated(run.info.run_id, "FINISHED", end_time=began)


def attempts(
    client: Any, experiment: str, held_out: str, *, until: int | None = None
) -> tuple[Attempt, ...]:
    """Reservations and judged releases on a held-out set that began by then, oldest first."""
    runs = _runs(client, experiment, f"tags.`{_HELD_OUT}` = '{held_out}'")
    return tuple(_attempt(run) for run in runs if until is None or run.info.start_time <= until)


def newest(client: Any, experiment: str) -> tuple[Attempt, ...]:
    """Those on the held-out set that the newest of all was on."""
    runs = _runs(client, experiment, f"tags.`{_HELD_OUT}` LIKE '%'")
    last = runs[-1].data.tags[_HELD_OUT] if runs else None
    return tuple(_attempt(run) for run in runs if run.data.tags[_HELD_OUT] == last)


def _runs(client: Any, experiment: str, which: str) -> list[Any]:
    """Deleted ones, too, oldest first."""
    from mlflow.entities import ViewType

    runs = store.pages(
        client.search_runs,
        experiment_ids=[experiment],
        filter_string=which,
        run_view_type=ViewType.ALL,
    )
    counted = [run for run in runs if KEY in run.data.tags]
    return sorted(counted, key=lambda run: (run.info.start_time, run.info.run_id))


def _attempt(run: Any) -> Attempt:
    tags = run.data.tags
    return Attempt(tags[KEY], _outcome(tags), tags.get(_DEMANDS, ""))


def _outcome(tags: dict[str, str]) -> str | None:
    return tags.get(_OUTCOME) if tags.get(_COMPLETE) == "true" else None
