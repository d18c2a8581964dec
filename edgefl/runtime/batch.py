"""Samples of a local step: cut into the pieces that a program takes, padded to its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefl.runtime.weights import FloatArray

__all__ = ["Features", "padded", "pieces"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Features:
    """What a program makes of samples without reading anything that is trained, in place of the samples.

    Attributes:
        arrays: By name, (B, ...) each.
    """

    arrays: Mapping[str, FloatArray]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.arrays.values())))


def pieces(count: int, largest: int, *, even: bool) -> Iterator[slice]:
    """Cut so many samples into as few pieces as possible, of one size where nothing else is asked."""
    size = -(-count // -(-count // largest)) if even else largest
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def padded(array: Array, size: int) -> Array:
    """Return the array with zeros after it, so that its first axis has a given size."""
    missing = size - len(array)
    return np.pad(array, [(0, missing), *((0, 0) for _ in array.shape[1:])]) if missing else array
