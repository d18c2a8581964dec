"""Graphs that make a linear layer's gradient from the rows of all its uses in a step.

Written in ONNX directly: each is one operator or two, and there is one `stack_N` for every number of uses.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefl_export.formats.onnx import to_model

__all__ = ["LINEAR_GRADIENT", "rows_graph", "stack_name"]

LINEAR_GRADIENT = "linear_gradient"
_STACK = "stack_"


def stack_name(parts: int) -> str:
    """Return the name of the graph that puts so many matrices under each other."""
    return f"{_STACK}{parts}"


def rows_graph(name: str) -> onnx.ModelProto | None:
    """Return a graph by name, None if it is not one of these.

    `linear_gradient` takes rows at the layer's output (R, out) and at its input (R, in) and gives the gradients of
    weight (out, in) and bias (out,).  `stack_N` takes N matrices (., K) and gives one.
    """
    if name == LINEAR_GRADIENT:
        return _linear_gradient()
    return _stack(int(name.removeprefix(_STACK))) if name.startswith(_STACK) else None


def _linear_gradient() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["gradient", "x"], ["at_weight"], transA=1),
        helper.make_node("ReduceSum", ["gradient", "rows"], ["at_bias"], keepdims=0),
    ]
    axis = numpy_helper.from_array(np.array([0]), "rows")
    inputs = {"gradient": ["rows", "out"], "x": ["rows", "in"]}
    return _model(nodes, inputs, {"at_weight": ["out", "in"], "at_bias": ["out"]}, [axis])


def _stack(parts: int) -> onnx.ModelProto:
    inputs: dict[str, list[str]] = {f"rows_{part}": [f"count_{part}", "size"] for part in range(parts)}
    count = " + ".join(f"count_{part}" for part in range(parts))
    return _model([helper.make_node("Concat", list(inputs), ["rows"], axis=0)], inputs, {"rows": [count, "size"]}, [])


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[str]],
    outputs: dict[str, list[str]],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        for values in (inputs, outputs)
    )
    model = to_model(helper.make_graph(nodes, "graph", given, made, constants))
    onnx.checker.check_model(model, full_check=True)
    return model
