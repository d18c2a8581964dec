"""The adapter: all trainable tensors, the only file of a bundle that a round replaces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.bundle.manifest import Manifest
from edgefl.core.atomic import write_atomically
from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.errors import AdapterLayoutError, AdapterValueError, HashError

__all__ = ["Adapter", "encode_adapter", "read_adapter"]

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The trainable tensors of one version of a model.

    Attributes:
        bundle_id: The bundle they belong to.
        version: Counts the server's aggregations, 0 as exported.
        round: The server round that made this version, 0 as exported.
        tensors: float32 arrays by name, in the layout's order; mapped and read-only when read from a file.
    """

    bundle_id: str
    version: int
    round: int
    tensors: Mapping[str, FloatArray]

    def digest(self) -> str:
        """Return the sha256 of its data, lower-case hexadecimal: the same for the same values in the same order."""
        data = hashlib.sha256()
        for array in self.tensors.values():
            data.update(np.ascontiguousarray(array, dtype="<f4").data)
        return data.hexdigest()

    def save(self, path: Path, header_bytes: int) -> None:
        """Replace an adapter file by one atomic rename.

        Args:
            path: The file; whoever has the old one mapped keeps it.
            header_bytes: The layout's header length.

        Raises:
            StorageError: If the folder cannot be written.
        """
        write_atomically(path, encode_adapter(self, header_bytes))


def encode_adapter(adapter: Adapter, header_bytes: int | None = None) -> list[bytes | memoryview]:
    """Return the bytes of an adapter file.

    Args:
        adapter: The adapter.
        header_bytes: The layout's header length; None finds one with room for any version and round.
    """
    metadata = {
        "bundle_id": adapter.bundle_id,
        "version": str(adapter.version),
        "round": str(adapter.round),
        "data_sha256": adapter.digest(),
    }
    if header_bytes is None:
        widest = metadata | {"version": "9" * 10, "round": "9" * 10}
        header_bytes = len(encode_tensors(adapter.tensors, widest)[1])
    return encode_tensors(adapter.tensors, metadata, header_bytes)


def read_adapter(path: Path, manifest: Manifest) -> Adapter:
    """Map an adapter file and check that it belongs to a bundle and can be used.

    Raises:
        AdapterLayoutError: If it belongs to another bundle or its tensors lie elsewhere.
        HashError: If its data are not the ones that were written.
        AdapterValueError: If a value is NaN or infinite.
        TensorFileError: If it is no safetensors file.
    """
    file = TensorFile(path)
    _check_layout(file, manifest)
    if hashlib.sha256(file.data()).hexdigest() != file.metadata.get("data_sha256"):
        raise HashError(f"{path} does not have the data it was written with; fetch or export the adapter again")
    tensors = file.arrays()
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise AdapterValueError(f"{path}: tensor {name!r} has NaN or infinite values; use an earlier adapter")
    return Adapter(
        bundle_id=manifest.bundle_id,
        version=_count(file, "version"),
        round=_count(file, "round"),
        tensors={name: tensors[name] for name in manifest.adapter.tensors},
    )


def _check_layout(file: TensorFile, manifest: Manifest) -> None:
    owner = file.metadata.get("bundle_id")
    if owner != manifest.bundle_id:
        raise AdapterLayoutError(
            f"{file.path} belongs to bundle {owner!r}, expected {manifest.bundle_id}; use the adapter of this bundle"
        )
    expected = {
        name: (tuple(tensor.shape), tensor.offset)
        for name, tensor in manifest.tensors.items()
        if tensor.file == manifest.adapter.file
    }
    found = {name: (entry.shape, entry.offset) for name, entry in file.entries.items()}
    floats = all(entry.dtype == np.float32 for entry in file.entries.values())
    if found != expected or not floats:
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise AdapterLayoutError(
            f"{file.path} has other tensors than the bundle's adapter: {', '.join(different) or 'dtypes'} differ"
        )


def _count(file: TensorFile, key: str) -> int:
    text = file.metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise AdapterLayoutError(f"{file.path} has {key} {text!r}, expected a number of at most 10 digits")
    return int(text)
