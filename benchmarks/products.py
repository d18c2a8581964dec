"""The matrix peak of ONNX Runtime here: the products a step consists of, each alone in a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgefl.bundle.manifest import Model

__all__ = ["Shape", "peak_macs_per_second", "product_graph", "product_name", "product_shapes"]

Shape = tuple[int, int, int]
"""Rows, inner size and columns of a product."""


def product_shapes(model: Model, batch: int) -> list[Shape]:
    """Return the products of a block's four linear layers over all tokens of a batch."""
    rows = batch * ((model.image_size // model.patch_size) ** 2 + 1)
    width, hidden = model.width, model.mlp_width
    return [(rows, width, 3 * width), (rows, width, width), (rows, width, hidden), (rows, hidden, width)]


def product_name(shape: Shape, *, constant: bool) -> str:
    """Return the name under which a product is timed."""
    rows, inner, columns = shape
    return f"{rows}x{inner}x{columns}{' constant' if constant else ''}"


def product_graph(left: Sequence[int], right: np.ndarray[Any, np.dtype[np.float32]], *, constant: bool) -> bytes:
    """Return a graph of one MatMul, c = a b.

    Args:
        left: Shape of a.
        right: b.
        constant: Whether b is a constant, which ONNX Runtime prepacks, or an input.
    """
    sizes = {"a": list(left), "b": list(right.shape), "c": [left[0], right.shape[1]]}
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items())
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    constants = [numpy_helper.from_array(right, "b")] if constant else []
    graph = helper.make_graph([node], "graph", [a] if constant else [a, b], [c], constants)
    # The versions of edgefl's own graphs, said again because edgefl_export.formats imports torch.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def peak_macs_per_second(shapes: Sequence[Shape], seconds: Mapping[str, Sequence[float]]) -> float:
    """Return the multiply-accumulates a second of the best product ever made.

    Args:
        shapes: The products.
        seconds: Of each, by `product_name`.
    """
    return max(
        rows * inner * columns / min(seconds[product_name((rows, inner, columns), constant=constant)])
        for rows, inner, columns in shapes
        for constant in (False, True)
    )
