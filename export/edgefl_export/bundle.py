"""Write the files of a bundle: weights, graphs, stand-alone exits, self-test, manifest (edgefl/bundle/FORMAT.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgefl.bundle.adapter import Adapter, encode_adapter
from edgefl.bundle.manifest import (
    AdapterLayout,
    Cost,
    File,
    Manifest,
    Method,
    Model,
    Segment,
    SelfTest,
    Tensor,
    Variant,
)
from edgefl.bundle.program import Graph, PackedGraph, Program
from edgefl.core.tensor_slice import TensorSlice
from edgefl.core.tensors import TensorFile, aligned_order, encode_tensors
from edgefl_export.costs import Counter
from edgefl_export.graphs.block import TRANSPOSED
from edgefl_export.graphs.packed import first_calls, frozen_inputs, packed_graph
from edgefl_export.graphs.stand_alone import External, attach, inline
from edgefl_export.model.network import AccumulatorNetwork
from edgefl_export.selftest import SELFTEST_TOLERANCE, golden_values, tested_exits

__all__ = ["BundleParts", "write_bundle"]

_BACKBONE = "backbone.safetensors"
_ADAPTER = "adapter.safetensors"
_SELFTEST = "selftest.safetensors"

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleParts:
    """What a bundle is made from.

    Attributes:
        network: Backbone and adapter.
        exits: The exits, rising.
        programs: All programs by name.
        variants: All variants of programs by name.
        graphs: All graphs that programs call, by name.
    """

    network: AccumulatorNetwork
    exits: Sequence[int]
    programs: Mapping[str, Program]
    variants: Mapping[str, Variant]
    graphs: Mapping[str, onnx.ModelProto]


def write_bundle(folder: Path, parts: BundleParts) -> Manifest:
    """Write every file of a bundle into an empty folder and return its manifest."""
    frozen, adapter = _frozen_arrays(parts), _adapter_arrays(parts.network)
    _write(folder / _BACKBONE, encode_tensors(frozen))
    bundle_id = _bundle_id(parts.network, frozen, adapter)
    initial = Adapter(bundle_id=bundle_id, version=0, round=0, tensors=adapter)
    _write(folder / _ADAPTER, encode_adapter(initial))
    shapes = {name: array.shape for name, array in adapter.items()}
    selftest = SelfTest(file=_SELFTEST, exits=tested_exits(parts.exits), tolerance=SELFTEST_TOLERANCE)
    _write(folder / _SELFTEST, encode_tensors(golden_values(parts.network, selftest.exits, shapes)))
    tensors = _tensor_table(folder)
    stand_alone = {str(e): f"exit_{e:02d}.onnx" for e in parts.exits}
    for program in parts.programs.values():
        if program.mode == "infer":
            model = inline(program, parts.graphs)
            attach(model, _externals(program, tensors))
            _write(folder / stand_alone[str(program.exit_index)], [model.SerializeToString(deterministic=True)])
    for name, graph in parts.graphs.items():
        _write(folder / f"{name}.onnx", [graph.SerializeToString(deterministic=True)])
    packed = _packed_graphs(folder, parts, tensors)
    manifest = Manifest(
        schema="edgefl.bundle/1",
        bundle_id=bundle_id,
        model=_model_facts(parts.network),
        method=Method(name="accumulator", settings=asdict(parts.network.config)),
        exits=list(parts.exits),
        segments=_segments(parts.exits),
        adapter=AdapterLayout(
            file=_ADAPTER, header_bytes=TensorFile(folder / _ADAPTER).header_bytes, tensors=list(adapter)
        ),
        tensors=tensors,
        graphs={name: _graph_facts(name, graph, packed.get(name)) for name, graph in parts.graphs.items()},
        stand_alone=stand_alone,
        programs=dict(parts.programs),
        variants=dict(parts.variants),
        costs=_costs(parts, tensors, shapes),
        selftest=selftest,
        files=_file_table(folder),
    )
    _write(folder / "manifest.json", [manifest.encode()])
    return manifest


def _costs(
    parts: BundleParts, tensors: Mapping[str, Tensor], adapter: Mapping[str, tuple[int, ...]]
) -> dict[str, Cost]:
    counter = Counter(parts.graphs, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, adapter)
    counted = {name: program for name, program in parts.programs.items() if program.mode != "preprocess"}
    costs = {name: counter.cost(program) for name, program in counted.items()}
    return costs | {name: counter.variant_cost(v, counted[v.program]) for name, v in parts.variants.items()}


def _packed_graphs(folder: Path, parts: BundleParts, tensors: Mapping[str, Tensor]) -> dict[str, PackedGraph]:
    """Write the packed graphs that variants run and return what the manifest says of them, by the graph's name."""
    frozen = [name for name, tensor in tensors.items() if tensor.file == _BACKBONE]
    packing = [parts.programs[variant.program] for variant in parts.variants.values() if variant.packed]
    packed = {}
    for name, call in first_calls(packing).items():
        if weights := frozen_inputs(parts.graphs[name], call, frozen):
            packed[name] = PackedGraph(file=f"{name}_packed.onnx", weights=list(weights))
            graph = packed_graph(parts.graphs[name], {w: _external(key, tensors) for w, key in weights.items()})
            _write(folder / packed[name].file, [graph.SerializeToString(deterministic=True)])
    return packed


