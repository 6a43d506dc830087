"""Opens an MLflow store: says where it is, fails fast, keeps quiet, and leaves nothing behind."""

import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gate.errors import TrackerError

_PAGE = 1000
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",  # a hash that is cut would still look like one
}
PROMPT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
CHATTER = {"mlflow": logging.WARNING, "urllib3.connectionpool": logging.ERROR}

_SQLITE_FILE = re.compile(
    r"(?P<dialect>sqlite(?:\+\w+)?:///)(?P<file>(?!file:|:)[^?]+)(?P<rest>\?.*)?"
)
_SPECIAL = frozenset("%?")
_ADDRESS = re.compile(r"<[^<>]* object at 0x[0-9a-f]+>:? ?")
_CAUSE = re.compile(r""".*\(Caused by \w+\(["']?(?:\w+\([^()]*\): )?(.+?)["']?\)+""")
DATABASES = ("sqlite", "postgres", "mysql", "mssql")
_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
_CONNECT_TIMEOUT_S = 5
_LOCK_TIMEOUT_S = 120
_PAUSES_S = (0.2, 0.5, 1.0)
_ADVISORY_LOCK = 0x67617465  # "gate"; a database has one name space for all that lock in it
_LONGEST_REASON = 400
# what artifact stores raise, where their library is loaded
_CLOUD_ERRORS = (
    ("boto3.exceptions", "Boto3Error"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("azure.core.exceptions", "AzureError"),
)
_ANSWERED: set[tuple[str, int, int]] = set()
"""sqlite files whose registry has answered this process: by URI, and by where they lie."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is."""

    uri: str
    """As MLflow is given it; a relative sqlite path is made absolute."""
    registry: str
    file: Path | None
    """The database, where it is a sqlite file."""

    @property
    def shown(self) -> str:
        """The URI without its user and password."""
        return _without_user(self.uri)

    @property
    def missing(self) -> bool:
        """Whether it is a sqlite file that nobody has written to yet."""
        return self.file is not None and not (self.file.exists() and self.file.stat().st_size)

    def artifacts(self, experiment: str) -> str | None:
        """Where a new experiment keeps its artifacts; None where the server decides.

        `MLFLOW_DEFAULT_ARTIFACT_ROOT` as `mlflow server` reads it, else beside a sqlite file.

        Raises:
            TrackerError: a database that other machines reach, and no root that they reach, too.
        """
        if not self.uri.startswith(DATABASES):
            return None
        if root := os.environ.get(_ROOT, "").strip():
            base = root if "://" in root else Path(root).absolute().as_uri()
            return f"{base.rstrip('/')}/{experiment}"
        if self.file is None:
            raise TrackerError(
                f"MLflow at {self.shown} is a database, which does not say where files are kept, "
                f"and in the working folder nobody would find them: set {_ROOT} (`s3://…`, or a "
                "folder that every machine reaches), or name a server in MLFLOW_TRACKING_URI"
            )
        return (self.file.parent / "mlruns" / experiment).as_uri()

    def lock(self) -> AbstractContextManager[Any]:
        """Held while something is made that parallel runs would make twice.

        On PostgreSQL it is an advisory lock of the database, so it holds for all machines; a
        server and other databases have none. It is not reentrant.
        """
        if self.file is None:
            return _advisory(self) if self.uri.startswith("postgres") else nullcontext()
        from filelock import FileLock

        self.file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.file}.lock", timeout=_LOCK_TIMEOUT_S)


def locate() -> Place:
    """The store that `MLFLOW_TRACKING_URI` names, else `mlflow.db` in the working folder.

    Raises:
        TrackerError: the URI cannot be read.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    uri = uri or f"sqlite:///{_quoted(Path.cwd() / 'mlflow.db')}"
    file = None
    if match := _SQLITE_FILE.fullmatch(uri):
        file = _unquoted(match["file"]).absolute()
        uri = f"{match['dialect']}{_quoted(file)}{match['rest'] or ''}"
    try:
        urlsplit(uri)
    except ValueError as error:
        raise TrackerError(f"MLFLOW_TRACKING_URI {uri!r} is not a URI: {error}") from error
    return Place(uri=uri, registry=os.environ.get("MLFLOW_REGISTRY_URI") or uri, file=file)


def _quoted(file: Path) -> str:
    """A path as SQLAlchemy's version here writes it in a URI: for 2.1 `%41` means `A`."""
    text = str(file)
    if not _SPECIAL & set(text):
        return text
    import sqlalchemy

    return str(sqlalchemy.URL.create("sqlite", database=text)).removeprefix("sqlite:///")


def _unquoted(text: str) -> Path:
    if "%" not in text:
        return Path(text)
    import sqlalchemy

    return Path(str(sqlalchemy.make_url(f"sqlite:///{text}").database))


@contextmanager
def opened(place: Place) -> Iterator[Any]:
    """An `MlflowClient` of a store that has answered; the first question waits seconds at most.

    Inside, MLflow prints nothing and retries little; afterwards the environment is as it was.

    Raises:
        TrackerError: the store refused or cannot be reached.
    """
    with _environment(QUIET, override=True):
        import_module("mlflow")  # first: it sets up the loggers that are hushed
        with _hushed(), _told(place):
            client = _reached(place)
            with _environment(PATIENT, override=False):
                yield client


