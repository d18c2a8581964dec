"""A frozen backbone block, forward, with its weights as inputs; one graph serves all blocks.

CLS and patch tokens travel apart, because between two blocks the CLS token is replaced.  The block of the exit
computes only its CLS row: keys and values for all tokens, the rest for one (exact, since nothing else is read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.derivatives import attention, merge_heads, split_heads

__all__ = ["BLOCK_WEIGHTS", "PARALLEL_WEIGHTS", "TRANSPOSED", "Block", "BlockShape", "BlockWeights", "Embed", "Rows"]

Rows = Literal["all", "cls"]
"""Which rows of a block's output are computed."""

BLOCK_WEIGHTS = (
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)
"""timm's names of a block's weights, in the order the graphs take them."""

TRANSPOSED = ("attn.proj.weight", "mlp.fc2.weight")
"""Weights stored (in, out): a method that slices heads or the FFN's hidden units then slices rows, which are mapped."""

PARALLEL_WEIGHTS = ("down_weight", "down_bias", "up_weight", "up_bias")
"""A block's row of each stacked parallel adapter tensor, with its leading axis of size 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """What a block's graph needs to know besides its weights.

    Attributes:
        width: Size of a token.
        heads: Attention heads.
        eps: Of both LayerNorms.
        parallel_scale: Factor of the parallel adapter's output, None where there is none.
    """

    width: int
    heads: int
    eps: float
    parallel_scale: float | None

    @property
    def attention_scale(self) -> float:
        """One over the square root of a head's size."""
        return (self.width // self.heads) ** -0.5


class BlockWeights(NamedTuple):
    """A block's weights by role, `proj` and `fc2` stored (in, out); the last four are the parallel adapter's."""

    norm1: Tensor
    norm1_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor
    down: Tensor | None = None
    down_bias: Tensor | None = None
    up: Tensor | None = None
    up_bias: Tensor | None = None


class Block(nn.Module):
    """Forward of one block, which for training also returns what its VJP needs."""

    def __init__(self, shape: BlockShape, rows: Rows, *, save: bool) -> None:
        super().__init__()
        self.shape, self.rows, self.save = shape, rows, save

    def forward(self, cls: Tensor, patches: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Run the block.

        Args:
            cls: (B, 1, D).
            patches: (B, n - 1, D).
            weights: As `BLOCK_WEIGHTS`, then as `PARALLEL_WEIGHTS` where there are parallel adapters.

        Returns:
            cls (B, 1, D); patches (B, n - 1, D) where all rows are computed; then for training z (B, n, D),
            scaled q, k, v (B, heads, rows or n, d), attention weights (B, heads, rows, n), y (B, rows, D), the
            FFN's hidden input (B, rows, M), and the parallel adapter's hidden output (B, rows, r).
        """
        w = BlockWeights(*weights)
        z = torch.cat([cls, patches], dim=1)
        q, k, v = self._project(F.layer_norm(z, (self.shape.width,), w.norm1, w.norm1_bias, self.shape.eps), w)
        read, attention_weights = attention(q, k, v)
        y = (z if self.rows == "all" else cls) + merge_heads(read) @ w.proj + w.proj_bias
        hidden = F.linear(
            F.layer_norm(y, (self.shape.width,), w.norm2, w.norm2_bias, self.shape.eps), w.fc1, w.fc1_bias
        )
        out = y + F.gelu(hidden) @ w.fc2 + w.fc2_bias
        saved = [z, q, k, v, attention_weights, y, hidden]
        if self.shape.parallel_scale is not None:
            parallel = F.relu(F.linear(y, w.down[0], w.down_bias[0]))  # type: ignore[index]  # there with a scale
            out = out + self.shape.parallel_scale * F.linear(parallel, w.up[0], w.up_bias[0])  # type: ignore[index]
            saved.append(parallel)
        answer = (out[:, :1], out[:, 1:]) if self.rows == "all" else (out,)
        return (*answer, *saved) if self.save else answer

    def _project(self, x: Tensor, w: BlockWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled queries of the rows that are computed, and all keys and values, split into heads."""
        width, heads = self.shape.width, self.shape.heads
        if self.rows == "all":
            q, k, v = F.linear(x, w.qkv, w.qkv_bias).split(width, dim=-1)
        else:
            q = F.linear(x[:, :1], w.qkv[:width], w.qkv_bias[:width])
            k, v = F.linear(x, w.qkv[width:], w.qkv_bias[width:]).split(width, dim=-1)
        return split_heads(q * self.shape.attention_scale, heads), split_heads(k, heads), split_heads(v, heads)


class Embed(nn.Module):
    """Patch embedding, CLS token and positions."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(
        self, samples: Tensor, weight: Tensor, bias: Tensor, cls_token: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return cls (B, 1, D) and patches (B, n - 1, D).

        Args:
            samples: (B, channels, height, width).
            weight: Of the patch convolution, (D, channels, patch, patch).
            bias: (D,).
            cls_token: (1, 1, D).
            positions: (1, n, D).
        """
        patches = F.conv2d(samples, weight, bias, stride=self.patch_size).flatten(2).transpose(1, 2)
        cls = (cls_token + positions[:, :1]).expand(samples.shape[0], -1, -1)
        return cls, patches + positions[:, 1:]
