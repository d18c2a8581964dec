"""The personal adapter's file: written whole at once, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.personal import personal_files, personal_folder, personal_path
from edgefl.core.folder_lock import locked_folder
from edgefl.core.tensors import TensorFile
from edgefl.errors import StorageError
from edgefl.runtime.weights import FloatArray

__all__ = ["held_folder", "is_replaced", "read_back", "remove", "save"]


@contextmanager
def held_folder(bundle: Bundle) -> Iterator[Path]:
    """Make the folder of the personal adapter and keep other processes from changing it, until the block ends.

    Raises:
        StorageError: If it cannot be written, or another process holds it.
    """
    with locked_folder(personal_folder(bundle.folder), "personalize", "personalize a copy of the bundle") as folder:
        # A power cut leaves what was not renamed yet.
        for unfinished in folder.glob(".*.*"):
            unfinished.unlink(missing_ok=True)
        yield folder


def save(bundle: Bundle, own: Adapter, tensors: Mapping[str, FloatArray]) -> bool:
    """Make tensors the personal adapter by one atomic rename, and say whether they could be used.

    Args:
        bundle: The bundle.
        own: The global adapter that they were made from.
        tensors: All tensors of the adapter; not kept if a value is NaN or infinite.

    Raises:
        StorageError: If the disk does not take it.
    """
    if not all(np.isfinite(array).all() for array in tensors.values()):
        return False
    personal = dataclasses.replace(own, tensors=tensors)
    personal.save(personal_path(bundle.folder, own), bundle.manifest.adapter.header_bytes)
    return True


def read_back(bundle: Bundle, own: Adapter, arrays: Mapping[str, FloatArray]) -> None:
    """Fill arrays with what the personal adapter has under their names.

    Only these are read: the whole file would count as this process's memory.
    """
    file = TensorFile(personal_path(bundle.folder, own))
    for name, array in arrays.items():
        array[...] = file[name]


def remove(bundle: Bundle) -> bool:
    """Remove personal adapters, whichever global one they were made from, and say whether there was one.

    Raises:
        StorageError: If the disk does not allow it.
    """
    files = personal_files(bundle.folder)
    for path in files:
        try:
            path.unlink()
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}; check the disk") from error
    return bool(files)


def is_replaced(bundle: Bundle, own: Adapter) -> bool:
    """Say whether the bundle has another global adapter than this one by now."""
    metadata = TensorFile(bundle.path(bundle.manifest.adapter.file)).metadata
    return metadata.get("data_sha256") != own.digest()
