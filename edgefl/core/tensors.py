"""Read and write safetensors files, mapped and at known offsets.

The safetensors library hands out copies and sorts tensors by its own order; edgefl maps a file once, shares its pages
with ONNX Runtime and needs every tensor at an offset that the graphs can name.  The format is the library's
(little-endian header length, JSON header, one buffer without holes); tests read each other's files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgefl.errors import StorageError, TensorFileError

__all__ = ["ALIGNMENT", "TensorEntry", "TensorFile", "aligned_order", "encode_tensors"]

ALIGNMENT = 64
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_MAX_AXES = 32  # what numpy 1 has
# A shape of no bytes may have any length beside its zero; numpy multiplies the others and refuses at 2**63 bytes.
_MAX_ELEMENTS = 2**59
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies in a file.

    Attributes:
        dtype: Its little-endian numpy dtype.
        shape: Its shape.
        offset: Bytes from the start of the file.
        num_bytes: Its size.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class TensorFile:
    """A safetensors file, mapped read-only; its arrays share the file's pages.

    Attributes:
        path: The file.
        entries: Every tensor, in the order of the buffer.
        metadata: The file's `__metadata__`.
        header_bytes: Length of the JSON header, padding included.
    """

    def __init__(self, path: Path) -> None:
        """Map a file and check its header.

        Args:
            path: A safetensors file.

        Raises:
            TensorFileError: If there is no such file, or it breaks the safetensors format.
            StorageError: If the file cannot be read.
        """
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = _read_header(file.read(8), size, path, file)
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TensorFileError(f"{path} is no file: {error.strerror}; check the path") from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        self.header_bytes = len(header)
        self.metadata, self.entries = _parse_header(header, size, path)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """Return a tensor as a read-only view of the mapped file.

        Raises:
            TensorFileError: If the file has no such tensor.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise TensorFileError(f"{self.path} has no tensor {name!r}; it has {', '.join(self.entries) or 'none'}")
        raw = self._bytes[entry.offset : entry.offset + entry.num_bytes]
        return np.ndarray(entry.shape, entry.dtype, raw.data)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return every tensor as a view, by name."""
        return {name: self[name] for name in self.entries}

    def data(self) -> memoryview:
        """Return the buffer behind the header."""
        return self._bytes[8 + self.header_bytes :].data


def encode_tensors(
    tensors: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str] | None = None,
    header_bytes: int | None = None,
) -> list[bytes | memoryview]:
    """Return the bytes of a safetensors file that holds the tensors in the given order.

    Args:
        tensors: Arrays of any of the supported dtypes.
        metadata: The file's `__metadata__`.
        header_bytes: Pad the header to exactly this length; otherwise to the next one that puts the first
            tensor at a multiple of 64.

    Raises:
        ValueError: If a dtype is not supported or the header does not fit in `header_bytes`.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[bytes | memoryview] = []
    end = 0
    for name, array in tensors.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        if little.dtype not in _CODES:
            raise ValueError(
                f"tensor {name!r} has dtype {array.dtype}; safetensors files here hold {', '.join(_DTYPES)}"
            )
        start, end = end, end + little.nbytes
        header[name] = {"dtype": _CODES[little.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        parts.append(little.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    length = header_bytes if header_bytes is not None else -(-(len(text) + 8) // ALIGNMENT) * ALIGNMENT - 8
    if len(text) > length:
        raise ValueError(f"the header takes {len(text)} bytes, only {length} are reserved for it")
    return [struct.pack("<Q", length), text.ljust(length), *parts]


def aligned_order(sizes: Mapping[str, int]) -> list[str]:
    """Order tensor names so that as many as possible start at a multiple of 64 bytes.

    safetensors has no holes: tensors whose size is a multiple of 64 come first and keep each other aligned.

    Args:
        sizes: Bytes of each tensor, by name.
    """
    return sorted(sizes, key=lambda name: sizes[name] % ALIGNMENT != 0)


def _read_header(prefix: bytes, size: int, path: Path, file: Any) -> bytes:
    if len(prefix) < 8:
        raise TensorFileError(f"{path} is {size} bytes long: too short for a safetensors file")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_MAX_HEADER_BYTES, size - 8):
        raise TensorFileError(f"{path} claims a header of {length} bytes; it is damaged or no safetensors file")
    header: bytes = file.read(length)
    return header


def _parse_header(header: bytes, size: int, path: Path) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    try:
        fields = json.loads(header, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"{path} has a header that is no JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise TensorFileError(f"{path} has a header that is no JSON object")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorFileError(f"{path} has __metadata__ that is not text by name")
    start = 8 + len(header)
    entries = {name: _parse_entry(name, entry, start, path) for name, entry in fields.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].num_bytes)))
    _check_no_holes(ordered.items(), start, size, path)
    return metadata, ordered


def _parse_entry(name: str, entry: object, start: int, path: Path) -> TensorEntry:
    try:
        fields = dict(entry) if isinstance(entry, dict) else {}
        dtype, shape = _DTYPES[fields.pop("dtype")], tuple(fields.pop("shape"))
        first, last = fields.pop("data_offsets")
    except (KeyError, TypeError, ValueError) as error:
        raise TensorFileError(f"{path}: tensor {name!r} is not described by dtype, shape and data_offsets") from error
    numbers = (*shape, first, last)
    if fields or any(type(number) is not int or number < 0 for number in numbers):
        raise TensorFileError(f"{path}: tensor {name!r} has an unknown field or a number that is not a natural one")
    if len(shape) > _MAX_AXES or prod(length or 1 for length in shape) > _MAX_ELEMENTS:
        raise TensorFileError(f"{path}: tensor {name!r} has more axes or longer ones than an array can have")
    if last - first != prod(shape) * dtype.itemsize:
        raise TensorFileError(f"{path}: tensor {name!r} has {last - first} bytes, its shape {shape} needs another size")
    return TensorEntry(dtype=dtype, shape=shape, offset=start + first, num_bytes=last - first)


def _check_no_holes(entries: Iterable[tuple[str, TensorEntry]], start: int, size: int, path: Path) -> None:
    end = start
    for name, entry in entries:
        if entry.offset != end:
            raise TensorFileError(
                f"{path}: tensor {name!r} starts at {entry.offset}, expected {end}: no holes, no overlaps"
            )
        end = entry.offset + entry.num_bytes
    if end != size:
        raise TensorFileError(f"{path} is {size} bytes long, its tensors end at {end}; it was cut short or grew")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields
