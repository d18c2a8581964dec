"""VJP of a frozen backbone block from saved tensors, down to no more rows than the step needs.

Block 0 and the embedding are frozen and nothing before them is trained, so block 1 needs the gradient of its CLS row
only, and block 0 none; with parallel adapters block 0 still gives the gradient of its own adapter.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.graphs.block import BlockShape, BlockWeights, Rows
from edgefl_export.graphs.derivatives import (
    attention_vjp,
    gelu_slope,
    layer_norm_vjp,
    linear_gradients,
    merge_heads,
    split_heads,
    standardize,
)

__all__ = ["BlockVjp", "Inputs"]

Inputs = Literal["all", "cls", "none"]
"""Which rows of a block's input gradient are computed."""

_SAVED = 7


class BlockVjp(nn.Module):
    """Gradient at a block's input and at its parallel adapter."""

    def __init__(self, shape: BlockShape, rows: Rows, inputs: Inputs) -> None:
        super().__init__()
        self.shape, self.rows, self.inputs = shape, rows, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the VJP.

        Args:
            tensors: The gradient at the block's output: cls (B, 1, D), and patches (B, n - 1, D) where all rows
                were computed; what `Block` saved; the block's weights.

        Returns:
            The gradient at its input: cls (B, 1, D), then patches (B, n - 1, D), as far as `inputs` says; then
            the gradients of the parallel adapter's weights, each with a leading axis of size 1.
        """
        gradient, saved, w = self._unpack(tensors)
        z, _, _, _, _, y, hidden = saved[:_SAVED]
        standardized, inverse_std = standardize(y, self.shape.eps)
        at_norm2 = (F.linear(gradient, w.fc2) * gelu_slope(hidden)) @ w.fc1 * w.norm2
        at_y = gradient + layer_norm_vjp(at_norm2, standardized, inverse_std)
        adapter: tuple[Tensor, ...] = ()
        if self.shape.parallel_scale is not None:
            at_adapter, adapter = _parallel_vjp(gradient * self.shape.parallel_scale, y, saved[_SAVED], w)
            at_y = at_y + at_adapter
        if self.inputs == "none":
            return adapter
        return (*self._attention(at_y, z, saved, w), *adapter)

    def _unpack(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...], BlockWeights]:
        outputs = 2 if self.rows == "all" else 1
        saved = _SAVED + (self.shape.parallel_scale is not None)
        gradient = torch.cat(tensors[:outputs], dim=1) if outputs == 2 else tensors[0]
        return gradient, tensors[outputs : outputs + saved], BlockWeights(*tensors[outputs + saved :])

    def _attention(self, at_y: Tensor, z: Tensor, saved: tuple[Tensor, ...], w: BlockWeights) -> tuple[Tensor, ...]:
        """Return the gradient at the block's input rows."""
        _, q, k, v, weights = saved[:5]
        width = self.shape.width
        at_read = split_heads(F.linear(at_y, w.proj), self.shape.heads)
        at_q, at_k, at_v = map(merge_heads, attention_vjp(at_read, q, k, v, weights, self.shape.attention_scale))
        if self.inputs == "cls":
            z, at_y, at_q, at_k, at_v = (tensor[:, :1] for tensor in (z, at_y, at_q, at_k, at_v))
        standardized, inverse_std = standardize(z, self.shape.eps)
        if self.rows == "all" or self.inputs == "cls":
            at_norm1 = torch.cat([at_q, at_k, at_v], dim=-1) @ w.qkv * w.norm1
            at_z = at_y + layer_norm_vjp(at_norm1, standardized, inverse_std)
            return (at_z,) if self.inputs == "cls" else (at_z[:, :1], at_z[:, 1:])
        at_norm1 = torch.cat([at_k, at_v], dim=-1) @ w.qkv[width:]
        at_cls = (at_norm1[:, :1] + at_q @ w.qkv[:width]) * w.norm1
        at_rest = at_norm1[:, 1:] * w.norm1
        return (
            at_y + layer_norm_vjp(at_cls, standardized[:, :1], inverse_std[:, :1]),
            layer_norm_vjp(at_rest, standardized[:, 1:], inverse_std[:, 1:]),
        )


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
