"""Graphs once more with frozen weights as constants, which a runtime may pack: copy in the order its products read.

One file serves all blocks, as the graph with inputs does: a device gives the constants when it opens it.  The file by
itself has those of the first call, where they lie in the bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx

from edgefl.bundle.program import Call, Program
from edgefl_export.graphs.stand_alone import External, attach

__all__ = ["first_calls", "frozen_inputs", "packed_graph"]


def first_calls(programs: Sequence[Program]) -> dict[str, Call]:
    """Return the first call of each graph that some programs call, by its name."""
    return {call.graph: call for program in reversed(programs) for call in reversed(program.calls)}


def frozen_inputs(graph: onnx.ModelProto, call: Call, frozen: Collection[str]) -> dict[str, str]:
    """Return which inputs of a graph are frozen tensors that it reads: the input's name and the call's key.

    Args:
        graph: The graph.
        call: Any call of it.
        frozen: Names of all frozen tensors.
    """
    read = {name for node in graph.graph.node for name in node.input}
    given = zip((value.name for value in graph.graph.input), call.inputs, strict=True)
    return {name: key for name, key in given if name in read and key.partition("[")[0] in frozen}


def packed_graph(graph: onnx.ModelProto, constants: Mapping[str, External]) -> onnx.ModelProto:
    """Return a graph with some inputs as constants.

    Args:
        graph: The graph.
        constants: Where they lie, by the input's name.
    """
    packed = onnx.ModelProto()
    packed.CopyFrom(graph)
    left = [value for value in packed.graph.input if value.name not in constants]
    del packed.graph.input[:]
    packed.graph.input.extend(left)
    attach(packed, constants)
    return packed
