"""The adapter of the self-test: made of integers, so that every device and every language has the same one.

The bundle's own adapter is replaced after each round; golden values need one that stays (FORMAT.md, Self-test).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgefl.runtime.weights import FloatArray

__all__ = ["formula_adapter", "hashed"]

_BETWEEN_STREAMS = 0x9E3779B9


def hashed(count: int, stream: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return the first integers of a stream: MurmurHash3's last step of their index, all modulo 2**32.

    Args:
        count: How many.
        stream: Which stream, 0 or more.
    """
    values = np.arange(count, dtype=np.uint32) + np.uint32(stream * _BETWEEN_STREAMS % 2**32)
    values ^= values >> np.uint32(16)
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def formula_adapter(shapes: Mapping[str, Sequence[int]]) -> dict[str, FloatArray]:
    """Return trainable tensors that depend on nothing but their place, name and shape.

    Args:
        shapes: Shape by name, in the order of the manifest's `adapter.tensors`.
    """
    return {name: _values(name, tuple(shape), place) for place, (name, shape) in enumerate(shapes.items())}


def _values(name: str, shape: tuple[int, ...], place: int) -> FloatArray:
    # The largest k with 4**k <= n: products with n values then keep about their size.
    halvings = (shape[-1].bit_length() - 1) // 2
    integers = (hashed(prod(shape), place) >> np.uint32(16)).astype(np.float32) - np.float32(2**15)
    values: FloatArray = (integers * np.float32(2.0 ** -(15 + halvings))).reshape(shape)
    # A normalisation's weight is the only one with a single axis.
    return values + np.float32(1.0) if len(shape) == 1 and name.endswith("weight") else values
