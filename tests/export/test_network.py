"""The network in torch: its size, its arithmetic against a second implementation written out by hand, its refusals."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgefl.errors import BadInputError
from edgefl_export.model.accumulator import Accumulator, Head
from edgefl_export.model.adapters import ParallelAdapters
from edgefl_export.model.config import AccumulatorConfig, paper_mlp_dim
from edgefl_export.model.network import AccumulatorNetwork
from tests.export.networks import fill_adapter, small_backbone, small_network

WIDTH, BLOCKS, CLASSES = 12, 4, 3
Variant = Literal["paper", "original tokens in the history", "replaced at the exit"]


def network_in_float64(**settings: Any) -> AccumulatorNetwork:
    return fill_adapter(small_network(**settings)).double()


def some_samples(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def deit_small_parameters(**settings: Any) -> int:
    """Count the trainable parameters beside DeiT-S; the backbone itself is not needed for that."""
    chosen = {"width": 384, "blocks": 12, "classes": 100, "mlp_dim": 2048} | settings
    config = AccumulatorConfig(**chosen)
    parts = [Accumulator(config), Head(config)]
    return sum(p.numel() for part in parts for p in part.parameters())


def accumulate_by_hand(network: AccumulatorNetwork, tokens: list[Tensor]) -> Tensor:
    """Run the Accumulator head by head on the client token and the tokens, (B, 1 + n, D)."""
    p = {name.removeprefix("accumulator."): tensor for name, tensor in network.adapter().items()}
    client = p["client_token"].repeat(len(tokens[0]), 1)
    x = torch.stack([client, *tokens], dim=1) + p["positions"][None, : len(tokens) + 1]
    u = layer_norm_by_hand(x, p["blocks.0.norm1.weight"], p["blocks.0.norm1.bias"])
    q, k, v = (u @ part.T for part in p["blocks.0.attn.qkv.weight"].chunk(3))
    size = WIDTH // network.config.heads
    read = []
    for head in range(network.config.heads):
        own = slice(head * size, (head + 1) * size)
        scores = torch.einsum("bid,bjd->bij", q[..., own], k[..., own]) / math.sqrt(WIDTH)
        read.append(torch.einsum("bij,bjd->bid", scores.softmax(-1), v[..., own]))
    x = x + torch.cat(read, dim=-1) @ p["blocks.0.attn.proj.weight"].T + p["blocks.0.attn.proj.bias"]
    u = layer_norm_by_hand(x, p["blocks.0.norm2.weight"], p["blocks.0.norm2.bias"])
    hidden = F.gelu(u @ p["blocks.0.mlp.fc1.weight"].T + p["blocks.0.mlp.fc1.bias"])
    return x + hidden @ p["blocks.0.mlp.fc2.weight"].T + p["blocks.0.mlp.fc2.bias"]


def layer_norm_by_hand(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    variance = x.var(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5) * weight + bias


def logits_by_hand(network: AccumulatorNetwork, samples: Tensor, exit_index: int, variant: Variant = "paper") -> Tensor:
    """Write the forward pass down as the specification does, with timm's own blocks and an in-place replacement."""
    vit, p = network.backbone.vit, network.adapter()
    z = vit.patch_embed(samples)
    z = torch.cat([vit.cls_token.expand(len(z), -1, -1), z], dim=1) + vit.pos_embed
    history: list[Tensor] = []
    for index in range(exit_index + 1):
        z = vit.blocks[index](z)
        newest = z[:, 0].clone()
        if index < exit_index or variant == "replaced at the exit":
            z = z.clone()
            z[:, 0] = accumulate_by_hand(network, [*history, newest])[:, -1]
        if index < exit_index:
            history.append(newest if variant == "original tokens in the history" else z[:, 0])
    cls = z[:, 0]
    read = accumulate_by_hand(network, [*history, cls])[:, 0] + cls
    u = layer_norm_by_hand(read, p["head.norm.weight"], p["head.norm.bias"])
    hidden = F.gelu(u @ p["head.mlp.fc1.weight"].T + p["head.mlp.fc1.bias"])
    return hidden @ p["head.mlp.fc2.weight"].T + p["head.mlp.fc2.bias"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 602,980 + 1254 * 2048: the paper's 3.17 M.
        ({}, 3_171_172),
        # 12 rows of 384 fewer.
        ({"position_rows": 13}, 3_166_564),
        # The released code's default, 512 * 1254 fewer.
        ({"mlp_dim": 1536}, 2_529_124),
        # 38 classes fewer, each 2048 weights and a bias.
        ({"classes": 62}, 3_093_310),
    ],
)
def test_beside_deit_small_as_many_parameters_are_trained_as_the_paper_says(
    settings: dict[str, int], expected: int
) -> None:
    assert deit_small_parameters(**settings) == expected


