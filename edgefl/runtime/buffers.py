"""Memory for the tensors that calls of a program hand on, kept apart from what a running graph needs for itself.

ONNX Runtime's arena cuts large pieces that are free for a moment into small ones; a small tensor that stays alive
then spoils a large piece for every graph after it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from math import prod
from threading import Lock

import numpy as np

from edgefl.runtime.weights import FloatArray

__all__ = ["Buffers", "Placement"]


class Buffers:
    """Arrays that nobody uses at the moment; threads may share them."""

    def __init__(self) -> None:
        self._free: dict[int, FloatArray] = {}
        self._lock = Lock()

    def claim(self, arrays: Sequence[FloatArray]) -> bool:
        """Take certain arrays, all or none of them, and say whether they were there."""
        with self._lock:
            there = all(id(array) in self._free for array in arrays)
            for array in arrays if there else ():
                del self._free[id(array)]
            return there

    def claim_all(self) -> list[FloatArray]:
        """Take all there are."""
        with self._lock:
            arrays = list(self._free.values())
            self._free.clear()
            return arrays

    def give_back(self, arrays: Iterable[FloatArray]) -> None:
        """Let arrays be taken again."""
        with self._lock:
            self._free |= {id(array): array for array in arrays}


class Placement:
    """Finds a place for tensors that come and go in a known order.

    Args:
        arrays: What may be used.

    Attributes:
        used: The arrays that tensors have had a place in, by their ids.
        let_go: Those of `arrays` that are too small to be worth keeping, by their ids.
    """

    def __init__(self, arrays: Iterable[FloatArray]) -> None:
        self._free = sorted(arrays, key=len)
        self.used: dict[int, FloatArray] = {}
        self.let_go: dict[int, FloatArray] = {}

    @property
    def unused(self) -> list[FloatArray]:
        """The arrays that no tensor has had a place in and that are worth keeping."""
        return [array for array in self._free if id(array) not in self.used]

    def take(self, shape: tuple[int, ...]) -> FloatArray:
        """Return an array that is large enough, the smallest there is; its values are whatever they were."""
        size = prod(shape)
        place = bisect_left(self._free, size, key=len)
        if place < len(self._free) and len(self._free[place]) <= 2 * size:
            array = self._free.pop(place)
        else:
            # What is too small when something is missing was for smaller batches.
            self.let_go |= {id(array): array for array in self._free[:place] if id(array) not in self.used}
            self._free = [array for array in self._free if id(array) not in self.let_go]
            array = np.empty(size, np.float32)
        self.used[id(array)] = array
        return array

    def leave(self, array: FloatArray) -> None:
        """Give an array that `take` returned to later tensors."""
        insort(self._free, array, key=len)
