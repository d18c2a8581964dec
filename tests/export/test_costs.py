"""Counted multiply-accumulates against formulas worked out here."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from edgefl.bundle import Bundle
from edgefl.bundle.manifest import Cost
from edgefl.bundle.program import Call, Input, Program
from edgefl_export.call_facts import Shape
from edgefl_export.compose import Composer
from edgefl_export.costs import Counter
from edgefl_export.exporter import ExportResult
from edgefl_export.graphs.block import BLOCK_WEIGHTS, TRANSPOSED, stored_key
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.model.backbone import Backbone
from edgefl_export.model.config import AccumulatorConfig
from edgefl_export.model.network import AccumulatorNetwork
from tests.export.networks import INPUT, embedded_network, lowered

# The embedded backbone: width, FFN, tokens, pixels of a patch, classes; and the Accumulator's and head's hidden size.
D, FFN, N, PATCH, CLASSES, M = 96, 192, 17, 8 * 8, 10, 512


def stored(network: AccumulatorNetwork) -> dict[str, Shape]:
    """Return the shapes of a bundle's tensors."""
    shapes = {
        name: tuple(reversed(tensor.shape)) if name.endswith(TRANSPOSED) else tuple(tensor.shape)
        for name, tensor in network.backbone.frozen().items()
    }
    return shapes | {name: tuple(tensor.shape) for name, tensor in network.adapter().items()}


def full_block() -> int:
    """Queries, keys, values and projection: 4 D^2 a token; FFN: 2 D FFN; scores and reading: 2 n D."""
    return N * (4 * D * D + 2 * D * FFN + 2 * N * D)


def exit_block() -> int:
    """Keys and values of all tokens; everything else of one."""
    return N * 2 * D * D + 2 * D * D + 2 * N * D + 2 * D * FFN


def reading(tokens: int) -> int:
    """One query over keys and values of the whole history; projection and FFN of that row."""
    return 2 * tokens * D + D * D + 2 * D * M


def modulation(tokens: int) -> int:
    """Query, key and value of the newest token, reading, key and value of the token it becomes."""
    return 3 * D * D + reading(tokens) + 2 * D * D


@pytest.mark.parametrize("exit_index", [0, 1, 2, 5, 11])
def test_inference_costs_what_the_formula_says(exit_index: int, embedded_graphs: Mapping[str, onnx.ModelProto]) -> None:
    network = embedded_network()
    program = Composer(Catalog(network)).infer(exit_index)
    cost = Counter(embedded_graphs, stored(network), {}).cost(program)
    # Block l modulates with a client token and l + 1 CLS tokens; the exit answers with e + 2.
    opening = 2 * D * D
    modulations = sum(modulation(index + 2) for index in range(exit_index))
    # The exit's token gives key and value, the client token the query.
    answer = 2 * D * D + D * D + reading(exit_index + 2) + D * M + M * CLASSES
    accumulator = opening + modulations + answer
    assert cost.macs == (N - 1) * PATCH * D + exit_index * full_block() + exit_block() + accumulator
    assert cost.trainable_parameters == 0


def test_a_block_of_deit_small_at_160_pixels_costs_what_the_papers_table_7_says() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=160, patch_size=16, num_classes=0, embed_dim=384, depth=1, num_heads=6)
    backbone = Backbone("one block", vit, INPUT | {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    network = AccumulatorNetwork(backbone, AccumulatorConfig(width=384, blocks=1, classes=100, mlp_dim=2048))
    weights = [f"blocks.0.{stored_key(name, 384)}" for name in BLOCK_WEIGHTS]
    program = Program(
        mode="infer",
        exit_index=0,
        batch=None,
        inputs={
            "cls": Input(dtype="float32", shape=[None, 1, 384]),
            "patches": Input(dtype="float32", shape=[None, 100, 384]),
        },
        calls=[Call(graph="block", inputs=["cls", "patches", *weights], outputs=["cls_out", "patches_out"])],
        outputs={"cls_out": ["cls_out"], "patches_out": ["patches_out"]},
    )
    cost = Counter({"block": lowered(network, "block")}, stored(network), {}).cost(program)
    n = 101
    assert cost.macs == 12 * 384 * 384 * n + 2 * n * n * 384
    # The slope of the table's FLOPs row is 0.1856 G for each exit.
    assert cost.macs / 1e9 == pytest.approx(0.1866, abs=5e-5)
    # 12 D^2 + 13 D.
    assert cost.parameters == 1_774_464


def golden_costs(golden_export: ExportResult) -> Mapping[str, Cost]:
    return Bundle(golden_export.folder).manifest.costs


def test_every_program_but_preprocessing_has_its_cost_with_each_knob(golden_export: ExportResult) -> None:
    costs = golden_costs(golden_export)
    programs = ["anytime", *(f"{mode}/{e}" for mode in ("infer", "train") for e in (0, 1, 2))]
    knobs = [f"{name}/{memory}" for name in programs for memory in ("balanced", "fast", "lean")]
    assert sorted(costs) == sorted(programs + knobs)
    for mode in ("infer", "train"):
        macs = [costs[f"{mode}/{e}"].macs for e in (0, 1, 2)]
        assert macs == sorted(set(macs))


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_what_an_exit_trains_is_counted_by_element(exit_index: int, golden_export: ExportResult) -> None:
    # Width 24, hidden 32, five classes; rank 4.
    client, positions = 24, (exit_index + 2) * 24
    block = 2 * 2 * 24 + 3 * 24 * 24 + 24 * 24 + 24 + 24 * 32 + 32 + 32 * 24 + 24
    head = 2 * 24 + 24 * 32 + 32 + 32 * 5 + 5
    parallel = (exit_index + 1) * (2 * 24 * 4 + 4 + 24)
    cost = golden_costs(golden_export)[f"train/{exit_index}"]
    assert cost.trainable_parameters == client + positions + block + head + parallel


def test_inference_reads_the_blocks_up_to_its_exit_and_no_other(golden_export: ExportResult) -> None:
    costs = golden_costs(golden_export)
    # A block of width 24 with an FFN of 48, its row of the parallel adapters and of the positions.
    block = 2 * 2 * 24 + 4 * 24 * 24 + 4 * 24 + 2 * 24 * 48 + 48 + 24 + 2 * 24 * 4 + 4 + 24 + 24
    assert costs["infer/1"].parameters - costs["infer/0"].parameters == block
    assert costs["infer/2"].parameters - costs["infer/1"].parameters == block
