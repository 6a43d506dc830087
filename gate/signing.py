"""Ed25519 keys, as PEM files that openssl makes, and signatures by them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from gate.errors import RecordError, UsageError
from gate.statement import Envelope, signed_bytes

KEY = "GATE_SIGNING_KEY"
"""Environment variable: the private key itself, as CI keeps a secret."""
_MAKE = "`openssl genpkey -algorithm ed25519 -out gate.pem` makes one"
_PUBLIC = "`openssl pkey -in gate.pem -pubout -out gate.pub.pem` gives it"


def sign(statement: bytes, file: Path | None) -> Envelope:
    """The statement, signed by the private key in `file`, or in the environment.

    Raises:
        UsageError: there is no key, or it is no Ed25519 key without a password.
    """
    key = _private(file)
    return Envelope(statement, _name(key.public_key()), key.sign(signed_bytes(statement)))


def demand_signed(found: Envelope, file: Path) -> str:
    """Show that an envelope was signed by the key whose public half is in `file`; the key's name.

    Raises:
        UsageError: there is no such key.
        RecordError: it was signed by another one, or changed since.
    """
    from cryptography.exceptions import InvalidSignature

    key = _public(file)
    name = _name(key)
    if found.key != name:
        raise RecordError(
            f"it was signed by the key {found.key[:16]}…, and {file} is {name[:16]}…: nobody who "
            "is trusted here says so"
        )
    try:
        key.verify(found.signature, signed_bytes(found.statement))
    except InvalidSignature as error:
        raise RecordError(
            f"its signature is not that of {file} ({name[:16]}…): it was changed, or made up"
        ) from error
    return name


def _private(file: Path | None) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where = KEY if file is None else str(file)
    text = os.environ.get(KEY, "").encode(errors="replace") if file is None else _read(file)
    if not text:
        raise UsageError(
            f"there is no key to sign with: name one with --key, or set {KEY}; {_MAKE}"
        )
    with _parsing(f"{where} holds no private key in PEM", _MAKE):
        try:
            key = load_pem_private_key(text, password=None)
        except TypeError as error:
            raise UsageError(
                f"{where} is protected by a password, and nobody is asked here: keep the key as a "
                f"secret of CI, in {KEY}"
            ) from error
    return _demand_kind(key, Ed25519PrivateKey, where)


def _public(file: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = _read(file)
    with _parsing(f"{file} holds no public key in PEM", _PUBLIC):
        key = load_pem_public_key(text)
    return _demand_kind(key, Ed25519PublicKey, str(file))


@contextmanager
def _parsing(problem: str, made_by: str) -> Iterator[None]:
    """Whatever the parser makes of it, it is no key; its own words might show parts of a secret."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - told, and the command ends
        raise UsageError(f"{problem} ({type(error).__name__}): {made_by}") from None


def _demand_kind(key: Any, kind: type, where: str) -> Any:
    if not isinstance(key, kind):
        raise UsageError(f"{where} is no Ed25519 key: {_MAKE}")
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"the key {file} cannot be read: {error.strerror}") from error


def _name(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()
