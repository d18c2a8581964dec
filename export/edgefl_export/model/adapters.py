"""Parallel adapters beside the FFN of every block (He et al., arXiv 2110.04366; here arXiv 2212.04084, section 5.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.model.config import AccumulatorConfig

__all__ = ["ParallelAdapters"]


class ParallelAdapters(nn.Module):
    """scale * (W_up ReLU(W_down x + b_down) + b_up) for each block, x being the residual stream after attention.

    The adapters of all blocks are stacked: a tier that trains blocks 0..e covers the first e + 1 rows, and an update
    is four arrays instead of four for each block, which is what a round costs in requests.
    """

    def __init__(self, config: AccumulatorConfig) -> None:
        super().__init__()
        rank, width, blocks = config.parallel_adapter_rank, config.width, config.blocks
        self.scale = config.parallel_adapter_scale
        self.down_weight = nn.Parameter(torch.empty(blocks, rank, width))
        self.down_bias = nn.Parameter(torch.zeros(blocks, rank))
        self.up_weight = nn.Parameter(torch.zeros(blocks, width, rank))
        self.up_bias = nn.Parameter(torch.zeros(blocks, width))
        nn.init.trunc_normal_(self.down_weight, std=0.02)
        if config.init == "released":
            nn.init.trunc_normal_(self.up_weight, std=0.02)

    def forward(self, x: Tensor, block: int) -> Tensor:
        """Return (B, n, D), what the adapter of one block adds to its FFN's output, for tokens (B, n, D)."""
        hidden = F.relu(F.linear(x, self.down_weight[block], self.down_bias[block]))
        return self.scale * F.linear(hidden, self.up_weight[block], self.up_bias[block])
