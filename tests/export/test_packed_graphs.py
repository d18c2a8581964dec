"""`*_packed.onnx`: a graph once more with frozen weights as constants, and what packing them is planned to take."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from edgefl.bundle import Bundle
from edgefl_export.exporter import ExportResult

# The golden network: width, FFN, tokens, pixels of a patch of one channel.
D, FFN, N, PATCH = 24, 48, 5, 8 * 8
EMBED = D * PATCH + D + D + N * D
BLOCK = 2 * 2 * D + (4 * D * D + 4 * D) + (2 * D * FFN + D + FFN)


def test_a_packed_graph_opened_as_it_is_is_block_0(golden_export: ExportResult) -> None:
    bundle = Bundle(golden_export.folder)
    graph = bundle.manifest.graphs["block"]
    assert graph.packed is not None
    random = np.random.default_rng(3)
    tokens = {"cls": random.random((2, 1, D), np.float32), "patches": random.random((2, N - 1, D), np.float32)}
    call = next(call for call in bundle.manifest.programs["infer/1"].calls if call.graph == "block")
    keys = dict(zip(graph.inputs, call.inputs, strict=True))
    frozen = {name: bundle.frozen(keys[name]) for name in graph.packed.weights}
    adapter = bundle.adapter().tensors
    parallel = {
        name: adapter[f"parallel_adapters.{name}"][:1]
        for name in graph.inputs
        if name not in frozen and name not in tokens
    }

    options = ort.SessionOptions()
    options.use_per_session_threads = False  # edgefl has given this process one pool
    whole = ort.InferenceSession(bundle.path(graph.file), options).run(None, {**tokens, **parallel, **frozen})
    packed = ort.InferenceSession(bundle.path(graph.packed.file), options).run(None, {**tokens, **parallel})

    for expected, found in zip(whole, packed, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_inference_packs_the_embedding_and_each_block_once(exit_index: int, golden_export: ExportResult) -> None:
    costs = Bundle(golden_export.folder).manifest.costs
    packed = costs[f"infer/{exit_index}/fast"].planned_bytes - costs[f"infer/{exit_index}"].planned_bytes
    assert packed == 4 * (EMBED + (exit_index + 1) * BLOCK)


def test_other_knobs_of_inference_cost_what_the_program_costs(golden_export: ExportResult) -> None:
    costs = Bundle(golden_export.folder).manifest.costs
    assert costs["anytime/lean"] == costs["anytime/balanced"] == costs["anytime"]


def test_training_packs_each_block_for_the_way_down_and_for_the_way_back(golden_export: ExportResult) -> None:
    bundle = Bundle(golden_export.folder)
    calls = bundle.manifest.programs["train/1"].calls
    graphs = [call.graph for call in calls if bundle.manifest.graphs[call.graph].packed is not None]
    # The VJP of block 0 gives gradients of its parallel adapter alone, which take no frozen tensor.
    assert graphs == ["embed", "block_saved", "block_exit_saved", "block_exit_vjp"]
    assert "block_vjp_adapter" in {call.graph for call in calls}


def test_lean_training_has_no_packed_graph(golden_export: ExportResult) -> None:
    graphs = Bundle(golden_export.folder).manifest.graphs
    assert [name for name, graph in graphs.items() if "lean" in name and graph.packed is not None] == []
