"""One process at a time in a state folder; the kernel frees it when that process ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefl.errors import StorageError

__all__ = ["locked_folder", "wait_until_unlocked"]

_LOCK = "lock"


@contextmanager
def locked_folder(folder: Path, owner: str, instead: str = "choose another --state") -> Iterator[Path]:
    """Make a state folder, readable by its owner only, and hold it until the block ends or the process dies.

    Args:
        folder: The folder.
        owner: What kind of process holds it, for the message: `client`, `server` or `personalize`.
        instead: What to do where the folder cannot be had, for the message.

    Raises:
        StorageError: If it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / _LOCK).open("wb")
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror}; {instead}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"{folder} is in use by another edgefl {owner}; stop that one or {instead}") from error
        yield folder


def wait_until_unlocked(folder: Path) -> None:
    """Return when nobody holds the folder any more.

    Args:
        folder: A folder that `locked_folder` holds, in another process.

    Raises:
        OSError: If it has never been held.
    """
    with (folder / _LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