def test_the_client_token_is_384_parameters_and_parallel_adapters_595200() -> None:
    config = AccumulatorConfig(width=384, blocks=12, classes=100, mlp_dim=2048, parallel_adapter_rank=64)
    assert Accumulator(config).client_token.numel() == 384
    # For each of 12 blocks two matrices of 384 x 64 and their biases of 64 and 384.
    assert sum(p.numel() for p in ParallelAdapters(config).parameters()) == 595_200


@pytest.mark.parametrize(("width", "expected"), [(384, 2048), (192, 1024), (96, 512), (101, 539)])
def test_the_hidden_size_scales_with_the_width(width: int, expected: int) -> None:
    assert paper_mlp_dim(width) == expected


def test_only_the_adapter_is_trained() -> None:
    network = network_in_float64(parallel_adapter_rank=2)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == network.adapter().keys()


@pytest.mark.parametrize("exit_index", range(BLOCKS))
def test_every_exit_computes_what_the_equations_say(exit_index: int) -> None:
    network, samples = network_in_float64(), some_samples()
    expected = logits_by_hand(network, samples, exit_index)
    torch.testing.assert_close(network(samples, exit_index), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["original tokens in the history", "replaced at the exit"])
def test_the_history_holds_modified_tokens_and_the_exit_keeps_its_own(variant: Variant) -> None:
    network, samples = network_in_float64(), some_samples()
    other = logits_by_hand(network, samples, BLOCKS - 1, variant)
    assert (network(samples, BLOCKS - 1) - other).abs().max() > 1e-3


def test_one_pass_answers_at_every_exit_as_a_pass_of_its_own_does() -> None:
    network, samples = network_in_float64(), some_samples()
    for index, logits in network.anytime(samples, {0, 2, 3}).items():
        torch.testing.assert_close(logits, network(samples, index), rtol=0, atol=1e-12)


def test_replacing_a_token_never_writes_into_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    network, made = network_in_float64(), []
    block = network._block

    def record(z: Tensor, index: int) -> Tensor:
        out = block(z, index)
        made.append((out, out.clone()))
        return out

    monkeypatch.setattr(network, "_block", record)
    network(some_samples(), BLOCKS - 1)
    assert len(made) == BLOCKS
    assert all(torch.equal(out, copy) for out, copy in made)


def test_position_row_0_belongs_to_the_client_token() -> None:
    network, samples = network_in_float64(), some_samples()
    before = network(samples, 2)
    with torch.no_grad():
        network.accumulator.client_token.add_(1)
        network.accumulator.positions[0].sub_(1)
    torch.testing.assert_close(network(samples, 2), before, rtol=0, atol=1e-12)


def test_exit_2_reads_the_position_rows_up_to_3() -> None:
    network, samples = network_in_float64(), some_samples()
    before = network(samples, 2)
    with torch.no_grad():
        network.accumulator.positions[4:] += 1
    assert torch.equal(network(samples, 2), before)
    with torch.no_grad():
        network.accumulator.positions[3].add_(torch.arange(WIDTH))
    assert (network(samples, 2) - before).abs().max() > 1e-3


