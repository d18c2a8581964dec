"""The one-time token that an operator gives to a device: a secret, and by what it knows the right server."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import load_pem_x509_certificate

from edgefl.errors import BadInputError

__all__ = ["PairingToken"]

_SECRET_BYTES = 16
_FINGERPRINT_BYTES = 16
"""128 bits: nobody makes a second certificate with the same."""


@dataclass(frozen=True, slots=True)
class PairingToken:
    """What stands in a token.

    Attributes:
        secret: 16 bytes that only the server and whoever was given the token know.
        fingerprint: The first 16 bytes of the SHA-256 of the certificate, in DER form, of the server's authority.
    """

    secret: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, secret: bytes, authority_pem: str) -> Self:
        """Make a token for a server whose certificates an authority signs."""
        return cls(secret, _fingerprint(authority_pem))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` returned; spaces around it do not matter.

        Raises:
            BadInputError: If it is no token.
        """
        try:
            data = base64.b64decode(text.strip() + "=", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) != _SECRET_BYTES + _FINGERPRINT_BYTES:
            raise BadInputError(f"{text!r} is no token of `edgefl server pair`; copy all 43 characters of it")
        return cls(data[:_SECRET_BYTES], data[_SECRET_BYTES:])

    @property
    def text(self) -> str:
        """The token as people copy it: 43 letters, digits, `-` and `_`."""
        return base64.urlsafe_b64encode(self.secret + self.fingerprint).decode().rstrip("=")

    def names(self, authority_pem: str) -> bool:
        """Whether this is the authority of the server that the token is for."""
        return _fingerprint(authority_pem) == self.fingerprint


def _fingerprint(authority_pem: str) -> bytes:
    try:
        certificate = load_pem_x509_certificate(authority_pem.encode())
    except ValueError as error:
        raise BadInputError("what should be the authority's certificate is none") from error
    return certificate.fingerprint(hashes.SHA256())[:_FINGERPRINT_BYTES]
