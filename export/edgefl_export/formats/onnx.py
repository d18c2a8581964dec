"""torch module to ONNX graph: pinned versions, symbolic batch, and nothing of this machine left inside."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

__all__ = ["IR_VERSION", "OPSET", "Axes", "keep_outputs", "lower", "to_model"]

# The oldest ONNX Runtime edgefl supports on a phone reads opset 21 and IR 10; onnx writes newer ones by default.
OPSET = 20
IR_VERSION = 10

Axes = Mapping[int, str]
"""Names of an input's symbolic axes, by position; `tokens+1` is one longer than `tokens`."""


def lower(
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Axes],
) -> onnx.ModelProto:
    """Export a module whose weights are inputs.

    Args:
        module: The module.
        example: One tensor for each input; symbolic axes must be longer than 1.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        axes: Symbolic axes of the inputs that have any.

    Returns:
        A model with the names given, opset `OPSET`, IR `IR_VERSION` and no metadata.
    """
    dims = {
        axis: torch.export.Dim(axis, min=1) for named in axes.values() for axis in named.values() if "+" not in axis
    }
    shapes = tuple({position: _length(axis, dims) for position, axis in axes.get(name, {}).items()} for name in inputs)
    with _quietly():
        program = torch.onnx.export(
            module.eval(),
            # torch.export takes one tensor object given twice for one input, and drops the other.
            tuple(tensor.clone() for tensor in example),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=_match_signature(module, shapes),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]  # None only without dynamo
    return strip(model)


def _length(axis: str, dims: Mapping[str, torch.export.Dim]) -> torch.export.Dim:
    name, _, more = axis.partition("+")
    return dims[name] + int(more) if more else dims[name]


def to_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return a model of a graph that was written in ONNX directly."""
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edgefl"
    )
    return model


def keep_outputs(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return a model without its other outputs and without what only they need."""
    needed = set(outputs)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        if node.op_type == "LayerNormalization":  # may leave its statistics out
            last = max(place for place, name in enumerate(node.output) if name in needed)
            del kept.output[last + 1 :]
        nodes.insert(0, kept)
        needed.update(filter(None, node.input))
    made = [value for value in model.graph.output if value.name in outputs]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    return to_model(helper.make_graph(nodes, "graph", model.graph.input, made, constants))


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what differs between machines or tells about them, and pin the IR version."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "edgefl", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string, graph.name = "", "graph"
    del graph.metadata_props[:]
    del graph.value_info[:]
    values: list[onnx.ValueInfoProto | onnx.TensorProto] = [*graph.input, *graph.output, *graph.initializer]
    for part in (*graph.node, *values):
        part.doc_string = ""
        del part.metadata_props[:]
    return model


def _match_signature(module: nn.Module, shapes: tuple[object, ...]) -> tuple[object, ...]:
    """Group the shapes of variadic arguments, as torch.export wants them."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:named], shapes[named:])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation notes out of the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
