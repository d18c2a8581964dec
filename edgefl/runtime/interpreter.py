"""Run programs: call by call, each tensor freed after its last use, each answer handed out as soon as it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort

from edgefl.bundle import Bundle
from edgefl.bundle.program import Graph, Input, Program
from edgefl.errors import EdgeFLError, ManifestError, SamplesError
from edgefl.runtime.buffers import Buffers
from edgefl.runtime.output_shapes import Shape, resolve_shapes
from edgefl.runtime.sessions import open_session, share_resources
from edgefl.runtime.weights import FloatArray, Weights

__all__ = ["Interpreter"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One call, ready to run.

    Attributes:
        graph: The graph's name.
        inputs: What is bound at the call: (name in the graph, program input, made tensor or key).
        packed: What is given when the graph is opened, and packed: (name in the graph, key).  Empty for a session that
            serves all calls of the graph.
        wanted: Its outputs that somebody needs: (name in the graph, name in the program).
        handed_on: Tensors it makes only for later calls.
        freed: Tensors nobody needs after it.
        answers: Keys of the program's outputs that it adds to: (key, tensor).
    """

    graph: str
    inputs: tuple[tuple[str, str], ...]
    packed: tuple[tuple[str, str], ...]
    wanted: tuple[tuple[str, str], ...]
    handed_on: frozenset[str]
    freed: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]


