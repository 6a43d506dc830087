"""Moves of an alias in MLflow: done one at a time, and written down before and after."""

import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn

from gate.errors import RecordError, TrackerError, UsageError
from gate.registered import Move, registered_name
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_experiments as experiments
from gate.trackers import _mlflow_past as past
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store
from gate.trackers import _mlflow_versions as versions
from gate.wording import plain

_MOVE = f"{content.PREFIX}move"
"""When, in ISO 8601: a run's own start has milliseconds only, and cannot be changed."""
_COMPLETE = f"{content.PREFIX}complete"
_CLAIM = f"{content.PREFIX}moving."
_STALE_S = 60
_NONE = "none"
_KINDS: dict[str, Literal["promote", "rollback"]] = {"promote": "promote", "rollback": "rollback"}
_ALIAS = re.compile(r"(?!(?:v\d+|latest)$)[\w-]{1,200}", re.IGNORECASE | re.ASCII)


# ── written down ──────────────────────────────────────────────────────────────────────────


def every(client: Any, experiment: str, model: str) -> tuple[Move, ...]:
    """Every move of a model's aliases, oldest first."""
    return tuple(entry for _, entry in _entries(client, experiment, model))


def in_tables(tables: sql.Tables, experiment: int, model: str) -> tuple[Move, ...]:
    """The same, from the tables of a database."""
    runs = tables.tagged(experiment, _MOVE, prefix=content.PREFIX, deleted=True)
    return tuple(entry for _, entry in _sorted(runs, model))


def _entries(client: Any, experiment: str, model: str) -> list[tuple[str, Move]]:
    """With the ids of their runs; deleted ones, too: what was done was done."""
    from mlflow.entities import ViewType

    runs = store.pages(
        client.search_runs,
        experiment_ids=[experiment],
        filter_string=f"tags.`{_MOVE}` LIKE '%'",
        run_view_type=ViewType.ALL,
    )
    return _sorted(map(past.stored, runs), model)


def _sorted(runs: Iterable[sql.Stored], model: str) -> list[tuple[str, Move]]:
    found = [(run.run, _read(run, model)) for run in runs]
    return sorted(found, key=lambda entry: (entry[1].when, entry[0]))


def _read(run: sql.Stored, model: str) -> Move:
    known = past.own_tags(run.tags)
    try:
        return Move(
            model=model,
            alias=known["alias"],
            version=_number(known["version"]),
            previous=None if known["previous"] == _NONE else _number(known["previous"]),
            kind=_KINDS[known["kind"]],
            record=known["record"],
            int8_sha256=known["int8_sha256"],
            who=known["who"],
            why=known["why"],
            when=_time(known["move"]),
            complete=known.get("complete") == "true",
        )
    except (KeyError, ValueError) as error:
        raise RecordError(
            f"run {run.run} in MLflow, which says that an alias of {model} moved, is "
            f"damaged ({type(error).__name__}: {error}): put its tags right"
        ) from error


def _number(text: str) -> str:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no version")
    return text


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return when


def _written(move: Move) -> dict[str, str]:
    told = {
        "move": move.when.isoformat(),
        "model": move.model,
        "alias": move.alias,
        "version": move.version,
        "previous": move.previous or _NONE,
        "kind": move.kind,
        "record": move.record,
        "int8_sha256": move.int8_sha256,
        "who": move.who,
        "why": move.why,
        "complete": "false",
    }
    return {
        f"{content.PREFIX}{key}": content.shortened(value, content.LONGEST_TAG)
        for key, value in told.items()
    }


# ── done ──────────────────────────────────────────────────────────────────────────────────


def move(client: Any, place: store.Place, wanted: Move) -> None:
    """Move an alias; what it guarantees is told at `MlflowRegistry.move`."""
    demand_alias(wanted.alias)
    state = _State(client, wanted)
    # the lock is the tracking store's: a registry of its own may be that of other stores, too
    alone = place.file is not None and place.registry == place.uri
    with place.lock(), nullcontext() if alone else _claimed(client, state):
        _move(client, place, wanted, state)


class _State:
    """What the registry says of an alias, read anew each time it is asked for."""

    def __init__(self, client: Any, wanted: Move) -> None:
        self.client = client
        self.wanted = wanted
        self.name = registered_name(wanted.model)
        self.claim: str | None = None
        """What this process wrote, where it had to."""

    @property
    def claim_key(self) -> str:
        return f"{_CLAIM}{self.wanted.alias}"

    def read(self) -> tuple[str | None, str | None]:
        """The version that the alias names, and the claim on it: one request."""
        model = versions.registered(self.client, self.name)
        if model is None:
            _refuse(f"there is no registered model {self.name!r}: release it first")
        return versions.aliases(model).get(self.wanted.alias), model.tags.get(self.claim_key)

    def now(self) -> str | None:
        """The version that the alias names, where the claim is still this process's."""
        now, claim = self.read()
        if self.claim is not None and claim != self.claim:
            _refuse(f"another move of {self.alias} has begun meanwhile; look, and try again")
        return now

    @property
    def alias(self) -> str:
        return f"{self.name}@{self.wanted.alias}"


