"""Which devices belong to the federation, and the one-time tokens by which they came."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import BadInputError, RefusedError, StorageError

__all__ = ["Device", "Registry", "TokenError"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    public_key BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    paired_at REAL NOT NULL,
    revoked_at REAL
) STRICT;
CREATE TABLE tokens (
    digest BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    expires_at REAL NOT NULL,
    device INTEGER REFERENCES devices (id)
) STRICT;
"""
_SECRET_BYTES = 16
_WAIT_SECONDS = 10.0


class TokenError(RefusedError):
    """A token that does not pair a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that was paired.

    Attributes:
        number: What the operator calls it, from 1.
        public_key: SPKI PEM, the bytes by which the SuperLink knows it.
        name: As the operator named it.
        paired_at: Seconds since 1970.
        revoked_at: Likewise; None while it may take part.
    """

    number: int
    public_key: bytes
    name: str
    paired_at: float
    revoked_at: float | None


class Registry:
    """A database of devices and tokens; processes and threads may share the file.

    Args:
        path: The file, made where there is none.

    Raises:
        StorageError: If it cannot be used, or a newer edgefl wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._transaction() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise StorageError(
                    f"{path} was written by a newer edgefl: version {version}, this one knows {_VERSION}; upgrade"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")

    def new_token(self, name: str, now: float, valid_seconds: float) -> bytes:
        """Make a token that pairs one device, once.

        Args:
            name: What the device will be called.
            now: Seconds since 1970.
            valid_seconds: How long it may be used, more than 0.

        Returns:
            The secret, 16 bytes, of which only a digest is kept.
        """
        secret = secrets.token_bytes(_SECRET_BYTES)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO tokens (digest, name, expires_at) VALUES (?, ?, ?)",
                (_digest(secret), name, now + valid_seconds),
            )
        return secret

    def pair(self, secret: bytes, public_key: bytes, now: float) -> Device:
        """Spend a token on a device; the same device may say it again, since the answer may have been lost.

        Args:
            secret: As `new_token` returned it.
            public_key: The device's, SPKI PEM.
            now: Seconds since 1970.

        Raises:
            TokenError: If the token is unknown, used by another device or too old, or the device was revoked.
        """
        with self._transaction() as database:
            found = database.execute(
                "SELECT name, expires_at, device FROM tokens WHERE digest = ?", (_digest(secret),)
            ).fetchone()
            if found is None:
                raise TokenError("this server has not made that token; ask its operator for one")
            name, expires_at, spent_on = found
            known = _device(database, "public_key = ?", public_key)
            if known is not None and known.revoked_at is not None:
                raise TokenError("this device's key was revoked; remove its state folder to get a new key")
            if spent_on is not None and (known is None or known.number != spent_on):
                raise TokenError("the token was used before, by another device; ask the operator for a new one")
            if spent_on is None:
                if now > expires_at:
                    raise TokenError("the token has expired; ask the operator for a new one")
                known = known or _added(database, public_key, name, now)
                database.execute("UPDATE tokens SET device = ? WHERE digest = ?", (known.number, _digest(secret)))
        assert known is not None  # noqa: S101  # either found above, or added
        return known

    def device_of(self, public_key: bytes) -> Device | None:
        """Return the device that has this key, revoked or not; None for a stranger's."""
        with self._opened() as database:
            return _device(database, "public_key = ?", public_key)

    def devices(self) -> list[Device]:
        """Return all devices, by number."""
        with self._opened() as database:
            return [_as_device(row) for row in database.execute(f"{_SELECT} ORDER BY id")]

    def revoke(self, number: int, now: float) -> Device:
        """Let a device take part no more.

        Raises:
            BadInputError: If there is none of that number.
        """
        with self._transaction() as database:
            database.execute("UPDATE devices SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, number))
            device = _device(database, "id = ?", number)
        if device is None:
            raise BadInputError(f"there is no device {number}; `edgefl server devices` lists them")
        return device

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            # A connection for each: they are cheap beside a request, and no thread waits for another's.
            database = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                yield database
            finally:
                database.close()  # which rolls back what was not committed
        except sqlite3.Error as error:
            raise StorageError(f"cannot use {self._path}: {error}; restore it from a copy") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")


_SELECT = "SELECT id, public_key, name, paired_at, revoked_at FROM devices"


def _device(database: sqlite3.Connection, where: str, value: object) -> Device | None:
    row = database.execute(f"{_SELECT} WHERE {where}", (value,)).fetchone()
    return None if row is None else _as_device(row)


def _as_device(row: tuple[int, bytes, str, float, float | None]) -> Device:
    number, public_key, name, paired_at, revoked_at = row
    return Device(number=number, public_key=public_key, name=name, paired_at=paired_at, revoked_at=revoked_at)


def _added(database: sqlite3.Connection, public_key: bytes, name: str, now: float) -> Device:
    number = database.execute(
        "INSERT INTO devices (public_key, name, paired_at) VALUES (?, ?, ?)", (public_key, name, now)
    ).lastrowid
    return Device(number=number or 0, public_key=public_key, name=name, paired_at=now, revoked_at=None)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
