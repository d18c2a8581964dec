"""A program written out as one ONNX graph, for any app with ONNX Runtime and for counting what a program costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from edgefl.bundle.program import Program
from edgefl_export.formats.onnx import to_model

__all__ = ["External", "attach", "inline"]

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """A tensor that lies in a file beside the graph.

    Attributes:
        file: The file's name.
        offset: Bytes from its start.
        shape: The tensor's shape; it is float32.
    """

    file: str
    offset: int
    shape: tuple[int, ...]


def inline(program: Program, graphs: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Return a program as one graph, whose weights are still missing.

    Args:
        program: The program; each of its outputs must be a single tensor, others are left out.
        graphs: The graphs it calls.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for position, call in enumerate(program.calls):
        graph = graphs[call.graph].graph
        names = dict(zip((value.name for value in graph.input), call.inputs, strict=True))
        made = zip((value.name for value in graph.output), call.outputs, strict=True)
        names.update((name, tensor) for name, tensor in made if tensor)
        rename = _Renamer(names, prefix=f"{position}.{call.graph}/")
        nodes += [rename.node(node) for node in graph.node]
        constants += [rename.constant(constant) for constant in graph.initializer]
    inputs = [
        helper.make_tensor_value_info(
            name, _TYPES[spec.dtype], ["batch" if size is None else size for size in spec.shape]
        )
        for name, spec in program.inputs.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(key) for key, parts in program.outputs.items() if parts == [key]]
    for output in outputs:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return to_model(graph)


def attach(model: onnx.ModelProto, externals: Mapping[str, External]) -> None:
    """Give a graph weights, as tensors that stay in the files where they lie.

    Args:
        model: The graph.
        externals: The bundle tensors it reads, by the name it has for them.
    """
    model.graph.initializer.extend(_external(key, tensor) for key, tensor in externals.items())


class _Renamer:
    """Gives a called graph's tensors the program's names, and everything else a prefix of its own."""

    def __init__(self, names: Mapping[str, str], prefix: str) -> None:
        self.names, self.prefix = names, prefix

    def tensor(self, name: str) -> str:
        return self.names.get(name, self.prefix + name) if name else ""

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self.prefix + node.name
        copy.input[:] = [self.tensor(name) for name in node.input]
        copy.output[:] = [self.tensor(name) for name in node.output]
        return copy

    def constant(self, constant: onnx.TensorProto) -> onnx.TensorProto:
        copy = onnx.TensorProto()
        copy.CopyFrom(constant)
        copy.name = self.tensor(constant.name)
        return copy


def _external(name: str, tensor: External) -> onnx.TensorProto:
    size = 4
    for length in tensor.shape:
        size *= length
    proto = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", tensor.file), ("offset", tensor.offset), ("length", size)):
        proto.external_data.add(key=key, value=str(value))
    return proto
