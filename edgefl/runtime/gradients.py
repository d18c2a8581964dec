"""Where gradients add up: over the calls of a program, over micro-batches, over the parts of a tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefl.core.tensor_slice import TensorSlice, merge_slices
from edgefl.errors import ManifestError
from edgefl.runtime.weights import FloatArray

__all__ = ["Gradients"]


class Gradients:
    """One buffer for each adapter tensor, and which of its elements a step has reached.

    With `momentum` the buffers are SGD's velocity, v = momentum * v + g, and no second ones are needed: plain SGD then
    steps by them.  Clipping wants the gradient alone, so it goes with a momentum of 0 here.

    Args:
        adapter: Arrays of the shapes wanted.
        momentum: What of a step's sums is left when the next begins, in [0, 1).

    Attributes:
        arrays: The sums by tensor name, in the adapter's shapes; 0 where nothing was reached.
    """

    def __init__(self, adapter: Mapping[str, FloatArray], momentum: float = 0.0) -> None:
        self._momentum = np.float32(momentum)
        self.arrays: dict[str, FloatArray] = {
            name: np.zeros(array.shape, np.float32) for name, array in adapter.items()
        }
        self._reached: dict[TensorSlice, None] = {}

    def add(self, key: str, value: FloatArray) -> None:
        """Add a gradient to the elements it belongs to.

        Args:
            key: `name` or `name[start:stop]`.
            value: Of that part's shape.

        Raises:
            ManifestError: If it is of another shape.
        """
        part = TensorSlice.parse(key)
        view = self.arrays[part.name][part.index]
        if value.shape != view.shape:
            raise ManifestError(
                f"the gradient of {key!r} has shape {value.shape}, expected {view.shape}; export the bundle again"
            )
        np.add(view, value, out=view)
        self._reached[part] = None

    @property
    def coverage(self) -> tuple[TensorSlice, ...]:
        """The parts that were reached since the last `clear`, none of them twice."""
        return merge_slices(self._reached)

    def norm(self) -> float:
        """Return the Euclidean norm over all elements."""
        return float(np.sqrt(sum(float(np.vdot(array, array)) for array in self.arrays.values())))

    def scale(self, factor: float) -> None:
        """Multiply every gradient."""
        for array in self.arrays.values():
            np.multiply(array, np.float32(factor), out=array)

    def clear(self) -> None:
        """Start the next step."""
        for part in self.coverage:
            view = self.arrays[part.name][part.index]
            if self._momentum:
                np.multiply(view, self._momentum, out=view)
            else:  # not a product with 0, which would keep what is not finite
                view[...] = 0.0
        self._reached.clear()
