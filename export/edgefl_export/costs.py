"""What a program costs one sample, counted from its own graphs and not from a formula about them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx
from onnx import TensorProto, helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from edgefl.bundle.manifest import Cost
from edgefl.bundle.program import Program
from edgefl.core.tensor_slice import merge_slices
from edgefl_export.graphs.stand_alone import External, inline

__all__ = ["count_cost"]

Shape = tuple[int, ...]


def count_cost(
    program: Program,
    graphs: Mapping[str, onnx.ModelProto],
    externals: Mapping[str, External],
    adapter: Mapping[str, Shape],
) -> Cost:
    """Count multiply-accumulates and parameters of a program at batch 1.

    Args:
        program: An `infer` or `train` program.
        graphs: The graphs it calls.
        externals: The bundle tensors it reads, by key.
        adapter: Shapes of the trainable tensors.
    """
    model = inline(program, graphs, batch=1)
    for key, tensor in externals.items():
        model.graph.input.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, tensor.shape))
    # onnx's own shape inference loses the history's length where a Reshape computes with it.
    inferred = SymbolicShapeInference.infer_shapes(model)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.input)
    }
    return Cost(
        macs=sum(_macs(node, shapes) for node in model.graph.node),
        parameters=sum(prod(tensor.shape) for tensor in externals.values()),
        trainable_parameters=sum(prod(part.shape(adapter[part.name])) for part in merge_slices(program.coverage)),
    )


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-accumulates of a matrix product or convolution; other operators count nothing."""
    if node.op_type not in {"MatMul", "Gemm", "Conv"}:
        return 0
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    if 0 in first or 0 in second:
        raise ValueError(f"shapes of {node.op_type} {node.name} are not known: {first}, {second}")
    if node.op_type == "Conv":
        output = shapes[node.output[0]]
        return prod(output) * prod(second[1:])
    if node.op_type == "Gemm":
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        return prod(first) * second[0 if flags.get("transB") else 1]
    return prod(first) * second[-1]
