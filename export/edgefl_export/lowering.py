"""Every graph that programs call, in ONNX, by name.

torch takes seconds for a graph, on one processor.  Where there is a second one, another process takes some of them.
"""

from __future__ import annotations

import copy
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import onnx
import torch
from torch import nn

from edgefl.bundle.program import Program
from edgefl.runtime.threads import allowed_threads
from edgefl_export.formats.onnx import keep_outputs, lower
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.graphs.preprocess import preprocess_graph
from edgefl_export.graphs.rows import rows_graph
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Progress", "lower_graph", "lower_graphs"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are."""


def lower_graphs(
    network: AccumulatorNetwork, programs: Mapping[str, Program], progress: Progress
) -> dict[str, onnx.ModelProto]:
    """Return the graphs that programs call, by name.

    Args:
        network: The network.
        programs: The programs.
        progress: Told about each graph.
    """
    catalog = Catalog(network)
    called = dict.fromkeys(call.graph for program in programs.values() for call in program.calls)
    parts = {name: catalog.part_of(name) for name in called}
    wanted = dict.fromkeys(name if part is None else part[0] for name, part in parts.items())
    wholes = _lower_all(catalog, deque(wanted), progress)
    # What is part of another graph is cut out of it, which takes no time.
    return {n: wholes[n] if part is None else keep_outputs(wholes[part[0]], part[1]) for n, part in parts.items()}


def lower_graph(network: AccumulatorNetwork, name: str) -> onnx.ModelProto:
    """Return one graph of a network, in this process."""
    catalog = Catalog(network)
    part = catalog.part_of(name)
    return _lowered(catalog, name) if part is None else keep_outputs(_lowered(catalog, part[0]), part[1])


def _lowered(catalog: Catalog, name: str) -> onnx.ModelProto:
    """Return a graph that is not part of another."""
    if name == "preprocess":
        return preprocess_graph(catalog.network.backbone.preprocessing)
    if (written := rows_graph(name)) is not None:
        return written
    spec = catalog.spec(name)
    return lower(spec.module, spec.example, spec.inputs, spec.outputs, spec.axes)


def _lower_all(catalog: Catalog, waiting: deque[str], progress: Progress) -> dict[str, onnx.ModelProto]:
    wholes: dict[str, onnx.ModelProto] = {}
    total = len(waiting)

    def lower_waiting() -> None:
        for name in _taken(waiting):
            progress(f"graph {name}", len(wholes), total)
            wholes[name] = _lowered(catalog, name)

    if allowed_threads() > 1:
        with ThreadPoolExecutor(1) as thread:
            assisted = thread.submit(_assist, catalog.network, waiting, wholes)
            try:
                lower_waiting()
            except BaseException:
                waiting.clear()  # or the assistant would go on with them
                raise
            assisted.result()
    lower_waiting()  # all of them, or what the assistant gave back
    return wholes


def _taken(waiting: deque[str]) -> Iterator[str]:
    """Take names until there are none; others may do the same meanwhile."""
    while True:
        try:
            name = waiting.popleft()
        except IndexError:
            return
        yield name


def _assist(network: AccumulatorNetwork, waiting: deque[str], wholes: dict[str, onnx.ModelProto]) -> None:
    """Let another process lower graphs while any are waiting."""
    # Not forked: torch's threads do not survive that.
    spawn, architecture = get_context("spawn"), _architecture(network)
    with ProcessPoolExecutor(1, spawn, initializer=_start_assisting, initargs=(architecture,)) as pool:
        for name in _taken(waiting):
            try:
                wholes[name] = onnx.load_from_string(pool.submit(_lower_assisting, name).result())
            except BrokenProcessPool:  # killed for memory, for instance, of which one process needs less than two
                waiting.append(name)
                return


def _architecture(network: AccumulatorNetwork) -> AccumulatorNetwork:
    """Return a network without values, on which no graph depends."""
    tensors = (*network.parameters(), *network.buffers())
    bare = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    parameters = {id(p): nn.Parameter(bare[id(p)], requires_grad=p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, bare | parameters)


_assisted: list[Catalog] = []


def _start_assisting(architecture: AccumulatorNetwork) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says what there is to say
    torch.set_num_threads(1)
    _assisted.append(Catalog(architecture.to_empty(device="cpu")))


def _lower_assisting(name: str) -> bytes:
    graph: bytes = _lowered(_assisted[0], name).SerializeToString(deterministic=True)
    return graph
