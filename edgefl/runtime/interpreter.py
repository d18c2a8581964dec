"""Run programs: call by call, each tensor freed after its last use, each answer handed out as soon as it exists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort

from edgefl.bundle import Bundle
from edgefl.bundle.program import Input, Program
from edgefl.errors import EdgeFLError, SamplesError
from edgefl.runtime.buffers import Buffers, Placement
from edgefl.runtime.opened import OpenGraphs
from edgefl.runtime.output_shapes import Shape
from edgefl.runtime.part import WHOLE, Part
from edgefl.runtime.prepared import Prepared, PreparedCall, prepare
from edgefl.runtime.sessions import share_resources
from edgefl.runtime.steps import Step, plan_steps
from edgefl.runtime.weights import FloatArray, Weights

__all__ = ["Interpreter"]

Array = np.ndarray[Any, Any]

_MOST_PREPARED = 32
"""Programs and shapes of inputs kept ready, as local training draws another exit for each batch; they share memory."""


_Key = tuple[str, Part]


class Interpreter:
    """Runs the programs of one bundle.

    Attributes:
        weights: The tensors that calls read.
        between_calls: Called after each call, when its working memory is at its largest; may raise to stop.
    """

    def __init__(self, bundle: Bundle, weights: Weights, between_calls: Callable[[], None]) -> None:
        # Here and not with the first session: a wrong EDGEFL_THREADS is found before anything is answered.
        share_resources()
        self._bundle = bundle
        self.weights = weights
        self.between_calls = between_calls
        self._graphs = OpenGraphs(bundle, weights)
        self._plans: dict[_Key, tuple[Program, tuple[Step, ...]]] = {}
        self._buffers = Buffers()
        self._idle: dict[tuple[_Key, tuple[Shape, ...]], Prepared] = {}

    def use_adapter(self, tensors: Mapping[str, FloatArray]) -> None:
        """Use other trainable tensors in all programs that begin from now on; nothing keeps the old ones.

        Raises:
            AdapterLayoutError: If they are not the bundle's adapter tensors, float32 in C order.
        """
        self.weights.use_adapter(tensors)
        self._idle.clear()

    def run(
        self,
        name: str,
        inputs: Mapping[str, Array],
        part: Part = WHOLE,
        features: Mapping[str, FloatArray] | None = None,
        wanted: Callable[[str], bool] = lambda _key: True,
    ) -> Iterator[tuple[str, Array]]:
        """Run a program.

        Args:
            name: The program's name.
            inputs: An array for each of its inputs.
            part: What of it to run.
            features: What stage `fixed` has answered, for stage `rest`.
            wanted: Asked for a key when its answer could be made; where it says no, no time is spent on that.

        Yields:
            A key of the program's outputs and a value, as soon as a call has made it.  A key that comes more than
            once means the sum of its values.

        Raises:
            UnknownProgramError: If the bundle has no such program.
            SamplesError: If an input is missing, of another dtype or shape, or empty.
            ManifestError: If a graph is not the one the manifest describes.
            EdgeFLError: If a graph fails, for want of memory for instance.
        """
        program, steps = self._plan(name, part)
        arrays = _checked(name, program, inputs) | dict(features or {})
        values = {key: ort.OrtValue.ortvalue_from_numpy(array) for key, array in arrays.items()}
        shapes = {key: array.shape for key, array in arrays.items()}
        with self._prepared((name, part), steps, shapes) as prepared:
            for call in prepared.calls:
                answers = [pair for pair in call.step.answers if wanted(pair[0])]
                if answers or not call.step.only_answers:
                    self._call(call, values)
                    self.between_calls()
                for key, tensor in answers:
                    yield key, call.answer(tensor, values)
                for tensor in call.step.freed:
                    values.pop(tensor, None)

    def _call(self, call: PreparedCall, values: dict[str, ort.OrtValue]) -> None:
        try:
            call.run(values)
        except Exception as error:  # onnxruntime raises its own unrelated classes, which it does not export
            raise EdgeFLError(
                f"graph {call.step.graph!r} of {self._bundle.folder} failed: {error}; if memory ran out, try a "
                "smaller batch, otherwise export the bundle again"
            ) from error
        self.weights.note_read(call.mapped_bytes)

    def _plan(self, name: str, part: Part) -> tuple[Program, tuple[Step, ...]]:
        if (name, part) not in self._plans:
            manifest = self._bundle.manifest
            program = part.of(self._bundle.program(name), manifest.adapter.tensors)
            steps = plan_steps(program, manifest.graphs, packs=self._bundle.packs(name))
            self._plans[name, part] = program, steps
        return self._plans[name, part]

    @contextmanager
    def _prepared(self, plan: _Key, steps: tuple[Step, ...], shapes: Mapping[str, Shape]) -> Iterator[Prepared]:
        """Lend out a prepared program; a run that begins meanwhile, in a thread or between answers, gets another."""
        key = (plan, tuple(shapes.values()))
        prepared = self._idle.pop(key, None)
        if prepared is None or not self._buffers.claim(prepared.arrays):
            prepared = self._prepare(plan[0], steps, shapes)
        while prepared.generation is not self.weights.generation:
            self._buffers.give_back(prepared.arrays)
            prepared = self._prepare(plan[0], steps, shapes)
        try:
            yield prepared
        finally:
            self._buffers.give_back(prepared.arrays)
            if prepared.generation is self.weights.generation:
                self._idle[key] = prepared

    def _prepare(self, name: str, steps: tuple[Step, ...], shapes: Mapping[str, Shape]) -> Prepared:
        placement = Placement(self._buffers.claim_all())
        try:
            return prepare(steps, shapes, self._graphs, self.weights, placement)
        except MemoryError as error:
            raise EdgeFLError(f"no memory for the tensors of program {name}: {error}; try a smaller batch") from error
        finally:
            self._forget(placement.let_go.keys())
            # What no program that is ready has a use for is not kept.
            needed = {id(array) for ready in list(self._idle.values()) for array in ready.arrays}
            self._buffers.give_back(array for array in placement.unused if id(array) in needed)

    def _forget(self, let_go: Collection[int]) -> None:
        """Forget what was prepared long ago, and what would keep arrays that are let go."""
        for position, (key, prepared) in enumerate(reversed(list(self._idle.items())), 1):
            if position >= _MOST_PREPARED or any(id(array) in let_go for array in prepared.arrays):
                self._idle.pop(key, None)


def _checked(name: str, program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs in C order, refusing what does not fit."""
    arrays = {}
    for key, wanted in program.inputs.items():
        array = inputs.get(key)
        if array is None:
            raise SamplesError(f"program {name} needs {key!r}; it was given {', '.join(inputs) or 'nothing'}")
        if not _fits(array, wanted):
            expected = ", ".join("any" if size is None else str(size) for size in wanted.shape)
            raise SamplesError(
                f"program {name}: {key!r} is {array.dtype} of shape {array.shape}, "
                f"expected {wanted.dtype} of shape ({expected}), not empty"
            )
        if wanted.dtype == "float32" and not np.isfinite(array).all():
            raise SamplesError(f"program {name}: {key!r} has NaN or infinite values; clean the samples")
        arrays[key] = np.ascontiguousarray(array)
    return arrays


def _fits(array: Array, wanted: Input) -> bool:
    """Say whether an array is what a program wants; graphs divide by sizes, so that none may be 0."""
    lengths_fit = len(array.shape) == len(wanted.shape) and all(
        given == size or (size is None and given > 0) for size, given in zip(wanted.shape, array.shape, strict=True)
    )
    return lengths_fit and array.dtype == wanted.dtype
