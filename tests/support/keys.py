"""Keys as openssl makes them."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def save_pair(folder: Path, name: str = "gate") -> tuple[Path, Path]:
    """A new private key and its public half."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(private_pem(key))
    public.write_bytes(key.public_key().public_bytes(_PEM, _SPKI))
    return private, public


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    """Of any private key."""
    kept: Any = serialization.NoEncryption()
    if password is not None:
        kept = serialization.BestAvailableEncryption(password)
    pem: bytes = key.private_bytes(_PEM, _PKCS8, kept)
    return pem


def public_pem(key: Any) -> bytes:
    """Of any public key."""
    pem: bytes = key.public_bytes(_PEM, _SPKI)
    return pem
