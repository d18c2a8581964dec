"""The graphs of a network in ONNX, by name; where there is a second processor, another process makes some of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import onnx

from edgefl.bundle.program import Program
from edgefl.runtime.threads import allowed_threads
from edgefl_export.assistant import Assistant
from edgefl_export.formats.onnx import keep_outputs
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.lowered import lowered_whole
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Progress", "called_graphs", "lower_graphs"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are."""


def called_graphs(programs: Mapping[str, Program]) -> list[str]:
    """Return the names of the graphs that programs call, each once."""
    return list(dict.fromkeys(call.graph for program in programs.values() for call in program.calls))


def lower_graphs(network: AccumulatorNetwork, names: Iterable[str], progress: Progress) -> dict[str, onnx.ModelProto]:
    """Return graphs of a network by name.

    Args:
        network: The network.
        names: The graphs' names.
        progress: Told about each graph.
    """
    catalog = Catalog(network)
    parts = {name: catalog.part_of(name) for name in names}
    wanted = dict.fromkeys(name if part is None else part[0] for name, part in parts.items())
    wholes = _lower_wholes(catalog, deque(wanted), progress)
    # What is part of another graph is cut out of it, which takes no time.
    return {n: wholes[n] if part is None else keep_outputs(wholes[part[0]], part[1]) for n, part in parts.items()}


def _lower_wholes(catalog: Catalog, waiting: deque[str], progress: Progress) -> dict[str, onnx.ModelProto]:
    wholes: dict[str, onnx.ModelProto] = {}
    total = len(waiting)

    def lower_waiting() -> None:
        for name in _taken(waiting):
            progress(f"graph {name}", len(wholes), total)
            wholes[name] = lowered_whole(catalog, name)

    assistant = _hired(catalog.network) if total > 1 and allowed_threads() > 1 else None
    if assistant is not None:
        with assistant, ThreadPoolExecutor(1) as thread:
            assisted = thread.submit(_let_assist, assistant, waiting, wholes)
            try:
                lower_waiting()
            except BaseException:
                waiting.clear()  # or it would go on with them
                assistant.end()
                raise
            assisted.result()
    lower_waiting()  # all of them, or what the assistant left
    return wholes


def _hired(network: AccumulatorNetwork) -> Assistant | None:
    try:
        return Assistant(network)
    except OSError:  # the system has no process or pipe to give
        return None


def _taken(waiting: deque[str]) -> Iterator[str]:
    """Take names until there are none; others may do the same meanwhile."""
    while True:
        try:
            name = waiting.popleft()
        except IndexError:
            return
        yield name


def _let_assist(assistant: Assistant, waiting: deque[str], wholes: dict[str, onnx.ModelProto]) -> None:
    """Let another process lower graphs while any are waiting; where it cannot, they are left to this one."""
    for name in _taken(waiting):
        try:
            wholes[name] = assistant.lower(name)
        except OSError:
            waiting.append(name)
            return
