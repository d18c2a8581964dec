"""The story of a run as JSON lines: one for each round, on the disk before the next one starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from edgefl.errors import StorageError

__all__ = [
    "CohortMember",
    "Failure",
    "FailureKind",
    "ReplyRecord",
    "RoundRecord",
    "append_round",
    "read_round",
    "read_rounds",
]

FailureKind = Literal["refused", "error", "missing"]


class CohortMember(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was asked, and the deepest exit it was asked to train."""

    node_id: int
    exit_index: int


class ReplyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An update that was counted.

    Attributes:
        node_id: Who sent it.
        exit_index: Deepest exit it trained.
        num_examples: Local samples.
        loss: Mean loss of its last local epoch.
        train_seconds: Time it trained.
        peak_rss_bytes: Largest resident memory of the client.
        bytes_up: Bytes of its arrays' values.
    """

    node_id: int
    exit_index: int
    num_examples: int
    loss: float
    train_seconds: float
    peak_rss_bytes: int
    bytes_up: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose work did not count.

    Attributes:
        node_id: The node.
        kind: `refused` by the gate, an `error` the node or Flower reported, or nothing in time: `missing`.
        reason: Why.
    """

    node_id: int
    kind: FailureKind
    reason: str


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One round.

    Attributes:
        round: Its number, from 1.
        started: ISO 8601, UTC.
        seconds: How long it took, the wait for clients not included.
        learning_rate: The devices' step size.
        cohort: Who was asked.
        replies: Updates that were counted.
        failures: Nodes whose work was not.
        bytes_down: Bytes of the values of all arrays sent.
        bytes_up: Bytes of the values of all arrays counted.
        is_aggregated: Whether enough updates came; otherwise the adapter stayed as it was.
        adapter_version: The adapter's version after the round.
    """

    round: int
    started: str
    seconds: float
    learning_rate: float
    cohort: list[CohortMember]
    replies: list[ReplyRecord]
    failures: list[Failure]
    bytes_down: int
    bytes_up: int
    is_aggregated: bool
    adapter_version: int


def append_round(path: Path, record: RoundRecord) -> None:
    """Add a round to the file and flush it to the disk.

    Raises:
        StorageError: If the file cannot be written.
    """
    try:
        with path.open("ab+") as file:
            # A power cut may have left half a line; it must not swallow this one.
            file.seek(max(0, file.tell() - 1))
            torn = file.read(1) not in {b"", b"\n"}
            file.write(b"\n" * torn + msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space and try again") from error


def read_round(line: bytes) -> RoundRecord | None:
    """Return the round a line tells of, None for a line that was cut short."""
    try:
        return msgspec.json.decode(line, type=RoundRecord)
    except msgspec.DecodeError:
        return None


def read_rounds(path: Path) -> list[RoundRecord]:
    """Return the rounds written so far; a line that was cut short is left out.

    Raises:
        StorageError: If the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return [record for record in map(read_round, lines) if record is not None]
