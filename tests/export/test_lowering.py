"""torch to ONNX: versions, symbolic axes, and nothing of the machine that exported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefl.runtime.sessions import open_session
from edgefl_export.formats.onnx import IR_VERSION, OPSET, lower
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.graphs.rows import rows_graph
from tests.export.networks import embedded_network, lowered, small_network
from tests.golden.make_bundle import golden_network

GOLDEN_GRAPHS = (
    "preprocess", "embed", "open_history", "block", "block_exit", "block_saved", "block_exit_saved", "modulate",
    "modulate_saved", "answer", "answer_vjp", "block_exit_vjp", "block_exit_vjp_adapter", "block_vjp",
    "block_saved_lean", "block_exit_saved_lean", "block_exit_vjp_lean", "block_exit_vjp_adapter_lean", "block_vjp_lean",
    "block_vjp_adapter", "block_vjp_adapter_lean", "modulate_vjp", "close_history", "stack_2", "stack_3", "stack_4",
    "linear_gradient",
)  # fmt: skip


class Combine(nn.Module):
    """Tells its inputs apart: swapping or merging any two changes the answer."""

    def forward(self, first: Tensor, second: Tensor, *rest: Tensor) -> Tensor:
        """Return first + 2 second + 3 rest[0]."""
        return first + 2 * second + 3 * rest[0]


def run(graph: onnx.ModelProto, inputs: Mapping[str, Any], folder: Path) -> list[Any]:
    onnx.save(graph, folder / "graph.onnx")
    return list(open_session(folder / "graph.onnx").run(None, dict(inputs)))


def test_an_export_lowers_every_graph_of_the_method(golden_graphs: Mapping[str, onnx.ModelProto]) -> None:
    assert sorted(golden_graphs) == sorted(GOLDEN_GRAPHS)


@pytest.mark.parametrize("name", GOLDEN_GRAPHS)
def test_a_graph_is_of_a_version_that_phones_read(name: str, golden_graphs: Mapping[str, onnx.ModelProto]) -> None:
    graph = golden_graphs[name]
    onnx.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    assert OPSET <= 21
    assert graph.ir_version == IR_VERSION <= 10
    assert not graph.functions


@pytest.mark.parametrize("name", GOLDEN_GRAPHS)
def test_a_graph_tells_nothing_about_the_machine_it_was_made_on(
    name: str, golden_graphs: Mapping[str, onnx.ModelProto]
) -> None:
    graph = golden_graphs[name]
    texts = re.findall(rb"[!-~]{6,}", graph.SerializeToString())
    assert [text for text in texts if re.search(rb"[/\\]|site-packages|\.py|torch", text)] == []
    parts: list[Any] = [
        graph,
        graph.graph,
        *graph.graph.node,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
    ]
    assert not [part for part in parts if part.doc_string or part.metadata_props]
    assert (graph.producer_name, graph.producer_version) == ("edgefl", "")


def test_one_tensor_given_for_several_inputs_stays_several_inputs(tmp_path: Path) -> None:
    example = torch.zeros(2, 3)
    names = ("first", "second", "third")
    graph = lower(Combine(), (example,) * 3, names, ("sum",), {name: {0: "batch"} for name in names})
    assert [value.name for value in graph.graph.input] == list(names)
    ones = np.ones((5, 3), np.float32)
    (total,) = run(graph, {"first": ones, "second": 10 * ones, "third": 100 * ones}, tmp_path)
    assert np.array_equal(total, 321 * ones)


def test_the_same_module_gives_the_same_bytes() -> None:
    network = small_network()
    first, second = (lowered(network, "answer").SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_graph_holds_no_weights(golden_graphs: Mapping[str, onnx.ModelProto]) -> None:
    sizes = {name: graph.ByteSize() for name, graph in golden_graphs.items()}
    # The golden block has 24 x 24 x 8 weights, 18 kB; a graph is only its nodes and names.
    largest = {
        name: max((initializer.ByteSize() for initializer in graph.graph.initializer), default=0)
        for name, graph in golden_graphs.items()
    }
    assert max(largest.values()) < 128
    assert max(sizes.values()) < 40_000


@pytest.mark.parametrize("batch", [1, 2, 13])
@pytest.mark.parametrize("name", [name for name in GOLDEN_GRAPHS if name != "preprocess" and rows_graph(name) is None])
def test_a_graph_computes_what_its_module_does_for_any_batch(
    name: str, batch: int, golden_graphs: Mapping[str, onnx.ModelProto], tmp_path: Path
) -> None:
    check_against_module(Catalog(golden_network()), name, golden_graphs[name], {"batch": batch}, tmp_path)


@pytest.mark.parametrize("tokens", [1, 2, 13])
@pytest.mark.parametrize("name", ["modulate", "answer"])
def test_a_history_may_have_any_length(
    name: str, tokens: int, embedded_graphs: Mapping[str, onnx.ModelProto], tmp_path: Path
) -> None:
    check_against_module(
        Catalog(embedded_network()), name, embedded_graphs[name], {"batch": 2, "tokens": tokens}, tmp_path
    )


@pytest.mark.parametrize("tokens", [1, 2, 4])
@pytest.mark.parametrize("name", ["modulate_vjp", "answer_vjp"])
def test_the_vjp_of_a_history_of_any_length(
    name: str, tokens: int, golden_graphs: Mapping[str, onnx.ModelProto], tmp_path: Path
) -> None:
    sizes = {"batch": 2, "tokens": tokens, "tokens_out": tokens + 1}
    check_against_module(Catalog(golden_network()), name, golden_graphs[name], sizes, tmp_path)


def check_against_module(
    catalog: Catalog, name: str, graph: onnx.ModelProto, sizes: Mapping[str, int], folder: Path
) -> None:
    """Run a graph and its torch module on random inputs whose symbolic axes have the given sizes."""
    whole, outputs = catalog.part_of(name) or (name, None)
    spec, random = catalog.spec(whole), np.random.default_rng(3)
    inputs: dict[str, Any] = {}
    for key, example in zip(spec.inputs, spec.example, strict=True):
        axes = spec.axes.get(key, {})
        shape = [sizes.get(axes.get(position, ""), size) for position, size in enumerate(example.shape)]
        inputs[key] = random.standard_normal(shape).astype(np.float32)
    if "labels" in inputs:
        inputs["labels"] = random.integers(0, catalog.network.config.classes, sizes["batch"])
    expected = spec.module(*map(torch.from_numpy, inputs.values()))
    found = run(graph, inputs, folder)
    made = dict(zip(spec.outputs, [expected] if isinstance(expected, Tensor) else expected, strict=True))
    expected = [made[output] for output in outputs or spec.outputs]
    assert len(found) == len(expected)
    for own, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, reference.numpy(), rtol=1e-3, atol=1e-4 * float(reference.abs().max()) + 1e-6)
