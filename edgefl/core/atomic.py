"""Replace a file whole or not at all, so that a power cut leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edgefl.errors import StorageError

__all__ = ["check_writable", "write_atomically"]


def check_writable(path: Path) -> None:
    """Refuse now what `write_atomically` would refuse after hours of work.

    Raises:
        StorageError: If the folder is not there or cannot be written, or something that is no file has that name.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # A rename would put a file in the place of a folder, a device or a pipe.
        raise StorageError(f"cannot write {path}: it is no regular file; choose another name")
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: {path.parent} is no folder; make it, or choose another one")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: Permission denied; choose a folder you may write")


def write_atomically(path: Path, parts: Iterable[bytes | memoryview], mode: int = 0o644) -> None:
    """Write a file under another name, flush it to the disk and rename it into place.

    The file is never written into: whoever has the old one mapped keeps the old one.

    Args:
        path: The file to create or replace; of a link, what it leads to.
        parts: Its bytes, in order.
        mode: Its permissions; nobody ever has more.

    Raises:
        StorageError: If the folder cannot be written, or something that is no file has that name; nothing is left
            behind.
    """
    check_writable(path)
    path = Path(os.path.realpath(path))
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose a folder you may write") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; most are meant to be read like any other.
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space and try again") from error
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
