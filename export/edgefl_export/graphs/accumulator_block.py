"""The Accumulator's block for the one row of its output that is read (arXiv 2212.04084, section 4.2).

That row is the newest token's where a CLS token is replaced, and the client token's at an exit.  Keys and values of a
finished token depend on no other token, so they are computed once and kept.  Linear layers do not get their weight
gradient here: each call leaves the rows it is made of, and those of all calls are multiplied at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgefl_export.graphs.derivatives import (
    SQRT_HALF,
    attention,
    attention_vjp,
    doubled_gelu_slope,
    layer_norm_vjp,
    merge_heads,
    split_heads,
    standardize,
)

__all__ = [
    "ACCUMULATOR_LINEARS",
    "ACCUMULATOR_WEIGHTS",
    "EPS",
    "AccumulatorBlock",
    "AccumulatorShape",
    "AccumulatorWeights",
    "Reading",
    "flat",
    "head_weights",
]

EPS = 1e-5

ACCUMULATOR_WEIGHTS = (
    "norm1.weight",
    "norm1.bias",
    "attn.q.weight",
    "attn.kv.weight",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
)
"""The Accumulator block's tensors in the order the graphs take them; q and kv are parts of `attn.qkv.weight`."""

ACCUMULATOR_LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
"""Its linear layers, in the order in which the VJPs give their rows."""


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
        residual: Whether the exit's CLS token is added to what the head reads.
        head: Kind of head.
    """

    width: int
    heads: int
    residual: bool
    head: Literal["mlp", "linear"]

    @property
    def attention_scale(self) -> float:
        """One over the square root of the width, not of a head's size."""
        return self.width**-0.5


class AccumulatorWeights(NamedTuple):
    """The block's tensors by role, in torch's layout; kv are the keys' and values' (2 D, D)."""

    norm1: Tensor
    norm1_bias: Tensor
    q: Tensor
    kv: Tensor
    proj: Tensor
    proj_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


class Reading(NamedTuple):
    """What the VJP of one reading token needs: query, attention weights, what was read, FFN's inputs."""

    q: Tensor
    attention: Tensor
    read: Tensor
    y: Tensor
    hidden: Tensor


def flat(x: Tensor) -> Tensor:
    """Return all rows under each other, (rows, K), for (..., K)."""
    return x.reshape(-1, x.shape[-1])


@dataclass(frozen=True, slots=True)
class AccumulatorBlock:
    """The block's pieces; tokens are (B, 1, D), keys and values (B, heads, n, d)."""

    shape: AccumulatorShape

    def query(self, token: Tensor, w: AccumulatorWeights) -> Tensor:
        """Return a token's query, (B, heads, 1, d)."""
        return split_heads(F.linear(self._norm1(token, w), w.q), self.shape.heads)

    def keep(self, token: Tensor, w: AccumulatorWeights) -> tuple[Tensor, Tensor]:
        """Return a token's key and value, each (B, heads, 1, d)."""
        k, v = F.linear(self._norm1(token, w), w.kv).split(self.shape.width, dim=-1)
        return split_heads(k, self.shape.heads), split_heads(v, self.shape.heads)

    def read(
        self, token: Tensor, q: Tensor, keys: Tensor, values: Tensor, w: AccumulatorWeights
    ) -> tuple[Tensor, Reading]:
        """Return a token's output row, (B, 1, D), and what the VJP needs."""
        found, weights = attention(q, keys, values, self.shape.attention_scale)
        merged = merge_heads(found)
        y = token + F.linear(merged, w.proj, w.proj_bias)
        hidden = F.linear(F.layer_norm(y, (self.shape.width,), w.norm2, w.norm2_bias, EPS), w.fc1, w.fc1_bias)
        out = y + F.linear(F.gelu(hidden), w.fc2, w.fc2_bias)
        return out, Reading(q, weights, merged, y, hidden)

    def read_vjp(
        self, gradient: Tensor, r: Reading, keys: Tensor, values: Tensor, w: AccumulatorWeights
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the VJP of `read`.

        Returns:
            The gradient at the token; those at query, keys and values; those of norm2's weight and bias;
            rows of proj, fc1 and fc2: for each the gradient at its output and its input.
        """
        at_hidden = gradient @ w.fc2 * 0.5 * doubled_gelu_slope(r.hidden * SQRT_HALF)
        at_norm2 = at_hidden @ w.fc1
        standardized, inverse_std = standardize(r.y, EPS)
        at_y = gradient + layer_norm_vjp(at_norm2 * w.norm2, standardized, inverse_std)
        at_read = split_heads(at_y @ w.proj, self.shape.heads)
        at_attention = attention_vjp(at_read, r.q, keys, values, r.attention, self.shape.attention_scale)
        norm2 = ((at_norm2 * standardized).sum((0, 1)), at_norm2.sum((0, 1)))
        inputs = ((at_y, r.read), (at_hidden, standardized * w.norm2 + w.norm2_bias), (gradient, F.gelu(r.hidden)))
        return at_y, at_attention, norm2, tuple(flat(tensor) for pair in inputs for tensor in pair)

    def project_vjp(
        self, at_q: Tensor, at_kv: Tensor, token: Tensor, w: AccumulatorWeights
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the VJP of `query` and `keep` of one token.

        Args:
            at_q: Gradient at its query, merged, (B, 1, D).
            at_kv: Gradient at its key and value, merged, (B, 1, 2 D).
            token: As given to both, (B, 1, D).
            w: The block's tensors.

        Returns:
            The gradient at the token; those of norm1's weight and bias; rows of qkv.
        """
        return self._norm1_vjp(at_q @ w.q + at_kv @ w.kv, torch.cat([at_q, at_kv], dim=-1), token, w)

    def keep_vjp(
        self, at_key: Tensor, at_value: Tensor, token: Tensor, w: AccumulatorWeights
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the VJP of `keep`, like `project_vjp`; the gradients are (B, heads, 1, d)."""
        at_kv = torch.cat([merge_heads(at_key), merge_heads(at_value)], dim=-1)
        return self._norm1_vjp(at_kv @ w.kv, torch.cat([torch.zeros_like(token), at_kv], dim=-1), token, w)

    def _norm1_vjp(
        self, at_norm1: Tensor, at_qkv: Tensor, token: Tensor, w: AccumulatorWeights
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        standardized, inverse_std = standardize(token, EPS)
        at_token = layer_norm_vjp(at_norm1 * w.norm1, standardized, inverse_std)
        norm1 = ((at_norm1 * standardized).sum((0, 1)), at_norm1.sum((0, 1)))
        return at_token, norm1, (flat(at_qkv), flat(standardized * w.norm1 + w.norm1_bias))

    def _norm1(self, token: Tensor, w: AccumulatorWeights) -> Tensor:
        return F.layer_norm(token, (self.shape.width,), w.norm1, w.norm1_bias, EPS)
