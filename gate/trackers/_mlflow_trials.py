"""Trials of a search in MLflow: a run a search, and nested in it a run a trial."""

import time
from hashlib import sha256
from typing import Any

from gate.recipes import spelled
from gate.trackers import _mlflow_content as content
from gate.trials import Trial, named

_SEARCH = f"{content.PREFIX}search"
_TRIAL = f"{content.PREFIX}trial"
_KEY = f"{content.PREFIX}trial_key"
_PARENT = "mlflow.parentRunId"


def parent(client: Any, experiment: str, search: str) -> str:
    """The run of a search: the one that is there, else a new one."""
    quoted = search.replace("'", "")
    known = client.search_runs([experiment], f"tags.`{_SEARCH}` = '{quoted}'")
    if known:
        return str(known[0].info.run_id)
    run = client.create_run(experiment, tags={_SEARCH: quoted}, run_name=f"recover-{quoted}")
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def log(client: Any, experiment: str, above: str, trial: Trial) -> None:
    """A trial as it ended; one that is there already stays as it is."""
    from mlflow.entities import Metric, Param, RunTag

    key = sha256(f"{trial.outcome} {named(trial.recipe)}".encode()).hexdigest()
    if client.search_runs([experiment], f"tags.`{_KEY}` = '{above}/{key}'"):
        return
    now = round(1000 * time.time())
    run = client.create_run(
        experiment,
        start_time=now - round(1000 * trial.seconds),
        tags={_PARENT: above, _KEY: f"{above}/{key}"},
        run_name=f"trial-{trial.number}",
    )
    numbers = {
        "divergence": trial.divergence,
        "flips": trial.flips,
        "int8_share": trial.int8_share,
        "bytes": trial.bytes,
        "milliseconds": trial.milliseconds,
        **{f"{content.encode(one.budget)}/value": one.value for one in trial.estimates},
    }
    params = {
        "recipe": content.shortened(str(spelled(trial.recipe)), content.LONGEST_PARAM),
        "move": content.shortened(trial.move, content.LONGEST_PARAM),
        "examples": str(trial.examples),
    }
    tags = {_TRIAL: trial.outcome} | ({"error": trial.error} if trial.error else {})
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(k, float(v), now, 0) for k, v in numbers.items() if v is not None],
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(k, content.shortened(v, content.LONGEST_TAG)) for k, v in tags.items()],
    )
    ended = "FAILED" if trial.outcome == "failed" else "FINISHED"
    client.set_terminated(run.info.run_id, ended, end_time=now)