def _write(path: Path, data: Sequence[bytes | memoryview]) -> None:
    with path.open("wb") as file:
        file.writelines(data)


def _frozen_arrays(parts: BundleParts) -> Arrays:
    """Return the frozen tensors that the deepest exit reads, in the layout the graphs read them."""
    deepest = parts.exits[-1]
    arrays = {}
    for name, tensor in parts.network.backbone.frozen().items():
        if name.startswith("blocks.") and int(name.split(".")[1]) > deepest:
            continue
        array = tensor.numpy()
        arrays[name] = np.ascontiguousarray(array.T if name.endswith(TRANSPOSED) else array, np.float32)
    return {name: arrays[name] for name in aligned_order({name: array.nbytes for name, array in arrays.items()})}


def _adapter_arrays(network: AccumulatorNetwork) -> Arrays:
    arrays = {name: parameter.detach().numpy() for name, parameter in network.adapter().items()}
    return {name: arrays[name] for name in aligned_order({name: array.nbytes for name, array in arrays.items()})}


def _bundle_id(network: AccumulatorNetwork, frozen: Arrays, adapter: Arrays) -> str:
    """Return the sha256 that bundles which can share adapters have in common."""
    weights = hashlib.sha256()
    for name, array in frozen.items():
        weights.update(name.encode())
        weights.update(array.data)
    identity = {
        "model": _json_ready(_model_facts(network)),
        "method": asdict(network.config),
        "weights": weights.hexdigest(),
        "adapter": {name: list(array.shape) for name, array in adapter.items()},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _json_ready(model: Model) -> dict[str, object]:
    return {name: getattr(model, name) for name in model.__struct_fields__}


def _tensor_table(folder: Path) -> dict[str, Tensor]:
    table = {}
    for file in (_BACKBONE, _ADAPTER):
        for name, entry in TensorFile(folder / file).entries.items():
            transposed = file == _BACKBONE and name.endswith(TRANSPOSED)
            table[name] = Tensor(
                file=file, offset=entry.offset, shape=list(entry.shape), layout="in_out" if transposed else "torch"
            )
    return table


def _externals(program: Program, tensors: Mapping[str, Tensor]) -> dict[str, External]:
    """Return where the bundle tensors lie that a program reads, parts of tensors included."""
    read = {name for call in program.calls for name in call.inputs}
    return {key: _external(key, tensors) for key in sorted(read) if key.partition("[")[0] in tensors}


def _external(key: str, tensors: Mapping[str, Tensor]) -> External:
    """Return where a tensor of the bundle lies, or rows of one."""
    part = TensorSlice.parse(key)
    tensor = tensors[part.name]
    first = part.ranges[0][0] if part.ranges and part.ranges[0] else 0
    row_bytes = tensor.num_bytes // tensor.shape[0]
    return External(file=tensor.file, offset=tensor.offset + first * row_bytes, shape=part.shape(tuple(tensor.shape)))


def _model_facts(network: AccumulatorNetwork) -> Model:
    backbone = network.backbone
    return Model(
        name=backbone.name,
        image_size=backbone.image_size,
        channels=backbone.channels,
        patch_size=backbone.patch_size,
        width=backbone.width,
        blocks=len(backbone.blocks),
        heads=backbone.heads,
        mlp_width=backbone.mlp_width,
        classes=network.config.classes,
        mean=list(backbone.preprocessing.mean),
        std=list(backbone.preprocessing.std),
    )


def _segments(exits: Sequence[int]) -> list[Segment]:
    starts = [0, *(exit_index + 1 for exit_index in exits[:-1])]
    return [Segment(exit_index=e, first_block=first, last_block=e) for first, e in zip(starts, exits, strict=True)]


def _graph_facts(name: str, graph: onnx.ModelProto, packed: PackedGraph | None) -> Graph:
    return Graph(
        file=f"{name}.onnx",
        inputs=[value.name for value in graph.graph.input],
        outputs=[value.name for value in graph.graph.output],
        packed=packed,
    )


def _file_table(folder: Path) -> dict[str, File]:
    table = {}
    for path in sorted(folder.iterdir()):
        if path.name != _ADAPTER:
            data = path.read_bytes()
            table[path.name] = File(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return table