class _Tensors:
    """The tensors of a running program, some of them in buffers that are given back when they are freed."""

    def __init__(self, inputs: Mapping[str, Array], buffers: Buffers) -> None:
        self._buffers = buffers
        self._buffered: dict[str, FloatArray] = {}
        self.values = {key: ort.OrtValue.ortvalue_from_numpy(array) for key, array in inputs.items()}

    def buffer(self, name: str, shape: tuple[int, ...]) -> ort.OrtValue:
        """Return memory for a tensor that is about to be made."""
        self._buffered[name] = buffer = self._buffers.take(shape)
        return ort.OrtValue.ortvalue_from_numpy(buffer[: prod(shape)].reshape(shape))

    def free(self, names: Iterable[str]) -> None:
        """Forget tensors."""
        for name in names:
            del self.values[name]
            if name in self._buffered:
                self._buffers.give_back(self._buffered.pop(name))


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
        self._sessions: dict[tuple[str, tuple[tuple[str, str], ...]], ort.InferenceSession] = {}
        self._plans: dict[str, tuple[_Step, ...]] = {}
        self._buffers = Buffers()
        self._shapes: dict[tuple[str, tuple[Shape | None, ...]], dict[str, Shape | None]] = {}

    def run(self, name: str, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Run a program.

        Args:
            name: The program's name.
            inputs: An array for each of its inputs.

        Yields:
            A key of the program's outputs and a value, as soon as a call has made it.  A key that comes more than
            once means the sum of its values.

        Raises:
            UnknownProgramError: If the bundle has no such program.
            SamplesError: If an input is missing, of another dtype or shape, or empty.
            ManifestError: If a graph is not the one the manifest describes.
            EdgeFLError: If a graph fails, for want of memory for instance.
        """
        program = self._bundle.program(name)
        tensors = _Tensors(_checked(name, program, inputs), self._buffers)
        try:
            for step in self._plan(name, program):
                self._call(step, tensors)
                self.between_calls()
                for key, tensor in step.answers:
                    yield key, tensors.values[tensor].numpy()
                tensors.free(step.freed)
        finally:
            tensors.free(list(tensors.values))

    def _call(self, step: _Step, tensors: _Tensors) -> None:
        values, session = tensors.values, self._session(step)
        binding = session.io_binding()
        for name, tensor in step.inputs:
            binding.bind_ortvalue_input(name, values[tensor] if tensor in values else self.weights.value(tensor))
        try:
            self._bind_outputs(binding, step, tensors)
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own unrelated classes, which it does not export
            raise EdgeFLError(
                f"graph {step.graph!r} of {self._bundle.folder} failed: {error}; if memory ran out, try a "
                "smaller batch, otherwise export the bundle again"
            ) from error
        values.update(zip((tensor for _, tensor in step.wanted), binding.get_outputs(), strict=True))

    def _bind_outputs(self, binding: ort.IOBinding, step: _Step, tensors: _Tensors) -> None:
        """Say where a call's outputs go."""
        shapes: dict[str, Shape | None] = {}
        if step.handed_on:  # looked up for no other call: images may come in any number of sizes
            values = tensors.values
            given = tuple(tuple(values[t].shape()) if t in values else None for _, t in step.inputs)
            shapes = self._output_shapes(step, given)
        for name, tensor in step.wanted:
            shape = shapes[name] if tensor in step.handed_on else None
            # For answers, which may be kept, and where a shape is not told, onnxruntime takes memory itself.
            if shape is None:
                binding.bind_output(name)
            else:
                binding.bind_ortvalue_output(name, tensors.buffer(tensor, shape))

    def _output_shapes(self, step: _Step, given: tuple[Shape | None, ...]) -> dict[str, Shape | None]:
        key = (step.graph, given)
        if key not in self._shapes:
            session = self._session(step)
            declared = {node.name: node.shape for node in session.get_outputs() if node.type == "tensor(float)"}
            inputs = [node.shape for node in session.get_inputs()]
            self._shapes[key] = dict.fromkeys(self._bundle.manifest.graphs[step.graph].outputs)
            self._shapes[key] |= resolve_shapes(inputs, given, declared)
        return self._shapes[key]

    def _session(self, step: _Step) -> ort.InferenceSession:
        key = (step.graph, step.packed)
        if key not in self._sessions:
            self._sessions[key] = self._opened(step)
        return self._sessions[key]

    def _opened(self, step: _Step) -> ort.InferenceSession:
        graph = self._bundle.manifest.graphs[step.graph]
        if graph.packed is not None and step.packed:
            weights = {name: self.weights.value(key) for name, key in step.packed}
            session = open_session(self._bundle.path(graph.packed.file), weights)
            self._bundle.release()  # what was packed is seldom read again
        else:
            session = open_session(self._bundle.path(graph.file))
        found = [[node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
        if found != [[name for name, _ in step.inputs], graph.outputs]:
            raise ManifestError(f"graph {step.graph!r} has other inputs or outputs than the manifest says: {found}")
        return session

    def _plan(self, name: str, program: Program) -> tuple[_Step, ...]:
        if name not in self._plans:
            self._plans[name] = _plan(program, self._bundle.manifest.graphs, packs=self._bundle.packs(name))
        return self._plans[name]


def _plan(program: Program, graphs: Mapping[str, Graph], *, packs: bool) -> tuple[_Step, ...]:
    """Find out what each call is given, what it makes, which tensors die with it and which answers it completes."""
    keys_by_tensor: dict[str, list[str]] = {}
    for key, parts in program.outputs.items():
        for tensor in parts:
            keys_by_tensor.setdefault(tensor, []).append(key)
    local = set(program.inputs) | {tensor for call in program.calls for tensor in call.outputs}
    needed_later: set[str] = set()
    steps: list[_Step] = []
    for call in reversed(program.calls):
        graph = graphs[call.graph]
        outputs = zip(graph.outputs, call.outputs, strict=True)
        wanted = tuple(pair for pair in outputs if pair[1] in needed_later or pair[1] in keys_by_tensor)
        if not wanted:
            continue
        weights = graph.packed.weights if packs and graph.packed is not None else ()
        inputs = tuple(zip(graph.inputs, call.inputs, strict=True))
        touched = {tensor for _, tensor in wanted} | (set(call.inputs) & local)
        answers = tuple((key, tensor) for _, tensor in wanted for key in keys_by_tensor.get(tensor, ()))
        handed_on = frozenset(tensor for _, tensor in wanted if tensor not in keys_by_tensor)
        freed = tuple(touched - needed_later)
        steps.append(
            _Step(
                graph=call.graph,
                inputs=tuple(pair for pair in inputs if pair[0] not in weights),
                packed=tuple(pair for pair in inputs if pair[0] in weights),
                wanted=wanted,
                handed_on=handed_on,
                freed=freed,
                answers=answers,
            )
        )
        needed_later = (needed_later - set(call.outputs)) | (set(call.inputs) & local)
    return tuple(reversed(steps))


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
