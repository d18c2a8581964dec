"""The federation's own authority and the certificates it signs (edgefl_server/host/authority.py)."""

from __future__ import annotations

import datetime as dt
import hashlib
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from edgefl.errors import BadInputError, StorageError
from edgefl_server.host.authority import Authority, Credentials

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def handshake(files: Credentials, name: str) -> None:
    """Connect as a device does that trusts the authority alone."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files.certificate, files.key)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, ssl.create_default_context(cafile=str(files.authority)).wrap_socket(ours, server_hostname=name):
            pass
    finally:
        thread.join(30)


@pytest.mark.parametrize("name", ["fed.example", "192.0.2.7", "2001:db8::7", "127.0.0.1", "localhost"])
def test_a_device_that_pinned_the_authority_trusts_the_server_under_its_names(tmp_path: Path, name: str) -> None:
    files = Authority.create(tmp_path, NOW).server_credentials(["fed.example", "192.0.2.7", "2001:db8::7"], NOW)
    handshake(files, name)


def test_a_name_that_was_not_given_is_not_trusted(tmp_path: Path) -> None:
    files = Authority.create(tmp_path, NOW).server_credentials(["fed.example"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.example'"):
        handshake(files, "other.example")


def test_another_authority_s_server_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority.create(tmp_path / "other", NOW).server_credentials([], NOW)
    own = Authority.create(tmp_path, NOW)
    mixed = Credentials(certificate=other.certificate, key=other.key, authority=own.certificate_file)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(mixed, "127.0.0.1")


def test_keys_are_their_owner_s_alone(tmp_path: Path) -> None:
    Authority.create(tmp_path, NOW).server_credentials([], NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "server.pem": 0o644, "server-key.pem": 0o600}


def test_a_certificate_is_kept_until_its_last_month_and_then_made_anew(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    first = authority.server_credentials(["a.example"], NOW).certificate.read_bytes()

    again = Authority.load(tmp_path)
    # It is good for 397 days.
    kept = again.server_credentials(["a.example"], NOW + 366 * DAY).certificate.read_bytes()
    renewed = again.server_credentials(["a.example"], NOW + 368 * DAY).certificate.read_bytes()

    assert kept == first
    assert renewed != first
    assert x509.load_pem_x509_certificate(renewed).not_valid_after_utc > NOW + 700 * DAY


def test_other_names_make_another_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    first = authority.server_credentials(["a.example"], NOW).certificate.read_bytes()
    assert authority.server_credentials(["b.example"], NOW).certificate.read_bytes() != first


def test_half_a_pair_that_a_power_cut_left_is_made_whole(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    (tmp_path / "other").mkdir()
    other = Authority.create(tmp_path / "other", NOW).server_credentials([], NOW)
    files = authority.server_credentials([], NOW)
    files.key.write_bytes(other.key.read_bytes())

    handshake(authority.server_credentials([], NOW), "127.0.0.1")


def test_devices_whose_clock_is_two_days_late_trust_it(tmp_path: Path) -> None:
    files = Authority.create(tmp_path, NOW).server_credentials([], NOW)
    for path in (files.certificate, files.authority):
        assert x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc < NOW - 1.9 * DAY


def test_a_second_authority_is_refused(tmp_path: Path) -> None:
    Authority.create(tmp_path, NOW)
    with pytest.raises(StorageError, match="would not know a new one"):
        Authority.create(tmp_path, NOW)


def test_an_authority_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ca\.pem"):
        Authority.load(tmp_path)
    (tmp_path / "other").mkdir()
    Authority.create(tmp_path / "other", NOW)
    Authority.create(tmp_path, NOW)
    (tmp_path / "ca-key.pem").write_bytes((tmp_path / "other" / "ca-key.pem").read_bytes())
    with pytest.raises(BadInputError, match="is not the key of"):
        Authority.load(tmp_path)
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(BadInputError, match=r"restore ca\.pem"):
        Authority.load(tmp_path)


def test_what_is_no_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="neither a host's name nor an address"):
        Authority.create(tmp_path, NOW).server_credentials(["a" * 64 + ".example"], NOW)


def test_the_fingerprint_is_that_of_the_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    der = ssl.PEM_cert_to_DER_cert(authority.certificate_file.read_text())
    assert authority.fingerprint == hashlib.sha256(der).digest()