def _reached(place: Place) -> Any:
    """A client, after one answer from store and registry."""
    with _environment(PROMPT, override=True):
        _demand_writable(place)
        with nullcontext() if place.file and not place.missing else place.lock():
            if place.missing:
                _create(place)
            _knock(place)
            client = _client(place.uri, place.registry)
            client.search_experiments(max_results=1)
            _demand_registry(place, client)
    return client


def _demand_registry(place: Place, client: Any) -> None:
    """An answer of the registry too; a file that gave one need not be asked again and again."""
    if place.registry != place.uri:
        client.search_registered_models(max_results=1)
    elif place.file is not None:
        found = place.file.stat()
        this = (place.uri, found.st_dev, found.st_ino)
        if this not in _ANSWERED:
            client.search_registered_models(max_results=1)
            _ANSWERED.add(this)


def _client(uri: str, registry: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=registry)


def _create(place: Place) -> None:
    """Make the database under another name first: one that is half migrated stays broken."""
    assert place.file is not None
    partial = place.file.with_name(f"{place.file.name}.partial")
    for left_over in (partial, partial.with_name(f"{partial.name}-journal")):
        left_over.unlink(missing_ok=True)
    uri = place.uri.replace(_quoted(place.file), _quoted(partial))
    _client(uri, uri).search_experiments(max_results=1)
    partial.replace(place.file)


def _knock(place: Place) -> None:
    """Ask a database once: MLflow itself would try for 100 s before it says what is wrong."""
    if not place.uri.startswith(DATABASES):
        return
    import sqlalchemy

    sqlalchemy.inspect(engine(place)).get_table_names()


def engine(place: Place) -> Any:
    """A connection of the gate's own, which waits seconds at most for a database to answer."""
    import sqlalchemy

    remote = place.uri.startswith(("postgres", "mysql"))
    options = {"connect_timeout": _CONNECT_TIMEOUT_S} if remote else {}
    pool = sqlalchemy.pool.NullPool
    return sqlalchemy.create_engine(place.uri, connect_args=options, poolclass=pool)


@contextmanager
def _advisory(place: Place) -> Iterator[None]:
    """An advisory lock of a PostgreSQL database, held by a transaction that does nothing else."""
    import sqlalchemy

    with engine(place).begin() as connection:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        yield


def _demand_writable(place: Place) -> None:
    for path in (place.file, place.file.parent) if place.file else ():
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is not writable")


# ── quiet ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _environment(values: Mapping[str, str], *, override: bool) -> Iterator[None]:
    """These variables for a while; without `override` only those that the user has not set."""
    changed = {key: value for key, value in values.items() if override or key not in os.environ}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _hushed() -> Iterator[None]:
    """Log lines that are no warnings, and retries whose failure is told anyway, are left out."""
    loggers = {logging.getLogger(name): level for name, level in CHATTER.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(max(level, logger.level))
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


# ── errors ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Whatever the store raises, as a `TrackerError` in plain words."""
    try:
        yield
    except TrackerError:
        _forget()
        raise
    except _failures() as error:
        _forget()
        raise TrackerError(f"MLflow at {place.shown}: {reason(error, place)}") from error


def _forget() -> None:
    """MLflow remembers where a run's files lie as long as the process lives, nonsense, too."""
    known = sys.modules.get("mlflow.tracking._tracking_service.utils")
    getattr(known, "_artifact_repos_cache", {}).clear()


def _failures() -> tuple[type[BaseException], ...]:
    """Every way in which a store fails; whatever else is raised is a defect and stays one."""
    from json import JSONDecodeError

    from alembic.util.exc import CommandError
    from google.protobuf.json_format import Error as MessageError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    cloud = (getattr(sys.modules.get(module), name, None) for module, name in _CLOUD_ERRORS)
    known = (MlflowException, RequestException, SQLAlchemyError, CommandError, OSError, ImportError)
    garbled = (JSONDecodeError, MessageError)
    return (*known, *garbled, *(error for error in cloud if error is not None))


def reason(error: BaseException, place: Place) -> str:
    """One line, its cause where it names one, without the URI's password."""
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    text = _ADDRESS.sub("", " ".join(text.split())).rstrip(".")
    if cause := _CAUSE.fullmatch(text):
        text = f"no connection: {cause[1]}"
    if isinstance(error, ImportError):
        text = f"{text}; install it, or name another store in MLFLOW_TRACKING_URI"
    text = text.replace(place.uri, place.shown)
    user = urlsplit(place.uri).netloc.rpartition("@")[0]
    text = text.replace(f"{user}@", "") if user else text
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


def _without_user(uri: str) -> str:
    user, at, _ = urlsplit(uri).netloc.rpartition("@")
    return uri.replace(f"{user}@", "", 1) if at else uri


# ── requests ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def unrepeated() -> Iterator[None]:
    """Inside, a request is sent once: one whose answer was lost would make its thing twice."""
    with _environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, override=True):
        yield


def insisted(call: Callable[[], Made]) -> Made:
    """The first answer of a call that may be made again, and looks for what it made before.

    Where two gates make the same thing at once (a data set's row, the next version's number),
    MLflow lets one of them fail.
    """
    from mlflow.exceptions import MlflowException

    for longest in _PAUSES_S:
        try:
            return call()
        except MlflowException:
            time.sleep(random.uniform(0, longest))  # noqa: S311  (it only spreads the load)
    return call()


def pages(search: Any, **asked: Any) -> Iterator[Any]:
    """Everything that a paged search finds."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token, **asked)
        yield from page
        token = page.token
        if not token:
            return
