"""Graphs that another process lowers are the same, and an export does not depend on that process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import onnx
import psutil
import pytest

from edgefl.bundle.program import Program
from edgefl_export.compose import Composer
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.lowering import lower_graph, lower_graphs
from edgefl_export.model.network import AccumulatorNetwork
from tests.export.networks import embedded_network

GRAPHS = ("embed", "open_history", "block", "modulate", "block_exit", "answer")


def programs(network: AccumulatorNetwork) -> Mapping[str, Program]:
    return {"infer/1": Composer(Catalog(network)).infer(1)}


def encoded(graphs: Mapping[str, onnx.ModelProto]) -> dict[str, bytes]:
    return {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}


def test_two_processes_lower_the_graphs_that_one_lowers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = embedded_network()
    monkeypatch.setenv("EDGEFL_THREADS", "2")
    both = lower_graphs(network, programs(network), lambda *_: None)
    monkeypatch.setenv("EDGEFL_THREADS", "1")
    alone = lower_graphs(network, programs(network), lambda *_: None)

    assert set(both) == set(GRAPHS)
    assert encoded(both) == encoded(alone) == encoded({name: lower_graph(network, name) for name in GRAPHS})


def test_an_assistant_that_is_killed_costs_time_and_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    network = embedded_network()
    monkeypatch.setenv("EDGEFL_THREADS", "2")

    def kill(_what: str, done: int, _total: int) -> None:
        # multiprocessing's resource tracker is a child too.
        for child in psutil.Process().children() if done == 1 else ():
            if "spawn_main" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    assert set(lower_graphs(network, programs(network), kill)) == set(GRAPHS)
