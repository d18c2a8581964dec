"""Arrays as they travel in a Flower record: float32 `.npy` bytes, read from devices without trusting their header."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord

from edgefl.errors import RefusedError
from edgefl_server.rounds.aggregate import FloatArray

__all__ = ["decode_array", "encode_arrays"]

_MAGIC = b"\x93NUMPY\x01\x00"


def encode_arrays(tensors: Mapping[str, FloatArray]) -> ArrayRecord:
    """Return tensors as the record that devices receive."""
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor, dtype="<f4")) for name, tensor in tensors.items()})


def decode_array(key: str, array: Array, shape: tuple[int, ...]) -> FloatArray:
    """Read an array that must have a given shape.

    Neither `Array.numpy()` nor numpy's own reader is used: the header inside the data would decide how much memory
    is taken, and it is evaluated as Python.  It is compared with the only one that is right.

    Args:
        key: The array's key, for messages.
        array: What the device sent.
        shape: The shape the key has in this bundle.

    Returns:
        A read-only view of the message's bytes.

    Raises:
        RefusedError: If it is anything but a C-ordered, finite float32 array of this shape.
    """
    if array.stype != "numpy.ndarray":
        raise RefusedError(f"array {key!r} is stored as {array.stype!r}, expected 'numpy.ndarray'")
    if array.data[: len(_MAGIC)] != _MAGIC:
        raise RefusedError(f"array {key!r} is no .npy file of version 1.0")
    start = len(_MAGIC) + 2 + int.from_bytes(array.data[len(_MAGIC) : len(_MAGIC) + 2], "little")
    header = array.data[len(_MAGIC) + 2 : start].rstrip()
    expected = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    if header != expected:
        raise RefusedError(f"array {key!r} has the .npy header {header[:100]!r}, expected {expected!r}")
    if len(array.data) != start + 4 * prod(shape):
        raise RefusedError(f"array {key!r} has {len(array.data) - start} bytes of values, expected {4 * prod(shape)}")
    values = np.frombuffer(array.data, "<f4", offset=start).reshape(shape)
    if not np.isfinite(values).all():
        raise RefusedError(f"array {key!r} has NaN or infinite values")
    return values
