"""Who sent a request: a device signs the time with its key, as Flower's Fleet API wants it (docs/protocol.md)."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edgefl.errors import RefusedError

__all__ = ["SIGNING_HEADERS", "AuthError", "sender"]

SIGNING_HEADERS = ("flwr-public-key", "flwr-timestamp", "flwr-signature")

# As the SuperLink has it: a stricter front would refuse what is allowed, a laxer one let through what is not.
_OLDEST_SECONDS, _NEWEST_SECONDS = 305.0, -5.0
_LARGEST_KEY = 1024


class AuthError(RefusedError):
    """A request that no device of the federation has signed just now."""


def sender(headers: Mapping[str, str], now: Callable[[], float]) -> bytes:
    """Return the public key of the device that signed a request, SPKI PEM.

    Args:
        headers: Of the request, names in lower case.
        now: Seconds since 1970.

    Raises:
        AuthError: If it is not signed, signed by no key of a NIST curve, or at another time.
    """
    try:
        encoded, timestamp, signature = (headers[name] for name in SIGNING_HEADERS)
        public_key = base64.b64decode(encoded, validate=True)
        _verify(public_key, timestamp, base64.b64decode(signature, validate=True))
        age_seconds = now() - _seconds(timestamp)
    except (KeyError, ValueError, UnicodeError, binascii.Error, InvalidSignature, UnsupportedAlgorithm) as error:
        raise AuthError("the request is not signed by a device's key") from error
    if not _NEWEST_SECONDS < age_seconds < _OLDEST_SECONDS:
        raise AuthError(f"the request was signed {age_seconds:.0f} s ago by the device's clock; set it")
    return public_key


def _verify(public_key: bytes, timestamp: str, signature: bytes) -> None:
    if len(public_key) > _LARGEST_KEY:
        raise ValueError("no key of a NIST curve is that long")
    key = load_pem_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")  # noqa: TRY004  # of what was sent, not of our own code
    key.verify(signature, timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))


def _seconds(timestamp: str) -> float:
    time = dt.datetime.fromisoformat(timestamp)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time.timestamp()
