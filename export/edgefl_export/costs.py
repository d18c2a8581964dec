"""What a program costs: multiply-accumulates and parameters of one sample, planned memory of one run."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import msgspec
import onnx

from edgefl.bundle.manifest import Cost, Variant
from edgefl.bundle.program import Call, Program
from edgefl.core.tensor_slice import TensorSlice, merge_slices
from edgefl_export.call_facts import CallFacts, Shape, read_facts
from edgefl_export.graphs.packed import frozen_inputs

__all__ = ["Counter"]

_ITEM_BYTES = {"float32": 4, "int64": 8, "uint8": 1}


class Counter:
    """Counts the programs of one bundle; calls that many of them share are worked out once."""

    def __init__(
        self, graphs: Mapping[str, onnx.ModelProto], tensors: Mapping[str, Shape], adapter: Mapping[str, Shape]
    ) -> None:
        """Prepare.

        Args:
            graphs: The graphs that programs call.
            tensors: Shapes of all tensors of the bundle as they are stored.
            adapter: Shapes of the trainable ones.
        """
        self._graphs, self._tensors, self._adapter = graphs, tensors, adapter
        self._known: dict[tuple[str, tuple[Shape, ...]], CallFacts] = {}

    def variant_cost(self, variant: Variant, program: Program) -> Cost:
        """Count a variant of a program."""
        cost = self.cost(msgspec.structs.replace(program, batch=variant.batch))
        packed = self._packed_bytes(program) if variant.packed else 0
        return msgspec.structs.replace(cost, planned_bytes=cost.planned_bytes + packed)

    def cost(self, program: Program) -> Cost:
        """Count any program but `preprocess`; where it takes any batch, memory is planned for one sample."""
        keys = {key for call in program.calls for key in call.inputs if self._is_stored(key)}
        macs = sum(facts.macs for _, facts in self._walk(program, 1))
        return Cost(
            macs=macs,
            parameters=sum(prod(self._stored(key)) for key in keys),
            trainable_parameters=sum(prod(p.shape(self._adapter[p.name])) for p in merge_slices(program.coverage)),
            planned_bytes=self._planned_bytes(program, program.batch or 1),
        )

    def _planned_bytes(self, program: Program, batch: int) -> int:
        """Return the largest sum of all tensors alive at once, in a local step with those of the optimizer.

        That is SGD's with momentum: the adapter, and its velocity, into which gradients are summed.
        """
        adapter = sum(4 * prod(shape) for shape in self._adapter.values())
        standing = 2 * adapter if program.mode == "train" else 0
        needed = _last_reads(program)
        held = {
            name: _ITEM_BYTES[spec.dtype] * prod(batch if size is None else size for size in spec.shape)
            for name, spec in program.inputs.items()
        }
        peak = 0
        for position, (call, facts) in enumerate(self._walk(program, batch)):
            peak = max(peak, sum(held.values()) + facts.working_bytes)
            held |= {name: size for name, size in zip(call.outputs, facts.outputs, strict=True) if name in needed}
            held = {name: size for name, size in held.items() if name in program.inputs or needed[name] > position}
        return standing + peak

    def _packed_bytes(self, program: Program) -> int:
        """Return the bytes of frozen tensors that are packed, once for each graph and block."""
        frozen = self._tensors.keys() - self._adapter.keys()
        packed = {
            (call.graph, key)
            for call in program.calls
            for key in frozen_inputs(self._graphs[call.graph], call, frozen).values()
        }
        return sum(4 * prod(self._stored(key)) for _, key in packed)

    def _walk(self, program: Program, batch: int) -> list[tuple[Call, CallFacts]]:
        shapes = {
            name: tuple(batch if size is None else size for size in spec.shape) for name, spec in program.inputs.items()
        }
        walked = []
        for call in program.calls:
            given = tuple(self._stored(key) if self._is_stored(key) else shapes[key] for key in call.inputs)
            facts = self._facts(call.graph, given)
            shapes |= dict(zip(call.outputs, facts.shapes, strict=True))
            walked.append((call, facts))
        return walked

    def _facts(self, graph: str, given: tuple[Shape, ...]) -> CallFacts:
        key = (graph, given)
        if key not in self._known:
            model = self._graphs[graph]
            names = [value.name for value in model.graph.input]
            self._known[key] = read_facts(model, dict(zip(names, given, strict=True)))
        return self._known[key]

    def _is_stored(self, key: str) -> bool:
        return key.partition("[")[0] in self._tensors

    def _stored(self, key: str) -> Shape:
        part = TensorSlice.parse(key)
        return part.shape(self._tensors[part.name])


def _last_reads(program: Program) -> dict[str, int]:
    """Return the position of the last call that reads each tensor; an answer is handed out when it is made."""
    return {name: position for position, call in enumerate(program.calls) for name in call.inputs}
