"""The graphs of a bundle that are open, and the shapes they make."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import onnxruntime as ort

from edgefl.bundle import Bundle
from edgefl.errors import ManifestError
from edgefl.runtime.output_shapes import Shape, resolve_shapes
from edgefl.runtime.sessions import open_session
from edgefl.runtime.steps import Step
from edgefl.runtime.weights import Weights

__all__ = ["OpenGraphs"]

_MOST_ELEMENTS = 1 << 40


class _Open(NamedTuple):
    """An open graph, and the shapes it declares for its inputs and for its float32 outputs."""

    session: ort.InferenceSession
    inputs: list[list[int | str]]
    outputs: dict[str, list[int | str | None]]


class OpenGraphs:
    """Opens graphs when they are first asked for: one session for all calls, or one for each list of packed tensors."""

    def __init__(self, bundle: Bundle, weights: Weights) -> None:
        self._bundle, self._weights = bundle, weights
        self._open: dict[tuple[str, tuple[tuple[str, str], ...]], _Open] = {}

    def session(self, step: Step) -> ort.InferenceSession:
        """Return the session that runs a call.

        Raises:
            BundleError: If ONNX Runtime cannot read the graph.
            ManifestError: If the graph is not the one the manifest describes.
        """
        return self._graph(step).session

    def output_shapes(self, step: Step, given: tuple[Shape | None, ...]) -> dict[str, Shape | None]:
        """Return the shapes of a call's outputs by their names in the graph; None where they cannot be told.

        Args:
            step: The call.
            given: Shape of each of its inputs; None for tensors of the bundle and where it is not known.
        """
        graph = self._graph(step)
        for (name, tensor), declared, shape in zip(step.inputs, graph.inputs, given, strict=True):
            if shape is not None and len(shape) != len(declared):
                raise ManifestError(
                    f"graph {step.graph!r} is given {tensor!r} of shape {shape} as {name!r}: {declared}"
                )
        shapes: dict[str, Shape | None] = dict.fromkeys(self._bundle.manifest.graphs[step.graph].outputs)
        shapes |= resolve_shapes(graph.inputs, given, graph.outputs)
        for name, made in shapes.items():
            if made is not None and prod(made) > _MOST_ELEMENTS:
                raise ManifestError(f"graph {step.graph!r} declares {name!r} of shape {made}, which nothing can hold")
        return shapes

    def _graph(self, step: Step) -> _Open:
        key = (step.graph, step.packed)
        if key not in self._open:
            session = self._opened(step)
            outputs = {node.name: node.shape for node in session.get_outputs() if node.type == "tensor(float)"}
            self._open[key] = _Open(session, [node.shape for node in session.get_inputs()], outputs)
        return self._open[key]

    def _opened(self, step: Step) -> ort.InferenceSession:
        graph = self._bundle.manifest.graphs[step.graph]
        if graph.packed is not None and step.packed:
            weights = {name: self._weights.value(key) for name, key in step.packed}
            session = open_session(self._bundle.path(graph.packed.file), weights)
            self._bundle.release()  # what was packed is seldom read again
        else:
            session = open_session(self._bundle.path(graph.file))
        found = [[node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
        if found != [[name for name, _ in step.inputs], graph.outputs]:
            raise ManifestError(f"graph {step.graph!r} has other inputs or outputs than the manifest says: {found}")
        return session
