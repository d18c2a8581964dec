"""A frozen backbone block, forward, with its weights as inputs; one graph serves all blocks.

CLS and patch tokens travel apart, because between two blocks the CLS token is replaced.  The block of the exit
computes only its CLS row: keys and values for all tokens, the rest for one (exact, since nothing else is read).

For its VJP a block saves all that is not cheap to compute again, or `little`: then keys, values, attention weights and
the FFN's hidden input are computed again.  That costs less than micro-batches small enough to save the same memory,
because each micro-batch reads all weights again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.derivatives import attention, merge_heads, split_heads

__all__ = [
    "BLOCK_WEIGHTS",
    "PARALLEL_WEIGHTS",
    "SAVED",
    "TRANSPOSED",
    "Block",
    "BlockShape",
    "BlockWeights",
    "Embed",
    "Rows",
    "Saving",
    "stored_key",
]

Rows = Literal["all", "cls"]
"""Which rows of a block's output are computed."""

Saving = Literal["nothing", "little", "all"]
"""What a block saves for its VJP."""

SAVED: dict[Saving, tuple[str, ...]] = {
    "nothing": (),
    "little": ("z", "mean1", "inverse_std1", "y", "mean2", "inverse_std2", "q"),
    "all": ("z", "mean1", "inverse_std1", "y", "mean2", "inverse_std2", "q", "k", "v", "attention", "hidden"),
}
"""Names of what it saves, in order; a parallel adapter's hidden output follows."""

BLOCK_WEIGHTS = (
    "norm1.weight",
    "norm1.bias",
    "attn.q.weight",
    "attn.q.bias",
    "attn.k.weight",
    "attn.k.bias",
    "attn.v.weight",
    "attn.v.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)
"""A block's weights in the order the graphs take them, by timm's names, where timm has one tensor for q, k and v."""

TRANSPOSED = ("attn.proj.weight", "mlp.fc2.weight")
"""Weights stored (in, out): a method that slices heads or the FFN's hidden units then slices rows, which are mapped."""

_QKV = ("q", "k", "v")

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
    q: Tensor
    q_bias: Tensor
    k: Tensor
    k_bias: Tensor
    v: Tensor
    v_bias: Tensor
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


def stored_key(name: str, width: int) -> str:
    """Return where a block's weight is stored: timm's name, and which rows of it for q, k and v.

    Args:
        name: One of `BLOCK_WEIGHTS`.
        width: Size of a token.
    """
    layer, _, part = name.removeprefix("attn.").partition(".")
    if layer not in _QKV:
        return name
    first = _QKV.index(layer) * width
    return f"attn.qkv.{part}[{first}:{first + width}]"


class Block(nn.Module):
    """Forward of one block with everything that its VJP may need."""

    def __init__(self, shape: BlockShape, rows: Rows) -> None:
        super().__init__()
        self.shape, self.rows = shape, rows

    def forward(self, cls: Tensor, patches: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Run the block.

        Args:
            cls: (B, 1, D).
            patches: (B, n - 1, D).
            weights: As `BLOCK_WEIGHTS`, then as `PARALLEL_WEIGHTS` where there are parallel adapters.

        Returns:
            cls (B, 1, D); patches (B, n - 1, D) where all rows are computed; then as `SAVED` z (B, n, D) with mean and
            1 / standard deviation (B, n, 1), y (B, rows, D) with its own (B, rows, 1), q (B, heads, rows, d), k and v
            (B, heads, n, d), attention weights (B, heads, rows, n), the FFN's hidden input (B, rows, M); and the
            parallel adapter's hidden output (B, rows, r).
        """
        w = BlockWeights(*weights)
        z = torch.cat([cls, patches], dim=1)
        norm, mean1, inverse_std1 = self._normalised(z, w.norm1, w.norm1_bias)
        heads = self.shape.heads
        q = split_heads(F.linear(norm if self.rows == "all" else norm[:, :1], w.q, w.q_bias), heads)
        k, v = (split_heads(F.linear(norm, *layer), heads) for layer in ((w.k, w.k_bias), (w.v, w.v_bias)))
        read, weights_read = attention(q, k, v, self.shape.attention_scale)
        y = (z if self.rows == "all" else cls) + merge_heads(read) @ w.proj + w.proj_bias
        norm, mean2, inverse_std2 = self._normalised(y, w.norm2, w.norm2_bias)
        hidden = F.linear(norm, w.fc1, w.fc1_bias)
        out = y + F.gelu(hidden) @ w.fc2 + w.fc2_bias
        saved = [z, mean1, inverse_std1, y, mean2, inverse_std2, q, k, v, weights_read, hidden]
        if self.shape.parallel_scale is not None:
            parallel = F.relu(F.linear(y, w.down[0], w.down_bias[0]))  # type: ignore[index]  # there with a scale
            out = out + self.shape.parallel_scale * F.linear(parallel, w.up[0], w.up_bias[0])  # type: ignore[index]
            saved.append(parallel)
        answer = (out[:, :1], out[:, 1:]) if self.rows == "all" else (out,)
        return (*answer, *saved)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return LayerNorm of x with its mean and 1 / standard deviation."""
        return torch.native_layer_norm(x, [self.shape.width], weight, bias, self.shape.eps)


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
