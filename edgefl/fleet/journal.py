"""What a node keeps on disk so that a crash costs no work: its id, its instruction and its finished reply.

    node.json      {"node_id": "1234"}: text, because it has 64 unsigned bits
    instruction    pulled and not yet answered
    reply          finished and not yet uploaded
    answered       the last reply that cost work, uploaded or not: a server that lost it will ask again

The last three are one line with format and version, the sha256 of the rest, and a JournalEntry of fleet.proto.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from edgefl.core.atomic import write_atomically
from edgefl.errors import StorageError
from edgefl.fleet.fleet_pb2 import JournalEntry
from edgefl.fleet.parcel import Parcel

__all__ = ["Journal", "ParcelFile"]

logger = logging.getLogger(__name__)

_FORMAT = b"edgefl-journal 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


class _NodeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node_id: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,19}$")]


class Journal:
    """The state folder of one node; no other process may use it at the same time.

    Attributes:
        key_file: Where the device's key belongs.
        instruction: The instruction being worked on.
        reply: The reply being uploaded.
        answered: The last reply that cost work.
    """

    def __init__(self, folder: Path) -> None:
        """Open a state folder, or create one that only its owner can enter.

        Raises:
            StorageError: If that is not possible.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What a power cut left of a file that was being written; nobody else writes here.
            for unfinished in folder.glob(".*.*"):
                unfinished.unlink()
        except OSError as error:
            raise StorageError(f"cannot use the state folder {folder}: {error.strerror}; choose another one") from error
        self.key_file = folder / "identity.pem"
        self.instruction = ParcelFile(folder / "instruction")
        self.reply = ParcelFile(folder / "reply")
        self.answered = ParcelFile(folder / "answered")
        self._node_file = folder / "node.json"

    def load_node_id(self) -> int | None:
        """Return the node id that the server gave this device last, if it is known."""
        content = _read(self._node_file)
        if content is None:
            return None
        try:
            return int(msgspec.json.decode(content, type=_NodeFile).node_id)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _discard(self._node_file)
            return None

    def save_node_id(self, node_id: int) -> None:
        """Remember the node id.

        Raises:
            StorageError: If the disk does not take it.
        """
        write_atomically(self._node_file, [msgspec.json.encode(_NodeFile(node_id=str(node_id)))])

    def close_reply(self, parcel: Parcel) -> None:
        """End the upload of the reply, successful or not; what cost work is kept as `answered`.

        Args:
            parcel: The reply; where it has been closed already, nothing happens.

        Raises:
            StorageError: If the disk does not allow it.
        """
        if parcel.question:
            self.reply.rename(self.answered)
        else:
            self.reply.forget()


class ParcelFile:
    """A place on disk for one parcel."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Parcel | None:
        """Return the parcel, or None if there is none; a damaged one is removed.

        Raises:
            StorageError: If the file cannot be read.
        """
        content = _read(self._path)
        if content is None:
            return None
        parcel = _decode(content)
        if parcel is None:
            _discard(self._path)
        return parcel

    def save(self, parcel: Parcel) -> None:
        """Replace the parcel; after a crash either the old or the new one is there.

        Raises:
            StorageError: If the disk does not take it.
        """
        entry = JournalEntry(
            message=parcel.message,
            tree=parcel.tree,
            objects=parcel.objects,
            attempts=parcel.attempts,
            question=parcel.question,
        ).SerializeToString()
        write_atomically(self._path, [_FORMAT, hashlib.sha256(entry).digest(), entry])

    def rename(self, target: ParcelFile) -> None:
        """Make this parcel, if there is one, that of another file, which costs no second copy.

        Raises:
            StorageError: If the disk does not allow it.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(target._path)
        except OSError as error:
            raise StorageError(f"cannot rename {self._path}: {error.strerror}; check the disk") from error

    def forget(self) -> None:
        """Remove the parcel, if there is one.

        Raises:
            StorageError: If the disk does not allow it.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {self._path}: {error.strerror}; check the disk") from error


def _decode(content: bytes) -> Parcel | None:
    start = len(_FORMAT) + _DIGEST_BYTES
    entry = memoryview(content)[start:]
    if content[:start] != _FORMAT + hashlib.sha256(entry).digest():
        return None
    try:
        fields = JournalEntry.FromString(bytes(entry))
    except DecodeError:
        return None
    return Parcel(
        message=fields.message,
        tree=fields.tree,
        objects=dict(fields.objects),
        attempts=fields.attempts,
        question=fields.question,
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; check the state folder") from error


def _discard(path: Path) -> None:
    logger.warning("%s is damaged and was removed; the work it stood for is lost", path)
    with contextlib.suppress(OSError):
        path.unlink()
