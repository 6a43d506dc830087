"""Signatures by keys that openssl makes, and by nothing else."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from support.keys import private_pem, public_pem, save_pair

from gate.errors import RecordError, UsageError
from gate.signing import KEY, demand_signed, sign
from gate.statement import signed_bytes

SAID = b'{"subject":"this"}'


@pytest.fixture(autouse=True)
def _without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def test_what_was_signed_is_shown_by_the_public_half(tmp_path: Path) -> None:
    private, public = save_pair(tmp_path)
    made = sign(SAID, private)
    assert demand_signed(made, public) == made.key
    assert sign(SAID, private) == made


def test_the_key_may_be_a_secret_of_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = save_pair(tmp_path)
    monkeypatch.setenv(KEY, private.read_text())
    assert demand_signed(sign(SAID, None), public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_agrees(tmp_path: Path) -> None:
    """The commands that messages tell."""
    for command in (
        "genpkey -algorithm ed25519 -out gate.pem",
        "pkey -in gate.pem -pubout -out gate.pub.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True)
    made = sign(SAID, tmp_path / "gate.pem")
    assert demand_signed(made, tmp_path / "gate.pub.pem")
    (tmp_path / "said").write_bytes(signed_bytes(SAID))
    (tmp_path / "sig").write_bytes(made.signature)
    check = "pkeyutl -verify -pubin -inkey gate.pub.pem -rawin -in said -sigfile sig"
    done = subprocess.run(
        ["openssl", *check.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Verified Successfully" in done.stdout


def test_whatever_is_changed_is_found(tmp_path: Path) -> None:
    private, public = save_pair(tmp_path)
    made = sign(SAID, private)
    for changed in (
        replace(made, statement=SAID + b" "),
        replace(made, signature=bytes(64)),
        replace(made, signature=made.signature[:-1]),
        replace(made, signature=b""),
    ):
        with pytest.raises(RecordError, match="was changed, or made up"):
            demand_signed(changed, public)


def test_another_key_is_nobody(tmp_path: Path) -> None:
    private, _ = save_pair(tmp_path)
    _, other = save_pair(tmp_path, "other")
    made = sign(SAID, private)
    with pytest.raises(RecordError, match="nobody who is trusted here says so"):
        demand_signed(made, other)
    claimed = replace(made, key=sign(SAID, tmp_path / "other.pem").key)
    with pytest.raises(RecordError, match="was changed, or made up"):
        demand_signed(claimed, other)


def test_no_key_is_told_with_what_makes_one() -> None:
    with pytest.raises(UsageError, match=r"no key to sign with: .*--key, .*SIGNING_KEY; `open"):
        sign(SAID, None)


def test_a_key_with_a_password_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "locked.pem"
    file.write_bytes(private_pem(ed25519.Ed25519PrivateKey.generate(), b"secret"))
    with pytest.raises(UsageError, match=r"locked\.pem is protected by a password"):
        sign(SAID, file)


@pytest.mark.parametrize("text", [b"\0", b"-----BEGIN PRIVATE KEY-----\n", b"hunter2"])
def test_what_is_no_key_is_told_without_its_text(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(text)
    with pytest.raises(UsageError, match=r"key\.pem holds no private key in PEM") as private:
        sign(SAID, file)
    assert "hunter2" not in str(private.value)
    made = sign(SAID, save_pair(tmp_path)[0])
    with pytest.raises(UsageError, match=r"key\.pem holds no public key in PEM"):
        demand_signed(made, file)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    key, file = ec.generate_private_key(ec.SECP256R1()), tmp_path / "ec.pem"
    file.write_bytes(private_pem(key))
    with pytest.raises(UsageError, match=r"ec\.pem is no Ed25519 key"):
        sign(SAID, file)
    made = sign(SAID, save_pair(tmp_path)[0])
    file.write_bytes(public_pem(key.public_key()))
    with pytest.raises(UsageError, match=r"ec\.pem is no Ed25519 key"):
        demand_signed(made, file)


def test_a_key_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        sign(SAID, tmp_path / "none.pem")
    made = sign(SAID, save_pair(tmp_path)[0])
    with pytest.raises(UsageError, match="cannot be read: "):
        demand_signed(made, tmp_path)
