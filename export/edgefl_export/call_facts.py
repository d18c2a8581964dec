"""What one call of a graph makes, multiplies and holds, from the graph itself and the shapes it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

__all__ = ["CallFacts", "Shape", "read_facts"]

Shape = tuple[int, ...]

_BYTES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.UINT8: 1, onnx.TensorProto.BOOL: 1}
_VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"}
# Found by measuring: onnxruntime 1.31 gives most elementwise operators, even Add, memory of their own.
_IN_PLACE = {"Relu", "Softmax"}


@dataclass(frozen=True, slots=True)
class _Value:
    shape: Shape
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """One call.

    Attributes:
        outputs: Bytes of each output, in the graph's order.
        shapes: Their shapes.
        macs: Multiply-accumulates of its matrix products and convolutions.
        working_bytes: Largest sum of its outputs and inner tensors that are alive at once.
    """

    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    macs: int
    working_bytes: int


def read_facts(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> CallFacts:
    """Work out one call.

    Args:
        model: The graph.
        inputs: Shape of each of its inputs.

    Raises:
        ValueError: If a shape does not follow from them.
    """
    values = _values(model, inputs)
    graph = model.graph
    outputs = [values[value.name] for value in graph.output]
    return CallFacts(
        outputs=tuple(value.num_bytes for value in outputs),
        shapes=tuple(value.shape for value in outputs),
        macs=sum(_macs(node, values) for node in graph.node),
        working_bytes=_working_bytes(graph, values),
    )


def _values(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, _Value]:
    """Return shape and size of every tensor of a graph."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, inputs[value.name], strict=True):
            dim.dim_value = size
    # What the exporter wrote there is symbolic, and the inference would believe it.
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    # onnx's own shape inference loses the history's length where a Reshape computes with it.
    inferred = SymbolicShapeInference.infer_shapes(fixed).graph
    values = {}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = info.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        values[info.name] = _Value(shape, prod(shape) * _BYTES[tensor.elem_type])
    for constant in inferred.initializer:
        values[constant.name] = _Value(tuple(constant.dims), 0)
    return values


def _macs(node: onnx.NodeProto, values: Mapping[str, _Value]) -> int:
    """Return the multiply-accumulates of a matrix product or convolution; other operators count nothing."""
    if node.op_type not in {"MatMul", "Gemm", "Conv"}:
        return 0
    first, second, output = (values[name].shape for name in (*node.input[:2], node.output[0]))
    if 0 in first or 0 in second:
        raise ValueError(f"shapes of {node.op_type} {node.name} are not known: {first}, {second}")
    if node.op_type == "Conv":
        return prod(output) * prod(second[1:])
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    return prod(output) * first[0 if flags.get("transA") else -1]


def _working_bytes(graph: onnx.GraphProto, values: Mapping[str, _Value]) -> int:
    """Return the largest sum of tensors alive at once, freed as onnxruntime frees them.

    A view takes no memory; a few operators write over an input of its size that nobody reads any more; a transposed
    operand of a matrix product is never made.
    """
    owner = _owners(graph)
    answers = {owner.get(value.name, value.name) for value in graph.output}
    last_use = {owner.get(name, name): position for position, node in enumerate(graph.node) for name in node.input}
    live, working = 0, 0
    held: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        ending = [name for name in {owner.get(n, n) for n in node.input} if last_use[name] == position]
        free = [name for name in ending if name in held and name not in answers]
        for name in node.output:
            if owner.get(name, name) != name or not name:
                continue
            size = values[name].num_bytes
            reused = next((n for n in free if node.op_type in _IN_PLACE and held[n] == size), None)
            if reused is not None:
                free.remove(reused)
                del held[reused]
            else:
                live += size
            held[name] = size
        working = max(working, live)
        unused = [name for name in node.output if name in held and name not in last_use and name not in answers]
        live -= sum(held.pop(name) for name in (*free, *unused))
    return working


def _owners(graph: onnx.GraphProto) -> dict[str, str]:
    """Return for each tensor that has no memory of its own whose it shares."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    owner: dict[str, str] = {}
    for node in graph.node:
        operand = node.op_type == "Transpose" and readers.get(node.output[0]) == {"MatMul"} and _swaps_last(node)
        if node.op_type in _VIEWS or operand:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    return owner


def _swaps_last(node: onnx.NodeProto) -> bool:
    """Whether a Transpose only swaps the last two axes, which a matrix product does by itself."""
    permutation = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
    plain = list(range(len(permutation)))
    return permutation == [*plain[:-2], plain[-1], plain[-2]]
