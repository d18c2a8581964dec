"""The device's key: made once, readable by its owner only (edgefl/fleet/identity.py)."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from edgefl.errors import BadInputError, StorageError
from edgefl.fleet.identity import Identity

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fleet" / "signature.json").read_text())


def verify(public_key_pem: bytes, signature: bytes, text: str) -> None:
    key = load_pem_public_key(public_key_pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(signature, text.encode(), ec.ECDSA(hashes.SHA256()))


def test_the_first_use_makes_a_key_and_later_uses_find_it(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "identity.pem")
    found = Identity.load_or_create(tmp_path / "identity.pem")
    assert made.public_key_pem == found.public_key_pem
    assert [path.name for path in tmp_path.iterdir()] == ["identity.pem"], "nothing half-written is left"


def test_only_the_owner_can_read_a_new_key_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        Identity.load_or_create(tmp_path / "identity.pem")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "identity.pem").stat().st_mode) == 0o600


def test_a_key_that_others_could_read_is_made_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Identity.load_or_create(tmp_path / "identity.pem")
    (tmp_path / "identity.pem").chmod(0o644)
    Identity.load_or_create(tmp_path / "identity.pem")
    assert stat.S_IMODE((tmp_path / "identity.pem").stat().st_mode) == 0o600
    assert "others could read" in caplog.text


def test_a_signature_fits_its_text_and_no_other(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "identity.pem")
    signature = identity.sign("2026-11-21T01:13:48.447+00:00")
    verify(identity.public_key_pem, signature, "2026-11-21T01:13:48.447+00:00")
    with pytest.raises(InvalidSignature):
        verify(identity.public_key_pem, signature, "2026-11-21T01:13:48.448+00:00")


def test_the_golden_key_and_signature_shared_with_kotlin_are_understood(tmp_path: Path) -> None:
    (tmp_path / "identity.pem").write_text(GOLDEN["private_key_pem"])
    identity = Identity.load_or_create(tmp_path / "identity.pem")
    assert identity.public_key_pem == GOLDEN["public_key_pem"].encode()
    assert base64.b64encode(identity.public_key_pem).decode() == GOLDEN["flwr-public-key"]
    verify(identity.public_key_pem, base64.b64decode(GOLDEN["flwr-signature"]), GOLDEN["flwr-timestamp"])


def test_a_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "identity.pem").write_bytes(text)
    with pytest.raises(BadInputError, match="not ECDSA P-384"):
        Identity.load_or_create(tmp_path / "identity.pem")


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "identity.pem").write_bytes(text)
    with pytest.raises(BadInputError, match=r"identity\.pem holds no private key"):
        Identity.load_or_create(tmp_path / "identity.pem")
    assert (tmp_path / "identity.pem").read_bytes() == text


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use the key file"):
        Identity.load_or_create(tmp_path / "missing" / "identity.pem")
