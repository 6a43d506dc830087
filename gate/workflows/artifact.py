"""What strangers hand in: the artifact of a workflow that ran on a pull request from a fork."""

import zipfile
import zlib
from pathlib import Path

from gate.errors import RecordError

MOST_BYTES = 5_000_000
"""Of a record.json; a record with a thousand slices has less than a tenth of it."""
_RECORD = "record.json"
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others could ask for gigabytes of memory before they give a byte."""


def record_of(archive: Path) -> bytes:
    """The record.json of a zip that holds nothing else.

    No name in the archive becomes a path, and no more is unpacked than a record may have, whatever
    the archive says of its size.

    Raises:
        RecordError: it is no such archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [entry.filename for entry in opened.infolist()]
            if names != [_RECORD]:
                raise RecordError(f"{archive} holds {len(names)} files, and not {_RECORD} alone")
            if opened.infolist()[0].compress_type not in _PACKED:
                raise RecordError(
                    f"{archive} is not packed as GitHub packs an artifact: deflated, or as it is"
                )
            with opened.open(_RECORD) as stream:
                content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise RecordError(f"{archive} cannot be unpacked: {error}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{archive} is no zip archive, or a damaged one: {error}") from error
    if len(content) > MOST_BYTES:
        raise RecordError(f"{archive} holds a {_RECORD} over {MOST_BYTES:,} bytes; no record is")
    return content
