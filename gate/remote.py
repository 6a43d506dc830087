"""Files behind URIs, fetched once into a folder and then read as any other.

What is fetched lies under the sha256 of its URI and of what the place tells about its version
(size, and entity tag or time of change), so that a change is fetched anew and nothing is fetched
twice. Whether it is the right content is for pins and digests, as with any file.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from gate import outside
from gate.errors import DataError, UsageError

CACHE = Path(".gate") / "cache" / "data"
"""Relative to the current folder, as the folders of runs are."""
SCHEMES = ("s3", "gs", "https", "file", "memory")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_VERSIONS = (
    "ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "Last-Modified", "updated",
    "created",
)  # fmt: skip
_CHAIN = "::"
_Info = Mapping[str, Any]


def is_uri(path: str) -> bool:
    """Whether a policy's path names no local one; `C:/data` does."""
    return _SCHEME.match(path) is not None


def problem(uri: str) -> str | None:
    """Why a URI is none that data are read from; None where it is."""
    match = _SCHEME.match(uri)
    scheme = match.group(1) if match else ""
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        return f"is a URI of a kind that data are not read from; known are {known}"
    begin = "file:///" if scheme == "file" else f"{scheme}://"
    if not uri.startswith(begin) or len(uri) == len(begin):
        return f"is no whole URI; write `{begin}` and then the place"
    if _CHAIN in uri:  # fsspec would go on to another place
        return f"holds {_CHAIN!r}, which no path of data does; rename the file"
    if scheme == "https" and uri.endswith("/"):
        return "is a folder, and https has no list of files; name one file, or write s3:// or gs://"
    return None


def shown(path: str, found: Path) -> str:
    """How messages name what a policy calls `path` and is read from `found`."""
    return path if is_uri(path) else str(found)


def local(path: str, base: Path) -> Path:
    """Where a policy's path lies on this machine, whether or not anything is there.

    A URI is fetched into `CACHE`, where that version of it is not there yet; one that ends in `/`
    with all files below it.

    Raises:
        UsageError: nothing is behind the URI, or a library is missing that reads it.
        DataError: it cannot be fetched, or a name in a folder would lead out of it.
    """
    if not is_uri(path):
        return base / path
    wrong = problem(path)
    if wrong is not None:
        raise UsageError(f"{path!r} {wrong}")
    return _brought(path)


@outside.reaches_out
def _brought(uri: str) -> Path:
    with _told(uri):
        return _fetched(uri).resolve()


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Errors of any library as ours."""
    try:
        yield
    except (UsageError, DataError):
        raise
    except ImportError as error:
        raise UsageError(
            f"{uri} needs a library that is not installed ({error}): "
            "pip install 'int8-gate[remote]', or fetch the data and write a local path"
        ) from error
    except FileNotFoundError as error:
        # over https a refused connection is one, too, and says so by its cause
        if isinstance(error.__cause__, FileNotFoundError | None):
            raise UsageError(f"there is nothing at {uri}; correct the URI") from error
        raise _unreachable(uri, error.__cause__) from error
    except Exception as error:  # each store's library has exceptions of its own
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: BaseException | None) -> DataError:
    why = " ".join(str(error).split()) or type(error).__name__
    return DataError(
        f"{uri} cannot be fetched ({why}): check network and credentials, or try again"
    )


def _fetched(uri: str) -> Path:
    from fsspec.core import url_to_fs

    name = _name(uri)
    system, root = url_to_fs(uri)
    files = _below(uri, system, root) if uri.endswith("/") else _alone(uri, system, root)
    kept = CACHE / _key(uri, files)
    if not kept.exists():
        with _new(kept) as folder:
            _get(uri, system, files, folder / name)
    return kept / name


# ── what is there ─────────────────────────────────────────────────────────────────────────


def _alone(uri: str, system: Any, root: str) -> dict[str, tuple[str, _Info]]:
    """The one file, under no name: it becomes what `_name` says."""
    info = system.info(root)
    if info.get("type") == "directory":
        raise UsageError(f"{uri} is a folder; write it with `/` at its end")
    return {"": (root, info)}


def _below(uri: str, system: Any, root: str) -> dict[str, tuple[str, _Info]]:
    """Every file of a folder: name within it to name in the store, and what is known of it."""
    system.invalidate_cache()
    found = system.find(root, detail=True)
    files = {
        _inner(uri, name, root): (name, info)
        for name, info in sorted(found.items())
        if info.get("type") != "directory" and not name.endswith("/")
    }
    if not files:
        raise UsageError(f"there is nothing at {uri}; correct the URI")
    return files


def _inner(uri: str, name: str, root: str) -> str:
    """A file's name within the folder, proven to stay there."""
    inner = name.removeprefix(root.rstrip("/") + "/")
    parts = inner.split("/")
    inside = inner != name and not {"", ".", ".."} & set(parts)
    if not inside or "\\" in inner or not inner.isprintable():
        raise DataError(
            f"{uri} holds {name!r}, a name that would lead out of the folder or is no text; "
            "rename it, or take it out"
        )
    return inner


def _name(uri: str) -> str:
    """The last part, whose ending tells the format; without what a query adds."""
    name = PurePosixPath(urlsplit(uri).path if uri.startswith("https:") else uri).name
    if name in ("", ".", "..") or "\\" in name or not name.isprintable():
        raise UsageError(f"{uri!r} ends in no name of a file or folder; correct the URI")
    return name


def _key(uri: str, files: Mapping[str, tuple[str, _Info]]) -> str:
    """Of the URI, and of size and version of each file."""
    parts = [uri]
    for inner, (_, info) in files.items():
        versions = [f"{name}={info[name]}" for name in _VERSIONS if info.get(name) is not None]
        # where nothing tells one version from another, none is taken for another
        version = versions[0] if versions else os.urandom(16).hex()
        parts += [inner, str(info.get("size")), version]
    return sha256("\0".join(parts).encode()).hexdigest()


# ── fetching ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def _new(kept: Path) -> Iterator[Path]:
    """A folder that appears at `kept` when it is whole, unless another run was faster."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="fetching-", dir=kept.parent))
    try:
        yield folder
        try:
            folder.rename(kept)
        except OSError:
            if not kept.exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _get(uri: str, system: Any, files: Mapping[str, tuple[str, _Info]], target: Path) -> None:
    """Fetch every file, and see that each came whole."""
    places = [target / inner if inner else target for inner in files]
    for folder in {place.parent for place in places}:
        folder.mkdir(parents=True, exist_ok=True)
    system.get([name for name, _ in files.values()], [str(place) for place in places])
    for place, (name, info) in zip(places, files.values(), strict=True):
        size = info.get("size")
        # a web server may send a file packed, and its length is then another
        told = None if uri.startswith("https:") else size
        if not place.is_file() or (told is not None and place.stat().st_size != told):
            raise DataError(
                f"{uri}: {name} did not arrive whole ({size} bytes were told): it changed "
                "meanwhile, or the connection broke; try again"
            )
