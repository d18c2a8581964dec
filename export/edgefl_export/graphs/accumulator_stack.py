"""The Accumulator's blocks over a history of CLS tokens, forward and VJP (arXiv 2212.04084, section 4.2).

Of the output only one row is ever read: the newest token's where a CLS token is replaced, the client token's at an
exit.  So the last block computes keys and values for the whole history and the rest for one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgefl_export.graphs.derivatives import (
    attention,
    attention_vjp,
    gelu_slope,
    layer_norm_vjp,
    linear_gradients,
    merge_heads,
    split_heads,
    standardize,
)

__all__ = ["ACCUMULATOR_BLOCK_WEIGHTS", "EPS", "AccumulatorShape", "AccumulatorStack", "Saved", "head_weights"]

EPS = 1e-5

ACCUMULATOR_BLOCK_WEIGHTS = (
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)
"""Names of an Accumulator block's tensors, in the order the graphs take them."""


def head_weights(kind: Literal["mlp", "linear"]) -> tuple[str, ...]:
    """Return the names of the head's tensors, in the order the graphs take them."""
    layers = ("mlp.fc1", "mlp.fc2") if kind == "mlp" else ("mlp",)
    return ("norm.weight", "norm.bias", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias")))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulatorShape:
    """What the Accumulator's graphs need to know besides their weights.

    Attributes:
        width: Size of a token.
        heads: Attention heads.
        depth: Blocks.
        residual: Whether the exit's CLS token is added to what the head reads.
        head: Kind of head.
    """

    width: int
    heads: int
    depth: int
    residual: bool
    head: Literal["mlp", "linear"]


class _Weights(NamedTuple):
    """One Accumulator block's tensors by role, in torch's layout."""

    norm1: Tensor
    norm1_bias: Tensor
    qkv: Tensor
    proj: Tensor
    proj_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


class Saved(NamedTuple):
    """What the VJP of one Accumulator block reads."""

    x: Tensor
    norm1: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor
    read: Tensor
    y: Tensor
    norm2: Tensor
    hidden: Tensor


class AccumulatorStack:
    """The Accumulator's blocks over a history, the last of them for one row.

    Args:
        shape: Of the Accumulator.
        row: The row of the output that is read: 0 for the client token's, -1 for the newest token's.
    """

    def __init__(self, shape: AccumulatorShape, row: Literal[0, -1]) -> None:
        self.shape, self.row = shape, row

    def forward(self, tokens: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, list[Saved]]:
        """Return the row that is read, (B, 1, D), for tokens (B, n, D), and what the VJP needs."""
        saved = []
        for index, w in enumerate(self._blocks(weights)):
            tokens, kept = self._block(tokens, w, last=index == self.shape.depth - 1)
            saved.append(kept)
        return tokens, saved

    def vjp(self, gradient: Tensor, saved: list[Saved], weights: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Return the gradient at the tokens, (B, n, D), and those of the weights, in their order."""
        gradients: list[Tensor] = []
        for index, w in reversed(list(enumerate(self._blocks(weights)))):
            gradient, of_block = self._block_vjp(gradient, saved[index], w, last=index == self.shape.depth - 1)
            gradients = of_block + gradients
        return gradient, gradients

    def _blocks(self, weights: tuple[Tensor, ...]) -> list[_Weights]:
        size = len(ACCUMULATOR_BLOCK_WEIGHTS)
        return [_Weights(*weights[index * size : (index + 1) * size]) for index in range(self.shape.depth)]

    def _rows(self, x: Tensor, *, last: bool) -> Tensor:
        if not last:
            return x
        return x[:, :1] if self.row == 0 else x[:, -1:]

    def _block(self, x: Tensor, w: _Weights, *, last: bool) -> tuple[Tensor, Saved]:
        width, heads = self.shape.width, self.shape.heads
        norm1 = F.layer_norm(x, (width,), w.norm1, w.norm1_bias, EPS)
        q = split_heads(F.linear(self._rows(norm1, last=last), w.qkv[:width]) * width**-0.5, heads)
        k, v = (split_heads(t, heads) for t in F.linear(norm1, w.qkv[width:]).split(width, dim=-1))
        read, weights = attention(q, k, v)
        merged = merge_heads(read)
        y = self._rows(x, last=last) + F.linear(merged, w.proj, w.proj_bias)
        norm2 = F.layer_norm(y, (width,), w.norm2, w.norm2_bias, EPS)
        hidden = F.linear(norm2, w.fc1, w.fc1_bias)
        out = y + F.linear(F.gelu(hidden), w.fc2, w.fc2_bias)
        return out, Saved(x, norm1, q, k, v, weights, merged, y, norm2, hidden)

    def _block_vjp(self, gradient: Tensor, s: Saved, w: _Weights, *, last: bool) -> tuple[Tensor, list[Tensor]]:
        at_y, ffn = _ffn_vjp(gradient, s, w)
        proj, proj_bias = linear_gradients(at_y, s.read)
        at_read = split_heads(at_y @ w.proj, self.shape.heads)
        scale = self.shape.width**-0.5
        at_q, at_k, at_v = map(merge_heads, attention_vjp(at_read, s.q, s.k, s.v, s.weights, scale))
        wq, _ = linear_gradients(at_q, self._rows(s.norm1, last=last))
        wkv, _ = linear_gradients(torch.cat([at_k, at_v], dim=-1), s.norm1)
        at_norm1 = torch.cat([at_k, at_v], dim=-1) @ w.qkv[self.shape.width :]
        at_norm1 = at_norm1 + self._spread(at_q @ w.qkv[: self.shape.width], s.x, last=last)
        standardized, inverse_std = standardize(s.x, EPS)
        at_x = layer_norm_vjp(at_norm1 * w.norm1, standardized, inverse_std) + self._spread(at_y, s.x, last=last)
        norm1 = [(at_norm1 * standardized).sum((0, 1)), at_norm1.sum((0, 1))]
        return at_x, [*norm1, torch.cat([wq, wkv]), proj, proj_bias, *ffn]

    def _spread(self, rows: Tensor, like: Tensor, *, last: bool) -> Tensor:
        """Put the rows that were read back into their place among zeros, (B, n, D)."""
        if not last:
            return rows
        rest = torch.zeros_like(like[:, 1:])
        return torch.cat([rows, rest] if self.row == 0 else [rest, rows], dim=1)


def _ffn_vjp(gradient: Tensor, s: Saved, w: _Weights) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient before the FFN and those of norm2, fc1 and fc2."""
    fc2, fc2_bias = linear_gradients(gradient, F.gelu(s.hidden))
    at_hidden = (gradient @ w.fc2) * gelu_slope(s.hidden)
    fc1, fc1_bias = linear_gradients(at_hidden, s.norm2)
    at_norm2 = at_hidden @ w.fc1
    standardized, inverse_std = standardize(s.y, EPS)
    at_y = gradient + layer_norm_vjp(at_norm2 * w.norm2, standardized, inverse_std)
    return at_y, [(at_norm2 * standardized).sum((0, 1)), at_norm2.sum((0, 1)), fc1, fc1_bias, fc2, fc2_bias]
