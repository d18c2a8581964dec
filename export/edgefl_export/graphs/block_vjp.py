"""VJP of a frozen backbone block from saved tensors, down to no more rows than the step needs.

Block 0 and the embedding are frozen and nothing before them is trained, so block 1 needs the gradient of its CLS row
only, and block 0 none; with parallel adapters block 0 still gives the gradient of its own adapter.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.block import SAVED, BlockShape, BlockWeights, Rows, Saving
from edgefl_export.graphs.derivatives import (
    SQRT_HALF,
    attention_vjp,
    attention_weights,
    doubled_gelu_slope,
    layer_norm_vjp,
    linear_gradients,
    merge_heads,
    split_heads,
)

__all__ = ["BlockVjp", "Inputs"]

Inputs = Literal["all", "cls", "none"]
"""Which rows of a block's input gradient are computed."""


class _Saved(NamedTuple):
    """What `Block` saved, in the order of `SAVED`; None for what is to be computed again."""

    z: Tensor
    mean1: Tensor
    inverse_std1: Tensor
    y: Tensor
    mean2: Tensor
    inverse_std2: Tensor
    q: Tensor
    k: Tensor | None = None
    v: Tensor | None = None
    attention: Tensor | None = None
    hidden: Tensor | None = None


class BlockVjp(nn.Module):
    """Gradient at a block's input and at its parallel adapter."""

    def __init__(self, shape: BlockShape, rows: Rows, inputs: Inputs, saving: Saving) -> None:
        super().__init__()
        self.shape, self.rows, self.inputs, self.saving = shape, rows, inputs, saving

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the VJP.

        Args:
            tensors: The gradient at the block's output: cls (B, 1, D), and patches (B, n - 1, D) where all rows
                were computed; what `Block` saved; the block's weights.

        Returns:
            The gradient at its input: cls (B, 1, D), then patches (B, n - 1, D), as far as `inputs` says; then
            the gradients of the parallel adapter's weights, each with a leading axis of size 1.
        """
        gradient, saved, parallel, w = self._unpack(tensors)
        at_y = gradient + self._ffn(gradient, saved, w)
        adapter: tuple[Tensor, ...] = ()
        if self.shape.parallel_scale is not None:
            at_adapter, adapter = _parallel_vjp(gradient * self.shape.parallel_scale, saved.y, parallel[0], w)
            at_y = at_y + at_adapter
        if self.inputs == "none":
            return adapter
        return (*self._attention(at_y, saved, w), *adapter)

    def _unpack(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, _Saved, tuple[Tensor, ...], BlockWeights]:
        outputs = 2 if self.rows == "all" else 1
        end = outputs + len(SAVED[self.saving])
        first_weight = end + (self.shape.parallel_scale is not None)
        gradient = torch.cat(tensors[:outputs], dim=1) if outputs == 2 else tensors[0]
        saved, weights = _Saved(*tensors[outputs:end]), BlockWeights(*tensors[first_weight:])
        return gradient, saved, tensors[end:first_weight], weights

    def _ffn(self, gradient: Tensor, saved: _Saved, w: BlockWeights) -> Tensor:
        """Return the gradient at y that comes through the FFN."""
        standardized = (saved.y - saved.mean2) * saved.inverse_std2
        # Before the product below, so that fewer wide tensors are alive at once.
        slope = doubled_gelu_slope(self._scaled_hidden(standardized, saved, w))
        at_norm = (F.linear(gradient, w.fc2) * 0.5 * slope) @ w.fc1 * w.norm2
        return layer_norm_vjp(at_norm, standardized, saved.inverse_std2)

    def _scaled_hidden(self, standardized: Tensor, saved: _Saved, w: BlockWeights) -> Tensor:
        """Return the FFN's hidden input over sqrt(2), saved or computed again with scaled parameters."""
        if saved.hidden is not None:
            return saved.hidden * SQRT_HALF
        norm = standardized * (w.norm2 * SQRT_HALF) + w.norm2_bias * SQRT_HALF
        return F.linear(norm, w.fc1, w.fc1_bias * SQRT_HALF)

    def _attention(self, at_y: Tensor, saved: _Saved, w: BlockWeights) -> tuple[Tensor, ...]:
        """Return the gradient at the block's input rows."""
        standardized, inverse_std = (saved.z - saved.mean1) * saved.inverse_std1, saved.inverse_std1
        k, v, weights = self._attended(standardized, saved, w)
        at_read = split_heads(F.linear(at_y, w.proj), self.shape.heads)
        at_attention = attention_vjp(at_read, saved.q, k, v, weights, self.shape.attention_scale)
        at_q, at_k, at_v = map(merge_heads, at_attention)
        if self.inputs == "cls":
            cut = (standardized, inverse_std, at_y, at_q, at_k, at_v)
            standardized, inverse_std, at_y, at_q, at_k, at_v = (tensor[:, :1] for tensor in cut)
        at_norm = at_k @ w.k + at_v @ w.v
        if self.rows == "all" or self.inputs == "cls":
            at_z = at_y + layer_norm_vjp((at_norm + at_q @ w.q) * w.norm1, standardized, inverse_std)
            return (at_z,) if self.inputs == "cls" else (at_z[:, :1], at_z[:, 1:])
        at_cls = (at_norm[:, :1] + at_q @ w.q) * w.norm1
        at_rest = at_norm[:, 1:] * w.norm1
        return (
            at_y + layer_norm_vjp(at_cls, standardized[:, :1], inverse_std[:, :1]),
            layer_norm_vjp(at_rest, standardized[:, 1:], inverse_std[:, 1:]),
        )

    def _attended(self, standardized: Tensor, saved: _Saved, w: BlockWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, values and attention weights, saved or computed again."""
        if saved.k is not None and saved.v is not None and saved.attention is not None:
            return saved.k, saved.v, saved.attention
        norm = standardized * w.norm1 + w.norm1_bias
        k, v = (split_heads(F.linear(norm, *p), self.shape.heads) for p in ((w.k, w.k_bias), (w.v, w.v_bias)))
        return k, v, attention_weights(saved.q, k, self.shape.attention_scale)


def _parallel_vjp(gradient: Tensor, y: Tensor, parallel: Tensor, w: BlockWeights) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the gradients at y and of the parallel adapter's four weights.

    Args:
        gradient: At the adapter's output before it is scaled, (B, rows, D).
        y: What it reads, (B, rows, D).
        parallel: Its hidden output, (B, rows, r).
        w: The block's weights.
    """
    up, up_bias = linear_gradients(gradient, parallel)
    at_hidden = (gradient @ w.up[0]) * (parallel > 0).to(gradient.dtype)  # type: ignore[index]  # there with a scale
    down, down_bias = linear_gradients(at_hidden, y)
    weights = tuple(tensor.unsqueeze(0) for tensor in (down, down_bias, up, up_bias))
    return at_hidden @ w.down[0], weights  # type: ignore[index]  # there with a scale
