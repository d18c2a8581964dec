"""A federation's own certificate authority: devices pin it when they pair, so that no public one is needed."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgefl.core.atomic import write_atomically
from edgefl.errors import BadInputError, StorageError

__all__ = ["Authority", "Credentials"]

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_DAYS = 30
# Devices have wrong clocks, and none that says so before it has reached the server.
_BACKDATED_DAYS = 2
_ALWAYS = ("127.0.0.1", "localhost")
"""The SuperLink's own children reach it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Files that a TLS server is started with.

    Attributes:
        certificate: The server's certificate, PEM.
        key: Its private key, PEM, readable by its owner only.
        authority: The certificate that signed it, PEM.
    """

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """Signs the server's certificates.

    Attributes:
        certificate_file: Its own certificate, PEM, which devices pin.
    """

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate_file = folder / "ca.pem"
        self._folder, self._certificate, self._key = folder, certificate, key

    @classmethod
    def create(cls, folder: Path, now: dt.datetime) -> Self:
        """Make an authority.

        Args:
            folder: A folder that exists and holds none.
            now: The time, with its zone.

        Raises:
            StorageError: If there is one already, or nothing can be written.
        """
        if (folder / "ca-key.pem").exists():
            raise StorageError(f"{folder} holds an authority already; devices that pinned it would not know a new one")
        key = ec.generate_private_key(ec.SECP384R1())
        name = _name("edgefl federation")
        certificate = (
            _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write_key(folder / "ca-key.pem", key)
        write_atomically(folder / "ca.pem", [certificate.public_bytes(Encoding.PEM)])
        return cls(folder, certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the authority that `create` made.

        Raises:
            StorageError: If its files cannot be read.
            BadInputError: If they are no certificate and its key.
        """
        try:
            texts = (folder / "ca.pem").read_bytes(), (folder / "ca-key.pem").read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}; restore it from a copy") from error
        try:
            certificate, key = x509.load_pem_x509_certificate(texts[0]), load_pem_private_key(texts[1], None)
        except (ValueError, TypeError) as error:
            raise BadInputError(f"{folder} holds no authority: {error}; restore ca.pem and ca-key.pem") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise BadInputError(f"{folder}: ca-key.pem is not the key of ca.pem; restore both from one copy")
        return cls(folder, certificate, key)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its certificate in DER form, 32 bytes."""
        return hashlib.sha256(self._certificate.public_bytes(Encoding.DER)).digest()

    def server_credentials(self, hosts: Sequence[str], now: dt.datetime) -> Credentials:
        """Return a certificate for the server: the one on the disk, or a new one if that ends soon or names others.

        Args:
            hosts: Names and addresses that devices reach the server by; this machine's own are added.
            now: The time, with its zone.

        Raises:
            StorageError: If it cannot be written.
        """
        found = Credentials(
            certificate=self._folder / "server.pem",
            key=self._folder / "server-key.pem",
            authority=self.certificate_file,
        )
        names = _alternative_names(hosts)
        if not self._is_usable(found, names, now):
            self._issue(found, names, now)
        return found

    def _is_usable(self, found: Credentials, names: x509.SubjectAlternativeName, now: dt.datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
            key = load_pem_private_key(found.key.read_bytes(), None)
            certificate.verify_directly_issued_by(self._certificate)
            has_names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except Exception:  # noqa: BLE001  # whatever is wrong with it, a new one is made
            return False
        ends = certificate.not_valid_after_utc - dt.timedelta(days=_RENEW_DAYS)
        return has_names == names and now < ends and key.public_key() == certificate.public_key()

    def _issue(self, files: Credentials, names: x509.SubjectAlternativeName, now: dt.datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name("edgefl server"), self._certificate.subject, key.public_key(), now, _SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # A crash between the two leaves a pair that does not match, which is then made anew.
        _write_key(files.key, key)
        write_atomically(files.certificate, [certificate.public_bytes(Encoding.PEM)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=_BACKDATED_DAYS))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, *_ALWAYS]):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(_dns_name(host))
    return x509.SubjectAlternativeName(found)


def _dns_name(host: str) -> x509.DNSName:
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except (UnicodeError, ValueError) as error:
        raise BadInputError(f"{host!r} is neither a host's name nor an address; write one, without a port") from error


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(path, [pem], mode=0o600)
