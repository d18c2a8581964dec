"""float32 arrays as Flower's Array objects: a .npy file cut into chunks.

The .npy header is written and compared here, byte for byte as numpy writes it, because numpy's own reader evaluates
it as Python; a header in any other form is refused.
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgefl.fleet.objects import ObjectError, ObjectStore, StoredObject

__all__ = ["CHUNK_BYTES", "decode_array", "encode_array"]

CHUNK_BYTES = 1024 * 1024

_MAGIC = b"\x93NUMPY\x01\x00"
_FIXED_BYTES = len(_MAGIC) + 2
_MAX_HEADER_BYTES = 0xFFFF
_FLOAT = np.dtype("<f4")
_ALIGNMENT = 64
# numpy reserves room for the first axis to grow in place.
_GROWTH_CHARACTERS = 21

_Extent = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class _ArrayFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dtype: Literal["float32"]
    shape: Annotated[tuple[_Extent, ...], msgspec.Meta(max_length=32)]
    stype: Literal["numpy.ndarray"]
    arraychunk_ids: list[Annotated[int, msgspec.Meta(ge=0)]]


def encode_array(store: ObjectStore, array: NDArray[np.float32]) -> str:
    """Add an array to a store as an Array and its chunks.

    Args:
        store: Where the objects go.
        array: Any shape without an empty axis.

    Returns:
        The id of the Array.
    """
    data = memoryview(npy_header(array.shape) + array.astype(_FLOAT, copy=False).tobytes())
    chunks = [
        store.add("ArrayChunk", (), data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)
    ]
    distinct = list(dict.fromkeys(chunks))
    index = {chunk: position for position, chunk in enumerate(distinct)}
    fields = {
        "dtype": "float32",
        "shape": array.shape,
        "stype": "numpy.ndarray",
        "arraychunk_ids": [index[chunk] for chunk in chunks],
    }
    return store.add("Array", distinct, json.dumps(fields).encode())


def decode_array(store: ObjectStore, key: str, limit_bytes: int) -> NDArray[np.float32]:
    """Return the array of an Array object, read-only.

    Args:
        store: The message's objects.
        key: The id of the Array.
        limit_bytes: Most bytes the array may have.

    Raises:
        ObjectError: If it is no float32 array, contradicts itself, or is larger than `limit_bytes`.
    """
    _, found = store.get(key, ["Array"])
    try:
        fields = msgspec.json.decode(found.body, type=_ArrayFields)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ObjectError(f"array {key[:12]} is not described as a float32 array: {error}") from error
    num_bytes = prod(fields.shape) * _FLOAT.itemsize
    if num_bytes > limit_bytes:
        raise ObjectError(f"array {key[:12]} of shape {fields.shape} is too large: {limit_bytes} bytes are left for it")
    data = _join_chunks(store, key, found, fields, num_bytes)
    order, header_bytes = _read_header(data, fields.shape, key)
    if len(data) != header_bytes + num_bytes:
        found_bytes = len(data) - header_bytes
        raise ObjectError(f"array {key[:12]} has {found_bytes} bytes; its shape {fields.shape} needs {num_bytes}")
    values = np.frombuffer(data, _FLOAT, offset=header_bytes).reshape(fields.shape, order=order)
    array = np.ascontiguousarray(values).reshape(fields.shape)
    array.flags.writeable = False
    return array


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return what precedes the values of a float32 array in a .npy file of version 1, padded as by numpy from 1.23."""
    text = _header_text(shape, fortran=False)
    if shape:
        text += b" " * (_GROWTH_CHARACTERS - len(str(shape[0])))
    padding = -(_FIXED_BYTES + len(text) + 1) % _ALIGNMENT
    return _MAGIC + struct.pack("<H", len(text) + padding + 1) + text + b" " * padding + b"\n"


def _header_text(shape: tuple[int, ...], *, fortran: bool) -> bytes:
    return f"{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()


def _join_chunks(store: ObjectStore, key: str, found: StoredObject, fields: _ArrayFields, num_bytes: int) -> bytes:
    if any(index >= len(found.children) for index in fields.arraychunk_ids):
        raise ObjectError(f"array {key[:12]} uses a chunk it does not have; it has {len(found.children)}")
    if len(set(fields.arraychunk_ids)) != len(found.children):
        raise ObjectError(f"array {key[:12]} has a chunk it does not use")
    parts = [store.get(chunk, ["ArrayChunk"])[1] for chunk in found.children]
    if any(part.children for part in parts):
        raise ObjectError(f"array {key[:12]} has a chunk with children")
    # A chunk may be used often: the sum is checked before anything is copied.
    if sum(len(parts[index].body) for index in fields.arraychunk_ids) > num_bytes + _FIXED_BYTES + _MAX_HEADER_BYTES:
        raise ObjectError(f"array {key[:12]} has more bytes than its shape {fields.shape} needs")
    return b"".join(parts[index].body for index in fields.arraychunk_ids)


def _read_header(data: bytes, shape: tuple[int, ...], key: str) -> tuple[Literal["C", "F"], int]:
    """Return the order of the values and where they start."""
    if len(data) < _FIXED_BYTES or not data.startswith(_MAGIC):
        raise ObjectError(f"array {key[:12]} is no .npy file of version 1")
    (length,) = struct.unpack_from("<H", data, len(_MAGIC))
    header_bytes = _FIXED_BYTES + length
    text = data[_FIXED_BYTES:header_bytes].removesuffix(b"\n").rstrip(b" ")
    if text == _header_text(shape, fortran=False):
        return "C", header_bytes
    if text == _header_text(shape, fortran=True):
        return "F", header_bytes
    raise ObjectError(f"array {key[:12]} has the .npy header {text[:100]!r}; expected float32 of shape {shape}")
