"""`gate sign`: put a record's verdict under a key."""

from pathlib import Path

from gate import publish
from gate.commands.judge import judge
from gate.commands.report import record_file
from gate.errors import RecordError, UsageError
from gate.signing import sign as sign_statement
from gate.statement import FILE, Envelope, envelope, statement_of


def sign(path: Path, key: Path | None) -> tuple[Path, Envelope]:
    """Sign what a record says, whatever that is, and keep it beside the record.

    Signing again with the same key gives the same file.

    Args:
        path: record.json, with its rows beside it, or the folder that holds both.
        key: a private Ed25519 key; default: `GATE_SIGNING_KEY`.

    Raises:
        UsageError: there is no record or no key, or another key has signed it.
        RecordError: the record is not what its rows give, or the folder cannot be written.
    """
    record = judge(path)
    folder = record_file(path).parent
    if not (folder / "rows.npz").is_file():
        raise RecordError(
            f"{folder / 'rows.npz'} is missing, so nothing shows that the record is what was "
            "measured: fetch the whole folder, and sign that"
        )
    made, earlier = sign_statement(statement_of(record), key), signed(folder)
    if earlier is not None and earlier.key != made.key:
        raise UsageError(
            f"{folder / FILE} was signed by the key {earlier.key[:16]}… already: remove it first, "
            "if that one no longer counts"
        )
    with publish.writing(folder):
        publish.put(folder / FILE, made.dumps())
    return folder / FILE, made


def signed(folder: Path) -> Envelope | None:
    """The signed verdict beside a record; None where there is none.

    Raises:
        RecordError: what lies there is none, or cannot be read.
    """
    file = folder / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file} cannot be read ({error}): sign the record again") from error
    return envelope(text, str(file))


def render(file: Path, made: Envelope) -> str:
    """What was signed, for people."""
    return f"signed by key {made.key[:16]}…: {file}\n"
