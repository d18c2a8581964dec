"""One process at a time in a state folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefl.errors import StorageError

__all__ = ["locked_folder"]


@contextmanager
def locked_folder(folder: Path, owner: str) -> Iterator[Path]:
    """Make a state folder, readable by its owner only, and hold it until the block ends or the process dies.

    Args:
        folder: The folder.
        owner: What kind of process holds it, for the message: `client` or `server`.

    Raises:
        StorageError: If it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror}; choose another --state") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{folder} is in use by another edgefl {owner}; stop that one or choose another --state"
            ) from error
        yield folder
