"""The tensors of a bundle as ONNX Runtime values that share the memory they already have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from edgefl.bundle import Bundle
from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import AdapterLayoutError

__all__ = ["FloatArray", "Weights"]

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


class _Generation:
    """An adapter and its values, replaced as one so that no thread sees half of each."""

    def __init__(self, adapter: Mapping[str, FloatArray]) -> None:
        self.adapter = adapter
        self.values: dict[str, ort.OrtValue] = {}


class Weights:
    """Looks up frozen tensors in the mapped file and trainable ones in the adapter.

    Args:
        bundle: The bundle.
        adapter: The trainable tensors by name.
        most_mapped_bytes: After so many bytes of frozen tensors have been read the kernel is let to drop their
            pages; reading them again costs less time than saving as much memory in another way.

    Attributes:
        generation: An object that is another one after each `use_adapter`.
    """

    def __init__(self, bundle: Bundle, adapter: Mapping[str, FloatArray], most_mapped_bytes: float = math.inf) -> None:
        self._bundle = bundle
        self._trainable = frozenset(bundle.manifest.adapter.tensors)
        self._frozen_values: dict[str, ort.OrtValue] = {}
        self._most_mapped_bytes, self._mapped_bytes = most_mapped_bytes, 0
        self.generation = _Generation(adapter)

    @property
    def adapter(self) -> Mapping[str, FloatArray]:
        """The trainable tensors by name.  An array written in place is seen by the next call."""
        return self.generation.adapter

    def value(self, key: str) -> ort.OrtValue:
        """Return a tensor, or a part of one, without copying it.

        Args:
            key: `name` or `name[start:stop]`.
        """
        generation, trains = self.generation, self._trains(key)
        values = generation.values if trains else self._frozen_values
        if key not in values:
            part = TensorSlice.parse(key)
            array = generation.adapter[part.name][part.index] if trains else self._bundle.frozen(key)
            values[key] = ort.OrtValue.ortvalue_from_numpy(array)
        return values[key]

    def has(self, key: str) -> bool:
        """Say whether a key names a tensor of the bundle, or a part of one."""
        return key.partition("[")[0] in self._bundle.manifest.tensors

    def mapped_bytes(self, key: str) -> int:
        """Return the bytes of a tensor, or of a part of one, that is read where it is mapped; 0 if it is trainable."""
        return 0 if self._trains(key) else int(self.value(key).tensor_size_in_bytes())

    def note_read(self, mapped_bytes: int) -> None:
        """Take note that so many bytes of frozen tensors have been read."""
        self._mapped_bytes += mapped_bytes
        if self._mapped_bytes > self._most_mapped_bytes:
            self._bundle.release()
            self._mapped_bytes = 0

    def use_adapter(self, adapter: Mapping[str, FloatArray]) -> None:
        """Read trainable tensors from other arrays from now on.

        Raises:
            AdapterLayoutError: If they are not the bundle's adapter tensors, float32 in C order.
        """
        manifest = self._bundle.manifest
        if unlike := sorted(adapter.keys() ^ self._trainable):
            raise AdapterLayoutError(f"tensor {unlike[0]!r} is missing or unknown; an adapter has all of the bundle's")
        for name, array in adapter.items():
            shape = tuple(manifest.tensors[name].shape)
            if array.dtype != np.dtype(np.float32) or array.shape != shape or not array.flags.c_contiguous:
                order = "" if array.flags.c_contiguous else ", not in C order"
                raise AdapterLayoutError(
                    f"tensor {name!r} is {array.dtype} of shape {array.shape}{order}; "
                    f"expected float32 of shape {shape} in C order"
                )
        self.generation = _Generation(adapter)

    def _trains(self, key: str) -> bool:
        return key.partition("[")[0] in self._trainable
