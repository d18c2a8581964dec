"""Memory for the tensors that calls of a program hand on, kept apart from what a running graph needs for itself.

ONNX Runtime's arena cuts large pieces that are free for a moment into small ones; a small tensor that stays alive
then spoils a large piece for every graph after it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import prod
from threading import Lock

import numpy as np

from edgefl.runtime.weights import FloatArray

__all__ = ["Buffers"]


class Buffers:
    """Arrays that are used again, each for tensors of at most its size; threads may share them."""

    def __init__(self) -> None:
        self._free: list[FloatArray] = []  # rising in size
        self._lock = Lock()

    def take(self, shape: tuple[int, ...]) -> FloatArray:
        """Return an array that is large enough, the smallest there is; its values are whatever they were."""
        size = prod(shape)
        with self._lock:
            place = bisect_left(self._free, size, key=len)
            if place < len(self._free) and len(self._free[place]) <= 2 * size:
                return self._free.pop(place)
            # What is too small when something is missing was for smaller batches.
            del self._free[:place]
        return np.empty(size, np.float32)

    def give_back(self, array: FloatArray) -> None:
        """Let an array that `take` returned be used again."""
        with self._lock:
            insort(self._free, array, key=len)
