"""The demo's output folder: emptied when it is the demo's own, never anybody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgefl.errors import BadInputError, StorageError

__all__ = ["fresh_folder"]

_MARK = ".edgefl-demo"


def fresh_folder(folder: Path) -> Path:
    """Return an empty folder.

    Args:
        folder: One that does not exist, is empty, or was made by an earlier demo.

    Raises:
        BadInputError: If it holds anything else.
        StorageError: If it cannot be written.
    """
    try:
        if folder.exists() and not (folder / _MARK).is_file() and any(folder.iterdir()):
            raise BadInputError(f"{folder} holds something that no demo wrote; choose another --out")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}; choose another --out") from error
    return folder.resolve()
