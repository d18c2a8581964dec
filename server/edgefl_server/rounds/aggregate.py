"""Average updates element by element over the clients that trained each element (docs/protocol.md, Averaging).

One rule serves every method, because what a client trained is said by the keys of its arrays alone: a depth, a
width, a base or a whole tensor.  `keep` is the rule of ReeFL and Split-Mix, `mix_old` that of CoCoFL and of plain
FedAvg over unchanged copies, `zero` that of RaFFM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgefl.core.tensor_slice import TensorSlice

__all__ = ["Aggregation", "Average", "FloatArray", "Reply", "Untouched"]

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
_Sums = np.ndarray[Any, np.dtype[np.float64]]
Untouched = Literal["keep", "mix_old", "zero"]
Reply = Literal["values", "delta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """What a round's updates say together.

    Attributes:
        values: New values by tensor, float32.
        is_touched: By tensor and element, whether the server's step may move it: with `keep` and `mix_old` where at
            least one client covered it, with `zero` everywhere, since absent clients count there as well.
    """

    values: Mapping[str, FloatArray]
    is_touched: Mapping[str, BoolArray]


class Aggregation:
    """Sums updates as they arrive; its memory does not grow with the number of clients.

    Sums are float64: the product of a float32 value with a whole weight below 2**29 is exact in it, and what the
    additions lose stays far below float32's resolution, so the order in which replies arrive does not show.
    """

    def __init__(self, old: Mapping[str, FloatArray], untouched: Untouched = "keep") -> None:
        """Start a round.

        Args:
            old: The values that were sent out, by tensor.
            untouched: What an element counts for clients that did not cover it.
        """
        self._old = old
        self._untouched = untouched
        self._sums: dict[str, _Sums] = {name: np.zeros(array.shape) for name, array in old.items()}
        self._weights: dict[str, _Sums] = {name: np.zeros(array.shape) for name, array in old.items()}
        self._total_weight = 0.0

    def add(self, parts: Mapping[str, FloatArray], weight: float, reply: Reply = "values") -> None:
        """Count one client's update; the gate has checked that it fits.

        Args:
            parts: Arrays by key: a tensor's name or a part of it (`edgefl.core.tensor_slice`); no two overlap.
            weight: The client's weight, above 0.
            reply: Whether the arrays are new values or differences from the old ones.
        """
        for key, array in parts.items():
            part = TensorSlice.parse(key)
            values = array.astype(np.float64)
            if reply == "delta":
                values += self._old[part.name][part.index]
            values *= weight
            self._sums[part.name][part.index] += values
            self._weights[part.name][part.index] += weight
        self._total_weight += weight

    def result(self) -> Average:
        """Return the average; without any update it is the old values, untouched."""
        is_counted = self._untouched == "zero" and self._total_weight > 0
        return Average(
            values={name: self._average(name).astype(np.float32) for name in self._old},
            is_touched={name: (weights > 0) | is_counted for name, weights in self._weights.items()},
        )

    def _average(self, name: str) -> _Sums:
        old, sums, weights = self._old[name].astype(np.float64), self._sums[name], self._weights[name]
        if self._total_weight == 0:
            return old
        if self._untouched == "keep":
            return np.divide(sums, weights, out=old, where=weights > 0)
        if self._untouched == "mix_old":
            sums = sums + (self._total_weight - weights) * old
        return sums / self._total_weight
