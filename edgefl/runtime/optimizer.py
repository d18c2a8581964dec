"""SGD with momentum and AdamW over numpy arrays, moving only the elements that a step's gradient reached.

An element without gradient keeps its value and its state: neither decay nor momentum moves it, as in torch a
parameter whose `.grad` is None is skipped.  The Kotlin client follows the same golden file
(tests/golden/optimizer.json).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgefl.core.tensor_slice import TensorSlice
from edgefl.runtime.weights import FloatArray

__all__ = ["AdamW", "Sgd"]

_ROWS_ELEMENTS = 1 << 16


@dataclass(slots=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent with momentum: v = momentum * v + g; value -= learning_rate * v.

    Attributes:
        learning_rate: Step size, above 0.
        momentum: In [0, 1).
    """

    learning_rate: float
    momentum: float = 0.0
    _velocity: dict[str, FloatArray] = field(default_factory=dict)

    def step(
        self, values: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray], coverage: Iterable[TensorSlice]
    ) -> None:
        """Move the covered elements of `values` in place.

        Args:
            values: Arrays by tensor name.
            gradients: Arrays of the same shapes.
            coverage: Parts of the tensors, none of them twice.
        """
        for part in coverage:
            moved = gradients[part.name][part.index]
            if self.momentum:
                velocity = _state(self._velocity, part, values)
                velocity *= np.float32(self.momentum)
                velocity += moved
                moved = velocity
            for value, step in _rows(values[part.name][part.index], moved):
                np.subtract(value, np.float32(self.learning_rate) * step, out=value)


@dataclass(slots=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2).

    Steps are counted for each row of a tensor (its first axis), because a row that is reached late must have its
    averages corrected for its own number of steps.  beta2 is 0.99 and not torch's 0.999: the optimizer is fresh in
    every round, and a round has tens of steps, not thousands.

    Attributes:
        learning_rate: Step size, above 0.
        weight_decay: A step multiplies covered values by 1 - learning_rate * weight_decay.
        beta1: Of the average of gradients.
        beta2: Of the average of squared gradients.
        eps: Added to the root of the latter.
    """

    learning_rate: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    _first: dict[str, FloatArray] = field(default_factory=dict)
    _second: dict[str, FloatArray] = field(default_factory=dict)
    _steps: dict[str, FloatArray] = field(default_factory=dict)

    def step(
        self, values: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray], coverage: Iterable[TensorSlice]
    ) -> None:
        """Move the covered elements of `values` in place.

        Args:
            values: Arrays by tensor name.
            gradients: Arrays of the same shapes.
            coverage: Parts of the tensors, none of them twice.
        """
        parts = tuple(coverage)
        self._count(parts, values)
        for part in parts:
            arrays = (values[part.name][part.index], gradients[part.name][part.index])
            averages = (_state(self._first, part, values), _state(self._second, part, values))
            for rows in _rows(*arrays, *averages, self._steps[part.name][part.index[:1]]):
                self._move(*rows)

    def _move(
        self, value: FloatArray, gradient: FloatArray, first: FloatArray, second: FloatArray, steps: FloatArray
    ) -> None:
        first *= np.float32(self.beta1)
        first += np.float32(1.0 - self.beta1) * gradient
        second *= np.float32(self.beta2)
        second += np.float32(1.0 - self.beta2) * gradient * gradient
        step_size = np.float32(self.learning_rate) / (1.0 - np.float32(self.beta1) ** steps)
        root = np.sqrt(second / (1.0 - np.float32(self.beta2) ** steps))
        root += np.float32(self.eps)
        value *= np.float32(1.0 - self.learning_rate * self.weight_decay)
        value -= step_size * first / root

    def _count(self, parts: Iterable[TensorSlice], values: Mapping[str, FloatArray]) -> None:
        """Count one more step for every row that a part reaches, once however many parts reach it."""
        reached: dict[str, FloatArray] = {}
        for part in parts:
            shape = values[part.name].shape
            rows = reached.setdefault(part.name, np.zeros((shape[0], *(1 for _ in shape[1:])), np.float32))
            rows[part.index[:1]] = 1.0
        for name, rows in reached.items():
            self._steps[name] = self._steps.get(name, 0.0) + rows


def _rows(*arrays: FloatArray) -> Iterator[tuple[FloatArray, ...]]:
    """Cut arrays into rows that stay in a cache, so that what is computed on the way takes next to no memory."""
    rows = len(arrays[0])
    size = max(1, _ROWS_ELEMENTS * rows // max(1, arrays[0].size))
    for start in range(0, rows, size):
        yield tuple(array[start : start + size] for array in arrays)


def _state(buffers: dict[str, FloatArray], part: TensorSlice, values: Mapping[str, FloatArray]) -> FloatArray:
    """Return a part of the optimizer's own array for a tensor, made of zeros at its first use."""
    if part.name not in buffers:
        buffers[part.name] = np.zeros_like(values[part.name])
    return buffers[part.name][part.index]
