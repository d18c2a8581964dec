"""A token names its server and carries a secret (edgefl/fleet/pairing_token.py)."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import BadInputError
from edgefl.fleet.pairing_token import PairingToken
from tests.certificates import write_certificate


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_what_is_written_is_read(secret: bytes, fingerprint: bytes) -> None:
    token = PairingToken(secret, fingerprint)
    assert len(token.text) == 43  # 32 bytes, 6 bits a character
    assert PairingToken.parse(f" {token.text}\n") == token


def test_a_token_names_the_authority_it_was_made_for(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = (write_certificate(folder)[0].read_text() for folder in (tmp_path, tmp_path / "other"))

    token = PairingToken.of(b"s" * 16, own)

    assert token.fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(own)).digest()[:16]
    assert token.names(own)
    assert not token.names(other)


@pytest.mark.parametrize("text", ["", "abc", "A" * 42, "A" * 44, "A" * 42 + "!", "é" * 43, "A" * 21 + " " + "A" * 22])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="copy all 43 characters"):
        PairingToken.parse(text)


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(BadInputError, match="is none"):
        PairingToken(b"s" * 16, b"f" * 16).names("-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n")
