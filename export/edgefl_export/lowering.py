"""Every graph that programs call, in ONNX, by name."""

from __future__ import annotations

import onnx

from edgefl_export.formats.onnx import keep_outputs, lower
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.graphs.preprocess import preprocess_graph
from edgefl_export.graphs.rows import rows_graph

__all__ = ["Lowering"]


class Lowering:
    """Lowers the graphs of one network; a graph that is part of another comes from that one, which takes no time."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._wholes: dict[str, onnx.ModelProto] = {}

    def graph(self, name: str) -> onnx.ModelProto:
        """Return a graph by name."""
        part = self._catalog.part_of(name)
        return self._whole(name) if part is None else keep_outputs(self._whole(part[0]), part[1])

    def _whole(self, name: str) -> onnx.ModelProto:
        if name not in self._wholes:
            self._wholes[name] = self._lowered(name)
        return self._wholes[name]

    def _lowered(self, name: str) -> onnx.ModelProto:
        if name == "preprocess":
            return preprocess_graph(self._catalog.network.backbone.preprocessing)
        if (written := rows_graph(name)) is not None:
            return written
        spec = self._catalog.spec(name)
        return lower(spec.module, spec.example, spec.inputs, spec.outputs, spec.axes)
