"""Who a device is to the server: an ECDSA P-384 key that never leaves the device and signs every call."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edgefl.errors import BadInputError, StorageError

__all__ = ["Identity"]

logger = logging.getLogger(__name__)


class Identity:
    """A device's key pair.

    Attributes:
        public_key_pem: The public key as SPKI PEM, the exact bytes by which the server knows the device.
    """

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        self.public_key_pem = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the device's key; the first time, make one.

        Args:
            path: A PEM file in a folder that exists. It is only ever readable by its owner.

        Raises:
            BadInputError: If the file holds no P-384 private key.
            StorageError: If the file cannot be read or written.
        """
        try:
            if not path.exists():
                _create(path)
            _make_private(path)
            text = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot use the key file {path}: {error.strerror}; choose another folder") from error
        return cls(_parse(text, path))

    def sign(self, text: str) -> bytes:
        """Return the signature, ECDSA with SHA-256 in DER form, of an ASCII text."""
        return self._private_key.sign(text.encode("ascii"), ec.ECDSA(hashes.SHA256()))


def _create(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    # mkstemp opens with mode 0600; a link, unlike a rename, keeps the key of another process that came first.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()


def _make_private(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        logger.warning("others could read the key file %s; now only its owner can", path)
        path.chmod(0o600)


def _parse(text: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    advice = "move it away and the device gets a new key, which must be registered anew"
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise BadInputError(f"{path} holds no private key in PEM form without a password; {advice}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadInputError(f"{path} holds a key that is not ECDSA P-384; {advice}")
    return key
