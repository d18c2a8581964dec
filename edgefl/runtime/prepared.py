"""A program made ready for inputs of certain shapes: what no run changes is bound once.

Binding takes longer than a small graph runs: a training step has a hundred calls with thirty tensors each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort

from edgefl.runtime.buffers import Placement
from edgefl.runtime.opened import OpenGraphs
from edgefl.runtime.output_shapes import Shape
from edgefl.runtime.steps import Step
from edgefl.runtime.weights import FloatArray, Weights

__all__ = ["Prepared", "PreparedCall", "prepare"]

Array = np.ndarray[Any, Any]

_SMALL_ANSWER = 4096
"""Elements; copying so many takes some microseconds, binding a call's thirty tensors again some tens of them."""


class PreparedCall:
    """A call that may run any number of times.

    Attributes:
        step: What it is given and makes.
        mapped_bytes: Bytes of frozen tensors that it reads where they are mapped.
    """

    def __init__(
        self, step: Step, session: ort.InferenceSession, known: Mapping[str, ort.OrtValue], mapped_bytes: int
    ) -> None:
        """Bind all there is to bind.

        Args:
            step: The call.
            session: Runs it.
            known: Values of tensors of the bundle, and of tensors of the program that have a place.
            mapped_bytes: Bytes of frozen tensors among them.
        """
        self.step, self.mapped_bytes = step, mapped_bytes
        self._session, self._known = session, known
        self._others = [tensor for _, tensor in step.wanted if tensor not in known]
        tensors = [tensor for _, tensor in (*step.inputs, *step.wanted)]
        self._binding = self._bound({}) if all(tensor in known for tensor in tensors) else None

    def run(self, values: dict[str, ort.OrtValue]) -> None:
        """Run the call.

        Args:
            values: The program's tensors without a place; what the call makes of them is added.
        """
        if self._binding is not None:
            self._session.run_with_iobinding(self._binding)
            return
        # Not kept: it would keep the answers.
        binding = self._bound(values)
        self._session.run_with_iobinding(binding)
        made = dict(zip((tensor for _, tensor in self.step.wanted), binding.get_outputs(), strict=True))
        values.update((tensor, made[tensor]) for tensor in self._others)

    def answer(self, tensor: str, values: Mapping[str, ort.OrtValue]) -> Array:
        """Return what the call has just made, for whoever wants to keep it."""
        return values[tensor].numpy() if tensor in values else np.array(self._known[tensor].numpy())

    def _bound(self, values: Mapping[str, ort.OrtValue]) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, tensor in self.step.inputs:
            binding.bind_ortvalue_input(name, values[tensor] if tensor in values else self._known[tensor])
        for name, tensor in self.step.wanted:
            # Where there is no place, onnxruntime takes memory itself.
            if tensor in self._known:
                binding.bind_ortvalue_output(name, self._known[tensor])
            else:
                binding.bind_output(name)
        return binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A program that is ready; one run of it at a time.

    Attributes:
        calls: Its calls.
        arrays: The memory they use; nobody else may use it while the program runs.
        generation: Of the adapter that they read.
    """

    calls: tuple[PreparedCall, ...]
    arrays: tuple[FloatArray, ...]
    generation: object


def prepare(
    steps: Sequence[Step],
    shapes: Mapping[str, Shape],
    graphs: OpenGraphs,
    weights: Weights,
    placement: Placement,
) -> Prepared:
    """Open the graphs of a program, find a place for its tensors and bind them.

    Args:
        steps: Its calls.
        shapes: Of its inputs.
        graphs: The bundle's graphs.
        weights: The bundle's tensors.
        placement: Memory.

    Raises:
        BundleError: If a graph cannot be opened or is not the one the manifest describes.
    """
    generation = weights.generation  # before anything is bound: another one meanwhile makes all of it stale
    known_shapes, arrays = dict(shapes), dict[str, FloatArray]()
    values: dict[str, ort.OrtValue] = {}
    calls = []
    for step in steps:
        given = tuple(known_shapes.get(tensor) for _, tensor in step.inputs)
        made = graphs.output_shapes(step, given)
        for name, tensor in step.wanted:
            if (shape := made[name]) is not None:
                known_shapes[tensor] = shape
                # What is kept by others needs memory of its own, but a copy of something small takes less than binding.
                if tensor in step.handed_on or prod(shape) <= _SMALL_ANSWER:
                    arrays[tensor] = placement.take(shape)
                    values[tensor] = _value(arrays[tensor], shape)
        stored = [key for _, key in step.inputs if weights.has(key)]
        known = {tensor: values[tensor] for _, tensor in (*step.inputs, *step.wanted) if tensor in values}
        known |= {key: weights.value(key) for key in stored}
        calls.append(PreparedCall(step, graphs.session(step), known, sum(map(weights.mapped_bytes, stored))))
        _leave(placement, arrays, step.freed)
    return Prepared(calls=tuple(calls), arrays=tuple(placement.used.values()), generation=generation)


def _value(array: FloatArray, shape: Shape) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(array[: prod(shape)].reshape(shape))


def _leave(placement: Placement, arrays: dict[str, FloatArray], freed: Iterable[str]) -> None:
    for tensor in freed:
        if tensor in arrays:
            placement.leave(arrays.pop(tensor))