def _move(client: Any, place: store.Place, wanted: Move, state: _State) -> None:
    experiment = experiments.ensured(client, place, wanted.model)
    entries = [
        entry
        for entry in _entries(client, experiment, wanted.model)
        if entry[1].alias == wanted.alias
    ]
    known = _known(entries, wanted)
    now = state.now()
    if known is not None and now == wanted.version:
        run, entry = known
        if not entry.complete:
            _complete(client, state, run, entry)
        return
    _demand_previous(state, now)
    _demand_version(state)
    cut_short = None if known is None or known[1].complete else known[0]
    wanted = _after(entries, wanted)
    run = _begin(client, experiment, wanted, cut_short)
    _demand_previous(state, state.now())
    client.set_registered_model_alias(state.name, wanted.alias, wanted.version)
    _demand_moved(state)
    _complete(client, state, run, wanted)


def _known(entries: list[tuple[str, Move]], wanted: Move) -> tuple[str, Move] | None:
    """The newest of the alias's moves that were written down, where it is this one."""
    if not entries:
        return None
    newest = entries[-1][1]
    same = all(
        getattr(newest, key) == getattr(wanted, key)
        for key in ("version", "record", "kind", "int8_sha256")
    )
    return entries[-1] if same else None


def _after(entries: list[tuple[str, Move]], wanted: Move) -> Move:
    """The move, later than the one before it, whatever this machine's clock says.

    Moves are told apart and read back in the order of their times.
    """
    if not entries or entries[-1][1].when < wanted.when:
        return wanted
    return replace(wanted, when=entries[-1][1].when + timedelta(milliseconds=1))


def _demand_previous(state: _State, now: str | None) -> None:
    wanted = state.wanted
    if now != wanted.previous:
        told = f"version {now}" if now else "no version"
        expected = f"version {wanted.previous}" if wanted.previous else "none"
        _refuse(
            f"{state.alias} names {told}, and not {expected} as when version {wanted.version} was "
            "checked: somebody moved it meanwhile. Look why, and try again"
        )


def _demand_version(state: _State) -> None:
    number = state.wanted.version
    found = versions.numbered(state.client, state.name, number)
    if found is None or "status" in found.tags:
        told = "is gone" if found is None else f"has the status {found.tags['status']}"
        _refuse(f"version {number} of {state.name} {told}; {state.alias} is where it was")


def _demand_moved(state: _State) -> None:
    now, _ = state.read()
    if now != state.wanted.version:
        told = f"version {now}" if now else "no version"
        _refuse(
            f"{state.alias} was set to version {state.wanted.version} and names {told} now: "
            "somebody moved it at the same time. Look which one is meant; `gate audit` shows both"
        )


def _begin(client: Any, experiment: str, wanted: Move, run: str | None) -> str:
    """The intention, in a run of its own; one that was cut short takes the new attempt's words."""
    from mlflow.entities import RunTag

    tags = _written(wanted)
    if run is not None:
        client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])
        return run
    tags |= {"mlflow.source.name": "gate", "mlflow.source.type": "JOB"}
    tags[content.NOTE] = "An alias that the gate moved. Do not delete it."
    name = f"{wanted.kind}-{wanted.alias}-{wanted.version}"
    started = round(1000 * wanted.when.timestamp())
    with store.unrepeated():
        made = client.create_run(experiment, start_time=started, tags=tags, run_name=name)
    return str(made.info.run_id)


def _complete(client: Any, state: _State, run: str, entry: Move) -> None:
    """Tag the version, and say last that nothing is missing from the entry."""
    key = f"{content.PREFIX}promoted.{entry.alias}"
    told = f"{entry.when.isoformat(timespec='seconds')} by {entry.who} ({entry.kind})"
    client.set_model_version_tag(state.name, entry.version, key, told)
    client.set_terminated(run, "FINISHED")
    client.set_tag(run, _COMPLETE, "true")


# ── one at a time, where there is no file to lock ─────────────────────────────────────────


@contextmanager
def _claimed(client: Any, state: _State) -> Iterator[None]:
    """A tag of the registered model that says who moves the alias, and since when."""
    _, claim = state.read()
    if claim is not None and not _stale(claim):
        _refuse(
            f"another move of {state.alias} is under way (since {_since(claim):%H:%M:%S} UTC); try "
            f"again in {_STALE_S} s"
        )
    state.claim = f"{uuid.uuid4().hex} {time.time():.3f}"
    client.set_registered_model_tag(state.name, state.claim_key, state.claim)
    try:
        yield
    finally:
        if state.read()[1] == state.claim:
            client.delete_registered_model_tag(state.name, state.claim_key)


def _stale(claim: str) -> bool:
    return abs(time.time() - _since(claim).timestamp()) > _STALE_S


def _since(claim: str) -> datetime:
    _, _, seconds = claim.partition(" ")
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def demand_alias(alias: str) -> None:
    """Show that MLflow takes a name for an alias, and does not read it as something else.

    Raises:
        UsageError: it does not.
    """
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"{plain(alias)!r} cannot be an alias in MLflow: letters, digits, `_` and `-`, and "
            "neither `latest` nor a version like `v1`"
        )


def _refuse(message: str) -> NoReturn:
    raise TrackerError(message)
