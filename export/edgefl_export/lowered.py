"""One graph of a network in ONNX, by name."""

from __future__ import annotations

import onnx

from edgefl_export.formats.onnx import lower
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.graphs.preprocess import preprocess_graph
from edgefl_export.graphs.rows import rows_graph

__all__ = ["lowered_whole"]


def lowered_whole(catalog: Catalog, name: str) -> onnx.ModelProto:
    """Return a graph that is not part of another.

    Args:
        catalog: The network's graphs.
        name: The graph's name.
    """
    if name == "preprocess":
        return preprocess_graph(catalog.network.backbone.preprocessing)
    if (written := rows_graph(name)) is not None:
        return written
    spec = catalog.spec(name)
    return lower(spec.module, spec.example, spec.inputs, spec.outputs, spec.axes)