def test_the_backbones_final_norm_is_never_used() -> None:
    network, samples = network_in_float64(), some_samples()
    before = network(samples, BLOCKS - 1)
    network.backbone.vit.norm.weight.data.fill_(7)
    assert torch.equal(network(samples, BLOCKS - 1), before)


def test_without_replacement_the_backbone_runs_as_it_was_trained() -> None:
    network, samples = network_in_float64(replace=False), some_samples()
    z, tokens = network.backbone.embed(samples), []
    for block in network.backbone.blocks[:3]:
        z = block(z)
        tokens.append(z[:, 0])
    read = accumulate_by_hand(network, tokens)[:, 0] + tokens[-1]
    torch.testing.assert_close(network(samples, 2), network.head(read), rtol=0, atol=1e-12)


def test_without_the_residual_the_head_reads_the_accumulator_alone() -> None:
    network, samples = network_in_float64(residual=False), some_samples()
    cls = network.backbone.blocks[0](network.backbone.embed(samples))[:, 0]
    expected = network.head(accumulate_by_hand(network, [cls])[:, 0])
    torch.testing.assert_close(network(samples, 0), expected, rtol=0, atol=1e-12)


def test_a_linear_head_is_a_norm_and_one_layer() -> None:
    network = network_in_float64(head="linear")
    names = {name: tuple(p.shape) for name, p in network.adapter().items() if name.startswith("head.")}
    assert names == {
        "head.norm.weight": (WIDTH,),
        "head.norm.bias": (WIDTH,),
        "head.mlp.weight": (CLASSES, WIDTH),
        "head.mlp.bias": (CLASSES,),
    }


def test_a_parallel_adapter_reads_the_residual_stream_after_attention() -> None:
    network, samples = network_in_float64(parallel_adapter_rank=2), some_samples()
    p, block = network.adapter(), network.backbone.blocks[0]
    z = network.backbone.embed(samples)
    y = z + block.attn(block.norm1(z))
    hidden = torch.relu(y @ p["parallel_adapters.down_weight"][0].T + p["parallel_adapters.down_bias"][0])
    beside = hidden @ p["parallel_adapters.up_weight"][0].T + p["parallel_adapters.up_bias"][0]
    expected = y + block.mlp(block.norm2(y)) + 0.1 * beside
    torch.testing.assert_close(network._block(z, 0), expected, rtol=0, atol=1e-12)


def parameters_at_start(init: Literal["small", "released"]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = small_backbone()
    config = AccumulatorConfig(
        width=WIDTH, blocks=BLOCKS, classes=CLASSES, mlp_dim=512, parallel_adapter_rank=64, init=init
    )
    return {name: parameter.detach() for name, parameter in AccumulatorNetwork(backbone, config).adapter().items()}


def test_training_starts_with_small_tokens_and_parallel_adapters_that_add_nothing() -> None:
    start = parameters_at_start("small")
    assert start["accumulator.positions"].std().item() == pytest.approx(0.02, rel=0.2)
    assert start["parallel_adapters.down_weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert not start["parallel_adapters.up_weight"].any()
    assert not start["parallel_adapters.up_bias"].any()


def test_the_released_start_draws_tokens_with_std_1_and_fills_the_parallel_adapters() -> None:
    start = parameters_at_start("released")
    assert start["accumulator.positions"].std().item() == pytest.approx(1, rel=0.2)
    assert start["parallel_adapters.up_weight"].std().item() == pytest.approx(0.02, rel=0.2)


def test_linear_layers_start_with_std_002_and_no_bias() -> None:
    start = parameters_at_start("small")
    assert start["head.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not start["head.mlp.fc1.bias"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, "5 Accumulator heads do not divide the width 12: pass --accumulator-heads"),
        ({"position_rows": 4}, "4 position rows are too few for 4 blocks and a client token"),
        ({"heads": 0}, "heads is 0, expected at least 1"),
        ({"depth": 0}, "depth is 0, expected at least 1"),
        ({"classes": 0}, "classes is 0, expected at least 1"),
        ({"parallel_adapter_rank": -1}, "parallel adapter rank is -1"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        small_network(**settings)
